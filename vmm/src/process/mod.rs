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

pub use config::RunConfig;
pub use outcome::Outcome;
pub use start::StartError;
pub use table::ThreadTable;
pub use thread::{Thread, ThreadCtx};

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

    /// Waits until every thread has left, and says how it ended.
    #[must_use]
    pub fn wait(&self) -> Outcome {
        self.threads.wait_until_empty(|| self.is_stopping());
        let mut slot = self.outcome.lock().unwrap_or_else(|poison| poison.into_inner());
        slot.take().unwrap_or(Outcome::Exited(0))
    }
}
