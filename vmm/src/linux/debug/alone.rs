//! One thread alone in the guest: while it makes an instruction on memory that is watched, and that is open for it.
//!
//! A thread enters and leaves; one that enters alone waits until the others have left, and they stay out until it has. In
//! the VMM they go on: what they do there is not watched.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often who waits looks whether the process is ending.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Inside {
    threads: BTreeSet<i32>,
    alone: Option<i32>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Alone {
    inside: Mutex<Inside>,
    changed: Condvar,
}

impl Alone {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread is about to enter the guest, with others; or alone, and then `kick` has threads leave it. Returns whether
    /// it may: not while the process is `stopping`.
    pub(super) fn enter(
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
    pub(super) fn leave(&self, tid: i32) -> bool {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::Alone;

    #[test]
    fn whoever_is_alone_meets_nobody_and_all_get_their_turns() {
        let gate = Alone::default();
        let (inside, kicked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for tid in 0..4 {
                let (gate, inside, kicked) = (&gate, &inside, &kicked);
                scope.spawn(move || {
                    for turn in 0..500 {
                        let alone = (turn + tid) % 5 == 0;
                        let kick = |others: &std::collections::BTreeSet<i32>| {
                            assert!(!others.contains(&tid));
                            kicked.fetch_add(1, Ordering::SeqCst);
                        };
                        assert!(gate.enter(tid, alone, kick, || false));
                        let before = inside.fetch_add(1, Ordering::SeqCst);
                        assert!(!alone || before == 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        assert_eq!(gate.leave(tid), alone);
                    }
                });
            }
        });
    }

    #[test]
    fn nobody_waits_in_a_process_that_is_ending() {
        let gate = Alone::default();
        assert!(gate.enter(1, false, |_| (), || false));
        let stopping = AtomicBool::new(false);
        let told = |others: &std::collections::BTreeSet<i32>| {
            assert!(others.contains(&1));
            stopping.store(true, Ordering::SeqCst);
        };
        assert!(!gate.enter(2, true, told, || stopping.load(Ordering::SeqCst)));
        // It has given up its place.
        assert!(gate.enter(3, false, |_| (), || false));
    }
}
