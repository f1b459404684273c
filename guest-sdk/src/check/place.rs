//! Bytes to be looked at, in a block that is known to be one.
//!
//! Nothing is assumed of the bytes: they are read as numbers, and become a reference to a value only when
//! whoever asks for it has seen that they are one.

use std::num::NonZero;
use std::ptr::NonNull;

/// Where a value should be: bytes of a block of the space that is being checked. A read beyond them gives
/// zeros.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    at: NonNull<u8>,
    bytes: usize,
}

impl Place {
    /// Bytes of a block.
    ///
    /// # Safety
    /// As long as the check runs, they are there to be read, may be anything, and are not written.
    pub(crate) const unsafe fn new(at: NonNull<u8>, bytes: usize) -> Place {
        Place { at, bytes }
    }

    /// No bytes, at a multiple of `align`.
    pub(crate) fn nowhere(align: usize) -> Place {
        let address = NonZero::new(align).unwrap_or(NonZero::<usize>::MIN);
        Place { at: NonNull::without_provenance(address), bytes: 0 }
    }

    /// How many bytes there are.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.bytes
    }

    /// Where they are.
    #[must_use]
    pub fn address(self) -> usize {
        self.at.addr().get()
    }

    /// Some of the bytes, if they are there.
    #[must_use]
    pub fn part(self, offset: usize, bytes: usize) -> Option<Place> {
        let end = offset.checked_add(bytes)?;
        if end > self.bytes {
            return None;
        }
        // SAFETY: within the bytes, or at their end.
        Some(Place { at: unsafe { self.at.add(offset) }, bytes })
    }

    /// The little-endian number in `bytes` bytes, 16 at most, from `offset` on.
    #[must_use]
    pub fn number(self, offset: usize, bytes: usize) -> u128 {
        let mut number = [0; 16];
        if let Some(part) = self.part(offset, bytes.min(16)) {
            number[..part.bytes].copy_from_slice(part.as_bytes());
        }
        u128::from_le_bytes(number)
    }

    /// The word at `offset`.
    #[must_use]
    pub fn word(self, offset: usize) -> usize {
        self.number(offset, size_of::<usize>()) as usize
    }

    /// All of them.
    pub(crate) fn as_bytes<'a>(self) -> &'a [u8] {
        // SAFETY: `new` was promised that they can be read and are not written as long as the check runs, which
        // none of its borrows outlives; any byte is a number.
        unsafe { NonNull::slice_from_raw_parts(self.at, self.bytes).as_ref() }
    }

    /// The value that they are.
    ///
    /// # Safety
    /// They are a valid `T`: as many bytes, aligned, and such as a `T` may have. The check runs as long as
    /// the result is used.
    pub(crate) unsafe fn value<'a, T>(self) -> &'a T {
        debug_assert!(size_of::<T>() <= self.bytes || size_of::<T>() == 0);
        // SAFETY: the caller's promise.
        unsafe { self.at.cast().as_ref() }
    }
}

/// Tells the compiler that memory may have been written that it does not know of: bytes of blocks that no code of this program has
/// written are what they are, and not undefined.
pub(crate) fn settle(at: NonNull<u8>) {
    #[cfg(not(miri))]
    // SAFETY: no instruction. What it stands for is one that gives each byte a value which has none.
    unsafe {
        std::arch::asm!("/* {} */", in(reg) at.as_ptr(), options(nostack, preserves_flags));
    }
    #[cfg(miri)]
    let _ = at;
}
