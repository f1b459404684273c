//! The page tables of one segment with one right, built once in a VM and linked by every
//! instance that has the segment.
//!
//! ```text
//!  PDPT of a 512 GiB slot ->  piece (1 GiB of addresses): page directory, or one large page
//!                              -> 2 MiB pages, page tables of 4 KiB pages
//! ```
//!
//! A piece is built when its extent is mapped (`residency::segment`) and removed with it. Entries
//! only ever turn from absent to present while a piece lives.

use std::collections::BTreeMap;
use std::ops::Range;

use abi::objects::PagePolicy;
use abi::{Entry, GuestPhys, Level, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M, Rights, Table};

use super::{SegmentTables, TableFrames};
use crate::vm::MemoryError;

/// Where a piece's memory is and which addresses of it the segment has.
#[derive(Clone, Debug)]
pub(crate) struct PieceSpan {
    /// The addresses, within one aligned gigabyte, that may be mapped now.
    pub(crate) used: Range<u64>,
    /// Guest-physical address that belongs to `origin`.
    pub(crate) gpa: GuestPhys,
    /// First address of the window.
    pub(crate) origin: u64,
}

#[derive(Debug)]
struct Piece {
    /// What a page-directory-pointer table holds for the gigabyte.
    entry: Entry,
    directory: Option<GuestPhys>,
    /// Of 4 KiB pages, by number of the 2 MiB of addresses.
    tables: BTreeMap<u64, GuestPhys>,
    /// Up to here all pages are present.
    filled: u64,
}

impl Piece {
    /// The table of the 2 MiB of addresses that `pages` lie in, with an entry for each of them.
    fn table(
        &mut self,
        pages: Range<u64>,
        entry: impl Fn(u64) -> Entry,
        frames: &mut TableFrames,
    ) -> Result<GuestPhys, MemoryError> {
        let (index, first) = (pages.start / PAGE_SIZE_2M, pages.start);
        let mut pages = pages.step_by(PAGE_SIZE as usize);
        if let Some(&table) = self.tables.get(&index) {
            // Linked already: entry by entry, each store atomic for a vCPU that walks.
            let linked = Table::new(table, Level::Table);
            pages.try_for_each(|at| linked.set(frames.mem(), at, entry(at)))?;
            return Ok(table);
        }
        let table = frames.alloc()?;
        Table::new(table, Level::Table).fill(frames.mem(), first, pages.map(entry))?;
        self.tables.insert(index, table);
        Ok(table)
    }

    fn into_frames(self) -> impl Iterator<Item = GuestPhys> {
        self.directory.into_iter().chain(self.tables.into_values())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Subtree {
    rights: Rights,
    /// By number of the 512 GiB slot.
    pdpts: BTreeMap<u64, GuestPhys>,
    /// By number of the gigabyte.
    pieces: BTreeMap<u64, Piece>,
}

impl Subtree {
    pub(crate) fn new(write: bool) -> Subtree {
        let rights = Rights { write, execute: false, user: true };
        Subtree { rights, pdpts: BTreeMap::new(), pieces: BTreeMap::new() }
    }

    /// Whether everything up to `end` in the gigabyte is mapped.
    pub(crate) fn is_filled(&self, gib: u64, end: u64) -> bool {
        self.pieces.get(&gib).is_some_and(|piece| piece.filled >= end)
    }

    /// Builds the piece of a gigabyte, or extends it up to the end of `span.used`.
    pub(crate) fn fill(
        &mut self,
        gib: u64,
        span: &PieceSpan,
        policy: PagePolicy,
        frames: &mut TableFrames,
    ) -> Result<(), MemoryError> {
        if self.is_filled(gib, span.used.end) {
            return Ok(());
        }
        let whole = gib * PAGE_SIZE_1G..(gib + 1) * PAGE_SIZE_1G;
        let gpa_of = |at: u64| span.gpa.offset(at - span.origin);
        let fresh = !self.pieces.contains_key(&gib);
        if fresh
            && policy == PagePolicy::Largest
            && frames.machine().has_gigabyte_pages()
            && span.used == whole
            && gpa_of(whole.start).raw().is_multiple_of(PAGE_SIZE_1G)
        {
            let entry = Entry::Page(gpa_of(whole.start), self.rights);
            let piece =
                Piece { entry, directory: None, tables: BTreeMap::new(), filled: whole.end };
            self.pieces.insert(gib, piece);
            return self.link(gib, entry, frames);
        }
        if fresh {
            let directory = frames.alloc()?;
            let entry = Entry::Table(directory);
            let piece = Piece {
                entry,
                directory: Some(directory),
                tables: BTreeMap::new(),
                filled: span.used.start,
            };
            self.pieces.insert(gib, piece);
        }
        let rights = self.rights;
        let piece = self.pieces.get_mut(&gib).expect("it was there or has just been made");
        let directory = piece.directory.expect("a gigabyte page is filled from the start");
        let mut entries = Vec::new();
        let first = piece.filled / PAGE_SIZE_2M * PAGE_SIZE_2M;
        let mut at = piece.filled;
        while at < span.used.end {
            let start = at / PAGE_SIZE_2M * PAGE_SIZE_2M;
            let end = (start + PAGE_SIZE_2M).min(span.used.end);
            let is_large = policy != PagePolicy::Small4K
                && at == start
                && end - start == PAGE_SIZE_2M
                && !piece.tables.contains_key(&(start / PAGE_SIZE_2M));
            let page = |at| Entry::Page(gpa_of(at), rights);
            entries.push(if is_large {
                page(start)
            } else {
                Entry::Table(piece.table(at..end, page, frames)?)
            });
            at = end;
        }
        let directory = Table::new(directory, Level::Directory);
        if fresh {
            // Not linked anywhere yet: in one copy.
            directory.fill(frames.mem(), first, entries)?;
        } else {
            for (address, entry) in (first..).step_by(PAGE_SIZE_2M as usize).zip(entries) {
                directory.set(frames.mem(), address, entry)?;
            }
        }
        piece.filled = span.used.end;
        let entry = piece.entry;
        self.link(gib, entry, frames)
    }

    fn link(&self, gib: u64, entry: Entry, frames: &TableFrames) -> Result<(), MemoryError> {
        match self.pdpts.get(&(gib / 512)) {
            Some(&pdpt) => {
                Table::new(pdpt, Level::Pointer).set(frames.mem(), gib * PAGE_SIZE_1G, entry)
            }
            // No instance has linked the slot yet.
            None => Ok(()),
        }
    }

    /// Unlinks the piece of a gigabyte and parks its tables. Its window must be removed before any
    /// of them is used again, and with it every cached translation through them.
    pub(crate) fn drop_piece(
        &mut self,
        gib: u64,
        frames: &mut TableFrames,
    ) -> Result<(), MemoryError> {
        if let Some(piece) = self.pieces.remove(&gib) {
            self.link(gib, Entry::Empty, frames)?;
            frames.park(piece.into_frames());
        }
        Ok(())
    }

    /// Releases every table. No instance may link to any.
    pub(crate) fn dissolve(self, frames: &mut TableFrames) {
        for piece in self.pieces.into_values() {
            frames.park(piece.into_frames());
        }
        frames.park(self.pdpts.into_values());
    }
}

impl SegmentTables for Subtree {
    fn pdpt(&mut self, slot: u64, frames: &mut TableFrames) -> Result<GuestPhys, MemoryError> {
        if let Some(&pdpt) = self.pdpts.get(&slot) {
            return Ok(pdpt);
        }
        let pdpt = frames.alloc()?;
        for (gib, piece) in self.pieces.range(slot * 512..(slot + 1) * 512) {
            let pdpt = Table::new(pdpt, Level::Pointer);
            pdpt.set(frames.mem(), gib * PAGE_SIZE_1G, piece.entry)?;
        }
        self.pdpts.insert(slot, pdpt);
        Ok(pdpt)
    }

    fn entry(&self, gib: u64) -> Option<Entry> {
        self.pieces.get(&gib).map(|piece| piece.entry)
    }

    fn directory(&self, gib: u64) -> Option<GuestPhys> {
        self.pieces.get(&gib).and_then(|piece| piece.directory)
    }
}
