//! Guest memory that has to stay in the host's memory (`mlock`).
#![forbid(unsafe_code)]

use abi::GuestPhys;

use super::host_pages;
use super::memory::{GuestMem, MemoryError};

pub use super::host_pages::HostLock;

impl GuestMem {
    /// Keeps the range in the host's memory, as far as the host allows our user to: all of it,
    /// which is faulted in first, or with `OnFault` only what has been accessed.
    ///
    /// # Errors
    /// [`MemoryError::Host`]: `ENOMEM` or `EAGAIN` at the host's limit, and for pages that cannot
    /// be provided.
    pub fn lock(&self, gpa: GuestPhys, len: u64, how: HostLock) -> Result<(), MemoryError> {
        let range = self.host_range(gpa, len as usize)?;
        let locked = match self.maps.has_room() {
            true => host_pages::lock(range, how),
            false => Err(std::io::Error::from_raw_os_error(libc::ENOMEM)),
        };
        locked.map_err(MemoryError::host("lock", gpa, len))
    }

    /// Undoes [`GuestMem::lock`].
    ///
    /// # Errors
    /// [`MemoryError::Host`].
    pub fn unlock(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        let unlocked = host_pages::unlock(self.host_range(gpa, len as usize)?);
        unlocked.map_err(MemoryError::host("unlock", gpa, len))
    }
}
