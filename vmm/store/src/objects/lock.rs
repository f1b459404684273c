//! The store's lock: an flock on one file, shared to read, exclusive to change.
//!
//! An flock belongs to an open file description. Each holder has one of its own, so that
//! threads of one process exclude each other exactly as processes do, and the kernel releases it
//! when the holder dies. Shared locks nest; taking the exclusive lock while holding a shared one
//! never succeeds, which is why only this crate can take it. How long a thread waits is decided in
//! `patience`.

use std::fs::File;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

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

/// While it lives, calls of the same thread that take a lock of this store have it already, so that several
/// of them are one as far as others are concerned, and ask the host once.
#[derive(Debug)]
pub struct HeldForAll {
    _held: Exclusive,
    files: Arc<LockFiles>,
    /// It is about one thread.
    _stays: PhantomData<*const ()>,
}

impl Drop for HeldForAll {
    fn drop(&mut self) {
        // Before the flock goes.
        *self.files.holder() = None;
    }
}

/// Descriptors of the lock that nobody holds it by, so that not each acquisition opens it.
#[derive(Debug, Default)]
pub(crate) struct LockFiles {
    free: Mutex<Vec<File>>,
    /// The thread with [`HeldForAll`], and how often it or others before it may have changed something.
    holder: Mutex<Option<(ThreadId, u64)>>,
    holds: AtomicU64,
}

/// More than that are used at once by many threads only.
const FREE_MAX: usize = 4;

impl LockFiles {
    fn files(&self) -> MutexGuard<'_, Vec<File>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holder(&self) -> MutexGuard<'_, Option<(ThreadId, u64)>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
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
        if self.held_for_all().is_some() {
            // What this thread has opened before may be another one when it is done.
            self.note_holder();
        }
        Ok(Exclusive { _held: self.flock(FlockOperation::NonBlockingLockExclusive)? })
    }

    /// Has all calls of this thread until it is dropped see the store as they leave it.
    ///
    /// # Errors
    /// As [`Store::lock_shared`]; if the host does not permit to change the store, for instance.
    pub fn hold_for_all(&self) -> Result<HeldForAll, StoreError> {
        let held = self.lock_exclusive()?;
        self.note_holder();
        Ok(HeldForAll { _held: held, files: Arc::clone(&self.lock_files), _stays: PhantomData })
    }

    fn note_holder(&self) {
        let number = self.lock_files.holds.fetch_add(1, Ordering::Relaxed);
        *self.lock_files.holder() = Some((std::thread::current().id(), number));
    }

    /// Whether this thread has [`HeldForAll`]: a number that stays as long as nothing changes.
    pub(crate) fn held_for_all(&self) -> Option<u64> {
        let holder = *self.lock_files.holder();
        holder.filter(|holder| holder.0 == std::thread::current().id()).map(|holder| holder.1)
    }

    fn flock(&self, operation: FlockOperation) -> Result<Held, StoreError> {
        if self.held_for_all().is_some() {
            return Ok(Held { file: None, free: Arc::clone(&self.lock_files) });
        }
        let free = self.lock_files.files().pop();
        let file = match free {
            Some(file) => file,
            None => self.root.open_any("lock", OFlags::RDONLY)?,
        };
        self.patience.lock(&file, &self.root.path_of("lock"), operation)?;
        Ok(Held { file: Some(file), free: Arc::clone(&self.lock_files) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::testing::{store, versioned};
    use crate::{Patience, Store, StoreError};

    #[test]
    fn who_holds_it_for_all_its_calls_takes_it_once_and_others_wait_until_the_end() {
        let s = store();
        let sid = versioned(&s, "x");
        let other = Store::open(s.path()).unwrap();
        let other = other.with_patience(Arc::new(Patience::new(Duration::from_millis(5))));
        let held = s.hold_for_all().unwrap();
        // Each takes a lock, to read and to change.
        s.open_segment(sid).unwrap();
        s.set_segment_mode(sid, crate::Mode::PRIVATE).unwrap();
        drop(s.lock_shared().unwrap());
        assert!(matches!(other.lock_shared(), Err(StoreError::LockHeld { .. })));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let quick = Store::open(s.path()).unwrap();
                quick
                    .with_patience(Arc::new(Patience::new(Duration::from_millis(5))))
                    .lock_shared()
                    .is_err()
            });
            assert!(thread.join().unwrap());
        });
        drop(held);
        drop(other.lock_exclusive().unwrap());
        drop(s.lock_exclusive().unwrap());
    }
}
