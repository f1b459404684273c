//! Reading a log to its end.

use super::header::LogHeader;
use super::record::{RecordHead, head_bytes, record_bytes};
use crate::checksum::Checksum;
use crate::disk::File;
use crate::error::{Result, VersionsError};
use crate::page::{PAGE_BYTES, PageIndex, VersionNumber};

/// A record found whole.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it says.
    pub head: RecordHead,
    /// Where its first page lies in the log.
    pub content: u64,
    /// What the next record follows.
    pub checksum: Checksum,
}

impl Found {
    /// Its pages, each with its place in the log.
    pub fn places(&self) -> impl Iterator<Item = (PageIndex, u64)> {
        let at = move |index: usize| self.content + (index * PAGE_BYTES) as u64;
        self.head.pages.iter().enumerate().map(move |(index, (page, _))| (*page, at(index)))
    }
}

/// A place in a log where a record may follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Of the next record.
    pub offset: u64,
    /// The version before it.
    pub version: VersionNumber,
    /// The checksum it follows.
    pub chain: Checksum,
}

impl Position {
    /// Behind a log's header, whose checksum is `chain`.
    #[must_use]
    pub fn first(header: &LogHeader, chain: Checksum) -> Position {
        Position { offset: PAGE_BYTES as u64, version: header.after, chain }
    }
}

/// The next record behind `at`, and where the one after it would begin. `None` at the end of the log:
/// whatever is there was never written whole, or belongs to another history.
///
/// # Errors
/// The host cannot read the file.
pub fn next<F: File>(file: &F, name: &str, at: Position) -> Result<Option<(Found, Position)>> {
    let end = file.bytes().map_err(|source| unreadable(name, source))?;
    let mut first = [0; PAGE_BYTES];
    if end.saturating_sub(at.offset) < PAGE_BYTES as u64 {
        return Ok(None);
    }
    let read = |buffer: &mut [u8], offset| {
        file.read_at(buffer, offset).map_err(|source| unreadable(name, source))
    };
    read(&mut first, at.offset)?;
    let sizes = RecordHead::count(&first).and_then(|n| Some((head_bytes(n)?, record_bytes(n)?)));
    let Some((head_bytes, bytes)) = sizes else { return Ok(None) };
    // Before anything is allocated: a torn head may say any number.
    let Some(behind) = at.offset.checked_add(bytes).filter(|behind| *behind <= end) else {
        return Ok(None);
    };
    let mut head = vec![0; head_bytes as usize];
    read(&mut head, at.offset)?;
    let Some((head, checksum)) = RecordHead::decode(&head, at.chain) else { return Ok(None) };
    if Some(head.version) != at.version.next() {
        return Ok(None);
    }
    let content = at.offset + head_bytes;
    let mut page = [0; PAGE_BYTES];
    for (index, (_, expected)) in head.pages.iter().enumerate() {
        read(&mut page, content + (index * PAGE_BYTES) as u64)?;
        if Checksum::of(&page) != *expected {
            return Ok(None);
        }
    }
    let position = Position { offset: behind, version: head.version, chain: checksum };
    Ok(Some((Found { head, content, checksum }, position)))
}

fn unreadable(name: &str, source: std::io::Error) -> VersionsError {
    VersionsError::Io { action: "read", file: name.to_owned(), source }
}
