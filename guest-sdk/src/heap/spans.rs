//! Small blocks: spans of one size class, each with a list of its free blocks.
//!
//! Freed blocks are reused first, while they are still in the cache; the others follow in the order
//! of their addresses, so that memory is touched no sooner than it is needed.

use seg_heap::class::GRANULE;
use seg_heap::page_offset;
use seg_heap::{Class, PageDesc, PageKind, free_word, next_of_free_word};

use super::memory::Memory;
use super::{Grow, runs};

/// A block of `class`.
#[inline]
pub(super) fn allocate(memory: &mut Memory, class: Class, grow: &mut Grow<'_>) -> Option<u64> {
    loop {
        let page = memory.header().partial[class.index()];
        if page == 0 {
            add_span(memory, class, grow)?;
            continue;
        }
        let desc = memory.desc(page);
        let (free, fresh) = (desc.free, desc.fresh);
        if free != 0 {
            let offset = page_offset(page) + u64::from(free - 1) * GRANULE as u64;
            let next = next_of_free_word(memory.word(offset));
            let desc = memory.desc(page);
            let Some(next) = next else {
                // A program wrote to a block that it no longer owned: the rest of the list is lost.
                // `check` finds the difference.
                desc.free = 0;
                continue;
            };
            desc.free = next;
            desc.used += 1;
            if next == 0 && fresh >= class.capacity() {
                unlist(memory, class, page);
            }
            return Some(offset);
        }
        if fresh >= class.capacity() {
            unlist(memory, class, page);
            continue;
        }
        desc.fresh = fresh + 1;
        desc.used += 1;
        if fresh + 1 == class.capacity() {
            unlist(memory, class, page);
        }
        return Some(page_offset(page) + u64::from(fresh) * class.size() as u64);
    }
}

/// Frees the block at `offset` of the span that begins at `page`.
#[inline]
pub(super) fn free(memory: &mut Memory, page: u32, offset: u64) {
    let place = (offset.wrapping_sub(page_offset(page)) / GRANULE as u64 + 1) as u16;
    let next = memory.desc(page).free;
    // The word first: a killed process leaves a list that leads somewhere.
    memory.set_word(offset, free_word(next));
    let desc = memory.desc(page);
    desc.free = place;
    desc.used = desc.used.wrapping_sub(1);
    let (used, listed, class) = (desc.used, desc.listed, desc.class);
    if used == 0 || listed == 0 {
        free_slow(memory, page, used, listed, class);
    }
}

/// The rest of it, when the span was full or is empty now.
#[cold]
fn free_slow(memory: &mut Memory, page: u32, used: u16, listed: u16, class: u8) {
    let Some(class) = Class::from_raw(class) else { return };
    if listed == 0 {
        list(memory, class, page);
    }
    if used != 0 {
        return;
    }
    let desc = memory.desc(page);
    if desc.prev != 0 || desc.next != 0 {
        unlist(memory, class, page);
        super::while_busy(memory, |memory| runs::give(memory, page, class.span_pages()));
    } else {
        // The last one with room stays, as if new: the next block is likely to come from it.
        desc.free = 0;
        desc.fresh = 0;
    }
}

/// A new span.
#[cold]
fn add_span(memory: &mut Memory, class: Class, grow: &mut Grow<'_>) -> Option<()> {
    let pages = class.span_pages();
    super::while_busy(memory, |memory| {
        let page = runs::take(memory, pages, grow)?;
        *memory.desc(page) = PageDesc {
            kind: PageKind::Small as u8,
            class: class.raw(),
            pages,
            ..PageDesc::default()
        };
        super::mark_bodies(memory, page, pages);
        list(memory, class, page);
        Some(())
    })
}

fn list(memory: &mut Memory, class: Class, page: u32) {
    let next = std::mem::replace(&mut memory.header().partial[class.index()], page);
    if next != 0 {
        memory.desc(next).prev = page;
    }
    let desc = memory.desc(page);
    (desc.listed, desc.prev, desc.next) = (1, 0, next);
}

#[cold]
fn unlist(memory: &mut Memory, class: Class, page: u32) {
    let desc = memory.desc(page);
    let (prev, next) = (desc.prev, desc.next);
    (desc.listed, desc.prev, desc.next) = (0, 0, 0);
    if next != 0 {
        memory.desc(next).prev = prev;
    }
    if prev != 0 {
        memory.desc(prev).next = next;
    } else {
        memory.header().partial[class.index()] = next;
    }
}
