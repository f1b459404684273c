//! Promotion of 512 small pages to a large one, for reservations that are made accessible step by
//! step.

use std::ops::Range;

use abi::{Entry, Level, PAGE_SIZE, Table};

use super::held::SLOT_PAGES;
use super::region::{Inner, Mapped, PrivateRegion, SLOT};
use super::vma::{Backing, Vma};

impl PrivateRegion {
    /// Handles a reservation that is made accessible step by step, as allocators do: once the
    /// previous slot is one large page, this one is expected to become one too, so the host may
    /// back it with one from the start. Not for the first slot, or every small reservation would
    /// cost 2 MiB.
    pub(super) fn expect_growth(&self, inner: &mut Inner, opened: &Range<u64>) {
        let index = opened.start / SLOT;
        let slot_range = index * SLOT..(index + 1) * SLOT;
        let follows_large =
            inner.slots.get(&index.wrapping_sub(1)).is_some_and(|s| s.mapped == Mapped::Large);
        if !follows_large || !Self::is_plain(inner, slot_range) {
            return;
        }
        if let Some(slot) = inner.slots.get_mut(&index)
            && slot.mapped == Mapped::Nothing
            && self.hold(slot, 0..SLOT_PAGES).is_ok()
        {
            // Best effort: small pages are as good.
            let _ = self.make_huge(slot);
        }
    }

    /// Whether all of `range` is anonymous memory, whatever its rights.
    pub(super) fn is_plain(inner: &Inner, range: Range<u64>) -> bool {
        let anonymous = |(_, vma): (_, &Vma)| matches!(vma.backing, Backing::Anonymous);
        inner.areas.covers(range.clone()) && inner.areas.overlapping(range).all(anonymous)
    }

    /// Replaces the 512 small pages of the slot around `at` by one large page, when all of it has
    /// become accessible with the same rights. The content stays where it is, because slots are
    /// bound to chunks.
    pub(super) fn join_slot(&self, inner: &mut Inner, at: u64, vma: &Vma) {
        let index = at / SLOT;
        let slot_range = index * SLOT..(index + 1) * SLOT;
        let Some(rights) = vma.prot.rights() else { return };
        let same = |(_, v): (_, &Vma)| v.prot == vma.prot;
        if !Self::is_plain(inner, slot_range.clone())
            || !inner.areas.overlapping(slot_range.clone()).all(same)
        {
            return;
        }
        let Some(slot) = inner.slots.get_mut(&index) else { return };
        let Mapped::Table(table) = slot.mapped else { return };
        if slot.has_file {
            return;
        }
        let chunk = slot.chunk;
        // All 512 are present, or will be on first access: charge them all.
        if self.hold(slot, 0..SLOT_PAGES).is_err() {
            return;
        }
        let _ = self.mem().collapse(chunk, SLOT);
        slot.huge = true;
        if self.set_large(slot, slot_range.start, rights).is_ok() {
            // A processor may still have the path to the old table cached (SDM 3A, 4.10.3), and KVM
            // flushes only where it has something to drop. An emptied table is harmless: the fault
            // that it causes makes the processor drop the cached path (4.10.4.1), and a later split
            // refills the table.
            let table = Table::new(table, Level::Table);
            for page in (0..SLOT).step_by(PAGE_SIZE as usize) {
                let _ = table.set(self.mem(), page, Entry::Empty);
            }
            let _ = self.mem().forget_translations(chunk, SLOT);
        }
    }
}
