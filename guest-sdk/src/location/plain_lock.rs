//! The lock of a space over plain memory: local to this process, with the rules of a segment's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use abi::Errno;

use crate::location::wait::{EntryOutcome, LockMode, Wait};

/// Any number of readers or one writer.
#[derive(Debug, Default)]
pub(crate) struct PlainLock {
    /// Readers inside; -1 for a writer.
    inside: Mutex<isize>,
    left: Condvar,
    /// A writer has left in the middle of a change, and the content has not been recovered.
    inconsistent: AtomicBool,
}

impl PlainLock {
    pub(crate) fn lock(&self, access: LockMode, wait: Wait) -> Result<EntryOutcome, Errno> {
        self.wait(access, wait)?;
        // Relaxed, here and below: written and read with the lock held.
        let inconsistent = self.inconsistent.load(Ordering::Relaxed);
        Ok(if inconsistent { EntryOutcome::OwnerDied } else { EntryOutcome::Clean })
    }

    /// Declares the content consistent, or not. The caller holds the lock exclusively.
    pub(crate) fn set_inconsistent(&self, inconsistent: bool) {
        self.inconsistent.store(inconsistent, Ordering::Relaxed);
    }

    fn wait(&self, access: LockMode, wait: Wait) -> Result<(), Errno> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match (access, *inside) {
                (LockMode::Exclusive, 0) => {
                    *inside = -1;
                    return Ok(());
                }
                (LockMode::Shared, 0..) => {
                    *inside += 1;
                    return Ok(());
                }
                _ => {}
            }
            inside = match (wait, wait.remaining()) {
                (Wait::Never, _) => return Err(Errno::EAGAIN),
                (_, None) => self.left.wait(inside).unwrap_or_else(PoisonError::into_inner),
                (_, Some(limit)) if limit.is_zero() => return Err(Errno::ETIMEDOUT),
                (_, Some(limit)) => {
                    let waited = self.left.wait_timeout(inside, limit);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    pub(crate) fn unlock(&self, access: LockMode) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        *inside += if access == LockMode::Exclusive { 1 } else { -1 };
        self.left.notify_all();
    }
}
