//! The page tables of one segment with one right, built once in a VM and linked by every
//! instance that has the segment.
//!
//! ```text
//!  PDPT of a 512 GiB slot ->  piece (1 GiB of addresses): page directory, or one large page
//!                              -> 2 MiB pages, page tables of 4 KiB pages
//! ```
//!
//! A piece is built when its extent is mapped (extent.rs) and goes when that goes. Entries
//! only ever turn from absent to present while a piece lives.

use std::collections::BTreeMap;
use std::ops::Range;

use abi::objects::PagePolicy;
use abi::{Entry, GuestPhys, Level, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M, Rights, Table};

use crate::vas::tables::frames::Frames;
use crate::vm::{Machine, MemoryError};

/// 512 GiB: what one entry of a root table covers.
pub(crate) const SLOT_BYTES: u64 = 512 << 30;

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
    tables: BTreeMap<usize, GuestPhys>,
    /// Up to here all pages are present.
    filled: u64,
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

    /// The page-directory-pointer table of a 512 GiB slot, made if missing.
    pub(crate) fn pdpt(
        &mut self,
        slot: u64,
        frames: &mut Frames,
        machine: &Machine,
    ) -> Result<GuestPhys, MemoryError> {
        if let Some(&pdpt) = self.pdpts.get(&slot) {
            return Ok(pdpt);
        }
        let pdpt = frames.alloc(machine)?;
        for (gib, piece) in self.pieces.range(slot * 512..(slot + 1) * 512) {
            let pdpt = Table::new(pdpt, Level::Pointer);
            pdpt.set(&machine.mem, gib * PAGE_SIZE_1G, piece.entry)?;
        }
        self.pdpts.insert(slot, pdpt);
        Ok(pdpt)
    }

    /// The entry for a gigabyte, if its piece is built.
    pub(crate) fn entry(&self, gib: u64) -> Option<Entry> {
        self.pieces.get(&gib).map(|piece| piece.entry)
    }

    /// The page directory of a gigabyte, unless it is one large page or not built.
    pub(crate) fn directory(&self, gib: u64) -> Option<GuestPhys> {
        self.pieces.get(&gib).and_then(|piece| piece.directory)
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
        frames: &mut Frames,
        machine: &Machine,
    ) -> Result<(), MemoryError> {
        if self.is_filled(gib, span.used.end) {
            return Ok(());
        }
        let whole = gib * PAGE_SIZE_1G..(gib + 1) * PAGE_SIZE_1G;
        let gpa_of = |at: u64| span.gpa.offset(at - span.origin);
        let fresh = !self.pieces.contains_key(&gib);
        if fresh
            && policy == PagePolicy::Largest
            && machine.has_gigabyte_pages()
            && span.used == whole
            && gpa_of(whole.start).raw().is_multiple_of(PAGE_SIZE_1G)
        {
            let entry = Entry::Page(gpa_of(whole.start), self.rights);
            let piece =
                Piece { entry, directory: None, tables: BTreeMap::new(), filled: whole.end };
            return self.publish(gib, piece, machine);
        }
        if fresh {
            let directory = frames.alloc(machine)?;
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
        let Some(piece) = self.pieces.get_mut(&gib) else { return Ok(()) };
        let Some(directory) = piece.directory else { return Ok(()) };
        let mut entries = Vec::new();
        let first = piece.filled / PAGE_SIZE_2M * PAGE_SIZE_2M;
        let mut at = piece.filled;
        while at < span.used.end {
            let start = at / PAGE_SIZE_2M * PAGE_SIZE_2M;
            let end = (start + PAGE_SIZE_2M).min(span.used.end);
            let index = (start / PAGE_SIZE_2M % 512) as usize;
            let large = policy != PagePolicy::Small4K
                && at == start
                && end - start == PAGE_SIZE_2M
                && !piece.tables.contains_key(&index);
            let entry = if large {
                Entry::Page(gpa_of(start), rights)
            } else {
                let pages = (at..end).step_by(PAGE_SIZE as usize);
                let mut pages = pages.map(|at| (at, Entry::Page(gpa_of(at), rights)));
                let table = match piece.tables.get(&index) {
                    // Linked already: entry by entry, each whole for a vCPU that walks.
                    Some(&table) => {
                        let small = Table::new(table, Level::Table);
                        pages.try_for_each(|(at, page)| small.set(&machine.mem, at, page))?;
                        table
                    }
                    None => {
                        let table = frames.alloc(machine)?;
                        let small = Table::new(table, Level::Table);
                        small.fill(&machine.mem, at, pages.map(|(_, page)| page))?;
                        piece.tables.insert(index, table);
                        table
                    }
                };
                Entry::Table(table)
            };
            entries.push(entry);
            at = end;
        }
        let directory = Table::new(directory, Level::Directory);
        if fresh {
            // Not linked anywhere yet: in one copy.
            directory.fill(&machine.mem, first, entries)?;
        } else {
            for (address, entry) in (first..).step_by(PAGE_SIZE_2M as usize).zip(entries) {
                directory.set(&machine.mem, address, entry)?;
            }
        }
        piece.filled = span.used.end;
        let entry = piece.entry;
        self.link(gib, entry, machine)
    }

    fn publish(&mut self, gib: u64, piece: Piece, machine: &Machine) -> Result<(), MemoryError> {
        let entry = piece.entry;
        self.pieces.insert(gib, piece);
        self.link(gib, entry, machine)
    }

    fn link(&self, gib: u64, entry: Entry, machine: &Machine) -> Result<(), MemoryError> {
        match self.pdpts.get(&(gib / 512)) {
            Some(&pdpt) => {
                Table::new(pdpt, Level::Pointer).set(&machine.mem, gib * PAGE_SIZE_1G, entry)
            }
            None => Ok(()),
        }
    }

    /// Unlinks the piece of a gigabyte and parks its tables. Its window must go before any
    /// of them is used again, and with it every memory of them.
    pub(crate) fn drop_piece(
        &mut self,
        gib: u64,
        frames: &mut Frames,
        machine: &Machine,
    ) -> Result<(), MemoryError> {
        if let Some(piece) = self.pieces.remove(&gib) {
            self.link(gib, Entry::Empty, machine)?;
            piece
                .directory
                .into_iter()
                .chain(piece.tables.into_values())
                .for_each(|f| frames.park(f));
        }
        Ok(())
    }

    /// Gives every table back. No instance may link to any.
    pub(crate) fn dissolve(self, frames: &mut Frames) {
        for piece in self.pieces.into_values() {
            piece
                .directory
                .into_iter()
                .chain(piece.tables.into_values())
                .for_each(|f| frames.park(f));
        }
        self.pdpts.into_values().for_each(|pdpt| frames.park(pdpt));
    }
}
