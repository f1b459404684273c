//! One thread alone in the guest: while it makes an instruction on memory that is watched, and that is open for it.
//!
//! A thread enters and leaves; one that enters alone waits until the others have left, and they stay out until it has. In
//! the VMM they go on: what they do there is not watched.
//!
//! This file as it is runs under loom (`seg-lock/tests/alone.rs`), whose locks are in `sync` there. So it needs nothing
//! else of this crate, and its tests are in a file of their own.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use super::sync::{Condvar, Mutex, MutexGuard};

/// How often who waits looks whether the process is ending.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Inside {
    threads: BTreeSet<i32>,
    alone: Option<i32>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Alone {
    inside: Mutex<Inside>,
    changed: Condvar,
}

impl Alone {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread is about to enter the guest, with others; or alone, and then `kick` has threads leave it. Returns whether
    /// it may: not while the process is `stopping`.
    pub(crate) fn enter(
        &self,
        tid: i32,
        alone: bool,
        kick: impl Fn(&BTreeSet<i32>),
        stopping: impl Fn() -> bool,
    ) -> bool {
        let mut inside = self.lock();
        while inside.alone.is_some() {
            inside = self.wait(inside);
            if stopping() {
                return false;
            }
        }
        if !alone {
            inside.threads.insert(tid);
            return true;
        }
        inside.alone = Some(tid);
        let others = inside.threads.clone();
        drop(inside);
        if !others.is_empty() {
            kick(&others);
        }
        let mut inside = self.lock();
        while !inside.threads.is_empty() {
            inside = self.wait(inside);
            if stopping() {
                drop(inside);
                self.leave(tid);
                return false;
            }
        }
        true
    }

    fn wait<'a>(&self, inside: MutexGuard<'a, Inside>) -> MutexGuard<'a, Inside> {
        self.changed.wait_timeout(inside, LOOK).unwrap_or_else(PoisonError::into_inner).0
    }

    /// It has left. Returns whether it was there alone.
    pub(crate) fn leave(&self, tid: i32) -> bool {
        let mut inside = self.lock();
        let was_alone = inside.alone == Some(tid);
        if was_alone {
            inside.alone = None;
        } else {
            inside.threads.remove(&tid);
        }
        self.changed.notify_all();
        was_alone
    }
}
