//! Ranges of this process's memory that back guest memory, and copying from and to them.
//!
//! No Rust reference is ever made to such memory: a guest may write it at any time, and a file
//! that lies over it may be cut off.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    /// The number by which the host kernel knows the process whose memory this is; 0 while the
    /// thread has not asked. Each call of the program's with a path needs it.
    ///
    /// One for each thread because this memory can outlive the process: the survivor
    /// (`linux::survivor`) goes on in it under another number, with the thread-local memory of a
    /// thread that copies nothing itself.
    static OWN_NUMBER: Cell<i32> = const { Cell::new(0) };
}

fn own_number() -> i32 {
    OWN_NUMBER.with(|known| {
        if known.get() == 0 {
            known.set(rustix::process::getpid().as_raw_nonzero().get());
        }
        known.get()
    })
}

/// A range of this process's memory that backs guest memory, for the host kernel to read or
/// write. What lies in it may change at any time.
///
/// Whoever makes one says what keeps it mapped; `'a` is the borrow of that: the memory of the
/// VM ([`super::GuestMem`]), whose banks are mapped as long as it lives, or the mapping of a
/// window, which a pin keeps ([`super::windows::PinnedRange`]).
#[derive(Clone, Copy, Debug)]
pub struct HostRange<'a> {
    ptr: *mut u8,
    len: usize,
    mapped: PhantomData<&'a ()>,
}

/// Guest memory over which a file lies could not be copied: a page beyond the file's end, or
/// one the host cannot provide.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the host cannot provide the memory")]
pub struct NotThere;

impl HostRange<'_> {
    /// `len` bytes at `ptr`.
    ///
    /// # Safety
    /// They are mapped in this process for the lifetime given, whatever lies in them, and no
    /// Rust reference is ever made to them.
    pub(super) unsafe fn new(ptr: *mut u8, len: usize) -> Self {
        HostRange { ptr, len, mapped: PhantomData }
    }

    /// `len` bytes of it from `at` on, cut off where it ends.
    pub(super) fn part(self, at: usize, len: usize) -> Self {
        let at = at.min(self.len);
        HostRange { ptr: self.ptr.wrapping_add(at), len: len.min(self.len - at), ..self }
    }

    /// Its address, for a system call. What the call may do there must end with the borrow.
    #[must_use]
    pub fn as_ptr(self) -> *mut u8 {
        self.ptr
    }

    /// Bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// As a vector of system calls has it.
    #[must_use]
    pub fn iovec(self) -> libc::iovec {
        libc::iovec { iov_base: self.ptr.cast(), iov_len: self.len }
    }

    /// Copies the range out; it must not have a file over it.
    ///
    /// # Errors
    /// The lengths differ.
    pub fn read(self, buf: &mut [u8]) -> Result<(), NotThere> {
        if buf.len() != self.len {
            return Err(NotThere);
        }
        // SAFETY: the range is mapped (`new`) and as long as `buf`; nothing of ours refers to it,
        // and what the guest writes meanwhile is the guest's race.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr, buf.as_mut_ptr(), self.len) };
        Ok(())
    }

    /// Copies into the range; it must not have a file over it.
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

    /// Copies the range out, also where a file may lie: a page beyond the file's end is an
    /// error here, where a plain copy would be a SIGBUS for this process.
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

    /// As [`HostRange::read_faultable`], the other way.
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
