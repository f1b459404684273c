//! What a VM tells of itself: one JSON object, whose keys `docs/src/observing.md` explains.
//!
//! The counters are those of `run --stats`, which are always on. The rest is read from where the VM has
//! it anyway, at the moment of the question; of what another thread is just changing nothing is told.
#![forbid(unsafe_code)]

use std::path::absolute;
use std::time::SystemTime;

use serde::Serialize;

use super::address::VmName;
use crate::linux::task::{Process, Thread};
use crate::stats::{CallReport, Count, LimitsReport, cpu_ns, names};
use crate::store::Store;
use crate::vas::HOME;
use crate::vas::live::{LiveSpaces, LiveVas, LiveWait};
use crate::vm::ledger::HeldReport;

/// See the module.
#[derive(Debug, Serialize)]
pub struct VmReport {
    /// Raised when a key changes its meaning or goes; keys may be added.
    pub format: u32,
    /// The number of its process.
    pub pid: i32,
    /// That of the process that started it.
    pub parent: i32,
    /// `run --name`.
    pub name: Option<String>,
    /// The program's path, as the program sees it.
    pub program: String,
    /// The store that it may use, opened or not.
    pub store: Option<String>,
    /// When the program was started, in nanoseconds since 1970.
    pub started_ns: u64,
    /// How long ago that is.
    pub running_ns: u64,
    /// Processor time of its process, the VMM's own included.
    pub cpu_ns: u64,
    /// Time inside `KVM_RUN`, summed over its threads, up to the last exit of each.
    pub guest_ns: u64,
    /// Its threads.
    pub threads: Vec<ThreadReport>,
    /// Memory it may hold.
    pub memory_limit_bytes: u64,
    /// What else limits it.
    pub limits: LimitsReport,
    /// Memory it holds, by kind.
    pub memory: Vec<HeldReport>,
    /// Exits since the start, by reason.
    pub exits: Vec<Count>,
    /// Faults since the start, by kind.
    pub faults: Vec<Count>,
    /// Linux calls since the start.
    pub calls: Vec<CallReport>,
    /// Attached VASes; `null` while a thread is changing them.
    pub vases: Option<Vec<LiveVas>>,
}

/// A thread, and where it is.
#[derive(Debug, Serialize)]
pub struct ThreadReport {
    /// Its number.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// The VAS it is in; `home` is the program's own address space, `null` is not known.
    pub vas: Option<String>,
    /// The Linux call it is in.
    pub call: Option<String>,
    /// What it waits for, if it wants to enter a VAS.
    pub waits: Option<LiveWait>,
}

impl VmReport {
    /// Of a VM, which was given `name`.
    #[must_use]
    pub fn of(process: &Process, name: Option<&VmName>) -> VmReport {
        let stats = process.stats.snapshot();
        let spaces = process.vases.live();
        let running = process.started.elapsed();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let store = process.vm.store.clone().or_else(|| Store::default_path().ok());
        let store = store.and_then(|path| absolute(path).ok());
        let ledger = process.machine.mem.ledger();
        VmReport {
            format: 1,
            pid: process.pid(),
            parent: rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get()),
            name: name.map(ToString::to_string),
            program: String::from_utf8_lossy(&process.program.path).into_owned(),
            store: store.map(|path| path.to_string_lossy().into_owned()),
            started_ns: now.saturating_sub(running).as_nanos() as u64,
            running_ns: running.as_nanos() as u64,
            cpu_ns: cpu_ns(),
            guest_ns: stats.guest_ns,
            threads: threads(process, spaces.as_ref()),
            memory_limit_bytes: ledger.limit_bytes(),
            limits: process.limits_report(),
            memory: ledger.report(),
            exits: stats.exits,
            faults: stats.faults,
            calls: stats.calls,
            vases: spaces.map(|spaces| spaces.vases),
        }
    }
}

fn threads(process: &Process, spaces: Option<&LiveSpaces>) -> Vec<ThreadReport> {
    let report = |thread: &Thread| match process.vases.handle_of(thread.vcpu()) {
        HOME => Some("home".to_owned()),
        handle => {
            let vas = spaces?.vases.iter().find(|vas| vas.handle == handle);
            vas.map(|vas| vas.name.clone())
        }
    };
    let all = process.threads.all();
    let reports = all.iter().map(|thread| ThreadReport {
        tid: thread.tid,
        name: String::from_utf8_lossy(&thread.name()).into_owned(),
        vas: report(thread),
        call: thread.call().map(|number| match names::name(number) {
            Some(name) => name.to_owned(),
            None => number.to_string(),
        }),
        waits: spaces.and_then(|spaces| spaces.waiting.get(&thread.vcpu()).cloned()),
    });
    reports.collect()
}
