//! Making host processes. Only while the caller has one thread and no guest memory: what the child
//! has is a copy of the caller's memory, and must hold nothing of a program's.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// Which of the two processes returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The new one.
    Child,
    /// The caller; the new one has this number.
    Parent(i32),
}

fn forked(pid: libc::c_long) -> io::Result<Forked> {
    match i32::try_from(pid) {
        Ok(0) => Ok(Forked::Child),
        Ok(pid) if pid > 0 => Ok(Forked::Parent(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A child of the caller. The caller must have one thread: in the child, a lock that another thread
/// holds now would stay held.
///
/// # Errors
/// The host has no more processes or memory.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: takes no arguments. With one thread, nothing in the child's copy of the memory is
    // half-done.
    forked(unsafe { libc::fork() }.into())
}

/// A child of the caller, which has other threads. In the child there are none, and what they held locked stays
/// so, except for the allocator (fork(3)): it may use nothing that they can have locked. It has what of the
/// caller's memory is not kept from it (`MADV_DONTFORK`).
///
/// # Errors
/// The host has no more processes or memory.
pub fn fork_beside_threads() -> io::Result<Forked> {
    // SAFETY: takes no arguments. The caller answers for the locks, as above.
    forked(unsafe { libc::fork() }.into())
}

/// Unmaps what this process, which is a copy of another one and has one thread, shares with that: files and
/// devices. Memory that is shared without a file stays: it is the run's.
///
/// What owned the mappings is a copy of the caller's and must be neither used nor dropped in this process.
pub fn unmap_shared() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let number = |text: &str| usize::from_str_radix(text, 16).ok();
        let ends = range.split_once('-').map(|(from, to)| (number(from), number(to)));
        let Some((Some(from), Some(to))) = ends else { continue };
        // How the kernel shows memory without a file.
        let is_of_run = line.contains("/dev/zero");
        if rights.ends_with('s') && !is_of_run {
            let at = ptr::without_provenance_mut::<libc::c_void>(from);
            // SAFETY: nothing in this process refers to it any more, as above.
            unsafe { libc::munmap(at, to.saturating_sub(from)) };
        }
    }
}

/// A child of the caller's parent, which gets its SIGCHLD and waits for it. As [`fork`], the caller
/// must have one thread.
///
/// # Errors
/// The host has no more processes or memory.
pub fn fork_sibling() -> io::Result<Forked> {
    // The C library keeps the thread's number at the address that the kernel clears at its end, and
    // lets the kernel write the child's there.
    let number = address_of_thread_number();
    let settid = libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    let flags = libc::CLONE_PARENT | libc::SIGCHLD | if number == 0 { 0 } else { settid };
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: as `fork`, which makes the same call: without `CLONE_VM` and without a stack, the
    // child continues here, in a copy of the memory. The address is the kernel's own record of
    // where this thread's number is kept, valid as long as the thread.
    forked(unsafe { libc::syscall(libc::SYS_clone, flags, none, none, number, none) })
}

fn address_of_thread_number() -> usize {
    const PR_GET_TID_ADDRESS: libc::c_int = 40;
    let mut address = 0_usize;
    // SAFETY: writes one word. Kernels built without it refuse: then the word stays 0.
    unsafe { libc::prctl(PR_GET_TID_ADDRESS, &raw mut address) };
    address
}

/// Puts this process, which has one thread, into a user namespace of its own, where it may mount.
///
/// # Errors
/// The host does not allow it to this user.
pub fn own_user_namespace() -> io::Result<()> {
    // SAFETY: takes flags. Descriptors and memory stay as they are.
    number(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) }).map(drop)
}

/// Ends this process with a status, without running anything that belongs to the process it was
/// copied from.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// Ends this process by a signal, as its parent will see it, without a core file: that would contain
/// the VMM.
pub fn die_by(signal: i32) -> ! {
    // SAFETY: sets a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    // By the kernel's own calls: the C library refuses signals that it uses itself.
    const SET_BYTES: usize = 8;
    let (default_action, none) = ([0_u64; 4], ptr::null_mut::<libc::c_void>());
    let action = default_action.as_ptr();
    // SAFETY: reads a `struct kernel_sigaction`, all zero: the default action.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action, none, SET_BYTES) };
    let only = 1_u64.checked_shl(signal.wrapping_sub(1).cast_unsigned()).unwrap_or(0);
    let (how, set) = (libc::SIG_UNBLOCK, &raw const only);
    // SAFETY: reads a set of signals.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, set, none, SET_BYTES) };
    let (process, thread) = (std::process::id(), rustix::thread::gettid().as_raw_pid());
    // SAFETY: takes numbers. To the thread itself, so that it has arrived when the call returns.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
    // A signal that does not end processes, or is none.
    exit_now(128_i32.wrapping_add(signal))
}

/// Sends a signal to a host process, with the `siginfo_t` if there is one; 0 only asks whether it is
/// there. `is_meant` is asked once the number is bound to a process.
///
/// # Errors
/// As `kill(2)`; `ESRCH` if it is not meant.
pub fn signal(
    pid: i32,
    signal: i32,
    info: Option<&[u8; 128]>,
    is_meant: impl FnOnce() -> bool,
) -> io::Result<()> {
    // SAFETY: takes numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(raw @ 0..) = i32::try_from(fd) else { return Err(io::Error::last_os_error()) };
    // SAFETY: just opened, with no other owner.
    let process = unsafe { OwnedFd::from_raw_fd(raw) };
    if !is_meant() {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    let info = info.map_or(ptr::null(), |bytes| bytes.as_ptr());
    // SAFETY: reads a `siginfo_t`, which has 128 bytes, if there is one.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, info, 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn number(result: libc::c_int) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `getpgid(2)`.
///
/// # Errors
/// `ESRCH`.
pub fn group_of(pid: i32) -> io::Result<i32> {
    // SAFETY: takes a number.
    number(unsafe { libc::getpgid(pid) })
}

/// `getsid(2)`.
///
/// # Errors
/// `ESRCH`.
pub fn session_of(pid: i32) -> io::Result<i32> {
    // SAFETY: takes a number.
    number(unsafe { libc::getsid(pid) })
}

/// The controlling terminal of the session that this process leads, as a device number, 0 for none; `None` if it
/// leads no session.
#[must_use]
pub fn session_led() -> Option<i64> {
    // The number of fields between the name and the one of the terminal (proc_pid_stat(5)).
    const BEFORE: usize = 4;
    let leads = session_of(0).is_ok_and(|session| session.cast_unsigned() == std::process::id());
    if !leads {
        return None;
    }
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let terminal = rest.split_ascii_whitespace().nth(BEFORE).and_then(|text| text.parse().ok());
    Some(terminal.unwrap_or(0))
}

/// `setpgid(2)`.
///
/// # Errors
/// As the call.
pub fn set_group(pid: i32, group: i32) -> io::Result<()> {
    // SAFETY: takes numbers.
    number(unsafe { libc::setpgid(pid, group) }).map(drop)
}

/// `setsid(2)`.
///
/// # Errors
/// `EPERM` for the leader of a group.
pub fn new_session() -> io::Result<i32> {
    // SAFETY: takes no arguments.
    number(unsafe { libc::setsid() })
}

/// Makes this process the parent of what its descendants leave behind.
pub fn adopt_orphans() {
    // SAFETY: sets a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Blocks all signals for the calling thread but the one that tells of a call which it may not make.
pub fn block_all_signals() {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: writes the set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: reads the set; the previous one is not requested.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut()) };
    let _ = vmm_sys_util::signal::unblock_signal(libc::SIGSYS);
}

/// Blocks these signals and no others for the calling thread.
pub fn block_only(signals: &[i32]) {
    if let Ok(set) = vmm_sys_util::signal::create_sigset(signals) {
        // SAFETY: reads the set; the previous one is not requested.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &set, ptr::null_mut()) };
    }
}

/// Closes one descriptor. What owned it is a copy, as in [`close_all_but`].
pub fn close(fd: i32) {
    let fd = fd.cast_unsigned();
    close_range(fd, fd);
}

/// Closes every descriptor but standard error and those in `keep`.
///
/// What owned them is a copy of the caller's and must be neither used nor dropped in this process.
pub fn close_all_but(keep: &[i32]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.cast_unsigned()).chain([2]).collect();
    keep.sort_unstable();
    let mut from = 0;
    for fd in keep {
        if let Some(last) = fd.checked_sub(1).filter(|last| *last >= from) {
            close_range(from, last);
        }
        from = from.max(fd.saturating_add(1));
    }
    close_range(from, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: closes descriptors of this process, whose table is a copy; see above.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Gives SIGCHLD its default action: ignored, as our parent may have left it, children would vanish
/// before their status is read.
pub fn keep_children() {
    // SAFETY: sets the default action.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}
