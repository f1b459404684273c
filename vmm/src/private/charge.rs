//! Accounting of the private region's pages and records against the run's memory limit.
//!
//! A page is charged before it can be accessed and released after its content is dropped, so that
//! never more memory is in use than the ledger says. A chunk that the host may back with a huge
//! page is charged in full, because the first access may allocate all of it.
#![forbid(unsafe_code)]

use std::ops::Range;

use abi::{Errno, PAGE_SIZE};

use super::held::{MAX_AREAS, SLOT_PAGES};
use super::region::{EAGER_BYTES, Inner, PrivateRegion, SLOT, SLOT_RECORD_BYTES, Slot};
use crate::vm::{MemoryError, MemoryKind};

/// The pages of its slot that a range within one slot covers.
fn pages_of(piece: &Range<u64>) -> Range<usize> {
    let first = (piece.start % SLOT / PAGE_SIZE) as usize;
    first..first + ((piece.end - piece.start) / PAGE_SIZE) as usize
}

/// The part of `range` that lies in slot `index`.
fn part(index: u64, range: &Range<u64>) -> Range<u64> {
    (index * SLOT).max(range.start)..((index + 1) * SLOT).min(range.end)
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
    pub(super) fn hold(&self, slot: &mut Slot, pages: Range<usize>) -> Result<(), Errno> {
        let missing = pages.len() as u64 - slot.held.count(pages.clone());
        if missing == 0 {
            return Ok(());
        }
        let charged = self.mem().ledger().charge(MemoryKind::Private, missing * PAGE_SIZE);
        charged.map_err(|_| Errno::ENOMEM)?;
        slot.held.set(pages);
        Ok(())
    }

    /// Charges the pages of `piece`, a range in the slot, from its start for as long as memory
    /// lasts; returns the part that is held now.
    pub(super) fn hold_some(&self, slot: &mut Slot, piece: &Range<u64>) -> Range<u64> {
        if self.hold(slot, pages_of(piece)).is_ok() {
            return piece.clone();
        }
        let mut at = piece.start;
        while at < piece.end && self.hold(slot, pages_of(&(at..at + PAGE_SIZE))).is_ok() {
            at += PAGE_SIZE;
        }
        piece.start..at
    }

    /// Charges the part of `range`, whose slots are bound, that a system call is going to write.
    ///
    /// # Errors
    /// `ENOMEM` at the limit.
    pub(super) fn hold_range(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), Errno> {
        let Inner { areas, slots, .. } = inner;
        for (piece, vma) in areas.overlapping(range) {
            if !vma.backing.is_counted() {
                continue;
            }
            for (&index, slot) in slots.range_mut(piece.start / SLOT..piece.end.div_ceil(SLOT)) {
                self.hold(slot, pages_of(&part(index, &piece)))?;
            }
        }
        Ok(())
    }

    /// Lets the host back a slot that is entirely held with a huge page.
    pub(super) fn make_huge(&self, slot: &mut Slot) -> Result<(), MemoryError> {
        if !slot.huge {
            self.mem().allow_huge(slot.chunk, SLOT)?;
            slot.huge = true;
        }
        Ok(())
    }

    /// Releases the pages of `range`, whose content has been dropped.
    pub(super) fn release(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), MemoryError> {
        let mut released = 0;
        let slots = range.start / SLOT..range.end.div_ceil(SLOT);
        let mut result = Ok(());
        for (&index, slot) in inner.slots.range_mut(slots) {
            released += slot.held.clear(pages_of(&part(index, &range)));
            if slot.huge && !slot.held.has_all(0..SLOT_PAGES) {
                result = result.and(self.mem().forbid_huge(slot.chunk, SLOT));
                slot.huge = false;
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
            let Some(slot) = inner.slots.get_mut(&(source / SLOT)) else { continue };
            if slot.held.clear(page(source)) == 0 {
                continue;
            }
            gone += 1;
            // The host moves its advice with the pages.
            let huge = slot.huge;
            if let Some(slot) = inner.slots.get_mut(&(dest / SLOT)) {
                come += u64::from(!slot.held.has_all(page(dest)));
                slot.held.set(page(dest));
                slot.huge |= huge;
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
        let held = inner.slots.range(range.start / SLOT..range.end.div_ceil(SLOT));
        let held: u64 =
            held.map(|(&index, slot)| slot.held.count(pages_of(&part(index, range)))).sum();
        let mut bytes = (range.end - range.start).saturating_sub(held * PAGE_SIZE);
        let slots = range.start / SLOT..range.end.div_ceil(SLOT);
        if range.end - range.start <= EAGER_BYTES {
            // What is made present immediately needs page tables and a chunk.
            let ready = |index| inner.slots.get(&index).is_some_and(|slot| slot.table.is_some());
            let fresh = slots.filter(|&index| !ready(index)).count() as u64;
            let above = if fresh == 0 { 0 } else { PAGE_SIZE };
            bytes = bytes.saturating_add(fresh * (PAGE_SIZE + SLOT_RECORD_BYTES) + above);
        }
        self.mem().ledger().check(MemoryKind::Private, bytes).map_err(|_| Errno::ENOMEM)
    }
}
