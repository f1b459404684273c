//! The segments of one instance: with which right, and at which addresses.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;

use abi::{PAGE_SIZE_1G, Right, SegId};

use super::SLOT_BYTES;

/// One segment of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) right: Right,
    /// Attached to this instance only, not to the VAS.
    pub(crate) local: bool,
    /// Its addresses.
    pub(crate) range: Range<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Members(BTreeMap<SegId, Member>);

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

impl Members {
    pub(crate) fn get(&self, sid: SegId) -> Option<&Member> {
        self.0.get(&sid)
    }

    /// A member that the caller has found here.
    pub(crate) fn known(&self, sid: SegId) -> &Member {
        self.get(sid).expect("the caller has found it among the members")
    }

    pub(crate) fn contains(&self, sid: SegId) -> bool {
        self.0.contains_key(&sid)
    }

    pub(crate) fn insert(&mut self, sid: SegId, member: Member) {
        self.0.insert(sid, member);
    }

    pub(crate) fn remove(&mut self, sid: SegId) -> Option<Member> {
        self.0.remove(&sid)
    }

    /// In the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SegId, &Member)> {
        self.0.iter().map(|(&sid, member)| (sid, member))
    }

    /// The member that has `gva`.
    pub(crate) fn at(&self, gva: u64) -> Option<(SegId, &Member)> {
        self.iter().find(|(_, member)| member.range.contains(&gva))
    }

    /// A member that has some of these addresses.
    pub(crate) fn overlapping(&self, range: &Range<u64>) -> Option<SegId> {
        self.iter().find(|(_, member)| overlaps(&member.range, range)).map(|(sid, _)| sid)
    }

    /// How many have addresses in a 512 GiB slot.
    pub(crate) fn in_slot(&self, slot: u64) -> usize {
        self.within(&(slot * SLOT_BYTES..(slot + 1) * SLOT_BYTES))
    }

    /// How many have addresses in a gigabyte.
    pub(crate) fn in_gib(&self, gib: u64) -> usize {
        self.within(&(gib * PAGE_SIZE_1G..(gib + 1) * PAGE_SIZE_1G))
    }

    fn within(&self, range: &Range<u64>) -> usize {
        self.0.values().filter(|member| overlaps(&member.range, range)).count()
    }
}
