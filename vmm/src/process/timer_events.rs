//! Expired timers of the program, as the event loop reads them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};

use super::host_signals;
use crate::linux::timer::host::timer_signal;

/// Bytes of `struct signalfd_siginfo` (signalfd(2)), and the offsets in it of the overruns and of
/// the value the timer was created with.
const INFO_BYTES: usize = size_of::<libc::signalfd_siginfo>();
const OVERRUN: usize = 32;
const WORD: usize = 48;
/// Most events read at one time: a timer that expires continuously must not keep the event
/// loop from its other sources.
const BATCH: usize = 16;

/// The timers' signal, sent to the thread that created this, to be read one by one. The thread
/// keeps it blocked until it ends.
#[derive(Debug)]
pub(super) struct TimerEvents(File);

impl TimerEvents {
    /// Blocks the signal for the calling thread and opens the descriptor.
    pub(super) fn block() -> io::Result<TimerEvents> {
        let set = vmm_sys_util::signal::create_sigset(&[timer_signal()])
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        // If it was blocked already, nothing changes.
        let _ = vmm_sys_util::signal::block_signal(timer_signal());
        Ok(TimerEvents(host_signals::open(&set)?))
    }

    /// Calls `f` with the value and the overruns of some timers that have expired, and returns whether there
    /// were any.
    pub(super) fn read(&self, mut f: impl FnMut(u64, u32)) -> bool {
        let mut infos = [0; INFO_BYTES * BATCH];
        // Non-blocking: there may be nothing to read.
        let Ok(got) = (&self.0).read(&mut infos) else { return false };
        for info in infos.get(..got).unwrap_or_default().chunks_exact(INFO_BYTES) {
            let field = |at: usize| info.get(at..).unwrap_or_default();
            let overruns = field(OVERRUN).first_chunk().copied().unwrap_or_default();
            let word = field(WORD).first_chunk().copied().unwrap_or_default();
            f(u64::from_ne_bytes(word), u32::from_ne_bytes(overruns));
        }
        got > 0
    }
}

impl AsRawFd for TimerEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
