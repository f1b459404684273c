//! Memory of the VAS the thread is in: what owners and collections allocate from.
//!
//! The heap itself is in `heap`; this file only connects a type to it. An allocator has no token,
//! so this one consults the thread's state, and refuses where it must not touch anything.

use std::alloc::Layout;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError as ApiError, Allocator};

pub use crate::alloc_error::AllocError;
use crate::brand::{Brand, Handles, Invariant};
use crate::space_heap::SpaceHeap;
use crate::thread_state::{self, Inside, inside};

/// Allocates in `V`, if the thread is inside and may write; fails otherwise. Freeing without
/// being inside does nothing.
///
/// For collections that take an allocator. It has no values of its own to lose, but is not `Clone`:
/// a collection that could be cloned without a token would be written without one. Users must not
/// get such collections directly: their destructors must check [`inside`] first. That is why making
/// one is `unsafe`: a `Vec` with it would be read, and dropped, wherever the thread is.
pub struct VAlloc<V>(Invariant<V>);

impl<V: Brand> VAlloc<V> {
    /// The allocator of `V`.
    ///
    /// # Safety
    /// Its blocks are only valid while the thread is inside `V`, which is less than
    /// [`Allocator`] promises: their owner reads them with a borrow of a witness, writes and
    /// frees them with one that is writable, and does neither elsewhere.
    #[inline]
    #[must_use]
    pub const unsafe fn new() -> VAlloc<V> {
        VAlloc(PhantomData)
    }

    /// The same for owners of this crate, all of which require a witness and whose destructors
    /// check [`inside`].
    #[inline]
    pub(crate) const fn of_owner() -> VAlloc<V> {
        VAlloc(PhantomData)
    }

    fn heap() -> Option<NonNull<dyn SpaceHeap>> {
        if inside::<V>() == Inside::Writable { thread_state::current().heap } else { None }
    }

    /// The heap that the memory at `address` is of, if the thread is inside its space, writable. Several spaces may
    /// have the brand if its handles end with the visit, and a destructor knows nothing of lifetimes: what was
    /// moved into a visit of another space is told by its address. Spaces with the same addresses have no threads
    /// inside at the same time.
    #[inline]
    fn heap_of(address: NonNull<u8>) -> Option<NonNull<dyn SpaceHeap>> {
        let heap = Self::heap()?;
        // What has no memory has its alignment for an address, and is nobody's.
        let is_nowhere = address.addr().get() <= NOWHERE_MAX;
        // SAFETY: as in `allocate`.
        let is_here = || unsafe { heap.as_ref() }.contains(address);
        (V::Handles::ARE_KEPT || is_nowhere || is_here()).then_some(heap)
    }
}

/// Whether an owner that has the memory at `address` may write and free it: the thread is inside the owner's space,
/// writable. For destructors.
#[inline]
pub(crate) fn may_free<V: Brand>(address: NonNull<u8>) -> bool {
    VAlloc::<V>::heap_of(address).is_some()
}

impl<V: Brand> std::fmt::Debug for VAlloc<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VAlloc<{}>", V::NAME)
    }
}

/// No space lies so low: an address up to here is that of no memory.
pub(crate) const NOWHERE_MAX: usize = 1 << 16;

/// What stands for a block of no bytes.
fn empty(layout: Layout) -> NonNull<[u8]> {
    let address = NonZeroUsize::new(layout.align()).unwrap_or(NonZeroUsize::MIN);
    NonNull::slice_from_raw_parts(NonNull::without_provenance(address), 0)
}

// SAFETY: blocks are those of a `SpaceHeap`, which stay until freed wherever the allocator is
// moved; a thread elsewhere cannot touch them, but their owners do not let it.
unsafe impl<V: Brand> Allocator for VAlloc<V> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, ApiError> {
        if layout.size() == 0 {
            return Ok(empty(layout));
        }
        let heap = Self::heap().ok_or(ApiError)?;
        // SAFETY: the thread's state holds the heap of the space the thread is in, and this thread
        // is inside.
        let heap = unsafe { heap.as_ref() };
        // SAFETY: `heap()` says that the thread is inside, writable.
        let block = unsafe { heap.allocate(layout) }.ok_or(ApiError)?;
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    #[inline]
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        let Some(heap) = Self::heap_of(block) else { return };
        if layout.size() != 0 {
            // SAFETY: as in `allocate`.
            let heap = unsafe { heap.as_ref() };
            // SAFETY: the caller's promise, and as in `allocate`.
            unsafe { heap.deallocate(block, layout) };
        }
    }

    /// `shrink`, too: the heap is told the new size, whichever is larger.
    #[inline]
    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, ApiError> {
        if old.size() != 0 && new.size() != 0 && old.align() == new.align() {
            let heap = Self::heap().ok_or(ApiError)?;
            // SAFETY: as in `allocate`.
            let heap = unsafe { heap.as_ref() };
            // SAFETY: the caller's promise.
            let block = unsafe { heap.reallocate(block, old, new.size()) }.ok_or(ApiError)?;
            return Ok(NonNull::slice_from_raw_parts(block, new.size()));
        }
        let fresh = self.allocate(new)?;
        let bytes = old.size().min(new.size());
        // SAFETY: both blocks have that many bytes and are different.
        unsafe { block.copy_to_nonoverlapping(fresh.cast(), bytes) };
        // SAFETY: the caller's promise.
        unsafe { self.deallocate(block, old) };
        Ok(fresh)
    }

    #[inline]
    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, ApiError> {
        // SAFETY: the caller's promise; `grow` works for either size being the larger one.
        unsafe { self.grow(block, old, new) }
    }
}
