//! The heap's memory: header, descriptors, and the first words of free blocks.
//!
//! The only place that turns offsets into references. Everything above it is safe code: an
//! offset or page beyond the heap, as damage may give, reaches nothing else.

use std::ptr::NonNull;

use seg_heap::{HeapFront, HeapHeader, PAGE_BYTES, PageDesc};
use seg_heap::{desc_offset, page_offset};

use super::GiveBack;

/// A heap's memory, used exclusively as long as this lives.
pub(super) struct Memory {
    base: NonNull<u8>,
    give_back: Option<GiveBack>,
}

impl Memory {
    /// The heap at `base`.
    ///
    /// # Safety
    /// From `base` on, 64 KiB-aligned, there is memory for the front of a heap and for what `end` in it says,
    /// readable and writable, that no other code uses while the result lives, except for the
    /// content of allocated blocks. No reference into the rest exists.
    #[inline]
    pub(super) unsafe fn new(base: NonNull<u8>) -> Memory {
        Memory { base, give_back: None }
    }

    /// The same, which calls `give_back` for free pages.
    #[inline]
    pub(super) fn giving_back(self, give_back: Option<GiveBack>) -> Memory {
        Memory { give_back, ..self }
    }

    /// The content of some pages, which are free, is of no use.
    pub(super) fn give_back(&mut self, page: u32, pages: u32) {
        if let Some(give_back) = self.give_back.filter(|_| pages > 0) {
            let (start, bytes) = (self.block(page_offset(page)), u64::from(pages) * PAGE_BYTES);
            // SAFETY: pages within the heap, of no block; the descriptors lie elsewhere.
            unsafe { give_back(start, bytes as usize) };
        }
    }

    #[inline]
    pub(super) fn header(&mut self) -> &mut HeapHeader {
        &mut self.front().header
    }

    #[inline]
    pub(super) fn front(&mut self) -> &mut HeapFront {
        // SAFETY: `new` was promised memory for a header and what follows it, every bit pattern of which is
        // one, and the result borrows `self`, so that there is no other reference.
        unsafe { self.base.cast().as_mut() }
    }

    /// Pages in the heap.
    #[inline]
    pub(super) fn pages(&mut self) -> u32 {
        (self.header().end / PAGE_BYTES) as u32
    }

    /// The descriptor of `page`; that of page 0, which is of no block or run, for one beyond the
    /// end.
    #[inline]
    pub(super) fn desc(&mut self, page: u32) -> &mut PageDesc {
        let page = if page_offset(page) < self.header().end { page } else { 0 };
        // SAFETY: the table of a page's area lies before the page, so within the heap's end.
        let desc = unsafe { self.base.byte_add(desc_offset(page) as usize) };
        // SAFETY: the place is aligned, every bit pattern is a descriptor, and the result borrows
        // `self`, so that there is no other reference.
        unsafe { desc.cast().as_mut() }
    }

    /// Where the word at `offset`, a multiple of 16, is.
    #[inline]
    fn word_at(&mut self, offset: u64) -> Option<NonNull<u64>> {
        if offset >= self.header().end || !offset.is_multiple_of(16) {
            return None;
        }
        // SAFETY: within the heap's end, which is a multiple of 16 too.
        Some(unsafe { self.base.byte_add(offset as usize) }.cast())
    }

    /// The first word of the free block at `offset`; 0 if there cannot be a block.
    #[inline]
    pub(super) fn word(&mut self, offset: u64) -> u64 {
        // SAFETY: within the heap and aligned; a free block has no owner that could use it.
        self.word_at(offset).map_or(0, |word| unsafe { word.read() })
    }

    /// Sets the first word of the free block at `offset`.
    #[inline]
    pub(super) fn set_word(&mut self, offset: u64, value: u64) {
        if let Some(word) = self.word_at(offset) {
            // SAFETY: as in `word`.
            unsafe { word.write(value) };
        }
    }

    /// The block at `offset`.
    #[inline]
    pub(super) fn block(&mut self, offset: u64) -> NonNull<u8> {
        debug_assert!(offset < self.header().end);
        // SAFETY: offsets of blocks lie within the heap.
        unsafe { self.base.byte_add(offset as usize) }
    }

    /// The offset of `block`, which need not be one.
    #[inline]
    pub(super) fn offset(&self, block: NonNull<u8>) -> u64 {
        block.addr().get().wrapping_sub(self.base.addr().get()) as u64
    }
}
