//! Spaces over plain memory: the same types and rules without a VM, for tests of programs and
//! of this crate.
//!
//! Blocks are the process's own, each remembered with its layout until it is freed, so that a wrong
//! free is noticed, and the rest is freed with the space. They cannot reveal a pointer used in the
//! wrong place: nothing is ever unmapped.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::block_owners::{PLAIN, in_spaces, note};
use crate::check::blocks as check;
use crate::location::plain_lock::PlainLock;
use crate::space_heap::SpaceHeap;
use crate::thread_state;

/// A space's memory.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) lock: PlainLock,
    pub(crate) heap: PlainHeap,
    /// Serves as the id of a VAS, which never has the highest bit set.
    pub(crate) id: u64,
}

impl Plain {
    pub(crate) fn new(limit: usize) -> Plain {
        note(PLAIN);
        static IDS: AtomicU64 = AtomicU64::new(1 << 63);
        Plain {
            lock: PlainLock::default(),
            heap: PlainHeap { limit, blocks: Mutex::default() },
            // Relaxed: only to differ.
            id: IDS.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Blocks of the process's allocator, up to a limit.
#[derive(Debug)]
pub(crate) struct PlainHeap {
    limit: usize,
    blocks: Mutex<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks {
    by_address: BTreeMap<usize, Block>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the pointers are those of blocks that this heap owns; it only hands them out and frees
// them.
unsafe impl Send for Block {}

impl PlainHeap {
    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All blocks that are not freed, in the order of their addresses.
    pub(crate) fn all(&self) -> Vec<check::Block> {
        let block = |block: &Block| check::Block { start: block.start, bytes: block.layout.size() };
        self.blocks().by_address.values().map(block).collect()
    }

    /// Blocks that are not freed.
    pub(crate) fn count(&self) -> usize {
        self.blocks().by_address.len()
    }
}

// SAFETY: blocks are the global allocator's.
unsafe impl SpaceHeap for PlainHeap {
    unsafe fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        let _working = thread_state::without_heap();
        let mut blocks = self.blocks();
        if layout.size() > self.limit.saturating_sub(blocks.bytes) {
            return None;
        }
        // SAFETY: the size is not 0, as the caller promises.
        let start = NonNull::new(unsafe { std::alloc::alloc(layout) })?;
        blocks.by_address.insert(start.addr().get(), Block { start, layout });
        in_spaces().insert(start.addr().get());
        blocks.bytes += layout.size();
        Some(start)
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        let _working = thread_state::without_heap();
        {
            let mut blocks = self.blocks();
            let known = blocks.by_address.remove(&block.addr().get());
            assert_eq!(known.map(|known| known.layout), Some(layout), "{block:p} is no such block");
            blocks.bytes -= layout.size();
        }
        in_spaces().remove(&block.addr().get());
        // SAFETY: it came from the global allocator with this layout.
        unsafe { std::alloc::dealloc(block.as_ptr(), layout) };
    }

    unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        layout: Layout,
        new: usize,
    ) -> Option<NonNull<u8>> {
        let fresh = Layout::from_size_align(new, layout.align()).ok()?;
        // SAFETY: the caller's promise.
        let moved = unsafe { self.allocate(fresh) }?;
        // SAFETY: both have that many bytes, and are different blocks.
        unsafe { block.copy_to_nonoverlapping(moved, layout.size().min(new)) };
        // SAFETY: the caller's promise.
        unsafe { self.deallocate(block, layout) };
        Some(moved)
    }

    unsafe fn blocks(&self) -> u64 {
        let _working = thread_state::without_heap();
        self.count() as u64
    }

    fn holds(&self, block: NonNull<u8>) -> bool {
        let _working = thread_state::without_heap();
        self.blocks().by_address.contains_key(&block.addr().get())
    }

    fn contains(&self, address: NonNull<u8>) -> bool {
        let _working = thread_state::without_heap();
        let address = address.addr().get();
        let blocks = self.blocks();
        let before = blocks.by_address.range(..=address).next_back();
        before.is_some_and(|(start, block)| address - start < block.layout.size())
    }
}

impl Drop for PlainHeap {
    fn drop(&mut self) {
        let _working = thread_state::without_heap();
        for block in std::mem::take(&mut *self.blocks()).by_address.into_values() {
            in_spaces().remove(&block.start.addr().get());
            // SAFETY: it came from the global allocator with this layout. No thread is inside the
            // space, and none will be: its brand is bound to it forever.
            unsafe { std::alloc::dealloc(block.start.as_ptr(), block.layout) };
        }
    }
}
