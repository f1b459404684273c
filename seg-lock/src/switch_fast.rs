//! The exchange of locks in a switch as the guest kernel does it: all of them or none.
//!
//! Locks that have to be waited for are left to the VMM, whose exchange is in `switch`.

use crate::outcome::LockOutcome;
use crate::page::{LockWords, Member, Mode, state};
use crate::uncontended::{give_back, release_fast, try_acquire_fast, try_acquire_short};
use abi::switch::LockRef;

#[inline(always)]
fn mode_of(lock: &LockRef) -> Mode {
    if lock.exclusive == 0 { Mode::Shared } else { Mode::Exclusive }
}

/// Exchanges the locks of one instance for those of another if none has to be waited for.
///
/// Both lists are sorted by `page`, each page once. `words_of` gives the words of a page. A
/// lock that is in both lists in different modes is left to the VMM.
///
/// Afterwards the thread holds the new locks and nothing else, and the second value says whether a
/// thread waits for a released one: the VMM must wake the waiters soon. Or the lock would block, and
/// the thread holds its old locks, as before; the VMM must do the switch, and wake the waiters of the
/// locks of both lists, which may have been kept out meanwhile.
#[inline(always)]
pub fn switch_locks_fast<W, F>(old: &[LockRef], new: &[LockRef], words_of: F) -> (LockOutcome, bool)
where
    W: LockWords,
    F: Fn(u64) -> W + Copy,
{
    // Between home and an instance, which is nearly always, one list is empty.
    if !old.is_empty() && !new.is_empty() {
        return exchange(old, new, words_of);
    }
    for lock in new {
        if !try_acquire_short(&words_of(lock.page), Member::of(lock), mode_of(lock)) {
            return finish_taking(new, lock.page, words_of);
        }
    }
    let mut seen = 0;
    for lock in old {
        seen |= give_back(&words_of(lock.page), Member::of(lock), mode_of(lock));
    }
    (LockOutcome::Acquired, seen & state::WAITERS != 0)
}

/// Acquires the locks of `new` from `page` on, or releases those before it.
#[cold]
#[inline(never)]
fn finish_taking<W: LockWords, F: Fn(u64) -> W>(
    new: &[LockRef],
    page: u64,
    words_of: F,
) -> (LockOutcome, bool) {
    let first = new.iter().take_while(|lock| lock.page != page).count();
    let take =
        |lock: &LockRef| try_acquire_fast(&words_of(lock.page), Member::of(lock), mode_of(lock));
    let refused = new.iter().enumerate().skip(first).find(|(_, lock)| !take(lock));
    let Some((taken, _)) = refused else { return (LockOutcome::Acquired, false) };
    for lock in new.iter().take(taken) {
        // Whatever the result: after a refusal the VMM wakes the waiters.
        release_fast(&words_of(lock.page), Member::of(lock), mode_of(lock));
    }
    (LockOutcome::WouldBlock, false)
}

/// Calls `each` for those of the first `count` entries of `list` whose lock `other` does not name,
/// until it returns false.
///
/// # Errors
/// How many entries were passed before that, or before a lock that is in both lists in
/// different modes.
fn walk(
    list: &[LockRef],
    count: usize,
    other: &[LockRef],
    mut each: impl FnMut(&LockRef) -> bool,
) -> Result<(), usize> {
    let mut others = other.iter().peekable();
    for (passed, lock) in list.iter().take(count).enumerate() {
        while others.next_if(|other| other.page < lock.page).is_some() {}
        let go_on = match others.peek() {
            Some(other) if other.page == lock.page => other.exclusive == lock.exclusive,
            _ => each(lock),
        };
        if !go_on {
            return Err(passed);
        }
    }
    Ok(())
}

#[inline(never)]
fn exchange<W: LockWords, F: Fn(u64) -> W>(
    old: &[LockRef],
    new: &[LockRef],
    words_of: F,
) -> (LockOutcome, bool) {
    let take =
        |lock: &LockRef| try_acquire_fast(&words_of(lock.page), Member::of(lock), mode_of(lock));
    let mut has_waiters = false;
    let mut release = |lock: &LockRef| {
        has_waiters |= !release_fast(&words_of(lock.page), Member::of(lock), mode_of(lock));
        true
    };
    // The second walks cover what the first did, and `release` never refuses.
    if let Err(taken) = walk(new, new.len(), old, take) {
        let _ = walk(new, taken, old, release);
        return (LockOutcome::WouldBlock, false);
    }
    let _ = walk(old, old.len(), new, &mut release);
    (LockOutcome::Acquired, has_waiters)
}
