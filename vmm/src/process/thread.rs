//! One thread of the program: a vCPU, run by a host thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use abi::layout;

use super::{Outcome, Process};
use crate::linux;
use crate::linux::fault::Fault;
use crate::linux::signal::ThreadSignals;
use crate::report;
use crate::report::stats::{ExitReason, FaultKind};
use crate::space::FaultOutcome;
use crate::user_memory::UserMemory;
use crate::vm::exit::Exit;
use crate::vm::vcpu::Vcpu;

/// What other threads may know of a thread.
#[derive(Debug)]
pub struct Thread {
    /// Its number as the program sees it.
    pub tid: i32,
    host_tid: AtomicI32,
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
            host_tid: AtomicI32::new(0),
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

    /// The host thread that runs it, 0 before it has started.
    #[must_use]
    pub fn host_tid(&self) -> i32 {
        self.host_tid.load(Ordering::Relaxed)
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

/// Starts the host thread that runs `thread` on `vcpu`.
///
/// # Errors
/// The host has no more threads to give.
pub fn spawn(
    process: &Arc<Process>,
    thread: Arc<Thread>,
    vcpu: Vcpu,
) -> Result<(), std::io::Error> {
    let process = process.clone();
    process.threads.add(thread.clone());
    let tid = thread.tid;
    let owner = process.clone();
    let spawned = std::thread::Builder::new()
        .name(format!("vcpu-{}", vcpu.index()))
        .stack_size(256 << 10)
        .spawn(move || run(&process, &thread, vcpu));
    match spawned {
        Ok(handle) => {
            owner.threads.keep_handle(tid, handle);
            Ok(())
        }
        Err(e) => {
            owner.threads.remove(tid, None);
            Err(e)
        }
    }
}

fn run(process: &Arc<Process>, thread: &Arc<Thread>, mut vcpu: Vcpu) {
    let host_tid = rustix::thread::gettid().as_raw_nonzero().get();
    thread.host_tid.store(host_tid, Ordering::Relaxed);
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
    let left = catch_unwind(AssertUnwindSafe(|| process.vases.leave(&mut vcpu)));
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
        // The last thread left with `exit` rather than `exit_group`: status 0, as Linux.
        process.stop(Outcome::Exited(0));
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

/// Page-fault error code (SDM 3A, 4.7).
const ERROR_WRITE: u64 = 1 << 1;
const ERROR_FETCH: u64 = 1 << 4;

fn page_fault(ctx: &mut ThreadCtx<'_>, error: u64, address: u64) -> Next {
    let write = error & ERROR_WRITE != 0;
    let fetch = error & ERROR_FETCH != 0;
    let outcome = if layout::is_of_segments(address) {
        let process = ctx.process;
        process.vases.fault(ctx.vcpu, address, write, fetch, &|| process.is_stopping())
    } else {
        ctx.process.space.fault(address, write, fetch)
    };
    let mapped = outcome == FaultOutcome::Resolved;
    let kind = if mapped { FaultKind::PageMapped } else { FaultKind::PageRefused };
    ctx.process.stats.fault(kind);
    match outcome {
        FaultOutcome::Resolved => linux::signal::deliver_pending(ctx),
        FaultOutcome::OutOfMemory => {
            let limit_bytes = ctx.process.space.limit_bytes();
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
