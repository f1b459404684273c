//! One thread of the program: a vCPU, run by a host thread of its own.
//!
//! The program's thread has the host thread's number. So what names an owner by it, in memory
//! or files that several VMs and native programs share, means the same to all of them and to
//! the host kernel.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Outcome, Process};
use crate::access::{FaultCause, FaultOutcome};
use crate::linux;
use crate::linux::fault::Fault;
use crate::linux::signal::ThreadSignals;
use crate::report;
use crate::report::stats::{ExitReason, FaultKind};
use crate::user_memory::UserMemory;
use crate::vm::exit::Exit;
use crate::vm::vcpu::Vcpu;

/// What other threads may know of a thread.
#[derive(Debug)]
pub struct Thread {
    /// Its number: the one of the host thread that runs it.
    pub tid: i32,
    vcpu: AtomicU32,
    /// Address to clear and wake when it ends (`set_tid_address`, `CLONE_CHILD_CLEARTID`).
    pub clear_child_tid: AtomicU64,
    /// Head of its robust futex list, 0 if none.
    pub robust_list: AtomicU64,
    /// Its signal mask, alternate stack and pending signals.
    pub signals: ThreadSignals,
    name: Mutex<Vec<u8>>,
}

impl Thread {
    /// A thread not yet running.
    #[must_use]
    pub fn new(tid: i32, signals: ThreadSignals) -> Arc<Thread> {
        Arc::new(Thread {
            tid,
            vcpu: AtomicU32::new(u32::MAX),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            signals,
            name: Mutex::default(),
        })
    }

    /// Its name (`PR_SET_NAME`), at most 15 bytes.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        self.name.lock().unwrap_or_else(|poison| poison.into_inner()).clone()
    }

    /// Sets its name.
    pub fn set_name(&self, name: &[u8]) {
        *self.name.lock().unwrap_or_else(|poison| poison.into_inner()) = name.to_vec();
    }

    /// Number of the vCPU it runs on; no vCPU's before it has started.
    #[must_use]
    pub fn vcpu(&self) -> u32 {
        self.vcpu.load(Ordering::Relaxed)
    }
}

/// A thread as it looks at itself while it is out of the guest.
#[derive(Debug)]
pub struct ThreadCtx<'a> {
    /// The process.
    pub process: &'a Arc<Process>,
    /// The thread.
    pub thread: &'a Arc<Thread>,
    /// Its processor; `vcpu.regs` are the program's registers.
    pub vcpu: &'a mut Vcpu,
}

impl<'a> ThreadCtx<'a> {
    /// The program's memory as this thread sees it, from the instance it is in.
    #[must_use]
    pub fn user(&self) -> UserMemory<'a> {
        self.process.user_in(self.vcpu.instance())
    }
}

/// What a thread does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Enter the guest again.
    Run,
    /// This thread has ended.
    ThreadEnds,
    /// The process has ended.
    Stop,
}

/// A host thread that waits to be told which of the program's threads it runs. Dropped, it
/// ends.
///
/// It exists before the program's thread does because that has its number, which has to lie
/// in the program's memory before the first instruction.
#[derive(Debug)]
pub struct Prepared {
    tid: i32,
    go: SyncSender<(Arc<Thread>, Vcpu)>,
}

impl Prepared {
    /// Starts a host thread.
    ///
    /// # Errors
    /// The host has no more threads to give.
    pub fn new(process: &Arc<Process>) -> std::io::Result<Prepared> {
        let (tell, told) = mpsc::sync_channel(1);
        let (go, start) = mpsc::sync_channel(1);
        let owner = process.clone();
        let handle = std::thread::Builder::new().name("vcpu".to_owned()).stack_size(256 << 10);
        let handle = handle.spawn(move || {
            // Nobody waits for the number when the process is gone; nobody starts it then.
            let _ = tell.send(gettid());
            if let Ok((thread, vcpu)) = start.recv() {
                run(&owner, &thread, vcpu);
            }
        })?;
        process.threads.keep_handle(handle);
        let tid = told.recv().map_err(std::io::Error::other)?;
        Ok(Prepared { tid, go })
    }

    /// The number of the thread it will run.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Has it run `thread`, whose number must be its own, on `vcpu`.
    pub fn run(self, process: &Process, thread: Arc<Thread>, vcpu: Vcpu) {
        debug_assert_eq!(thread.tid, self.tid);
        process.threads.add(thread.clone());
        // There is room for one, and the other side waits for it.
        let _ = self.go.send((thread, vcpu));
    }
}

/// The calling host thread's number.
pub(super) fn gettid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Runs `thread`, which is in the table and has the calling host thread's number, to its end.
pub(super) fn run(process: &Arc<Process>, thread: &Arc<Thread>, mut vcpu: Vcpu) {
    thread.vcpu.store(vcpu.index(), Ordering::Relaxed);
    process.vases.note_thread(vcpu.index(), Some(thread.tid));
    process.stats.thread_started();
    let armed = vcpu.arm();
    let mut ctx = ThreadCtx { process, thread, vcpu: &mut vcpu };
    // A panic is a bug of ours. It ends the program with a report; without this the process
    // would wait for this thread for ever.
    let next = catch_unwind(AssertUnwindSafe(|| loop_until_end(&mut ctx))).unwrap_or_else(|_| {
        let text = format!("the VMM's thread {} panicked: a bug in spacejmp", thread.tid);
        process.stop(Outcome::HostFailed(text));
        Next::Stop
    });
    let left = catch_unwind(AssertUnwindSafe(|| {
        // However it ends, and still in its VAS.
        linux::robust::release(process, thread, vcpu.instance());
        process.vases.leave(&mut vcpu);
    }));
    if left.is_err() {
        let text = "the VMM panicked while a thread left its VAS: a bug in spacejmp";
        process.stop(Outcome::HostFailed(text.to_owned()));
    }
    process.vases.note_thread(vcpu.index(), None);
    drop(armed);
    if next == Next::ThreadEnds {
        linux::thread::on_exit(process, thread);
    }
    process.stats.thread_ended();
    let last = process.threads.remove(thread.tid, Some(vcpu));
    if last && !process.is_stopping() {
        // The last thread left with `exit` rather than `exit_group`: the status is the first
        // thread's, as on Linux.
        process.stop(Outcome::Exited(process.first_status()));
    }
}

fn loop_until_end(ctx: &mut ThreadCtx<'_>) -> Next {
    loop {
        if ctx.process.is_stopping() {
            finish_in_kernel(ctx.vcpu);
            return Next::Stop;
        }
        let entered = Instant::now();
        let withheld = ctx.process.machine.mem.withheld();
        let exit = ctx.vcpu.run();
        ctx.process.stats.add_guest_time(entered.elapsed());
        let next = match exit {
            // KVM found no page where another thread was just changing rights: once more.
            Ok(Exit::HostFault) if ctx.process.machine.mem.withheld().may_have_hit(withheld) => {
                Next::Run
            }
            Ok(exit) => {
                ctx.process.vases.note_exit(ctx.vcpu);
                handle(ctx, exit)
            }
            Err(e) => {
                ctx.process.stop(Outcome::HostFailed(crate::error::chain(&e)));
                Next::Stop
            }
        };
        if next != Next::Run {
            return next;
        }
    }
}

/// How often a vCPU of a process that ends is entered to get it out of the guest kernel. The
/// kernel needs microseconds, and kicks come every millisecond; a kernel that the program has
/// taken over may never come out.
const ROUNDS_IN_KERNEL: u32 = 256;

/// Lets a vCPU that was kicked in the middle of the kernel finish there: it may be in the
/// middle of a switch, where it holds other locks than it has noted.
fn finish_in_kernel(vcpu: &mut Vcpu) {
    for _ in 0..ROUNDS_IN_KERNEL {
        if !vcpu.is_in_kernel() || vcpu.run().is_err() {
            return;
        }
    }
}

/// Decides what an exit means. Each kind has its handler elsewhere.
fn handle(ctx: &mut ThreadCtx<'_>, exit: Exit) -> Next {
    ctx.process.stats.exit(reason_of(&exit));
    match exit {
        Exit::Syscall(_) => linux::syscall(ctx),
        Exit::Call(_) => crate::call::serve(ctx),
        Exit::Exception { vector: 14, frame, address } => page_fault(ctx, frame.error, address),
        Exit::Exception { vector, frame, .. } => {
            linux::signal::deliver_fault(ctx, Fault::from_vector(vector, frame.error))
        }
        Exit::Kicked => linux::signal::deliver_pending(ctx),
        Exit::KickedInKernel => Next::Run,
        Exit::HostFault if ctx.vcpu.is_in_kernel() => {
            host_failed(ctx, "memory of the guest kernel's is gone")
        }
        Exit::HostFault => linux::signal::deliver_fault(ctx, linux::host_fault::of(ctx)),
        // A window was taken away between the translation and the access: the next attempt
        // finds the page tables without it.
        Exit::Forbidden { at, .. } if ctx.process.machine.windows.contains(at) => Next::Run,
        Exit::Forbidden { what, at } => {
            linux::signal::deliver_fault(ctx, Fault::forbidden(what, at))
        }
        Exit::Shutdown => host_failed(ctx, "the guest processor shut down (triple fault)"),
        Exit::HostGaveUp { reason } => host_failed(ctx, reason),
        Exit::KernelDead { vector, rip, address } => {
            let bug = || report::kernel_death(ctx, vector, rip, address);
            let text = cut_file(ctx).unwrap_or_else(bug);
            ctx.process.stop(Outcome::HostFailed(text));
            Next::Stop
        }
    }
}

fn reason_of(exit: &Exit) -> ExitReason {
    match exit {
        Exit::Syscall(_) => ExitReason::Syscall,
        Exit::Call(_) => ExitReason::Call,
        Exit::Exception { .. } => ExitReason::Exception,
        Exit::Kicked | Exit::KickedInKernel => ExitReason::Kicked,
        Exit::HostFault => ExitReason::HostFault,
        Exit::Forbidden { .. } => ExitReason::Forbidden,
        Exit::Shutdown => ExitReason::Shutdown,
        Exit::HostGaveUp { .. } => ExitReason::HostGaveUp,
        Exit::KernelDead { .. } => ExitReason::KernelDead,
    }
}

fn host_failed(ctx: &ThreadCtx<'_>, reason: &str) -> Next {
    let text = cut_file(ctx).unwrap_or_else(|| {
        format!("{reason}; rip {:#x}, rsp {:#x}", ctx.vcpu.regs.rip, ctx.vcpu.regs.rsp)
    });
    ctx.process.stop(Outcome::HostFailed(text));
    Next::Stop
}

/// What is to blame when the guest kernel cannot go on because a file of the store that it
/// works in was made shorter.
fn cut_file(ctx: &ThreadCtx<'_>) -> Option<String> {
    let path = ctx.process.vases.cut_file()?;
    Some(format!("{} was cut off while it was in use", path.display()))
}

fn page_fault(ctx: &mut ThreadCtx<'_>, error: u64, address: u64) -> Next {
    let (user, process) = (ctx.user(), ctx.process);
    let outcome = user.fault(ctx.vcpu, address, FaultCause::of(error), &|| process.is_stopping());
    let mapped = outcome == FaultOutcome::Resolved;
    let kind = if mapped { FaultKind::PageMapped } else { FaultKind::PageRefused };
    ctx.process.stats.fault(kind);
    match outcome {
        FaultOutcome::Resolved => linux::signal::deliver_pending(ctx),
        FaultOutcome::OutOfMemory => {
            let limit_bytes = ctx.process.private.limit_bytes();
            ctx.process.stop(Outcome::OutOfMemory { limit_bytes });
            Next::Stop
        }
        FaultOutcome::Unmapped => {
            linux::signal::deliver_fault(ctx, Fault::segv(address, false, error))
        }
        FaultOutcome::Forbidden => {
            linux::signal::deliver_fault(ctx, Fault::segv(address, true, error))
        }
        FaultOutcome::BeyondFile => linux::signal::deliver_fault(ctx, Fault::bus(address)),
    }
}
