//! Making an old version the newest again.

use abi::objects::{SegId, VasId};
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::log::entry::{MEMBERS_MAX, Member, VasEntry};
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::page::Page;
use spacejmp_versions::segment::{Part, RollbackTo, append_together};
use spacejmp_versions::{Commit, PageIndex, Segment, VersionNumber, VersionsError};

use crate::format::error::{Busy, Object, StoreError};
use crate::format::name::Name;
use crate::format::record::VasRecord;
use crate::objects::fresh::now_ns;
use crate::objects::kept::content::{HeldAlone, OpenContent};
use crate::objects::kept::names::VersionChoice;
use crate::objects::kept::vas::MemberHeld;
use crate::objects::lock::Exclusive;
use crate::objects::newest::root_of;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// What a VAS of several versioned segments goes back to.
#[derive(Debug)]
pub enum VasTarget<'a> {
    /// A tag of the VAS.
    Tag(&'a str),
    /// A number of the VAS.
    Number {
        /// It.
        number: u64,
        /// What its segments had then ([`Store::vas_version`]).
        at: &'a [(SegId, u64)],
    },
}

/// The same of one segment.
enum Before {
    /// What this kept version has.
    Kept(Box<SegmentFile>),
    /// A version of its own.
    Number(u64),
}

/// What is noted as the program that made the new version.
const NOTE: &[u8] = b"spacejmp rollback";

impl Store {
    /// Makes the content of an old version of a segment its newest, under the next number, durably, in
    /// constant time; VMs that have it attached see it when they enter next. Returns the number. The
    /// caller holds the segment's lock alone.
    ///
    /// # Errors
    /// [`StoreError::NoTag`]; [`StoreError::Busy`] for a version with another root object while a VM has
    /// the segment attached, whose program knows this one; [`StoreError::NoVersion`] for a version that
    /// is gone; [`StoreError::Denied`], [`StoreError::NotOwner`] to go back to a tag that links must be
    /// made of; [`StoreError::Versions`]; the host's. Then it is as it was.
    pub fn rollback_segment(
        &self,
        sid: SegId,
        to: &VersionChoice,
        held: HeldAlone,
    ) -> Result<u64, StoreError> {
        self.rollback_one(sid, to, None, held)
    }

    /// The same with the only versioned segment of a VAS, which gets a number of the VAS.
    ///
    /// # Errors
    /// As [`Store::rollback_segment`].
    pub fn rollback_only_segment(
        &self,
        vid: VasId,
        sid: SegId,
        to: &VersionChoice,
        held: HeldAlone,
    ) -> Result<u64, StoreError> {
        self.rollback_one(sid, to, Some(vid), held)
    }

    fn rollback_one(
        &self,
        sid: SegId,
        to: &VersionChoice,
        of: Option<VasId>,
        held: HeldAlone,
    ) -> Result<u64, StoreError> {
        let lock = self.lock_exclusive()?;
        let vas = of.map(|vid| self.vas_by_id(vid, &lock)).transpose()?;
        let segment = self.open_present(sid, &lock)?;
        segment.check_versioned()?;
        segment.check_writable()?;
        let kept = self.kept_with(sid, &lock)?;
        let found = kept.iter().find(|kept| match to {
            VersionChoice::Number(number) => kept.number == *number,
            VersionChoice::Tag(tag) => kept.tag == *tag,
        });
        let tag = match (found, to) {
            (Some(kept), _) => Some(self.open_by_id(kept.sid, &lock)?),
            (None, VersionChoice::Number(_)) => None,
            (None, VersionChoice::Tag(tag)) => {
                let (object, tag) = (Object::SegmentName(segment.name().clone()), tag.clone());
                return Err(StoreError::NoTag { object, tag });
            }
        };
        let mut content = self.open_content(&segment, held, &lock)?;
        self.check_same_root(&segment, &content.versions, to, tag.as_ref())?;
        // Of a tag that has been taken from files with numbers of their own, behind that.
        let from = match (found, to) {
            (Some(kept), _) => kept.number,
            (None, VersionChoice::Number(number)) => *number,
            (None, VersionChoice::Tag(_)) => 0,
        };
        let before = content.versions.appended().0.max(from);
        let version =
            VersionNumber(before).next().ok_or(VersionsError::LastVersion(VersionNumber(before)));
        let version = version.map_err(segment.of_versions())?;
        let entry = vas.and_then(|vas| {
            let last = content.versions.last_number(vas.vid.raw());
            let number = last.max(before).max(vas.numbers_after).checked_add(1)?;
            let member = Member { segment: sid.raw(), version, time_ns: now_ns() };
            Some(VasEntry { vas: vas.vid.raw(), number, members: vec![member] })
        });
        let note = |facts: &mut VersionFacts| {
            facts.note = NOTE.to_vec();
            if let Some(member) = entry.as_ref().and_then(|entry| entry.members.first()) {
                facts.time_ns = member.time_ns;
            }
            facts.entry = entry.clone();
        };
        let by_number = match to {
            VersionChoice::Number(number) => {
                Some(content.versions.rollback(&RollbackTo::Version(VersionNumber(*number)), note))
            }
            VersionChoice::Tag(_) => None,
        };
        let rolled = match (by_number, &tag) {
            // Its own has it no more.
            (None | Some(Err(VersionsError::Gone { .. })), Some(tag)) => {
                segment.check_linkable()?;
                let folder = HostFolder::from_fd(tag.versions_folder()?);
                content.versions.rollback(&RollbackTo::Tag(&folder), note)
            }
            (Some(rolled), _) => rolled,
            (None, None) => return Err(StoreError::NotFound(Object::Segment(sid))),
        };
        let version = rolled.map_err(|error| self.of_versions_of(&segment, error, &lock))?;
        content.settle()?;
        Ok(version.0)
    }

    /// Makes what a VAS had before the newest of its versioned segments, each under its next number, durably:
    /// one commit of all of them, with a number of the VAS. That is what a tag of the VAS keeps, or the versions
    /// that `to` says for a number. VMs that have them attached see it when they enter
    /// next. Returns the segments and their numbers. The caller holds the locks of all of them alone.
    ///
    /// # Errors
    /// [`StoreError::NoTag`], [`StoreError::NotThen`] if the tag or number has not all of them; as
    /// [`Store::rollback_segment`]; [`StoreError::Versions`] for more changes than a commit of several
    /// segments can have. Then all of them are as they were.
    pub fn rollback_vas(
        &self,
        vid: VasId,
        to: &VasTarget<'_>,
        members: &[MemberHeld],
    ) -> Result<Vec<(Name, u64)>, StoreError> {
        let lock = self.lock_exclusive()?;
        let vas = self.vas_by_id(vid, &lock)?;
        let mut segments = Vec::new();
        for listing in &vas.segments {
            let segment = self.open_present(listing.sid, &lock)?;
            if !segment.is_versioned() || segment.header().kept.is_some() {
                continue;
            }
            let member = members.iter().find(|member| member.sid == segment.sid());
            let (object, why) = (Object::VasName(vas.name.clone()), Busy::Changed);
            let member = member.ok_or(StoreError::Busy { object, why })?;
            let before = self.member_before(&vas, &segment, to, &lock)?;
            segments.push((segment, before, member.held));
        }
        if segments.is_empty() {
            return Err(StoreError::NoVersions(vas.name));
        }
        let mut contents = Vec::new();
        for (segment, before, held) in &segments {
            let mut content = self.open_content(segment, *held, &lock)?;
            match before {
                Before::Kept(tag) => {
                    self.check_same_root(segment, &content.versions, &BY_TAG, Some(tag))?;
                }
                Before::Number(number) => {
                    let to = VersionChoice::Number(*number);
                    self.check_same_root(segment, &content.versions, &to, None)?;
                }
            }
            // So that what is taken back, if it has to be, is this change alone.
            content.versions.sync().map_err(segment.of_versions())?;
            contents.push(content);
        }
        let time_ns = now_ns();
        let entry = next_entry(&vas, &segments, &contents, time_ns);
        let mut changes = Vec::new();
        for ((segment, before, _), content) in segments.iter().zip(&contents) {
            let kept;
            let (there, version) = match before {
                Before::Kept(tag) => {
                    kept = self.newest(tag)?;
                    (kept.content(), VersionNumber(kept.number()))
                }
                Before::Number(number) => (&content.versions, VersionNumber(*number)),
            };
            let pages = content.versions.changes_to(there, version, segments.len());
            let pages = pages.map_err(|error| self.of_versions_of(segment, error, &lock))?;
            let said = there.facts(version).cloned().unwrap_or_default();
            let (note, pid, entry) = (NOTE.to_vec(), std::process::id(), entry.clone());
            changes.push((VersionFacts { note, time_ns, pid, entry, ..said }, pages));
        }
        commit_together(&segments, &mut contents, &changes)?;
        let names = segments.iter().map(|(segment, ..)| segment.name().clone());
        let made = contents.into_iter().map(|content| content.settle().map(|version| version.0));
        // Whatever comes of the first, the others are told of as well: they are one commit.
        let made: Vec<_> = names.zip(made.collect::<Vec<_>>()).collect();
        made.into_iter().map(|(name, number)| Ok((name, number?))).collect()
    }

    /// What a segment of a VAS goes back to.
    fn member_before(
        &self,
        vas: &VasRecord,
        segment: &SegmentFile,
        to: &VasTarget<'_>,
        lock: &Exclusive,
    ) -> Result<Before, StoreError> {
        match to {
            VasTarget::Tag(tag) => {
                let kept = self.kept_with(segment.sid(), lock)?;
                let of_vas = format!("{}@{tag}", vas.name.as_str());
                let kept = kept.into_iter().find(|kept| kept.tag == of_vas);
                let (object, tag) = (Object::VasName(vas.name.clone()), (*tag).to_owned());
                let kept = kept.ok_or(StoreError::NoTag { object, tag })?;
                Ok(Before::Kept(Box::new(self.open_by_id(kept.sid, lock)?)))
            }
            VasTarget::Number { number, at } => {
                let found = at.iter().find(|(sid, _)| *sid == segment.sid());
                let (vas, segment) = (vas.name.clone(), segment.name().clone());
                let found = found.ok_or(StoreError::NotThen { vas, number: *number, segment })?;
                Ok(Before::Number(found.1))
            }
        }
    }

    /// Refuses a version with another root object while programs have the segment attached: they would
    /// use what they know of the present one, its address and type, on content that it is not of.
    fn check_same_root(
        &self,
        segment: &SegmentFile,
        versions: &Segment<HostFolder>,
        to: &VersionChoice,
        tag: Option<&SegmentFile>,
    ) -> Result<(), StoreError> {
        let then = match (to, tag) {
            (VersionChoice::Number(number), _) if versions.has(VersionNumber(*number)) => {
                versions.facts(VersionNumber(*number)).map(root_of)
            }
            (_, Some(tag)) => self.newest(tag)?.facts().map(root_of),
            _ => None,
        };
        let now = versions.facts(versions.appended()).map(root_of);
        if then.is_none() || then == now {
            return Ok(());
        }
        self.check_unattached(segment).map_err(|error| match error {
            StoreError::Busy { why: Busy::Attached(holders), .. } => StoreError::Busy {
                object: Object::SegmentName(segment.name().clone()),
                why: Busy::OtherRoot(holders),
            },
            other => other,
        })
    }
}

/// That what is gone back to is not named by a number.
const BY_TAG: VersionChoice = VersionChoice::Tag(String::new());

/// What a commit of all versioned segments of a VAS is for the VAS.
fn next_entry(
    vas: &VasRecord,
    segments: &[(SegmentFile, Before, HeldAlone)],
    contents: &[OpenContent<'_>],
    time_ns: u64,
) -> Option<VasEntry> {
    let (vas, after) = (vas.vid.raw(), vas.numbers_after);
    let last = contents.iter().map(|it| it.versions.last_number(vas).max(it.versions.appended().0));
    let members = segments.iter().zip(contents).map(|((segment, ..), content)| {
        let version = content.versions.appended().next()?;
        Some(Member { segment: segment.sid().raw(), version, time_ns })
    });
    let members: Vec<_> = members.collect::<Option<_>>()?;
    let number = last.max()?.max(after).checked_add(1)?;
    (members.len() <= MEMBERS_MAX).then_some(VasEntry { vas, number, members })
}

/// One commit of all of them, durable; or all are as they were.
fn commit_together(
    segments: &[(SegmentFile, Before, HeldAlone)],
    contents: &mut [OpenContent<'_>],
    changes: &[(VersionFacts, Vec<(PageIndex, Page)>)],
) -> Result<(), StoreError> {
    let commits = changes.iter().map(|(facts, pages)| Commit {
        facts: facts.clone(),
        pages: pages.iter().map(|(page, content)| (*page, content)).collect(),
    });
    let commits: Vec<_> = commits.collect();
    let before: Vec<_> = contents.iter().map(|content| content.versions.appended()).collect();
    let parts = contents.iter_mut().zip(&commits);
    let mut parts: Vec<_> =
        parts.map(|(content, commit)| Part { segment: &mut content.versions, commit }).collect();
    // An error is of one of them, and names its file; which one is no matter to who can do something.
    let Some((first, ..)) = segments.first() else { return Ok(()) };
    let mut done = append_together(&mut parts).map(drop).map_err(first.of_versions());
    for ((segment, ..), content) in segments.iter().zip(&mut *contents) {
        done = done.and_then(|()| content.versions.sync().map(drop).map_err(segment.of_versions()));
    }
    for (content, before) in contents.iter_mut().zip(before) {
        match &done {
            // From here on it is one commit whatever happens. Who opens one of them next need not look at
            // the others then.
            Ok(()) => drop(content.versions.settle()),
            // Should this fail, whoever has the lock next does it first.
            Err(_) => drop(content.versions.take_back(before)),
        }
    }
    done
}
