//! The heap of a data segment: allocating in it.
//!
//! Layout and format are in `seg_heap`; the book's page on it is `internals/heap.md`. A program that uses
//! a heap holds the segment's lock exclusively, so nothing here is atomic, and a call costs as
//! little as the process's own `malloc` does.
//!
//! - [`RawHeap`]: the calls, all `unsafe`; the safe API and the C library sit on it
//! - `memory`: the one place that makes references; `runs`: pages; `spans`: small blocks;
//!   `large`: blocks of whole pages

mod large;
mod memory;
mod runs;
mod spans;
#[cfg(test)]
mod tests;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, compiler_fence};

pub(crate) use seg_heap::check::Subject;
use seg_heap::check::{self, Reader};
use seg_heap::class::{self, TABLE_VERSION};
use seg_heap::{
    AREA_PAGES, CLASSES, Class, HeapHeader, MAGIC, MIN_BYTES, PAGE_BYTES, PageDesc, PageKind,
    RUN_BINS, RootNote, VERSION,
};
use seg_heap::{MAX_BYTES, page_offset};

pub use seg_heap::check::{Damage, Leak, Leaks, Report};

use memory::Memory;

/// How a heap gets more of its segment. A closure that implements the first function serves where
/// bytes need no storage.
pub trait Growth {
    /// Makes the segment larger: at least to the first number of bytes, preferably to the second;
    /// returns its new size, or `None` if it cannot.
    fn grow(&mut self, needed: u64, wanted: u64) -> Option<u64>;

    /// Ensures that the bytes between two offsets can be written, `None` if they cannot: a
    /// segment's pages have storage only when they are touched, and then there may be none.
    fn reserve(&mut self, from: u64, to: u64) -> Option<()>;
}

impl<F: FnMut(u64, u64) -> Option<u64>> Growth for F {
    fn grow(&mut self, needed: u64, wanted: u64) -> Option<u64> {
        self(needed, wanted)
    }

    fn reserve(&mut self, _from: u64, _to: u64) -> Option<()> {
        Some(())
    }
}

/// What is called for pages that are free from now on, 1 MiB of them at least: where they begin, and how many
/// bytes. They may have any content afterwards.
///
/// # Safety
/// For the caller: nothing else uses that memory, which lies in the heap's segment.
pub type GiveBack = unsafe fn(NonNull<u8>, usize);

/// [`Growth`] as calls take it.
pub type Grow<'a> = dyn Growth + 'a;

/// How much of a segment a new heap has: its growth reserves the rest step by step.
pub const FIRST_BYTES: u64 = 2 << 20;

/// What bases of heaps are multiples of, as segments' are.
pub const BASE_ALIGN: usize = 2 << 20;

/// Why there is no heap to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeapError {
    /// The segment begins with something else.
    #[error("there is no heap: the segment begins with {found:#018x}")]
    NotAHeap {
        /// Its first eight bytes.
        found: u64,
    },
    /// Made by another version of this library.
    #[error(
        "the heap has format {found}, made by another version of spacejmp; this program knows format {known}"
    )]
    Version {
        /// The heap's.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A field of the header cannot be right.
    #[error("the heap's header is damaged: {field} is {found:#x}")]
    Damaged {
        /// Which.
        field: &'static str,
        /// What it says.
        found: u64,
    },
    /// A segment of this size has no room for a heap.
    #[error("a heap needs {} bytes, and there are {found}", MIN_BYTES)]
    TooSmall {
        /// Bytes.
        found: u64,
    },
}

/// What is in a heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeapStats {
    /// Bytes that the heap has of its segment.
    pub end: u64,
    /// Allocated blocks.
    pub blocks: u64,
    /// Bytes of them, rounding included.
    pub bytes: u64,
    /// Bytes of pages that are of no span or block.
    pub free_page_bytes: u64,
}

/// A heap by its address.
///
/// # Safety of all its methods
/// The thread is inside the VAS, and no other thread uses the heap meanwhile: it holds the
/// segment's lock exclusively. The segment's first bytes up to what the heap's header says are
/// mapped and writable, and nothing but this library writes to them outside of allocated blocks.
#[derive(Debug, Clone, Copy)]
pub struct RawHeap {
    base: NonNull<u8>,
    give_back: Option<GiveBack>,
}

impl RawHeap {
    /// Makes an empty heap of the `size` bytes at `base`, whatever was there.
    ///
    /// # Errors
    /// [`HeapError::TooSmall`].
    ///
    /// # Safety
    /// As [`RawHeap`] says, with `size` bytes at `base`, a multiple of [`BASE_ALIGN`].
    pub unsafe fn create(base: NonNull<u8>, size: u64) -> Result<RawHeap, HeapError> {
        debug_assert!(base.addr().get().is_multiple_of(BASE_ALIGN));
        let end = size.min(MAX_BYTES) / PAGE_BYTES * PAGE_BYTES;
        if end < MIN_BYTES {
            return Err(HeapError::TooSmall { found: size });
        }
        // SAFETY: the caller's promise; `end` is set below, before anything asks for it.
        let mut memory = unsafe { Memory::new(base) };
        *memory.header() = HeapHeader {
            // Last: an incomplete heap must not pass for one.
            magic: [0; 8],
            version: VERSION,
            classes: TABLE_VERSION,
            base: base.addr().get() as u64,
            end,
            busy: 0,
            text: 0,
            text_bytes: 0,
            huge: 0,
            reserved: 0,
            bins_used: 0,
            bins: [0; RUN_BINS],
            partial: [0; CLASSES],
            reserved_end: 0,
        };
        memory.front().root = RootNote::default();
        let pages = memory.pages();
        runs::adopt(&mut memory, 0, pages);
        compiler_fence(Ordering::SeqCst);
        memory.header().magic = MAGIC;
        Ok(RawHeap { base, give_back: None })
    }

    /// The heap at `base` in a segment of `size` bytes. Only its header is checked.
    ///
    /// # Errors
    /// [`HeapError`] if there is none that this version can use.
    ///
    /// # Safety
    /// As [`RawHeap`] says, but that it may be attached read-only, with `size` bytes at `base`, a
    /// multiple of [`BASE_ALIGN`]. For other calls than [`RawHeap::text`] the heap is as this
    /// library left it: if that is in doubt, use [`RawHeap::check`] first.
    pub unsafe fn open(base: NonNull<u8>, size: u64) -> Result<RawHeap, HeapError> {
        if size < MIN_BYTES {
            return Err(HeapError::TooSmall { found: size });
        }
        // SAFETY: there is room for a header, whatever its bytes are.
        let header = unsafe { base.cast::<HeapHeader>().read() };
        if header.magic != MAGIC {
            return Err(HeapError::NotAHeap { found: u64::from_le_bytes(header.magic) });
        }
        for (found, known) in [(header.version, VERSION), (header.classes, TABLE_VERSION)] {
            if found != known {
                return Err(HeapError::Version { found, known });
            }
        }
        let damaged = |field, found| Err(HeapError::Damaged { field, found });
        if header.base != base.addr().get() as u64 {
            return damaged("base", header.base);
        }
        let end = header.end;
        if !(MIN_BYTES..=size.min(MAX_BYTES)).contains(&end) || !end.is_multiple_of(PAGE_BYTES) {
            return damaged("end", end);
        }
        let text_end = header.text.checked_add(header.text_bytes);
        if text_end.is_none_or(|text_end| text_end > end) {
            return damaged("text", header.text);
        }
        Ok(RawHeap { base, give_back: None })
    }

    /// The heap at `base`, where there is known to be one.
    ///
    /// # Safety
    /// As [`RawHeap`] says; [`create`](RawHeap::create) or [`open`](RawHeap::open) have succeeded
    /// there.
    #[inline]
    #[must_use]
    pub unsafe fn at(base: NonNull<u8>) -> RawHeap {
        RawHeap { base, give_back: None }
    }

    /// The same heap, which gives the memory of free pages back.
    #[inline]
    #[must_use]
    pub fn giving_back(self, give_back: GiveBack) -> RawHeap {
        RawHeap { give_back: Some(give_back), ..self }
    }

    /// A block for `layout`; the heap grows by `grow` if it must. `None` if there is no room, or
    /// for an alignment beyond 2 MiB, or beyond 64 KiB for blocks of 62 MiB and more.
    ///
    /// # Safety
    /// As [`RawHeap`] says.
    #[inline]
    pub unsafe fn alloc(self, layout: Layout, grow: &mut Grow<'_>) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        let mut memory = unsafe { Memory::new(self.base) }.giving_back(self.give_back);
        let offset = match Class::of_aligned(layout.size(), layout.align()) {
            Some(class) => spans::allocate(&mut memory, class, grow)?,
            None => {
                let (bytes, align) = (layout.size() as u64, layout.align() as u64);
                page_offset(while_busy(&mut memory, |memory| {
                    large::allocate(memory, bytes, align, grow)
                })?)
            }
        };
        Some(memory.block(offset))
    }

    /// Frees `block`.
    ///
    /// # Safety
    /// As [`RawHeap`] says; `block` came from [`alloc`](RawHeap::alloc) or
    /// [`realloc`](RawHeap::realloc) of this heap, and is no longer used.
    #[inline]
    pub unsafe fn dealloc(self, block: NonNull<u8>) {
        // SAFETY: the caller's promise.
        let mut memory = unsafe { Memory::new(self.base) }.giving_back(self.give_back);
        let offset = memory.offset(block);
        let (page, kind) = home_of(&mut memory, offset);
        match kind {
            Some(PageKind::Small) => spans::free(&mut memory, page, offset),
            Some(PageKind::Large | PageKind::Huge) => {
                while_busy(&mut memory, |memory| large::free(memory, page));
            }
            _ => debug_assert!(false, "{block:p} is no block"),
        }
    }

    /// A block of `bytes` bytes at a multiple of `align`, with the content of `block`, which is
    /// gone unless the result is `None`. It stays where it is if it can.
    ///
    /// # Safety
    /// As [`dealloc`](RawHeap::dealloc); `align` is the one that `block` was allocated with.
    pub unsafe fn realloc(
        self,
        block: NonNull<u8>,
        align: usize,
        bytes: usize,
        grow: &mut Grow<'_>,
    ) -> Option<NonNull<u8>> {
        let layout = Layout::from_size_align(bytes, align).ok()?;
        // SAFETY: the caller's promise.
        let mut memory = unsafe { Memory::new(self.base) }.giving_back(self.give_back);
        let offset = memory.offset(block);
        let (page, kind) = home_of(&mut memory, offset);
        let class = Class::of_aligned(bytes, align);
        match kind {
            Some(PageKind::Small) if class.map(Class::raw) == Some(memory.desc(page).class) => {
                return Some(block);
            }
            Some(PageKind::Large | PageKind::Huge) if class.is_none() => {
                let resized = while_busy(&mut memory, |memory| {
                    large::resize(memory, page, bytes as u64, grow)
                });
                if resized.is_some() {
                    return Some(block);
                }
            }
            _ => {}
        }
        // SAFETY: the caller's promise.
        let kept = unsafe { self.usable_size(block) }.min(bytes);
        // SAFETY: the caller's promise.
        let moved = unsafe { self.alloc(layout, grow) }?;
        // SAFETY: both blocks have that many bytes, and are different ones.
        unsafe { block.copy_to_nonoverlapping(moved, kept) };
        // SAFETY: the caller's promise.
        unsafe { self.dealloc(block) };
        Some(moved)
    }

    /// Bytes of `block`: at least what was asked for.
    ///
    /// # Safety
    /// As [`RawHeap`] says; `block` is an allocated block.
    #[must_use]
    pub unsafe fn usable_size(self, block: NonNull<u8>) -> usize {
        // SAFETY: the caller's promise.
        let mut memory = unsafe { Memory::new(self.base) };
        let offset = memory.offset(block);
        let (page, _) = home_of(&mut memory, offset);
        let desc = memory.desc(page);
        match desc.kind() {
            // The rest of its last area is not reserved.
            Some(PageKind::Huge) => {
                (desc.bytes.next_multiple_of(PAGE_BYTES) as usize).min(size_of_block(desc))
            }
            _ => size_of_block(desc),
        }
    }

    /// Whether `address` is that of an allocated block, as far as that can be told without a full
    /// walk: a block that was freed, or an address in the middle of one, is detected.
    ///
    /// # Safety
    /// As [`RawHeap`] says.
    #[must_use]
    pub unsafe fn is_block(self, address: NonNull<u8>) -> bool {
        // SAFETY: the caller's promise.
        let mut memory = unsafe { Memory::new(self.base) };
        let offset = memory.offset(address);
        if offset >= memory.header().end {
            return false;
        }
        let (page, kind) = home_of(&mut memory, offset);
        let desc = *memory.desc(page);
        let within = offset.wrapping_sub(page_offset(page));
        match (kind, Class::from_raw(desc.class)) {
            (Some(PageKind::Large | PageKind::Huge), _) => within == 0,
            (Some(PageKind::Small), Some(class)) => {
                within.is_multiple_of(class.size() as u64)
                    && within / (class.size() as u64) < u64::from(desc.fresh)
                    && !is_listed_free(&mut memory, page, offset)
            }
            _ => false,
        }
    }

    /// Keeps `text` in the heap, in place of what was kept. `None` if there is no room.
    ///
    /// # Safety
    /// As [`RawHeap`] says.
    pub unsafe fn set_text(self, text: &str, grow: &mut Grow<'_>) -> Option<()> {
        let layout = Layout::from_size_align(text.len().max(1), 1).ok()?;
        // SAFETY: the caller's promise.
        let block = unsafe { self.alloc(layout, grow) }?;
        // SAFETY: the block is fresh, and large enough.
        unsafe { block.copy_from_nonoverlapping(NonNull::from(text).cast(), text.len()) };
        // SAFETY: the caller's promise.
        let mut memory = unsafe { Memory::new(self.base) };
        let offset = memory.offset(block);
        let header = memory.header();
        let old = std::mem::replace(&mut header.text, offset);
        header.text_bytes = text.len() as u64;
        if old != 0 {
            let old = memory.block(old);
            // SAFETY: the old text's block, to which nothing refers any more.
            unsafe { self.dealloc(old) };
        }
        Some(())
    }

    /// The text that was kept; empty if none was.
    ///
    /// # Safety
    /// As [`RawHeap`] says, but that it may be attached read-only.
    #[must_use]
    pub unsafe fn text(self) -> String {
        // SAFETY: there is a header.
        let header = unsafe { self.base.cast::<HeapHeader>().read() };
        let inside =
            header.text.checked_add(header.text_bytes).is_some_and(|end| end <= header.end);
        if header.text == 0 || !inside {
            return String::new();
        }
        // SAFETY: within the heap.
        let start = unsafe { self.base.byte_add(header.text as usize) };
        // SAFETY: that many bytes are within the heap, and no thread writes to them meanwhile.
        let bytes = unsafe {
            std::slice::from_raw_parts(start.as_ptr().cast_const(), header.text_bytes as usize)
        };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Counts what is in it, by its descriptors.
    ///
    /// # Safety
    /// As [`RawHeap`] says.
    #[must_use]
    pub unsafe fn stats(self) -> HeapStats {
        // SAFETY: the caller's promise.
        let mut memory = unsafe { Memory::new(self.base) };
        let mut stats = HeapStats { end: memory.header().end, ..HeapStats::default() };
        let (mut page, end) = (0, memory.pages());
        while page < end {
            let desc = *memory.desc(page);
            match desc.kind() {
                Some(PageKind::Small) => {
                    stats.blocks += u64::from(desc.used);
                    stats.bytes += u64::from(desc.used) * size_of_block(&desc) as u64;
                }
                Some(PageKind::Large | PageKind::Huge) => {
                    stats.blocks += 1;
                    stats.bytes += size_of_block(&desc) as u64;
                }
                Some(PageKind::Free) => stats.free_page_bytes += u64::from(desc.pages) * PAGE_BYTES,
                _ => {
                    page += 1;
                    continue;
                }
            }
            page = page.saturating_add(desc.pages.max(1));
        }
        stats
    }
}

impl RawHeap {
    /// Walks the heap at `base`, in a segment of `size` bytes, as untrusted data, and looks for
    /// blocks that are not reachable from the objects at `roots`, unless there are none.
    ///
    /// # Errors
    /// [`HeapError::NotAHeap`].
    ///
    /// # Safety
    /// As [`RawHeap`] says, but that it may be attached read-only, that `size` bytes are mapped, and
    /// that they may be anything.
    pub unsafe fn check(base: NonNull<u8>, size: u64, roots: &[u64]) -> Result<Report, HeapError> {
        let mut reader = SegmentWords { base, size };
        let subject = Subject { base: base.addr().get() as u64, size, roots };
        check::check(&mut reader, &subject)
            .ok_or_else(|| HeapError::NotAHeap { found: reader.word(0).unwrap_or(0) })
    }
}

/// The words of a segment that is attached.
pub(crate) struct SegmentWords {
    base: NonNull<u8>,
    size: u64,
}

impl SegmentWords {
    /// Those of the segment at `base`.
    ///
    /// # Safety
    /// As long as they are read, `size` bytes are mapped there, and no thread writes them.
    pub(crate) unsafe fn new(base: NonNull<u8>, size: u64) -> SegmentWords {
        SegmentWords { base, size }
    }
}

impl Reader for SegmentWords {
    fn word(&mut self, offset: u64) -> Option<u64> {
        if offset.checked_add(8)? > self.size || !offset.is_multiple_of(8) {
            return None;
        }
        // SAFETY: within the segment, as was just checked.
        let place = unsafe { self.base.byte_add(offset as usize) };
        // SAFETY: mapped, and aligned.
        Some(unsafe { place.cast().read() })
    }
}

/// First page and kind of what `offset` lies in.
#[inline]
fn home_of(memory: &mut Memory, offset: u64) -> (u32, Option<PageKind>) {
    let page = u32::try_from(offset / PAGE_BYTES).unwrap_or(u32::MAX);
    let desc = memory.desc(page);
    let (kind, back) = (desc.kind(), u32::from(desc.back));
    if kind != Some(PageKind::Body) {
        return (page, kind);
    }
    let page = page.wrapping_sub(back);
    (page, memory.desc(page).kind())
}

/// Bytes of a block that `desc` describes, or of each one in its span.
fn size_of_block(desc: &PageDesc) -> usize {
    match (desc.kind(), Class::from_raw(desc.class)) {
        (Some(PageKind::Small), Some(class)) => class.size(),
        _ => (u64::from(desc.pages) * PAGE_BYTES) as usize,
    }
}

/// Whether the block at `offset` is among its span's free ones.
fn is_listed_free(memory: &mut Memory, page: u32, offset: u64) -> bool {
    // Nearly always enough: without its mark a block is not free, or its list is damaged.
    if seg_heap::next_of_free_word(memory.word(offset)).is_none() {
        return false;
    }
    let mut place = memory.desc(page).free;
    // No list is longer than the largest span.
    for _ in 0..=class::MAX_CAPACITY {
        if place == 0 {
            return false;
        }
        let free = page_offset(page) + u64::from(place - 1) * class::GRANULE as u64;
        if free == offset {
            return true;
        }
        match seg_heap::next_of_free_word(memory.word(free)) {
            Some(next) => place = next,
            None => return false,
        }
    }
    false
}

/// Makes the pages after the first lead back to it, as far as they have descriptors: those of one
/// area.
fn mark_bodies(memory: &mut Memory, page: u32, pages: u32) {
    let end = (page + pages).min((page + 1).next_multiple_of(AREA_PAGES));
    for body in page + 1..end {
        let back = (body - page) as u16;
        *memory.desc(body) = PageDesc { kind: PageKind::Body as u8, back, ..PageDesc::default() };
    }
}

/// Runs `change` with the header marked: a process that is killed during it leaves a trace.
fn while_busy<R>(memory: &mut Memory, change: impl FnOnce(&mut Memory) -> R) -> R {
    memory.header().busy = 1;
    // A killed process leaves what it had stored, in program order if the compiler keeps it.
    compiler_fence(Ordering::SeqCst);
    let result = change(memory);
    compiler_fence(Ordering::SeqCst);
    memory.header().busy = 0;
    result
}
