//! The page tables of one segment with one right, built once in a VM and linked by every
//! instance that has the segment.
//!
//! ```text
//!  PDPT of a 512 GiB slot ->  piece (1 GiB of addresses): page directory, or one large page
//!                              -> 2 MiB pages, page tables of 4 KiB pages
//! ```
//!
//! A piece is built when its extent is mapped (`residency::segment`) and goes when that goes. Entries
//! only ever turn from absent to present while a piece lives.

use std::collections::BTreeMap;
use std::ops::Range;

use abi::objects::PagePolicy;
use abi::{GuestPhys, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M, Pte, Rights};

use super::TableFrames;
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
    entry: Pte,
    directory: Option<GuestPhys>,
    /// Of 4 KiB pages, by number of the 2 MiB of addresses.
    tables: BTreeMap<u64, GuestPhys>,
    /// Up to here all pages are present.
    filled: u64,
}

impl Piece {
    /// The table of the 2 MiB of addresses number `index`, with `leaves` from page `first` on.
    fn table(
        &mut self,
        index: u64,
        first: u64,
        leaves: &[Pte],
        frames: &mut TableFrames,
    ) -> Result<GuestPhys, MemoryError> {
        if let Some(&table) = self.tables.get(&index) {
            // Linked already: entry by entry, each whole for a vCPU that walks.
            for (index, leaf) in (first..).zip(leaves) {
                frames.set(table, index, *leaf)?;
            }
            return Ok(table);
        }
        let table = frames.alloc()?;
        frames.fill(table, first, leaves)?;
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

    /// The page-directory-pointer table of a 512 GiB slot, made if missing.
    pub(crate) fn pdpt(
        &mut self,
        slot: u64,
        frames: &mut TableFrames,
    ) -> Result<GuestPhys, MemoryError> {
        if let Some(&pdpt) = self.pdpts.get(&slot) {
            return Ok(pdpt);
        }
        let pdpt = frames.alloc()?;
        for (gib, piece) in self.pieces.range(slot * 512..(slot + 1) * 512) {
            frames.set(pdpt, *gib, piece.entry)?;
        }
        self.pdpts.insert(slot, pdpt);
        Ok(pdpt)
    }

    /// The entry for a gigabyte, if its piece is built.
    pub(crate) fn entry(&self, gib: u64) -> Option<Pte> {
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
            let entry = Pte::leaf(gpa_of(whole.start), self.rights, true);
            let piece =
                Piece { entry, directory: None, tables: BTreeMap::new(), filled: whole.end };
            self.pieces.insert(gib, piece);
            return self.link(gib, entry, frames);
        }
        if fresh {
            let directory = frames.alloc()?;
            let entry = Pte::table(directory, true);
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
        let first = piece.filled / PAGE_SIZE_2M;
        let mut at = piece.filled;
        while at < span.used.end {
            let start = at / PAGE_SIZE_2M * PAGE_SIZE_2M;
            let end = (start + PAGE_SIZE_2M).min(span.used.end);
            let index = start / PAGE_SIZE_2M;
            let is_large = policy != PagePolicy::Small4K
                && at == start
                && end - start == PAGE_SIZE_2M
                && !piece.tables.contains_key(&index);
            entries.push(if is_large {
                Pte::leaf(gpa_of(start), rights, true)
            } else {
                let leaves = leaves(at..end, &gpa_of, rights);
                let table = piece.table(index, at / PAGE_SIZE, &leaves, frames)?;
                Pte::table(table, true)
            });
            at = end;
        }
        if fresh {
            frames.fill(directory, first, &entries)?;
        } else {
            for (index, entry) in (first..).zip(entries) {
                frames.set(directory, index, entry)?;
            }
        }
        piece.filled = span.used.end;
        let entry = piece.entry;
        self.link(gib, entry, frames)
    }

    fn link(&self, gib: u64, entry: Pte, frames: &TableFrames) -> Result<(), MemoryError> {
        match self.pdpts.get(&(gib / 512)) {
            Some(&pdpt) => frames.set(pdpt, gib, entry),
            // No instance has linked the slot yet.
            None => Ok(()),
        }
    }

    /// Unlinks the piece of a gigabyte and parks its tables. Its window must go before any
    /// of them is used again, and with it every memory of them.
    pub(crate) fn drop_piece(
        &mut self,
        gib: u64,
        frames: &mut TableFrames,
    ) -> Result<(), MemoryError> {
        if let Some(piece) = self.pieces.remove(&gib) {
            self.link(gib, Pte::EMPTY, frames)?;
            frames.park(piece.into_frames());
        }
        Ok(())
    }

    /// Gives every table back. No instance may link to any.
    pub(crate) fn dissolve(self, frames: &mut TableFrames) {
        for piece in self.pieces.into_values() {
            frames.park(piece.into_frames());
        }
        frames.park(self.pdpts.into_values());
    }
}

/// Entries for the pages of `range`.
fn leaves(range: Range<u64>, gpa_of: &impl Fn(u64) -> GuestPhys, rights: Rights) -> Vec<Pte> {
    let pages = range.step_by(PAGE_SIZE as usize);
    pages.map(|at| Pte::leaf(gpa_of(at), rights, false)).collect()
}
