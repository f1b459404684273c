//! Signals that are pending, for a thread or for the process.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;

use super::info::{SI_TIMER, SI_USER, SigInfo};
use super::{bit, locked};

/// The first real-time signal, by the kernel's numbering. Those below do not queue.
const FIRST_REAL_TIME: i32 = 32;

/// Signals that a fault raises; they are dequeued before all others.
const SYNCHRONOUS: u64 = bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGILL)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGFPE)
    | bit(libc::SIGSYS);

/// Pending signals in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Queue {
    infos: Mutex<Vec<SigInfo>>,
    /// Which signals are queued, changed under the lock: the check at every exit is one load.
    set: AtomicU64,
}

impl Queue {
    /// Adds a signal. An ordinary one that is already pending stays as it is; for a timer's, this
    /// counts an overrun.
    ///
    /// # Errors
    /// `EAGAIN` when `limit` signals are pending and this one carries something that would be
    /// lost.
    pub(super) fn push(&self, info: SigInfo, limit: u64) -> Result<(), Errno> {
        let mut infos = locked(&self.infos);
        if info.code == SI_TIMER
            && let Some(earlier) = infos.iter_mut().find(|p| is_same_timer(p, &info))
        {
            earlier.value = earlier.value.saturating_add(1 << 32);
            return Ok(());
        }
        let pending = self.set.load(Ordering::Relaxed) & bit(info.signo) != 0;
        if pending && info.signo < FIRST_REAL_TIME {
            return Ok(());
        }
        if infos.len() as u64 >= limit {
            if info.signo >= FIRST_REAL_TIME && info.code != SI_USER {
                return Err(Errno::EAGAIN);
            }
            if pending {
                return Ok(());
            }
        }
        infos.push(info);
        // Release: a thread that sees the bit also sees the signal.
        self.set.fetch_or(bit(info.signo), Ordering::Release);
        Ok(())
    }

    /// Which signals are pending.
    pub(super) fn set(&self) -> u64 {
        self.set.load(Ordering::Acquire)
    }

    /// Dequeues the next of `wanted`: a fault's first, then the lowest number, then the oldest.
    pub(super) fn take(&self, wanted: u64) -> Option<SigInfo> {
        if self.set() & wanted == 0 {
            return None;
        }
        let mut infos = locked(&self.infos);
        let there = self.set.load(Ordering::Relaxed) & wanted;
        let first = if there & SYNCHRONOUS != 0 { there & SYNCHRONOUS } else { there };
        let signo = (first.trailing_zeros() + 1).cast_signed();
        let at = infos.iter().position(|info| info.signo == signo)?;
        let info = infos.remove(at);
        self.note(&infos);
        Some(info)
    }

    /// All of them, in the order of arrival.
    pub(super) fn take_all(&self) -> Vec<SigInfo> {
        let mut infos = locked(&self.infos);
        self.set.store(0, Ordering::Release);
        std::mem::take(&mut *infos)
    }

    /// Drops the signals in `set`.
    pub(super) fn remove(&self, set: u64) {
        let mut infos = locked(&self.infos);
        infos.retain(|info| set & bit(info.signo) == 0);
        self.note(&infos);
    }

    /// Drops the pending signal of a deleted timer.
    pub(super) fn remove_timer(&self, timer: i32) {
        let mut infos = locked(&self.infos);
        infos.retain(|info| info.code != SI_TIMER || info.value as i32 != timer);
        self.note(&infos);
    }

    fn note(&self, infos: &[SigInfo]) {
        let set = infos.iter().fold(0, |set, info| set | bit(info.signo));
        self.set.store(set, Ordering::Release);
    }
}

fn is_same_timer(a: &SigInfo, b: &SigInfo) -> bool {
    a.code == SI_TIMER && a.signo == b.signo && a.value as i32 == b.value as i32
}

#[cfg(test)]
mod tests {
    use super::{Queue, SI_TIMER, SigInfo};
    use abi::Errno;

    const ALL: u64 = !0;

    fn drain(queue: &Queue) -> Vec<(i32, u64)> {
        std::iter::from_fn(|| queue.take(ALL)).map(|info| (info.signo, info.value)).collect()
    }

    #[test]
    fn ordinary_signals_merge_and_real_time_ones_queue_in_order() {
        let queue = Queue::default();
        for (signo, value) in [(40, 1), (10, 2), (35, 3), (10, 4), (35, 5), (40, 6), (11, 7)] {
            queue.push(SigInfo::new(signo, -1, value), 100).unwrap();
        }
        // A fault's first, then by number, then by age.
        assert_eq!(drain(&queue), [(11, 7), (10, 2), (35, 3), (35, 5), (40, 1), (40, 6)]);
        assert_eq!(queue.set(), 0);
    }

    #[test]
    fn a_full_queue_refuses_what_would_lose_a_value() {
        let queue = Queue::default();
        queue.push(SigInfo::new(40, -1, 1), 1).unwrap();
        assert_eq!(queue.push(SigInfo::new(40, -1, 2), 1), Err(Errno::EAGAIN));
        // `kill` succeeds: the signal is merged or already pending.
        queue.push(SigInfo::new(40, 0, 3), 1).unwrap();
        queue.push(SigInfo::new(41, 0, 4), 1).unwrap();
        assert_eq!(drain(&queue), [(40, 1), (41, 4)]);
    }

    #[test]
    fn a_timer_whose_signal_is_pending_counts_overruns() {
        let queue = Queue::default();
        for _ in 0..3 {
            queue.push(SigInfo::new(34, SI_TIMER, 7), 100).unwrap();
        }
        queue.push(SigInfo::new(34, SI_TIMER, 8), 100).unwrap();
        assert_eq!(drain(&queue), [(34, 7 | 2 << 32), (34, 8)]);
    }
}
