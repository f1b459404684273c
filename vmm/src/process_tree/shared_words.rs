//! Words that all VMMs of a run share: memory without a file, mapped before the first of them makes another
//! process.

use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

/// Shared with those that are forked from this process; all zero at first.
#[derive(Debug)]
pub struct SharedWords {
    memory: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is shared, never unmapped while this exists, and contains only atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// So many, at least one.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn new(count: usize) -> io::Result<SharedWords> {
        let count = count.max(1);
        let bytes = count.checked_mul(size_of::<AtomicU64>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, flags, -1, 0) };
        match NonNull::new(at.cast()) {
            Some(memory) if at != libc::MAP_FAILED => Ok(SharedWords { memory, count }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `new` has mapped as many, page-aligned; zeroes are valid atomics, and all access is atomic.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: `new` has mapped it; nothing refers to it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
    }
}
