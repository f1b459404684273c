//! One thread of the program, as seen by other threads and by itself.
//!
//! The program's thread has the host thread's number. So an owner named by it, in memory or files
//! shared by several VMs and native programs, means the same to all of them and to the host kernel.
//! But in a process that goes on from a snapshot, threads other than the first keep the numbers that its
//! memory has for them, and a host has no way to give those to its threads: there, [`Thread::tid`] is the
//! program's, [`Thread::host`] the host's. The first one's `tid` is its process's number, which is new, and
//! [`Thread::owner`] the number that it had.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Process;
use crate::files::Files;
use crate::linux::children::VforkChild;
use crate::linux::debug::stand::Debugged;
use crate::linux::limits::Limits;
use crate::linux::profile::seat::Seat;
use crate::linux::signal::{SignalActions, ThreadSignals};
use crate::linux::time::{now, thread_clock};
use crate::user_memory::UserMemory;
use crate::vm::Vcpu;
use crate::vm::kick::HostTid;

/// What other threads may know of a thread.
#[derive(Debug)]
pub struct Thread {
    /// Its number, as the program has it: that of the host thread running it, but in a copy from a snapshot.
    pub tid: i32,
    /// Its number in memory, as the owner of locks. Of a copy's first thread it is the one that this had when it was
    /// snapshotted; of all others it is `tid`.
    pub owner: i32,
    /// The host thread running it.
    pub host: HostTid,
    vcpu: AtomicU32,
    /// Address to clear and wake when it ends (`set_tid_address`, `CLONE_CHILD_CLEARTID`).
    pub clear_child_tid: AtomicU64,
    /// Head of its robust futex list, 0 if none.
    pub robust_list: AtomicU64,
    /// Its signal mask, alternate stack and pending signals.
    pub signals: ThreadSignals,
    /// Nanoseconds of processor time when it was last asked what it had spent.
    spent: AtomicU64,
    name: Mutex<Vec<u8>>,
    /// The Linux call that it is in, and 1; 0 in none. For who looks from outside.
    call: AtomicU64,
    /// Where it is, for a profile.
    pub(crate) seat: Seat,
}

impl Thread {
    /// A thread not yet running, with the number of its host thread.
    #[must_use]
    pub fn new(host: HostTid, signals: ThreadSignals) -> Arc<Thread> {
        Thread::numbered([host.raw(); 2], host, signals)
    }

    /// One with numbers of its own: `tid` and `owner`.
    #[must_use]
    pub fn numbered([tid, owner]: [i32; 2], host: HostTid, signals: ThreadSignals) -> Arc<Thread> {
        Arc::new(Thread {
            tid,
            owner,
            host,
            vcpu: AtomicU32::new(u32::MAX),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            signals,
            spent: AtomicU64::new(0),
            name: Mutex::default(),
            call: AtomicU64::new(0),
            seat: Seat::default(),
        })
    }

    /// Its name (`PR_SET_NAME`), at most 15 bytes.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        self.name.lock().unwrap_or_else(|poison| poison.into_inner()).clone()
    }

    /// The number of the Linux call that it is in.
    #[must_use]
    pub fn call(&self) -> Option<u64> {
        self.call.load(Ordering::Relaxed).checked_sub(1)
    }

    /// It begins the Linux call with this number, or has ended one.
    pub(in crate::linux) fn set_call(&self, number: Option<u64>) {
        let word = number.map_or(0, |number| number.saturating_add(1));
        self.call.store(word, Ordering::Relaxed);
    }

    /// Sets its name.
    pub fn set_name(&self, name: &[u8]) {
        *self.name.lock().unwrap_or_else(|poison| poison.into_inner()) = name.to_vec();
    }

    /// Nanoseconds of processor time since this was last asked; 0 once it has ended.
    pub(in crate::linux) fn spent_since(&self) -> u64 {
        let now = now(thread_clock(self.host)).map_or(0, |time| {
            time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
        });
        now.saturating_sub(self.spent.swap(now, Ordering::Relaxed))
    }

    /// Records the vCPU it runs on.
    pub(crate) fn set_vcpu(&self, vcpu: u32) {
        self.vcpu.store(vcpu, Ordering::Relaxed);
    }

    /// Number of the vCPU it runs on; an invalid one before it has started.
    #[must_use]
    pub fn vcpu(&self) -> u32 {
        self.vcpu.load(Ordering::Relaxed)
    }
}

/// A thread as seen by itself while it is out of the guest.
#[derive(Debug)]
pub struct ThreadCtx<'a> {
    /// The process.
    pub process: &'a Arc<Process>,
    /// The thread.
    pub thread: &'a Arc<Thread>,
    /// Its processor; `vcpu.regs` are the program's registers.
    pub vcpu: &'a mut Vcpu,
    /// The child that it runs, while it is itself between `vfork` and its return.
    pub child: Option<Box<VforkChild>>,
    /// What it keeps for a debugger.
    pub debugged: Debugged,
}

impl<'a> ThreadCtx<'a> {
    /// The program's memory as this thread sees it, from the instance it is in.
    #[must_use]
    pub fn user(&self) -> UserMemory<'a> {
        self.process.user_in(self.vcpu.instance()).on(self.vcpu.index())
    }

    /// The files that its calls are about.
    #[must_use]
    pub fn files(&self) -> &Files {
        self.child.as_ref().map_or(&self.process.files, |child| &child.files)
    }

    /// The actions for signals, likewise.
    #[must_use]
    pub(in crate::linux) fn actions(&self) -> &SignalActions {
        self.child.as_ref().map_or(&self.process.signals, |child| &child.actions)
    }

    /// The limits, likewise.
    #[must_use]
    pub(in crate::linux) fn limits(&self) -> &Limits {
        self.child.as_ref().map_or(&self.process.limits, |child| &child.limits)
    }

    /// The signals it blocks, likewise.
    #[must_use]
    pub(in crate::linux) fn mask(&self) -> u64 {
        self.child.as_ref().map_or(self.thread.signals.mask(), |child| child.mask)
    }
}
