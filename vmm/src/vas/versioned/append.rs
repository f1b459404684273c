//! How changes become versions: of one segment, or of several as one commit.
//!
//! A commit of several is durable before anybody sees it, whatever the durability of the segments: so
//! nothing is ever appended behind one that a power cut could take away in one segment and leave in
//! another.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard};

use abi::objects::Durability;
use abi::{PAGE_SIZE, SegId};
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::page::Page;
use spacejmp_versions::segment::{Part, append_together};
use spacejmp_versions::{Commit, LargeCommit, PageIndex, VersionNumber, VersionsError};

use super::segment::{Log, lock};
use super::sync;
use crate::store::SegmentFile;
use crate::vas::VasError;
use crate::vm::windows::PinnedRange;

/// What a thread has changed in one segment.
pub(super) struct Change {
    pub(super) sid: SegId,
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) file: SegmentFile,
    pub(super) durability: Durability,
    pub(super) base: VersionNumber,
    pub(super) facts: VersionFacts,
    pub(super) pages: Vec<(PageIndex, PinnedRange)>,
}

/// From so many pages on a change is written page by page, to a layer of its own, and never all in
/// memory a second time: somewhat less than half a log holds.
const LARGE_PAGES: usize = 8000;

fn content(pinned: &PinnedRange) -> Page {
    let mut page = [0; PAGE_SIZE as usize];
    pinned.range().read(&mut page).expect("a frame has a page's length");
    page
}

impl Change {
    fn commit<'a>(&self, pages: &'a [(PageIndex, Page)]) -> Commit<'a> {
        let pages = pages.iter().map(|(page, content)| (*page, content)).collect();
        Commit { facts: self.facts.clone(), pages }
    }

    fn write(&self, log: &mut Log) -> Result<VersionNumber, VersionsError> {
        if self.pages.len() < LARGE_PAGES {
            let pages = self.contents();
            return log.append(&self.commit(&pages));
        }
        let mut large = LargeCommit::begin(log)?;
        let mut pages = self.pages.iter();
        if let Err(error) = pages.try_for_each(|(page, at)| large.write(*page, &content(at))) {
            large.abort(log);
            return Err(error);
        }
        large.finish(log, self.facts.clone())
    }

    /// Makes sure that the log can take it.
    fn make_ready(&self, log: &mut Log) -> Result<(), VasError> {
        sync::take_note(log, &self.file)?;
        // Since an earlier failure.
        if log.has_failed() {
            sync::renew(log, &self.file, self.base)?;
        }
        if log.appended() != self.base {
            // What the thread began with is lost.
            return Err(VasError::Lost { sid: self.sid });
        }
        Ok(())
    }

    /// Its pages, in memory a second time.
    fn contents(&self) -> Vec<(PageIndex, Page)> {
        self.pages.iter().map(|(page, at)| (*page, content(at))).collect()
    }

    /// Makes it a version, which a power cut leaves if the segment's commits wait for that. On failure
    /// nothing of it is to be seen.
    fn append(&self) -> Result<VersionNumber, VasError> {
        let appended = {
            let mut log = lock(&self.log);
            self.make_ready(&mut log)?;
            self.write(&mut log)
        };
        let done = appended.and_then(|version| {
            // Others may look at older versions meanwhile.
            if self.durability == Durability::Each {
                sync::sync(&self.log, &self.file)?;
            }
            Ok(version)
        });
        if done.is_err() {
            // What was appended must not be found by a later recovery. Should this fail as well, the
            // next who has the lock does it first.
            let _ = sync::renew(&mut lock(&self.log), &self.file, self.base);
        }
        Ok(done?)
    }
}

/// Makes changes a version of each segment, all of them or none: as durable as they have to be before others
/// see them. The thread holds the locks of all these segments.
pub(super) fn append(changes: &[Change]) -> Result<Vec<VersionNumber>, VasError> {
    if let [change] = changes {
        return Ok(vec![change.append()?]);
    }
    let done = append_all(changes);
    if done.is_err() {
        for change in changes {
            // Should this fail, the next who has the lock does it first.
            let _ = sync::take_back(&mut lock(&change.log), &change.file, change.base);
        }
    }
    done
}

fn append_all(changes: &[Change]) -> Result<Vec<VersionNumber>, VasError> {
    let versions = {
        // In the order of their numbers, so that two threads do not wait for each other.
        let mut logs: Vec<MutexGuard<'_, Log>> =
            changes.iter().map(|change| lock(&change.log)).collect();
        for (change, log) in changes.iter().zip(&mut logs) {
            change.make_ready(log)?;
            log.check_together(change.pages.len(), changes.len())?;
        }
        let contents: Vec<_> = changes.iter().map(Change::contents).collect();
        let commits = changes.iter().zip(&contents).map(|(change, pages)| change.commit(pages));
        let commits: Vec<_> = commits.collect();
        let parts = logs.iter_mut().zip(&commits);
        let mut parts: Vec<_> =
            parts.map(|(log, commit)| Part { segment: &mut **log, commit }).collect();
        append_together(&mut parts)?
    };
    // Others may look at older versions meanwhile.
    for change in changes {
        sync::sync(&change.log, &change.file)?;
    }
    Ok(versions)
}
