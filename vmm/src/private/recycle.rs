//! Reuse of guest-physical chunks, and of their tables, for other addresses.
//!
//! A slot in which nothing is mapped any more stays bound for a while: most programs reuse the
//! addresses that they have freed. When many such slots have accumulated, all of them are unbound
//! together, because this costs every vCPU all its translations (docs/src/internals/memory.md has
//! the argument):
//!
//! 1. their tables are unlinked;
//! 2. everything is forgotten (`Windows::forget_everything`);
//! 3. tables and chunks are emptied and become free.
//!
//! Only then does a slot have no chunk again. If the second step fails, everything is as before.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use abi::layout::CLOCK_PAGE;
use abi::walk::TableMem;
use abi::{GuestPhys, Level, PAGE_SIZE, PAGE_SIZE_1G};

use super::held::SLOT_PAGES;
use super::region::{Inner, Mapped, PrivateRegion, SLOT, SLOT_RECORD_BYTES, virt};
use super::vma::page_up;
use crate::vm::{MemoryError, MemoryKind};

/// Slots in a directory, the table above the slots' own.
const DIRECTORY_SLOTS: u64 = PAGE_SIZE_1G / SLOT;
/// The slot of call page, gate and clock page. Its table is not the program's.
const LAST_SLOT: u64 = CLOCK_PAGE.raw() / SLOT;
/// The most that an idle slot holds: a record and a table.
const IDLE_BYTES: u64 = SLOT_RECORD_BYTES + PAGE_SIZE;
/// Number of idle slots that is worth the flush.
const WORTH_IT: u64 = 1024;

/// Slots that may have nothing mapped any more, and the tables above slots.
#[derive(Debug, Default)]
pub(super) struct Recycling {
    /// Slots of which something was unmapped. Whether all of it was is checked when needed.
    idle: BTreeSet<u64>,
    /// How many were still in `idle` after the last run.
    kept: usize,
    /// By gigabyte, the directory allocated for it; `None` for one that existed before.
    directories: BTreeMap<u64, Option<GuestPhys>>,
}

impl Inner {
    /// Records that the slots of `range` may have become idle.
    pub(super) fn mark_idle(&mut self, range: &Range<u64>) {
        let slots = self.slots.range(range.start / SLOT..range.end.div_ceil(SLOT));
        self.recycling.idle.extend(slots.map(|(&index, _)| index));
    }

    /// Whether the slot, which is bound, is entirely unused.
    fn is_idle(&self, index: u64) -> bool {
        let range = index * SLOT..(index + 1) * SLOT;
        let top = page_up(self.heap_end).unwrap_or(self.heap_end);
        let is_ahead = top < self.heap_ahead && range.start < self.heap_ahead && top < range.end;
        let is_empty = |slot: &super::region::Slot| {
            slot.mapped != Mapped::Large && slot.held.count(0..SLOT_PAGES) == 0
        };
        index != LAST_SLOT
            && !is_ahead
            && self.slots.get(&index).is_some_and(is_empty)
            && self.areas.is_free(range)
    }
}

impl PrivateRegion {
    /// Recycles idle slots if enough have accumulated, except those of `keep`, which are about to
    /// be used.
    pub(super) fn recycle_when_worth_it(&self, inner: &mut Inner, keep: &Range<u64>) {
        let gathered = inner.recycling.idle.len() as u64;
        let fresh = gathered.saturating_sub(inner.recycling.kept as u64);
        let active = (inner.slots.len() as u64).saturating_sub(gathered);
        // Enough that the flush of all vCPUs is rare compared to the work that made them idle, but
        // never a large part of the memory.
        let limit = self.limit_bytes() / IDLE_BYTES;
        let enough = WORTH_IT.min(limit / 32).max(active.min(limit / 8)).max(1);
        if fresh >= enough {
            self.recycle(inner, keep);
        }
    }

    /// Recycles the idle slots except those of `keep`; returns whether there were any.
    pub(super) fn recycle(&self, inner: &mut Inner, keep: &Range<u64>) -> bool {
        let keep = keep.start / SLOT..keep.end.div_ceil(SLOT);
        let mut busy = self.pins.runs();
        busy.push(keep);
        let mut kept = BTreeSet::new();
        for run in busy.iter().filter(|run| !run.is_empty()) {
            kept.extend(inner.recycling.idle.range(run.clone()));
        }
        let gathered = std::mem::replace(&mut inner.recycling.idle, kept);
        let is_kept = |index: &u64| inner.recycling.idle.contains(index);
        let idle: Vec<u64> =
            gathered.into_iter().filter(|index| !is_kept(index) && inner.is_idle(*index)).collect();
        let done = !idle.is_empty() && self.take_apart(inner, &idle).is_ok();
        if !done {
            inner.recycling.idle.extend(idle);
        }
        inner.recycling.kept = inner.recycling.idle.len();
        done
    }

    /// Unbinds idle slots.
    ///
    /// # Errors
    /// The host's or KVM's, with all slots bound as before.
    fn take_apart(&self, inner: &mut Inner, idle: &[u64]) -> Result<(), MemoryError> {
        self.unlink_tables(inner, idle)?;
        let directories = self.unlink_directories(inner, idle)?;
        if let Err(error) = self.machine.windows.forget_everything() {
            for (gigabyte, frame) in directories {
                self.link_directory(gigabyte, frame)?;
            }
            return Err(error);
        }
        let mut frames = Vec::new();
        for (gigabyte, frame) in directories {
            inner.recycling.directories.remove(&gigabyte);
            frames.push(frame);
        }
        let mut chunks: Vec<Range<u64>> = Vec::new();
        for index in idle {
            let Some(slot) = inner.slots.remove(index) else { continue };
            frames.extend(slot.table);
            self.mem().ledger().release(MemoryKind::Records, SLOT_RECORD_BYTES);
            // A call that had it pinned may have written to it since it was unmapped; what the host
            // cannot empty is never reused.
            if slot.has_file && self.mem().unmap_file(slot.chunk, SLOT).is_err() {
                continue;
            }
            let start = slot.chunk.raw();
            match chunks.last_mut() {
                Some(run) if run.end == start => run.end += SLOT,
                _ => chunks.push(start..start + SLOT),
            }
        }
        self.machine.give_back_frames(frames);
        for run in chunks {
            let (gpa, len) = (GuestPhys::literal(run.start), run.end - run.start);
            if self.mem().discard(gpa, len).is_ok() {
                self.mem().give_back(gpa, len);
            }
        }
        Ok(())
    }

    fn unlink_tables(&self, inner: &mut Inner, idle: &[u64]) -> Result<(), MemoryError> {
        self.machine.edit_tables(|tables| {
            for index in idle {
                let Some(slot) = inner.slots.get_mut(index) else { continue };
                if let (Some(_), Ok(gva)) = (slot.table, virt(index * SLOT)) {
                    tables.clear(gva, Level::Directory)?;
                }
                slot.mapped = Mapped::Nothing;
            }
            Ok(())
        })
    }

    /// Unlinks the directories that have only `idle` slots below them; returns their gigabytes and
    /// frames.
    fn unlink_directories(
        &self,
        inner: &Inner,
        idle: &[u64],
    ) -> Result<Vec<(u64, GuestPhys)>, MemoryError> {
        let mut unlinked = Vec::new();
        for of_one in idle.chunk_by(|a, b| a / DIRECTORY_SLOTS == b / DIRECTORY_SLOTS) {
            let Some(gigabyte) = of_one.first().map(|index| index / DIRECTORY_SLOTS) else {
                continue;
            };
            let slots = gigabyte * DIRECTORY_SLOTS..(gigabyte + 1) * DIRECTORY_SLOTS;
            let made = inner.recycling.directories.get(&gigabyte).copied().flatten();
            if let Some(frame) = made
                && inner.slots.range(slots).count() == of_one.len()
                && let Ok(gva) = virt(gigabyte * PAGE_SIZE_1G)
            {
                self.machine.edit_tables(|tables| tables.clear(gva, Level::Pointer))?;
                unlinked.push((gigabyte, frame));
            }
        }
        Ok(unlinked)
    }

    /// Allocates the directories of `slots`, so that their frames are recorded outside guest
    /// memory, too.
    pub(super) fn make_directories(
        &self,
        inner: &mut Inner,
        slots: Range<u64>,
    ) -> Result<(), MemoryError> {
        for gigabyte in slots.start / DIRECTORY_SLOTS..slots.end.div_ceil(DIRECTORY_SLOTS) {
            if inner.recycling.directories.contains_key(&gigabyte) {
                continue;
            }
            let Ok(gva) = virt(gigabyte * PAGE_SIZE_1G) else { continue };
            let found = self.machine.edit_tables(|tables| tables.walk(gva))?;
            let made = if found.level < Level::Pointer {
                None
            } else {
                let frame = self.machine.edit_tables_and_pool(|_, tables| tables.alloc_table())?;
                self.link_directory(gigabyte, frame)?;
                Some(frame)
            };
            inner.recycling.directories.insert(gigabyte, made);
        }
        Ok(())
    }

    fn link_directory(&self, gigabyte: u64, frame: GuestPhys) -> Result<(), MemoryError> {
        let Ok(gva) = virt(gigabyte * PAGE_SIZE_1G) else { return Ok(()) };
        self.machine.edit_tables(|tables| tables.link(gva, Level::Pointer, frame))
    }
}
