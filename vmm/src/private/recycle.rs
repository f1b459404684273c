//! Reuse of guest-physical blocks, and of their tables, for other addresses.
//!
//! A block in which nothing is mapped any more stays bound for a while: most programs come back to
//! the addresses they have freed. When many have gathered, all of them are taken apart at once,
//! because it costs every vCPU all its translations (docs/src/internals/memory.md has the argument):
//!
//! 1. their tables are unlinked;
//! 2. everything is forgotten (`Windows::forget_everything`);
//! 3. tables and blocks are emptied, and their GPAs are free.
//!
//! Only then is a block without a GPA again. Should the second step fail, all is as before.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use abi::layout::CLOCK_PAGE;
use abi::walk::TableMem;
use abi::{GuestPhys, Level, PAGE_SIZE, PAGE_SIZE_1G};

use super::held::BLOCK_PAGES;
use super::region::{BLOCK, BLOCK_RECORD_BYTES, Inner, Mapped, PrivateRegion, blocks_of, virt};
use super::vma::page_up;
use crate::vm::{MemoryError, MemoryKind};

/// Blocks that a directory, the table above their own, has.
const DIRECTORY_BLOCKS: u64 = PAGE_SIZE_1G / BLOCK;
/// Where call page, gate and clock lie. Their table is not the program's.
const LAST_BLOCK: u64 = CLOCK_PAGE.raw() / BLOCK;
/// What an idle block holds at most: a record and a table.
const IDLE_BYTES: u64 = BLOCK_RECORD_BYTES + PAGE_SIZE;
/// Idle blocks that are worth the flush.
const WORTH_IT: u64 = 1024;

/// Blocks in which nothing may be mapped any more, and the tables above blocks.
#[derive(Debug, Default)]
pub(super) struct Recycling {
    /// Blocks of which something was unmapped. Whether all of it is, is seen when it matters.
    idle: BTreeSet<u64>,
    /// How many were still in `idle` after the last run.
    kept: usize,
    /// By gigabyte, the directory allocated for it; `None` for one that existed before.
    directories: BTreeMap<u64, Option<GuestPhys>>,
}

impl Inner {
    /// Notes that the blocks of `range` may have become idle.
    pub(super) fn mark_idle(&mut self, range: &Range<u64>) {
        let blocks = self.blocks.range(blocks_of(range));
        self.recycling.idle.extend(blocks.map(|(&index, _)| index));
    }

    /// Whether the block, which is bound, is in no use at all.
    fn is_idle(&self, index: u64) -> bool {
        let range = index * BLOCK..(index + 1) * BLOCK;
        let top = page_up(self.heap_end).unwrap_or(self.heap_end);
        let is_ahead = top < self.heap_ahead && range.start < self.heap_ahead && top < range.end;
        let is_empty = |block: &super::region::Block| {
            block.mapped != Mapped::Large && block.held.count(0..BLOCK_PAGES) == 0
        };
        index != LAST_BLOCK
            && !is_ahead
            && self.blocks.get(&index).is_some_and(is_empty)
            && self.areas.is_free(range)
    }
}

impl PrivateRegion {
    /// Recycles if enough has gathered, but not the blocks of `keep`, which are about to be used.
    pub(super) fn recycle_when_worth_it(&self, inner: &mut Inner, keep: &Range<u64>) {
        let gathered = inner.recycling.idle.len() as u64;
        let fresh = gathered.saturating_sub(inner.recycling.kept as u64);
        let active = (inner.blocks.len() as u64).saturating_sub(gathered);
        // So many that flushing all vCPUs is rare compared to the work of gathering them, but never
        // much of the memory there is.
        let limit = self.limit_bytes() / IDLE_BYTES;
        let enough = WORTH_IT.min(limit / 32).max(active.min(limit / 8)).max(1);
        if fresh >= enough {
            self.recycle(inner, keep);
        }
    }

    /// Recycles what is idle but the blocks of `keep`; whether there was anything.
    pub(super) fn recycle(&self, inner: &mut Inner, keep: &Range<u64>) -> bool {
        let keep = blocks_of(keep);
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

    /// Takes idle blocks apart.
    ///
    /// # Errors
    /// The host's or KVM's, with all blocks bound as before.
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
        let mut freed: Vec<Range<u64>> = Vec::new();
        for index in idle {
            let block = inner.blocks.remove(index).expect("idle blocks are bound");
            frames.extend(block.table);
            self.mem().ledger().release(MemoryKind::Records, BLOCK_RECORD_BYTES);
            // A call that had it pinned may have written to it since it was unmapped; what the
            // host cannot empty is never used again.
            if block.has_file && self.mem().unmap_file(block.gpa, BLOCK).is_err() {
                continue;
            }
            let start = block.gpa.raw();
            match freed.last_mut() {
                Some(run) if run.end == start => run.end += BLOCK,
                _ => freed.push(start..start + BLOCK),
            }
        }
        self.machine.give_back_frames(frames);
        for run in freed {
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
                let block = inner.blocks.get_mut(index).expect("idle blocks are bound");
                if let (Some(_), Ok(gva)) = (block.table, virt(index * BLOCK)) {
                    tables.clear(gva, Level::Directory)?;
                }
                block.mapped = Mapped::Nothing;
            }
            Ok(())
        })
    }

    /// Unlinks the directories that have only `idle` blocks below them: their gigabytes and frames.
    fn unlink_directories(
        &self,
        inner: &Inner,
        idle: &[u64],
    ) -> Result<Vec<(u64, GuestPhys)>, MemoryError> {
        let mut unlinked = Vec::new();
        for of_one in idle.chunk_by(|a, b| a / DIRECTORY_BLOCKS == b / DIRECTORY_BLOCKS) {
            let Some(gigabyte) = of_one.first().map(|index| index / DIRECTORY_BLOCKS) else {
                continue;
            };
            let blocks = gigabyte * DIRECTORY_BLOCKS..(gigabyte + 1) * DIRECTORY_BLOCKS;
            let made = inner.recycling.directories.get(&gigabyte).copied().flatten();
            if let Some(frame) = made
                && inner.blocks.range(blocks).count() == of_one.len()
                && let Ok(gva) = virt(gigabyte * PAGE_SIZE_1G)
            {
                self.machine.edit_tables(|tables| tables.clear(gva, Level::Pointer))?;
                unlinked.push((gigabyte, frame));
            }
        }
        Ok(unlinked)
    }

    /// Makes the directories of `blocks`, so that it is known, and not only in guest memory, which
    /// frames they have.
    pub(super) fn make_directories(
        &self,
        inner: &mut Inner,
        blocks: Range<u64>,
    ) -> Result<(), MemoryError> {
        for gigabyte in blocks.start / DIRECTORY_BLOCKS..blocks.end.div_ceil(DIRECTORY_BLOCKS) {
            if inner.recycling.directories.contains_key(&gigabyte) {
                continue;
            }
            let gva = virt(gigabyte * PAGE_SIZE_1G).expect("the private region is canonical");
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
        let gva = virt(gigabyte * PAGE_SIZE_1G).expect("the private region is canonical");
        self.machine.edit_tables(|tables| tables.link(gva, Level::Pointer, frame))
    }
}
