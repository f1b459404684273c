//! A program running in its VM: what one `spacejmp run` is.
//!
//! - [`config`]: what the caller asks for; [`outcome`]: how it ended
//! - [`start`]: from a file to a first thread ready to run
//! - [`thread`]: one thread is one vCPU on one host thread; the run loop
//! - [`table`]: all threads, their start and their end
//! - [`supervise`]: what ends a process from outside; the event loop
//! - [`host_signals`]: signals the host sends to us; [`cut_files`]: the one we cause ourselves
//! - `timer_events`: the program's timers, as the event loop hears of them
//! - `survivor`: what is left to do when this process is killed
//! - [`remedy`]: what to do about a program that could not be started, and the exit status

pub mod config;
pub mod cut_files;
pub mod host_signals;
pub mod outcome;
pub mod remedy;
pub mod start;
pub mod supervise;
mod survivor;
pub mod table;
pub mod thread;
mod timer_events;

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::time::{Duration, Instant};

pub use config::RunConfig;
pub use host_signals::HostSignals;
pub use outcome::Outcome;
pub use start::StartError;
pub use supervise::Supervise;
pub use survivor::Survivor;
use table::Hearing;
pub use table::ThreadTable;
pub use thread::{Thread, ThreadCtx};

use crate::files::Files;
use crate::guest::clock::{GuestClock, GuestWords};
use crate::kernel::Kernel;
use crate::linux::limits::Limits;
use crate::linux::prctl::Settings;
use crate::linux::proc::Facts;
use crate::linux::signal::{SignalActions, ThreadSignals};
use crate::linux::timer::Timers;
use crate::private::PrivateRegion;
use crate::report::stats::{Phase, Stats};
use crate::user_memory::UserMemory;
use crate::vas::Vases;
use crate::vm::{Machine, Vcpu, kick};

/// How long a thread that waits for the store's lock may go on when the process is to end.
const LOCK_PATIENCE_AT_END: Duration = Duration::from_millis(500);

/// A program in its VM.
#[derive(Debug)]
pub struct Process {
    /// The VM.
    pub machine: Arc<Machine>,
    /// The guest kernel in it.
    pub kernel: Kernel,
    /// Its own address space.
    pub private: PrivateRegion,
    /// What it has attached.
    pub vases: Arc<Vases>,
    /// Its threads.
    pub threads: ThreadTable,
    /// What it does with signals.
    pub signals: SignalActions,
    /// Its timers.
    pub timers: Timers,
    /// When it was started, for CPU and uptime figures.
    pub started: Instant,
    /// What `uname`, `getauxval(AT_EXECFN)` and reports call it.
    pub program: config::ProgramName,
    /// Its files.
    pub files: Files,
    /// Its resource limits.
    pub limits: Limits,
    /// What it has been told about itself by `prctl`.
    pub settings: Settings,
    /// The clock its vDSO reads.
    pub clock: Mutex<GuestClock>,
    /// What lets its locks go when the VMM is killed.
    pub survivor: Survivor,
    /// Counters.
    pub stats: Stats,
    /// What `/proc` tells of it and does not change.
    pub(crate) facts: Facts,
    tsc_khz: Option<u32>,
    /// Its file, for reports.
    pub(crate) executable: Executable,
    /// Its number, from when its first thread runs.
    pid: OnceLock<i32>,
    /// The first thread's vCPU, until that runs.
    first: Mutex<Option<Vcpu>>,
    first_status: AtomicU8,
    stopping: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
    running_since: Instant,
    stopped: OnceLock<Instant>,
    second_tasks: Mutex<Vec<fn(&Process)>>,
}

/// The program's file and where it was loaded.
#[derive(Debug)]
pub(crate) struct Executable {
    /// The file.
    pub(crate) file: Arc<File>,
    /// Added to the file's addresses.
    pub(crate) bias: u64,
    /// One past its highest address.
    pub(crate) end: u64,
}

impl Process {
    /// Its memory as a thread in instance `vh` sees it ([`crate::vas::HOME`], or a handle).
    #[must_use]
    pub fn user_in(&self, vh: u32) -> UserMemory<'_> {
        UserMemory::new(&self.private, &self.vases, vh)
    }

    /// How fast the time-stamp counter counts, if the host says.
    pub(crate) fn tsc_khz(&self) -> Option<u32> {
        self.tsc_khz
    }

    /// Its number: the first thread's, and so that of the host thread which called
    /// [`Process::run_to_end`]. For the command `spacejmp`, that is the host process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.get().copied().unwrap_or_else(|| std::process::id().cast_signed())
    }

    /// The status the first thread left with, 0 while it has not.
    pub(crate) fn first_status(&self) -> u8 {
        self.first_status.load(Ordering::Relaxed)
    }

    /// Notes the status the first thread leaves with.
    pub(crate) fn set_first_status(&self, status: u8) {
        self.first_status.store(status, Ordering::Relaxed);
    }

    /// Whether the process is coming to its end; threads leave at their next exit.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        // Acquire pairs with `stop`: who sees the flag sees the outcome.
        self.stopping.load(Ordering::Acquire)
    }

    /// Whether the process is ending by something else than its own exit: what it was writing
    /// cannot be relied on.
    pub(crate) fn was_ended(&self) -> bool {
        let slot = self.outcome.lock().unwrap_or_else(|poison| poison.into_inner());
        !matches!(*slot, None | Some(Outcome::Exited(_)))
    }

    /// Ends the process with `outcome`, unless it has ended already: the first reason counts.
    /// Returns at once; threads leave by themselves, kicked out of whatever they do.
    pub fn stop(&self, outcome: Outcome) {
        {
            let mut slot = self.outcome.lock().unwrap_or_else(|poison| poison.into_inner());
            if slot.is_none() {
                *slot = Some(outcome);
            }
            if self.stopped.set(Instant::now()).is_ok() {
                self.stats.phase(Phase::Run, self.running_since.elapsed());
            }
        }
        self.stopping.store(true, Ordering::Release);
        self.vases.stop_waiting(LOCK_PATIENCE_AT_END);
        self.threads.kick_all();
        self.threads.notify();
    }

    /// Settles that the process ends with `outcome`, unless it has ended already, but lets threads
    /// that are inside a VAS to write go on until they have left; no other thread begins to.
    /// [`Process::stop`] ends it then, or before. Returns whether there is anybody to wait for.
    pub fn stop_writing(&self, outcome: Outcome) -> bool {
        {
            let mut slot = self.outcome.lock().unwrap_or_else(|poison| poison.into_inner());
            slot.get_or_insert(outcome);
        }
        self.vases.drain();
        // Who waits for a lock looks up.
        self.threads.kick_all();
        !self.vases.is_drained()
    }

    /// Switches the vDSO's clock on, if it is not: `hint` is the time-stamp counter as ring 3
    /// read it just before the call being served, `vcpu_tsc` reads that vCPU's as KVM shows it.
    pub fn start_clock(&self, hint: u64, vcpu_tsc: impl Fn() -> Option<u64>) {
        let mut clock = self.clock.lock().unwrap_or_else(|poison| poison.into_inner());
        // The page is the machine's, where no mapping of the program's reaches: storing cannot fail.
        if let Ok(true) = clock.start(hint, vcpu_tsc, &self.clock_words()) {
            drop(clock);
            self.call_every_second(Process::refresh_clock);
        }
    }

    /// Brings the vDSO's clock back to the host's; to be called about once a second.
    pub fn refresh_clock(&self) {
        let mut clock = self.clock.lock().unwrap_or_else(|poison| poison.into_inner());
        // As above.
        let _ = clock.refresh(&self.clock_words());
    }

    fn clock_words(&self) -> GuestWords<'_> {
        GuestWords { mem: &self.machine.mem, page: self.kernel.clock_page() }
    }

    /// Runs the program's first thread on the calling thread, and the event loop beside it,
    /// until every thread of the program has left; says how it ended. Call it, or
    /// [`Process::wait`], once.
    ///
    /// The calling thread gives the program its number. The first thread is not given a host
    /// thread of its own because a process's number is that of its first thread: the host
    /// kernel, which keeps priority-inheritance futexes, would not take another thread for it.
    ///
    /// A program that is told to end is gone within some milliseconds, whether it computes
    /// or blocks in a call.
    #[must_use]
    pub fn run_to_end(self: &Arc<Self>, options: Supervise<'_>) -> Outcome {
        let first = self.first.lock().unwrap_or_else(|poison| poison.into_inner()).take();
        if let Some(vcpu) = first {
            self.run_threads(vcpu, options);
        }
        self.threads.join_ended();
        self.timers.clear();
        self.survivor.end();
        self.vases.close(!self.was_ended());
        if let Some(stopped) = self.stopped.get() {
            self.stats.phase(Phase::End, stopped.elapsed());
        }
        let mut slot = self.outcome.lock().unwrap_or_else(|poison| poison.into_inner());
        slot.take().unwrap_or(Outcome::Exited(0))
    }

    fn run_threads(self: &Arc<Self>, vcpu: Vcpu, options: Supervise<'_>) {
        // The caller need not be the thread that made the machine.
        kick::install();
        let first = Thread::new(thread::gettid(), ThreadSignals::default());
        let name = self.program.short.as_bytes();
        first.set_name(name.get(..15).unwrap_or(name));
        let _ = self.pid.set(first.tid);
        self.threads.add(first.clone());
        std::thread::scope(|scope| {
            let (ready, is_ready) = mpsc::sync_channel(1);
            let events = std::thread::Builder::new().name("events".to_owned());
            let events = events.spawn_scoped(scope, || self.serve_events(options, ready));
            match events {
                // An error is as good: the loop has failed, and said so.
                Ok(_) => drop(is_ready.recv()),
                Err(error) => {
                    let text = format!("cannot start a host thread for the event loop: {error}");
                    self.stop(Outcome::HostFailed(text));
                }
            }
            thread::run(self, &first, vcpu);
        });
    }

    /// The event loop, until no thread is left.
    fn serve_events(&self, options: Supervise<'_>, ready: mpsc::SyncSender<()>) {
        if let Err(error) = supervise::until_empty(self, options, ready) {
            self.stop(Outcome::HostFailed(crate::error::chain(&error)));
            // Without the event loop: the threads leave for the kicks alone.
            while self.threads.hearing(true) != Hearing::Empty {
                self.threads.kick_deaf(true);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }

    /// As [`Process::run_to_end`], with nothing from outside that could end it.
    #[must_use]
    pub fn wait(self: &Arc<Self>) -> Outcome {
        self.run_to_end(Supervise::default())
    }

    /// Has `task` called about once a second from the event loop, from now to the end, along
    /// with the tasks asked for before.
    pub fn call_every_second(&self, task: fn(&Process)) {
        self.second_tasks().push(task);
        self.threads.notify();
    }

    fn second_tasks(&self) -> MutexGuard<'_, Vec<fn(&Process)>> {
        self.second_tasks.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn wants_seconds(&self) -> bool {
        !self.second_tasks().is_empty()
    }

    fn every_second(&self) {
        // A task may ask for another one: not while the list is locked.
        let tasks = self.second_tasks().clone();
        for task in tasks {
            task(self);
        }
    }
}
