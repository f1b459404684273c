//! A program in its VM, as Linux represents it: the process, its threads, their state.
//!
//! State only: the calls that change it are in the modules beside this one, the run loop and the
//! event loop in `process`.
//!
//! - [`thread`]: one thread; [`table`]: all of them; [`host_thread`]: how another one is started
//! - `errands`: what a thread has the event loop do
//! - [`outcome`]: how the program ended

mod errands;
pub mod host_thread;
pub mod outcome;
pub mod table;
pub mod thread;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

pub use host_thread::{Prepared, RunThread};
pub use outcome::Outcome;
pub use table::{KickState, ThreadTable};
pub use thread::{Thread, ThreadCtx};

use self::errands::Errands;
use super::children::{Children, ChooseProgram, NewProgram};
use super::core_dump::{CorePlace, CoreState};
use super::debug::Debugger;
use super::limits::Limits;
use super::net::{NetGrants, Network};
use super::prctl::Settings;
use super::proc::Facts;
use super::profile::{Profile, Profiler};
use super::signal::{KeptSignals, SignalActions, ThreadSignals};
use super::signalfd::SignalFiles;
use super::snapshot::SnapshotDesk;
use super::snapshot::ready::AtReady;
use super::strace::{Tracer, Viewed};
use super::survivor::Survivor;
use super::sysv::Attached;
use super::timer::Timers;
use crate::confine::Policy;
use crate::files::Files;
use crate::guest::clock::{GuestClock, GuestWords};
use crate::kernel::Kernel;
use crate::private::PrivateRegion;
use crate::process_tree::disk_use::DiskLimit;
use crate::process_tree::{Channel, Registry};
use crate::stats::{LimitsReport, Phase, Stats};
use crate::user_memory::UserMemory;
use crate::vas::{VasGrants, Vases};
use crate::vm::{Machine, Vcpu};

/// How long a thread that waits for the store's lock may continue when the process is told to end.
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
    /// The VASes it has attached.
    pub vases: Arc<Vases>,
    /// Its threads.
    pub threads: ThreadTable,
    /// Its actions for signals.
    pub signals: SignalActions,
    /// Its `signalfd`s.
    pub(crate) signal_files: SignalFiles,
    /// Its timers.
    pub timers: Timers,
    /// When it was started, for CPU and uptime figures.
    pub started: Instant,
    /// What `uname`, `getauxval(AT_EXECFN)` and reports call it.
    pub program: ProgramName,
    /// Its files.
    pub files: Files,
    /// What of the network it may use.
    pub network: Network,
    /// Its resource limits.
    pub limits: Limits,
    /// Its settings made by `prctl`.
    pub settings: Settings,
    /// The clock its vDSO reads.
    pub clock: Mutex<GuestClock>,
    /// What releases its locks when the VMM is killed.
    pub survivor: Survivor,
    /// Counters.
    pub stats: Stats,
    /// What writes its calls from the start, if they are asked for: `Process::tracer`.
    pub(crate) traced: Option<Arc<Tracer>>,
    /// Who looks at its calls.
    pub(crate) viewed: Viewed,
    /// What it collects for a profile, if one is asked for.
    pub(crate) profile: Option<Profile>,
    /// What `/proc` shows of it and does not change.
    pub(crate) facts: Facts,
    /// The run loop, for the host thread of another thread.
    pub(crate) run_thread: RunThread,
    /// How a program that takes this one's place is looked up.
    pub(crate) choose_program: ChooseProgram,
    /// The processes that it has started.
    pub children: Arc<Children>,
    /// What each program of this VMM has: the store, the memory.
    pub(crate) vm: VmSettings,
    /// To the parent that waits until this process has let go of its memory (`CLONE_VFORK`).
    pub(crate) _held_by: Option<Arc<Channel>>,
    /// System V segments that it has attached.
    pub sysv: Attached,
    pub(crate) tsc_khz: Option<u32>,
    /// Its file, for reports.
    pub(crate) executable: Executable,
    pub(crate) life: Life,
    /// Its threads while its core file is written.
    pub(crate) core: CoreState,
    /// What the event loop calls once a second.
    pub(crate) second_tasks: Mutex<Vec<fn(&Process)>>,
    /// What the event loop does for threads that may not.
    pub(crate) errands: Errands,
    /// Who wants a snapshot of it.
    pub(crate) snapshots: SnapshotDesk,
}

/// What a VM has, whichever program runs in it.
#[derive(Debug, Clone)]
pub(crate) struct VmSettings {
    /// Memory that the run may hold.
    pub(crate) memory_bytes: u64,
    /// The store.
    pub(crate) store: Option<PathBuf>,
    /// Which part of it the program may use.
    pub(crate) vases: VasGrants,
    /// Of files in the store.
    pub(crate) umask: u32,
    /// What of the network it may reach.
    pub(crate) net: NetGrants,
    /// What writes its calls, if they are asked for.
    pub(crate) tracer: Option<Arc<Tracer>>,
    /// What is collected for profiles, if they are asked for.
    pub(crate) profiler: Option<Arc<Profiler>>,
    /// Where core files go, if they are asked for.
    pub(crate) core: Option<Arc<CorePlace>>,
    /// Whether a report tells of all threads where they were.
    pub(crate) backtraces: bool,
    /// What all processes of the run may add to disks; `None`: there is no limit.
    pub(crate) disk: Option<Arc<DiskLimit>>,
    /// Who debugs the run's first process, or may do so later.
    pub(crate) debug: Option<Arc<Debugger>>,
    /// What its threads may ask of the host.
    pub(crate) confined: Policy,
    /// What is done when the run's first process is ready; `None`: nothing.
    pub(crate) at_ready: Option<Arc<AtReady>>,
    /// What a copy of a process that was ready was started with (`snapshot::ready::bytes`).
    pub(crate) copy_of_ready: Option<Arc<[u8]>>,
}

/// What a process's first thread begins with, besides its registers.
#[derive(Debug, Default)]
pub(crate) struct FirstThread {
    /// The signals that it blocks, its alternate stack.
    pub(crate) signals: ThreadSignals,
    /// Its name.
    pub(crate) name: Vec<u8>,
    /// What is cleared at its end.
    pub(crate) clear_tid: u64,
    /// The list of the locks that it holds.
    pub(crate) robust_list: u64,
    /// The number that memory has for it, if that is another one than its process's.
    pub(crate) owner: Option<i32>,
    /// The threads that begin with it: of a process that goes on from a snapshot.
    pub(crate) others: Vec<OtherThread>,
}

/// A thread that begins with the first one.
#[derive(Debug)]
pub(crate) struct OtherThread {
    /// Its number, as the program has it.
    pub(crate) tid: i32,
    /// As for the first.
    pub(crate) signals: ThreadSignals,
    /// Likewise.
    pub(crate) name: Vec<u8>,
    /// Likewise.
    pub(crate) clear_tid: u64,
    /// Likewise.
    pub(crate) robust_list: u64,
    /// With its registers.
    pub(crate) vcpu: Vcpu,
}

/// A process from its start to its end.
#[derive(Debug)]
pub(crate) struct Life {
    /// Its number, from when its first thread runs.
    pid: OnceLock<i32>,
    /// The first thread's vCPU, until that runs.
    first: Mutex<Option<Vcpu>>,
    first_status: AtomicU8,
    stopping: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
    running_since: Instant,
    stopped: OnceLock<Instant>,
    /// What its first thread begins with.
    first_thread: Mutex<Option<FirstThread>>,
    /// The program that takes its place, and the thread that called for it.
    next: Mutex<Option<(Box<NewProgram>, Arc<Thread>)>>,
}

impl Life {
    /// For a process whose first thread will run on `first`.
    pub(crate) fn new(first: Vcpu, first_thread: FirstThread) -> Life {
        Life {
            pid: OnceLock::new(),
            first: Mutex::new(Some(first)),
            first_status: AtomicU8::new(0),
            stopping: AtomicBool::new(false),
            outcome: Mutex::new(None),
            running_since: Instant::now(),
            stopped: OnceLock::new(),
            first_thread: Mutex::new(Some(first_thread)),
            next: Mutex::new(None),
        }
    }

    /// What the first thread begins with, once.
    pub(crate) fn take_first_thread(&self) -> FirstThread {
        locked(&self.first_thread).take().unwrap_or_default()
    }

    /// Does something with the vCPU of a thread that has not begun: of the first one, or of the one with this number.
    pub(crate) fn with_vcpu<R>(
        &self,
        other: Option<i32>,
        f: impl FnOnce(&mut Vcpu) -> R,
    ) -> Option<R> {
        match other {
            None => locked(&self.first).as_mut().map(f),
            Some(tid) => {
                let mut first = locked(&self.first_thread);
                let others = first.as_mut()?.others.iter_mut();
                others
                    .into_iter()
                    .find(|thread| thread.tid == tid)
                    .map(|thread| f(&mut thread.vcpu))
            }
        }
    }

    /// Whether another program takes its place.
    pub(crate) fn is_replaced(&self) -> bool {
        locked(&self.next).is_some()
    }

    /// The first thread's vCPU, once.
    pub(crate) fn take_first(&self) -> Option<Vcpu> {
        locked(&self.first).take()
    }

    /// Sets the process's number: that of its first thread.
    pub(crate) fn begin(&self, pid: i32) {
        assert!(self.pid.set(pid).is_ok(), "a process begins once");
    }

    /// How long ago it was stopped, if it was.
    pub(crate) fn since_stopped(&self) -> Option<Duration> {
        self.stopped.get().map(Instant::elapsed)
    }

    /// Determines how it ends: the first reason counts. A program that is about to take its place has only
    /// made it exit: a signal, or a limit, that ends the process meanwhile ends it, and the program does not start.
    /// Returns whether it was this one.
    fn determine(&self, outcome: Outcome) -> bool {
        let mut ended = locked(&self.outcome);
        let is_exit = matches!(outcome, Outcome::Exited(_));
        let counts = ended.is_none() || !is_exit && locked(&self.next).take().is_some();
        if counts {
            *ended = Some(outcome);
        }
        counts
    }

    /// Lets the report on the signal that ended it end in `more`; one that has none begins with `heading`.
    pub(crate) fn add_to_report(&self, heading: &str, more: &str) {
        if let Some(Outcome::Killed { report, .. }) = &mut *locked(&self.outcome) {
            if report.is_empty() {
                report.push_str(heading);
            }
            report.push_str(more);
        }
    }

    /// How it ended, once.
    pub(crate) fn take_outcome(&self) -> Option<Outcome> {
        locked(&self.outcome).take()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// The program's name in its various forms.
#[derive(Debug, Clone)]
pub struct ProgramName {
    /// Path as the program sees it.
    pub path: Vec<u8>,
    /// Last part of it.
    pub short: String,
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
    /// Its memory as seen by a thread in instance `vh` ([`crate::vas::HOME`], or a handle).
    #[must_use]
    pub fn user_in(&self, vh: u32) -> UserMemory<'_> {
        UserMemory::new(&self.private, &self.vases, vh)
    }

    /// Who debugs it, if somebody does or has.
    pub(crate) fn debugger(&self) -> Option<&Debugger> {
        self.vm.debug.as_deref().filter(|debug| debug.is_present())
    }

    /// What limits it beside its memory, and what the run is charged with.
    #[must_use]
    pub fn limits_report(&self) -> LimitsReport {
        let disk = self.vm.disk.as_ref();
        let run = self.children.member().map(|member| member.registry());
        let is_limited = |run: &&Arc<Registry>| run.processor_time_limit().is_some();
        LimitsReport {
            disk_bytes: disk.map(|disk| disk.limit_bytes()),
            disk_used_bytes: disk.map(|disk| disk.used_bytes()),
            run_cpu_ns: run.filter(is_limited).map(|run| run.processor_time().as_nanos() as u64),
            ..self.limits.report()
        }
    }

    /// Its number: the first thread's, which is that of the host thread that called
    /// [`Process::run_to_end`]. For the command `spacejmp`, that is the host process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.life.pid.get().copied().unwrap_or_else(|| std::process::id().cast_signed())
    }

    /// The status the first thread left with, 0 until then.
    pub(crate) fn first_status(&self) -> u8 {
        self.life.first_status.load(Ordering::Relaxed)
    }

    /// Records the exit status of the first thread.
    pub(crate) fn set_first_status(&self, status: u8) {
        self.life.first_status.store(status, Ordering::Relaxed);
    }

    /// Whether the process is ending; threads leave at their next exit.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        // Acquire pairs with `stop`: a thread that sees the flag sees the outcome.
        self.life.stopping.load(Ordering::Acquire)
    }

    /// Whether the process is ending for another reason than its own exit: what it was writing
    /// cannot be relied on.
    pub(crate) fn was_ended(&self) -> bool {
        let ended = locked(&self.life.outcome);
        !matches!(*ended, None | Some(Outcome::Exited(_)))
    }

    /// Ends the process with `outcome`, unless it has ended already: the first reason counts, but for a
    /// program that is about to take its place ([`Process::stop_for`]).
    /// Returns immediately; the threads leave on their own, kicked out of whatever they do.
    pub fn stop(&self, outcome: Outcome) {
        let _ = self.stop_because(outcome);
    }

    /// As [`Process::stop`]; returns whether `outcome` is what counts.
    #[must_use]
    pub fn stop_because(&self, outcome: Outcome) -> bool {
        let counts = self.life.determine(outcome);
        if self.life.stopped.set(Instant::now()).is_ok() {
            self.stats.phase(Phase::Run, self.life.running_since.elapsed());
        }
        self.life.stopping.store(true, Ordering::Release);
        self.vases.stop_waiting(LOCK_PATIENCE_AT_END);
        self.threads.kick_all();
        self.threads.notify();
        if let Some(debug) = &self.vm.debug {
            debug.look_up();
        }
        counts
    }

    /// Ends the program, unless it has ended already, so that another one can take its place.
    pub fn stop_for(&self, next: NewProgram, caller: Arc<Thread>) {
        {
            let ended = locked(&self.life.outcome);
            if ended.is_none() {
                *locked(&self.life.next) = Some((Box::new(next), caller));
            }
        }
        self.stop(Outcome::Exited(0));
    }

    /// The program that takes this one's place, once, if it has ended for that: when no thread is left.
    pub(crate) fn take_next(&self) -> Option<Box<NewProgram>> {
        let (mut next, caller) = locked(&self.life.next).take()?;
        next.kept = KeptSignals::of(self, &caller);
        Some(next)
    }

    /// Determines that the process ends with `outcome`, unless it has ended already, but lets
    /// threads that are inside a VAS with write access continue until they have left; no other
    /// thread starts to write. [`Process::stop`] ends it then, or before. Returns whether there is
    /// a thread to wait for.
    pub fn stop_writing(&self, outcome: Outcome) -> bool {
        self.life.determine(outcome);
        self.vases.drain();
        // A kicked thread that waits for a lock checks its signals.
        self.threads.kick_all();
        !self.vases.is_drained()
    }

    /// Starts the vDSO's clock, if it is not running: `hint` is the time-stamp counter as ring 3
    /// read it just before the call being served, `vcpu_tsc` reads that vCPU's as KVM shows it.
    pub fn start_clock(&self, hint: u64, vcpu_tsc: impl Fn() -> Option<u64>) {
        let mut clock = locked(&self.clock);
        // The page is the machine's, where no mapping of the program reaches: storing cannot fail.
        if let Ok(true) = clock.start(hint, vcpu_tsc, &self.clock_words()) {
            drop(clock);
            self.call_every_second(Process::refresh_clock);
        }
    }

    /// Resynchronizes the vDSO's clock with the host's; to be called about once a second.
    pub fn refresh_clock(&self) {
        let mut clock = locked(&self.clock);
        // As above.
        let _ = clock.refresh(&self.clock_words());
    }

    fn clock_words(&self) -> GuestWords<'_> {
        GuestWords { mem: &self.machine.mem, page: self.kernel.clock_page() }
    }

    /// Makes the event loop call `task` about once a second, from now to the end, along with the
    /// tasks registered before.
    pub fn call_every_second(&self, task: fn(&Process)) {
        let mut tasks = self.second_tasks();
        // The loop looks for the first one only: the timer serves them all.
        let is_first = tasks.is_empty();
        tasks.push(task);
        drop(tasks);
        if is_first {
            self.threads.notify();
        }
    }

    fn second_tasks(&self) -> MutexGuard<'_, Vec<fn(&Process)>> {
        locked(&self.second_tasks)
    }

    pub(crate) fn wants_seconds(&self) -> bool {
        !self.second_tasks().is_empty()
    }

    pub(crate) fn every_second(&self) {
        // A task may register another one: do not call it while the list is locked.
        let tasks = self.second_tasks().clone();
        for task in tasks {
            task(self);
        }
    }
}
