//! Signals: which ones the program handles, which are pending, and how one reaches a handler.
//!
//! - state: [`actions`], the process's actions; [`thread`], what a thread blocks; `queue`,
//!   what is pending; [`info`], what a signal carries; `stack`, the alternate stack
//! - [`mod@deliver`]: from there to a handler, or to the end of the process
//! - [`KeptSignals`]: what stays over `execve`
//! - calls: `calls` on that state, `send`, and `wait`

pub mod actions;
mod calls;
pub mod deliver;
pub mod info;
mod kept;
pub mod name;
mod queue;
mod send;
mod stack;
pub mod thread;
mod wait;

use std::sync::{Mutex, MutexGuard};

use super::snapshot;
use super::task::{Process, Thread, ThreadCtx};
pub use actions::SignalActions;
pub(super) use calls::{rt_sigaction, rt_sigpending, rt_sigprocmask, rt_sigreturn, sigaltstack};
pub use deliver::{Again, Due, Fatal, FatalCause, Interrupted, deliver};
pub use info::SigInfo;
pub use kept::KeptSignals;
pub(super) use send::send_to_first_of;
pub use send::{broken_pipe, file_too_large, send_to_process, send_to_thread};
pub(super) use send::{from_program, queued_info, signal_or_probe};
pub(super) use send::{kill, rt_sigqueueinfo, rt_tgsigqueueinfo, tgkill, tkill};
pub use stack::AltStack;
pub use thread::ThreadSignals;
pub(super) use wait::{pause, rt_sigsuspend, rt_sigtimedwait, with_mask};

const fn bit(signal: i32) -> u64 {
    match signal {
        1..=64 => 1 << (signal - 1),
        _ => 0,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Drops the pending signal of a deleted timer.
pub(crate) fn forget_timer(process: &Process, timer: i32) {
    process.signals.pending.remove_timer(timer);
    for thread in process.threads.all() {
        thread.signals.pending.remove_timer(timer);
    }
}

impl Thread {
    /// Whether a blocking call of this thread should return: the process ends, or a signal can be
    /// delivered.
    #[must_use]
    pub fn is_interrupted(&self, process: &Process) -> bool {
        self.signals.acknowledge_kick();
        if let Some(debug) = process.debugger()
            && debug.interrupts(self.tid)
        {
            return true;
        }
        self.is_signalled(process)
    }

    /// The same but for a debugger.
    fn is_signalled(&self, process: &Process) -> bool {
        let open = self.signals.pending_set() | process.signals.pending_set();
        process.is_stopping() || process.signals.heeds_any(open & !self.signals.mask())
    }
}

/// The signals that are pending for the process or for any of its threads.
pub(super) fn pending_for_any(process: &Process) -> u64 {
    let threads = process.threads.all();
    let of_threads = threads.iter().fold(0, |set, thread| set | thread.signals.pending_set());
    of_threads | process.signals.pending_set()
}

impl ThreadCtx<'_> {
    /// As [`Thread::is_interrupted`], for the calling thread. For a debugger it stands here, and goes on with
    /// the call.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        if let Some(debug) = self.process.debugger()
            && debug.in_call(self)
        {
            return true;
        }
        snapshot::in_call(self);
        self.thread.signals.acknowledge_kick();
        self.thread.is_signalled(self.process)
    }

    /// Dequeues the next pending signal of `wanted`, the thread's own before the process's.
    pub(super) fn take(&self, wanted: u64) -> Option<SigInfo> {
        let own = || self.thread.signals.pending.take(wanted);
        let info = own().or_else(|| self.process.signals.pending.take(wanted))?;
        self.process.timers.note_taken(&info);
        self.process.signal_files.settle(self.process);
        Some(info)
    }
}
