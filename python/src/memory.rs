//! The memory of a space, while the calling thread is inside: loads, stores, blocks of its heap.
//!
//! Every address is checked against the bounds of the heap before it is used, and everything that is loaded is
//! a number, so that content which another program has damaged is an error and nothing worse. All
//! `unsafe` code on the content of spaces is here.

use std::alloc::Layout;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use seg_heap::{HeapFront, HeapHeader, RootNote};
use spacejmp::heap::{FIRST_BYTES, Growth, HeapError, RawHeap};
use spacejmp::sys::{Errno, SegGrowth, SegId, SegRoot, remove_pages};

/// Why an access was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is nothing of the kind at this address.
    Damaged(&'static str, u64),
    /// No room for so many bytes.
    NoRoom(u64, Errno),
    /// The visit reads.
    ReadOnly,
}

/// The heap of the space that the calling thread is inside.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    /// Bytes from `base` on that may be accessed.
    end: u64,
    heap: RawHeap,
    sid: SegId,
    is_writable: bool,
    /// It means something on this thread only.
    _here: PhantomData<*mut ()>,
}

impl Memory {
    /// The heap at `base` of the segment `sid`.
    ///
    /// # Safety
    /// Until it is dropped the thread is inside an instance that has the segment, which begins at `base`, a multiple
    /// of 2 MiB, and held a heap once; with the right to write, and alone, if `is_writable`. It is the only such
    /// value of the thread's.
    pub(crate) unsafe fn here(
        base: u64,
        sid: SegId,
        is_writable: bool,
    ) -> Result<Memory, HeapError> {
        let nowhere = HeapError::NotAHeap { found: 0 };
        let base =
            NonNull::new(ptr::with_exposed_provenance_mut::<u8>(base as usize)).ok_or(nowhere)?;
        // SAFETY: the caller's promise; a segment that held a heap has its first page always, and the header
        // says how far it goes now.
        let heap = unsafe { RawHeap::open(base, u64::MAX) }?;
        let heap = heap.giving_back(remove_pages);
        let mut memory = Memory { base, end: 0, heap, sid, is_writable, _here: PhantomData };
        memory.look();
        Ok(memory)
    }

    /// The same in a visit in which [`here`](Memory::here) has found a heap.
    ///
    /// # Safety
    /// As for `here`, which has given `Ok` in this visit.
    pub(crate) unsafe fn again(base: u64, sid: SegId, is_writable: bool) -> Memory {
        let base = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(base as usize))
            .unwrap_or(NonNull::dangling());
        // SAFETY: the caller's promise: there is a heap.
        let heap = unsafe { RawHeap::at(base) }.giving_back(remove_pages);
        let mut memory = Memory { base, end: 0, heap, sid, is_writable, _here: PhantomData };
        memory.look();
        memory
    }

    /// Makes an empty heap of a segment that has `size` bytes, with a text that describes what will be in it.
    ///
    /// # Safety
    /// As for [`here`](Memory::here), writable, but for the heap; nothing uses what is in the segment.
    pub(crate) unsafe fn format(
        base: u64,
        sid: SegId,
        size: u64,
        text: &str,
    ) -> Result<Memory, Errno> {
        let mut grow = SegGrowth::of(sid);
        let least = seg_heap::MIN_BYTES;
        let grown = if size < least { grow.grow(least, least) } else { Some(size) };
        let size = grown.ok_or(grow.error)?.min(FIRST_BYTES);
        grow.reserve(0, size).ok_or(grow.error)?;
        let address = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(base as usize))
            .ok_or(Errno::EIO)?;
        // SAFETY: the caller's promise; the segment has `size` bytes now.
        let heap = unsafe { RawHeap::create(address, size) }.map_err(|_| Errno::ENOMEM)?;
        // SAFETY: the same.
        unsafe { heap.set_text(text, &mut grow) }.ok_or(grow.error)?;
        // SAFETY: the caller's promise.
        unsafe { Memory::here(base, sid, true) }.map_err(|_| Errno::EIO)
    }

    /// Notes where the heap ends.
    fn look(&mut self) {
        // SAFETY: a heap begins with a header, and this thread may read it; any bytes are one.
        self.end = unsafe { self.base.cast::<HeapHeader>().read() }.end;
    }

    /// Whether the heap notes `root` as the segment's root object; if not, the segment must be asked.
    pub(crate) fn notes(&self, root: &SegRoot) -> bool {
        // SAFETY: a heap's first page has the note behind its header; any bytes are one.
        let noted = unsafe { self.base.cast::<HeapFront>().read() }.root;
        noted == RootNote { address: root.address, fingerprint: root.fingerprint }
    }

    /// Notes the segment's root object in the heap.
    pub(crate) fn note(&mut self, root: &SegRoot) -> Result<(), Fault> {
        self.must_be_writable()?;
        // SAFETY: as in `notes`; the thread may write, alone, and no other reference to the page exists.
        let front = unsafe { self.base.cast::<HeapFront>().as_mut() };
        front.root = RootNote { address: root.address, fingerprint: root.fingerprint };
        Ok(())
    }

    fn must_be_writable(&self) -> Result<(), Fault> {
        if self.is_writable { Ok(()) } else { Err(Fault::ReadOnly) }
    }

    /// Where `bytes` bytes at `at` lie, if they are in the heap and `at` is a multiple of `align`.
    fn place(&self, at: u64, bytes: u64, align: u64) -> Result<NonNull<u8>, Fault> {
        let damaged = Fault::Damaged("an address that is not in its heap", at);
        let offset = at.checked_sub(self.base.as_ptr().addr() as u64).ok_or(damaged)?;
        let is_inside = offset.checked_add(bytes).is_some_and(|end| end <= self.end);
        if !is_inside || !at.is_multiple_of(align) {
            return Err(damaged);
        }
        // SAFETY: the heap is one piece of mapped memory, and the offset is not beyond its end.
        Ok(unsafe { self.base.add(offset as usize) })
    }

    /// `N` words at `at`.
    pub(crate) fn words<const N: usize>(&self, at: u64) -> Result<[u64; N], Fault> {
        let place = self.place(at, (N * 8) as u64, 8)?;
        // SAFETY: `place` has checked bounds and alignment; the memory is mapped, and any bytes are numbers.
        Ok(unsafe { place.cast::<[u64; N]>().read() })
    }

    /// The word at `at`.
    pub(crate) fn word(&self, at: u64) -> Result<u64, Fault> {
        self.words::<1>(at).map(|[word]| word)
    }

    /// Stores words at `at`.
    pub(crate) fn set_words<const N: usize>(
        &mut self,
        at: u64,
        words: [u64; N],
    ) -> Result<(), Fault> {
        self.must_be_writable()?;
        let place = self.place(at, (N * 8) as u64, 8)?;
        // SAFETY: as in `words`; the thread may write, alone, and `&mut self` keeps slices of `bytes` out.
        unsafe { place.cast::<[u64; N]>().write(words) };
        Ok(())
    }

    /// The short word at `at`.
    pub(crate) fn short(&self, at: u64) -> Result<u32, Fault> {
        let place = self.place(at, 4, 4)?;
        // SAFETY: as in `words`.
        Ok(unsafe { place.cast::<u32>().read() })
    }

    /// Stores a short word at `at`.
    pub(crate) fn set_short(&mut self, at: u64, word: u32) -> Result<(), Fault> {
        self.must_be_writable()?;
        let place = self.place(at, 4, 4)?;
        // SAFETY: as in `set_words`.
        unsafe { place.cast::<u32>().write(word) };
        Ok(())
    }

    /// `bytes` bytes at `at`.
    pub(crate) fn bytes(&self, at: u64, bytes: u64) -> Result<&[u8], Fault> {
        if bytes == 0 {
            return Ok(&[]);
        }
        let place = self.place(at, bytes, 1)?;
        // SAFETY: checked by `place`; the memory is mapped while `self` exists, and nothing writes there while it is
        // borrowed: every method that writes takes `&mut self`, and who writes is alone inside.
        Ok(unsafe { std::slice::from_raw_parts(place.as_ptr(), bytes as usize) })
    }

    /// Where `bytes` bytes at `at` begin, for a buffer that is exported.
    pub(crate) fn address(&self, at: u64, bytes: u64) -> Result<NonNull<u8>, Fault> {
        if bytes == 0 { Ok(NonNull::dangling()) } else { self.place(at, bytes, 1) }
    }

    /// Stores bytes at `at`.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.must_be_writable()?;
        let place = self.place(at, bytes.len() as u64, 1)?;
        // SAFETY: checked by `place`. `bytes` may be a buffer onto this very heap, so they may overlap.
        unsafe { ptr::copy(bytes.as_ptr(), place.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Moves `bytes` bytes from one place to another; they may overlap.
    pub(crate) fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), Fault> {
        if bytes == 0 {
            return Ok(());
        }
        self.must_be_writable()?;
        let (from, to) = (self.place(from, bytes, 1)?, self.place(to, bytes, 1)?);
        // SAFETY: both are checked by `place`.
        unsafe { ptr::copy(from.as_ptr(), to.as_ptr(), bytes as usize) };
        Ok(())
    }

    /// Makes zeros of `bytes` bytes at `at`.
    pub(crate) fn clear(&mut self, at: u64, bytes: u64) -> Result<(), Fault> {
        self.must_be_writable()?;
        let place = self.place(at, bytes, 1)?;
        // SAFETY: checked by `place`.
        unsafe { place.as_ptr().write_bytes(0, bytes as usize) };
        Ok(())
    }

    /// A block of so many bytes, with any content.
    pub(crate) fn allocate(&mut self, bytes: u64, align: u64) -> Result<u64, Fault> {
        self.must_be_writable()?;
        let none = |errno| Fault::NoRoom(bytes, errno);
        let size = usize::try_from(bytes.max(1)).map_err(|_| none(Errno::ENOMEM))?;
        let layout =
            Layout::from_size_align(size, align as usize).map_err(|_| none(Errno::ENOMEM))?;
        let mut grow = SegGrowth::of(self.sid);
        // SAFETY: the thread is inside, alone to write; no slice of the heap is borrowed (`&mut self`).
        let block = unsafe { self.heap.alloc(layout, &mut grow) }.ok_or(none(grow.error))?;
        self.look();
        Ok(block.as_ptr().expose_provenance() as u64)
    }

    /// Frees a block.
    pub(crate) fn free(&mut self, at: u64) -> Result<(), Fault> {
        self.must_be_writable()?;
        let block = self.place(at, 1, 1)?;
        // SAFETY: the thread is inside, alone.
        if !unsafe { self.heap.is_block(block) } {
            return Err(Fault::Damaged("no block of its heap", at));
        }
        // SAFETY: as above; it is a block, and who frees it has unlinked it.
        unsafe { self.heap.dealloc(block) };
        Ok(())
    }
}
