//! The VMs that have a segment attached: how one joins its lock page and leaves it.
//!
//! Also what changes a page as a whole. Waiting is not here.

use crate::entry::{Entry, Want};
use crate::host::Waiting;
use crate::page::{LockWords, MAX_MEMBERS, Member, WORDS, state, word};
use crate::queue::{MutexError, QueueMutex};
use crate::reap::reap;
use abi::LeaseId;

/// Why a VM could not join a lock page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinError {
    /// [`MAX_MEMBERS`] living VMs have the segment attached.
    Full,
    /// A VM that is alive but does not run held the page's mutex for ten seconds.
    Busy,
    /// [`Waiting::should_stop`].
    Stopped,
}

/// How long to wait for the mutex; it is held for microseconds.
const MUTEX_NS: u64 = 10_000_000_000;

impl core::fmt::Display for JoinError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            JoinError::Full => {
                write!(f, "{MAX_MEMBERS} VMs have the segment attached, and no more can")
            }
            JoinError::Busy => f.write_str("a stopped VM keeps the segment's lock page"),
            JoinError::Stopped => f.write_str("stopped while waiting for the lock page"),
        }
    }
}

impl core::error::Error for JoinError {}

/// Makes the VM `me` a member, for its first attachment of the segment; the same one again if it is
/// one already. Dead members are reaped, and their numbers reused.
///
/// # Errors
/// See [`JoinError`].
pub fn join<W: LockWords, H: Waiting>(
    words: &W,
    host: &H,
    me: LeaseId,
) -> Result<Member, JoinError> {
    let limit = host.now_ns().saturating_add(MUTEX_NS);
    let joined = QueueMutex { words, host, me }.with(Some(limit), |guard| {
        for member in Member::all() {
            let lease = words.load(member.lease());
            if lease == me.raw() {
                return Some(member);
            }
            if lease != 0 && !guard.is_alive(lease) {
                reap(guard, member);
            }
        }
        let member = Member::all().find(|&member| words.load(member.lease()) == 0)?;
        reap(guard, member);
        if words.load(word::MEMBERS_USED) <= u64::from(member.raw()) {
            words.store(word::MEMBERS_USED, u64::from(member.raw()) + 1);
        }
        let alone = Member::all().all(|member| {
            words.load(member.lease()) == 0 && words.load(member.reader_count()) == 0
        });
        words.store(member.lease(), me.raw());
        guard.dispatch();
        let now = words.load(word::STATE);
        if alone && now & (state::OWNER | state::WAITERS) == 0 {
            // No other VM could be a reader, and it begins only now.
            let _ = words.compare_exchange(word::STATE, now, now & !state::READERS);
        }
        Some(member)
    });
    match joined {
        Ok(member) => member.ok_or(JoinError::Full),
        Err(MutexError::TimedOut) => Err(JoinError::Busy),
        Err(MutexError::Stopped) => Err(JoinError::Stopped),
    }
}

/// Ends a membership, after the VM's last attachment. Whatever the VM still holds is treated as if
/// it had died. If the page's mutex cannot be acquired, the member is reaped when the VM is dead.
pub fn leave<W: LockWords, H: Waiting>(words: &W, host: &H, member: Member, me: LeaseId) {
    let limit = host.now_ns().saturating_add(MUTEX_NS);
    let _ = QueueMutex { words, host, me }.with(Some(limit), |guard| {
        if words.load(member.lease()) == me.raw() {
            reap(guard, member);
            guard.dispatch();
        }
    });
}

/// Declares the content consistent again. `false`, and nothing done, unless the VM of `member`
/// holds the lock exclusively.
pub fn recover<W: LockWords>(words: &W, member: Member) -> bool {
    let owns = words.load(word::STATE) & (state::OWNER | state::CLAIM) == member.owner();
    if owns {
        words.fetch_and(word::STATE, !state::INCONSISTENT);
    }
    owns
}

/// Declares the content inconsistent; every thread that acquires the lock from now on is told.
pub fn mark_inconsistent<W: LockWords>(words: &W) {
    words.fetch_or(word::STATE, state::INCONSISTENT);
}

/// Empties an unused page: no living VM is a member, or the machine has booted since.
/// Returns whether the content is inconsistent: it was so, or a holder died inside.
pub fn reset<W: LockWords>(words: &W) -> bool {
    let seen = words.load(word::STATE);
    let entering = (word::QUEUE..word::QUEUE_END)
        .filter_map(|index| Entry::read(words.load(index)))
        .any(|entry| {
            entry.is_granted()
                && entry.want() != Want::Shared
                && entry.member().owner() == seen & state::OWNER
        });
    let died_inside = seen & state::OWNER != 0 && seen & state::CLAIM == 0 && !entering;
    let inconsistent = died_inside || seen & state::INCONSISTENT != 0;
    // The state first: an interrupted reset is repeated, and must come to the same end.
    words.store(word::STATE, if inconsistent { state::INCONSISTENT } else { 0 });
    (0..WORDS).filter(|&index| index != word::STATE).for_each(|index| words.store(index, 0));
    inconsistent
}
