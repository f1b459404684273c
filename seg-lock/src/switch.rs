//! Which locks a switch keeps, releases and acquires, and in which order, when some have to be
//! waited for. Pure: how a lock is acquired is the caller's. The kernel's version is `switch_fast`.
//!
//! No deadlock: a thread that waits without limit for a segment's lock holds only locks of segments
//! with smaller ids. One that waits with a limit may hold any, and gives up in the end.

use crate::outcome::LockOutcome;
use crate::page::Mode;
use crate::waiter::Patience;
use abi::SegId;

/// One lock an address space needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockNeed {
    /// The segment.
    pub sid: SegId,
    /// How.
    pub mode: Mode,
}

/// How the locks of segments are acquired and released, for the thread that switches.
pub trait LockOps {
    /// [`crate::acquire`].
    fn acquire(&self, need: LockNeed, patience: Patience) -> LockOutcome;
    /// [`crate::release`].
    fn release(&self, need: LockNeed);
    /// [`crate::upgrade`].
    fn upgrade(&self, sid: SegId, patience: Patience) -> LockOutcome;
    /// [`crate::downgrade`].
    fn downgrade(&self, sid: SegId);
}

/// What a thread holds after a switch of locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// The new locks.
    New,
    /// The old locks, without having released any meanwhile.
    Old,
    /// None: it was interrupted while it waited without limit.
    Nothing,
}

/// What became of a switch of locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Switched {
    /// [`LockOutcome::OwnerDied`] if one of the locks acquired was a dead owner's; otherwise that
    /// of the first lock that could not be acquired.
    pub outcome: LockOutcome,
    /// What the thread holds now.
    pub held: Held,
    /// The lock that could not be acquired.
    pub refused: Option<SegId>,
}

impl Switched {
    fn refused(sid: SegId, outcome: LockOutcome, held: Held) -> Switched {
        Switched { outcome, held, refused: Some(sid) }
    }

    fn done(outcome: LockOutcome) -> Switched {
        Switched { outcome, held: Held::New, refused: None }
    }
}

/// What to do about one new lock, given the old ones.
enum Step {
    Keep,
    Take,
    Upgrade,
    Downgrade,
}

fn find(locks: &[LockNeed], sid: SegId) -> Option<LockNeed> {
    let index = locks.binary_search_by_key(&sid, |lock| lock.sid).ok()?;
    locks.get(index).copied()
}

fn step(old: &[LockNeed], need: LockNeed) -> Step {
    match find(old, need.sid).map(|lock| lock.mode) {
        None => Step::Take,
        Some(mode) if mode == need.mode => Step::Keep,
        Some(Mode::Shared) => Step::Upgrade,
        Some(Mode::Exclusive) => Step::Downgrade,
    }
}

/// Exchanges the locks in `old`, which the thread holds, for those in `new`. Both are sorted by
/// segment, each segment once. Locks in both in the same mode stay held, except as below.
///
/// With [`Patience::Try`] and [`Patience::Until`] nothing is released before everything is
/// acquired. With [`Patience::Forever`] the same is tried first; if that would mean waiting,
/// everything that `new` does not need is released, then everything from the lock in question on,
/// and then locks are acquired in order: then the only possible failure is
/// [`LockOutcome::Interrupted`].
pub fn switch_locks<O: LockOps>(
    old: &[LockNeed],
    new: &[LockNeed],
    ops: &O,
    patience: Patience,
) -> Switched {
    let first_patience = if patience == Patience::Forever { Patience::Try } else { patience };
    let mut verdict = LockOutcome::Acquired;
    for (passed, &need) in new.iter().enumerate() {
        let taken = match step(old, need) {
            Step::Keep | Step::Downgrade => LockOutcome::Acquired,
            Step::Take => ops.acquire(need, first_patience),
            Step::Upgrade => ops.upgrade(need.sid, first_patience),
        };
        let (before, from) = new.split_at_checked(passed).unwrap_or_default();
        match taken {
            LockOutcome::Acquired => {}
            LockOutcome::OwnerDied => verdict = LockOutcome::OwnerDied,
            LockOutcome::WouldBlock if patience == Patience::Forever => {
                // A thread waits in ascending order only: the old locks from here on go first.
                give_back(old, before, ops);
                return take_in_order(before, from, ops, verdict);
            }
            refused => {
                for &need in before {
                    match step(old, need) {
                        Step::Keep | Step::Downgrade => {}
                        Step::Take => ops.release(need),
                        Step::Upgrade => ops.downgrade(need.sid),
                    }
                }
                return Switched::refused(need.sid, refused, Held::Old);
            }
        }
    }
    // Nothing can fail any more. Only now is anything released.
    give_back(old, new, ops);
    Switched::done(verdict)
}

/// Leaves the thread with exactly `kept`, of which it has already acquired what is not in `old`.
fn give_back<O: LockOps>(old: &[LockNeed], kept: &[LockNeed], ops: &O) {
    for &lock in old {
        match find(kept, lock.sid).map(|need| need.mode) {
            None => ops.release(lock),
            Some(Mode::Shared) if lock.mode == Mode::Exclusive => ops.downgrade(lock.sid),
            Some(_) => {}
        }
    }
}

fn take_in_order<O: LockOps>(
    before: &[LockNeed],
    from: &[LockNeed],
    ops: &O,
    mut verdict: LockOutcome,
) -> Switched {
    for (taken, &need) in from.iter().enumerate() {
        match ops.acquire(need, Patience::Forever) {
            LockOutcome::Acquired => {}
            LockOutcome::OwnerDied => verdict = LockOutcome::OwnerDied,
            refused => {
                before.iter().chain(from.iter().take(taken)).for_each(|&held| ops.release(held));
                return Switched::refused(need.sid, refused, Held::Nothing);
            }
        }
    }
    Switched::done(verdict)
}
