//! Leaks: allocated blocks that cannot be reached from the root objects.

use super::bits::Bits;
use super::reader::{Reader, Subject, desc};
use super::report::{Leak, Leaks, MAX_LISTED};
use super::walk::Found;
use crate::class::{Class, GRANULE};
use crate::geometry::{AREA_PAGES, PAGE_BYTES, page_offset};
use crate::layout::{PageDesc, PageKind};
use alloc::vec::Vec;

/// Unreachable blocks, in a heap without damage; `None` if it cannot be read.
pub(super) fn leaks(
    reader: &mut impl Reader,
    subject: &Subject<'_>,
    found: &Found,
) -> Option<Leaks> {
    let mut trace = Trace { reader, found, reached: Bits::default(), waiting: Vec::new() };
    for root in subject.roots {
        trace.follow(root.wrapping_sub(subject.base))?;
    }
    if found.text != 0 {
        trace.follow(found.text)?;
    }
    let end = page_offset(found.pages);
    while let Some((start, bytes)) = trace.waiting.pop() {
        for offset in (start..start + bytes).step_by(8) {
            let target = trace.reader.word(offset)?.wrapping_sub(subject.base);
            if target < end {
                trace.follow(target)?;
            }
        }
    }
    let reached = trace.reached;
    unreached(reader, found, &reached)
}

struct Trace<'a, R> {
    reader: &'a mut R,
    found: &'a Found,
    /// Reachable blocks, by their position in granules.
    reached: Bits,
    /// Those of them that have not been read yet: position and bytes.
    waiting: Vec<(u64, u64)>,
}

impl<R: Reader> Trace<'_, R> {
    /// Marks the block that contains `offset` as reached, if there is one.
    fn follow(&mut self, offset: u64) -> Option<()> {
        if offset >= page_offset(self.found.pages) {
            return Some(());
        }
        let Some((start, bytes)) = self.block_at(offset)? else { return Some(()) };
        let place = start / GRANULE as u64;
        if !self.found.free.has(place) && self.reached.add(place) {
            self.waiting.push((start, bytes));
        }
        Some(())
    }

    /// Position and bytes of the block, allocated or freed, at `offset`.
    fn block_at(&mut self, offset: u64) -> Option<Option<(u64, u64)>> {
        block_at(self.reader, self.found, offset)
    }
}

/// Position and bytes of the block, allocated or freed, at `offset`; `None` if that cannot be read.
pub(super) fn block_at(
    reader: &mut impl Reader,
    found: &Found,
    offset: u64,
) -> Option<Option<(u64, u64)>> {
    let mut page = (offset / PAGE_BYTES) as u32;
    let area = page / AREA_PAGES;
    let before = found.huge.partition_point(|&(first, _)| first <= area);
    match before.checked_sub(1).and_then(|last| found.huge.get(last)) {
        // The first area's table is not part of the block.
        Some(&(first, end)) if area < end && page > first * AREA_PAGES => {
            page = first * AREA_PAGES + 1;
        }
        _ => {}
    }
    let mut desc = desc(reader, page)?;
    if desc.kind() == Some(PageKind::Body) {
        page = page.checked_sub(desc.back.into())?;
        desc = super::reader::desc(reader, page)?;
    }
    let start = page_offset(page);
    Some(match (desc.kind(), Class::from_raw(desc.class)) {
        (Some(PageKind::Large | PageKind::Huge), _) => Some((start, used_bytes(desc))),
        (Some(PageKind::Small), Some(class)) => {
            let size = class.size() as u64;
            let index = offset.checked_sub(start)? / size;
            (index < desc.fresh.into()).then_some((start + index * size, size))
        }
        _ => None,
    })
}

/// All allocated blocks that were not reached; `None` if the heap cannot be read.
pub(super) fn unreached(reader: &mut impl Reader, found: &Found, reached: &Bits) -> Option<Leaks> {
    let mut leaks = Leaks::default();
    let mut tell = |offset: u64, bytes: u64| {
        let place = offset / GRANULE as u64;
        if reached.has(place) || found.free.has(place) {
            return;
        }
        leaks.blocks += 1;
        leaks.bytes += bytes;
        if leaks.first.len() < MAX_LISTED {
            leaks.first.push(Leak { offset, bytes });
        }
    };
    let mut page = 0;
    while page < found.pages {
        let desc = desc(reader, page)?;
        let start = page_offset(page);
        match (desc.kind(), Class::from_raw(desc.class)) {
            (Some(PageKind::Large | PageKind::Huge), _) => tell(start, page_offset(desc.pages)),
            (Some(PageKind::Small), Some(class)) => {
                let size = class.size() as u64;
                for index in 0..u64::from(desc.fresh) {
                    tell(start + index * size, size);
                }
            }
            _ => {}
        }
        let length = if desc.kind() == Some(PageKind::Table) { 1 } else { desc.pages.max(1) };
        page = page.saturating_add(length);
    }
    Some(leaks)
}

/// The usable part of a large or huge block: the rest was never handed out.
fn used_bytes(desc: PageDesc) -> u64 {
    desc.bytes.min(page_offset(desc.pages)).next_multiple_of(8)
}
