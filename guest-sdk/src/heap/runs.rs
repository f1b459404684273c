//! Free runs of pages: finding one, splitting, merging with free neighbours, growing the heap.
//!
//! A run never leaves its area. Its first and its last page are marked, so that a program that
//! frees the pages beside it finds its length without a search.

use std::ops::Range;

use seg_heap::MAX_BYTES;
use seg_heap::{AREA_PAGES, PAGE_BYTES, PageDesc, PageKind, bin_of};

use super::Grow;
use super::memory::Memory;

/// Segments grow by 2 MiB at least, of which a page table maps one large page.
const STEP_PAGES: u32 = 32;
/// What is given back at once: 1 MiB, so that many small frees make few calls.
const UNIT_PAGES: u32 = 16;
/// Maximum entries of one bin that are examined for a run that is long enough, while higher bins
/// have runs that are.
const PATIENCE: u32 = 16;

/// A run of exactly `pages` pages, at most 1023, which is then no longer free.
pub(super) fn take(memory: &mut Memory, pages: u32, grow: &mut Grow<'_>) -> Option<u32> {
    let page = match find(memory, pages) {
        Some(page) => page,
        None => {
            let end = needed_end(memory, pages);
            extend(memory, end, grow)?;
            find(memory, pages)?
        }
    };
    ensure_stored(memory, page, grow)?;
    let length = remove(memory, page);
    if length > pages {
        insert(memory, page + pages, length - pages);
    }
    Some(page)
}

/// Reserves all of the area of `page`, if a huge block has left it unreserved. Where an area's
/// storage ends is in the descriptor of its table: 0 for an area that has all of it.
pub(super) fn ensure_stored(memory: &mut Memory, page: u32, grow: &mut Grow<'_>) -> Option<()> {
    let table = page / AREA_PAGES * AREA_PAGES;
    let from = memory.desc(table).bytes;
    if from != 0 {
        let end = memory.pages().min(table.saturating_add(AREA_PAGES));
        grow.reserve(from, u64::from(end) * PAGE_BYTES)?;
        memory.desc(table).bytes = 0;
    }
    Some(())
}

/// Frees `pages` pages from `page` on, all of one area. Of the run that they are part of then, whole
/// units that were not free before are given back.
pub(super) fn give(memory: &mut Memory, page: u32, pages: u32) {
    let run = add(memory, page, pages);
    let start = (page / UNIT_PAGES * UNIT_PAGES).max(run.start.next_multiple_of(UNIT_PAGES));
    let end = (page + pages).next_multiple_of(UNIT_PAGES).min(run.end / UNIT_PAGES * UNIT_PAGES);
    if start < end {
        memory.give_back(start, end - start);
    }
}

/// Makes pages of one area free that have no content; returns the run that they are part of.
pub(super) fn add(memory: &mut Memory, mut page: u32, mut pages: u32) -> Range<u32> {
    let before = *memory.desc(page - 1);
    if before.kind() == Some(PageKind::Free) {
        page -= 1 + u32::from(before.back);
        pages += remove(memory, page);
    }
    let after = page + pages;
    if is_free(memory, after) {
        pages += remove(memory, after);
    }
    insert(memory, page, pages);
    page..page + pages
}

/// Takes up to `wanted` pages at `page` if a free run begins there that has them all.
pub(super) fn take_at(memory: &mut Memory, page: u32, wanted: u32) -> Option<()> {
    if !is_free(memory, page) || memory.desc(page).pages < wanted {
        return None;
    }
    let length = remove(memory, page);
    if length > wanted {
        insert(memory, page + wanted, length - wanted);
    }
    Some(())
}

/// Whether a free run begins at `page`, given that one may: no block spans it.
pub(super) fn is_free(memory: &mut Memory, page: u32) -> bool {
    let in_area = !page.is_multiple_of(AREA_PAGES) && page < memory.pages();
    in_area && memory.desc(page).kind() == Some(PageKind::Free)
}

/// The first page of a free run of at least `pages` pages.
fn find(memory: &mut Memory, pages: u32) -> Option<u32> {
    let bin = bin_of(pages);
    let higher = memory.header().bins_used & (u64::MAX << bin << 1);
    let mut patience = if higher == 0 { u32::MAX } else { PATIENCE };
    let mut page = memory.header().bins.get(bin).copied().unwrap_or(0);
    while page != 0 && patience != 0 {
        let desc = memory.desc(page);
        if desc.pages >= pages {
            return Some(page);
        }
        page = desc.next;
        patience -= 1;
    }
    let bin = higher.trailing_zeros() as usize;
    memory.header().bins.get(bin).copied().filter(|&page| page != 0)
}

/// Adds a free run to its bin.
pub(super) fn insert(memory: &mut Memory, page: u32, pages: u32) {
    let bin = bin_of(pages);
    let next = std::mem::replace(&mut memory.header().bins[bin], page);
    memory.header().bins_used |= 1 << bin;
    if next != 0 {
        memory.desc(next).prev = page;
    }
    let back = (pages - 1) as u16;
    *memory.desc(page + pages - 1) =
        PageDesc { kind: PageKind::Free as u8, back, ..PageDesc::default() };
    *memory.desc(page) =
        PageDesc { kind: PageKind::Free as u8, pages, next, ..PageDesc::default() };
}

/// Removes a free run from its bin and returns its length.
pub(super) fn remove(memory: &mut Memory, page: u32) -> u32 {
    let PageDesc { pages, prev, next, .. } = *memory.desc(page);
    if next != 0 {
        memory.desc(next).prev = prev;
    }
    if prev != 0 {
        memory.desc(prev).next = next;
        return pages;
    }
    let bin = bin_of(pages);
    memory.header().bins[bin] = next;
    if next == 0 {
        memory.header().bins_used &= !(1 << bin);
    }
    pages
}

/// How far the heap must reach so that it has a run of `pages` pages at its end.
fn needed_end(memory: &mut Memory, pages: u32) -> u32 {
    let end = memory.pages();
    let area_end = end.next_multiple_of(AREA_PAGES);
    if end % AREA_PAGES > 1 {
        let last = *memory.desc(end - 1);
        let free = if last.kind() == Some(PageKind::Free) { u32::from(last.back) + 1 } else { 0 };
        if end - free + pages <= area_end {
            return end - free + pages;
        }
    }
    // A new area, whose first page is its table.
    area_end + 1 + pages
}

/// Grows the heap so that it reaches to `end` pages at least.
pub(super) fn extend(memory: &mut Memory, end: u32, grow: &mut Grow<'_>) -> Option<()> {
    const MAX_PAGES: u32 = (MAX_BYTES / PAGE_BYTES) as u32;
    if end > MAX_PAGES {
        return None;
    }
    let old = memory.pages();
    // In steps that grow with the heap: each is a call and changes the segment's page tables.
    let step = (old / 8).clamp(STEP_PAGES, AREA_PAGES);
    let wanted = end.max(old + step).next_multiple_of(STEP_PAGES).min(MAX_PAGES);
    let bytes = |pages: u32| u64::from(pages) * PAGE_BYTES;
    let size = grow.grow(bytes(end), bytes(wanted))?;
    if size < bytes(end) {
        return None;
    }
    // The segment may have grown by more than we asked for: the rest is left for later.
    let mut new = u32::try_from(size / PAGE_BYTES).unwrap_or(u32::MAX).min(wanted);
    if grow.reserve(bytes(old), bytes(new)).is_none() {
        // What is needed may fit where a step does not.
        new = end;
        grow.reserve(bytes(old), bytes(new))?;
    }
    memory.header().end = bytes(new);
    adopt(memory, old, new);
    Some(())
}

/// Grows the heap to `end` pages, whole areas, of which the bytes up to `used` are reserved: those
/// of a huge block. It reaches into the last area, so the table there is among them.
pub(super) fn extend_areas(
    memory: &mut Memory,
    end: u32,
    used: u64,
    grow: &mut Grow<'_>,
) -> Option<()> {
    let bytes = |pages: u32| u64::from(pages) * PAGE_BYTES;
    let old = memory.pages();
    if bytes(end) > MAX_BYTES || grow.grow(bytes(end), bytes(end))? < bytes(end) {
        return None;
    }
    if bytes(old) < used {
        grow.reserve(bytes(old), used)?;
    }
    memory.header().end = bytes(end);
    adopt(memory, old, end);
    if used < bytes(end) {
        memory.desc(end - AREA_PAGES).bytes = used;
    }
    Some(())
}

/// Makes the pages from `start` to `end`, which were not in the heap, free.
pub(super) fn adopt(memory: &mut Memory, start: u32, end: u32) {
    let mut page = start;
    while page < end {
        if page.is_multiple_of(AREA_PAGES) {
            *memory.desc(page) = PageDesc { kind: PageKind::Table as u8, ..PageDesc::default() };
            page += 1;
            continue;
        }
        let next = end.min(page.next_multiple_of(AREA_PAGES));
        add(memory, page, next - page);
        page = next;
    }
}
