//! The VMM's own access to the private region.
//!
//! An address is checked against the areas (never against page tables: a page that would fault in
//! is as good as present), then its bytes are copied, or turned into raw ranges that the host
//! kernel reads and writes, pinned (`pins.rs`). Another thread of the program may unmap or replace
//! the range meanwhile. What it gives up is a block's *content*: the memory region it lies in stays mapped
//! as long as the machine, its GPA is given to no other addresses while it is pinned, and a file
//! mapped over it or taken away replaces pages in one step of the host's. So the bytes go to memory of
//! the VM that no longer means anything, which is the program's race, and to nothing else.
//!
//! A system call's pointer may lie in a segment too: see [`crate::user_memory`].

use abi::{Errno, PAGE_SIZE};

use super::region::{Inner, PrivateRegion};
use crate::access::MemoryAccess;
use crate::vm::memory::HostRange;

/// What backs a piece of memory, and so how it can be copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backed {
    /// Memory only.
    Memory,
    /// Perhaps by a file, which may be truncated: only by calls that report faults.
    File,
}

/// Copies memory into `buf`, as enumerated by `pieces`, all or nothing.
///
/// # Errors
/// `EFAULT`, and those of `pieces`.
pub(crate) fn copy_pieces_in(
    buf: &mut [u8],
    pieces: impl FnOnce(&mut PieceFn<'_>) -> Result<u64, Errno>,
) -> Result<(), Errno> {
    let len = buf.len() as u64;
    let mut rest = buf;
    let good = pieces(&mut |range, backed| {
        let (now, later) =
            std::mem::take(&mut rest).split_at_mut_checked(range.len()).ok_or(Errno::EFAULT)?;
        rest = later;
        let copied = match backed {
            Backed::File => range.read_faultable(now),
            Backed::Memory => range.read(now),
        };
        copied.map_err(|_| Errno::EFAULT)
    })?;
    if good == len { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Copies `buf` into memory, as enumerated by `pieces`. On an error some bytes may have been
/// written.
///
/// # Errors
/// `EFAULT`, and those of `pieces`.
pub(crate) fn copy_pieces_out(
    buf: &[u8],
    pieces: impl FnOnce(&mut PieceFn<'_>) -> Result<u64, Errno>,
) -> Result<(), Errno> {
    let len = buf.len() as u64;
    let mut rest = buf;
    let good = pieces(&mut |range, backed| {
        let (now, later) = rest.split_at_checked(range.len()).ok_or(Errno::EFAULT)?;
        rest = later;
        let copied = match backed {
            Backed::File => range.write_faultable(now),
            Backed::Memory => range.write(now),
        };
        copied.map_err(|_| Errno::EFAULT)
    })?;
    if good == len { Ok(()) } else { Err(Errno::EFAULT) }
}

/// The function called for each piece.
pub(crate) type PieceFn<'f> = dyn FnMut(HostRange<'_>, Backed) -> Result<(), Errno> + 'f;

impl PrivateRegion {
    /// Calls `f` with each piece of `len` bytes at `gva`; a piece is valid only while `f` runs.
    /// Stops at the first byte that the program itself could not access that way; returns the
    /// number of bytes before it.
    ///
    /// # Errors
    /// `EFAULT` for a range beyond the address space, and whatever `f` returns.
    pub(crate) fn pieces(
        &self,
        gva: u64,
        len: u64,
        access: MemoryAccess,
        f: impl FnMut(HostRange<'_>, Backed) -> Result<(), Errno>,
    ) -> Result<u64, Errno> {
        self.pieces_locked(&mut self.lock(), gva, len, access, f)
    }

    /// The same for a caller that has the region locked, and pins what is to be kept.
    ///
    /// # Errors
    /// As [`PrivateRegion::pieces`].
    pub(super) fn pieces_locked<'a>(
        &'a self,
        inner: &mut Inner,
        gva: u64,
        len: u64,
        access: MemoryAccess,
        mut f: impl FnMut(HostRange<'a>, Backed) -> Result<(), Errno>,
    ) -> Result<u64, Errno> {
        let end = gva.checked_add(len).ok_or(Errno::EFAULT)?;
        let mut good = gva;
        while good < end {
            let Some((_, vma)) = inner.areas.find(good) else { break };
            if !vma.prot.allows(access) {
                break;
            }
            good = vma.end.min(end);
        }
        if good > gva {
            self.host_runs(inner, gva..good, access, |gpa, bytes, has_file| {
                let range = self.mem().host_range(gpa, bytes as usize);
                let backed = if has_file { Backed::File } else { Backed::Memory };
                f(range.map_err(|_| Errno::EFAULT)?, backed)
            })?;
        }
        Ok(good - gva)
    }

    /// Copies from the private region, all or nothing.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn copy_in(&self, gva: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let len = buf.len() as u64;
        copy_pieces_in(buf, |f| self.pieces(gva, len, MemoryAccess::Read, f))
    }

    /// Copies into the private region, for a debugger, whatever the program may do there: but for files that
    /// others see, which it must be allowed to write. On an error some bytes may have been written.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn poke(&self, gva: u64, buf: &[u8]) -> Result<(), Errno> {
        let end = gva.checked_add(buf.len() as u64).ok_or(Errno::EFAULT)?;
        copy_pieces_out(buf, |f| {
            let inner = &mut *self.lock();
            let may = |(_, vma): (_, &super::vma::Vma)| {
                vma.backing.is_counted() || vma.prot.allows(MemoryAccess::Write)
            };
            if !inner.areas.covers(gva..end) || !inner.areas.overlapping(gva..end).all(may) {
                return Err(Errno::EFAULT);
            }
            let first = gva & !(PAGE_SIZE - 1);
            self.bind(inner, first..end)?;
            // Whole pages: what was an image's is the program's own from now on.
            self.hold_range(inner, first..end.next_multiple_of(PAGE_SIZE))?;
            self.host_runs(inner, gva..end, MemoryAccess::Write, |gpa, bytes, has_file| {
                let range = self.mem().host_range(gpa, bytes as usize);
                let backed = if has_file { Backed::File } else { Backed::Memory };
                f(range.map_err(|_| Errno::EFAULT)?, backed)
            })?;
            Ok(end - gva)
        })
    }

    /// Copies into the private region. On an error some bytes may have been written, as Linux
    /// does.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn copy_out(&self, gva: u64, buf: &[u8]) -> Result<(), Errno> {
        copy_pieces_out(buf, |f| self.pieces(gva, buf.len() as u64, MemoryAccess::Write, f))
    }
}
