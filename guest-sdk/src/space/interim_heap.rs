//! The heap of a data segment, until `crate::heap` takes its place: blocks of powers of two,
//! free ones in lists, the rest above a mark. All of its state is in the segment.
//!
//! INTERIM: nothing checks it, nothing coalesces, and its layout will not stay. The parts of this
//! crate that need a heap need exactly what is here: `format`, `check`, `layout_text`, and
//! [`SpaceHeap`].
//!
//! ```text
//! base  Header (512 bytes)   then blocks, up to `end`; the layout text is the first of them
//! ```

use std::alloc::Layout;
use std::ptr::NonNull;

use crate::alloc::SpaceHeap;
use crate::objects::segment::Segment;

const MAGIC: u64 = u64::from_le_bytes(*b"sj-heap0");
const HEADER_BYTES: u64 = 512;
/// The smallest block is 16 bytes.
const FIRST_CLASS: u32 = 4;
const CLASSES: usize = 44;

#[repr(C)]
struct Header {
    magic: u64,
    /// Where blocks were never handed out.
    mark: u64,
    /// One past the segment's last byte.
    end: u64,
    text: u64,
    text_bytes: u64,
    /// By class: the first free block, whose first word is the next one's address.
    free: [u64; CLASSES],
}

const _: () = assert!(size_of::<Header>() as u64 <= HEADER_BYTES);

/// The heap at the beginning of a segment.
#[derive(Debug)]
pub(crate) struct InterimHeap {
    segment: Segment,
    base: u64,
    reserve: u64,
}

impl InterimHeap {
    pub(crate) fn new(segment: Segment, base: u64, reserve: u64) -> InterimHeap {
        InterimHeap { segment, base, reserve }
    }

    fn header(&self) -> *mut Header {
        std::ptr::with_exposed_provenance_mut(self.base as usize)
    }

    /// Makes an empty heap, whatever was there, that remembers `text`.
    ///
    /// # Safety
    /// The thread is inside the space, writable; the segment has `size` bytes, and nobody uses
    /// what is in it.
    pub(crate) unsafe fn format(&self, size: u64, text: &str) -> Option<()> {
        let start = self.base + HEADER_BYTES;
        let header = Header {
            magic: MAGIC,
            mark: start,
            end: self.base + size,
            text: 0,
            text_bytes: text.len() as u64,
            free: [0; CLASSES],
        };
        // SAFETY: the segment begins here and is larger.
        unsafe { self.header().write(header) };
        let layout = Layout::for_value(text.as_bytes());
        // SAFETY: the caller's promise.
        let block = unsafe { self.allocate(layout) }?;
        // SAFETY: the block is fresh and as large as the text.
        unsafe { block.copy_from_nonoverlapping(NonNull::from(text).cast(), text.len()) };
        // SAFETY: as above.
        unsafe { (*self.header()).text = block.addr().get() as u64 };
        Some(())
    }

    /// Whether there is a heap.
    ///
    /// # Safety
    /// The thread is inside the space.
    pub(crate) unsafe fn check(&self) -> Result<(), String> {
        // SAFETY: the segment begins here.
        let magic = unsafe { (*self.header()).magic };
        if magic == MAGIC { Ok(()) } else { Err(format!("it begins with {magic:#x}")) }
    }

    /// The text given to `format`.
    ///
    /// # Safety
    /// The thread is inside the space, and `check` found nothing.
    pub(crate) unsafe fn layout_text(&self) -> String {
        // SAFETY: the segment begins here.
        let header = unsafe { &*self.header() };
        let (text, bytes) = (header.text, header.text_bytes);
        let start: *const u8 = std::ptr::with_exposed_provenance(text as usize);
        // SAFETY: `format` wrote so many bytes there.
        let bytes = unsafe { std::slice::from_raw_parts(start, bytes as usize) };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Grows the segment so that it reaches to `end`.
    fn grow(&self, end: u64) -> Option<u64> {
        let needed = end.checked_sub(self.base)?;
        // In large steps: each one is a call.
        let size = needed.checked_next_multiple_of(2 << 20)?.min(self.reserve);
        if size < needed {
            return None;
        }
        self.segment.grow(size).ok()?;
        Some(self.base + size)
    }
}

fn class(bytes: usize) -> u32 {
    bytes.next_power_of_two().trailing_zeros().max(FIRST_CLASS)
}

// SAFETY: blocks come from above the mark or from a list, and are in one of the two until handed
// out; they are powers of two and as aligned.
unsafe impl SpaceHeap for InterimHeap {
    unsafe fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        let class = class(layout.size().max(layout.align()));
        // SAFETY: the thread is inside, writable, and nobody else is.
        let header = unsafe { &mut *self.header() };
        let list = header.free.get_mut(class as usize - FIRST_CLASS as usize)?;
        if let Some(block) = NonNull::new(std::ptr::with_exposed_provenance_mut(*list as usize)) {
            // SAFETY: a free block's first word is the next one's address.
            *list = unsafe { block.cast::<u64>().read() };
            return Some(block);
        }
        let start = header.mark.checked_next_multiple_of(1 << class)?;
        let end = start.checked_add(1 << class)?;
        if end > header.end {
            header.end = self.grow(end)?;
        }
        header.mark = end;
        NonNull::new(std::ptr::with_exposed_provenance_mut(start as usize))
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        let class = class(layout.size().max(layout.align()));
        // SAFETY: as in `allocate`.
        let header = unsafe { &mut *self.header() };
        if let Some(list) = header.free.get_mut(class as usize - FIRST_CLASS as usize) {
            // SAFETY: the block is not used any more and has room for a word.
            unsafe { block.cast::<u64>().write(*list) };
            *list = block.expose_provenance().get() as u64;
        }
    }

    unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        layout: Layout,
        new: usize,
    ) -> Option<NonNull<u8>> {
        let fresh = Layout::from_size_align(new, layout.align()).ok()?;
        if class(new.max(fresh.align())) == class(layout.size().max(layout.align())) {
            return Some(block);
        }
        // SAFETY: the caller's promise.
        let moved = unsafe { self.allocate(fresh) }?;
        // SAFETY: both have so many bytes, and are different blocks.
        unsafe { block.copy_to_nonoverlapping(moved, layout.size().min(new)) };
        // SAFETY: the caller's promise.
        unsafe { self.deallocate(block, layout) };
        Some(moved)
    }
}
