//! Accounting of the private region's pages and records against the run's memory limit.
//!
//! A page is charged before it can be touched and released after its content is gone, so that
//! at no moment more is taken than the ledger says. A block that the host may back with a huge
//! page is charged as a whole, for its first touch may take all of it.
#![forbid(unsafe_code)]

use std::ops::Range;

use abi::{Errno, PAGE_SIZE};

use super::held::{BLOCK_PAGES, MAX_AREAS};
use super::region::{
    BLOCK, BLOCK_RECORD_BYTES, Block, EAGER_BYTES, Inner, PrivateRegion, blocks_of,
};
use crate::vm::{MemoryError, MemoryKind};

/// Which pages of its block a range within one block is.
pub(super) fn pages_of(piece: &Range<u64>) -> Range<usize> {
    let first = (piece.start % BLOCK / PAGE_SIZE) as usize;
    first..first + ((piece.end - piece.start) / PAGE_SIZE) as usize
}

/// The part of `range` that lies in block `index`.
pub(super) fn part(index: u64, range: &Range<u64>) -> Range<u64> {
    (index * BLOCK).max(range.start)..((index + 1) * BLOCK).min(range.end)
}

/// Bytes of the pages in `range` that are held.
pub(super) fn held_bytes(inner: &Inner, range: &Range<u64>) -> u64 {
    let blocks = inner.blocks.range(blocks_of(range));
    let held = |(&index, block): (&u64, &Block)| block.held.count(pages_of(&part(index, range)));
    blocks.map(held).sum::<u64>() * PAGE_SIZE
}

/// Whether one more area fits, along with those created by splitting areas at the ends of `range`.
/// This is Linux's own limit, so that the program sees Linux's error and not the effects of a host
/// that runs out of mappings.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn check_area_count(inner: &Inner, range: &Range<u64>) -> Result<(), Errno> {
    let after = inner.areas.len() + inner.areas.splits(range) + 1;
    if after > MAX_AREAS { Err(Errno::ENOMEM) } else { Ok(()) }
}

impl PrivateRegion {
    /// Charges those of `pages` that are not held yet, all or none.
    ///
    /// # Errors
    /// `ENOMEM` at the limit.
    pub(super) fn hold(&self, block: &mut Block, pages: Range<usize>) -> Result<(), Errno> {
        let missing = pages.len() as u64 - block.held.count(pages.clone());
        if missing == 0 {
            return Ok(());
        }
        let charged = self.mem().ledger().charge(MemoryKind::Private, missing * PAGE_SIZE);
        charged.map_err(|_| Errno::ENOMEM)?;
        block.held.set(pages.clone());
        block.of_image.clear(pages);
        Ok(())
    }

    /// Charges the pages of `piece`, a range in the block, from its beginning as far as there is
    /// memory: returns the part that is held now.
    pub(super) fn hold_some(&self, block: &mut Block, piece: &Range<u64>) -> Range<u64> {
        if self.hold(block, pages_of(piece)).is_ok() {
            return piece.clone();
        }
        let mut at = piece.start;
        while at < piece.end && self.hold(block, pages_of(&(at..at + PAGE_SIZE))).is_ok() {
            at += PAGE_SIZE;
        }
        piece.start..at
    }

    /// Charges what of `range`, whose blocks are bound, a system call is going to write.
    ///
    /// # Errors
    /// `ENOMEM` at the limit.
    pub(super) fn hold_range(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), Errno> {
        let Inner { areas, blocks, .. } = inner;
        for (piece, vma) in areas.overlapping(range) {
            if !vma.backing.is_counted() {
                continue;
            }
            for (&index, block) in blocks.range_mut(blocks_of(&piece)) {
                self.hold(block, pages_of(&part(index, &piece)))?;
            }
        }
        Ok(())
    }

    /// Lets the host back a block that is wholly held with a huge page.
    pub(super) fn make_huge(&self, block: &mut Block) -> Result<(), MemoryError> {
        if !block.huge {
            self.mem().allow_huge(block.gpa, BLOCK)?;
            block.huge = true;
        }
        Ok(())
    }

    /// Releases the pages of `range`, whose content has been dropped.
    pub(super) fn release(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), MemoryError> {
        let mut released = 0;
        let blocks = blocks_of(&range);
        let mut result = Ok(());
        for (&index, block) in inner.blocks.range_mut(blocks) {
            released += block.held.clear(pages_of(&part(index, &range)));
            block.of_image.clear(pages_of(&part(index, &range)));
            if block.huge && !block.held.has_all(0..BLOCK_PAGES) {
                result = result.and(self.mem().forbid_huge(block.gpa, BLOCK));
                block.huge = false;
            }
        }
        self.mem().ledger().release(MemoryKind::Private, released * PAGE_SIZE);
        result
    }

    /// Moves the charges for `len` bytes from `from` to `to`, whose pages were all zero.
    pub(super) fn move_held(&self, inner: &mut Inner, from: u64, to: u64, len: u64) {
        let (mut gone, mut come) = (0, 0);
        for offset in (0..len).step_by(PAGE_SIZE as usize) {
            let page = |at: u64| pages_of(&(at..at + PAGE_SIZE));
            let (source, dest) = (from + offset, to + offset);
            let Some(block) = inner.blocks.get_mut(&(source / BLOCK)) else { continue };
            let of_image = block.of_image.clear(page(source)) > 0;
            if block.held.clear(page(source)) == 0 {
                let dest_block = inner.blocks.get_mut(&(dest / BLOCK));
                if let Some(block) = dest_block.filter(|_| of_image)
                    && !block.held.has_all(page(dest))
                {
                    block.of_image.set(page(dest));
                }
                continue;
            }
            gone += 1;
            // The host moves its advice with the pages.
            let huge = block.huge;
            if let Some(block) = inner.blocks.get_mut(&(dest / BLOCK)) {
                come += u64::from(!block.held.has_all(page(dest)));
                block.held.set(page(dest));
                block.huge |= huge;
            }
        }
        let left = gone - come;
        self.mem().ledger().release(MemoryKind::Private, left * PAGE_SIZE);
    }

    /// Whether all of `range` could be held. An allocation that obviously cannot succeed is refused
    /// when it is requested, not when it is accessed.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn check_room_for(
        &self,
        inner: &mut Inner,
        range: &Range<u64>,
    ) -> Result<(), Errno> {
        match self.check_room_now(inner, range) {
            Err(_) if self.recycle(inner, range) => self.check_room_now(inner, range),
            checked => checked,
        }
    }

    fn check_room_now(&self, inner: &Inner, range: &Range<u64>) -> Result<(), Errno> {
        let held = held_bytes(inner, range);
        let mut bytes = (range.end - range.start).saturating_sub(held);
        let blocks = blocks_of(range);
        if range.end - range.start <= EAGER_BYTES {
            // What is made present at once needs tables, and a place to lie in.
            let ready = |index| inner.blocks.get(&index).is_some_and(|block| block.table.is_some());
            let fresh = blocks.filter(|&index| !ready(index)).count() as u64;
            let above = if fresh == 0 { 0 } else { PAGE_SIZE };
            bytes = bytes.saturating_add(fresh * (PAGE_SIZE + BLOCK_RECORD_BYTES) + above);
        }
        self.mem().ledger().check(MemoryKind::Private, bytes).map_err(|_| Errno::ENOMEM)
    }
}
