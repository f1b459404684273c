//! The next log, the next generation, and the root record that names them. In this order: what a file
//! has, the file, the record that names it.

use std::io::IoSlice;
use std::sync::Arc;

use super::files::{OpenLog, SharedLayer};
use super::stack::Stack;
use super::sync::LogFile;
use super::{Limits, Segment, failed};
use crate::checksum::Checksum;
use crate::disk::{File, Folder, SMALL_PIECE_BYTES, fill};
use crate::error::{Result, VersionsError};
use crate::log::header::{FORMAT, LogHeader, LogId};
use crate::log::record::{RecordHead, VersionFacts};
use crate::log::scan::{Content, Found, Position};
use crate::page::{PAGE_BYTES, Page, VersionNumber};
use crate::root::{FILE_NAME, GENERATIONS_MAX, Generation, LOGS_MAX, LogRef, Root};

/// A version that was read back from a log that failed.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) head: RecordHead,
    pub(super) pages: Vec<Page>,
}

/// A log that was made, and no root record names yet.
pub(super) struct NewLog<F> {
    pub(super) log: OpenLog<F>,
    records: Vec<(Found, Vec<u8>)>,
    end: Position,
}

impl<D: Folder> Segment<D> {
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
        let facts = self.facts(after).cloned().unwrap_or_default();
        let generations = self.closed();
        self.begin(generations, None, facts, after, saved)
    }

    /// Makes the first log of a segment.
    pub(super) fn begin_first(&mut self, facts: VersionFacts) -> Result<()> {
        self.begin(self.closed(), None, facts, self.appended(), &[])
    }

    /// Puts a generation with a log of its own on top. What was appended must be durable.
    pub(super) fn push_generation(
        &mut self,
        generation: Generation,
        layer: SharedLayer<D::File>,
        facts: VersionFacts,
    ) -> Result<()> {
        let mut generations = self.closed();
        let base = generation.base;
        if generations.last().is_some_and(adds_nothing)
            && generations.last_chunk::<2>().is_none_or(|[below, top]| {
                // What the version says besides its pages must stay.
                !below.logs.is_empty() || below.base < top.base
            })
        {
            generations.pop();
        } else if let (Some(last), Some(log)) = (generations.last_mut(), self.stack.open.last())
            && last.logs.is_empty()
        {
            // Nothing else has what the version says besides its pages.
            last.logs.push(LogRef { id: log.header.id, up_to: Some(last.base) });
        }
        generations.push(generation);
        self.begin(generations, layer, facts, base, &[])
    }

    /// The generations as they are when the log that is written to has been closed: without it, if it
    /// has no record, so that the next takes its place.
    pub(super) fn closed(&self) -> Vec<Generation> {
        let mut generations = self.stack.root.generations.clone();
        let end = self.appended();
        let is_empty = self.stack.open.last().is_some_and(|log| log.header.after == end);
        if let Some(last) = generations.last_mut() {
            if is_empty {
                last.logs.pop();
            } else if let Some(log) = last.logs.last_mut() {
                log.up_to = Some(end);
            }
        }
        generations
    }

    /// The checksum that a log follows which begins behind the end.
    pub(super) fn chain(&self) -> Checksum {
        // A log without records makes place for the next, which then follows what that one did.
        let empty = self.stack.open.last().filter(|log| log.header.after == self.appended());
        empty.map_or(self.stack.end.chain, |log| log.header.chain)
    }

    /// Makes a log for the last of `generations`, and has a root record name them all.
    fn begin(
        &mut self,
        mut generations: Vec<Generation>,
        layer: SharedLayer<D::File>,
        facts: VersionFacts,
        after: VersionNumber,
        saved: &[Saved],
    ) -> Result<()> {
        let id = LogId(self.next_id()?);
        let index = generations.len() - 1;
        let segment = generations[index].origin;
        let header = LogHeader {
            format: FORMAT,
            id,
            segment,
            salt: salt(),
            after,
            chain: self.chain(),
            facts,
            marks: self.stack.marks_up_to(after),
        };
        let made = self.make_log(&self.folder, header, index, self.limits, saved)?;
        generations[index].logs.push(LogRef { id, up_to: None });
        let root = self.next_root(generations);
        if let Err(error) = check_room(&root) {
            let _ = self.folder.remove(&id.file_name());
            return Err(error);
        }
        let gone: Vec<_> =
            self.stack.root.logs().map(|(_, log)| log.id).filter(|id| !root.has_log(*id)).collect();
        let root = self.store_root(root)?;
        let NewLog { log, records, end } = made;
        self.stack.begin(root, log, layer);
        for (found, _) in &records {
            self.stack.note(id, found);
        }
        (self.stack.end, self.stack.durable) = (end, end);
        for id in gone {
            // Should this fail, the next opening does it.
            let _ = self.folder.remove(&id.file_name());
        }
        Ok(())
    }

    /// Makes a log's file in `folder`, with the versions `saved`; it is durable when it returns.
    pub(super) fn make_log(
        &self,
        folder: &D,
        header: LogHeader,
        generation: usize,
        limits: Limits,
        saved: &[Saved],
    ) -> Result<NewLog<D::File>> {
        let name = header.id.file_name();
        let file = folder.create(&name).map_err(|source| failed("create", &name, source))?;
        let (page, chain) = header.encode();
        let first = Position::first(&header, chain);
        let (records, end) = encode_all(saved, first);
        let ahead = limits.ahead_bytes.max(PAGE_BYTES as u64).min(limits.log_bytes);
        let prepared = ahead.max(end.offset);
        // The header by itself: what is behind it leaves the host's memory in whole pieces.
        let at_once = if saved.is_empty() { usize::MAX } else { SMALL_PIECE_BYTES };
        let begun = file
            .write_at(&[IoSlice::new(&page)], 0)
            .and_then(|()| fill(&file, PAGE_BYTES as u64..prepared, at_once))
            .and_then(|()| write_all(&file, &records, saved))
            .and_then(|()| file.sync())
            .and_then(|()| folder.sync());
        file.uncache(end.offset);
        if let Err(source) = begun {
            // Nothing names it yet.
            let _ = folder.remove(&name);
            return Err(failed("prepare", &name, source));
        }
        let file = Arc::new(LogFile::new(file));
        let log = OpenLog {
            header,
            generation,
            first,
            file,
            identity: None,
            stored_bytes: None,
            prepared,
            up_to: None,
            begun: Vec::new(),
        };
        Ok(NewLog { log, records, end })
    }

    /// A root record with these generations, to be stored.
    pub(super) fn next_root(&self, generations: Vec<Generation>) -> Root {
        let oldest = Some(self.stack.oldest);
        let mut root = Root { generations, oldest, ..self.stack.root.clone() };
        root.last_id = root.highest_id().max(self.stack.root.highest_id());
        root
    }

    /// Replaces the root record; returns it as it is now, which is for the caller to take. If that
    /// fails, either may count: nothing is appended to a log that the new one closes, and nothing
    /// removed that it names.
    pub(super) fn store_root(&mut self, mut root: Root) -> Result<Root> {
        // Two records that are not durable could both be torn.
        self.confirm_root()?;
        root.counter = self.stack.root.counter + 1;
        self.write_root(&root)?;
        if self.stack.root.oldest.is_none() {
            // A program that knows the first format alone would take its last record for the newest.
            root.counter += 1;
            self.write_root(&root)?;
        }
        Ok(root)
    }

    /// Makes sure that the root record that counts is durable: without it, nothing is that lies in a
    /// log which it is the first to name. Written anew, because the host tells a sync that failed only
    /// to those who had the file open then.
    pub(super) fn confirm_root(&mut self) -> Result<()> {
        if self.is_root_durable {
            return Ok(());
        }
        if self.stack.root.oldest.is_some() {
            self.write_root(&self.stack.root.clone())?;
        } else {
            // One of the first format is never written: in its place another could be torn.
            let synced = self.root_file.sync();
            self.has_failed |= synced.is_err();
            synced.map_err(|source| failed("sync", FILE_NAME, source))?;
        }
        self.is_root_durable = true;
        Ok(())
    }

    fn write_root(&mut self, root: &Root) -> Result<()> {
        let stored = root.store(&*self.root_file);
        self.has_failed |= stored.is_err();
        stored
    }
}

/// Whether a generation without logs is the same as the one below.
pub(super) fn adds_nothing(generation: &Generation) -> bool {
    generation.logs.is_empty()
        && generation.layer == crate::layer::Layer::Empty
        && generation.below == Some(generation.base)
}

pub(super) fn check_room(root: &Root) -> Result<()> {
    if root.logs().count() > LOGS_MAX {
        return Err(VersionsError::TooManyLogs);
    }
    if root.generations.len() > GENERATIONS_MAX {
        return Err(VersionsError::TooDeep);
    }
    Ok(())
}

/// A stack as a new root record has it, that was stored: everything is open already but what is new.
pub(super) fn stack_of<D: Folder>(segment: &Segment<D>, root: &Root) -> Result<Stack<D::File>> {
    Stack::open(&segment.folder, root, &segment.known(), Content::Trusted)
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

/// Different for each log, on each machine.
pub(super) fn salt() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
