//! The heap of a space's data segment: [`RawHeap`] at the segment's base, growing the segment.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use seg_heap::{HeapFront, RootNote};

use crate::heap::{FIRST_BYTES, Growth, HeapError, RawHeap};
use crate::objects::segment::Segment;
use crate::space_heap::SpaceHeap;
use crate::sys::{SegGrowth, SegRoot, remove_pages};
use crate::thread_state;

/// The heap at the beginning of a segment.
#[derive(Debug)]
pub(crate) struct SegmentHeap {
    segment: Segment,
    base: u64,
    reserve: u64,
    /// Versioned: pages that become free give their space on the disk back.
    is_versioned: bool,
    /// Its header was checked, and is that of a heap that this version knows. Relaxed: the heap
    /// itself is used under the segment's lock.
    is_known: AtomicBool,
}

impl SegmentHeap {
    pub(crate) fn new(
        segment: Segment,
        base: u64,
        reserve: u64,
        is_versioned: bool,
    ) -> SegmentHeap {
        SegmentHeap { segment, base, reserve, is_versioned, is_known: AtomicBool::new(false) }
    }

    pub(crate) fn address(&self) -> NonNull<u8> {
        let address = std::ptr::with_exposed_provenance_mut(self.base as usize);
        // Segments lie in the VAS region, which begins at 16 TiB.
        NonNull::new(address).unwrap_or(NonNull::dangling())
    }

    /// The heap, once it is known to be one.
    ///
    /// # Safety
    /// The thread is inside the space.
    #[inline]
    unsafe fn known(&self) -> Option<RawHeap> {
        // SAFETY: the caller's promise.
        unsafe { self.ensure_known() }.ok()?;
        // SAFETY: `check` found a heap there.
        let heap = unsafe { RawHeap::at(self.address()) };
        Some(if self.is_versioned { heap.giving_back(remove_pages) } else { heap })
    }

    /// Checks the heap unless it was checked before.
    ///
    /// # Safety
    /// The thread is inside the space.
    #[inline]
    pub(crate) unsafe fn ensure_known(&self) -> Result<(), String> {
        if self.is_known.load(Ordering::Relaxed) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.check() }
    }

    /// What the heap grows by.
    fn grow(&self) -> SegGrowth {
        SegGrowth::of(self.segment.id())
    }

    /// Makes an empty heap, whatever was there, that remembers `text`.
    ///
    /// # Safety
    /// The thread is inside the space, writable; the segment has `size` bytes, and no program uses
    /// what is in it.
    pub(crate) unsafe fn format(&self, size: u64, text: &str) -> Option<()> {
        let mut grow = self.grow();
        let size = size.max(grow.grow(seg_heap::MIN_BYTES, seg_heap::MIN_BYTES)?);
        let size = size.min(FIRST_BYTES);
        grow.reserve(0, size)?;
        // SAFETY: the caller's promise, and segments begin at multiples of 2 MiB.
        let heap = unsafe { RawHeap::create(self.address(), size) }.ok()?;
        self.is_known.store(true, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { heap.set_text(text, &mut grow) }
    }

    /// Remembers `text` in place of what was given to `format`.
    ///
    /// # Safety
    /// The thread is inside the space, writable, and there is a heap.
    pub(crate) unsafe fn set_layout_text(&self, text: &str) -> Option<()> {
        // SAFETY: the caller's promise.
        let heap = unsafe { self.known() }?;
        // SAFETY: the caller's promise.
        unsafe { heap.set_text(text, &mut self.grow()) }
    }

    /// Whether there is a heap.
    ///
    /// # Safety
    /// The thread is inside the space.
    #[cold]
    pub(crate) unsafe fn check(&self) -> Result<(), String> {
        let _working = thread_state::without_heap();
        let size = self.segment.stat().map_err(|err| err.to_string())?.size;
        // SAFETY: the thread is inside; segments begin at multiples of 2 MiB.
        unsafe { RawHeap::open(self.address(), size) }.map_err(|err: HeapError| err.to_string())?;
        self.is_known.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps `root` in the heap, as the segment's root object.
    ///
    /// # Safety
    /// The thread is inside the space, writable, and there is a heap.
    pub(crate) unsafe fn note_root(&self, root: &SegRoot) {
        // SAFETY: the caller's promise; nothing else refers to the heap's front while no call of it runs.
        unsafe { self.address().cast::<HeapFront>().as_mut() }.root = note_of(root);
    }

    /// Whether the heap says that `root` is the segment's root object. That is then so; otherwise the
    /// segment must be asked.
    ///
    /// # Safety
    /// The thread is inside the space, in which there was a heap once.
    #[inline]
    pub(crate) unsafe fn has_noted(&self, root: &SegRoot) -> bool {
        // SAFETY: the caller's promise. The front is in the first page, which every segment has;
        // any bytes are one, and no thread writes there meanwhile.
        let front = unsafe { self.address().cast::<HeapFront>().as_ref() };
        front.root == note_of(root)
    }

    /// The text given to `format`.
    ///
    /// # Safety
    /// The thread is inside the space, and `check` found nothing.
    pub(crate) unsafe fn layout_text(&self) -> String {
        // SAFETY: the caller's promise.
        let heap = unsafe { self.known() };
        // SAFETY: the caller's promise.
        heap.map_or_else(String::new, |heap| unsafe { heap.text() })
    }
}

fn note_of(root: &SegRoot) -> RootNote {
    RootNote { address: root.address, fingerprint: root.fingerprint }
}

// SAFETY: what `RawHeap` promises of its blocks.
unsafe impl SpaceHeap for SegmentHeap {
    #[inline]
    unsafe fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the thread is inside.
        let heap = unsafe { self.known() }?;
        // SAFETY: the thread is inside, writable, so with the lock held exclusively.
        unsafe { heap.alloc(layout, &mut self.grow()) }
    }

    #[inline]
    unsafe fn deallocate(&self, block: NonNull<u8>, _layout: Layout) {
        // SAFETY: as in `allocate`.
        if let Some(heap) = unsafe { self.known() } {
            // SAFETY: as in `allocate`; the block is of this heap.
            unsafe { heap.dealloc(block) };
        }
    }

    #[inline]
    unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        layout: Layout,
        new: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: as in `allocate`.
        let heap = unsafe { self.known() }?;
        // SAFETY: as in `deallocate`.
        unsafe { heap.realloc(block, layout.align(), new, &mut self.grow()) }
    }

    unsafe fn blocks(&self) -> u64 {
        // SAFETY: as in `allocate`.
        let Some(heap) = (unsafe { self.known() }) else { return 0 };
        // SAFETY: as in `allocate`.
        unsafe { heap.stats() }.blocks
    }

    #[inline]
    fn holds(&self, block: NonNull<u8>) -> bool {
        self.contains(block)
    }

    #[inline]
    fn contains(&self, address: NonNull<u8>) -> bool {
        (address.addr().get() as u64).wrapping_sub(self.base) < self.reserve
    }
}
