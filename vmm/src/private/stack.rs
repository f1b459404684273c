//! The first thread's stack: one area below a fixed end, as large as its limit lets it grow.
//!
//! All of it is mapped from the start, and memory is allocated on access. Linux extends the area
//! itself, fault by fault; here faults, system call buffers and crash reports consult the same
//! areas, which contain the stack from the start. So its maximum size is not refused for exceeding
//! `--memory`: most programs use little of it.
#![forbid(unsafe_code)]

use abi::layout::{MMAP_TOP, PRIVATE_START, STACK_BYTES, STACK_TOP};
use abi::{Errno, PAGE_SIZE, PAGE_SIZE_2M};

use super::region::{EAGER_BYTES, PrivateRegion};
use super::vma::{Backing, MemoryLock, OnFork, Prot, Vma};

/// The area's label.
pub const LABEL: &str = "stack";

/// The minimum size: arguments and environment may take 128 KiB whatever the limit (execve(2)), and
/// the program needs some, too.
const MIN_BYTES: u64 = 256 << 10;
/// The maximum size, which an unlimited stack gets, too.
const MAX_BYTES: u64 = 1 << 30;
/// The gap that stays free below it, as on Linux (`stack_guard_gap`).
const GUARD_BYTES: u64 = 256 * PAGE_SIZE;

/// The stack's size for a limit (`RLIMIT_STACK`).
#[must_use]
pub fn bytes_for(limit: u64) -> u64 {
    (limit & !(PAGE_SIZE - 1)).clamp(MIN_BYTES, MAX_BYTES)
}

/// Bytes that arguments and environment may take: a quarter of the limit, but no more than three
/// quarters of the usual one, and always 128 KiB (execve(2)).
#[must_use]
pub fn argument_bytes(limit: u64) -> u64 {
    (limit / 4).clamp(128 << 10, STACK_BYTES / 4 * 3)
}

impl PrivateRegion {
    /// Keeps the room that the stack needs for a given limit: what is mapped anywhere from now on lies
    /// below. Before anything is.
    pub fn keep_room_for_stack(&self, limit: u64) {
        let start = STACK_TOP.raw() - bytes_for(limit);
        let top = (start - GUARD_BYTES) & !(PAGE_SIZE_2M - 1);
        self.edit(|inner| inner.mmap_top = MMAP_TOP.raw().min(top));
    }

    /// Maps the stack for a given limit.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn map_stack(&self, limit: u64, prot: Prot) -> Result<(), Errno> {
        let bytes = bytes_for(limit);
        let range = STACK_TOP.raw() - bytes..STACK_TOP.raw();
        self.edit(|inner| {
            let lock = MemoryLock::Unlocked;
            let (backing, on_fork) = (Backing::Anonymous, OnFork::Copied);
            let vma = Vma { end: range.end, prot, backing, label: LABEL, lock, on_fork };
            self.insert(inner, range.clone(), vma.clone())?;
            if bytes > EAGER_BYTES {
                // Its end is used immediately.
                let _ = self.populate(inner, range.end - PAGE_SIZE_2M..range.end, &vma);
            }
            Ok(())
        })
    }

    /// Lets the stack grow to a new limit, as far as the space below it is free. It never shrinks,
    /// as on Linux.
    pub fn grow_stack(&self, limit: u64) {
        let bytes = bytes_for(limit);
        self.edit(|inner| {
            let Some((start, vma)) = inner.areas.find(STACK_TOP.raw() - 1) else { return };
            if vma.label != LABEL {
                return;
            }
            let vma = vma.clone();
            let below = inner.areas.overlapping(PRIVATE_START.raw()..start).last();
            let free = below.map_or(PRIVATE_START.raw(), |(range, _)| range.end);
            let lowest = free.max(page_of_heap(inner.heap_ahead)) + GUARD_BYTES;
            let wanted = (STACK_TOP.raw() - bytes).max(lowest);
            if wanted < start {
                // Without pages: nothing here can fail.
                inner.areas.insert(wanted, Vma { end: start, ..vma });
            }
        });
    }
}

fn page_of_heap(end: u64) -> u64 {
    end.next_multiple_of(PAGE_SIZE)
}
