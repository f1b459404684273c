//! SpaceJMP's own calls, as far as the VMM serves them.
//!
//! - here: the table, `vas_switch`, the most frequent call, and `ready`, which is about no address space
//! - [`vas`], [`seg`]: one function per call; each takes the calling thread and the six
//!   argument registers and returns the value for RAX
//! - [`args`]: names, ids and structures in the program's memory
//!
//! Arguments are checked here; the work is done in `crate::vas` and `crate::store`.

pub mod args;
pub mod seg;
pub mod vas;

use std::time::Duration;

use abi::Errno;
use abi::call::{self as number, CALL_HYPER};
use seg_lock::{LockOutcome, Patience};

use crate::linux::SYSCALL_BYTES;
use crate::linux::signal::{Again, Due, Interrupted};
use crate::linux::snapshot;
use crate::linux::strace::{Call, Ended};
use crate::linux::survivor::Survivor;
use crate::linux::task::ThreadCtx;
use crate::vas::{Stops, VasError, at_most};

/// The result of a call.
pub type CallResult = Result<u64, VasError>;

/// Serves the call in the registers of `ctx`.
pub fn serve(ctx: &mut ThreadCtx<'_>) -> Due {
    let regs = &ctx.vcpu.regs;
    let raw = regs.rax;
    let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
    let number = u32::try_from(raw).ok();
    let name = number.and_then(|number| number::name(number & !CALL_HYPER));
    let traced = ctx.process.tracer().map(|tracer| (tracer, Call { name, number: raw, args }));
    if let Some((tracer, call)) = &traced {
        tracer.begins(ctx, call);
    }
    let result = match number {
        Some(number) => dispatch(ctx, number & !CALL_HYPER, &args),
        None => None,
    };
    if ctx.process.vases.takes_up_sharing() {
        Survivor::make(ctx.process);
    }
    if let Some((tracer, call)) = &traced {
        let result = match &result {
            Some(Ok(value)) => Ok(*value),
            Some(Err(error)) => Err(error.errno()),
            None => Err(Errno::ENOSYS),
        };
        tracer.ends(ctx, call, Ended::Returned(result));
    }
    tracing::trace!(target: "call", tid = ctx.thread.tid, number = raw, ?args, ?result);
    let is_interrupted = matches!(&result, Some(Err(error)) if error.errno() == Errno::EINTR);
    ctx.vcpu.regs.rax = match result {
        Some(Ok(value)) => value,
        Some(Err(error)) => {
            tracing::debug!(target: "call", "{}: {}", name.unwrap_or("?"), crate::error::chain(&error));
            error.errno().as_result()
        }
        None => Errno::ENOSYS.as_result(),
    };
    match ctx.process.debugger() {
        // The program is not told of a debugger: the call is made again.
        Some(debug) if is_interrupted && debug.interrupts(ctx.thread.tid) => {
            let again = Again::UnlessHandled;
            Due::Call(Interrupted { number: raw, bytes: SYSCALL_BYTES, again })
        }
        _ => Due::Nothing,
    }
}

/// The table: number to function.
fn dispatch(ctx: &mut ThreadCtx<'_>, number: u32, a: &[u64; 6]) -> Option<CallResult> {
    let [first, second, ..] = *a;
    Some(match number {
        number::CALL_NULL | number::CALL_HYPER_NULL => Ok(0),
        number::CALL_VAS_SWITCH => switch(ctx, first, Patience::Forever),
        number::CALL_VAS_TRY_SWITCH => switch(ctx, first, Patience::Try),
        number::CALL_VAS_SWITCH_TIMEOUT => {
            switch(ctx, first, at_most(Duration::from_nanos(second)))
        }
        number::CALL_VAS_CURRENT => Ok(u64::from(ctx.process.vases.known_as(ctx.vcpu.instance()))),
        number::CALL_VAS_COMMIT => ctx.process.vases.commit(ctx.vcpu).map(|()| 0),
        number::CALL_VAS_ABORT => ctx.process.vases.abort(ctx.vcpu).map(|()| 0),
        number::CALL_VAS_SYNC => ctx.process.vases.sync_versions(first),
        number::CALL_VAS_VERSION => ctx.process.vases.version(first),
        number::CALL_VAS_WAIT => vas::wait(ctx, a),
        number::CALL_VAS_NEST => nest(ctx, first, second),
        number::CALL_VAS_RETURN => go_back(ctx),
        number::CALL_VAS_MESSAGE => args::message(ctx, first, second)
            .and_then(|text| ctx.process.vases.set_message(ctx.vcpu, text))
            .map(|()| 0),
        number::CALL_READY => ready(ctx),
        number::CALL_READY_ARGUMENTS => ready_arguments(ctx, first, second),
        number::CALL_VAS_CREATE => vas::create(ctx, a),
        number::CALL_VAS_FIND => vas::find(ctx, a),
        number::CALL_VAS_CLONE => vas::clone(ctx, a),
        number::CALL_VAS_ATTACH => vas::attach(ctx, a),
        number::CALL_VAS_DETACH => vas::detach(ctx, a),
        number::CALL_VAS_CTL => vas::ctl(ctx, a),
        number::CALL_VAS_DELETE => vas::delete(ctx, a),
        number::CALL_VAS_LIST => vas::list(ctx, a),
        number::CALL_VAS_STAT => vas::stat(ctx, a),
        number::CALL_VAS_SEGMENTS => vas::segments(ctx, a),
        number::CALL_VAS_TAG => vas::tag(ctx, a),
        number::CALL_SEG_ALLOC => seg::alloc(ctx, a),
        number::CALL_SEG_FIND => seg::find(ctx, a),
        number::CALL_SEG_CLONE => seg::clone(ctx, a),
        number::CALL_SEG_ATTACH => seg::attach(ctx, a),
        number::CALL_SEG_ATTACH_LOCAL => seg::attach_local(ctx, a),
        number::CALL_SEG_DETACH => seg::detach(ctx, a),
        number::CALL_SEG_DETACH_LOCAL => seg::detach_local(ctx, a),
        number::CALL_SEG_CTL => seg::ctl(ctx, a),
        number::CALL_SEG_DELETE => seg::delete(ctx, a),
        number::CALL_SEG_LIST => seg::list(ctx, a),
        number::CALL_SEG_STAT => seg::stat(ctx, a),
        number::CALL_SEG_GROW => seg::grow(ctx, a),
        number::CALL_SEG_SYNC => seg::sync(ctx, a),
        number::CALL_SEG_ROOT_GET => seg::root_get(ctx, a),
        number::CALL_SEG_ROOT_SET => seg::root_set(ctx, a),
        number::CALL_SEG_RESERVE => seg::reserve(ctx, a),
        _ => return None,
    })
}

/// `vas_switch` and its kin: the calling thread enters an instance.
///
/// # Errors
/// `EBADF` for a handle that is not attached; `EAGAIN`, `ETIMEDOUT` by `patience`;
/// `EINTR` when a signal arrived; `EOWNERDEAD`, *with the thread inside*, when a holder of one of
/// the locks died.
fn switch(ctx: &mut ThreadCtx<'_>, vh: u64, patience: Patience) -> CallResult {
    let (process, thread) = (ctx.process, ctx.thread);
    let stops = Stops {
        stopping: &|| process.is_stopping(),
        interrupted: &|| thread.is_interrupted(process),
    };
    entered(process.vases.switch(ctx.vcpu, vh, patience, stops)?)
}

/// `vas_nest`: the calling thread enters an instance from inside a visit, which is suspended.
///
/// # Errors
/// As `vas_switch_timeout`; `EAGAIN` without time; `EDEADLK` for locks that the thread has itself, or that
/// were not free in time while it has others; `ELOOP`.
fn nest(ctx: &mut ThreadCtx<'_>, vh: u64, nanoseconds: u64) -> CallResult {
    let (process, thread) = (ctx.process, ctx.thread);
    let stops = Stops {
        stopping: &|| process.is_stopping(),
        interrupted: &|| thread.is_interrupted(process),
    };
    let patience = match nanoseconds {
        0 => Patience::Try,
        u64::MAX => Patience::Forever,
        nanoseconds => at_most(Duration::from_nanos(nanoseconds)),
    };
    entered(process.vases.nest(ctx.vcpu, vh, patience, stops)?)
}

/// `vas_return`: the calling thread goes on with the visit that it has suspended.
///
/// # Errors
/// `EPERM` if there is none; those of `vas_commit`.
fn go_back(ctx: &mut ThreadCtx<'_>) -> CallResult {
    let (process, thread) = (ctx.process, ctx.thread);
    let stops = Stops {
        stopping: &|| process.is_stopping(),
        interrupted: &|| thread.is_interrupted(process),
    };
    let back = process.vases.end_nested(ctx.vcpu, stops)?;
    Ok(u64::from(process.vases.known_as(back)))
}

/// `ready`: the program is where copies of it are to begin, and this is no copy that comes back from it.
///
/// # Errors
/// That of the snapshot which is to be made there.
fn ready(ctx: &ThreadCtx<'_>) -> CallResult {
    match snapshot::ready::ready(ctx) {
        Ok(()) => Ok(0),
        Err(errno) => Err(VasError::NotKept { errno }),
    }
}

/// `ready_arguments`: what a copy was started with.
///
/// # Errors
/// `ENOENT` in a process that is none; `EINVAL` for a buffer that is too small; `EFAULT`.
fn ready_arguments(ctx: &ThreadCtx<'_>, gva: u64, capacity: u64) -> CallResult {
    let all = ctx.process.vm.copy_of_ready.as_deref().ok_or(VasError::NoCopy)?;
    if capacity < all.len() as u64 {
        return Err(VasError::Invalid { what: "the length of the buffer" });
    }
    args::put(ctx, gva, all)?;
    Ok(all.len() as u64)
}

fn entered(outcome: LockOutcome) -> CallResult {
    match outcome {
        LockOutcome::Acquired => Ok(0),
        outcome => Err(VasError::Lock(outcome)),
    }
}
