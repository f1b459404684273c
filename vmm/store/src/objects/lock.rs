//! The store's lock: an flock on one file, shared to read, exclusive to change.
//!
//! An flock belongs to an open file description. Each holder has one of its own, so that
//! threads of one process exclude each other exactly as processes do, and the kernel releases it
//! when the holder dies. Shared locks nest; taking the exclusive lock while holding a shared one
//! never succeeds, which is why only this crate can take it. How long a thread waits is decided in
//! `patience`.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, OFlags};

use crate::format::error::StoreError;
use crate::objects::store::Store;

/// While it lives, nothing in the store is created, changed or deleted.
#[derive(Debug)]
pub struct SharedLock {
    _held: Held,
}

/// While it lives, no other process reads the store. Functions that change it ask for a reference
/// as proof.
#[derive(Debug)]
pub(crate) struct Exclusive {
    _held: Held,
}

/// The flock, until this is dropped.
#[derive(Debug)]
struct Held {
    file: Option<File>,
    free: Arc<LockFiles>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        // Not by closing alone: what a process that was started meanwhile has inherited would keep it.
        let released = rustix::fs::flock(&file, FlockOperation::Unlock).is_ok();
        let mut free = self.free.files();
        if released && free.len() < FREE_MAX {
            free.push(file);
        }
    }
}

/// Descriptors of the lock that nobody holds it by, so that not each acquisition opens it.
#[derive(Debug, Default)]
pub(crate) struct LockFiles(Mutex<Vec<File>>);

/// More than that are used at once by many threads only.
const FREE_MAX: usize = 4;

impl LockFiles {
    fn files(&self) -> MutexGuard<'_, Vec<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        Ok(SharedLock { _held: self.flock(FlockOperation::NonBlockingLockShared)? })
    }

    pub(crate) fn lock_exclusive(&self) -> Result<Exclusive, StoreError> {
        Ok(Exclusive { _held: self.flock(FlockOperation::NonBlockingLockExclusive)? })
    }

    fn flock(&self, operation: FlockOperation) -> Result<Held, StoreError> {
        let free = self.lock_files.files().pop();
        let file = match free {
            Some(file) => file,
            None => self.root.open_file("lock", OFlags::RDONLY)?,
        };
        self.patience.lock(&file, &self.root.path_of("lock"), operation)?;
        Ok(Held { file: Some(file), free: Arc::clone(&self.lock_files) })
    }
}
