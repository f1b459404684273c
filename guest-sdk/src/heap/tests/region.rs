//! Memory that stands in for a segment on a disk: what is not reserved cannot be touched.

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ptr::NonNull;

use seg_heap::PAGE_BYTES;

use crate::heap::{BASE_ALIGN, Growth, HeapStats, RawHeap, Report};

thread_local! {
    /// Bytes that heaps have given back.
    static GIVEN_BACK: Cell<u64> = const { Cell::new(0) };
}

/// Bytes that heaps of this thread have given back since the last call.
pub(super) fn given_back() -> u64 {
    GIVEN_BACK.take()
}

/// What is given back may have any content.
///
/// # Safety
/// As [`GiveBack`](crate::heap::GiveBack) says.
unsafe fn scribble(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { start.write_bytes(0xa5, bytes) };
    GIVEN_BACK.set(GIVEN_BACK.get() + bytes as u64);
}

/// A private mapping with a size that grows up to a reserve, full of zeros.
pub(super) struct Region {
    base: NonNull<u8>,
    size: Cell<u64>,
    reserve: u64,
    /// Pages that are reserved, and how many there may be.
    stored: RefCell<BTreeSet<u64>>,
    disk_pages: usize,
    mapping: *mut libc::c_void,
    bytes: usize,
}

impl Region {
    pub(super) fn new(size: u64, reserve: u64) -> Region {
        Region::on_disk(size, reserve, u64::MAX)
    }

    /// On a disk with room for that many bytes.
    pub(super) fn on_disk(size: u64, reserve: u64, disk: u64) -> Region {
        let bytes = reserve as usize + BASE_ALIGN;
        let readable = libc::PROT_READ | libc::PROT_WRITE;
        // Miri knows no other protection, nor how to change it.
        let protection = if cfg!(miri) { readable } else { libc::PROT_NONE };
        // Not from the allocator: it would write zeros to all of it first. Miri knows no
        // further flag, and reserves nothing for a mapping anyway.
        let lazily = if cfg!(miri) { 0 } else { libc::MAP_NORESERVE };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | lazily;
        // SAFETY: a new mapping replaces no other memory.
        let mapping = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        assert_ne!(mapping, libc::MAP_FAILED, "no {bytes} bytes of addresses");
        let start: *mut u8 = mapping.cast();
        let base = start.map_addr(|address| address.next_multiple_of(BASE_ALIGN));
        let base = NonNull::new(base).expect("not at zero");
        let (stored, disk_pages) = (RefCell::default(), (disk / PAGE_BYTES) as usize);
        Region { base, size: Cell::new(size), reserve, stored, disk_pages, mapping, bytes }
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// A new heap in it.
    pub(super) fn heap(&self) -> RawHeap {
        self.grow().reserve(0, self.size.get()).expect("a disk for the beginning");
        // SAFETY: the region is ours and as large as said; so for all below.
        unsafe { RawHeap::create(self.base, self.size.get()) }.unwrap().giving_back(scribble)
    }

    /// The heap that is in it.
    pub(super) fn reopen(&self) -> RawHeap {
        // SAFETY: see `heap`.
        unsafe { RawHeap::open(self.base, self.size.get()) }.unwrap().giving_back(scribble)
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

    /// The word at an offset.
    pub(super) fn word(&self, offset: u64) -> u64 {
        let place = self.at(self.base, offset as usize);
        // SAFETY: within the region, and tests read no block's padding.
        unsafe { place.cast().read() }
    }

    pub(super) fn fill(&self, place: NonNull<u8>, bytes: usize, value: u8) {
        self.at(place, bytes - 1);
        // SAFETY: within the region, as was just seen.
        unsafe { place.write_bytes(value, bytes) };
    }

    pub(super) fn grow(&self) -> RegionGrowth<'_> {
        RegionGrowth(self)
    }

    /// Bytes that are reserved.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored.borrow().len() as u64 * PAGE_BYTES
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

    /// What a check finds, from `roots` on.
    pub(super) fn check(&self, roots: &[NonNull<u8>]) -> Report {
        let roots: Vec<_> = roots.iter().map(|root| root.addr().get() as u64).collect();
        // SAFETY: see `heap`.
        unsafe { RawHeap::check(self.base, self.size.get(), &roots) }.unwrap()
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
        // SAFETY: the mapping is ours, and tests keep no block for longer.
        let unmapped = unsafe { libc::munmap(self.mapping, self.bytes) };
        assert_eq!(unmapped, 0);
    }
}

/// What a heap in a region grows by.
pub(super) struct RegionGrowth<'a>(&'a Region);

impl Growth for RegionGrowth<'_> {
    fn grow(&mut self, needed: u64, wanted: u64) -> Option<u64> {
        assert!(needed <= wanted);
        let region = self.0;
        if needed > region.reserve {
            return None;
        }
        region.size.set(region.size.get().max(wanted.min(region.reserve)));
        Some(region.size.get())
    }

    fn reserve(&mut self, from: u64, to: u64) -> Option<()> {
        let region = self.0;
        assert!(from < to && to <= region.size.get(), "{from:#x} to {to:#x}");
        let pages = from / PAGE_BYTES..to.div_ceil(PAGE_BYTES);
        let mut stored = region.stored.borrow_mut();
        let missing = pages.clone().filter(|page| !stored.contains(page)).count();
        if stored.len() + missing > region.disk_pages {
            return None;
        }
        stored.extend(pages);
        if !cfg!(miri) {
            let start = region.at(region.base, from as usize).as_ptr();
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: within the mapping, which is ours.
            let done = unsafe { libc::mprotect(start.cast(), (to - from) as usize, rights) };
            assert_eq!(done, 0, "{from:#x} to {to:#x}");
        }
        Some(())
    }
}
