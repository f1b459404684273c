//! A program under a debugger (`run --gdb`), from its threads' side: how they come to a stand, what they
//! do for the debugger meanwhile, and how they go on.
//!
//! - here: [`Debugger`], which both sides know; `gdb` is the other side, and speaks gdb's protocol
//! - [`seats`]: who stands where, and what is to become of them: state only
//! - [`stand`]: a thread stands; what happens to a thread that the debugger is told of
//! - `alone`: a thread has the guest for itself
//! - `points`: breakpoints, and the memory that they are in; [`watches`]: watchpoints; `processor`: those of the processor,
//!   where it keeps to them; [`registers`]: a thread's registers
//!
//! All threads stand or none does (all-stop). One stands where it would enter the guest next, or in the middle
//! of a call that waits, where a signal would have interrupted it: the call does not notice. Whatever
//! the debugger wants to know of a thread or its memory, that thread does itself: so nobody else
//! touches a vCPU, and memory is what that thread sees.
//!
//! A program without a debugger pays a comparison here and there, in the VMM.
#![forbid(unsafe_code)]

mod alone;
#[cfg(test)]
mod alone_tests;
mod points;
mod processor;
pub mod registers;
pub mod seats;
pub mod stand;
pub mod watches;

/// The locks of `alone`.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use self::alone::Alone;
use self::points::Points;
use self::processor::Processor;
use self::seats::{Action, Errand, Event, Seats};
use self::stand::Standing;
use self::watches::{Access, Watches};
use super::task::{Outcome, Process};

/// How often who waits for a thread looks whether it is still there.
const LOOK: Duration = Duration::from_millis(10);

/// Says that the program is about to be ended by a signal, and waits for gdb.
type Tell = Box<dyn Fn(i32) + Send + Sync>;

/// What a program's threads and the debugger's thread have in common. It outlives `execve`.
pub struct Debugger {
    /// Its program stands before its first instruction.
    is_from_start: bool,
    /// There is a debugger, or was one.
    is_present: AtomicBool,
    /// There are watchpoints that take a step for each instruction.
    steps: AtomicBool,
    /// There are watchpoints by pages.
    guards: AtomicBool,
    /// Who is in the guest, while there are.
    alone: Alone,
    /// The processor's own breakpoints and watchpoints.
    processor: Processor,
    /// Called once, when a signal is about to end the program: then that stands.
    on_crash: Mutex<Option<Tell>>,
    inner: Mutex<Inner>,
    /// For threads that stand.
    go_on: Condvar,
    /// For the debugger's thread, which may wait for its socket as well.
    bell: OwnedFd,
    /// Threads are to come to a stand. As `seats` says, for those that only look.
    wanted: AtomicBool,
}

impl Inner {
    fn passes(&self, signal: i32) -> bool {
        let bit = 1_u64.checked_shl((signal - 1).cast_unsigned());
        bit.is_some_and(|bit| self.passed & bit != 0)
    }
}

#[derive(Default)]
struct Inner {
    seats: Seats,
    points: Points,
    watches: Watches,
    process: Weak<Process>,
    /// Another program has taken the place of the first one, and nobody was told yet.
    is_replaced: bool,
    /// Signals that pass without a stop: a bit each.
    passed: u64,
    end: Option<Outcome>,
    /// Its thread, until it is waited for.
    served_by: Option<std::thread::JoinHandle<()>>,
    is_served: bool,
}

impl fmt::Debug for Debugger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Debugger").finish_non_exhaustive()
    }
}

impl Debugger {
    /// For a program that stands until the debugger is there.
    ///
    /// # Errors
    /// The host has no free file descriptor.
    pub fn new() -> io::Result<Arc<Debugger>> {
        Debugger::with(true, None)
    }

    /// For a program that runs without one, until a signal that leaves core files natively is about to end it: then it
    /// stands, and `tell` says so, by which signal. A debugger may come before, too.
    ///
    /// # Errors
    /// As [`Debugger::new`].
    pub fn on_crash(tell: impl Fn(i32) + Send + Sync + 'static) -> io::Result<Arc<Debugger>> {
        Debugger::with(false, Some(Box::new(tell)))
    }

    fn with(is_from_start: bool, on_crash: Option<Tell>) -> io::Result<Arc<Debugger>> {
        let mut inner = Inner::default();
        if !is_from_start {
            inner.seats.let_go();
        }
        Ok(Arc::new(Debugger {
            is_from_start,
            is_present: AtomicBool::new(is_from_start),
            steps: AtomicBool::new(false),
            guards: AtomicBool::new(false),
            alone: Alone::default(),
            processor: Processor::default(),
            on_crash: Mutex::new(on_crash),
            inner: Mutex::new(inner),
            go_on: Condvar::new(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            wanted: AtomicBool::new(is_from_start),
        }))
    }

    /// For a program that runs without one: one may come.
    ///
    /// # Errors
    /// As [`Debugger::new`].
    pub fn absent() -> io::Result<Arc<Debugger>> {
        Debugger::with(false, None)
    }

    /// Whether its program stands before its first instruction.
    #[must_use]
    pub fn is_from_start(&self) -> bool {
        self.is_from_start
    }

    /// Whether threads have to look at it at all: a program that may be debugged later does not.
    pub(crate) fn is_present(&self) -> bool {
        // A thread that misses it is kicked later, and again until it stands.
        self.is_present.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether threads are to come to a stand.
    pub(crate) fn is_wanted(&self) -> bool {
        // A thread that misses it is kicked after it was set, and looks again.
        self.wanted.load(Ordering::SeqCst)
    }

    /// Readable when something happened that the debugger's thread may want to know.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// It is not, until something else has happened.
    pub fn silence_bell(&self) {
        // The count itself has no meaning.
        let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
    }

    fn ring(&self) {
        // Fails only when the counter is full: then it is readable anyway.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Threads that stand look whether the process is ending.
    pub(crate) fn look_up(&self) {
        let inner = self.lock();
        self.go_on.notify_all();
        drop(inner);
        self.ring();
    }

    /// A program begins: the first one, or one that takes its place.
    pub(crate) fn begins(&self, process: &Arc<Process>) {
        let mut inner = self.lock();
        let is_first = inner.process.strong_count() == 0 && inner.process.ptr_eq(&Weak::new());
        inner.process = Arc::downgrade(process);
        inner.points = Points::default();
        inner.watches = Watches::default();
        self.watch_by(false, false);
        self.processor.clear();
        inner.seats.begins();
        inner.is_replaced = !is_first && !inner.seats.is_away();
    }

    /// The program has ended. Waits until the debugger was told.
    pub(crate) fn ends(&self, outcome: &Outcome) {
        let mut inner = self.lock();
        inner.end = Some(outcome.clone());
        let served_by = inner.served_by.take();
        drop(inner);
        self.ring();
        if let Some(thread) = served_by {
            // Its panic was told where it happened.
            let _ = thread.join();
        }
    }

    /// Has a thread that `start` starts serve it, if none does. Returns whether that is so.
    ///
    /// # Errors
    /// Those of `start`.
    pub fn serve_by(
        &self,
        start: impl FnOnce() -> io::Result<std::thread::JoinHandle<()>>,
    ) -> io::Result<bool> {
        let mut inner = self.lock();
        if inner.is_served || inner.end.is_some() {
            return Ok(false);
        }
        inner.served_by = Some(start()?);
        inner.is_served = true;
        Ok(true)
    }

    /// The thread that serves it ends: another one may.
    pub fn served(&self) {
        self.lock().is_served = false;
    }

    /// Breakpoints and the bytes in their places, for a copy of the program, which has none.
    pub(crate) fn points(&self) -> Vec<(u64, u8)> {
        self.lock().points.all()
    }

    fn watch_by(&self, steps: bool, guards: bool) {
        self.steps.store(steps, Ordering::SeqCst);
        self.guards.store(guards, Ordering::SeqCst);
    }

    /// Makes a watchpoint by pages or steps, or removes it, while all threads stand; returns whether that can be done.
    fn set_watch(
        &self,
        process: &Process,
        at: u64,
        len: u64,
        access: Access,
        is_set: bool,
    ) -> bool {
        let mut inner = self.lock();
        let is_done = inner.watches.set(at, len, access, is_set);
        let pages = inner.watches.pages();
        let by_pages = pages.is_some_and(|pages| process.private.guard(&pages).is_ok());
        if !by_pages {
            // None: that cannot fail.
            let _ = process.private.guard(&BTreeMap::new());
        }
        let is_any = !inner.watches.is_empty();
        self.watch_by(is_any && !by_pages, is_any && by_pages);
        is_done
    }

    /// How the program ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<Outcome> {
        self.lock().end.clone()
    }

    /// The program; none between two of them.
    #[must_use]
    pub fn process(&self) -> Option<Arc<Process>> {
        self.lock().process.upgrade()
    }

    /// The threads of the program, which all stand, by their numbers.
    #[must_use]
    pub fn tids(&self) -> Vec<i32> {
        self.lock().seats.tids()
    }

    /// Has all threads come to a stand. Returns at once.
    pub fn halt(&self) {
        self.is_present.store(true, Ordering::SeqCst);
        let mut inner = self.lock();
        inner.seats.halt();
        self.wanted.store(true, Ordering::SeqCst);
        let process = inner.process.upgrade();
        let standing = inner.seats.tids();
        drop(inner);
        if let Some(process) = process {
            kick_others(&process, &standing);
        }
    }

    /// Whether they were told to.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.lock().seats.is_halted()
    }

    /// Which signals pass without a stop: a bit each.
    pub fn pass_signals(&self, set: u64) {
        self.lock().passed = set;
    }

    /// Whether all threads stand that there are, and there is one.
    #[must_use]
    pub fn is_still(&self) -> bool {
        let inner = self.lock();
        let Some(process) = inner.process.upgrade() else { return false };
        let threads = process.threads.all();
        !process.is_stopping()
            && inner.seats.is_halted()
            && !threads.is_empty()
            && threads.iter().all(|thread| inner.seats.has(thread.tid))
    }

    /// What happened to a thread, and is to be told; once all stand.
    #[must_use]
    pub fn next_event(&self) -> Option<(i32, Event)> {
        self.lock().seats.next_event()
    }

    /// The last event of a thread that was told.
    #[must_use]
    pub fn told(&self, tid: i32) -> Option<Event> {
        self.lock().seats.told(tid)
    }

    /// Says how threads go on. If there is something to tell, they stay, and do so later.
    ///
    /// `actions` has those that do; the others do what `rest` says, or stay.
    pub fn resume(&self, actions: &[(i32, Action)], rest: Option<Action>) {
        let mut inner = self.lock();
        if inner.seats.resume(actions, rest) {
            self.wanted.store(!inner.seats.lets_new_ones_run(), Ordering::SeqCst);
            self.go_on.notify_all();
        }
        drop(inner);
        self.ring();
    }

    /// The debugger leaves: breakpoints go, and the program goes on without it.
    pub fn let_go(&self) {
        self.halt();
        while !self.is_still()
            && self.end().is_none()
            && self.process().is_none_or(|it| !it.is_stopping())
        {
            std::thread::sleep(LOOK);
        }
        if let Some(tid) = self.tids().first().copied() {
            let _ = self.have(tid, |standing| {
                standing.remove_points();
                // None: that cannot fail.
                let _ = standing.ctx().process.private.guard(&BTreeMap::new());
            });
        }
        let mut inner = self.lock();
        (inner.points, inner.passed) = (Points::default(), 0);
        inner.watches = Watches::default();
        self.watch_by(false, false);
        self.processor.clear();
        inner.is_replaced = false;
        inner.seats.let_go();
        self.wanted.store(false, Ordering::SeqCst);
        self.go_on.notify_all();
    }

    /// Has a thread that stands do something, and returns what came of it; nothing if it does not
    /// stand any more, because the program is ending.
    pub fn have<T: Send + 'static>(
        &self,
        tid: i32,
        errand: impl FnOnce(&mut Standing<'_, '_>) -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = mpsc::sync_channel(1);
        let errand: Errand = Box::new(move |standing: &mut Standing<'_, '_>| {
            // Who has given up does not receive it.
            let _ = tell.send(errand(standing));
        });
        let mut inner = self.lock();
        if !inner.seats.give(tid, errand) {
            return None;
        }
        self.go_on.notify_all();
        drop(inner);
        loop {
            match told.recv_timeout(LOOK) {
                Ok(done) => return Some(done),
                Err(RecvTimeoutError::Timeout) => {}
                // It has left its place, and dropped what it was given.
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}

/// Kicks the threads that do not stand, until they look.
fn kick_others(process: &Process, standing: &[i32]) {
    for thread in process.threads.all() {
        if !standing.contains(&thread.tid) {
            process.threads.kick_until_acknowledged(&thread);
        }
    }
}
