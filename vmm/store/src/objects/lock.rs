//! The store's lock: an flock on one file, shared to read, exclusive to change.
//!
//! An flock belongs to an open file description. Each acquisition opens the file anew, so that
//! threads of one process exclude each other exactly as processes do, and the kernel releases it
//! when the holder dies. Shared locks nest; taking the exclusive lock while holding a shared one
//! never succeeds, which is why only this crate can take it. How long a thread waits is decided in
//! `patience`.

use std::fs::File;

use rustix::fs::{FlockOperation, OFlags};

use crate::format::error::StoreError;
use crate::objects::store::Store;

/// While it lives, nothing in the store is created, changed or deleted.
#[derive(Debug)]
pub struct SharedLock {
    _file: File,
}

/// While it lives, no other process reads the store. Functions that change it ask for a reference
/// as proof.
#[derive(Debug)]
pub(crate) struct Exclusive {
    _file: File,
}

/// Either lock: enough to read.
pub(crate) trait Locked {}
impl Locked for SharedLock {}
impl Locked for Exclusive {}

impl Store {
    /// Waits until no process changes the store, and keeps it so. Do not call anything that
    /// changes the store while holding this.
    ///
    /// # Errors
    /// If the host does not permit the lock; [`StoreError::LockHeld`] when another process holds it
    /// for too long.
    pub fn lock_shared(&self) -> Result<SharedLock, StoreError> {
        Ok(SharedLock { _file: self.flock(FlockOperation::NonBlockingLockShared)? })
    }

    pub(crate) fn lock_exclusive(&self) -> Result<Exclusive, StoreError> {
        Ok(Exclusive { _file: self.flock(FlockOperation::NonBlockingLockExclusive)? })
    }

    fn flock(&self, operation: FlockOperation) -> Result<File, StoreError> {
        let file = self.root.open_file("lock", OFlags::RDONLY)?;
        self.patience.lock(&file, &self.root.path_of("lock"), operation)?;
        Ok(file)
    }
}
