//! What a commit says of the VAS through which it was made: the VAS's number of it, and the versions
//! that all its segments had then. And the last number of each VAS, which stays when such commits go.

use std::collections::BTreeMap;

use super::{put, u64_at};
use crate::page::VersionNumber;

/// A pair of words, as all that follows is written.
pub(crate) const PAIR_BYTES: usize = 16;
/// Most segments of a VAS whose commits have numbers of the VAS: they have to fit into a log's header.
pub const MEMBERS_MAX: usize = 80;
/// Of so many VASes the last number is known by name; of others no number is taken that one of them may
/// have had.
const MARKS_MAX: usize = 64;

/// A segment of a VAS, as a commit left it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The segment.
    pub segment: u64,
    /// Its version.
    pub version: VersionNumber,
    /// When that was made: a power cut may take it away, if only the commit was durable, and another one
    /// have its number later.
    pub time_ns: u64,
}

/// A commit, as one of a VAS: all segments that it changes say the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VasEntry {
    /// The VAS.
    pub vas: u64,
    /// Its number of the commit, higher than that of any before.
    pub number: u64,
    /// The versioned segments of the VAS, whether changed or not, and the version of each as of this
    /// commit. Never none, and at most [`MEMBERS_MAX`].
    pub members: Vec<Member>,
}

impl VasEntry {
    /// How many pairs it takes.
    pub(super) const fn pairs(members: usize) -> usize {
        if members == 0 { 0 } else { 1 + 2 * members }
    }

    pub(super) fn encode(&self, into: &mut [u8], at: usize) {
        put_pair(into, at, (self.vas, self.number));
        for (index, member) in self.members.iter().enumerate() {
            let at = at + (1 + 2 * index) * PAIR_BYTES;
            put_pair(into, at, (member.segment, member.version.0));
            put_pair(into, at + PAIR_BYTES, (member.time_ns, 0));
        }
    }

    pub(super) fn decode(from: &[u8], at: usize, members: usize) -> Option<VasEntry> {
        if members == 0 || members > MEMBERS_MAX {
            return None;
        }
        let (vas, number) = pair_at(from, at);
        let members = (0..members).map(|index| {
            let at = at + (1 + 2 * index) * PAIR_BYTES;
            let (segment, version) = pair_at(from, at);
            let (time_ns, _) = pair_at(from, at + PAIR_BYTES);
            Member { segment, version: VersionNumber(version), time_ns }
        });
        Some(VasEntry { vas, number, members: members.collect() })
    }
}

/// The highest numbers that commits of a segment have had, by VAS.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Marks {
    by_vas: BTreeMap<u64, u64>,
    /// None that is not among them had a higher one.
    others: u64,
}

impl Marks {
    /// How many bytes they take.
    pub(super) const BYTES_MAX: usize = (1 + MARKS_MAX) * PAIR_BYTES;

    /// The highest number that a VAS may have had here.
    #[must_use]
    pub fn of(&self, vas: u64) -> u64 {
        self.by_vas.get(&vas).copied().unwrap_or(self.others)
    }

    pub(crate) fn note(&mut self, entry: &VasEntry) {
        self.raise(entry.vas, entry.number);
        self.trim();
    }

    pub(crate) fn merge(&mut self, other: &Marks) {
        let all: Vec<u64> = self.by_vas.keys().chain(other.by_vas.keys()).copied().collect();
        all.into_iter().for_each(|vas| self.raise(vas, other.of(vas)));
        self.others = self.others.max(other.others);
        self.trim();
    }

    fn raise(&mut self, vas: u64, number: u64) {
        let last = self.of(vas);
        self.by_vas.insert(vas, last.max(number));
    }

    fn trim(&mut self) {
        while self.by_vas.len() > MARKS_MAX
            && let Some((&vas, &number)) = self.by_vas.iter().min_by_key(|(_, number)| **number)
        {
            self.by_vas.remove(&vas);
            self.others = self.others.max(number);
        }
    }

    pub(super) fn encode(&self, into: &mut [u8], at: usize) {
        put_pair(into, at, (self.by_vas.len() as u64, self.others));
        for (index, (vas, number)) in self.by_vas.iter().enumerate() {
            put_pair(into, at + (1 + index) * PAIR_BYTES, (*vas, *number));
        }
    }

    pub(super) fn decode(from: &[u8], at: usize) -> Option<Marks> {
        let (count, others) = pair_at(from, at);
        let count = usize::try_from(count).ok().filter(|count| *count <= MARKS_MAX)?;
        let pair = |index: usize| pair_at(from, at + index * PAIR_BYTES);
        let by_vas: BTreeMap<_, _> = (1..=count).map(pair).collect();
        // Each once, or it is not what was written.
        (by_vas.len() == count).then_some(Marks { by_vas, others })
    }
}

fn put_pair(into: &mut [u8], at: usize, (first, second): (u64, u64)) {
    put(into, at, &first.to_le_bytes());
    put(into, at + 8, &second.to_le_bytes());
}

fn pair_at(from: &[u8], at: usize) -> (u64, u64) {
    (u64_at(from, at), u64_at(from, at + 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(vas: u64, number: u64) -> VasEntry {
        VasEntry {
            vas,
            number,
            members: vec![Member { segment: 1, version: VersionNumber(2), time_ns: 3 }],
        }
    }

    #[test]
    fn no_number_is_forgotten_of_any_vas_however_many_there_are() {
        let mut marks = Marks::default();
        for vas in 1..=3 * MARKS_MAX as u64 {
            marks.note(&entry(vas, 1000 - vas));
        }
        for vas in 1..=3 * MARKS_MAX as u64 {
            assert!(marks.of(vas) >= 1000 - vas, "{vas}");
        }
        assert_eq!(marks.of(1), 999);
        let mut page = vec![0; Marks::BYTES_MAX];
        marks.encode(&mut page, 0);
        assert_eq!(Marks::decode(&page, 0), Some(marks));
    }

    #[test]
    fn merged_marks_have_the_higher_number_of_each() {
        let (mut one, mut other) = (Marks::default(), Marks::default());
        one.note(&entry(1, 10));
        one.note(&entry(2, 5));
        other.note(&entry(1, 7));
        other.note(&entry(3, 8));
        one.merge(&other);
        assert_eq!([1, 2, 3, 4].map(|vas| one.of(vas)), [10, 5, 8, 0]);
    }
}
