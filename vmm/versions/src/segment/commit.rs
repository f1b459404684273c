//! Appending versions to the log, and making them durable.

use std::io::IoSlice;
use std::sync::Arc;

use super::logs::OpenLog;
use super::sync::LogFile;
use super::{Commit, Segment, failed};
use crate::checksum::Checksum;
use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::log::header::{LogHeader, LogId};
use crate::log::record::{RecordHead, record_bytes};
use crate::log::scan::{self, Content, Found, Position};
use crate::page::{PAGE_BYTES, Page, VersionNumber};
use crate::root::{LOGS_MAX, Root};

impl<D: Folder> Segment<D> {
    /// Appends a version. It is not durable before [`Segment::sync`]; a killed process leaves it.
    ///
    /// # Errors
    /// The host's, a commit that no log holds, a page that no file has, a note that is too long, a log
    /// that has failed, newer versions elsewhere that were not taken in. Nothing has changed then: the
    /// commit can be tried again.
    pub fn append(&mut self, commit: &Commit<'_>) -> Result<VersionNumber> {
        commit.facts.check()?;
        if let Some((page, _)) = commit.pages.iter().find(|(page, _)| page.offset().is_none()) {
            return Err(VersionsError::NoSuchPage(*page));
        }
        let pages = commit.pages.len() as u64;
        let limit = self.limits.log_bytes - PAGE_BYTES as u64;
        let too_large = VersionsError::TooLarge { pages, limit: limit / PAGE_BYTES as u64 };
        let bytes = record_bytes(pages).filter(|bytes| *bytes <= limit).ok_or(too_large)?;
        self.check_writable()?;
        self.check_failed()?;
        let version = self.appended();
        let version = version.next().ok_or(VersionsError::LastVersion(version))?;
        self.confirm_root()?;
        if self.logs.end.offset + bytes > self.limits.log_bytes {
            self.next_log()?;
        }
        self.prepare(self.logs.end.offset + bytes)?;
        let sums = commit.pages.iter().map(|(page, content)| (*page, Checksum::of(&content[..])));
        let head = RecordHead { version, facts: commit.facts.clone(), pages: sums.collect() };
        let (encoded, checksum) = head.encode(self.logs.end.chain);
        let content = commit.pages.iter().map(|(_, content)| IoSlice::new(&content[..]));
        let pieces: Vec<_> = [IoSlice::new(&encoded)].into_iter().chain(content).collect();
        let log = self.logs.current();
        let id = log.header.id;
        if let Err(source) = log.file.file.write_at(&pieces, self.logs.end.offset) {
            // It may be whole all the same, and recovery would take a version that was refused.
            self.has_failed = true;
            return Err(failed("write", &id.file_name(), source));
        }
        let content = self.logs.end.offset + encoded.len() as u64;
        self.logs.note(id, &Found { head, content, checksum });
        self.logs.end = Position { offset: self.logs.end.offset + bytes, version, chain: checksum };
        Ok(version)
    }

    /// Goes on after a failure. Versions up to `kept` that were not durable are read back, verified
    /// and written to a new log; what is behind it, and what can't be read, is lost. Returns the
    /// newest version, which is durable.
    ///
    /// # Errors
    /// The host's; nothing has changed then.
    pub fn renew(&mut self, kept: VersionNumber) -> Result<VersionNumber> {
        self.check_writable()?;
        let saved = self.read_back(kept);
        // The file's end cannot be relied on: go back to where it was durable.
        let end = std::mem::replace(&mut self.logs.end, self.logs.durable);
        if let Err(error) = self.begin_log(&saved) {
            self.logs.end = end;
            return Err(error);
        }
        self.has_failed = false;
        Ok(self.durable())
    }

    /// Versions behind what is durable, up to `kept`, as far as they can be read.
    fn read_back(&self, kept: VersionNumber) -> Vec<Saved> {
        let mut saved = Vec::new();
        let mut position = self.logs.durable;
        let log = self.logs.current();
        let (name, file, mut bytes) = (log.header.id.file_name(), &log.file.file, log.prepared);
        while position.version < kept {
            // What cannot be read is lost, whatever the reason.
            let next = scan::next(file, &name, position, &mut bytes, Content::Verified);
            let Ok(Some((found, behind))) = next else { break };
            let mut pages = vec![[0; PAGE_BYTES]; found.head.pages.len()];
            let mut places = pages.iter_mut().zip(found.places());
            if places.try_for_each(|(page, (_, at))| file.read_at(page, at)).is_err() {
                break;
            }
            drop(places);
            saved.push(Saved { head: found.head, pages });
            position = behind;
        }
        saved
    }

    /// Closes the log and begins another.
    pub(super) fn next_log(&mut self) -> Result<()> {
        // The next log says that it follows this one's end: that has to be there.
        self.sync()?;
        self.begin_log(&[])
    }

    /// Makes the log that follows `end`, which must be durable, and writes to it from now on. The
    /// versions `saved` are in it, durably, before anything names it.
    pub(super) fn begin_log(&mut self, saved: &[Saved]) -> Result<()> {
        let after = self.appended();
        // Behind every number a file may still have: that of a failed attempt, too.
        let names = self.folder.names().map_err(|source| failed("list", ".", source))?;
        let last = names.iter().filter_map(|name| LogId::of_file_name(name)).max();
        let id =
            LogId(last.max(self.logs.root.logs.iter().max().copied()).map_or(1, |last| last.0 + 1));
        let facts = self.logs.facts(after).cloned().unwrap_or_default();
        // A log without records makes place for this one, which then follows what that one did.
        let empty = self.logs.open.last().filter(|log| log.header.after == after);
        let (chain, empty) = match empty {
            Some(log) => (log.header.chain, Some(log.header.id)),
            None => (self.logs.end.chain, None),
        };
        let segment = self.logs.root.segment;
        let header = LogHeader { id, segment, salt: salt(), after, chain, facts };
        let (page, chain) = header.encode();
        let name = id.file_name();
        let file = self.folder.create(&name).map_err(|source| failed("create", &name, source))?;
        let first = Position::first(&header, chain);
        let (records, end) = encode_all(saved, first);
        let ahead = self.limits.ahead_bytes.max(PAGE_BYTES as u64).min(self.limits.log_bytes);
        let prepared = ahead.max(end.offset);
        let begun = fill(&file, 0, prepared)
            .and_then(|()| file.write_at(&[IoSlice::new(&page)], 0))
            .and_then(|()| write_all(&file, &records, saved))
            .and_then(|()| file.sync())
            .and_then(|()| self.folder.sync());
        if let Err(source) = begun {
            // Nothing names it yet.
            let _ = self.folder.remove(&name);
            return Err(failed("prepare", &name, source));
        }
        let kept = self.logs.root.logs.iter().copied().filter(|log| Some(*log) != empty);
        let logs: Vec<_> = kept.chain([id]).collect();
        if logs.len() > LOGS_MAX {
            let _ = self.folder.remove(&name);
            return Err(VersionsError::TooManyLogs);
        }
        self.store_root(Root { logs, ..self.logs.root.clone() })?;
        if let Some(empty) = empty {
            self.logs.open.pop();
            // Should this fail, the next opening does it.
            let _ = self.folder.remove(&empty.file_name());
        }
        self.logs.begin(OpenLog { header, first, file: Arc::new(LogFile::new(file)), prepared });
        for (found, _) in &records {
            self.logs.note(id, found);
        }
        (self.logs.end, self.logs.durable) = (end, end);
        Ok(())
    }

    /// Replaces the root record. If that fails, either may count: nothing is appended to a log that
    /// the new one closes, and nothing removed that it names.
    pub(super) fn store_root(&mut self, mut root: Root) -> Result<()> {
        // Two records that are not durable could both be torn.
        self.confirm_root()?;
        root.counter = self.logs.root.counter + 1;
        self.write_root(&root)?;
        self.logs.root = root;
        Ok(())
    }

    /// Makes sure that the root record that counts is durable: without it, nothing is that lies in a
    /// log which it is the first to name. Written anew, because the host tells a sync that failed only
    /// to those who had the file open then.
    fn confirm_root(&mut self) -> Result<()> {
        if self.is_root_durable {
            return Ok(());
        }
        self.write_root(&self.logs.root.clone())?;
        self.is_root_durable = true;
        Ok(())
    }

    fn write_root(&mut self, root: &Root) -> Result<()> {
        let stored = root.store(&*self.root_file);
        self.has_failed |= stored.is_err();
        stored
    }

    pub(super) fn check_failed(&self) -> Result<()> {
        let durable = self.durable();
        if self.has_failed { Err(VersionsError::Failed { durable }) } else { Ok(()) }
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        let version = self.appended();
        if self.logs.is_at_last() { Ok(()) } else { Err(VersionsError::Behind(version)) }
    }

    /// Gives the log its blocks up to `end`, so that a full disk shows before a record is begun.
    fn prepare(&mut self, end: u64) -> Result<()> {
        let (limits, log) = (self.limits, self.logs.current_mut());
        if end <= log.prepared {
            return Ok(());
        }
        let ahead = end.next_multiple_of(limits.ahead_bytes.max(PAGE_BYTES as u64));
        let until = ahead.min(limits.log_bytes).max(end);
        let filled = fill(&log.file.file, log.prepared, until);
        filled.map_err(|source| {
            // On a full disk others need it, and so does what makes room.
            log.file.file.release(log.prepared);
            failed("prepare", &log.header.id.file_name(), source)
        })?;
        log.prepared = until;
        Ok(())
    }
}

/// A version that was read back from a log that failed.
#[derive(Debug)]
pub(super) struct Saved {
    head: RecordHead,
    pages: Vec<Page>,
}

/// The records of some versions that follow `at`, each with its head's bytes, and where they end.
fn encode_all(saved: &[Saved], mut at: Position) -> (Vec<(Found, Vec<u8>)>, Position) {
    let mut records = Vec::new();
    for Saved { head, pages } in saved {
        let (encoded, checksum) = head.encode(at.chain);
        let content = at.offset + encoded.len() as u64;
        records.push((Found { head: head.clone(), content, checksum }, encoded));
        let offset = content + (pages.len() * PAGE_BYTES) as u64;
        at = Position { offset, version: head.version, chain: checksum };
    }
    (records, at)
}

fn write_all<F: File>(
    file: &F,
    records: &[(Found, Vec<u8>)],
    saved: &[Saved],
) -> std::io::Result<()> {
    records.iter().zip(saved).try_for_each(|((found, encoded), Saved { pages, .. })| {
        let pages = pages.iter().map(|page| IoSlice::new(page));
        let pieces: Vec<_> = [IoSlice::new(encoded)].into_iter().chain(pages).collect();
        file.write_at(&pieces, found.content - encoded.len() as u64)
    })
}

/// Writes zeros. Whole, or the file's end is where it will be tried again.
fn fill<F: File>(file: &F, from: u64, until: u64) -> std::io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = from;
    while at < until {
        let bytes = (until - at).min(ZEROS.len() as u64);
        file.write_at(&[IoSlice::new(&ZEROS[..bytes as usize])], at)?;
        at += bytes;
    }
    Ok(())
}

/// Different for each log, on each machine.
fn salt() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
