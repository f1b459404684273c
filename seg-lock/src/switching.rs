//! Which locks a switch keeps, gives back and takes, and in which order, when some have to be
//! waited for. Pure: how a lock is taken is the caller's. The kernel's way is `switching_fast`.
//!
//! No deadlock: who waits without limit for a segment's lock holds only locks of segments with
//! smaller ids. Who waits with a limit holds what it likes, and gives up in the end.

use crate::{AcquireError, Acquired, Mode, Patience};
use abi::SegId;

/// One lock an address space needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockNeed {
    /// The segment.
    pub sid: SegId,
    /// How.
    pub mode: Mode,
}

/// How the locks of segments are taken and given back, for the thread that switches.
pub trait LockOps {
    /// [`crate::acquire`].
    ///
    /// # Errors
    /// As there.
    fn acquire(&self, need: LockNeed, patience: Patience) -> Result<Acquired, AcquireError>;
    /// [`crate::release`].
    fn release(&self, need: LockNeed);
    /// [`crate::upgrade`].
    ///
    /// # Errors
    /// As there.
    fn upgrade(&self, sid: SegId, patience: Patience) -> Result<Acquired, AcquireError>;
    /// [`crate::downgrade`].
    fn downgrade(&self, sid: SegId);
}

/// What a thread holds after a switch of locks has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// The old locks, without having let go of any meanwhile.
    Old,
    /// None: it was stopped while it waited without limit.
    Nothing,
}

/// A switch of locks failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SwitchError {
    /// The lock that was not to be had.
    pub sid: SegId,
    /// Why.
    pub cause: AcquireError,
    /// What the thread holds now.
    pub held: Held,
}

impl core::fmt::Display for SwitchError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "segment {}: {}", self.sid, self.cause)
    }
}

impl core::error::Error for SwitchError {}

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
/// With [`Patience::Try`] and [`Patience::Until`] nothing is let go of before all is taken.
/// With [`Patience::Forever`] the same is tried first; if that would mean waiting, all that
/// `new` does not need is given back, then everything from the lock in question on, and then
/// locks are taken in order. Returns [`Acquired::OwnerDied`] if one of the locks taken said so.
///
/// # Errors
/// The first lock that was not to be had, and what the thread holds now. With
/// [`Patience::Forever`] only [`AcquireError::Stopped`].
pub fn switch_locks<O: LockOps>(
    old: &[LockNeed],
    new: &[LockNeed],
    ops: &O,
    patience: Patience,
) -> Result<Acquired, SwitchError> {
    let first_patience = if patience == Patience::Forever { Patience::Try } else { patience };
    let mut verdict = Acquired::Clean;
    for (passed, &need) in new.iter().enumerate() {
        let taken = match step(old, need) {
            Step::Keep | Step::Downgrade => Ok(Acquired::Clean),
            Step::Take => ops.acquire(need, first_patience),
            Step::Upgrade => ops.upgrade(need.sid, first_patience),
        };
        let (before, from) = new.split_at_checked(passed).unwrap_or_default();
        match taken {
            Ok(Acquired::Clean) => {}
            Ok(Acquired::OwnerDied) => verdict = Acquired::OwnerDied,
            Err(AcquireError::WouldBlock) if patience == Patience::Forever => {
                give_back_for_order(old, before, need.sid, ops);
                return take_in_order(before, from, ops, verdict);
            }
            Err(cause) => {
                for &need in before {
                    match step(old, need) {
                        Step::Keep | Step::Downgrade => {}
                        Step::Take => ops.release(need),
                        Step::Upgrade => ops.downgrade(need.sid),
                    }
                }
                return Err(SwitchError { sid: need.sid, cause, held: Held::Old });
            }
        }
    }
    // Nothing can fail any more. Only now is anything let go of.
    for &lock in old {
        match find(new, lock.sid).map(|need| need.mode) {
            None => ops.release(lock),
            Some(Mode::Shared) if lock.mode == Mode::Exclusive => ops.downgrade(lock.sid),
            Some(_) => {}
        }
    }
    Ok(verdict)
}

/// Leaves the thread with exactly `before`, the locks of the new ones below `sid`.
fn give_back_for_order<O: LockOps>(old: &[LockNeed], before: &[LockNeed], sid: SegId, ops: &O) {
    for &lock in old {
        match find(before, lock.sid).map(|need| need.mode) {
            _ if lock.sid >= sid => ops.release(lock),
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
    mut verdict: Acquired,
) -> Result<Acquired, SwitchError> {
    for (taken, &need) in from.iter().enumerate() {
        match ops.acquire(need, Patience::Forever) {
            Ok(Acquired::Clean) => {}
            Ok(Acquired::OwnerDied) => verdict = Acquired::OwnerDied,
            Err(cause) => {
                before.iter().chain(from.iter().take(taken)).for_each(|&held| ops.release(held));
                return Err(SwitchError { sid: need.sid, cause, held: Held::Nothing });
            }
        }
    }
    Ok(verdict)
}
