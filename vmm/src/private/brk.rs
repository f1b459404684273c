//! The heap that `brk` moves.
//!
//! `brk` comes in small steps. Past the first megabyte whole 2 MiB blocks are made present at
//! once, beyond the heap's end too: large pages, and no work for the next steps. What lies
//! there is taken back when anything else wants the addresses.

use std::ops::Range;

use abi::Errno;

use super::charge::check_area_count;
use super::region::{BLOCK, EAGER_BYTES, Inner, PrivateRegion};
use super::vma::{Backing, OnFork, Prot, Vma, page_up};

/// From this size on, a heap grows in large pages.
const LARGE_HEAP_BYTES: u64 = 1 << 20;

impl PrivateRegion {
    /// Sets the address after which the heap begins, on a new page as on Linux; nothing is mapped
    /// yet.
    pub fn set_heap(&self, start: u64) {
        let start = page_up(start).unwrap_or(start);
        let mut inner = self.lock();
        inner.heap_start = start;
        inner.heap_end = start;
        inner.heap_ahead = start;
    }

    /// `brk`: moves the heap's end to `end` if possible, and returns the end.
    #[must_use]
    pub fn set_heap_end(&self, end: u64) -> u64 {
        self.edit(|inner| self.move_heap_end(inner, end))
    }

    fn move_heap_end(&self, inner: &mut Inner, end: u64) -> u64 {
        let (start, old_end) = (inner.heap_start, inner.heap_end);
        let (Some(old_top), Some(new_top)) = (page_up(old_end), page_up(end)) else {
            return old_end;
        };
        if end < start || new_top > inner.mmap_top {
            return old_end;
        }
        let moved = if new_top < old_top {
            self.shrink_heap(inner, new_top..old_top)
        } else if new_top > old_top {
            self.grow_heap(inner, old_top..new_top)
        } else {
            Ok(())
        };
        if moved.is_ok() {
            inner.heap_end = end;
        }
        inner.heap_end
    }

    pub(super) fn grow_heap(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), Errno> {
        if !inner.areas.is_free(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        let backing = Backing::Anonymous;
        check_area_count(inner, &range)?;
        self.check_limit(inner, &range, Prot::READ_WRITE, &backing)?;
        let heap_bytes = range.end - inner.heap_start;
        let (prot, lock) = (Prot::READ_WRITE, inner.lock_new);
        let vma =
            Vma { end: range.end, prot, backing, label: "heap", lock, on_fork: OnFork::Copied };
        inner.areas.insert(range.start, vma.clone());
        // `brk` comes in small steps. Past the first megabyte whole blocks are made present at
        // once, beyond the heap's end too: large pages, and no work for the next steps. What
        // lies there is taken back when anything else wants the addresses.
        let ahead = range.end.next_multiple_of(BLOCK);
        let all_ahead = range.end..ahead;
        if heap_bytes >= LARGE_HEAP_BYTES
            && range.end > inner.heap_ahead
            && ahead - range.end.max(inner.heap_ahead) <= EAGER_BYTES
            && inner.areas.is_free(all_ahead)
            && ahead < inner.mmap_top
        {
            let from = range.start.max(inner.heap_ahead);
            let bytes = ahead - from;
            if bytes <= EAGER_BYTES {
                if self.populate(inner, from..ahead, &vma).is_ok() {
                    inner.heap_ahead = ahead;
                    return Ok(());
                }
                // Short of memory: release what was made present beyond the heap.
                self.take_back(inner, range.end.max(inner.heap_ahead)..ahead)?;
            }
        }
        let from = range.start.max(inner.heap_ahead);
        if from < range.end && range.end - from <= EAGER_BYTES {
            // Best effort: what does not fit now is left to the first access.
            let _ = self.populate(inner, from..range.end, &vma);
        }
        Ok(())
    }

    pub(super) fn shrink_heap(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), Errno> {
        let end = range.end.max(inner.heap_ahead);
        inner.heap_ahead = range.start;
        self.unmap_locked(inner, range.clone())?;
        self.take_back(inner, range.end..end)
    }

    /// Releases what `grow_heap` made present in advance, where it overlaps `range`.
    pub(super) fn trim_heap(&self, inner: &mut Inner, range: &Range<u64>) -> Result<(), Errno> {
        let Some(top) = page_up(inner.heap_end) else { return Ok(()) };
        let ahead = top..inner.heap_ahead;
        if ahead.is_empty() || range.start >= ahead.end || range.end <= ahead.start {
            return Ok(());
        }
        inner.heap_ahead = top;
        self.take_back(inner, ahead)
    }

    pub(super) fn take_back(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        self.restrict(inner, range.clone(), None)?;
        self.drop_content(inner, range, &Backing::Anonymous)
    }
}
