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

/// What was read of a log: records lie one behind the other, and a call for each would cost as much as
/// the checksums of a small one.
#[derive(Debug)]
pub struct Buffer {
    held: Vec<u8>,
    filled: usize,
    start: u64,
    first: usize,
    ahead: usize,
}

/// Most that is read ahead, and most that is read at once: what is checksummed next is in the processor's cache
/// then.
const AHEAD_MOST: usize = 1 << 20;
const AT_ONCE_MOST: usize = AHEAD_MOST + AHEAD_MOST / 4;

impl Buffer {
    /// With nothing in it, for reading so much of each record.
    #[must_use]
    pub fn new(content: Content) -> Buffer {
        // Heads alone may lie far apart, or be one, as when another VM has made a commit.
        let first = match content {
            Content::Verified => 16 * PAGE_BYTES,
            Content::Trusted => PAGE_BYTES,
        };
        Buffer { held: Vec::new(), filled: 0, start: 0, first, ahead: first }
    }

    /// What is read next is another log, or may have changed.
    pub fn clear(&mut self) {
        (self.filled, self.ahead) = (0, self.first);
    }

    /// Goes on with what was read of the log that is read next, from its beginning on.
    pub fn begin(&mut self, bytes: Vec<u8>) {
        (self.start, self.filled, self.held, self.ahead) = (0, bytes.len(), bytes, self.first);
    }

    /// What lies at `at`, at least `least` bytes, of a log. If it has to be read, so are the `wanted` bytes that
    /// are going to be asked for, or as many of them as are read at once, and what is read ahead in any case.
    fn at<F: File>(
        &mut self,
        log: &Log<'_, F>,
        at: u64,
        (least, wanted): (usize, usize),
    ) -> Result<&[u8]> {
        let end = self.start + self.filled as u64;
        let has = |from: u64, until: u64| {
            from <= at && at.checked_add(least as u64).is_some_and(|last| last <= until)
        };
        if self.filled == 0 || !has(self.start, end) {
            let goes_on = self.filled > 0 && at == end;
            let ahead = if goes_on { (self.ahead * 4).min(AHEAD_MOST) } else { self.first };
            let left = usize::try_from(log.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
            let more = if wanted > ahead { wanted } else { 0 };
            let wanted = (more + ahead).min(AT_ONCE_MOST).max(least).min(left);
            if self.held.len() < wanted {
                self.held.resize(wanted, 0);
            }
            self.filled = 0;
            let read = log.file.read_at(&mut self.held[..wanted], at);
            read.map_err(|source| unreadable(log.name, source))?;
            (self.start, self.filled, self.ahead) = (at, wanted, ahead);
        }
        Ok(&self.held[(at - self.start) as usize..self.filled])
    }
}

/// A log that is read.
#[derive(Debug)]
pub struct Log<'a, F> {
    /// Its file.
    pub file: &'a F,
    /// The file's name, for errors.
    pub name: &'a str,
    /// What the file is known to have; it is measured anew when a record ends behind that.
    pub bytes: u64,
}

impl<F: File> Log<'_, F> {
    fn reaches(&mut self, end: u64) -> Result<bool> {
        if end > self.bytes {
            self.bytes = self.file.bytes().map_err(|source| unreadable(self.name, source))?;
        }
        Ok(end <= self.bytes)
    }
}

/// The next record behind `at`, and where the one after it would begin. `None` at the end of the log:
/// whatever is there was never written whole, or belongs to another history. `is_known` says of a record
/// whose head is right whether its pages were found whole before.
///
/// # Errors
/// The host cannot read the file.
pub fn next<F: File>(
    log: &mut Log<'_, F>,
    at: Position,
    content: Content,
    buffer: &mut Buffer,
    is_known: impl FnOnce(&Found) -> bool,
) -> Result<Option<(Found, Position)>> {
    let Some(rest) = at.offset.checked_add(PAGE_BYTES as u64) else { return Ok(None) };
    if !log.reaches(rest)? {
        return Ok(None);
    }
    let first = buffer.at(log, at.offset, (PAGE_BYTES, PAGE_BYTES))?;
    let Some(Sizes { head: head_bytes, record }) = RecordHead::sizes(first) else {
        return Ok(None);
    };
    // Before anything is allocated: a torn head may say any number.
    let Some(behind) = at.offset.checked_add(record) else { return Ok(None) };
    // A file with holes may be as long as it says.
    if behind > LOG_BYTES_MAX || !log.reaches(behind)? {
        return Ok(None);
    }
    let head = buffer.at(log, at.offset, (head_bytes as usize, head_bytes as usize))?;
    let Some((head, checksum)) = RecordHead::decode(&head[..head_bytes as usize], at.chain) else {
        return Ok(None);
    };
    if Some(head.version) != at.version.next() {
        return Ok(None);
    }
    let found = Found { head, content: at.offset + head_bytes, checksum };
    if content == Content::Verified && !is_known(&found) && !is_whole(&found, log, buffer)? {
        return Ok(None);
    }
    let position = Position { offset: behind, version: found.head.version, chain: checksum };
    Ok(Some((found, position)))
}

/// Whether all pages have their checksums.
fn is_whole<F: File>(found: &Found, log: &Log<'_, F>, buffer: &mut Buffer) -> Result<bool> {
    let (mut at, mut pages) = (found.content, &found.head.pages[..]);
    while !pages.is_empty() {
        let content = buffer.at(log, at, (PAGE_BYTES, pages.len() * PAGE_BYTES))?;
        let count = (content.len() / PAGE_BYTES).min(pages.len());
        let (now, rest) = pages.split_at(count);
        let sums = content.chunks(PAGE_BYTES).map(Checksum::of);
        if !sums.zip(now).all(|(sum, (_, expected))| sum == *expected) {
            return Ok(false);
        }
        at += (count * PAGE_BYTES) as u64;
        pages = rest;
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
            let mut log = Log { file: &file, name: "log", bytes: 0 };
            let mut buffer = Buffer::new(Content::Verified);
            let found = next(&mut log, at, Content::Verified, &mut buffer, |_| false);
            assert_eq!(found.expect("read").is_some(), is_read);
        }
    }

    /// Records of 2, 0 and 1 pages behind a header's page, and where each begins and the last one ends.
    fn three_records(history: u64) -> (Vec<u8>, [u64; 4]) {
        let mut bytes = vec![0; PAGE_BYTES];
        let (mut chain, mut begins) = (Checksum::of(&history.to_le_bytes()), [0; 4]);
        for (number, pages) in [(1, 2), (2, 0), (3, 1)] {
            begins[number as usize - 1] = bytes.len() as u64;
            let contents: Vec<_> =
                (0..pages).map(|page| [(history * 7 + number + page) as u8; PAGE_BYTES]).collect();
            let listed = contents.iter().enumerate();
            let pages = listed.map(|(at, page)| (PageIndex(at as u64), Checksum::of(page)));
            let (version, facts) = (VersionNumber(number), VersionFacts::default());
            let head = RecordHead { version, facts, pages: pages.collect(), joint: None };
            let (head, checksum) = head.encode(chain);
            bytes.extend(head);
            contents.iter().for_each(|page| bytes.extend(page));
            chain = checksum;
        }
        begins[3] = bytes.len() as u64;
        (bytes, begins)
    }

    /// How many records are read of a log of `history` that has these bytes.
    fn read(history: u64, bytes: &[u8]) -> u64 {
        let disk = Disk::default();
        let file = disk.create("log").expect("made");
        file.write_at(&[IoSlice::new(bytes)], 0).expect("written");
        let chain = Checksum::of(&history.to_le_bytes());
        let mut at = Position { offset: PAGE_BYTES as u64, version: VersionNumber(0), chain };
        let mut log = Log { file: &file, name: "log", bytes: 0 };
        let mut buffer = Buffer::new(Content::Verified);
        let mut count = 0;
        while let Some((found, next)) =
            next(&mut log, at, Content::Verified, &mut buffer, |_| false).expect("read")
        {
            count += 1;
            assert_eq!(found.head.version, VersionNumber(count));
            at = next;
        }
        count
    }

    #[test]
    fn a_log_that_is_cut_anywhere_has_the_records_before_the_cut() {
        let (bytes, begins) = three_records(1);
        for end in (PAGE_BYTES..=bytes.len()).filter(|end| {
            end % 512 == 0 || begins.iter().any(|begin| begin.abs_diff(*end as u64) < 64)
        }) {
            let whole = begins[1..].iter().filter(|begin| **begin <= end as u64).count();
            assert_eq!(read(1, &bytes[..end]), whole as u64, "cut at {end}");
        }
    }

    /// What a power cut can leave of an append: every choice of its sectors, the others as they were before: zeros, or a
    /// record of the same number in an older history.
    #[test]
    fn an_append_of_which_any_sectors_are_missing_is_not_there() {
        const SECTOR: usize = 512;
        let (new, begins) = three_records(1);
        let (old, old_begins) = three_records(2);
        assert_eq!(begins, old_begins);
        let last = begins[2] as usize;
        let count = (new.len() - last) / SECTOR;
        assert_eq!(count, 16);
        for before in [vec![0; new.len()], old] {
            let mut bytes = new.clone();
            let changed: Vec<_> = (0..count)
                .filter(|sector| {
                    let at = last + sector * SECTOR..last + (sector + 1) * SECTOR;
                    new[at.clone()] != before[at]
                })
                .collect();
            for written in 0_u32..1 << changed.len() {
                bytes[last..].copy_from_slice(&before[last..]);
                for (place, sector) in changed.iter().enumerate() {
                    let at = last + sector * SECTOR..last + (sector + 1) * SECTOR;
                    if written & (1 << place) != 0 {
                        bytes[at.clone()].copy_from_slice(&new[at]);
                    }
                }
                let all = written.count_ones() as usize == changed.len();
                assert_eq!(read(1, &bytes), 2 + u64::from(all), "sectors {written:b}");
            }
        }
    }
}
