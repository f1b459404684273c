//! What dead VMs left behind in a lock page, removed by the first VM that finds it.

use crate::entry::{Entry, Want};
use crate::host::Waiting;
use crate::page::{LockWords, MAX_MEMBERS, Member, state, word};
use crate::queue::QueueGuard;

/// Reaps every dead VM that holds something or waits.
pub(crate) fn reap_dead<W: LockWords, H: Waiting>(guard: &QueueGuard<'_, W, H>) {
    let seen = guard.words().load(word::STATE);
    let owner = seen & state::OWNER;
    if owner > MAX_MEMBERS as u64 {
        // No member's number: not written by this algorithm.
        guard.words().fetch_or(word::STATE, state::INCONSISTENT);
        guard.words().fetch_and(word::STATE, !(state::OWNER | state::CLAIM));
    }
    let mut concerned =
        if owner > 0 && owner <= MAX_MEMBERS as u64 { 1u64 << (owner - 1) } else { 0 };
    guard.entries().for_each(|(_, entry)| concerned |= 1 << entry.member().raw());
    for member in Member::all() {
        let concerned =
            concerned >> member.raw() & 1 != 0 || guard.words().load(member.reader_count()) != 0;
        if concerned && !guard.is_alive(guard.words().load(member.lease())) {
            reap(guard, member);
        }
    }
}

/// Wipes what a member left behind: it is dead, or leaves. May be interrupted anywhere; the next VM
/// that comes then starts again.
pub(crate) fn reap<W: LockWords, H: Waiting>(guard: &QueueGuard<'_, W, H>, member: Member) {
    let words = guard.words();
    let seen = words.load(word::STATE);
    if seen & state::OWNER == member.owner() {
        // Still scanning for readers, or still in the queue: it has not touched the content yet.
        let entering = seen & state::CLAIM != 0
            || guard.entries().any(|(_, entry)| {
                entry.member() == member && entry.is_granted() && entry.want() != Want::Shared
            });
        if !entering {
            words.fetch_or(word::STATE, state::INCONSISTENT);
        }
        words.fetch_sub(word::STATE, member.owner() | seen & state::CLAIM);
    }
    words.store(member.reader_count(), 0);
    for (index, entry) in guard.entries() {
        if entry.member() == member {
            words.store(index, Entry::FREE);
        }
    }
    words.store(member.lease(), 0);
}
