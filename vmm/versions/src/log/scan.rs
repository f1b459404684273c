//! Reading a log to its end.

use super::LOG_BYTES_MAX;
use super::header::LogHeader;
use super::record::{RecordHead, Sizes};
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

/// How much of a record is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Its head and its pages: any part of it may be missing.
    Verified,
    /// Its head alone. For versions that a live VM has made known: it did so after it had written
    /// them whole, and no power cut was in between, or that VM would not live. What recovery reads
    /// is verified.
    Trusted,
}

/// The next record behind `at`, and where the one after it would begin. `None` at the end of the log:
/// whatever is there was never written whole, or belongs to another history. `bytes` is what the file
/// is known to have; it is measured anew when a record ends behind that.
///
/// # Errors
/// The host cannot read the file.
pub fn next<F: File>(
    file: &F,
    name: &str,
    at: Position,
    bytes: &mut u64,
    content: Content,
) -> Result<Option<(Found, Position)>> {
    let mut reaches = |end: u64| -> Result<bool> {
        if end > *bytes {
            *bytes = file.bytes().map_err(|source| unreadable(name, source))?;
        }
        Ok(end <= *bytes)
    };
    let read = |buffer: &mut [u8], offset| {
        file.read_at(buffer, offset).map_err(|source| unreadable(name, source))
    };
    let Some(rest) = at.offset.checked_add(PAGE_BYTES as u64) else { return Ok(None) };
    if !reaches(rest)? {
        return Ok(None);
    }
    let mut head = vec![0; PAGE_BYTES];
    read(&mut head, at.offset)?;
    let Some(Sizes { head: head_bytes, record }) = RecordHead::sizes(&head) else {
        return Ok(None);
    };
    // Before anything is allocated: a torn head may say any number.
    let Some(behind) = at.offset.checked_add(record) else { return Ok(None) };
    // A file with holes may be as long as it says.
    if behind > LOG_BYTES_MAX || !reaches(behind)? {
        return Ok(None);
    }
    head.resize(head_bytes as usize, 0);
    if head.len() > PAGE_BYTES {
        read(&mut head[PAGE_BYTES..], rest)?;
    }
    let Some((head, checksum)) = RecordHead::decode(&head, at.chain) else { return Ok(None) };
    if Some(head.version) != at.version.next() {
        return Ok(None);
    }
    let found = Found { head, content: at.offset + head_bytes, checksum };
    if content == Content::Verified && !is_whole(&found, read)? {
        return Ok(None);
    }
    let position = Position { offset: behind, version: found.head.version, chain: checksum };
    Ok(Some((found, position)))
}

/// Pages that are read at once: a call for each would cost as much as its checksum.
const READ_PAGES: usize = 64;

/// Whether all pages have their checksums.
fn is_whole(found: &Found, read: impl Fn(&mut [u8], u64) -> Result<()>) -> Result<bool> {
    let mut buffer = vec![0; READ_PAGES.min(found.head.pages.len()) * PAGE_BYTES];
    let mut at = found.content;
    for pages in found.head.pages.chunks(READ_PAGES) {
        let content = &mut buffer[..pages.len() * PAGE_BYTES];
        read(content, at)?;
        at += content.len() as u64;
        let sums = content.chunks(PAGE_BYTES).map(Checksum::of);
        if !sums.eq(pages.iter().map(|(_, expected)| *expected)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn unreadable(name: &str, source: std::io::Error) -> VersionsError {
    VersionsError::Io { action: "read", file: name.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Folder as _;
    use crate::disk::simulated::Disk;
    use crate::log::record::{Joint, VersionFacts};
    use std::io::IoSlice;

    #[test]
    fn no_record_reaches_behind_the_longest_log() {
        let disk = Disk::default();
        let file = disk.create("log").expect("made");
        let at = Position {
            offset: PAGE_BYTES as u64,
            version: VersionNumber(0),
            chain: Checksum::default(),
        };
        for (others, is_read) in [(3, true), (LOG_BYTES_MAX / 16, false)] {
            let others = (1..=others).map(|other| (other, VersionNumber(1))).collect();
            let joint = Some(Joint { id: 7, others });
            let (version, facts) = (VersionNumber(1), VersionFacts::default());
            let head = RecordHead { version, facts, pages: Vec::new(), joint };
            let (bytes, _) = head.encode(at.chain);
            file.write_at(&[IoSlice::new(&bytes)], at.offset).expect("written");
            let found = next(&file, "log", at, &mut 0, Content::Verified).expect("read");
            assert_eq!(found.is_some(), is_read);
        }
    }
}
