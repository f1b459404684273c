//! Signals the host sends to the VMM, as a file descriptor for the event loop.
//!
//! They are blocked before any vCPU thread starts, so that every thread inherits the mask
//! and no system call of the program is interrupted by a signal that is not meant for it.
//! A signal that was ignored when we started (`nohup`, a background job of a simple shell)
//! stays ignored: that was the choice of the process that started us.

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use crate::linux::children::signals;
use crate::linux::signal::SigInfo;
use crate::process_tree::{fork, stop};

/// What the event loop listens to.
pub(super) const FROM_USER: [libc::c_int; 5] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGWINCH];

/// SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGWINCH, blocked for the calling thread and those it
/// starts later, to be read one by one. Dropping this restores the caller's mask.
#[derive(Debug)]
pub struct HostSignals {
    file: File,
    before: libc::sigset_t,
    blocked: Vec<libc::c_int>,
}

/// A signal that the host has sent to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostSignal {
    /// Its number.
    pub(super) number: i32,
    /// Who sent it, 0 for the kernel.
    pub(super) sender: i32,
    /// The same as the program gets it.
    pub(super) info: SigInfo,
}

impl HostSignals {
    /// Blocks the signals and opens the descriptor. Call it before [`super::Process::start`],
    /// on the thread that will call [`super::Process::run_to_end`]: those it starts inherit the
    /// mask.
    ///
    /// # Errors
    /// The host has no free descriptor.
    pub fn block() -> io::Result<HostSignals> {
        HostSignals::of(FROM_USER.to_vec())
    }

    /// The same with all that one process of a run can send to another and that have no meaning for
    /// the VMM itself, and with SIGCHLD.
    ///
    /// # Errors
    /// As [`HostSignals::block`].
    pub fn block_all() -> io::Result<HostSignals> {
        let real_time = (32..=libc::SIGRTMAX()).filter(|signal| signals::passes_on(*signal));
        HostSignals::of(FROM_USER.into_iter().chain(BETWEEN_PROCESSES).chain(real_time).collect())
    }

    /// Blocks no others for the calling thread, except those that the command blocks for good.
    pub(super) fn block_only_these(&self) {
        let own = [libc::SIGXFSZ, libc::SIGXCPU];
        fork::block_only(&[self.blocked.as_slice(), &own].concat());
    }

    fn of(mut wanted: Vec<libc::c_int>) -> io::Result<HostSignals> {
        wanted.retain(|&signal| signal == signals::carrier() || !is_ignored(signal));
        let set = vmm_sys_util::signal::create_sigset(&wanted)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        let file = open(&set)?;
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: reads one set and writes the other.
        let failed = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, before.as_mut_ptr()) };
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        // SAFETY: zeroed, then written by the call.
        let before = unsafe { before.assume_init() };
        stop::note_passed_on(&wanted);
        Ok(HostSignals { file, before, blocked: wanted })
    }

    /// The next pending signal, if any.
    pub(super) fn next(&self) -> Option<HostSignal> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let got = (&self.file).read(&mut info).ok()?;
        // signalfd(2).
        let word = |at: usize| {
            let bytes = info.get(at..).and_then(|rest| rest.first_chunk());
            u32::from_ne_bytes(bytes.copied().unwrap_or_default())
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (number, code, sender) = (word(0) as i32, word(8) as i32, word(12) as i32);
        let from = u64::from(word(12)) | u64::from(word(16)) << 32;
        let rest = match number {
            libc::SIGCHLD => [u64::from(word(40)), long(56), long(64)],
            _ => [long(48), 0, 0],
        };
        let info = SigInfo::new(number, code, from).with_errno(word(4) as i32).with_rest(rest);
        let uid = rustix::process::getuid().as_raw();
        let (info, number) = match signals::carried(&info, uid) {
            Some(info) => (info, info.signo),
            None => (info, number),
        };
        (got == size_of::<libc::signalfd_siginfo>()).then_some(HostSignal { number, sender, info })
    }
}

/// What processes of a run send each other besides: not those that the VMM has to keep for itself, which others carry
/// (`linux::children::signals`), nor those that stop a process, which the host's kernel does.
const BETWEEN_PROCESSES: [libc::c_int; 10] = [
    libc::SIGCHLD,
    // It has continued the process before it is read.
    libc::SIGCONT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGURG,
    libc::SIGPWR,
];

impl AsRawFd for HostSignals {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for HostSignals {
    fn drop(&mut self) {
        // SAFETY: reads the set this thread had before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// A descriptor from which the signals in `set` are read.
pub(super) fn open(set: &libc::sigset_t) -> io::Result<File> {
    // SAFETY: reads the set; the descriptor it returns is ours alone.
    let fd = unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, with no other owner.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: reads the action without setting it; writes the structure.
    let done = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed, then written by the call; every bit pattern is valid.
    done == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::HostSignals;

    #[test]
    fn a_signal_is_read_once_and_the_mask_comes_back() {
        let blocked = || vmm_sys_util::signal::get_blocked_signals().unwrap();
        let before = blocked();
        let signals = HostSignals::block().unwrap();
        assert!(blocked().contains(&libc::SIGWINCH));
        assert_eq!(signals.next(), None);
        // SAFETY: returns the calling thread.
        let this = unsafe { libc::pthread_self() };
        // SAFETY: sends this thread a signal that it has blocked.
        unsafe { libc::pthread_kill(this, libc::SIGWINCH) };
        assert_eq!(signals.next().map(|signal| signal.number), Some(libc::SIGWINCH));
        assert_eq!(signals.next(), None);
        drop(signals);
        assert_eq!(blocked(), before);
    }
}
