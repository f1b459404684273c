//! Header and page descriptors, byte by byte. Where pages lie is in `geometry`, sizes of blocks in
//! [`class`](mod@crate::class).

use core::mem::offset_of;

use crate::class::CLASSES;
use crate::geometry::{AREA_BYTES, AREA_PAGES, MAX_BYTES, PAGE_BYTES, TABLE_OFFSET};

/// What a heap begins with.
pub const MAGIC: [u8; 8] = *b"SJMPHEAP";
/// Version of the layout.
pub const VERSION: u32 = 1;

/// Bins of free runs, by length.
pub const RUN_BINS: usize = 53;
/// Longest run with a bin for its own length.
const EXACT_BINS: u32 = 32;

/// The bin of free runs of `pages` pages: one for each length up to 32, then four per doubling,
/// and the last for completely free areas.
#[inline]
#[must_use]
pub const fn bin_of(pages: u32) -> usize {
    if pages <= EXACT_BINS {
        return pages.saturating_sub(1) as usize;
    }
    if pages >= AREA_PAGES - 1 {
        return RUN_BINS - 1;
    }
    let doubling = pages.ilog2();
    let quarter = (pages >> (doubling - 2)) & 3;
    (EXACT_BINS + (doubling - 5) * 4 + quarter) as usize
}

/// Upper bits of a free block's first word: not an address, and unlikely as data. A free block
/// without them was written to by a program that no longer owned it.
pub const FREE_MARK: u64 = 0xf4ee_b10c_0000_0000;
const NEXT_MASK: u64 = 0xffff_ffff;

/// The first word of a free block: `next` is the position of the next one in the span, as
/// in [`PageDesc::free`].
#[inline]
#[must_use]
pub const fn free_word(next: u16) -> u64 {
    FREE_MARK | next as u64
}

/// The inverse of [`free_word`]; `None` if it did not make the word.
#[inline]
#[must_use]
pub const fn next_of_free_word(word: u64) -> Option<u16> {
    let next = word & NEXT_MASK;
    if word & !NEXT_MASK == FREE_MARK && next <= u16::MAX as u64 { Some(next as u16) } else { None }
}

/// What a heap begins with.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeapHeader {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u32,
    /// Version of the size classes.
    pub classes: u32,
    /// Address of the segment: pointers in it are valid only there.
    pub base: u64,
    /// Bytes of the heap, a multiple of [`PAGE_BYTES`]; the segment may be larger.
    pub end: u64,
    /// 1 while runs of pages change; a program that died then left a damaged heap.
    pub busy: u64,
    /// Offset of the text that describes the root object's type, in a block; 0 for none.
    pub text: u64,
    /// Bytes of it.
    pub text_bytes: u64,
    /// Huge blocks.
    pub huge: u32,
    /// 0.
    pub reserved: u32,
    /// A bit for each bin of free runs: set if it is not empty.
    pub bins_used: u64,
    /// First free run of each bin, 0 for none.
    pub bins: [u32; RUN_BINS],
    /// By class: first span with free blocks, 0 for none.
    pub partial: [u32; CLASSES],
    /// 0, so that no byte of the program that makes the heap comes to be here as padding. In heaps that were made before
    /// it had a name: anything.
    pub reserved_end: u32,
}

/// Behind the header: the root object of the segment, as it was set. The segment's facts are what
/// counts; a program that finds the same here need not ask for them. Not every heap has it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RootNote {
    /// Its address; 0 for none.
    pub address: u64,
    /// The fingerprint of its type.
    pub fingerprint: [u64; 2],
}

/// The heap's first bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeapFront {
    /// The header.
    pub header: HeapHeader,
    /// What follows it.
    pub root: RootNote,
}

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageKind {
    /// Never described.
    Unknown = 0,
    /// An area's table.
    Table = 1,
    /// First or last of a free run.
    Free = 2,
    /// First of a span of small blocks.
    Small = 3,
    /// First of a large block.
    Large = 4,
    /// First of a huge block.
    Huge = 5,
    /// Another page of a span or block.
    Body = 6,
}

impl PageKind {
    /// From its number.
    #[inline]
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<PageKind> {
        Some(match raw {
            0 => PageKind::Unknown,
            1 => PageKind::Table,
            2 => PageKind::Free,
            3 => PageKind::Small,
            4 => PageKind::Large,
            5 => PageKind::Huge,
            6 => PageKind::Body,
            _ => return None,
        })
    }
}

/// A page's descriptor. Fields without a meaning for its kind are undefined.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageDesc {
    /// [`PageKind`].
    pub kind: u8,
    /// Small: the class.
    pub class: u8,
    /// Body, and the last of a free run: pages back to the first.
    pub back: u16,
    /// First page of anything: its number of pages; for a huge block, including the pages where
    /// later areas' tables would be.
    pub pages: u32,
    /// Small: blocks that are allocated.
    pub used: u16,
    /// Small: blocks that were ever allocated; the others follow them.
    pub fresh: u16,
    /// Small: position of the first free block among these, in units of 16 bytes from the
    /// span's start, plus one; 0 for none.
    pub free: u16,
    /// Small: 1 if it is in its class's list, which it is if it has free blocks.
    pub listed: u16,
    /// Small with free blocks, first of a free run: the previous one in its list.
    pub prev: u32,
    /// The same: the next one.
    pub next: u32,
    /// Large, huge: bytes asked for.
    pub bytes: u64,
}

impl PageDesc {
    /// Its kind, if that is valid.
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> Option<PageKind> {
        PageKind::from_raw(self.kind)
    }
}

/// Where the descriptor of `page` is, from the heap's start.
#[inline]
#[must_use]
pub const fn desc_offset(page: u32) -> u64 {
    let area = (page / AREA_PAGES) as u64;
    area * AREA_BYTES + TABLE_OFFSET + (page % AREA_PAGES) as u64 * size_of::<PageDesc>() as u64
}

const _: () = {
    // The format on disk: change it only with a new VERSION, and docs/src/internals/heap.md.
    assert!(size_of::<PageDesc>() == 32);
    assert!(offset_of!(PageDesc, pages) == 4);
    assert!(offset_of!(PageDesc, free) == 12);
    assert!(offset_of!(PageDesc, prev) == 16);
    assert!(offset_of!(PageDesc, bytes) == 24);
    assert!(TABLE_OFFSET + AREA_PAGES as u64 * 32 == PAGE_BYTES);
    assert!(offset_of!(HeapHeader, base) == 16);
    assert!(offset_of!(HeapHeader, busy) == 32);
    assert!(offset_of!(HeapHeader, huge) == 56);
    assert!(offset_of!(HeapHeader, bins_used) == 64);
    assert!(offset_of!(HeapHeader, bins) == 72);
    assert!(offset_of!(HeapHeader, partial) == 284);
    assert!(offset_of!(HeapHeader, reserved_end) == 444);
    assert!(size_of::<HeapHeader>() == 448);
    assert!(offset_of!(HeapFront, root) == 448 && size_of::<RootNote>() == 24);
    assert!(size_of::<HeapFront>() as u64 <= TABLE_OFFSET);
    assert!(RUN_BINS <= 64 && bin_of(AREA_PAGES - 2) == RUN_BINS - 2);
    assert!(MAX_BYTES / PAGE_BYTES <= u32::MAX as u64);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_runs_are_in_later_bins_and_all_bins_are_used() {
        let bins: Vec<_> = (1..AREA_PAGES).map(bin_of).collect();
        assert!(bins.is_sorted());
        let mut distinct = bins.clone();
        distinct.dedup();
        assert_eq!(distinct, (0..RUN_BINS).collect::<Vec<_>>());
    }

    #[test]
    fn free_words_are_told_from_data() {
        assert_eq!(next_of_free_word(free_word(u16::MAX)), Some(u16::MAX));
        for word in [0, 1, u64::MAX, 0x2000_0000_1000, FREE_MARK | 1 << 16, FREE_MARK ^ 1 << 63] {
            assert_eq!(next_of_free_word(word), None, "{word:#x}");
        }
    }
}
