//! What of a program's signals and timers the one has that takes its place (execve(2)): what is pending
//! for the process and for the thread that called, and the interval timers. State only.

use super::info::{SI_TIMER, SigInfo};
use super::{SignalActions, ThreadSignals};
use crate::linux::task::{Process, Thread};
use crate::linux::timer::Intervals;

/// See the module. By default nothing, as after `fork`.
#[derive(Debug, Default)]
pub struct KeptSignals {
    process: Vec<SigInfo>,
    thread: Vec<SigInfo>,
    /// `ITIMER_REAL` and its kin.
    pub(crate) intervals: Intervals,
}

impl KeptSignals {
    /// What `caller` and its `process` leave behind, once no thread and no event loop is left. What timers
    /// of `timer_create` have sent goes with them.
    pub(in crate::linux) fn of(process: &Process, caller: &Thread) -> KeptSignals {
        let left = |infos: Vec<SigInfo>| infos.into_iter().filter(|info| info.code != SI_TIMER);
        KeptSignals {
            process: left(process.signals.pending.take_all()).collect(),
            thread: left(caller.signals.pending.take_all()).collect(),
            intervals: process.timers.take_aside(),
        }
    }

    /// Makes them pending in the program that comes next.
    pub(crate) fn give(&self, actions: &SignalActions, thread: &ThreadSignals) {
        for (infos, queue) in [(&self.process, &actions.pending), (&self.thread, &thread.pending)] {
            for info in infos {
                // Without a limit it cannot fail.
                let _ = queue.push(*info, u64::MAX);
            }
        }
    }
}
