//! The VMM's own way to a program's memory, for system calls.
//!
//! A pointer from a register is checked against the areas (never against page tables: a page
//! that would fault in is as good as present), then copied, or turned into raw ranges that
//! the host kernel reads and writes. Another thread of the program may unmap the range
//! meanwhile: then the bytes go to memory of the VM that no longer means anything, which is
//! the program's race, and to nothing else.

use abi::layout::is_of_segments;
use abi::{Errno, PAGE_SIZE};

use super::private::Space;
use crate::vm::memory::HostRange;

/// What the VMM wants to do with the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read it.
    Read,
    /// Write it.
    Write,
}

/// Longest path Linux accepts, its terminating NUL included.
const PATH_MAX: usize = 4096;

impl Space {
    /// Calls `f` with each piece of `len` bytes at `gva`: where it lies in this process and
    /// whether a file may lie there. Addresses in the VAS region are those of the instance the
    /// calling thread is in (`vas/access.rs`). Stops at the first byte the program itself could not access that way;
    /// returns how many bytes came before it.
    fn pieces(
        &self,
        gva: u64,
        len: u64,
        access: Access,
        mut f: impl FnMut(HostRange, bool) -> Result<(), Errno>,
    ) -> Result<u64, Errno> {
        let end = gva.checked_add(len).ok_or(Errno::EFAULT)?;
        if is_of_segments(gva) {
            let Some(vases) = self.vases() else { return Ok(0) };
            return vases.pieces(gva, len, access, |range| f(range, true));
        }
        let mut inner = self.lock();
        let mut good = gva;
        while good < end {
            let Some((_, vma)) = inner.areas.find(good) else { break };
            let allowed = match access {
                Access::Read => vma.prot.can_read(),
                Access::Write => vma.prot.can_write(),
            };
            if !allowed {
                break;
            }
            good = vma.end.min(end);
        }
        if good > gva {
            self.host_runs(&mut inner, gva..good, |gpa, bytes, has_file| {
                let range = self.mem().host_range(gpa, bytes as usize);
                f(range.map_err(|_| Errno::EFAULT)?, has_file)
            })?;
        }
        Ok(good - gva)
    }

    /// The host ranges behind `len` bytes at `gva`, as far as the program could access them.
    ///
    /// # Errors
    /// `EFAULT` when not even the first byte is accessible (and `len` is not 0).
    pub fn ranges(&self, gva: u64, len: u64, access: Access) -> Result<Vec<HostRange>, Errno> {
        let mut ranges = Vec::new();
        let good = self.pieces(gva, len, access, |range, _| {
            ranges.push(range);
            Ok(())
        })?;
        if good == 0 && len > 0 { Err(Errno::EFAULT) } else { Ok(ranges) }
    }

    /// Whether the program could access all `len` bytes at `gva` that way.
    #[must_use]
    pub fn is_accessible(&self, gva: u64, len: u64, access: Access) -> bool {
        self.pieces(gva, len, access, |_, _| Ok(())) == Ok(len)
    }

    /// Copies the program's memory out, all or nothing.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn copy_in(&self, gva: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let len = buf.len() as u64;
        let mut rest = &mut *buf;
        let good = self.pieces(gva, len, Access::Read, |range, has_file| {
            let (now, later) =
                std::mem::take(&mut rest).split_at_mut_checked(range.len).ok_or(Errno::EFAULT)?;
            rest = later;
            if has_file { range.read_faultable(now) } else { range.read(now) }
                .map_err(|_| Errno::EFAULT)
        })?;
        if good == len { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Copies into the program's memory. On an error some bytes may have been written, as
    /// Linux does.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn copy_out(&self, gva: u64, buf: &[u8]) -> Result<(), Errno> {
        let mut rest = buf;
        let good = self.pieces(gva, buf.len() as u64, Access::Write, |range, has_file| {
            let (now, later) = rest.split_at_checked(range.len).ok_or(Errno::EFAULT)?;
            rest = later;
            if has_file { range.write_faultable(now) } else { range.write(now) }
                .map_err(|_| Errno::EFAULT)
        })?;
        if good == buf.len() as u64 { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// A little-endian word.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_u64(&self, gva: u64) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        self.copy_in(gva, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A little-endian half word.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_u32(&self, gva: u64) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        self.copy_in(gva, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// A path: the bytes before the first NUL.
    ///
    /// # Errors
    /// `EFAULT`, or `ENAMETOOLONG` when no NUL comes within 4096 bytes.
    pub fn read_path(&self, gva: u64) -> Result<Vec<u8>, Errno> {
        let mut path = Vec::new();
        let mut at = gva;
        while path.len() < PATH_MAX {
            // To the end of the page: the next one may be out of bounds.
            let room = (PAGE_SIZE - at % PAGE_SIZE).min((PATH_MAX - path.len()) as u64);
            let mut piece = vec![0; (room as usize).min(256)];
            self.copy_in(at, &mut piece)?;
            if let Some(nul) = piece.iter().position(|&b| b == 0) {
                piece.truncate(nul);
                path.extend_from_slice(&piece);
                return Ok(path);
            }
            at += piece.len() as u64;
            path.extend_from_slice(&piece);
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// The host address of an aligned 32-bit word, for a host futex on it.
    ///
    /// # Errors
    /// `EINVAL` when unaligned, `EFAULT` when not accessible.
    pub fn futex_word(&self, gva: u64) -> Result<HostRange, Errno> {
        if !gva.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        self.ranges(gva, 4, Access::Read)?.first().copied().ok_or(Errno::EFAULT)
    }
}
