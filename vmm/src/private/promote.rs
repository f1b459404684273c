//! Promotion of 512 small pages to a large one, for reservations that are made accessible step by
//! step.

use std::ops::Range;

use abi::{Entry, Level, PAGE_SIZE, Table};

use super::held::BLOCK_PAGES;
use super::region::{BLOCK, Inner, Mapped, PrivateRegion};
use super::vma::{Backing, Vma};

impl PrivateRegion {
    /// A reservation that is opened step by step, as an allocator does: once the block before
    /// is one large page, this one will be too, so the host may back it with one from the
    /// start. Not for the first block, or every small reservation would cost 2 MiB.
    pub(super) fn expect_growth(&self, inner: &mut Inner, opened: &Range<u64>) {
        let index = opened.start / BLOCK;
        let block_range = index * BLOCK..(index + 1) * BLOCK;
        let follows_large =
            inner.blocks.get(&index.wrapping_sub(1)).is_some_and(|s| s.mapped == Mapped::Large);
        if !follows_large || !Self::is_plain(inner, block_range) {
            return;
        }
        if let Some(block) = inner.blocks.get_mut(&index)
            && block.mapped == Mapped::Nothing
            && block.of_image.is_empty()
            && self.hold(block, 0..BLOCK_PAGES).is_ok()
        {
            // Best effort: small pages are as good.
            let _ = self.make_huge(block);
        }
    }

    /// Whether all of `range` is anonymous memory, whatever its rights.
    pub(super) fn is_plain(inner: &Inner, range: Range<u64>) -> bool {
        let anonymous = |(_, vma): (_, &Vma)| matches!(vma.backing, Backing::Anonymous);
        inner.areas.covers(range.clone()) && inner.areas.overlapping(range).all(anonymous)
    }

    /// Replaces the 512 small pages of the block around `at` by one large page, when all of it
    /// has become accessible with the same rights. The content stays where it is: that is
    /// what the fixed GPA of a block is for.
    pub(super) fn promote_block(&self, inner: &mut Inner, at: u64, vma: &Vma) {
        let index = at / BLOCK;
        let block_range = index * BLOCK..(index + 1) * BLOCK;
        let Some(rights) = vma.prot.rights() else { return };
        let same = |(_, v): (_, &Vma)| v.prot == vma.prot;
        if !Self::is_plain(inner, block_range.clone())
            || !inner.areas.overlapping(block_range.clone()).all(same)
        {
            return;
        }
        let Some(block) = inner.blocks.get_mut(&index) else { return };
        let Mapped::Table(table) = block.mapped else { return };
        if block.has_file || !block.of_image.is_empty() || self.guards.are_in_block(index) {
            return;
        }
        let gpa = block.gpa;
        // All 512 are present, or will be at their first touch: charge them all.
        if self.hold(block, 0..BLOCK_PAGES).is_err() {
            return;
        }
        let _ = self.mem().collapse(gpa, BLOCK);
        block.huge = true;
        if self.set_large(block, block_range.start, rights).is_ok() {
            // A processor may still have the path to the old table cached (SDM 3A, 4.10.3) and KVM
            // flushes only where it has something to drop. An emptied table can mislead no
            // processor: the fault it causes makes the processor drop the path (4.10.4.1), and a
            // later split refills the table.
            let table = Table::new(table, Level::Table);
            for page in (0..BLOCK).step_by(PAGE_SIZE as usize) {
                let _ = table.set(self.mem(), page, Entry::Empty);
            }
            let _ = self.mem().forget_translations(gpa, BLOCK);
        }
    }
}
