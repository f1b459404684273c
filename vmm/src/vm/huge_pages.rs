//! Where the host may back guest memory with huge pages: allowed, forbidden, requested immediately.
//!
//! A host may be configured to use huge pages wherever it can. Then a page takes 2 MiB on first
//! access, for which the run's memory limit would not account: so they are forbidden at first, and
//! allowed where all of a huge page is charged.
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
        if_known(self.advise("allow huge pages for", gpa, len, libc::MADV_HUGEPAGE))
    }

    /// Makes the host back the range with small pages from now on, so that accessing a page
    /// allocates one page, and not 2 MiB as on hosts configured to use huge pages everywhere.
    /// [`GuestMem::allow_huge`] is for ranges where all 2 MiB are wanted.
    ///
    /// # Errors
    /// [`MemoryError::Host`]; a host without huge pages is not an error.
    pub fn forbid_huge(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        if_known(self.advise("forbid huge pages for", gpa, len, libc::MADV_NOHUGEPAGE))
    }

    /// Asks the host to replace existing small pages with huge ones immediately. A host that cannot
    /// does nothing.
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

/// A host that does not know the advice has no huge pages.
fn if_known(advised: Result<(), MemoryError>) -> Result<(), MemoryError> {
    match advised {
        Err(MemoryError::Host { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
            Ok(())
        }
        other => other,
    }
}
