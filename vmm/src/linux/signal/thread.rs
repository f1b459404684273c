//! A thread's side of signals: what it blocks, what is pending for it alone. State only.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::queue::Queue;
use super::stack::AltStack;
use super::{bit, locked};
use crate::process_tree::stop;

/// Signals that cannot be blocked, caught or ignored.
pub(super) const UNBLOCKABLE: u64 = bit(libc::SIGKILL) | bit(libc::SIGSTOP);

/// A thread's mask, its alternate stack, and signals sent to it alone.
#[derive(Debug, Default)]
pub struct ThreadSignals {
    /// Never contains a signal that cannot be blocked.
    mask: AtomicU64,
    /// What it waits for in `rt_sigtimedwait`.
    awaited: AtomicU64,
    pub(super) alt: Mutex<AltStack>,
    pub(super) pending: Queue,
    /// This thread was kicked, and has not checked its signals since.
    kicked: AtomicBool,
    /// It stands for a debugger: it looks when it goes on, and no kick is needed.
    standing: AtomicBool,
    /// The mask to return to from `rt_sigsuspend`, until a handler's frame holds it.
    suspended: Mutex<Option<u64>>,
    /// The mask from before a wait with another one that is going on.
    outside_wait: Mutex<Option<u64>>,
}

impl ThreadSignals {
    /// What a new thread starts with: its creator's mask, nothing else.
    #[must_use]
    pub fn for_child(&self) -> ThreadSignals {
        ThreadSignals { mask: AtomicU64::new(self.mask()), ..ThreadSignals::default() }
    }

    /// What a program's first thread starts with.
    #[must_use]
    pub fn blocking(mask: u64) -> ThreadSignals {
        ThreadSignals { mask: AtomicU64::new(mask & !UNBLOCKABLE), ..ThreadSignals::default() }
    }

    /// What the thread of a copied process starts with: mask and alternate stack, nothing pending.
    #[must_use]
    pub fn of_copy(mask: u64, alt: AltStack) -> ThreadSignals {
        ThreadSignals { alt: Mutex::new(alt), ..ThreadSignals::blocking(mask) }
    }

    /// Its alternate stack.
    pub(in crate::linux) fn alt_stack(&self) -> AltStack {
        *locked(&self.alt)
    }

    /// Blocks everything that can be blocked.
    pub(in crate::linux) fn block_all(&self) {
        self.set_mask(u64::MAX);
    }

    /// Blocks these and no others.
    pub(in crate::linux) fn block_only(&self, mask: u64) {
        self.set_mask(mask);
    }

    /// Whether a kick is still unacknowledged.
    #[must_use]
    pub fn is_kicked(&self) -> bool {
        self.kicked.load(Ordering::Relaxed) && !self.standing.load(Ordering::Relaxed)
    }

    /// Records that it stands for a debugger, or goes on.
    pub(in crate::linux) fn set_standing(&self, standing: bool) {
        self.standing.store(standing, Ordering::Relaxed);
    }

    /// Records that the thread is about to be kicked.
    pub(in crate::linux) fn mark_kicked(&self) {
        self.kicked.store(true, Ordering::Relaxed);
    }

    /// To be called before the thread checks its signals: a later kick counts as a new one.
    pub(in crate::linux) fn acknowledge_kick(&self) {
        self.kicked.store(false, Ordering::Relaxed);
    }

    /// The signals it blocks.
    pub(crate) fn mask(&self) -> u64 {
        self.mask.load(Ordering::Relaxed)
    }

    /// Whether it blocks `signal`.
    pub(in crate::linux) fn blocks(&self, signal: i32) -> bool {
        self.mask() & bit(signal) != 0
    }

    /// Makes it, the calling thread, block the signals in `mask`, except the unblockable ones; returns the
    /// previous mask.
    pub(super) fn set_mask(&self, mask: u64) -> u64 {
        stop::mask_changed(mask);
        self.mask.swap(mask & !UNBLOCKABLE, Ordering::Relaxed)
    }

    /// The signals pending for it alone.
    pub(in crate::linux) fn pending_set(&self) -> u64 {
        self.pending.set()
    }

    /// Records what it waits for, for senders: 0 for nothing.
    pub(super) fn set_awaited(&self, set: u64) {
        self.awaited.store(set & !UNBLOCKABLE, Ordering::Release);
    }

    /// Whether a signal sent to the process may be delivered to this thread.
    pub(super) fn can_take(&self, signal: i32) -> bool {
        (!self.mask() | self.awaited.load(Ordering::Acquire)) & bit(signal) != 0
    }

    /// Records the mask that the thread had before a wait with another one: a handler that ends the
    /// wait returns to it.
    pub(super) fn suspend(&self, before: u64) {
        *locked(&self.suspended) = Some(before);
    }

    /// It begins to wait with another mask; returns the one from before.
    pub(super) fn begin_wait(&self, mask: u64) -> u64 {
        let before = self.set_mask(mask);
        *locked(&self.outside_wait) = Some(before);
        before
    }

    /// It does not wait any longer.
    pub(super) fn end_wait(&self) {
        *locked(&self.outside_wait) = None;
    }

    /// The mask that it has when it does not wait with another one.
    pub(in crate::linux) fn mask_outside_wait(&self) -> u64 {
        locked(&self.outside_wait).unwrap_or_else(|| self.mask())
    }

    /// The mask from before the wait that a signal has ended.
    pub(super) fn suspended(&self) -> Option<u64> {
        *locked(&self.suspended)
    }

    /// The same, and clears it.
    pub(super) fn take_suspended(&self) -> Option<u64> {
        locked(&self.suspended).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mask_blocks_kill_or_stop() {
        let signals = ThreadSignals::default();
        assert_eq!(signals.set_mask(u64::MAX), 0);
        assert_eq!(signals.mask(), !UNBLOCKABLE);
        assert!(signals.blocks(libc::SIGTERM) && !signals.blocks(libc::SIGKILL));
        assert_eq!(signals.for_child().mask(), !UNBLOCKABLE);
    }

    #[test]
    fn a_blocked_signal_can_be_taken_while_it_is_awaited() {
        let signals = ThreadSignals::default();
        signals.set_mask(bit(libc::SIGUSR1));
        assert!(!signals.can_take(libc::SIGUSR1) && signals.can_take(libc::SIGUSR2));
        signals.set_awaited(bit(libc::SIGUSR1));
        assert!(signals.can_take(libc::SIGUSR1));
        signals.set_awaited(0);
        assert!(!signals.can_take(libc::SIGUSR1));
    }

    #[test]
    fn the_mask_from_before_a_wait_is_known_while_it_lasts() {
        let signals = ThreadSignals::default();
        signals.set_mask(bit(libc::SIGUSR1));
        assert_eq!(signals.begin_wait(bit(libc::SIGUSR2)), bit(libc::SIGUSR1));
        assert_eq!(signals.mask(), bit(libc::SIGUSR2));
        assert_eq!(signals.mask_outside_wait(), bit(libc::SIGUSR1));
        signals.end_wait();
        assert_eq!(signals.mask_outside_wait(), bit(libc::SIGUSR2));
    }

    #[test]
    fn a_child_inherits_the_mask_and_nothing_else() {
        let signals = ThreadSignals::default();
        signals.set_mask(bit(libc::SIGUSR1));
        signals.suspend(0);
        signals.mark_kicked();
        let child = signals.for_child();
        assert_eq!(child.mask(), bit(libc::SIGUSR1));
        assert!(!child.is_kicked() && child.take_suspended().is_none());
        assert_eq!((signals.take_suspended(), signals.take_suspended()), (Some(0), None));
    }
}
