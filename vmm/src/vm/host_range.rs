//! Ranges of this process's memory that back guest memory, and copying from and to them.
//!
//! No Rust reference is ever made to such memory: a guest may write it at any time, and a file
//! that lies over it may be cut off.

/// A range of this process's memory that backs guest memory, for the host kernel to read or
/// write. It stays mapped as long as the [`super::GuestMem`] it came from; what lies in it may
/// change at any time.
#[derive(Clone, Copy, Debug)]
pub struct HostRange {
    /// First byte.
    pub ptr: *mut u8,
    /// Bytes.
    pub len: usize,
}

/// Guest memory over which a file lies could not be copied: a page beyond the file's end, or
/// one the host cannot provide.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the host cannot provide the memory")]
pub struct NotThere;

impl HostRange {
    fn iovec(self) -> libc::iovec {
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
        // SAFETY: the range is mapped memory of a bank, as long as `buf`; nothing of ours
        // refers to it, and what the guest writes meanwhile is the guest's race.
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
        let own = rustix::process::getpid().as_raw_nonzero().get();
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
        let own = rustix::process::getpid().as_raw_nonzero().get();
        // SAFETY: `local` is only read; the host kernel checks the range.
        let done = unsafe { libc::process_vm_writev(own, &local, 1, &self.iovec(), 1, 0) };
        if done == buf.len() as isize { Ok(()) } else { Err(NotThere) }
    }
}
