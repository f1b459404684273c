//! Which heap a block belongs to, by its address. In a VM the addresses of segments are beyond
//! those of processes; spaces over plain memory keep a table.

use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::layout::is_of_segments;

use crate::thread_state;

/// Spaces in segments.
pub(crate) const SEGMENTS: u8 = 1;
/// Spaces over plain memory.
pub(crate) const PLAIN: u8 = 2;

/// Which kinds of spaces this process ever had. Relaxed: a thread that is given a block of a space
/// got it from one that had set this before.
static KINDS: AtomicU8 = AtomicU8::new(0);

/// Notes that there is a space of such a kind.
pub(crate) fn note(kind: u8) {
    KINDS.fetch_or(kind, Ordering::Relaxed);
}

/// The kinds noted so far.
#[inline]
pub(crate) fn kinds() -> u8 {
    KINDS.load(Ordering::Relaxed)
}

/// Whether a block at this address lies in a space of one of `kinds`.
pub(crate) fn is_of_a_space(kinds: u8, block: NonNull<u8>) -> bool {
    (kinds & SEGMENTS != 0 && is_of_segments(block.addr().get() as u64))
        || (kinds & PLAIN != 0 && is_in_plain_space(block))
}

/// Addresses of all blocks of all spaces: by which an allocator that is given one at home
/// recognizes it. Only consulted where the thread has no heap (`thread_state::without_heap`), since
/// it allocates.
pub(crate) fn in_spaces() -> MutexGuard<'static, BTreeSet<usize>> {
    static ADDRESSES: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
    ADDRESSES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a block of this address is one of a space over plain memory.
fn is_in_plain_space(block: NonNull<u8>) -> bool {
    let _working = thread_state::without_heap();
    in_spaces().contains(&block.addr().get())
}
