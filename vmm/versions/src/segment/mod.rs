//! A versioned segment: its home file, its logs, and which page of which version lies where.
//!
//! - `open`: making one, and what recovery makes of what a crash left
//! - `commit`: appending, syncing, the next log, and going on after a failure
//! - `sync`: making versions durable, without keeping others from appending
//! - `refresh`: sharing the files with other VMs
//! - `logs`: what is known of the logs' content
//! - `checkpoint`: bringing the home file up to date, so that logs can go
//!
//! *Appended* is the newest version in the log, *durable* the newest that a power cut leaves. Who may
//! see which is the caller's business. So is the lock: who appends, renews or makes a checkpoint has it,
//! and has refreshed since it got it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::log::LOG_BYTES_MAX;
use crate::log::header::LogId;
use crate::log::record::VersionFacts;
use crate::page::{PAGE_BYTES, Page, PageIndex, VersionNumber};

mod checkpoint;
mod commit;
mod logs;
mod open;
mod refresh;
mod sync;
#[cfg(test)]
mod tests;

use logs::Logs;
pub use sync::SyncTicket;

/// The file with the segment's layout: page n at n times 4 KiB.
pub const HOME_FILE_NAME: &str = "home";

/// From so many logs on a checkpoint is due however short they are: each opening to write begins one.
const LOGS_WORTH_READING: usize = 16;

/// How large logs get.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of a log.
    pub log_bytes: u64,
    /// Bytes that are written with zeros ahead of the records. A commit into a file that has its
    /// length and its blocks already syncs data alone; blocks that were only reserved would be
    /// converted at the sync, which costs the same as growing.
    pub ahead_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { log_bytes: LOG_BYTES_MAX, ahead_bytes: 1 << 20 }
    }
}

/// What a commit changes.
#[derive(Clone, Debug, Default)]
pub struct Commit<'a> {
    /// What the version says besides its pages.
    pub facts: VersionFacts,
    /// The changed pages, each once.
    pub pages: Vec<(PageIndex, &'a Page)>,
}

/// Where a page of a version is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// In a log's file.
    Log(LogId, u64),
    /// In the home file, at its own offset.
    Home(u64),
    /// Nowhere: it is all zeros.
    Zero,
}

impl Source {
    /// The log that the page is in, if it is in one.
    #[must_use]
    pub fn log(self) -> Option<LogId> {
        match self {
            Source::Log(id, _) => Some(id),
            Source::Home(_) | Source::Zero => None,
        }
    }
}

/// A versioned segment, open.
#[derive(Debug)]
pub struct Segment<D: Folder> {
    folder: D,
    limits: Limits,
    root_file: Arc<D::File>,
    home: D::File,
    /// As it was after the last checkpoint that is known. What is behind it lies in logs.
    home_bytes: u64,
    logs: Logs<D::File>,
    /// The oldest version that can be read. A checkpoint may have ended halfway: then the home file
    /// has pages of versions that it was not applied up to.
    oldest: VersionNumber,
    has_failed: bool,
    /// Whether the root record that counts would be there after a power cut: who wrote it may have
    /// been killed before its sync.
    is_root_durable: bool,
}

impl<D: Folder> Segment<D> {
    /// The newest version in the log, durable or not.
    #[must_use]
    pub fn appended(&self) -> VersionNumber {
        self.logs.end.version
    }

    /// The newest version that a power cut leaves.
    #[must_use]
    pub fn durable(&self) -> VersionNumber {
        self.logs.durable.version
    }

    /// The oldest version that can be read.
    #[must_use]
    pub fn oldest(&self) -> VersionNumber {
        self.oldest
    }

    /// Whether a write or a sync has failed, and [`Segment::renew`] is due.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether the logs have become long enough for a checkpoint to be worthwhile: opening reads all
    /// of them, and a root record names only so many.
    #[must_use]
    pub fn checkpoint_is_due(&self) -> bool {
        let bytes: u64 = self.logs.open.iter().map(|log| log.prepared).sum();
        bytes > self.limits.log_bytes || self.logs.open.len() >= LOGS_WORTH_READING
    }

    /// What a version says besides its pages; `None` for one that is gone or not there yet.
    #[must_use]
    pub fn facts(&self, version: VersionNumber) -> Option<&VersionFacts> {
        self.logs.facts(version)
    }

    /// What the next version says unless its commit changes it: size and root object as the newest
    /// has them, this process, this moment, no note.
    #[must_use]
    pub fn next_facts(&self) -> VersionFacts {
        let newest = self.facts(self.appended()).cloned().unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        VersionFacts { time_ns, pid: std::process::id(), note: Vec::new(), ..newest }
    }

    /// The versions since the last checkpoint, that one included, rising: each with how many pages it
    /// has changed. Of the checkpoint's own that is not known any more, and 0.
    pub fn history(
        &self,
    ) -> impl DoubleEndedIterator<Item = (VersionNumber, &VersionFacts, usize)> {
        self.logs.history()
    }

    /// Where a page of a version is.
    #[must_use]
    pub fn locate(&self, page: PageIndex, version: VersionNumber) -> Source {
        if let Some(newest) = self.logs.newest(page, version) {
            return Source::Log(newest.log, newest.offset);
        }
        let end = |offset: u64| offset.checked_add(PAGE_BYTES as u64);
        let fits = |offset: &u64| end(*offset).is_some_and(|end| end <= self.home_bytes);
        page.offset().filter(fits).map_or(Source::Zero, Source::Home)
    }

    /// Those of some pages that lie in logs, rising, each at its newest at or below `version`, with
    /// its place there. Of the others the home file has what lies below [`Segment::home_bytes`], and
    /// the rest are zeros.
    pub fn in_logs(
        &self,
        pages: Range<PageIndex>,
        version: VersionNumber,
    ) -> impl Iterator<Item = (PageIndex, LogId, u64)> {
        let found = self.logs.newest_in(pages, version);
        found.map(|(page, placed)| (page, placed.log, placed.offset))
    }

    /// The pages that changed behind version `after`, up to `up_to`, rising. `None` if versions
    /// between them went with a checkpoint, or are not there yet: then any page may have changed.
    #[must_use]
    pub fn changed_between(
        &self,
        after: VersionNumber,
        up_to: VersionNumber,
    ) -> Option<BTreeSet<PageIndex>> {
        self.logs.changed_between(after, up_to)
    }

    /// Bytes of the home file that count, as of the last checkpoint that is known.
    #[must_use]
    pub fn home_bytes(&self) -> u64 {
        self.home_bytes
    }

    /// The home file.
    #[must_use]
    pub fn home_file(&self) -> &D::File {
        &self.home
    }

    /// A log's file; `None` when a checkpoint has brought all of it to the home file.
    #[must_use]
    pub fn log_file(&self, id: LogId) -> Option<&D::File> {
        self.logs.find(id).map(|log| &log.file.file)
    }

    /// A page of a version.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&self, page: PageIndex, version: VersionNumber) -> Result<Page> {
        let mut content = [0; PAGE_BYTES];
        match self.locate(page, version) {
            Source::Zero => {}
            Source::Home(offset) => self
                .home
                .read_at(&mut content, offset)
                .map_err(|source| failed("read", HOME_FILE_NAME, source))?,
            Source::Log(id, offset) => {
                let missing = || damaged(&id.file_name(), "a page lies in it, but it is not open");
                let read = self.log_file(id).ok_or_else(missing)?.read_at(&mut content, offset);
                read.map_err(|source| failed("read", &id.file_name(), source))?;
            }
        }
        Ok(content)
    }
}

fn failed(action: &'static str, file: &str, source: std::io::Error) -> VersionsError {
    VersionsError::Io { action, file: file.to_owned(), source }
}

fn damaged(file: &str, what: impl Into<String>) -> VersionsError {
    VersionsError::Damaged { file: file.to_owned(), what: what.into() }
}
