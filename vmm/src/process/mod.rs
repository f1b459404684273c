//! A program running in its VM: what one `spacejmp run` is.
//!
//! - [`config`]: what the caller asks for; [`outcome`]: how it ended
//! - [`start`]: from a file to a first thread ready to run
//! - [`thread`]: one thread is one vCPU on one host thread; the run loop
//! - [`table`]: all threads, their start and their end

pub mod config;
pub mod outcome;
pub mod start;
pub mod table;
pub mod thread;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use abi::GuestPhys;

pub use config::RunConfig;
pub use outcome::Outcome;
pub use start::StartError;
pub use table::ThreadTable;
pub use thread::{Thread, ThreadCtx};

use crate::guest::clock::{self, GuestClock};
use crate::linux::fs::Files;
use crate::linux::signal::SignalActions;
use crate::report::stats::Stats;
use crate::space::Space;
use crate::vm::Machine;

/// A program in its VM.
#[derive(Debug)]
pub struct Process {
    /// The VM.
    pub machine: Arc<Machine>,
    /// Its own address space.
    pub space: Space,
    /// Its threads.
    pub threads: ThreadTable,
    /// What it does with signals.
    pub signals: SignalActions,
    /// When it was started, for CPU and uptime figures.
    pub started: Instant,
    /// What `uname`, `getauxval(AT_EXECFN)` and reports call it.
    pub program: config::ProgramName,
    /// Its files.
    pub files: Files,
    /// The clock its vDSO reads.
    pub clock: Mutex<GuestClock>,
    clock_page: GuestPhys,
    /// Counters.
    pub stats: Stats,
    stopping: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
}

impl Process {
    /// Whether the process is coming to its end; threads leave at their next exit.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        // Acquire pairs with `stop`: who sees the flag sees the outcome.
        self.stopping.load(Ordering::Acquire)
    }

    /// Ends the process with `outcome`, unless it has ended already: the first reason counts.
    /// Returns at once; threads leave by themselves, kicked out of whatever they do.
    pub fn stop(&self, outcome: Outcome) {
        {
            let mut slot = self.outcome.lock().unwrap_or_else(|poison| poison.into_inner());
            if slot.is_none() {
                *slot = Some(outcome);
            }
        }
        self.stopping.store(true, Ordering::Release);
        self.threads.kick_all();
    }

    /// Switches the vDSO's clock on, if it is not: `hint` is the time-stamp counter as ring 3
    /// read it just before the call being served.
    pub fn start_clock(&self, hint: u64, vcpu_tsc: impl FnOnce() -> Option<u64>) {
        let mut clock = self.clock.lock().unwrap_or_else(|poison| poison.into_inner());
        if clock.is_running() {
            return;
        }
        if let Some(page) = clock.calibrate(hint, vcpu_tsc()) {
            // The page was mapped at the start and is never given back.
            let _ = clock::publish(&self.machine.mem, self.clock_page, &page);
        }
    }

    /// Brings the vDSO's clock back to the host's; to be called about once a second.
    pub fn refresh_clock(&self) {
        let mut clock = self.clock.lock().unwrap_or_else(|poison| poison.into_inner());
        if clock.is_running() {
            let page = clock.refresh();
            let _ = clock::publish(&self.machine.mem, self.clock_page, &page);
        }
    }

    /// Waits until every thread has left, and says how it ended.
    #[must_use]
    pub fn wait(&self) -> Outcome {
        self.threads.wait_until_empty(|| self.is_stopping());
        let mut slot = self.outcome.lock().unwrap_or_else(|poison| poison.into_inner());
        slot.take().unwrap_or(Outcome::Exited(0))
    }
}
