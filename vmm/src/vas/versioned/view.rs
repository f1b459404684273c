//! One version of a segment as page tables, with a writer's own copies of pages.
//!
//! On hosts with shadow page tables a large entry that was ever present must not be replaced, and a writer
//! replaces entries page by page: what a version shows is mapped for it as 4 KiB. 2 MiB that are all its own
//! are one page (`fresh`). In a reader's view no large page is ever replaced, so 2 MiB that lie in one layer are one
//! page there.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use abi::{
    Entry, GuestPhys, Level, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M, Right, Rights, SegId, Table,
};
use spacejmp_versions::log::header::LogId;
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::page::PAGE_BYTES;
use spacejmp_versions::segment::Source;
use spacejmp_versions::{LayerId, PageIndex, VersionNumber};

use super::append::Contents;
use super::compare::Lately;
use super::copies::{Copies, Frame};
use super::leaf::{self, Leaf};
use super::originals::Originals;
use super::segment::{VersionedSegment, lock};
use super::spill::Spill;
use super::visits::KEPT_COPIES_MAX;
use crate::vas::VasError;
use crate::vas::tables::{SegmentTables, TableFrames};
use crate::vm::MemoryError;
use crate::vm::windows::PinnedRange;

pub(super) const READ: Rights = Rights { write: false, execute: false, user: true };
pub(super) const WRITE: Rights = Rights { write: true, execute: false, user: true };

/// So many tables are made when a thread enters where only a few pages are news.
const AT_ONCE: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) sid: SegId,
    /// The segment's addresses, as far as it may ever grow.
    range: Range<u64>,
    pub(crate) right: Right,
    /// The version it shows, or that a writer's changes are to.
    pub(crate) version: VersionNumber,
    /// What that version says besides its pages.
    committed: VersionFacts,
    /// The same as the thread inside has it.
    pub(crate) facts: VersionFacts,
    /// By number of the 512 GiB slot.
    pdpts: BTreeMap<u64, GuestPhys>,
    /// By number of the gigabyte.
    directories: BTreeMap<u64, GuestPhys>,
    /// By number of the 2 MiB of addresses.
    pub(super) leaves: BTreeMap<u64, Arc<Leaf>>,
    /// A writer's own copies of pages.
    pub(super) copies: BTreeMap<PageIndex, Frame>,
    /// What the version has in such pages.
    pub(super) originals: Originals,
    pub(super) lately: Lately,
    /// Pages that a writer has removed and not touched since: no entry leads to them.
    pub(super) absent: BTreeMap<PageIndex, Absent>,
    /// Pages that a writer has changed and that are not in memory.
    pub(super) spill: Option<Spill>,
    /// Where the next ones are that are written out.
    pub(super) hand: PageIndex,
}

/// What a page has that no entry leads to: who touches it gets a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Absent {
    /// Zeros, as part of the changes.
    Removed,
    /// What the version has.
    Committed,
}

/// Whether what is called runs at the fault of the vCPU that runs on the tables, at that address:
/// then the processor and KVM have dropped the translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trigger {
    /// It does.
    OwnFault,
    /// A system call uses the memory.
    SystemCall,
}

impl View {
    pub(crate) fn new(
        sid: SegId,
        range: Range<u64>,
        right: Right,
        version: VersionNumber,
        facts: VersionFacts,
    ) -> View {
        let (pdpts, directories, leaves) = Default::default();
        let (copies, absent, committed) = (BTreeMap::new(), BTreeMap::new(), facts.clone());
        View {
            sid,
            range,
            right,
            version,
            committed,
            facts,
            pdpts,
            directories,
            leaves,
            copies,
            originals: Originals::default(),
            lately: Lately::default(),
            absent,
            spill: None,
            hand: PageIndex(0),
        }
    }

    /// Takes over the tables of an older version where nothing has changed since: the translations
    /// that the processor and KVM have of them stay. Both views only read: a table that is full never
    /// changes again. One that shows a log or layer that is gone is left, so that it can go. Where
    /// something has changed, but not in many places, tables are made at once: a thread that has looked
    /// there looks again.
    ///
    /// # Errors
    /// No memory for a table; what was taken over stays.
    pub(crate) fn share(
        &mut self,
        older: &View,
        changed: &BTreeSet<PageIndex>,
        segment: &mut VersionedSegment,
        frames: &mut TableFrames,
    ) -> Result<(), VasError> {
        let shared = segment.shared_log();
        let log = lock(&shared);
        let mut left = Vec::new();
        for (&group, leaf) in &older.leaves {
            let start = (group * PAGE_SIZE_2M).max(self.range.start);
            let end = ((group + 1) * PAGE_SIZE_2M).min(self.end());
            if leaf.filled != end || start >= end || !leaf.is_kept_by(&log) {
                continue;
            }
            if changed.range(self.page(start)..self.page(end)).next().is_none() {
                self.link_leaf(start, leaf.entry, frames)?;
                self.leaves.insert(group, leaf.clone());
            } else {
                left.push(start);
            }
        }
        drop(log);
        if left.len() <= AT_ONCE {
            left.into_iter().try_for_each(|start| self.fill(start, segment, frames))?;
        }
        Ok(())
    }

    /// One past the last address that the segment has.
    pub(crate) fn end(&self) -> u64 {
        let size = self.facts.size_bytes.min(self.range.end - self.range.start);
        (self.range.start + size).next_multiple_of(PAGE_SIZE)
    }

    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    pub(crate) fn has(&self, gva: u64) -> bool {
        (self.range.start..self.end()).contains(&gva)
    }

    pub(super) fn page(&self, gva: u64) -> PageIndex {
        PageIndex((gva - self.range.start) / PAGE_SIZE)
    }

    /// A page's address.
    pub(super) fn address(&self, page: PageIndex) -> u64 {
        self.range.start + page.0 * PAGE_SIZE
    }

    /// Replaces the entry at `gva`, which the segment has, in a table that is there; what it leads to from
    /// now on is `source`'s.
    pub(super) fn set_entry(
        &mut self,
        gva: u64,
        entry: Entry,
        source: Option<Source>,
        frames: &TableFrames,
    ) -> Result<(), VasError> {
        let leaf = self.leaves.get_mut(&(gva / PAGE_SIZE_2M)).and_then(Arc::get_mut);
        if let Some(leaf) = leaf
            && let Some(table) = leaf.table()
        {
            leaf.has_shown(source.as_slice(), leaf.filled);
            table.set(frames.mem(), gva, entry)?;
        }
        Ok(())
    }

    /// Whether the entry at `gva` leads to `page`.
    pub(super) fn leads_to(
        &self,
        gva: u64,
        page: GuestPhys,
        frames: &TableFrames,
    ) -> Result<bool, MemoryError> {
        let table = self.leaves.get(&(gva / PAGE_SIZE_2M)).and_then(|leaf| leaf.table());
        let Some(table) = table else { return Ok(false) };
        let entry = table.get(frames.mem(), gva)?;
        Ok(entry.is_present() && entry.target() == page)
    }

    /// Its entries lead to what `version` has.
    pub(super) fn shows(&mut self, version: VersionNumber, facts: VersionFacts) {
        self.version = version;
        self.committed = facts.clone();
        self.facts = facts;
    }

    /// How many pages it has copies of.
    pub(crate) fn copied(&self) -> usize {
        self.copies.len()
    }

    /// Shows the 2 MiB that `gva` lies in, as far as the segment has pages there. A writer sees nothing yet
    /// where nothing exists: see `fresh`.
    fn fill(
        &mut self,
        gva: u64,
        segment: &mut VersionedSegment,
        frames: &mut TableFrames,
    ) -> Result<(), VasError> {
        let (group, within) = (gva / PAGE_SIZE_2M, self.within(gva));
        let (start, end) = (within.start, within.end);
        let from = self.leaves.get(&group).map_or(start, |leaf| leaf.filled);
        if from >= end && self.leaves.contains_key(&group) {
            return Ok(());
        }
        let first = self.page(from);
        let pages = first..PageIndex(first.0 + end.saturating_sub(from) / PAGE_SIZE);
        let sources = segment.log().sources(pages, self.version)?;
        if self.right == Right::Read
            && from == group * PAGE_SIZE_2M
            && let Some(page) = segment.place_whole(first, &sources, frames.machine())?
        {
            let entry = Entry::Page(page, READ);
            self.link_leaf(gva, entry, frames)?;
            let mut leaf = Leaf::new(entry);
            leaf.has_shown(&sources, end);
            self.leaves.insert(group, Arc::new(leaf));
            return Ok(());
        }
        let mut entries = Vec::with_capacity(sources.len());
        for (page, source) in (first.0..).map(PageIndex).zip(&sources) {
            let zero = self.right == Right::Write && *source == Source::Zero;
            if zero || self.absent.contains_key(&page) {
                entries.push(Entry::Empty);
                continue;
            }
            let place = segment.place(page, *source, frames.machine())?;
            entries.push(Entry::Page(segment.gpa(place), READ));
        }
        if let Some(leaf) = self.leaves.get_mut(&group) {
            // One that is shared is full.
            if let Some(leaf) = Arc::get_mut(leaf)
                && let Some(table) = leaf.table()
            {
                for (at, entry) in (from..).step_by(PAGE_SIZE as usize).zip(entries) {
                    table.set(frames.mem(), at, entry)?;
                }
                leaf.has_shown(&sources, end);
            }
            return Ok(());
        }
        let frame = frames.alloc()?;
        let (table, entry) = (Table::new(frame, Level::Table), Entry::Table(frame));
        let filled = match self.right {
            Right::Read => leaf::fill_to_read(table, frames.mem(), start, entries),
            Right::Write => table.fill(frames.mem(), start, entries),
        };
        let linked = filled.and_then(|()| self.link_leaf(gva, entry, frames));
        if let Err(error) = linked {
            frames.park([frame]);
            return Err(error.into());
        }
        let mut leaf = Leaf::new(entry);
        leaf.has_shown(&sources, end);
        self.leaves.insert(group, Arc::new(leaf));
        Ok(())
    }

    /// The addresses that the segment has in the 2 MiB of `gva`.
    pub(super) fn within(&self, gva: u64) -> Range<u64> {
        let start = gva / PAGE_SIZE_2M * PAGE_SIZE_2M;
        start.max(self.range.start)..(start + PAGE_SIZE_2M).min(self.end())
    }

    /// Where the 2 MiB of `gva` end, and their pages, if the segment has all of them and nothing shows them yet:
    /// one large page may.
    pub(super) fn unshown_group(&self, gva: u64) -> Option<(u64, Range<PageIndex>)> {
        let within = self.within(gva);
        let is_whole = within.end.saturating_sub(within.start) == PAGE_SIZE_2M;
        let pages = self.page(within.start)..self.page(within.end);
        (is_whole && !self.has_leaf(gva)).then_some((within.end, pages))
    }

    pub(super) fn has_leaf(&self, gva: u64) -> bool {
        self.leaves.contains_key(&(gva / PAGE_SIZE_2M))
    }

    /// Whether a large page shows `gva`.
    pub(super) fn is_in_large_page(&self, gva: u64) -> bool {
        self.leaves.get(&(gva / PAGE_SIZE_2M)).is_some_and(|leaf| leaf.table().is_none())
    }

    pub(super) fn link_leaf(
        &mut self,
        gva: u64,
        leaf: Entry,
        frames: &mut TableFrames,
    ) -> Result<(), MemoryError> {
        let gib = gva / PAGE_SIZE_1G;
        let directory = match self.directories.get(&gib) {
            Some(&directory) => directory,
            None => {
                let directory = frames.alloc()?;
                self.directories.insert(gib, directory);
                if let Some(&pdpt) = self.pdpts.get(&(gib / 512)) {
                    let pdpt = Table::new(pdpt, Level::Pointer);
                    pdpt.set(frames.mem(), gva, Entry::Table(directory))?;
                }
                directory
            }
        };
        Table::new(directory, Level::Directory).set(frames.mem(), gva, leaf)
    }

    /// Makes the page at `gva`, which the segment has, present, and the thread's own if it is to be
    /// written. The caller links the gigabyte into the tables that the vCPU runs on.
    pub(crate) fn touch(
        &mut self,
        gva: u64,
        write: bool,
        trigger: Trigger,
        segment: &mut VersionedSegment,
        copies: &mut Copies,
        frames: &mut TableFrames,
    ) -> Result<(), VasError> {
        if write
            && self.right == Right::Write
            && self.make_fresh_group(gva, segment, copies, frames)?
        {
            return Ok(());
        }
        if self.right == Right::Read && self.gather(gva, segment, copies, frames)? {
            return Ok(());
        }
        let was_filled =
            self.leaves.get(&(gva / PAGE_SIZE_2M)).is_some_and(|leaf| gva < leaf.filled);
        self.fill(gva, segment, frames)?;
        let page = self.page(gva);
        let table = self.leaves.get(&(gva / PAGE_SIZE_2M)).and_then(|leaf| leaf.table());
        let Some(table) = table.filter(|_| self.right == Right::Write) else { return Ok(()) };
        if self.copies.contains_key(&page) {
            return Ok(());
        }
        let absent = self.absent.get(&page).copied();
        if absent.is_none() && !table.get(frames.mem(), gva)?.is_present() {
            return match write {
                true => self.make_fresh(gva, table, copies, frames),
                false => self.show_zeros(gva, table, segment, frames),
            };
        }
        if !write && absent.is_none() {
            return Ok(());
        }
        let content = match absent {
            Some(Absent::Removed) => [0; PAGE_BYTES],
            Some(Absent::Committed) | None => match &self.spill {
                Some(spill) if spill.has(page) => spill.read(page)?,
                _ => {
                    let content = segment.log().read(page, self.version)?;
                    self.originals.keep(page, Box::new(content));
                    content
                }
            },
        };
        let frame = copies.make(&content, frames.machine())?;
        let entry = Entry::Page(copies.gpa(frame), WRITE);
        if let Err(error) = table.set(frames.mem(), gva, entry) {
            copies.give_back([frame]);
            return Err(error.into());
        }
        self.copies.insert(page, frame);
        self.absent.remove(&page);
        if was_filled && absent.is_none() && trigger == Trigger::SystemCall {
            if let Some(spill) = self.spill.as_mut().filter(|spill| spill.has(page)) {
                return spill.forget(page, frames.machine());
            }
            let source = segment.log().locate(page, self.version)?;
            let place = segment.place(page, source, frames.machine())?;
            segment.forget(place, 1, frames.machine())?;
        }
        Ok(())
    }

    /// Makes zeros of whole pages that the segment has, without touching them. Copies of them are given
    /// back, but for as many as are kept for a next visit: what is freed may be used again soon. The
    /// others need none before they are touched.
    pub(crate) fn remove(
        &mut self,
        range: Range<u64>,
        segment: &mut VersionedSegment,
        copies: &mut Copies,
        frames: &mut TableFrames,
    ) -> Result<(), VasError> {
        // For the commit.
        segment.place(self.page(range.start), Source::Zero, frames.machine())?;
        let mut start = range.start;
        while start < range.end {
            // So that what is in memory of a range is little, however long it is.
            let end = (start / PAGE_SIZE_2M + 1) * PAGE_SIZE_2M;
            let pages = self.page(start)..self.page(end.min(range.end));
            self.remove_some(pages, segment, copies, frames)?;
            start = end;
        }
        Ok(())
    }

    fn remove_some(
        &mut self,
        pages: Range<PageIndex>,
        segment: &mut VersionedSegment,
        copies: &mut Copies,
        frames: &mut TableFrames,
    ) -> Result<(), VasError> {
        let sources = segment.log().sources(pages.clone(), self.version)?;
        let (mut given_back, mut cleared, mut shown) = (Vec::new(), Vec::new(), Vec::new());
        for (page, source) in (pages.start.0..).map(PageIndex).zip(sources) {
            let copy = self.copies.get(&page).copied();
            let gva = self.address(page);
            let leaf = self.leaves.get(&(gva / PAGE_SIZE_2M)).filter(|leaf| gva < leaf.filled);
            let table = leaf.and_then(|leaf| leaf.table());
            if let Some(frame) = copy
                && leaf.is_some_and(|leaf| leaf.table().is_none())
            {
                // Of a large page, which goes on to show it.
                cleared.push(frame);
                continue;
            }
            if let Some(frame) = copy.filter(|_| self.copies.len() <= KEPT_COPIES_MAX) {
                copies.write(frame, &[0; PAGE_BYTES]);
                continue;
            }
            let is_spilled = self.is_spilled(page);
            let is_zero = source == Source::Zero && !is_spilled;
            if copy.is_none() && (is_zero || self.absent.contains_key(&page)) {
                if let Some(absent) = self.absent.get_mut(&page) {
                    *absent = Absent::Removed;
                }
                continue;
            }
            if let Some(table) = table {
                table.set(frames.mem(), gva, Entry::Empty)?;
            }
            self.absent.insert(page, Absent::Removed);
            match self.copies.remove(&page) {
                Some(frame) => given_back.push(frame),
                None if is_spilled => {
                    if let Some(spill) = &mut self.spill {
                        spill.forget(page, frames.machine())?;
                    }
                }
                None if table.is_some() => {
                    shown.push(segment.place(page, source, frames.machine())?);
                }
                None => {}
            }
        }
        // With the memory, or the mapping, go the translations to what the entries showed.
        copies.give_back(given_back);
        copies.clear(cleared);
        shown.sort_unstable();
        for run in shown.chunk_by(|a, b| a.0 == b.0 && a.1 + PAGE_SIZE == b.1) {
            segment.forget(run[0], run.len() as u64, frames.machine())?;
        }
        Ok(())
    }

    /// Pages that are zeros as part of the changes, and of which there is no copy.
    pub(crate) fn removed(&self) -> impl Iterator<Item = PageIndex> {
        let removed = self.absent.iter().filter(|(_, absent)| **absent == Absent::Removed);
        removed.map(|(&page, _)| page)
    }

    /// The page at `gva`, which was touched, for a system call.
    pub(crate) fn pin(
        &mut self,
        gva: u64,
        segment: &mut VersionedSegment,
        copies: &mut Copies,
        frames: &TableFrames,
    ) -> Result<PinnedRange, VasError> {
        let page = self.page(gva);
        if let Some(&frame) = self.copies.get(&page) {
            return Ok(copies.pin_to_write(frame));
        }
        if let Some(spill) = self.spill.as_mut().filter(|spill| spill.has(page)) {
            return spill.pin(page, frames.machine());
        }
        let source = segment.log().locate(page, self.version)?;
        let place = segment.place(page, source, frames.machine())?;
        Ok(segment.pin(place))
    }

    /// The copies, each with its page.
    pub(crate) fn copies(&self) -> impl Iterator<Item = (PageIndex, Frame)> {
        self.copies.iter().map(|(&page, &frame)| (page, frame))
    }

    /// Logs that it shows pages of.
    pub(crate) fn logs(&self) -> impl Iterator<Item = LogId> {
        self.leaves.values().flat_map(|leaf| leaf.logs.iter().copied())
    }

    /// Layers above the home file that it shows pages of.
    pub(crate) fn layers(&self) -> impl Iterator<Item = LayerId> {
        self.leaves.values().flat_map(|leaf| leaf.layers.iter().copied())
    }

    /// Whether size or root object were changed.
    pub(crate) fn has_new_facts(&self) -> bool {
        self.facts != self.committed
    }

    /// What was changed is the version `version` from now on: `contents` of pages, if they are in memory.
    pub(super) fn committed(&mut self, version: VersionNumber, contents: Option<Contents>) {
        self.version = version;
        self.originals.follow(contents);
        self.committed = self.facts.clone();
        self.nothing_is_removed();
    }

    /// Size and root object are again what the version says, and so is what was removed.
    pub(crate) fn reset(&mut self) {
        self.facts = self.committed.clone();
        self.nothing_is_removed();
    }

    fn nothing_is_removed(&mut self) {
        self.absent.values_mut().for_each(|absent| *absent = Absent::Committed);
    }

    /// Frames of its tables that no other view shares, its copies, and what was written out: no vCPU runs on
    /// it any more.
    pub(super) fn into_parts(self) -> (Vec<GuestPhys>, Vec<Frame>, Option<Spill>) {
        let tables = self.pdpts.into_values().chain(self.directories.into_values());
        let (mut tables, mut own): (Vec<_>, Vec<_>) =
            (tables.collect(), self.copies.into_values().collect());
        for leaf in self.leaves.into_values().filter_map(Arc::into_inner) {
            let (table, gathered) = leaf.into_parts();
            tables.extend(table);
            own.extend(gathered);
        }
        (tables, own, self.spill)
    }
}

impl SegmentTables for View {
    fn pdpt(&mut self, slot: u64, frames: &mut TableFrames) -> Result<GuestPhys, MemoryError> {
        if let Some(&pdpt) = self.pdpts.get(&slot) {
            return Ok(pdpt);
        }
        let pdpt = frames.alloc()?;
        let table = Table::new(pdpt, Level::Pointer);
        for (gib, &directory) in self.directories.range(slot * 512..(slot + 1) * 512) {
            table.set(frames.mem(), gib * PAGE_SIZE_1G, Entry::Table(directory))?;
        }
        self.pdpts.insert(slot, pdpt);
        Ok(pdpt)
    }

    fn entry(&self, gib: u64) -> Option<Entry> {
        self.directories.get(&gib).copied().map(Entry::Table)
    }

    fn directory(&self, gib: u64) -> Option<GuestPhys> {
        self.directories.get(&gib).copied()
    }
}
