//! Pages that show an image's content (`vm::images`): what another process has, too.
//!
//! Such a page is charged to the run with its image, once for all who have that, and not to this process: as long as it
//! is only read. It is present without the right to write, so the first write is a fault, and then the page is
//! charged: the host makes a copy. A page that is neither charged nor marked here is never present.

use std::ops::Range;

use abi::{Entry, Errno, Level, PAGE_SIZE, Rights, Table};

use super::charge::{pages_of, part};
use super::region::{BLOCK, Block, Inner, Mapped, PrivateRegion, blocks_of};
use super::vma::Vma;
use crate::access::{FaultCause, FaultOutcome, MemoryAccess};

/// What is charged at a write, at first: for the host to copy one page is cheaper than the fault that brought it here.
const COPIED_AT_ONCE: u64 = 16 * PAGE_SIZE;

fn page_at(at: u64) -> Range<usize> {
    pages_of(&(at..at + PAGE_SIZE))
}

pub(super) fn without_write(rights: Rights) -> Rights {
    Rights { write: false, ..rights }
}

impl PrivateRegion {
    /// Takes the right to write from the pages of a range that are present, before an image is mapped there;
    /// that makes every vCPU forget it. Each is charged by itself at its first write, so large ones become small.
    ///
    /// # Errors
    /// `ENOMEM` without memory for a table.
    pub(super) fn forbid_writing(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        rights: Option<Rights>,
    ) -> Result<(), Errno> {
        for (&index, block) in inner.blocks.range_mut(blocks_of(&range)) {
            if block.mapped != Mapped::Nothing {
                self.table(block, index * BLOCK)?;
            }
        }
        self.restrict(inner, range, rights.map(without_write))
    }

    /// Records that an image is mapped in a range: its pages are no longer charged to this process.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn note_image(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), Errno> {
        self.release(inner, range.clone())?;
        for (&index, block) in inner.blocks.range_mut(blocks_of(&range)) {
            block.of_image.set(pages_of(&part(index, &range)));
        }
        Ok(())
    }

    /// Makes what is an image's in a range absent, for something else will be there. The caller changes the host's
    /// mapping of it, so that every vCPU forgets it.
    ///
    /// # Errors
    /// The VM's memory.
    pub(super) fn forget_image(&self, inner: &mut Inner, range: &Range<u64>) -> Result<(), Errno> {
        for (&index, block) in inner.blocks.range_mut(blocks_of(range)) {
            let piece = part(index, range);
            if block.of_image.count(pages_of(&piece)) == 0 {
                continue;
            }
            if let Mapped::Table(table) = block.mapped {
                let table = Table::new(table, Level::Table);
                for at in (piece.start..piece.end).step_by(PAGE_SIZE as usize) {
                    if block.of_image.has_all(page_at(at)) {
                        table.set(self.mem(), at, Entry::Empty)?;
                    }
                }
            }
            block.of_image.clear(pages_of(&piece));
        }
        Ok(())
    }

    /// Makes the pages of `piece` present, in a block with pages of an image: those without the right to write, the
    /// others charged, as far as there is memory.
    ///
    /// # Errors
    /// `ENOMEM` if there is not enough for all.
    pub(super) fn populate_beside_image(
        &self,
        block: &mut Block,
        piece: &Range<u64>,
        rights: Rights,
    ) -> Result<(), Errno> {
        let mut at = piece.start;
        while at < piece.end {
            let of_image = block.of_image.has_all(page_at(at));
            let mut end = at + PAGE_SIZE;
            while end < piece.end && block.of_image.has_all(page_at(end)) == of_image {
                end += PAGE_SIZE;
            }
            if of_image {
                self.set_small(block, at..end, without_write(rights))?;
            } else {
                let held = self.hold_some(block, &(at..end));
                self.set_small(block, held.clone(), rights)?;
                if held.end < end {
                    return Err(Errno::ENOMEM);
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Resolves a fault, at an address that the area allows to be accessed so, if its page is an image's.
    pub(super) fn image_fault(
        &self,
        inner: &mut Inner,
        gva: u64,
        cause: FaultCause,
        area: Range<u64>,
        vma: &Vma,
    ) -> Option<FaultOutcome> {
        let page = gva & !(PAGE_SIZE - 1);
        let block = inner.blocks.get(&(gva / BLOCK))?;
        if !vma.backing.is_counted() || !block.of_image.has_all(page_at(page)) {
            return None;
        }
        let block_start = gva / BLOCK * BLOCK;
        let in_block = block_start.max(area.start)..(block_start + BLOCK).min(area.end);
        if cause != FaultCause::Data(MemoryAccess::Write) {
            return self.populate(inner, in_block, vma).is_ok().then_some(FaultOutcome::Resolved);
        }
        let first = page & !(COPIED_AT_ONCE - 1);
        inner.copied_at_once = match first == inner.next_copy {
            true => (inner.copied_at_once * 2).min(BLOCK),
            false => COPIED_AT_ONCE,
        };
        let end = (first + inner.copied_at_once).min(in_block.end);
        inner.next_copy = end;
        let wanted = first.max(in_block.start)..end;
        let is_copied = |inner: &mut Inner, wanted: Range<u64>| {
            self.hold_range(inner, wanted.clone())
                .and_then(|()| self.populate(inner, wanted, vma))
                .is_ok()
        };
        let one = page..page + PAGE_SIZE;
        let resolved = is_copied(inner, wanted)
            || is_copied(inner, one.clone())
            || (self.recycle(inner, &one) && is_copied(inner, one));
        Some(if resolved { FaultOutcome::Resolved } else { FaultOutcome::OutOfMemory })
    }
}
