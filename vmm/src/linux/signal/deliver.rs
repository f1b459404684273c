//! Delivery of signals to a thread: in one place, by the run loop, before it enters the guest
//! again.
//!
//! A fault goes to the thread that raised it, immediately; pending signals follow. A handler runs
//! with Linux's frame on its stack (`sigframe`). A signal without a handler ends the process:
//! [`Fatal`] has the cause, and the loop generates a report.

use abi::Errno;

use super::actions::{Action, SA_NODEFER, SA_ONSTACK, SA_RESTART, SA_RESTORER, SIG_DFL};
use super::info::{SI_KERNEL, SigInfo};
use super::send::{can_stop, stops};
use super::stack::AltStack;
use super::{bit, locked};
use crate::linux::debug::Debugger;
use crate::linux::fault::Fault;
use crate::linux::sigframe::{self, FrameSpec, TrapInfo};
use crate::linux::task::ThreadCtx;

/// What is due to a thread before it enters the guest again, besides pending signals.
#[derive(Clone, Debug)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// A call was interrupted, perhaps by one of those signals. RAX holds `EINTR`; unless a handler
    /// forbids it, the call is restarted.
    Call(Interrupted),
    /// A fault that the thread raised.
    Fault(Fault),
    /// A fault because `rt_sigreturn` could not read the frame back.
    BadFrame,
}

/// When a call that a signal interrupted is restarted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    /// Unless a handler without `SA_RESTART` runs (ERESTARTSYS in Linux).
    UnlessHandled,
    /// After any handler (ERESTARTNOINTR).
    Always,
}

/// A call that was interrupted: its number, and how long the instruction was.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted {
    /// The call's number.
    pub number: u64,
    /// Bytes to go back.
    pub bytes: u64,
    /// When it is restarted.
    pub again: Again,
}

/// A signal that ends the process.
#[derive(Clone, Debug)]
pub struct Fatal {
    /// Its number.
    pub signal: i32,
    /// Where it comes from.
    pub cause: FatalCause,
}

/// Where a signal that ends the process comes from.
#[derive(Clone, Debug)]
pub enum FatalCause {
    /// It was sent, by the program itself or from outside.
    Sent(SigInfo),
    /// A fault without a handler that could run.
    Fault(Fault),
    /// A fault whose handler had no usable stack.
    FaultWithoutStack(Fault),
    /// The frame of this signal could not be written or read back.
    Frame(i32),
}

/// Delivers what is `due` and the pending signals.
///
/// # Errors
/// [`Fatal`]: the process ends by a signal.
pub fn deliver(ctx: &mut ThreadCtx<'_>, due: Due) -> Result<(), Fatal> {
    ctx.thread.signals.acknowledge_kick();
    if ctx.process.is_stopping() {
        return Ok(());
    }
    if ctx.child.is_some() {
        return deliver_to_child(ctx, due);
    }
    let mut interrupted = None;
    match due {
        Due::Nothing => {}
        Due::Call(call) => interrupted = Some(call),
        Due::Fault(fault) => deliver_fault(ctx, fault)?,
        Due::BadFrame => force_segv(ctx, None, FatalCause::Frame(libc::SIGSEGV))?,
    }
    deliver_pending(ctx, &mut interrupted)?;
    // No handler's frame holds it: the wait ends without a handler, and with its own mask.
    if let Some(mask) = ctx.thread.signals.take_suspended() {
        ctx.thread.signals.set_mask(mask);
        deliver_pending(ctx, &mut interrupted)?;
    }
    if let Some(call) = interrupted {
        repeat(ctx, call);
    }
    Ok(())
}

/// A child that runs in its parent's memory gets no signals: its handlers are the parent's. What it
/// raises itself ends it.
fn deliver_to_child(ctx: &mut ThreadCtx<'_>, due: Due) -> Result<(), Fatal> {
    match due {
        Due::Nothing => {}
        Due::Call(call) => repeat(ctx, call),
        Due::Fault(fault) => {
            return Err(Fatal { signal: fault.info.signo, cause: FatalCause::Fault(fault) });
        }
        Due::BadFrame => {
            let cause = FatalCause::Frame(libc::SIGSEGV);
            return Err(Fatal { signal: libc::SIGSEGV, cause });
        }
    }
    Ok(())
}

fn deliver_pending(
    ctx: &mut ThreadCtx<'_>,
    interrupted: &mut Option<Interrupted>,
) -> Result<(), Fatal> {
    while let Some(info) = next(ctx, interrupted) {
        if stops(ctx.process, &info, false) || ctx.process.signals.is_ignored(info.signo) {
            continue;
        }
        let action = ctx.process.signals.get(info.signo);
        if action.handler == SIG_DFL {
            if let Some(tracer) = ctx.process.tracer() {
                tracer.signal(ctx.thread.tid, &info);
            }
            return Err(Fatal { signal: info.signo, cause: FatalCause::Sent(info) });
        }
        if let Some(call) = interrupted.take()
            && (call.again == Again::Always || action.flags & SA_RESTART != 0)
        {
            repeat(ctx, call);
        }
        if enter_handler(ctx, info, action, TrapInfo::default()).is_err() {
            force_segv(ctx, Some(info.signo), FatalCause::Frame(info.signo))?;
        }
    }
    Ok(())
}

/// The next signal to be delivered: of those that are pending, what a debugger lets pass.
fn next(ctx: &mut ThreadCtx<'_>, interrupted: &mut Option<Interrupted>) -> Option<SigInfo> {
    let Some(debug) = ctx.process.debugger() else {
        return ctx.take(!ctx.thread.signals.mask());
    };
    if let Some(info) = Debugger::injected(ctx) {
        return Some(info);
    }
    while let Some(info) = ctx.take(!ctx.thread.signals.mask()) {
        if let Some(passed) = debug.signal(ctx, info, interrupted) {
            return Some(passed);
        }
    }
    None
}

fn repeat(ctx: &mut ThreadCtx<'_>, call: Interrupted) {
    ctx.vcpu.regs.rip = ctx.vcpu.regs.rip.wrapping_sub(call.bytes);
    ctx.vcpu.regs.rax = call.number;
}

/// Delivers a fault to the program's handler.
fn deliver_fault(ctx: &mut ThreadCtx<'_>, mut fault: Fault) -> Result<(), Fatal> {
    let signal = fault.info.signo;
    if let Some(kind) = fault.kind() {
        ctx.process.stats.fault(kind);
    }
    fault.locate(ctx.vcpu.regs.rip);
    let action = ctx.process.signals.get(signal);
    if !action.is_handled() || ctx.thread.signals.blocks(signal) {
        if let Some(tracer) = ctx.process.tracer() {
            tracer.signal(ctx.thread.tid, &fault.info);
        }
        return Err(Fatal { signal, cause: FatalCause::Fault(fault) });
    }
    if enter_handler(ctx, fault.info, action, fault.trap).is_err() {
        force_segv(ctx, Some(signal), FatalCause::FaultWithoutStack(fault))?;
    }
    Ok(())
}

/// Raises SIGSEGV in the program for a frame that could not be written, of the signal `lost`, or
/// read back. Its handler may run on another stack. If no handler can run, or if it was SIGSEGV's
/// frame, the process ends because of `cause` (Linux's `force_sigsegv`).
fn force_segv(ctx: &mut ThreadCtx<'_>, lost: Option<i32>, cause: FatalCause) -> Result<(), Fatal> {
    let action = ctx.process.signals.get(libc::SIGSEGV);
    let info = SigInfo::new(libc::SIGSEGV, SI_KERNEL, 0);
    if !action.is_handled()
        || ctx.thread.signals.blocks(libc::SIGSEGV)
        || lost == Some(libc::SIGSEGV)
        || enter_handler(ctx, info, action, TrapInfo::default()).is_err()
    {
        return Err(Fatal { signal: libc::SIGSEGV, cause });
    }
    Ok(())
}

fn enter_handler(
    ctx: &mut ThreadCtx<'_>,
    info: SigInfo,
    action: Action,
    trap: TrapInfo,
) -> Result<(), Errno> {
    if let Some(tracer) = ctx.process.tracer() {
        tracer.signal(ctx.thread.tid, &info);
    }
    if action.flags & SA_RESTORER == 0 {
        return Err(Errno::EFAULT);
    }
    let signals = &ctx.thread.signals;
    let old_mask = signals.mask();
    let spec = FrameSpec {
        handler: action.handler,
        restorer: action.restorer,
        on_alt_stack: action.flags & SA_ONSTACK != 0,
        info,
        trap,
        old_mask: signals.suspended().unwrap_or(old_mask),
        alt: *locked(&signals.alt),
    };
    sigframe::push(ctx, &spec)?;
    let signals = &ctx.thread.signals;
    signals.take_suspended();
    if spec.alt.disarms() {
        *locked(&signals.alt) = AltStack::default();
    }
    let own = if action.flags & SA_NODEFER != 0 { 0 } else { bit(info.signo) };
    signals.set_mask(old_mask | action.mask | own);
    ctx.process.signals.note_handled(info.signo);
    if can_stop(ctx.process, info.signo) {
        // It may have been for once.
        ctx.process.signals.mirror_stop(info.signo);
    }
    Ok(())
}
