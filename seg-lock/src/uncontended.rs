//! Acquire and release without waiting: they succeed immediately, or tell the caller that they
//! cannot.
//!
//! The guest kernel has machine code of its own for the two shortest ones (guest-kernel/src/switch.rs).
//! No waiting and no verdict about a dead holder here; that is `waiter`'s.

use crate::page::{LockWords, MAX_MEMBERS, Member, Mode, state, word};

/// This many writers scan for readers before one of them clears [`state::READERS`]. A writer that
/// scans costs some forty instructions more; a reader that finds the bit clear has to take the slow
/// path, out of the guest, which costs some ten times that. So where both alternate, one reader in
/// this many takes it, and where readers have gone for good the scans end after this many writers.
pub const SCANS_PER_CLEAR: u64 = 16;

/// Acquires the lock if that needs no waiting, no queue and no verdict about a dead holder.
///
/// On `false` the lock is as it was, but a thread that tried meanwhile may have gone to wait: the
/// caller must see to it that the VMM calls [`wake_waiters`](crate::wake_waiters) or
/// [`acquire`](crate::acquire).
#[inline(always)]
pub fn try_acquire_fast<W: LockWords>(words: &W, member: Member, mode: Mode) -> bool {
    try_acquire_short(words, member, mode)
        || (mode == Mode::Exclusive && try_among_readers(words, member))
}

/// As [`try_acquire_fast`], but gives up on an exclusive lock that readers use too.
#[inline(always)]
pub(crate) fn try_acquire_short<W: LockWords>(words: &W, member: Member, mode: Mode) -> bool {
    match mode {
        Mode::Shared => {
            words.fetch_add(member.reader_count(), 1);
            let free = words.load(word::STATE) & state::READER_MASK == state::READERS;
            if !free {
                words.fetch_sub(member.reader_count(), 1);
            }
            free
        }
        Mode::Exclusive => words.compare_exchange(word::STATE, 0, member.owner()).is_ok(),
    }
}

/// Exclusive acquire where there may be readers: claim, check the counts of readers, enter.
#[inline(never)]
fn try_among_readers<W: LockWords>(words: &W, member: Member) -> bool {
    let claim = member.owner() | state::CLAIM;
    if words.compare_exchange(word::STATE, state::READERS, state::READERS | claim).is_err() {
        return false;
    }
    // Read after the claim: a VM raises it before its first reader can announce itself, and
    // that reader either comes to see the claim or is seen here.
    let used = words.load(word::MEMBERS_USED).min(MAX_MEMBERS as u64) as usize;
    let free = (0..used).all(|member| words.load(word::READER_COUNTS + member) == 0);
    words.fetch_sub(word::STATE, if free { entered(words) } else { claim });
    free
}

/// Alone inside: the bits to subtract from the state to be the owner only. At every
/// [`SCANS_PER_CLEAR`]th scan [`state::READERS`], too: nothing else clears it while there is an
/// owner.
fn entered<W: LockWords>(words: &W) -> u64 {
    let scans = words.load(word::SCANS).wrapping_add(1);
    let is_last = scans >= SCANS_PER_CLEAR;
    words.store(word::SCANS, if is_last { 0 } else { scans });
    if is_last { state::CLAIM | state::READERS } else { state::CLAIM }
}

/// Releases the lock, whatever the answer. On `false` a thread waits: the VMM must call
/// [`wake_waiters`](crate::wake_waiters), or the waiter finds out only when it next checks.
#[inline(always)]
pub fn release_fast<W: LockWords>(words: &W, member: Member, mode: Mode) -> bool {
    give_back(words, member, mode) & state::WAITERS == 0
}

/// Releases the lock, and returns a state in which waiters show.
#[inline(always)]
pub(crate) fn give_back<W: LockWords>(words: &W, member: Member, mode: Mode) -> u64 {
    match mode {
        Mode::Shared => {
            words.fetch_sub(member.reader_count(), 1);
            words.load(word::STATE)
        }
        Mode::Exclusive => words.fetch_sub(word::STATE, member.owner()),
    }
}
