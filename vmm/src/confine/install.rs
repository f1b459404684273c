//! The host kernel's calls by which a process confines itself.

use std::io;

use libc::{c_long, sock_filter, sock_fprog};

/// Puts a filter over the calling thread. There is no way to take it off.
///
/// # Errors
/// The host's.
pub(super) fn install(filter: &[sock_filter]) -> io::Result<()> {
    gain_no_privileges()?;
    // By default, older kernels slow down speculation of a thread with a filter, for interpreters that run
    // others' code in it. What runs others' code here is the guest, which KVM keeps apart.
    let first = set(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as c_long, filter);
    match first {
        // A kernel that does not know the flag does not do that either.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set(0, filter),
        done => done,
    }
}

/// Without privileges, the kernel takes filters and rules only from a process that can gain none. This one
/// runs no other programs.
///
/// # Errors
/// The host's.
pub(super) fn gain_no_privileges() -> io::Result<()> {
    // SAFETY: takes numbers.
    let refused = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set(flags: c_long, filter: &[sock_filter]) -> io::Result<()> {
    let too_long = |_| io::Error::from_raw_os_error(libc::E2BIG);
    let program = sock_fprog {
        len: u16::try_from(filter.len()).map_err(too_long)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let operation = c_long::from(libc::SECCOMP_SET_MODE_FILTER);
    // SAFETY: reads the program, which is as long as it says.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the host's kernel has filters for system calls that can be told of.
#[must_use]
pub fn is_supported() -> bool {
    let operation = c_long::from(libc::SECCOMP_GET_ACTION_AVAIL);
    let action = libc::SECCOMP_RET_TRAP;
    // SAFETY: reads one word.
    unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw const action) == 0 }
}

/// Sees to it that this process leaves no core file, and none is given to a program that collects them:
/// that is not asked for at a limit of 1 byte (core(5)).
pub(super) fn leave_no_core() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one structure.
    unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max.min(1);
    // SAFETY: reads one structure. A soft limit that is not above the hard one is never refused.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) };
}
