//! Memory that stands in for a segment.

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;

use crate::heap::{BASE_ALIGN, HeapStats, RawHeap};

/// A private mapping with a size that grows up to a reserve, full of zeros.
pub(super) struct Region {
    base: NonNull<u8>,
    size: Cell<u64>,
    reserve: u64,
}

impl Region {
    pub(super) fn new(size: u64, reserve: u64) -> Region {
        let layout = Region::layout(reserve);
        // SAFETY: the size is not 0.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory");
        Region { base, size: Cell::new(size), reserve }
    }

    fn layout(reserve: u64) -> Layout {
        Layout::from_size_align(reserve as usize, BASE_ALIGN).unwrap()
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// A new heap in it.
    pub(super) fn heap(&self) -> RawHeap {
        // SAFETY: the region is ours and as large as said; so for all below.
        unsafe { RawHeap::create(self.base, self.size.get()) }.unwrap()
    }

    /// The heap that is in it.
    pub(super) fn reopen(&self) -> RawHeap {
        // SAFETY: see `heap`.
        unsafe { RawHeap::open(self.base, self.size.get()) }.unwrap()
    }

    /// A place behind another, within the region.
    pub(super) fn at(&self, place: NonNull<u8>, offset: usize) -> NonNull<u8> {
        let end = place.addr().get() - self.base.addr().get() + offset;
        assert!((end as u64) < self.reserve);
        // SAFETY: within the region.
        unsafe { place.byte_add(offset) }
    }

    pub(super) fn read(&self, place: NonNull<u8>) -> u8 {
        // SAFETY: `at` gave it, or the heap did.
        unsafe { place.read() }
    }

    pub(super) fn fill(&self, place: NonNull<u8>, bytes: usize, value: u8) {
        self.at(place, bytes - 1);
        // SAFETY: within the region, as was just seen.
        unsafe { place.write_bytes(value, bytes) };
    }

    pub(super) fn grow(&self) -> impl FnMut(u64, u64) -> Option<u64> {
        |needed, wanted| {
            assert!(needed <= wanted);
            if needed > self.reserve {
                return None;
            }
            self.size.set(self.size.get().max(wanted.min(self.reserve)));
            Some(self.size.get())
        }
    }

    pub(super) fn alloc(&self, heap: RawHeap, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: see `heap`.
        unsafe { heap.alloc(layout, &mut self.grow()) }
    }

    pub(super) fn free(&self, heap: RawHeap, block: NonNull<u8>) {
        // SAFETY: see `heap`; tests free what they allocated.
        unsafe { heap.dealloc(block) }
    }

    pub(super) fn realloc(
        &self,
        heap: RawHeap,
        block: NonNull<u8>,
        align: usize,
        bytes: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: see `heap`.
        unsafe { heap.realloc(block, align, bytes, &mut self.grow()) }
    }

    pub(super) fn usable_size(&self, heap: RawHeap, block: NonNull<u8>) -> usize {
        // SAFETY: see `heap`.
        unsafe { heap.usable_size(block) }
    }

    pub(super) fn is_block(&self, heap: RawHeap, block: NonNull<u8>) -> bool {
        // SAFETY: see `heap`.
        unsafe { heap.is_block(block) }
    }

    pub(super) fn stats(&self, heap: RawHeap) -> HeapStats {
        // SAFETY: see `heap`.
        unsafe { heap.stats() }
    }

    pub(super) fn set_text(&self, heap: RawHeap, text: &str) -> Option<()> {
        // SAFETY: see `heap`.
        unsafe { heap.set_text(text, &mut self.grow()) }
    }

    pub(super) fn text(&self, heap: RawHeap) -> String {
        // SAFETY: see `heap`.
        unsafe { heap.text() }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: from `alloc_zeroed` with the same layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), Region::layout(self.reserve)) };
    }
}
