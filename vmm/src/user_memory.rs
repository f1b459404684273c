//! The program's memory as one of its threads sees it, for system calls.
//!
//! A pointer from a register means something only together with the instance the calling thread
//! is in: below the VAS region it is the private region's, above it belongs to whatever that
//! instance has attached there. [`UserMemory`] is that pair, made by `ThreadCtx::user`; a call
//! that takes a pointer goes through it and through nothing else.

use abi::Errno;

use crate::process::Process;
use crate::space::{Access, Space};
use crate::vm::memory::HostRange;

/// The memory of a process, seen from one of its instances.
#[derive(Clone, Copy, Debug)]
pub struct UserMemory<'a> {
    private: &'a Space,
}

impl<'a> UserMemory<'a> {
    /// The memory of `process`, seen from where the calling thread is.
    #[must_use]
    pub fn new(process: &'a Process) -> UserMemory<'a> {
        UserMemory { private: &process.space }
    }

    /// The host ranges behind `len` bytes at `gva`, as far as the program could access them.
    ///
    /// # Errors
    /// `EFAULT` when not even the first byte is accessible (and `len` is not 0).
    pub fn ranges(&self, gva: u64, len: u64, access: Access) -> Result<Vec<HostRange>, Errno> {
        self.private.ranges(gva, len, access)
    }

    /// Whether the program could access all `len` bytes at `gva` that way.
    #[must_use]
    pub fn is_accessible(&self, gva: u64, len: u64, access: Access) -> bool {
        self.private.is_accessible(gva, len, access)
    }

    /// Copies the program's memory out, all or nothing.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn copy_in(&self, gva: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.private.copy_in(gva, buf)
    }

    /// Copies into the program's memory. On an error some bytes may have been written, as
    /// Linux does.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn copy_out(&self, gva: u64, buf: &[u8]) -> Result<(), Errno> {
        self.private.copy_out(gva, buf)
    }

    /// A little-endian word.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_u64(&self, gva: u64) -> Result<u64, Errno> {
        self.private.read_u64(gva)
    }

    /// A little-endian half word.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_u32(&self, gva: u64) -> Result<u32, Errno> {
        self.private.read_u32(gva)
    }

    /// A path: the bytes before the first NUL.
    ///
    /// # Errors
    /// `EFAULT`, or `ENAMETOOLONG` when no NUL comes within 4096 bytes.
    pub fn read_path(&self, gva: u64) -> Result<Vec<u8>, Errno> {
        self.private.read_path(gva)
    }

    /// The host address of an aligned 32-bit word, for a host futex on it.
    ///
    /// # Errors
    /// `EINVAL` when unaligned, `EFAULT` when not accessible.
    pub fn futex_word(&self, gva: u64) -> Result<HostRange, Errno> {
        self.private.futex_word(gva)
    }
}
