//! What a run did, counted while it runs: exits, Linux calls, faults, threads, time.
//!
//! Every vCPU thread adds to the same [`Stats`] with relaxed atomics: a counter orders
//! nothing, and the sums are read when the threads are done (or, for a live view, may be off by an
//! event). Sharing costs a cache-line transfer per count, some hundred cycles against many
//! thousands for an exit; counters per thread would save that and need a registry. Nothing here is
//! counted while the guest runs without exits.
//!
//! The guest chooses the call numbers: anything outside the table is counted as one.
#![forbid(unsafe_code)]

pub mod names;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::vm::ledger::HeldReport;

/// One line per variant: the enum, its JSON and table name, and its place in the counters.
macro_rules! kinds {
    ($(#[$meta:meta])* $kind:ident { $($(#[$doc:meta])* $variant:ident $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $kind { $($(#[$doc])* $variant,)* }

        impl $kind {
            /// Every kind, in the order of the report.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

kinds! {
    /// Why a vCPU came back to the VMM; the variants follow the VMM's own exit types.
    ExitReason {
        /// A Linux call.
        Syscall "syscall",
        /// A SpaceJMP call the guest kernel did not serve.
        Call "call",
        /// An exception in ring 3.
        Exception "exception",
        /// A signal or `immediate_exit`: another thread requested the exit.
        Kicked "kicked",
        /// The host could not provide a page.
        HostFault "host-fault",
        /// A port or an address the program may not use.
        Forbidden "forbidden",
        /// The guest kernel panicked or faulted.
        KernelDead "kernel-dead",
        /// Triple fault.
        Shutdown "shutdown",
        /// KVM failed: internal error or refused entry.
        HostGaveUp "host-gave-up",
        /// Any other.
        Other "other",
    }
}

kinds! {
    /// The kind of a fault, or how it was handled.
    FaultKind {
        /// A page fault answered by mapping memory.
        PageMapped "page-mapped",
        /// A page fault answered by a private copy.
        PageCopied "page-copied",
        /// A page fault on memory the program does not have.
        PageRefused "page-refused",
        /// An instruction that the CPU does not support.
        InvalidOpcode "invalid-opcode",
        /// A privileged instruction, a non-canonical address and the like.
        GeneralProtection "general-protection",
        /// Integer division by zero or overflow.
        Divide "divide",
        /// x87 or SSE.
        FloatingPoint "floating-point",
        /// `INT3` or a debug trap.
        Breakpoint "breakpoint",
        /// Any other exception.
        Other "other",
    }
}

kinds! {
    /// The parts of a run's wall time, in order.
    Phase {
        /// Opening KVM, creating the VM, its memory and the guest kernel.
        Machine "machine",
        /// Creating the first vCPU, including detecting the kind of host.
        Vcpu "vcpu",
        /// Mapping the program, its stack, arguments and environment.
        Load "load",
        /// From the first thread's start until something ended the program.
        Run "run",
        /// From then until the last thread had left.
        End "end",
    }
}

#[derive(Debug, Default)]
struct Call {
    count: AtomicU64,
    nanos: AtomicU64,
    unserved: AtomicBool,
}

/// The counters of one run. Shared by reference among all of its threads.
#[derive(Debug)]
pub struct Stats {
    start: Instant,
    exits: [AtomicU64; ExitReason::ALL.len()],
    faults: [AtomicU64; FaultKind::ALL.len()],
    /// One per call number, and a last one for every number outside the table.
    calls: Box<[Call]>,
    threads_now: AtomicU64,
    threads_started: AtomicU64,
    threads_peak: AtomicU64,
    guest_nanos: AtomicU64,
    kvm_setup_nanos: AtomicU64,
    phases: [AtomicU64; Phase::ALL.len()],
}

impl Default for Stats {
    /// All zero; wall time starts here.
    fn default() -> Self {
        Self {
            start: Instant::now(),
            exits: Default::default(),
            faults: Default::default(),
            calls: (0..=names::LIMIT).map(|_| Call::default()).collect(),
            threads_now: AtomicU64::new(0),
            threads_started: AtomicU64::new(0),
            threads_peak: AtomicU64::new(0),
            guest_nanos: AtomicU64::new(0),
            kvm_setup_nanos: AtomicU64::new(0),
            phases: Default::default(),
        }
    }
}

impl Stats {
    /// Records how long a phase took.
    pub fn phase(&self, phase: Phase, time: Duration) {
        self.phases[phase as usize].store(nanos(time), Relaxed);
    }

    /// A stopwatch for consecutive phases, started now.
    pub fn laps(&self) -> Laps<'_> {
        Laps { stats: self, since: Instant::now() }
    }

    /// Counts an exit.
    pub fn exit(&self, reason: ExitReason) {
        self.exits[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a fault.
    pub fn fault(&self, kind: FaultKind) {
        self.faults[kind as usize].fetch_add(1, Relaxed);
    }

    /// Counts a Linux call and the time spent serving it, blocking included.
    pub fn call(&self, number: u64, time: Duration) {
        let call = self.counter(number);
        call.count.fetch_add(1, Relaxed);
        call.nanos.fetch_add(nanos(time), Relaxed);
    }

    /// Marks a call that is not implemented; it is counted by [`Stats::call`] like any other.
    /// Returns `true` the first time for each number, so that it can be named in the log; numbers
    /// outside the table count as one number.
    pub fn unserved(&self, number: u64) -> bool {
        !self.counter(number).unserved.swap(true, Relaxed)
    }

    /// A thread of the program starts.
    pub fn thread_started(&self) {
        self.threads_started.fetch_add(1, Relaxed);
        let now = self.threads_now.fetch_add(1, Relaxed).saturating_add(1);
        self.threads_peak.fetch_max(now, Relaxed);
    }

    /// A thread of the program has ended. Every one of them was counted as started before.
    pub fn thread_ended(&self) {
        self.threads_now.fetch_sub(1, Relaxed);
    }

    /// Adds time a vCPU spent inside `KVM_RUN`.
    pub fn add_guest_time(&self, time: Duration) {
        self.guest_nanos.fetch_add(nanos(time), Relaxed);
    }

    /// Time spent in KVM calls while setting up.
    pub fn kvm_setup(&self, time: Duration) {
        self.kvm_setup_nanos.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    /// All counters as they are now. Kinds and calls that never occurred are left out.
    pub fn snapshot(&self) -> StatsReport {
        StatsReport {
            wall_ns: nanos(self.start.elapsed()),
            guest_ns: self.guest_nanos.load(Relaxed),
            cpu_ns: cpu_ns(),
            memory_touched_bytes: None,
            memory_limit_bytes: None,
            limits: None,
            memory: Vec::new(),
            rss_peak_bytes: None,
            kvm_setup_ns: self.kvm_setup_nanos.load(Relaxed),
            phases: self.phases(),
            threads_started: self.threads_started.load(Relaxed),
            threads_peak: self.threads_peak.load(Relaxed),
            exits: counts(&self.exits, |index| ExitReason::ALL[index].name()),
            faults: counts(&self.faults, |index| FaultKind::ALL[index].name()),
            calls: self.calls(),
        }
    }

    fn phases(&self) -> PhaseReport {
        let ns = |phase: Phase| self.phases[phase as usize].load(Relaxed);
        PhaseReport {
            machine_ns: ns(Phase::Machine),
            vcpu_ns: ns(Phase::Vcpu),
            load_ns: ns(Phase::Load),
            run_ns: ns(Phase::Run),
            end_ns: ns(Phase::End),
        }
    }

    fn calls(&self) -> Vec<CallReport> {
        let report = |(index, call): (usize, &Call)| {
            let count = call.count.load(Relaxed);
            let number = (index < names::LIMIT).then_some(index as u64);
            (count > 0).then(|| CallReport {
                number,
                name: number.and_then(names::name),
                count,
                ns: call.nanos.load(Relaxed),
                served: !call.unserved.load(Relaxed),
            })
        };
        self.calls.iter().enumerate().filter_map(report).collect()
    }

    fn counter(&self, number: u64) -> &Call {
        let index = usize::try_from(number).unwrap_or(names::LIMIT);
        &self.calls[index.min(names::LIMIT)]
    }
}

/// Measures phases that follow each other.
#[derive(Debug)]
pub struct Laps<'a> {
    stats: &'a Stats,
    since: Instant,
}

impl Laps<'_> {
    /// Ends the current phase and starts the next one.
    pub fn ends(&mut self, phase: Phase) {
        let now = Instant::now();
        self.stats.phase(phase, now.duration_since(self.since));
        self.since = now;
    }
}

/// A run in numbers: `--stats=json` prints it as it is, `--stats` as a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StatsReport {
    /// Time since the statistics began.
    pub wall_ns: u64,
    /// Time inside `KVM_RUN`, summed over all threads.
    pub guest_ns: u64,
    /// Processor time of this process, the VMM's own included.
    pub cpu_ns: u64,
    /// Guest memory resident at the end, filled in by the reader; `None` when unknown.
    pub memory_touched_bytes: Option<u64>,
    /// How much of the host's memory the program may hold, filled in likewise.
    pub memory_limit_bytes: Option<u64>,
    /// What else limits it; likewise.
    pub limits: Option<LimitsReport>,
    /// What it holds at the end, and the peak, by kind; likewise.
    pub memory: Vec<HeldReport>,
    /// Most memory the VMM ever had resident, guest memory included; likewise.
    pub rss_peak_bytes: Option<u64>,
    /// Time spent in KVM calls before the program's first instruction.
    pub kvm_setup_ns: u64,
    /// Where the wall time went.
    pub phases: PhaseReport,
    /// Threads ever started, the first included.
    pub threads_started: u64,
    /// Most threads at one time.
    pub threads_peak: u64,
    /// Exits by reason.
    pub exits: Vec<Count>,
    /// Faults by kind.
    pub faults: Vec<Count>,
    /// Linux calls by number.
    pub calls: Vec<CallReport>,
}

/// What limits a program beside its memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LimitsReport {
    /// Processors that its threads may run on.
    pub processors: u64,
    /// Seconds of processor time until SIGXCPU; `None` is no limit.
    pub cpu_seconds: Option<u64>,
    /// Size to which it may make a file grow; likewise.
    pub file_size_bytes: Option<u64>,
    /// What all processes of the run may add to disks together; likewise.
    pub disk_bytes: Option<u64>,
    /// What they are charged with now.
    pub disk_used_bytes: Option<u64>,
    /// Processor time that they have used together, if that is limited.
    pub run_cpu_ns: Option<u64>,
}

/// Processor time of this process.
#[must_use]
pub fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// The parts of a run, see [`Phase`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PhaseReport {
    /// [`Phase::Machine`].
    pub machine_ns: u64,
    /// [`Phase::Vcpu`].
    pub vcpu_ns: u64,
    /// [`Phase::Load`].
    pub load_ns: u64,
    /// [`Phase::Run`].
    pub run_ns: u64,
    /// [`Phase::End`].
    pub end_ns: u64,
}

/// How often something occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Its name.
    pub kind: &'static str,
    /// How often.
    pub count: u64,
}

/// One Linux call over the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CallReport {
    /// Its number; `null` for all unassigned numbers together.
    pub number: Option<u64>,
    /// Its name, when Linux has one.
    pub name: Option<&'static str>,
    /// How often it was called.
    pub count: u64,
    /// Time spent serving it, blocking included.
    pub ns: u64,
    /// False when it returned `ENOSYS` because it is not implemented.
    pub served: bool,
}

fn counts(counters: &[AtomicU64], name: impl Fn(usize) -> &'static str) -> Vec<Count> {
    let count = |(index, counter): (usize, &AtomicU64)| {
        let count = counter.load(Relaxed);
        (count > 0).then(|| Count { kind: name(index), count })
    };
    counters.iter().enumerate().filter_map(count).collect()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Duration, ExitReason, FaultKind, Phase, Stats};

    #[test]
    fn every_kind_has_the_slot_of_its_place_in_the_table() {
        for (index, reason) in ExitReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        for (index, kind) in FaultKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }

    #[test]
    fn counts_of_many_threads_add_up() {
        let stats = Stats::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    stats.thread_started();
                    for _ in 0..1000 {
                        stats.exit(ExitReason::Syscall);
                        stats.call(1, Duration::from_nanos(3));
                        stats.fault(FaultKind::PageMapped);
                        stats.add_guest_time(Duration::from_nanos(2));
                    }
                    stats.thread_ended();
                });
            }
        });
        let report = stats.snapshot();
        assert_eq!(report.exits[0].count, 4000);
        assert_eq!((report.calls[0].name, report.calls[0].count), (Some("write"), 4000));
        assert_eq!(report.calls[0].ns, 12_000);
        assert_eq!(report.faults[0].kind, "page-mapped");
        assert_eq!(report.guest_ns, 8000);
        assert_eq!(report.threads_started, 4);
        assert!((1..=4).contains(&report.threads_peak));
    }

    #[test]
    fn what_never_happened_is_not_reported() {
        let report = Stats::default().snapshot();
        assert!(report.exits.is_empty() && report.faults.is_empty() && report.calls.is_empty());
    }

    #[test]
    fn an_unserved_call_is_named_once_and_counted_as_any_other() {
        let stats = Stats::default();
        assert!(stats.unserved(57));
        assert!(!stats.unserved(57));
        assert!(stats.unserved(58));
        stats.call(57, Duration::ZERO);
        stats.call(57, Duration::ZERO);
        let calls = stats.snapshot().calls;
        assert_eq!((calls[0].name, calls[0].count, calls[0].served), (Some("fork"), 2, false));
    }

    #[test]
    fn any_number_the_guest_makes_up_is_counted_in_one_slot() {
        let stats = Stats::default();
        assert!(stats.unserved(512));
        assert!(!stats.unserved(u64::MAX));
        for number in [512, u64::MAX, 1 << 40] {
            stats.call(number, Duration::ZERO);
        }
        let calls = stats.snapshot().calls;
        assert_eq!(calls.len(), 1);
        assert_eq!((calls[0].number, calls[0].name, calls[0].count), (None, None, 3));
    }

    #[test]
    fn laps_are_the_phases_one_after_the_other() {
        let stats = Stats::default();
        let mut laps = stats.laps();
        std::thread::sleep(Duration::from_millis(2));
        laps.ends(Phase::Machine);
        laps.ends(Phase::Vcpu);
        let phases = stats.snapshot().phases;
        assert!(phases.machine_ns >= 2_000_000);
        assert!(phases.vcpu_ns < phases.machine_ns);
        assert_eq!(phases.run_ns, 0);
    }

    #[test]
    fn the_peak_of_threads_and_memory_stays_when_they_go() {
        let stats = Stats::default();
        for _ in 0..3 {
            stats.thread_started();
        }
        stats.thread_ended();
        stats.thread_ended();
        stats.thread_started();
        let report = stats.snapshot();
        assert_eq!((report.threads_started, report.threads_peak), (4, 3));
    }
}
