//! A heap of a space, as allocators see it. There are two: `space/segment_heap.rs` in a VM, and
//! `space/plain.rs` without one.

use std::alloc::Layout;
use std::ptr::NonNull;

/// A heap as the state of a thread has it.
///
/// # Safety
/// Blocks do not overlap, are as large and aligned as asked for, and stay until freed.
pub(crate) unsafe trait SpaceHeap {
    /// A block, or `None` if there is no room. `layout` has a size that is not 0.
    ///
    /// # Safety
    /// The thread is inside the heap's space, writable.
    unsafe fn allocate(&self, layout: Layout) -> Option<NonNull<u8>>;

    /// Frees a block.
    ///
    /// # Safety
    /// As `allocate`; the block came from it, or from `reallocate`, with this layout, and is not
    /// used any more.
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout);

    /// A block of `new` bytes, not 0, with the content of `block`, which is gone if there is one.
    ///
    /// # Safety
    /// As `deallocate`.
    unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        layout: Layout,
        new: usize,
    ) -> Option<NonNull<u8>>;

    /// How many blocks there are that are not freed.
    ///
    /// # Safety
    /// As `allocate`.
    unsafe fn blocks(&self) -> u64;

    /// Whether a block at this address is this heap's, and not of the process or another heap.
    fn holds(&self, block: NonNull<u8>) -> bool;

    /// Whether an address is in memory of this heap's, and not in that of the process or another heap.
    fn contains(&self, address: NonNull<u8>) -> bool;
}
