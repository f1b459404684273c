//! A process from its first thread's start to its last thread's end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::supervise::{self, Supervise};
use super::thread;
use crate::linux::task::host_thread::gettid;
use crate::linux::task::{KickState, Outcome, Process, Thread};
use crate::process_tree::stop::{self, STOPS};
use crate::stats::Phase;
use crate::vas::Release;
use crate::vm::{MemoryKind, Vcpu, kick};

/// How the programs of one process ended.
#[derive(Debug)]
pub struct Ended {
    /// The last one, unless it could not be started.
    pub process: Option<Arc<Process>>,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
}

impl Ended {
    pub(super) fn failed(name: &str, what: &str) -> Ended {
        Ended {
            process: None,
            name: name.to_owned(),
            outcome: Outcome::HostFailed(what.to_owned()),
        }
    }
}

impl Process {
    /// Runs the program, and each one that takes the place of the one before (`execve`), to the end:
    /// [`Process::run_to_end`]. The time that they may take is for all of them.
    #[must_use]
    pub fn run_programs(mut process: Arc<Self>, options: Supervise<'_>) -> Ended {
        let limit = options.timeout.map(|time| Instant::now() + time);
        loop {
            let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
            let outcome = process.run_to_end(Supervise { timeout: left, ..options });
            let Some(next) = process.take_next() else {
                let name = process.program.short.clone();
                return Ended { process: Some(process), name, outcome };
            };
            let (vm, children) = (process.vm.clone(), process.children.clone());
            let ledger = process.machine.mem.ledger().clone();
            let has_segments = !process.sysv.is_empty();
            // Its VM ends, and with it the only copy of its memory.
            drop(process);
            if has_segments && let Some(client) = children.sysv() {
                client.executed();
            }
            if let Some(member) = children.member() {
                member.release_all();
                // Files in memory that stay open are still charged there.
                member.note(ledger.held(MemoryKind::Files));
            }
            let name = String::from_utf8_lossy(&next.path).into_owned();
            process = match Process::start_next(*next, &vm, children) {
                Ok(process) => process,
                Err(error) => return Ended::failed(&name, &crate::error::chain(&error)),
            };
        }
    }

    /// Runs the program's first thread on the calling thread, and the event loop alongside,
    /// until every thread of the program has left; returns how it ended. Call this, or
    /// [`Process::wait`], once.
    ///
    /// The calling thread's number becomes the program's. The first thread has no separate host
    /// thread because a process's number is that of its first thread: the host kernel, which
    /// manages priority-inheritance futexes, would not accept another thread for it.
    ///
    /// A program that is told to end ends within some milliseconds, whether it computes
    /// or blocks in a call.
    #[must_use]
    pub fn run_to_end(self: &Arc<Self>, options: Supervise<'_>) -> Outcome {
        let first = self.life.take_first();
        if let Some(vcpu) = first {
            self.run_threads(vcpu, options);
        }
        self.threads.join_ended();
        self.timers.clear();
        self.survivor.end();
        let was_ended = self.was_ended();
        self.vases.close(if was_ended { Release::Abandoned } else { Release::Orderly });
        if let Some(elapsed) = self.life.since_stopped() {
            self.stats.phase(Phase::End, elapsed);
        }
        let outcome = self.life.take_outcome().unwrap_or(Outcome::Exited(0));
        if let Some(tracer) = &self.tracer
            && !self.life.is_replaced()
        {
            tracer.end(self.pid(), &outcome);
        }
        outcome
    }

    fn run_threads(self: &Arc<Self>, vcpu: Vcpu, options: Supervise<'_>) {
        // The caller need not be the thread that created the machine.
        kick::install();
        let begins = self.life.take_first_thread();
        let first = Thread::new(gettid(), begins.signals);
        first.set_name(&begins.name);
        first.clear_child_tid.store(begins.clear_tid, Ordering::Relaxed);
        self.life.begin(first.tid);
        self.threads.add(first.clone());
        self.show();
        if self.children.member().is_some() {
            STOPS.into_iter().for_each(|signal| self.signals.mirror_stop(signal));
        }
        // What was pending when the program before was replaced.
        self.signal_files.settle(self);
        if first.is_interrupted(self) {
            self.threads.kick_until_acknowledged(&first);
        }
        std::thread::scope(|scope| {
            let (ready, is_ready) = mpsc::sync_channel(1);
            let events = std::thread::Builder::new().name("events".to_owned());
            let events = events.spawn_scoped(scope, || self.serve_events(options, ready));
            match events {
                // An error will do as well: the loop has failed and reported it.
                Ok(_) => drop(is_ready.recv()),
                Err(error) => {
                    let text = format!("cannot start a host thread for the event loop: {error}");
                    self.stop(Outcome::HostFailed(text));
                }
            }
            if let Some(tracer) = &self.tracer {
                tracer.watch();
            }
            thread::run(self, &first, vcpu);
        });
    }

    /// The event loop, until no thread is left.
    fn serve_events(&self, options: Supervise<'_>, ready: mpsc::SyncSender<()>) {
        stop::block_here();
        if let Err(error) = supervise::until_empty(self, options, ready) {
            self.stop(Outcome::HostFailed(crate::error::chain(&error)));
            // Without the event loop, only the kicks make the threads leave.
            while self.threads.kick_state(true) != KickState::NoThreads {
                self.threads.kick_again(true);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// As [`Process::run_to_end`], with nothing outside that could end it.
    #[must_use]
    pub fn wait(self: &Arc<Self>) -> Outcome {
        self.run_to_end(Supervise::default())
    }
}
