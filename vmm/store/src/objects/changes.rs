//! The change counters, which tell running VMs that the store has changed.
//!
//! The count of VAS changes is bumped before a change begins and again when it is done, both under
//! the exclusive lock. Guest kernels map the page and compare the word at each switch; see
//! `abi::switch` for how that and the announcement in the vCPU's status entry ensure that one side
//! sees the other. The counts of objects tell a process whether its index of the store is still
//! current.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{Ordering, fence};

use crate::format::counters::{CHANGES, COUNTERS_BYTES, Counted};
use crate::format::error::StoreError;
use crate::objects::lock::{Exclusive, Locked, SharedLock};
use crate::objects::store::Store;

impl Store {
    /// The file whose first word counts changes of VASes, for mapping.
    #[must_use]
    pub fn counters_fd(&self) -> BorrowedFd<'_> {
        self.counters.as_fd()
    }

    /// Where the file is, if it was truncated to less than a page.
    #[must_use]
    pub fn counters_if_truncated(&self) -> Option<PathBuf> {
        let len_bytes = self.counters.metadata().ok()?.len();
        (len_bytes < COUNTERS_BYTES).then(|| self.root.path_of("live"))
    }

    /// The number of VAS changes so far. VASes that are read afterwards, under the same lock, are
    /// at least as new.
    ///
    /// # Errors
    /// If the host fails.
    pub fn changes(&self, _lock: &SharedLock) -> Result<u64, StoreError> {
        self.counter(CHANGES)
    }

    /// A number of two parts that differs whenever a call has created, changed or deleted a VAS
    /// since. What is read afterwards is at least as new.
    ///
    /// # Errors
    /// If the host fails.
    pub fn vas_stamp(&self) -> Result<(u64, u64), StoreError> {
        Ok((self.counter(CHANGES)?, self.counter(Counted::Vas.offset())?))
    }

    /// Makes every VM reconcile its VASes at its threads' next switch.
    ///
    /// # Errors
    /// If the host fails or the user may not write the store.
    pub fn bump(&self) -> Result<(), StoreError> {
        self.bump_changes(&self.lock_exclusive()?)
    }

    pub(crate) fn bump_changes(&self, _lock: &Exclusive) -> Result<(), StoreError> {
        self.add_one(CHANGES)?;
        // After the count is written and before the caller checks which threads are inside.
        fence(Ordering::SeqCst);
        Ok(())
    }

    pub(crate) fn objects(&self, kind: Counted, _lock: &impl Locked) -> Result<u64, StoreError> {
        self.counter(kind.offset())
    }

    pub(crate) fn bump_objects(&self, kind: Counted, _lock: &Exclusive) -> Result<(), StoreError> {
        self.add_one(kind.offset())
    }

    fn add_one(&self, offset: u64) -> Result<(), StoreError> {
        let next = self.counter(offset)?.wrapping_add(1);
        self.counters
            .write_all_at(&next.to_le_bytes(), offset)
            .map_err(|e| self.root.error("write", "live", e))
    }

    fn counter(&self, offset: u64) -> Result<u64, StoreError> {
        let mut word = [0; 8];
        self.counters
            .read_exact_at(&mut word, offset)
            .map_err(|e| self.root.error("read", "live", e))?;
        Ok(u64::from_le_bytes(word))
    }
}
