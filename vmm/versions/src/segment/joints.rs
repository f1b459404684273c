//! What a segment remembers of commits that were of several segments.
//!
//! Two questions are answered from it: whether a version is part of a certain commit (who recovers
//! another segment asks), and which version of another segment belongs to one of this (a reader that sees
//! the one has to see the other).
//!
//! The records in the logs say it, and go with them. Then a *memo* stays: an empty file whose name says it
//! all, so that no part of it can be missing. Of each other segment only the last one counts: a
//! version of it that has a later one behind it was decided long ago.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use super::refresh::{check_not_gone, with_root};
use super::stack::Stack;
use super::{Segment, failed};
use crate::disk::Folder;
use crate::error::{Result, VersionsError};
use crate::log::record::Joint;
use crate::log::scan::Content;
use crate::page::VersionNumber;

/// A commit of this segment and another one, whose record is in no log any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Memo {
    other: u64,
    theirs: VersionNumber,
    ours: VersionNumber,
    id: u64,
}

impl Memo {
    fn file_name(self) -> String {
        let Memo { other, theirs, ours, id } = self;
        format!("joint.{other:016x}.{:016x}.{:016x}.{id:016x}", theirs.0, ours.0)
    }

    fn of_file_name(name: &str) -> Option<Memo> {
        let mut words = name.strip_prefix("joint.")?.split('.');
        let mut word = || u64::from_str_radix(words.next()?, 16).ok();
        let (other, theirs, ours) = (word()?, VersionNumber(word()?), VersionNumber(word()?));
        let memo = Memo { other, theirs, ours, id: word()? };
        (memo.file_name() == name).then_some(memo)
    }
}

/// What another segment has of a commit of this one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Partner {
    /// The version that the commit makes of it.
    pub version: VersionNumber,
    /// The commit: files that came from elsewhere have another one under that number, or none.
    pub id: u64,
}

/// See the module.
#[derive(Clone, Default, Debug)]
pub(super) struct Joints {
    by_version: BTreeMap<VersionNumber, Joint>,
    memos: Vec<Memo>,
    /// By the other segment and our version: theirs.
    partners: BTreeMap<(u64, VersionNumber), Partner>,
}

impl Joints {
    /// A version is part of a commit.
    pub(super) fn note(&mut self, version: VersionNumber, joint: Joint) {
        for (other, theirs) in &joint.others {
            let partner = Partner { version: *theirs, id: joint.id };
            self.partners.insert((*other, version), partner);
        }
        self.by_version.insert(version, joint);
    }

    pub(super) fn of(&self, version: VersionNumber) -> Option<&Joint> {
        self.by_version.get(&version)
    }

    /// Whether `version` is part of the commit `id`.
    pub(super) fn has(&self, version: VersionNumber, id: u64) -> bool {
        let memo = |memo: &Memo| (memo.ours, memo.id) == (version, id);
        self.of(version).is_some_and(|joint| joint.id == id) || self.memos.iter().any(memo)
    }

    pub(super) fn forget_behind(&mut self, last: VersionNumber) {
        self.by_version.retain(|version, _| *version <= last);
        self.partners.retain(|(_, version), _| *version <= last);
    }

    /// Takes in the memos that a folder has; all its names.
    pub(super) fn read_memos<D: Folder>(&mut self, folder: &D) -> Result<Vec<String>> {
        let names = folder.names().map_err(|source| failed("list", ".", source))?;
        self.memos.clear();
        names.iter().filter_map(|name| Memo::of_file_name(name)).for_each(|memo| self.add(memo));
        Ok(names)
    }

    fn add(&mut self, memo: Memo) {
        let partner = Partner { version: memo.theirs, id: memo.id };
        self.partners.insert((memo.other, memo.ours), partner);
        self.memos.push(memo);
    }

    /// Names of memos that are of no use any more.
    pub(super) fn old_memos(&self) -> Vec<String> {
        let is_old = |memo: &&Memo| {
            let last = VersionNumber(u64::MAX);
            let newest = self.partners.range((memo.other, memo.ours)..=(memo.other, last));
            newest.count() > 1
        };
        self.memos.iter().filter(is_old).map(|memo| memo.file_name()).collect()
    }

    /// The memos that are due when all that is known is what `newer` knows.
    fn dropped(&self, newer: &Joints) -> Vec<Memo> {
        let mut memos = BTreeMap::new();
        for (&ours, joint) in &self.by_version {
            if newer.by_version.contains_key(&ours) {
                continue;
            }
            for &(other, theirs) in &joint.others {
                let later = newer.partners.range((other, ours)..=(other, VersionNumber(u64::MAX)));
                if later.count() == 0 {
                    memos.insert(other, Memo { other, theirs, ours, id: joint.id });
                }
            }
        }
        memos.into_values().collect()
    }
}

impl<D: Folder> Segment<D> {
    /// The version of another segment that belongs to a version of this one: who sees this one must not
    /// see an older one of the other.
    #[must_use]
    pub fn partner(&self, other: u64, version: VersionNumber) -> Option<Partner> {
        let joints = &self.stack.joints;
        let before = joints.partners.range((other, VersionNumber(0))..=(other, version));
        before.map(|(_, theirs)| *theirs).next_back()
    }

    /// Takes in the version of this segment that another one says belongs to what it shows, and all before
    /// it. `false`, and nothing has changed, if this one has no such version: it was restored
    /// from a backup, or made anew, and what the other one says is about files that are gone.
    ///
    /// # Errors
    /// As [`Segment::refresh`].
    pub fn take_in_part(&mut self, part: Partner) -> Result<bool> {
        let Partner { version, id } = part;
        if self.appended() >= version {
            return Ok(self.stack.joints.has(version, id));
        }
        // On the side: what lies behind the last version that was made known may still be taken back.
        let has_it = with_root(&*self.root_file, |root| {
            check_not_gone(root, version)?;
            let mut stack = Stack::open(&self.folder, root, &self.known(), Content::Trusted)?;
            stack.read_on(Some(version), Content::Trusted)?;
            match stack.check_reached(Some(version)) {
                Err(VersionsError::Damaged { .. }) => Ok(false),
                reached => reached.map(|()| stack.joints.has(version, id)),
            }
        })?;
        if has_it {
            self.refresh(version)?;
        }
        Ok(has_it)
    }

    /// All segments that there were commits with.
    pub fn partners(&self) -> impl Iterator<Item = u64> + '_ {
        let mut last = None;
        let others = self.stack.joints.partners.keys().map(|(other, _)| *other);
        others.filter(move |other| last.replace(*other) != Some(*other))
    }

    /// Writes down what `stack`, which is to take the place of this one, does not know any more:
    /// durably, before anything goes.
    pub(super) fn keep_memos(&self, stack: &mut Stack<D::File>) -> Result<()> {
        let memos = self.stack.joints.dropped(&stack.joints);
        if memos.is_empty() {
            return Ok(());
        }
        for memo in memos {
            let name = memo.file_name();
            match self.folder.create(&name) {
                Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                    return Err(failed("create", &name, source));
                }
                _ => stack.joints.add(memo),
            }
        }
        self.folder.sync().map_err(|source| failed("sync", ".", source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memo_is_read_from_its_name_and_other_names_are_none() {
        let (theirs, ours) = (VersionNumber(3), VersionNumber(u64::MAX));
        let memo = Memo { other: 0xabc, theirs, ours, id: 1 << 63 };
        let name = memo.file_name();
        assert_eq!(Memo::of_file_name(&name), Some(memo));
        for other in
            ["joint", "joint.", "joint.1.2.3.4", &name[..name.len() - 1], &format!("{name}.0")]
        {
            assert_eq!(Memo::of_file_name(other), None, "{other}");
        }
    }
}
