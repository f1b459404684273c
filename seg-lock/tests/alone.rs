//! One thread alone in the guest, under loom: the VMM's own file, with loom's locks in it. It is not about the lock of
//! segments; loom is in this package alone (`xtask/src/check.rs`).
//!
//! loom's waits have no end, so a thread that is not told is a deadlock, which loom reports and dies of. That a process may be
//! ending is not in the models: who waits then is told by time.

use std::collections::BTreeSet;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

#[path = "../../vmm/src/linux/debug/alone.rs"]
#[allow(unreachable_pub, reason = "elsewhere it is part of a library")]
mod alone;

mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

use alone::Alone;

/// The guest's memory, which a thread that is alone changes and others use. loom reports who meets whom.
struct Guest {
    gate: Alone,
    page: UnsafeCell<u32>,
    /// Threads that are to leave the guest.
    kicked: Mutex<BTreeSet<i32>>,
    told: Condvar,
    /// Somebody has entered it.
    is_entered: Mutex<bool>,
    entered: Condvar,
    /// Whoever was alone closes the page when others may be in the guest again: to check that the model notices. Faults
    /// of the file itself are planted by `cargo xtask defects`.
    closes_late: bool,
}

impl Guest {
    /// A thread that uses the guest with others, and stays there until it is kicked, if it `stays`.
    fn visits(&self, tid: i32, stays: bool) {
        assert!(self.gate.enter(tid, false, |_| panic!("it may meet others"), || false));
        self.page.with(|_| ());
        *self.is_entered.lock().unwrap() = true;
        self.entered.notify_all();
        let mut kicked = self.kicked.lock().unwrap();
        while stays && !kicked.contains(&tid) {
            kicked = self.told.wait(kicked).unwrap();
        }
        drop(kicked);
        self.page.with(|_| ());
        assert!(!self.gate.leave(tid));
    }

    /// A thread that opens the page, uses it, and closes it.
    fn uses_alone(&self, tid: i32) {
        let kick = |tids: &BTreeSet<i32>| {
            assert!(!tids.contains(&tid));
            self.kicked.lock().unwrap().extend(tids);
            self.told.notify_all();
        };
        assert!(self.gate.enter(tid, true, kick, || false));
        self.page.with_mut(|_| ());
        if self.closes_late {
            assert!(self.gate.leave(tid));
        }
        self.page.with_mut(|_| ());
        if !self.closes_late {
            assert!(self.gate.leave(tid));
        }
    }
}

/// What a thread does.
type Does = fn(&Guest, i32);

fn visits(guest: &Guest, tid: i32) {
    guest.visits(tid, false);
}

fn stays(guest: &Guest, tid: i32) {
    guest.visits(tid, true);
}

fn uses_alone(guest: &Guest, tid: i32) {
    guest.uses_alone(tid);
}

/// Once somebody has entered, who is kicked only by it.
fn follows(guest: &Guest, tid: i32) {
    let mut is_entered = guest.is_entered.lock().unwrap();
    while !*is_entered {
        is_entered = guest.entered.wait(is_entered).unwrap();
    }
    drop(is_entered);
    guest.uses_alone(tid);
}

fn returns(guest: &Guest, tid: i32) {
    guest.visits(tid, false);
    guest.visits(tid, false);
}

fn model(closes_late: bool, threads: &'static [Does]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let guest = Arc::new(Guest {
            gate: Alone::default(),
            page: UnsafeCell::new(0),
            kicked: Mutex::default(),
            told: Condvar::new(),
            is_entered: Mutex::default(),
            entered: Condvar::new(),
            closes_late,
        });
        let spawn = |(tid, does): (i32, &'static Does)| {
            let guest = guest.clone();
            thread::spawn(move || does(&guest, tid))
        };
        let running: Vec<_> = (1..).zip(threads).map(spawn).collect();
        running.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn whoever_is_alone_meets_nobody() {
    model(false, &[visits, uses_alone, visits]);
    model(false, &[returns, uses_alone]);
}

#[test]
fn who_is_in_the_guest_leaves_it_for_whoever_is_to_be_alone() {
    model(false, &[stays, follows]);
}

#[test]
fn two_that_are_to_be_alone_are_one_after_the_other() {
    model(false, &[uses_alone, uses_alone, visits]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_page_that_is_closed_too_late_is_noticed() {
    model(true, &[uses_alone, visits]);
}
