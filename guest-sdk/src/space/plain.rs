//! Spaces over plain memory: the same types and rules without a VM, for tests of programs and
//! of this crate.
//!
//! Blocks are the process's own, each remembered with its layout until it is freed, so that a
//! wrong free is noticed, and the rest is freed with the space. The lock is one of this
//! process. What they cannot show is a pointer used in the wrong place: nothing is ever unmapped.

use std::alloc::Layout;
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use abi::Errno;

use super::seat::{Access, Arrival, Wait};
use crate::alloc::SpaceHeap;
use crate::{place, scope};

/// A space's memory.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) lock: PlainLock,
    pub(crate) heap: PlainHeap,
    /// Stands for the id of a VAS, which never has the highest bit set.
    pub(crate) id: u64,
}

impl Plain {
    pub(crate) fn new(limit: usize) -> Plain {
        scope::note(scope::PLAIN);
        static IDS: AtomicU64 = AtomicU64::new(1 << 63);
        Plain {
            lock: PlainLock::default(),
            heap: PlainHeap { limit, blocks: Mutex::default() },
            // Relaxed: only to differ.
            id: IDS.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Any number of readers or one writer.
#[derive(Debug, Default)]
pub(crate) struct PlainLock {
    /// Readers inside; -1 for a writer.
    inside: Mutex<isize>,
    left: Condvar,
    /// A writer has left in the middle of a change, and nobody has recovered the content.
    inconsistent: AtomicBool,
}

impl PlainLock {
    pub(crate) fn lock(&self, access: Access, wait: Wait) -> Result<Arrival, Errno> {
        self.wait(access, wait)?;
        // Relaxed, here and below: written and read with the lock held.
        let inconsistent = self.inconsistent.load(Ordering::Relaxed);
        Ok(if inconsistent { Arrival::OwnerDead } else { Arrival::Sound })
    }

    /// Declares the content consistent, or not. The caller holds the lock exclusively.
    pub(crate) fn set_inconsistent(&self, inconsistent: bool) {
        self.inconsistent.store(inconsistent, Ordering::Relaxed);
    }

    fn wait(&self, access: Access, wait: Wait) -> Result<(), Errno> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match (access, *inside) {
                (Access::Exclusive, 0) => {
                    *inside = -1;
                    return Ok(());
                }
                (Access::Shared, 0..) => {
                    *inside += 1;
                    return Ok(());
                }
                _ => {}
            }
            inside = match (wait, wait.remaining()) {
                (Wait::Never, _) => return Err(Errno::EAGAIN),
                (_, None) => self.left.wait(inside).unwrap_or_else(PoisonError::into_inner),
                (_, Some(limit)) if limit.is_zero() => return Err(Errno::ETIMEDOUT),
                (_, Some(limit)) => {
                    let waited = self.left.wait_timeout(inside, limit);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    pub(crate) fn unlock(&self, access: Access) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        *inside += if access == Access::Exclusive { 1 } else { -1 };
        self.left.notify_all();
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

/// Addresses of all blocks of all spaces: what an allocator that is given one at home knows it
/// by. Only looked at where the thread has no heap (`place::without_heap`), since it allocates.
fn in_spaces() -> MutexGuard<'static, BTreeSet<usize>> {
    static ADDRESSES: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
    ADDRESSES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a block of this address is one of a space over plain memory.
pub(crate) fn is_in_a_space(block: NonNull<u8>) -> bool {
    let _working = place::without_heap();
    in_spaces().contains(&block.addr().get())
}

impl PlainHeap {
    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks that are not freed.
    pub(crate) fn count(&self) -> usize {
        self.blocks().by_address.len()
    }
}

// SAFETY: blocks are the global allocator's.
unsafe impl SpaceHeap for PlainHeap {
    unsafe fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        let _working = place::without_heap();
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
        let _working = place::without_heap();
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
        // SAFETY: both have so many bytes, and are different blocks.
        unsafe { block.copy_to_nonoverlapping(moved, layout.size().min(new)) };
        // SAFETY: the caller's promise.
        unsafe { self.deallocate(block, layout) };
        Some(moved)
    }

    unsafe fn blocks(&self) -> u64 {
        let _working = place::without_heap();
        self.count() as u64
    }

    fn holds(&self, block: NonNull<u8>) -> bool {
        let _working = place::without_heap();
        self.blocks().by_address.contains_key(&block.addr().get())
    }
}

impl Drop for PlainHeap {
    fn drop(&mut self) {
        let _working = place::without_heap();
        for block in std::mem::take(&mut *self.blocks()).by_address.into_values() {
            in_spaces().remove(&block.start.addr().get());
            // SAFETY: it came from the global allocator with this layout. Nobody is inside the
            // space, and nobody will be: its brand is bound to it for ever.
            unsafe { std::alloc::dealloc(block.start.as_ptr(), block.layout) };
        }
    }
}
