//! The group and session the VMM is in, as the host's kernel says them: 0 where their leader is
//! outside of the PID namespace (a container's first process, `unshare --pid`).
//!
//! Plain numbers, by libc: `rustix` has a non-zero type for them and takes the kernel's 0 for
//! one, which is undefined.

/// `getpgrp(2)`, or 0.
#[must_use]
pub fn process_group() -> i32 {
    // SAFETY: takes no pointers and cannot fail.
    unsafe { libc::getpgrp() }
}

/// `getsid(2)` of this process, or 0.
#[must_use]
pub fn session() -> i32 {
    // SAFETY: takes no pointers, and cannot fail for the calling process.
    unsafe { libc::getsid(0) }
}
