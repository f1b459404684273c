//! A lock page, decoded for people.

use crate::entry::{Entry, Want};
use crate::page::{LockWords, MAX_MEMBERS, Member, state, word};
use abi::LeaseId;

/// A lock page, for people. Words are read one after the other while other threads change them.
#[derive(Clone, Debug)]
pub struct LockView {
    /// The VM that holds it exclusively.
    pub owner: Option<Member>,
    /// The owner is about to enter, but not inside.
    pub entering: bool,
    /// A holder died inside.
    pub inconsistent: bool,
    /// The VMs, by member.
    pub leases: [Option<LeaseId>; MAX_MEMBERS],
    /// Threads inside shared, by member.
    pub readers: [u64; MAX_MEMBERS],
    /// Threads waiting to share.
    pub waiting_shared: u32,
    /// Threads waiting to be alone.
    pub waiting_exclusive: u32,
}

impl LockView {
    /// Whether a thread of this VM holds the lock, shared or not.
    #[must_use]
    pub fn is_inside(&self, vm: LeaseId) -> bool {
        let shares =
            |(lease, threads): (&Option<LeaseId>, &u64)| *lease == Some(vm) && *threads > 0;
        self.owner_lease() == Some(vm) || self.leases.iter().zip(&self.readers).any(shares)
    }

    /// Lease of the exclusive holder.
    #[must_use]
    pub fn owner_lease(&self) -> Option<LeaseId> {
        self.owner.and_then(|member| self.leases.get(member.raw() as usize).copied().flatten())
    }
}

/// Reads a page without changing it; dead VMs are still in it.
pub fn inspect<W: LockWords>(words: &W) -> LockView {
    let seen = words.load(word::STATE);
    let mut view = LockView {
        owner: (seen & state::OWNER).checked_sub(1).and_then(|member| Member::new(member as u32)),
        entering: seen & state::CLAIM != 0,
        inconsistent: seen & state::INCONSISTENT != 0,
        leases: core::array::from_fn(|member| LeaseId::new(words.load(word::LEASES + member))),
        readers: core::array::from_fn(|member| words.load(word::READER_COUNTS + member)),
        waiting_shared: 0,
        waiting_exclusive: 0,
    };
    for entry in (word::QUEUE..word::QUEUE_END).filter_map(|index| Entry::read(words.load(index))) {
        match entry.want() {
            Want::Shared => view.waiting_shared += 1,
            Want::Exclusive | Want::Upgrade => view.waiting_exclusive += 1,
        }
    }
    view
}
