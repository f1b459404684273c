//! The VMM's process group and session, as the host's kernel reports them: 0 where their leader is
//! outside the PID namespace (a container's first process, `unshare --pid`).
//!
//! Plain numbers, from libc: `rustix` has a non-zero type for them and takes the kernel's 0 for
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
