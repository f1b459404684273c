//! A versioned segment: its home file, its logs, and which page of which version lies where.
//!
//! - `open`: making one, and what recovery makes of what a crash left
//! - `commit`: appending, syncing, the next log, and going on after a failure
//! - `checkpoint`: bringing the home file up to date, so that logs can go
//!
//! *Appended* is the newest version in the log, *durable* the newest that a power cut leaves. Who may
//! see which is the caller's business.

use std::collections::BTreeMap;

use crate::checksum::Checksum;
use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::log::LOG_BYTES_MAX;
use crate::log::header::LogId;
use crate::log::record::VersionFacts;
use crate::log::scan::{Found, Position};
use crate::page::{PAGE_BYTES, Page, PageIndex, VersionNumber};
use crate::root::Root;

mod checkpoint;
mod commit;
mod open;
#[cfg(test)]
mod tests;

/// The file with the segment's layout: page n at n times 4 KiB.
pub const HOME_FILE_NAME: &str = "home";

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

#[derive(Debug)]
struct OpenLog<F> {
    id: LogId,
    file: F,
    /// The version it follows.
    after: VersionNumber,
    /// The checksum of the record that made that version.
    follows: Checksum,
    /// Bytes that the file has; behind the records they are zeros.
    prepared: u64,
}

/// A version's page in a log.
#[derive(Clone, Copy, Debug)]
struct Placed {
    version: VersionNumber,
    log: LogId,
    offset: u64,
}

/// A versioned segment, open.
#[derive(Debug)]
pub struct Segment<D: Folder> {
    folder: D,
    limits: Limits,
    root: Root,
    root_file: D::File,
    home: D::File,
    /// As the root record has them; the last is written to.
    logs: Vec<OpenLog<D::File>>,
    /// By page, versions rising: what lies in logs.
    placed: BTreeMap<PageIndex, Vec<Placed>>,
    /// Of every version since the last checkpoint, that one included.
    facts: BTreeMap<VersionNumber, VersionFacts>,
    /// Where the next record goes.
    end: Position,
    /// Where the log would have to end if all behind what is durable were lost.
    durable: Position,
    /// The oldest version that can be read. A checkpoint may have ended halfway: then the home file
    /// has pages of versions that it was not applied up to.
    oldest: VersionNumber,
    has_failed: bool,
}

impl<D: Folder> Segment<D> {
    /// The newest version in the log, durable or not.
    #[must_use]
    pub fn appended(&self) -> VersionNumber {
        self.end.version
    }

    /// The newest version that a power cut leaves.
    #[must_use]
    pub fn durable(&self) -> VersionNumber {
        self.durable.version
    }

    /// The oldest version that can be read.
    #[must_use]
    pub fn oldest(&self) -> VersionNumber {
        self.oldest
    }

    /// What a version says besides its pages; `None` for one that is gone or not there yet.
    #[must_use]
    pub fn facts(&self, version: VersionNumber) -> Option<&VersionFacts> {
        self.facts.get(&version)
    }

    /// Where a page of a version is.
    ///
    /// # Errors
    /// The host does not tell the home file's length.
    pub fn locate(&self, page: PageIndex, version: VersionNumber) -> Result<Source> {
        let placed = self.placed.get(&page).map_or(&[][..], Vec::as_slice);
        if let Some(newest) = placed.iter().rev().find(|placed| placed.version <= version) {
            return Ok(Source::Log(newest.log, newest.offset));
        }
        let bytes =
            self.home.bytes().map_err(|source| failed("measure", HOME_FILE_NAME, source))?;
        let fits =
            |offset: &u64| offset.checked_add(PAGE_BYTES as u64).is_some_and(|end| end <= bytes);
        Ok(page.offset().filter(fits).map_or(Source::Zero, Source::Home))
    }

    /// A page of a version.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&self, page: PageIndex, version: VersionNumber) -> Result<Page> {
        let mut content = [0; PAGE_BYTES];
        match self.locate(page, version)? {
            Source::Zero => {}
            Source::Home(offset) => self
                .home
                .read_at(&mut content, offset)
                .map_err(|source| failed("read", HOME_FILE_NAME, source))?,
            Source::Log(id, offset) => {
                let log = self.log(id)?;
                let read = log.file.read_at(&mut content, offset);
                read.map_err(|source| failed("read", &id.file_name(), source))?;
            }
        }
        Ok(content)
    }

    fn log(&self, id: LogId) -> Result<&OpenLog<D::File>> {
        let log = self.logs.iter().find(|log| log.id == id);
        log.ok_or_else(|| damaged(&id.file_name(), "a page lies in it, but it is not open"))
    }

    fn current(&self) -> &OpenLog<D::File> {
        self.logs.last().expect("a segment has a log from the start on")
    }

    /// Notes a whole record.
    fn note(&mut self, log: LogId, found: &Found) {
        let version = found.head.version;
        for (page, offset) in found.places() {
            self.placed.entry(page).or_default().push(Placed { version, log, offset });
        }
        self.facts.insert(version, found.head.facts.clone());
    }

    /// Forgets all versions behind `last`, which were lost.
    fn forget_behind(&mut self, last: VersionNumber) {
        self.facts.retain(|version, _| *version <= last);
        self.placed.retain(|_, placed| {
            placed.retain(|placed| placed.version <= last);
            !placed.is_empty()
        });
    }
}

fn failed(action: &'static str, file: &str, source: std::io::Error) -> VersionsError {
    VersionsError::Io { action, file: file.to_owned(), source }
}

fn damaged(file: &str, what: impl Into<String>) -> VersionsError {
    VersionsError::Damaged { file: file.to_owned(), what: what.into() }
}
