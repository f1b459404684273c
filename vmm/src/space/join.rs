//! From 512 small pages to a large one, for reservations that are opened step by step.

use std::ops::Range;

use abi::Pte;

use super::private::{Inner, Mapped, SLOT, Slot, Space};
use super::vma::{Backing, Vma};
use crate::vm::MemoryError;

impl Space {
    /// A reservation that is opened step by step, as an allocator does: once the slot before
    /// is one large page, this one will be too, so the host may back it with one from the
    /// start. Not for the first slot, or every small reservation would cost 2 MiB.
    pub(super) fn expect_growth(&self, inner: &Inner, opened: &Range<u64>) {
        let index = opened.start / SLOT;
        let slot_range = index * SLOT..(index + 1) * SLOT;
        let follows_large =
            inner.slots.get(&index.wrapping_sub(1)).is_some_and(|s| s.mapped == Mapped::Large);
        let fresh = inner.slots.get(&index).is_none_or(|s| s.mapped == Mapped::Nothing);
        if follows_large && fresh && Self::is_plain(inner, slot_range.clone()) {
            let _ = Self::each_run(inner, slot_range, |run, gpa| {
                self.mem().allow_huge(gpa, run.end - run.start)
            });
        }
    }

    /// Whether all of `range` is anonymous memory, whatever its rights.
    pub(super) fn is_plain(inner: &Inner, range: Range<u64>) -> bool {
        let anonymous = |(_, vma): (_, &Vma)| matches!(vma.backing, Backing::Anonymous);
        inner.areas.covers(range.clone()) && inner.areas.overlapping(range).all(anonymous)
    }

    /// Replaces the 512 small pages of the slot around `at` by one large page, when all of it
    /// has become accessible with the same rights. The content stays where it is: that is
    /// what binding slots to chunks is for.
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
        // All 512 are present, or will be at their first touch: count them all.
        let Ok(present) = self.count_present(slot) else { return };
        if inner.present_pages + 512 - present > inner.limit_pages {
            return;
        }
        let _ = self.mem().collapse(chunk, SLOT);
        if self.set_large(slot, slot_range.start, rights).is_ok() {
            inner.present_pages += 512 - present;
            // A processor may still have the way to the old table cached (SDM 3A, 4.10.3) and
            // KVM flushes only where it has something to drop. An emptied table can mislead
            // nobody: the fault it gives makes the processor forget the way (4.10.4.1), and a
            // later split fills the table anew.
            for entry in 0..512 {
                let _ = self.mem().store(table.offset(entry * 8), Pte::EMPTY.raw());
            }
            let _ = self.mem().forget_translations(chunk, SLOT);
        }
    }

    pub(super) fn count_present(&self, slot: &Slot) -> Result<u64, MemoryError> {
        let Mapped::Table(table) = slot.mapped else { return Ok(0) };
        let mut present = 0;
        for index in 0..512 {
            let entry = Pte::from_raw(self.mem().load(table.offset(index * 8))?);
            present += u64::from(entry.is_present());
        }
        Ok(present)
    }
}
