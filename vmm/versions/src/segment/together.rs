//! Commits of several segments.

use super::begin::salt;
use super::{Commit, Segment};
use crate::disk::Folder;
use crate::error::{Result, VersionsError};
use crate::log::entry::MEMBERS_MAX;
use crate::log::record::{Joint, Sizes};
use crate::page::{PAGE_BYTES, VersionNumber};

/// What a commit of several segments changes in one of them.
#[derive(Debug)]
pub struct Part<'a, D: Folder> {
    /// The segment, whose lock the caller holds.
    pub segment: &'a mut Segment<D>,
    /// The changes.
    pub commit: &'a Commit<'a>,
}

/// Appends a version to each of several segments, as one commit: after a kill or a power cut, all of
/// them have it or none. Returns the versions, in order. The caller holds all locks until each was synced
/// ([`Segment::sync_ticket`], [`Segment::sync`]), and makes none of the versions known before.
///
/// # Errors
/// As [`Segment::append`]; [`VersionsError::TooLargeTogether`]. Then, and if one of the syncs fails,
/// [`Segment::take_back`] is due in each of them.
pub fn append_together<D: Folder>(parts: &mut [Part<'_, D>]) -> Result<Vec<VersionNumber>> {
    let mut versions = Vec::new();
    for part in &*parts {
        part.segment.check_commit(part.commit)?;
        let (newest, segment) = (part.segment.appended(), part.segment.stack.root.segment);
        versions.push((segment, newest.next().ok_or(VersionsError::LastVersion(newest))?));
    }
    // What may fail for want of space does so before anything is written.
    for part in &mut *parts {
        let members = part.commit.facts.members();
        let sizes = part.segment.check_part(part.commit.pages.len(), versions.len(), members)?;
        part.segment.make_place(sizes.record, versions.len() > 1, members > 0)?;
    }
    let id = salt();
    for (index, part) in parts.iter_mut().enumerate() {
        let mut others = versions.clone();
        others.remove(index);
        let joint = (!others.is_empty()).then_some(Joint { id, others });
        part.segment.write_record(part.commit, joint)?;
    }
    Ok(versions.into_iter().map(|(_, version)| version).collect())
}

impl<D: Folder> Segment<D> {
    /// Checks that a part of a commit of so many segments fits into a log; returns how much it takes.
    ///
    /// # Errors
    /// [`VersionsError::TooLargeTogether`].
    pub fn check_together(&self, pages: usize, segments: usize) -> Result<Sizes> {
        self.check_part(pages, segments, MEMBERS_MAX)
    }

    fn check_part(&self, pages: usize, segments: usize, members: usize) -> Result<Sizes> {
        let others = segments.saturating_sub(1) as u64;
        let most = self.limits.log_bytes - PAGE_BYTES as u64;
        let sizes = Sizes::of(pages as u64, others, members).filter(|sizes| sizes.record <= most);
        // A page of a head has 240 entries at least.
        let limit = most / PAGE_BYTES as u64 * 240 / 241 - 1;
        sizes.ok_or(VersionsError::TooLargeTogether { pages, limit })
    }

    /// Takes back the newest version if it is part of a commit of several segments that has failed,
    /// durable or not: nobody knows of it. The caller holds the lock that it had at the commit.
    ///
    /// # Errors
    /// The host's. Then nothing is appended before [`Segment::renew`], which forgets it as well.
    pub fn take_back(&mut self, before: VersionNumber) -> Result<()> {
        if let Some(position) = self.stack.tail.take().filter(|at| at.version == before) {
            self.stack.end = position;
            if self.stack.durable.version > before {
                self.stack.durable = position;
            }
            self.stack.forget_behind(before);
            self.has_failed = true;
        }
        if self.has_failed { self.renew(before).map(drop) } else { Ok(()) }
    }

    /// Whether the newest version is part of a commit of several segments, and nothing says yet that it
    /// was decided.
    #[must_use]
    pub fn ends_together(&self) -> bool {
        let newest = self.appended();
        newest > self.stack.current().header.after && self.stack.joints.of(newest).is_some()
    }

    /// Whether `other` had to be looked at, to say whether the last record counts, when the segment was
    /// opened: whoever opens it next looks again, unless it was opened to write.
    #[must_use]
    pub fn asks(&self, other: u64) -> bool {
        self.stack.asked.contains(&other)
    }

    /// Begins a new log if [`Segment::ends_together`]: then whoever opens the segment has no other one to
    /// look at. The commit was reported durable.
    ///
    /// # Errors
    /// The host's; newer versions elsewhere that were not taken in.
    pub fn settle(&mut self) -> Result<()> {
        self.check_writable()?;
        if self.ends_together() { self.next_log() } else { Ok(()) }
    }
}
