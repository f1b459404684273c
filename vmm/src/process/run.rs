//! A process from its first thread's start to its last thread's end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::time::{Duration, Instant};

use super::supervise::{self, Supervise};
use super::{StartError, thread};
use crate::confine::{self, Kind, Policy};
use crate::gdb;
use crate::linux::children::{Children, NewProgram};
use crate::linux::profile::Sampler;
use crate::linux::task::{KickState, OtherThread, Outcome, Prepared, Process, Thread, VmSettings};
use crate::process_tree::stop::{self, STOPS};
use crate::report;
use crate::stats::Phase;
use crate::vas::Release;
use crate::vm::kick::HostTid;
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

/// What the event loop's thread is to do.
enum Job<'a> {
    /// Serve a process, whose events are watched when it tells so, until no thread of it is left.
    Serve(Arc<Process>, Supervise<'a>, SyncSender<()>, SyncSender<()>),
    /// Make a VM with the program that takes the place of one before.
    Start(Box<NewProgram>, VmSettings, Arc<Children>, SyncSender<Result<Arc<Process>, StartError>>),
}

/// The event loop's thread, which serves one program after the other. It is not confined as the threads are
/// that run them, so it also makes what they need.
struct Events<'a>(Sender<Job<'a>>);

impl<'a> Events<'a> {
    /// Runs `f` beside that thread; none if the host has no thread left.
    fn beside<R>(policy: Policy, f: impl FnOnce(io::Result<Events<'a>>) -> R) -> R {
        std::thread::scope(|scope| {
            let (jobs, to_do) = mpsc::channel();
            let held = confine::held();
            let events = std::thread::Builder::new().name("events".to_owned());
            let events = events.spawn_scoped(scope, move || {
                confine::inherit(held);
                stop::block_here();
                match confine::enter(Kind::of_events(&policy), &policy) {
                    Ok(()) => to_do.into_iter().for_each(Job::run),
                    Err(error) => {
                        let error = crate::error::chain(&StartError::Confine(error));
                        to_do.into_iter().for_each(|job| job.fail(&error));
                    }
                }
            });
            f(events.map(|_| Events(jobs)))
        })
    }
}

impl Job<'_> {
    fn run(self) {
        match self {
            Job::Serve(process, options, ready, done) => {
                process.serve_events(options, ready);
                // Before it is done: who waits for that drops the VM.
                drop(process);
                let _ = done.send(());
            }
            Job::Start(new, vm, children, started) => {
                // Who waits for it does not give up.
                let _ = started.send(Process::start_next(*new, &vm, children));
            }
        }
    }

    fn fail(self, error: &str) {
        if let Job::Serve(process, ..) = self {
            process.stop(Outcome::HostFailed(error.to_owned()));
        }
    }
}

impl Process {
    /// Runs the program, and each one that takes the place of the one before (`execve`), to the end:
    /// [`Process::run_to_end`]. The time that they may take is for all of them.
    #[must_use]
    pub fn run_programs(process: Arc<Self>, options: Supervise<'_>) -> Ended {
        let debugger = process.vm.debug.clone();
        let policy = process.vm.confined;
        // Before this thread is confined.
        let profiler = process.vm.profiler.as_deref();
        let sampler = profiler.map(|profiler| Sampler::start(profiler, &policy)).transpose();
        let sampler = sampler.map(Option::flatten).unwrap_or_else(|error| {
            let text = format!("cannot start a host thread for --profile: {error}");
            process.stop(Outcome::HostFailed(text));
            None
        });
        let ended = Events::beside(policy, |events| {
            Process::run_all(process, &events, options, sampler.as_ref())
        });
        if let Some(debugger) = debugger {
            debugger.ends(&ended.outcome);
        }
        ended
    }

    fn run_all<'a>(
        mut process: Arc<Self>,
        events: &io::Result<Events<'a>>,
        options: Supervise<'a>,
        sampler: Option<&Sampler>,
    ) -> Ended {
        let limit = options.timeout.map(|time| Instant::now() + time);
        loop {
            let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
            if let Some(sampler) = sampler {
                sampler.ask(Some(&process));
            }
            let outcome = process.run_with(events, Supervise { timeout: left, ..options });
            if let Some(sampler) = sampler {
                sampler.ask(None);
            }
            report::profile::leave(&process);
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
            let (tell, told) = mpsc::sync_channel(1);
            if let Ok(Events(jobs)) = events {
                // If its thread is gone, nothing is told.
                let _ = jobs.send(Job::Start(next, vm, children, tell));
            }
            process = match told.recv() {
                Ok(Ok(process)) => process,
                Ok(Err(error)) => return Ended::failed(&name, &crate::error::chain(&error)),
                Err(_) => return Ended::failed(&name, "the event loop has ended"),
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
        Events::beside(self.vm.confined, |events| self.run_with(&events, options))
    }

    fn run_with<'a>(
        self: &Arc<Self>,
        events: &io::Result<Events<'a>>,
        options: Supervise<'a>,
    ) -> Outcome {
        let first = self.life.take_first();
        if let Some(vcpu) = first {
            self.run_threads(vcpu, events, options);
        }
        self.show_no_executable();
        self.threads.join_ended();
        self.timers.clear();
        self.survivor.end();
        let was_ended = self.was_ended();
        self.vases.close(if was_ended { Release::Abandoned } else { Release::Orderly });
        if let Some(elapsed) = self.life.since_stopped() {
            self.stats.phase(Phase::End, elapsed);
        }
        let outcome = self.life.take_outcome().unwrap_or(Outcome::Exited(0));
        if let Some(tracer) = self.tracer()
            && !self.life.is_replaced()
        {
            tracer.end(self.pid(), &outcome);
        }
        outcome
    }

    fn run_threads<'a>(
        self: &Arc<Self>,
        vcpu: Vcpu,
        events: &io::Result<Events<'a>>,
        options: Supervise<'a>,
    ) {
        // The caller need not be the thread that created the machine.
        kick::install();
        let begins = self.life.take_first_thread();
        let host = HostTid::own();
        let numbers = [host.raw(), begins.owner.unwrap_or(host.raw())];
        let first = Thread::numbered(numbers, host, begins.signals);
        first.set_name(&begins.name);
        first.clear_child_tid.store(begins.clear_tid, Ordering::Relaxed);
        first.robust_list.store(begins.robust_list, Ordering::Relaxed);
        self.life.begin(first.tid);
        self.threads.add(first.clone());
        self.show();
        if let Some(debugger) = &self.vm.debug {
            debugger.begins(self);
        }
        if self.children.member().is_some() {
            STOPS.into_iter().for_each(|signal| self.signals.mirror_stop(signal));
        }
        // What was pending when the program before was replaced.
        self.signal_files.settle(self);
        if first.is_interrupted(self) {
            self.threads.kick_until_acknowledged(&first);
        }
        let (ready, is_ready) = mpsc::sync_channel(1);
        let (done, is_done) = mpsc::sync_channel(1);
        match events {
            Ok(Events(jobs)) => {
                let _ = jobs.send(Job::Serve(self.clone(), options, ready, done));
            }
            Err(error) => {
                let text = format!("cannot start a host thread for the event loop: {error}");
                self.stop(Outcome::HostFailed(text));
                drop((ready, done));
            }
        }
        if let Some(tracer) = &self.traced {
            tracer.watch(&self.vm.confined);
        }
        if let (Some(debugger), Some(listener)) = (&self.vm.debug, options.gdb)
            && let Err(error) = gdb::server::start(debugger, listener, &self.vm.confined)
        {
            let text = format!("cannot start a host thread for gdb: {error}");
            self.stop(Outcome::HostFailed(text));
        }
        if let Err(error) = confine::enter(Kind::Vcpu, &self.vm.confined) {
            let error = crate::error::chain(&StartError::Confine(error));
            self.stop(Outcome::HostFailed(error));
        }
        // An error will do as well: the loop has failed and reported it.
        let _ = is_ready.recv();
        if let Err(error) = self.begin_with(begins.others) {
            let text = format!("cannot start a host thread for a thread of the snapshot: {error}");
            self.stop(Outcome::HostFailed(text));
        }
        thread::run(self, &first, vcpu);
        // Without an event loop, at once.
        let _ = is_done.recv();
    }

    /// Starts threads that go on where they were when their process was snapshotted.
    fn begin_with(self: &Arc<Self>, others: Vec<OtherThread>) -> io::Result<()> {
        let mut ready = Vec::new();
        for other in others {
            let OtherThread { tid, signals, name, clear_tid, robust_list, vcpu } = other;
            let host = Prepared::new(self)?;
            let thread = Thread::numbered([tid; 2], host.tid(), signals);
            thread.set_name(&name);
            thread.clear_child_tid.store(clear_tid, Ordering::Relaxed);
            thread.robust_list.store(robust_list, Ordering::Relaxed);
            ready.push((host, thread, vcpu));
        }
        // All are known before one of them runs: it may name another, or start one, whose number must be free.
        ready.iter().for_each(|(_, thread, _)| self.threads.add(thread.clone()));
        ready.into_iter().for_each(|(host, thread, vcpu)| host.run_known(thread, vcpu));
        Ok(())
    }

    /// The event loop, until no thread is left.
    fn serve_events(&self, options: Supervise<'_>, ready: mpsc::SyncSender<()>) {
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
