//! A heap's way to more of its segment, by calls alone: nothing here allocates in the process, since
//! the heap is in the middle of a change; and back. For spaces and for the C library.

use std::ptr::NonNull;

use abi::{Errno, SegId};

use super::{seg_grow, seg_reserve, seg_stat};
use crate::heap::Growth;

/// Grows the segment of a heap, and keeps the error if it cannot.
#[derive(Debug)]
pub struct SegGrowth {
    sid: SegId,
    /// Why the last failure was one.
    pub error: Errno,
}

impl SegGrowth {
    /// Of this segment.
    #[must_use]
    pub fn of(sid: SegId) -> SegGrowth {
        SegGrowth { sid, error: Errno::ENOMEM }
    }

    fn done<T>(&mut self, result: Result<T, Errno>) -> Option<T> {
        result.map_err(|error| self.error = error).ok()
    }
}

impl Growth for SegGrowth {
    fn grow(&mut self, needed: u64, wanted: u64) -> Option<u64> {
        // Another program may have grown it, or a user with `seg grow`.
        let stat = self.done(seg_stat(self.sid))?;
        if stat.size_bytes >= needed {
            return Some(stat.size_bytes);
        }
        let size = wanted.min(stat.reserve_bytes);
        if size < needed {
            return None;
        }
        self.done(seg_grow(self.sid, size))?;
        Some(size)
    }

    fn reserve(&mut self, from: u64, to: u64) -> Option<()> {
        match seg_reserve(self.sid, from, to.saturating_sub(from)) {
            // An older VMM does not have the call.
            Err(Errno::ENOSYS) => Some(()),
            reserved => self.done(reserved),
        }
    }
}

/// Makes zeros of free pages, without touching them: those of a versioned segment give their space on the
/// disk back.
///
/// # Safety
/// As [`GiveBack`](crate::heap::GiveBack) says, for a segment that the thread is inside with the right to write.
pub unsafe fn remove_pages(start: NonNull<u8>, bytes: usize) {
    // A page that stays as it was takes space, and harms nobody.
    // SAFETY: the caller's promise: nothing relies on what is there.
    let _ = unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_REMOVE) };
}
