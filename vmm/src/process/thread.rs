//! The run loop: one thread of the program is one vCPU, run by its own host thread.
//!
//! It dispatches each exit to its handler, and continues until the thread or the process ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use abi::Errno;

use crate::access::{FaultCause, FaultOutcome};
use crate::linux::core_dump::{Dying, dumps_core};
use crate::linux::debug::Debugger;
use crate::linux::fault::Fault;
use crate::linux::signal::{self, Due, Fatal, FatalCause, SigInfo};
use crate::linux::survivor::Survivor;
use crate::linux::task::{Outcome, Process, Thread, ThreadCtx};
use crate::linux::{self, Next, children};
use crate::process_tree::stop;
use crate::report;
use crate::report::backtrace::InCalls;
use crate::stats::{ExitReason, FaultKind};
use crate::vm::exit::Exit;
use crate::vm::vcpu::Vcpu;

/// Runs `thread`, which is in the table and has the calling host thread's number, to its end.
pub(super) fn run(process: &Arc<Process>, thread: &Arc<Thread>, mut vcpu: Vcpu) {
    thread.set_vcpu(vcpu.index());
    process.vases.note_thread(vcpu.index(), Some(thread.tid));
    process.stats.thread_started();
    let armed = vcpu.arm();
    if process.children.member().is_some() {
        stop::mirror(thread.signals.mask());
    }
    show_thread(process, vcpu.index(), thread.host.raw());
    show_threads(process);
    let mut ctx =
        ThreadCtx { process, thread, vcpu: &mut vcpu, child: None, debugged: Default::default() };
    // A panic is a bug in the VMM. It ends the program with a report; without this the process
    // would wait for this thread indefinitely.
    let next = catch_unwind(AssertUnwindSafe(|| loop_until_end(&mut ctx))).unwrap_or_else(|_| {
        let text = format!("the VMM's thread {} panicked: a bug in spacejmp", thread.tid);
        process.stop(Outcome::HostFailed(text));
        Next::Stop
    });
    if matches!(next, Next::Stop) {
        process.core.leave_registers(thread, &vcpu);
    }
    let left = catch_unwind(AssertUnwindSafe(|| {
        // However it ends, while it is still in its VAS.
        linux::robust::release(process, thread, vcpu.instance());
        process.vases.leave(&mut vcpu);
    }));
    if left.is_err() {
        let text = "the VMM panicked while a thread left its VAS: a bug in spacejmp";
        process.stop(Outcome::HostFailed(text.to_owned()));
    }
    process.vases.note_thread(vcpu.index(), None);
    drop(armed);
    if matches!(next, Next::ThreadEnds) {
        linux::thread::on_exit(process, thread);
    }
    process.stats.thread_ended();
    // Before another thread can get its vCPU.
    show_thread(process, vcpu.index(), 0);
    let last = process.threads.remove(thread.tid, Some(vcpu));
    if let Some(debug) = &process.vm.debug {
        debug.look_up();
    }
    show_threads(process);
    if last && !process.is_stopping() {
        // The last thread left with `exit` rather than `exit_group`: the status is the first
        // thread's, as on Linux.
        process.stop(Outcome::Exited(process.first_status()));
    }
}

/// Tells the other processes of the run which host thread runs a vCPU.
fn show_thread(process: &Process, vcpu: u32, tid: i32) {
    if let Some(member) = process.children.member() {
        member.show_thread(vcpu, tid);
    }
}

/// Tells the other processes of the run how many there are.
fn show_threads(process: &Process) {
    if let Some(member) = process.children.member() {
        member.show_threads(process.threads.counts().0);
    }
}

fn loop_until_end(ctx: &mut ThreadCtx<'_>) -> Next {
    let profiled = ctx.process.profile.is_some();
    ctx.thread.seat.begins();
    if ctx.process.debugger().is_some()
        && let Some(next) = deliver(ctx, Due::Nothing, false)
    {
        return next;
    }
    loop {
        if ctx.process.is_stopping() {
            finish_in_kernel(ctx.vcpu);
            return Next::Stop;
        }
        let entered = Instant::now();
        let withheld = ctx.process.machine.mem.withheld();
        if let Some(debug) = ctx.process.debugger() {
            debug.enters(ctx);
        }
        if profiled {
            ctx.thread.seat.enters();
        }
        let mut exit = ctx.vcpu.run();
        if ctx.process.debugger().is_some() {
            while let Ok(unmade) = &exit
                && Debugger::begins_again(ctx, unmade)
            {
                ctx.process.stats.exit(reason_of(unmade));
                exit = ctx.vcpu.run();
            }
        }
        if profiled {
            ctx.thread.seat.leaves();
        }
        let called = matches!(exit, Ok(Exit::Syscall(_) | Exit::Call(_)));
        if let Some(debug) = ctx.process.debugger() {
            debug.left(ctx, called);
        }
        ctx.process.stats.add_guest_time(entered.elapsed());
        let next = match exit {
            // KVM found no page where another thread was just changing protection: try again.
            Ok(Exit::HostFault) if ctx.process.machine.mem.withheld().may_have_hit(withheld) => {
                Next::Resume
            }
            Ok(exit) => {
                ctx.process.vases.note_exit(ctx.vcpu);
                serve(ctx, exit)
            }
            Err(e) => {
                ctx.process.stop(Outcome::HostFailed(crate::error::chain(&e)));
                Next::Stop
            }
        };
        match next {
            Next::Run(due) => {
                if let Some(next) = deliver(ctx, due, called) {
                    return next;
                }
            }
            Next::Resume => {}
            Next::ThreadEnds | Next::Stop => return next,
        }
    }
}

/// Delivers what is due to a thread that has left the guest, having made a call or not: its end, if it has
/// ended by that.
fn deliver(ctx: &mut ThreadCtx<'_>, mut due: Due, mut called: bool) -> Option<Next> {
    loop {
        let debug = ctx.process.debugger();
        if let Some(debug) = debug {
            due = debug.due(ctx, due, called);
        }
        let stack = ctx.vcpu.regs.rsp;
        if let Err(fatal) = signal::deliver(ctx, due) {
            if goes_on(ctx, &fatal) {
                (due, called) = (Due::Nothing, false);
                continue;
            }
            return match end_by_signal(ctx, &fatal) {
                Next::Stop => Some(Next::Stop),
                _ => None,
            };
        }
        if debug.is_none() || !Debugger::steps(ctx) || ctx.vcpu.regs.rsp == stack {
            linux::snapshot::before_guest(ctx);
            return None;
        }
        // A step into a handler ends at its first instruction.
        (due, called) = (Due::Nothing, true);
    }
}

/// Whether a debugger, who was asked for in this case, has the program go on.
fn goes_on(ctx: &mut ThreadCtx<'_>, fatal: &Fatal) -> bool {
    let Some(debug) = ctx.process.vm.debug.as_deref() else { return false };
    if ctx.child.is_some() || !dumps_core(fatal.signal) || ctx.process.is_stopping() {
        return false;
    }
    let info = match &fatal.cause {
        FatalCause::Fault(fault) | FatalCause::FaultWithoutStack(fault) => fault.info,
        FatalCause::Sent(info) => *info,
        FatalCause::Frame(_) => SigInfo::new(fatal.signal, 0, 0),
    };
    !debug.dies(ctx, info)
}

fn end_by_signal(ctx: &mut ThreadCtx<'_>, fatal: &Fatal) -> Next {
    if ctx.child.is_some() {
        children::vfork::die(ctx, fatal.signal);
        return Next::Resume;
    }
    let report = report::death(ctx, fatal);
    let signal = fatal.signal as u8;
    let dying = Dying::begin(ctx.process, fatal.signal);
    let calls = ctx.process.vm.backtraces.then(|| InCalls::of(ctx.process));
    let counts = ctx.process.stop_because(Outcome::Killed { signal, report });
    if let Some(dying) = dying
        && counts
    {
        let threads = dying.gather(ctx);
        let heading = report::ended_by(ctx, signal);
        if let Some(calls) = calls {
            let all = report::backtrace::of_all(ctx.process, &threads, &calls);
            ctx.process.life.add_to_report(&heading, &all);
        }
        if let Some(place) = &ctx.process.vm.core {
            let core = report::core::write(ctx, fatal, &threads, place);
            ctx.process.life.add_to_report(&heading, &core);
        }
    }
    Next::Stop
}

/// How often a vCPU of an ending process is entered to get it out of the guest kernel. The kernel
/// needs microseconds, and kicks come every millisecond; a kernel that the program has taken over
/// may never leave.
const ROUNDS_IN_KERNEL: u32 = 256;

/// Lets a vCPU that was kicked in the guest kernel finish there: it may be in the middle of a
/// switch, when the locks it holds differ from those it has recorded.
fn finish_in_kernel(vcpu: &mut Vcpu) {
    for _ in 0..ROUNDS_IN_KERNEL {
        if !vcpu.is_in_kernel() || vcpu.run().is_err() {
            return;
        }
    }
}

/// Serves an exit, as a profile has it that is asked for.
fn serve(ctx: &mut ThreadCtx<'_>, exit: Exit) -> Next {
    let profile = ctx.process.profile.as_ref();
    let left = profile.map(|profile| profile.left(ctx, &exit));
    // Called once: all calls of Linux are inlined there.
    let next = handle(ctx, exit);
    if let Some((profile, left)) = profile.zip(left) {
        profile.served(ctx, left);
    }
    next
}

/// Dispatches an exit. The handlers are elsewhere.
fn handle(ctx: &mut ThreadCtx<'_>, exit: Exit) -> Next {
    ctx.process.stats.exit(reason_of(&exit));
    match exit {
        Exit::Syscall(_) => linux::syscall(ctx),
        Exit::Call(_) if ctx.child.is_some() => {
            // It has no address spaces: its parent's are not its own.
            ctx.vcpu.regs.rax = Errno::ENOSYS.as_result();
            Next::Run(Due::Nothing)
        }
        Exit::Call(_) => Next::Run(crate::call::serve(ctx)),
        Exit::Exception { vector: 14, frame, address } => page_fault(ctx, frame.error, address),
        Exit::Exception { vector, frame, .. } => fault(Fault::from_vector(vector, frame.error)),
        Exit::Kicked => Next::Run(Due::Nothing),
        Exit::KickedInKernel => Next::Resume,
        Exit::HostFault if ctx.vcpu.is_in_kernel() => {
            host_failed(ctx, "memory of the guest kernel's is gone")
        }
        Exit::HostFault => fault(linux::host_fault::of(ctx)),
        // A window was removed between the translation and the access: the next attempt
        // finds the page tables without it.
        Exit::Forbidden { at, .. } if ctx.process.machine.windows.contains(at) => Next::Resume,
        Exit::Forbidden { what, at } => fault(Fault::forbidden(what, at)),
        Exit::Shutdown => host_failed(ctx, "the guest processor shut down (triple fault)"),
        Exit::HostGaveUp { reason } => host_failed(ctx, reason),
        Exit::KernelDead { vector, rip, address } => {
            let bug = || report::kernel_death(ctx, vector, rip, address);
            let text = truncated_file(ctx).unwrap_or_else(bug);
            ctx.process.stop(Outcome::HostFailed(text));
            Next::Stop
        }
    }
}

fn fault(fault: Fault) -> Next {
    Next::Run(Due::Fault(fault))
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
    let text = truncated_file(ctx).unwrap_or_else(|| {
        format!("{reason}; rip {:#x}, rsp {:#x}", ctx.vcpu.regs.rip, ctx.vcpu.regs.rsp)
    });
    ctx.process.stop(Outcome::HostFailed(text));
    Next::Stop
}

/// The cause, when the guest kernel cannot continue because a file of the store that it uses was
/// truncated.
fn truncated_file(ctx: &ThreadCtx<'_>) -> Option<String> {
    let path = ctx.process.vases.cut_file()?;
    Some(format!("{} was truncated while it was in use", path.display()))
}

fn page_fault(ctx: &mut ThreadCtx<'_>, error: u64, address: u64) -> Next {
    let (user, process) = (ctx.user(), ctx.process);
    let cause = FaultCause::of(error);
    let outcome = user.fault(ctx.vcpu, address, cause, &|| process.is_stopping());
    let mapped = outcome == FaultOutcome::Resolved;
    if let Some(debug) = process.debugger().filter(|_| mapped) {
        debug.faulted(ctx, address, cause);
    }
    let kind = if mapped { FaultKind::PageMapped } else { FaultKind::PageRefused };
    ctx.process.stats.fault(kind);
    if ctx.process.vases.takes_up_sharing() {
        Survivor::make(ctx.process);
    }
    match outcome {
        FaultOutcome::Resolved => Next::Run(Due::Nothing),
        FaultOutcome::OutOfMemory => {
            let limit_bytes = ctx.process.private.limit_bytes();
            ctx.process.stop(Outcome::OutOfMemory { limit_bytes });
            Next::Stop
        }
        FaultOutcome::Unmapped => fault(Fault::segv(address, false, error)),
        FaultOutcome::Forbidden => fault(Fault::segv(address, true, error)),
        FaultOutcome::BeyondFile => fault(Fault::bus(address)),
        FaultOutcome::NoRoom => {
            let cause = "the visit has changed more than fits into memory, and the disk of the store is full";
            fault(Fault::unbacked(address, cause))
        }
    }
}
