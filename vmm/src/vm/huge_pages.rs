//! Where the host may back guest memory with huge pages: allowed, forbidden, asked for now.
//!
//! A host may be set to use huge pages wherever it can. Then a touched page takes 2 MiB, which
//! the run's memory limit would know nothing of: so they are forbidden at first, and allowed
//! where all of it is charged.
#![forbid(unsafe_code)]

use abi::GuestPhys;

use super::memory::{GuestMem, MemoryError};

impl GuestMem {
    /// Lets the host back the range with huge pages.
    ///
    /// # Errors
    /// [`MemoryError::Host`]; a host without huge pages is not an error.
    pub fn allow_huge(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        if !self.maps.has_room() {
            return Ok(());
        }
        match self.advise("allow huge pages for", gpa, len, libc::MADV_HUGEPAGE) {
            Err(MemoryError::Host { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Has the host back the range with small pages from now on, so that a touched page takes
    /// a page and not 2 MiB, which on hosts set to use huge pages everywhere it would. Where all
    /// 2 MiB are wanted, [`GuestMem::allow_huge`] says so.
    ///
    /// # Errors
    /// [`MemoryError::Host`]; a host without huge pages is not an error.
    pub fn forbid_huge(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        match self.advise("forbid huge pages for", gpa, len, libc::MADV_NOHUGEPAGE) {
            Err(MemoryError::Host { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Asks the host to replace small pages already there by huge ones, now. A host that
    /// cannot does nothing.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`].
    pub fn collapse(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_COLLAPSE] {
            match self.advise("make huge pages of", gpa, len, advice) {
                Ok(()) | Err(MemoryError::Host { .. }) => {}
                error => return error,
            }
        }
        Ok(())
    }
}
