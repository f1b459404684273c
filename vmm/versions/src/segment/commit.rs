//! Appending versions to the log, and making them durable.

use std::io::IoSlice;

use super::begin::Saved;
use super::{Commit, Segment, failed};
use crate::checksum::Checksum;
use crate::disk::{File, Folder, SMALL_PIECE_BYTES, fill};
use crate::error::{Result, VersionsError};
use crate::log::record::{Joint, RecordHead, Sizes};
use crate::log::scan::{self, Buffer, Content, Found, Position};
use crate::page::{PAGE_BYTES, VersionNumber};

impl<D: Folder> Segment<D> {
    /// Appends a version. It is not durable before [`Segment::sync`]; a killed process leaves it. One
    /// of more pages than half a log holds becomes a layer, and is durable when this returns.
    ///
    /// # Errors
    /// The host's, a page that no file has, a note that is too long, a log
    /// that has failed, newer versions elsewhere that were not taken in. Nothing has changed then: the
    /// commit can be tried again.
    pub fn append(&mut self, commit: &Commit<'_>) -> Result<VersionNumber> {
        self.check_commit(commit)?;
        let most = (self.limits.log_bytes - PAGE_BYTES as u64) / 2;
        let members = commit.facts.members();
        let sizes = Sizes::of(commit.pages.len() as u64, 0, members);
        let sizes = sizes.filter(|sizes| sizes.record <= most);
        let Some(sizes) = sizes else { return self.append_large(commit) };
        self.make_place(sizes.record, false, members > 0)?;
        self.write_record(commit, None)
    }

    /// Checks what can be checked before anything is written.
    pub(super) fn check_commit(&self, commit: &Commit<'_>) -> Result<()> {
        commit.facts.check()?;
        if let Some((page, _)) = commit.pages.iter().find(|(page, _)| page.offset().is_none()) {
            return Err(VersionsError::NoSuchPage(*page));
        }
        self.check_writable()?;
        self.check_failed()?;
        self.appended().next().ok_or(VersionsError::LastVersion(self.appended())).map(drop)
    }

    /// Makes sure that a record of so many bytes can be written behind the end: one that names other
    /// segments, or is the entry of a VAS, in a log whose format has such.
    pub(super) fn make_place(&mut self, bytes: u64, is_joint: bool, is_entry: bool) -> Result<()> {
        self.confirm_root()?;
        let header = &self.stack.current().header;
        let is_older = is_joint && !header.takes_joints() || is_entry && !header.takes_entries();
        let is_full = self.stack.end.offset + bytes > self.limits.log_bytes;
        if is_older || is_full || self.found == Some(self.current_log()) {
            self.next_log()?;
        }
        self.prepare(self.stack.end.offset + bytes)
    }

    /// Writes a record that has its place.
    pub(super) fn write_record(
        &mut self,
        commit: &Commit<'_>,
        joint: Option<Joint>,
    ) -> Result<VersionNumber> {
        let version = self.appended();
        let version = version.next().ok_or(VersionsError::LastVersion(version))?;
        let sums = commit.pages.iter().map(|(page, content)| (*page, Checksum::of(&content[..])));
        let (facts, pages) = (commit.facts.clone(), sums.collect());
        let head = RecordHead { version, facts, pages, joint };
        let (encoded, checksum) = head.encode(self.stack.end.chain);
        let content = commit.pages.iter().map(|(_, content)| IoSlice::new(&content[..]));
        let pieces: Vec<_> = [IoSlice::new(&encoded)].into_iter().chain(content).collect();
        let log = self.stack.current();
        let id = log.header.id;
        if let Err(source) = log.file.file.write_at(&pieces, self.stack.end.offset) {
            // It may be whole all the same, and recovery would take a version that was refused.
            self.has_failed = true;
            return Err(failed("write", &id.file_name(), source));
        }
        let content = self.stack.end.offset + encoded.len() as u64;
        let offset = content + (commit.pages.len() * PAGE_BYTES) as u64;
        self.stack.tail = head.joint.is_some().then_some(self.stack.end);
        self.stack.note(id, &Found { head, content, checksum });
        self.stack.end = Position { offset, version, chain: checksum };
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
        let end = std::mem::replace(&mut self.stack.end, self.stack.durable);
        if let Err(error) = self.begin_log(&saved) {
            self.stack.end = end;
            return Err(error);
        }
        self.has_failed = false;
        Ok(self.durable())
    }

    /// Versions behind what is durable, up to `kept`, as far as they can be read.
    fn read_back(&self, kept: VersionNumber) -> Vec<Saved> {
        let mut saved = Vec::new();
        let mut position = self.stack.durable;
        let log = self.stack.current();
        let (name, file) = (log.header.id.file_name(), &log.file.file);
        let mut scanned = scan::Log { file, name: &name, bytes: log.prepared };
        let mut buffer = Buffer::new(Content::Verified);
        while position.version < kept {
            // What cannot be read is lost, whatever the reason.
            let verified = Content::Verified;
            let next = scan::next(&mut scanned, position, verified, &mut buffer, |_| false);
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

    pub(super) fn check_failed(&self) -> Result<()> {
        let durable = self.durable();
        if self.has_failed { Err(VersionsError::Failed { durable }) } else { Ok(()) }
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        let version = self.appended();
        if self.stack.is_at_last() { Ok(()) } else { Err(VersionsError::Behind(version)) }
    }

    /// Gives the log its blocks up to `end`, so that a full disk shows before a record is begun.
    fn prepare(&mut self, end: u64) -> Result<()> {
        let (limits, log) = (self.limits, self.stack.current_mut());
        if end <= log.prepared {
            return Ok(());
        }
        let ahead = end.next_multiple_of(limits.ahead_bytes.max(PAGE_BYTES as u64));
        let until = ahead.min(limits.log_bytes).max(end);
        let filled = fill(&log.file.file, log.prepared..until, SMALL_PIECE_BYTES);
        filled.map_err(|source| {
            // On a full disk others need it, and so does what makes room.
            log.file.file.release(log.prepared);
            failed("prepare", &log.header.id.file_name(), source)
        })?;
        log.prepared = until;
        log.file.note_filled();
        Ok(())
    }
}
