//! The word of the queue that a waiting thread has: what it wants, its VM, when it came, and
//! whether the lock is granted to it.

use crate::page::Member;

/// What a queued thread wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    Shared = 0,
    Exclusive = 1,
    /// Exclusive, in exchange for the shared hold it has.
    Upgrade = 2,
}

/// A word of the queue: bits 1..0 stage (1 waits, 2 granted), 3..2 what it wants, 9..4 member,
/// 63..10 ticket. Stage and member lie in the low half, on which the thread sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry(u64);

impl Entry {
    const STAGE: u64 = 3;
    const WAITS: u64 = 1;
    const GRANTED: u64 = 2;
    pub(crate) const FREE: u64 = 0;

    pub(crate) fn new(want: Want, member: Member, ticket: u64) -> Entry {
        Entry(Self::WAITS | (want as u64) << 2 | u64::from(member.raw()) << 4 | ticket << 10)
    }

    /// `None` for a free word; nonsense counts as free.
    pub(crate) fn read(raw: u64) -> Option<Entry> {
        let stage = raw & Self::STAGE;
        (stage == Self::WAITS || stage == Self::GRANTED).then_some(Entry(raw))
    }

    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn want(self) -> Want {
        match self.0 >> 2 & 3 {
            0 => Want::Shared,
            2 => Want::Upgrade,
            _ => Want::Exclusive,
        }
    }

    pub(crate) fn member(self) -> Member {
        Member::wrapping((self.0 >> 4) as u32)
    }

    pub(crate) fn ticket(self) -> u64 {
        self.0 >> 10
    }

    pub(crate) fn is_granted(self) -> bool {
        self.0 & Self::STAGE == Self::GRANTED
    }

    /// The same thread's word once the lock is granted to it.
    pub(crate) fn granted(self) -> Entry {
        Entry(self.0 & !Self::STAGE | Self::GRANTED)
    }
}
