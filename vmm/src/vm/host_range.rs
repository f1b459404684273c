//! Ranges of this process's memory that back guest memory, and copying to and from them.
//!
//! No Rust reference is ever made to such memory: a guest may write it at any time, and a file
//! mapped over it may be truncated.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    /// The host's process id of the process whose memory this is; 0 until the thread has looked it
    /// up. Each of the program's calls that takes a path needs it.
    ///
    /// One per thread because this memory can outlive the process: the survivor (`linux::survivor`)
    /// continues in it under another id, with the thread-local storage of a thread that copies
    /// nothing itself.
    static OWN_NUMBER: Cell<i32> = const { Cell::new(0) };
}

/// The host's process id of this process.
pub fn own_number() -> i32 {
    OWN_NUMBER.with(|known| {
        if known.get() == 0 {
            known.set(rustix::process::getpid().as_raw_nonzero().get());
        }
        known.get()
    })
}

/// A range of this process's memory that backs guest memory, for the host kernel to read or write.
/// Its contents may change at any time.
///
/// The code that makes one knows what keeps it mapped, and `'a` is the borrow of that: the memory
/// of the VM ([`super::GuestMem`]), whose regions are mapped as long as it lives, or the mapping of
/// a window, which a pin keeps ([`super::windows::PinnedRange`]).
#[derive(Clone, Copy, Debug)]
pub struct HostRange<'a> {
    ptr: *mut u8,
    len: usize,
    mapped: PhantomData<&'a ()>,
}

/// Guest memory over which a file is mapped could not be copied: a page beyond the file's end, or
/// one that the host cannot provide.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the host cannot provide the memory")]
pub struct NotThere;

impl HostRange<'_> {
    /// `len` bytes at `ptr`.
    ///
    /// # Safety
    /// They are mapped in this process for the given lifetime, whatever their contents, and no Rust
    /// reference is ever made to them.
    pub(super) unsafe fn new(ptr: *mut u8, len: usize) -> Self {
        HostRange { ptr, len, mapped: PhantomData }
    }

    /// `len` bytes of it starting at `at`, truncated at its end.
    #[must_use]
    pub fn part(self, at: usize, len: usize) -> Self {
        let at = at.min(self.len);
        HostRange { ptr: self.ptr.wrapping_add(at), len: len.min(self.len - at), ..self }
    }

    /// Its address, for a system call. The call must not access it after the borrow ends.
    #[must_use]
    pub fn as_ptr(self) -> *mut u8 {
        self.ptr
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The range as an `iovec` for system calls.
    #[must_use]
    pub fn iovec(self) -> libc::iovec {
        libc::iovec { iov_base: self.ptr.cast(), iov_len: self.len }
    }

    /// Copies from the range, which must not have a file mapped over it.
    ///
    /// # Errors
    /// The lengths differ.
    pub fn read(self, buf: &mut [u8]) -> Result<(), NotThere> {
        if buf.len() != self.len {
            return Err(NotThere);
        }
        // SAFETY: the range is mapped (`new`) and as long as `buf`; no Rust reference to it exists,
        // and concurrent writes by the guest are the guest's race.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr, buf.as_mut_ptr(), self.len) };
        Ok(())
    }

    /// Whether it has these bytes, each read once; it must not have a file mapped over it. Stops at the first
    /// piece that differs.
    #[must_use]
    pub fn has(self, bytes: &[u8]) -> bool {
        // Copied to where nobody changes it, and compared there: both are functions of the C library, which are as
        // quick whatever the compiler makes of loops. A piece stays in the processor's first cache.
        const PIECE: usize = 1024;
        let mut own = [0; PIECE];
        bytes.len() == self.len
            && bytes.chunks(PIECE).zip((0..).step_by(PIECE)).all(|(piece, at)| {
                let own = &mut own[..piece.len()];
                self.part(at, piece.len()).read(own).is_ok() && own == piece
            })
    }

    /// Copies into the range, which must not have a file mapped over it.
    ///
    /// # Errors
    /// The lengths differ.
    pub fn write(self, buf: &[u8]) -> Result<(), NotThere> {
        if buf.len() != self.len {
            return Err(NotThere);
        }
        // SAFETY: as for `read`.
        unsafe { std::ptr::copy_nonoverlapping(buf.as_ptr(), self.ptr, self.len) };
        Ok(())
    }

    /// Copies from the range, even if a file may be mapped over it: a page beyond the file's end is
    /// an error here, where a plain copy would raise SIGBUS in this process.
    ///
    /// # Errors
    /// [`NotThere`].
    pub fn read_faultable(self, buf: &mut [u8]) -> Result<(), NotThere> {
        let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        let own = own_number();
        // SAFETY: `local` is `buf`; the host kernel checks the range.
        let done = unsafe { libc::process_vm_readv(own, &local, 1, &self.iovec(), 1, 0) };
        if done == buf.len() as isize { Ok(()) } else { Err(NotThere) }
    }

    /// As [`HostRange::read_faultable`], of several ranges, one behind the other.
    ///
    /// # Errors
    /// [`NotThere`].
    pub fn read_all_faultable(ranges: &[HostRange<'_>], buf: &mut [u8]) -> Result<(), NotThere> {
        let mut buf = buf;
        // The host takes no more at once.
        for some in ranges.chunks(1024) {
            let len = some.iter().map(|range| range.len).sum();
            let (these, rest) = buf.split_at_mut_checked(len).ok_or(NotThere)?;
            let local = libc::iovec { iov_base: these.as_mut_ptr().cast(), iov_len: len };
            let remote: Vec<libc::iovec> = some.iter().map(|range| range.iovec()).collect();
            let (own, count) = (own_number(), remote.len() as libc::c_ulong);
            // SAFETY: `local` is `these`; the host kernel checks the ranges.
            let done = unsafe { libc::process_vm_readv(own, &local, 1, remote.as_ptr(), count, 0) };
            if done != len as isize {
                return Err(NotThere);
            }
            buf = rest;
        }
        if buf.is_empty() { Ok(()) } else { Err(NotThere) }
    }

    /// As [`HostRange::read_faultable`], in the other direction.
    ///
    /// # Errors
    /// [`NotThere`].
    pub fn write_faultable(self, buf: &[u8]) -> Result<(), NotThere> {
        let local = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
        let own = own_number();
        // SAFETY: `local` is only read; the host kernel checks the range.
        let done = unsafe { libc::process_vm_writev(own, &local, 1, &self.iovec(), 1, 0) };
        if done == buf.len() as isize { Ok(()) } else { Err(NotThere) }
    }
}
