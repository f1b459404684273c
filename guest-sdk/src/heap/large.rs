//! Large blocks, which are runs of pages, and huge ones, which are runs of areas.
//!
//! A huge block begins at page 1 of an area, after its table, and has all of the areas it reaches
//! into. What it does not need of the last one are addresses, not memory: they are never touched,
//! and not reserved. An area that it leaves in that state records it (`runs::ensure_stored`).

use seg_heap::PAGE_BYTES;
use seg_heap::{AREA_BYTES, AREA_PAGES, PageDesc, PageKind, RUN_BINS};

use super::memory::Memory;
use super::{Grow, mark_bodies, runs};

/// Maximum pages of a run.
const MAX_RUN: u32 = AREA_PAGES - 1;
/// Alignment of segments: blocks cannot be aligned better.
const MAX_ALIGN_PAGES: u64 = (2 << 20) / PAGE_BYTES;

/// The first page of a block of `bytes` bytes at a multiple of `align`.
pub(super) fn allocate(
    memory: &mut Memory,
    bytes: u64,
    align: u64,
    grow: &mut Grow<'_>,
) -> Option<u32> {
    let align_pages = u32::try_from(align.div_ceil(PAGE_BYTES)).ok()?;
    if u64::from(align_pages) > MAX_ALIGN_PAGES {
        return None;
    }
    // A block of no bytes may ask for an alignment beyond the classes'.
    let pages = u32::try_from(bytes.max(1).div_ceil(PAGE_BYTES)).ok()?;
    if pages > MAX_RUN {
        return if align_pages == 1 { allocate_huge(memory, bytes, grow) } else { None };
    }
    let spare = align_pages - 1;
    if pages + spare > MAX_RUN {
        return None;
    }
    let page = runs::take(memory, pages + spare, grow)?;
    let aligned = page.next_multiple_of(align_pages);
    let (before, after) = (aligned - page, spare - (aligned - page));
    // The block's own page first: freeing pages reads its descriptor.
    describe(memory, PageKind::Large, aligned, pages, bytes);
    if before != 0 {
        runs::add(memory, page, before);
    }
    if after != 0 {
        runs::add(memory, aligned + pages, after);
    }
    Some(aligned)
}

/// Frees the large or huge block that begins at `page`.
pub(super) fn free(memory: &mut Memory, page: u32) {
    let PageDesc { pages, bytes, .. } = *memory.desc(page);
    if memory.desc(page).kind() == Some(PageKind::Huge) {
        let (first, areas) = (page / AREA_PAGES, areas_of(pages));
        release_areas(memory, first, areas, storage_end(first, areas, bytes));
        let header = memory.header();
        header.huge = header.huge.saturating_sub(1);
    } else {
        runs::give(memory, page, pages);
    }
}

/// Changes the size of the large or huge block at `page` where it is, if it can be.
pub(super) fn resize(
    memory: &mut Memory,
    page: u32,
    bytes: u64,
    grow: &mut Grow<'_>,
) -> Option<()> {
    let desc = *memory.desc(page);
    if desc.kind() == Some(PageKind::Huge) {
        return resize_huge(memory, page, desc, bytes, grow);
    }
    let pages = u32::try_from(bytes.max(1).div_ceil(PAGE_BYTES)).ok()?;
    if pages < desc.pages {
        memory.desc(page).pages = pages;
        runs::give(memory, page + pages, desc.pages - pages);
    } else if pages > desc.pages {
        if page % AREA_PAGES + pages > AREA_PAGES {
            return None;
        }
        let (end, more) = (page + desc.pages, pages - desc.pages);
        let is_last = end == memory.pages()
            || (runs::is_free(memory, end) && end + memory.desc(end).pages == memory.pages());
        if is_last && page + pages > memory.pages() {
            runs::extend(memory, page + pages, grow)?;
        }
        runs::ensure_stored(memory, page, grow)?;
        runs::take_at(memory, end, more)?;
        memory.desc(page).pages = pages;
        mark_bodies(memory, page, pages);
    }
    memory.desc(page).bytes = bytes;
    Some(())
}

fn resize_huge(
    memory: &mut Memory,
    page: u32,
    desc: PageDesc,
    bytes: u64,
    grow: &mut Grow<'_>,
) -> Option<()> {
    let (first, has, wanted) = (page / AREA_PAGES, areas_of(desc.pages), areas_for(bytes)?);
    let stored = storage_end(first, has, desc.bytes);
    if wanted < has {
        memory.desc(page).pages = wanted * AREA_PAGES - 1;
        release_areas(memory, first + wanted, has - wanted, stored);
    } else if wanted > has {
        if (first + has) * AREA_PAGES == memory.pages() {
            let end = (first + wanted).checked_mul(AREA_PAGES)?;
            runs::extend_areas(memory, end, storage_end(first, wanted, bytes), grow)?;
        }
        if free_areas_at(memory, first + has, wanted - has) < wanted - has {
            return None;
        }
        grow.reserve(stored, storage_end(first, wanted, bytes))?;
        for area in first + has..first + wanted {
            runs::remove(memory, area * AREA_PAGES + 1);
        }
        memory.desc(page).pages = wanted * AREA_PAGES - 1;
    } else if storage_end(first, has, bytes) > stored {
        grow.reserve(stored, storage_end(first, has, bytes))?;
    }
    memory.desc(page).bytes = bytes;
    Some(())
}

fn allocate_huge(memory: &mut Memory, bytes: u64, grow: &mut Grow<'_>) -> Option<u32> {
    let areas = areas_for(bytes)?;
    let first = match find_areas(memory, areas) {
        Some(first) => first,
        None => {
            let start = end_of_use(memory);
            let end = start.checked_add(areas)?.checked_mul(AREA_PAGES)?;
            runs::extend_areas(memory, end, storage_end(start, areas, bytes), grow)?;
            find_areas(memory, areas)?
        }
    };
    grow.reserve(area_start(first), storage_end(first, areas, bytes))?;
    for area in first..first + areas {
        runs::remove(memory, area * AREA_PAGES + 1);
    }
    let page = first * AREA_PAGES + 1;
    describe(memory, PageKind::Huge, page, areas * AREA_PAGES - 1, bytes);
    memory.header().huge += 1;
    Some(page)
}

/// The first of that many consecutive areas that are entirely free, the lowest there are: what a
/// growing table leaves behind stays together, and is enough for the next one.
fn find_areas(memory: &mut Memory, areas: u32) -> Option<u32> {
    lowest_area(memory, |memory, area| free_areas_at(memory, area, areas) == areas)
}

/// The area from which on there is nothing; the last one counts although it is not full yet.
fn end_of_use(memory: &mut Memory) -> u32 {
    let end = memory.pages();
    let (last, used) = (end / AREA_PAGES, end % AREA_PAGES);
    let begins = last * AREA_PAGES + 1;
    let is_empty =
        used <= 1 || (runs::is_free(memory, begins) && memory.desc(begins).pages == used - 1);
    if !is_empty {
        return last + 1;
    }
    let reaches_last = |memory: &mut Memory, area: u32| {
        let areas = last.saturating_sub(area);
        free_areas_at(memory, area, areas) == areas
    };
    lowest_area(memory, reaches_last).unwrap_or(last)
}

/// The lowest area that is entirely free and for which `is_good`.
fn lowest_area(
    memory: &mut Memory,
    mut is_good: impl FnMut(&mut Memory, u32) -> bool,
) -> Option<u32> {
    let mut found: Option<u32> = None;
    let mut page = memory.header().bins[RUN_BINS - 1];
    let mut left = memory.pages() / AREA_PAGES;
    while page != 0 && left != 0 {
        let area = page / AREA_PAGES;
        if found.is_none_or(|found| area < found) && is_good(memory, area) {
            found = Some(area);
        }
        page = memory.desc(page).next;
        left -= 1;
    }
    found
}

/// How many areas from `area` on, at most `limit`, are entirely free. `area` has a table or is
/// beyond the end.
fn free_areas_at(memory: &mut Memory, area: u32, limit: u32) -> u32 {
    // An area behind a free one has a table: huge blocks cover tables only of areas after their
    // first.
    (0..limit)
        .take_while(|free| {
            let page = (area + free).saturating_mul(AREA_PAGES).saturating_add(1);
            runs::is_free(memory, page) && memory.desc(page).pages == MAX_RUN
        })
        .count() as u32
}

/// Frees areas that hold nothing but the content of a huge block, with storage up to the offset
/// `stored`.
fn release_areas(memory: &mut Memory, first: u32, areas: u32, stored: u64) {
    for area in first..first + areas {
        let bytes = if stored < area_start(area + 1) { stored.max(area_start(area)) } else { 0 };
        let table = PageDesc { kind: PageKind::Table as u8, bytes, ..PageDesc::default() };
        *memory.desc(area * AREA_PAGES) = table;
        runs::insert(memory, area * AREA_PAGES + 1, MAX_RUN);
        // What is not stored was never touched.
        let used = stored.saturating_sub(area_start(area) + PAGE_BYTES) / PAGE_BYTES;
        memory.give_back(area * AREA_PAGES + 1, used.min(MAX_RUN.into()) as u32);
    }
}

fn describe(memory: &mut Memory, kind: PageKind, page: u32, pages: u32, bytes: u64) {
    *memory.desc(page) = PageDesc { kind: kind as u8, pages, bytes, ..PageDesc::default() };
    mark_bodies(memory, page, pages);
}

fn area_start(area: u32) -> u64 {
    u64::from(area) * AREA_BYTES
}

/// Up to where a huge block of `bytes` bytes in that many areas from `first` on is reserved: its
/// last page, and the place of a table in the last area.
fn storage_end(first: u32, areas: u32, bytes: u64) -> u64 {
    let end = area_start(first).saturating_add(PAGE_BYTES).saturating_add(bytes);
    let table_end = area_start(first + areas.saturating_sub(1)) + PAGE_BYTES;
    end.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX).max(table_end)
}

fn areas_of(pages: u32) -> u32 {
    (pages + 1) / AREA_PAGES
}

fn areas_for(bytes: u64) -> Option<u32> {
    u32::try_from(bytes.checked_add(PAGE_BYTES)?.div_ceil(AREA_BYTES)).ok()
}
