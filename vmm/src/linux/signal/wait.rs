//! Calls that wait for a signal, or for something else with another signal mask.

use std::time::{Duration, Instant};

use abi::Errno;

use super::thread::UNBLOCKABLE;
use crate::linux::task::ThreadCtx;
use crate::linux::time::deadline_at;
use crate::linux::{CallResult, Fail, value};

/// Sleeps until the thread is kicked or `deadline` passes. A kick between the caller's check of its
/// signals and the sleep is not lost: the event loop repeats it until the thread checks again.
fn sleep(deadline: Option<Instant>) {
    const LONGEST: Duration = Duration::from_secs(3600);
    let time = deadline.map_or(LONGEST, |d| d.saturating_duration_since(Instant::now()));
    let time = time.min(LONGEST);
    let time = rustix::time::Timespec {
        tv_sec: time.as_secs().cast_signed(),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    // A kick ends it early, as intended.
    let _ = rustix::thread::nanosleep(&time);
}

fn sleep_until_signal(ctx: &ThreadCtx<'_>) {
    while !ctx.is_interrupted() {
        sleep(None);
    }
}

/// `pause(2)`.
pub(in crate::linux) fn pause(ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    sleep_until_signal(ctx);
    Err(Errno::EINTR.into())
}

/// `rt_sigsuspend(2)`.
pub(in crate::linux) fn rt_sigsuspend(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[1] != 8 {
        return Err(Errno::EINVAL.into());
    }
    let wanted = ctx.user().read_u64(a[0])?;
    let before = ctx.thread.signals.begin_wait(wanted);
    sleep_until_signal(ctx);
    ctx.thread.signals.end_wait();
    interrupted_with_mask(ctx, before)
}

/// Ends a wait that had its own signal mask. The signal that ended it has still to be delivered, so
/// the mask stays: the handler's frame carries the one from before the wait, which `rt_sigreturn`
/// restores; without a handler it is restored after the delivery.
fn interrupted_with_mask(ctx: &ThreadCtx<'_>, before: u64) -> CallResult {
    ctx.thread.signals.suspend(before);
    Err(Errno::EINTR.into())
}

/// Runs `wait` with the signal mask at `mask_at` (0: as it is), as `ppoll` and `pselect6`
/// do. A handler that ends the wait returns to the old mask.
pub(in crate::linux) fn with_mask(
    ctx: &mut ThreadCtx<'_>,
    mask_at: u64,
    wait: impl FnOnce(&mut ThreadCtx<'_>) -> CallResult,
) -> CallResult {
    if mask_at == 0 {
        return wait(ctx);
    }
    let wanted = ctx.user().read_u64(mask_at)?;
    let before = ctx.thread.signals.begin_wait(wanted);
    let result = wait(ctx);
    ctx.thread.signals.end_wait();
    if result == Err(Fail::Errno(Errno::EINTR)) {
        return interrupted_with_mask(ctx, before);
    }
    ctx.thread.signals.set_mask(before);
    result
}

/// `rt_sigtimedwait(2)`.
pub(in crate::linux) fn rt_sigtimedwait(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [set, info_at, timeout, set_bytes, ..] = *a;
    if set_bytes != 8 {
        return Err(Errno::EINVAL.into());
    }
    let wanted = ctx.user().read_u64(set)? & !UNBLOCKABLE;
    let deadline = deadline_at(ctx, timeout)?;
    // Senders check this: an awaited signal is delivered to a waiting thread.
    ctx.thread.signals.set_awaited(wanted);
    let result = wait_for(ctx, wanted, deadline);
    ctx.thread.signals.set_awaited(0);
    let info = result?;
    if info_at != 0 {
        ctx.user().copy_out(info_at, &info.head_bytes())?;
    }
    value(info.signo as u64)
}

fn wait_for(
    ctx: &ThreadCtx<'_>,
    wanted: u64,
    deadline: Option<Instant>,
) -> Result<super::SigInfo, Fail> {
    loop {
        // Acknowledges a kick, so that one that comes after the check is repeated.
        let interrupted = ctx.is_interrupted();
        if let Some(info) = ctx.take(wanted) {
            return Ok(info);
        }
        if interrupted {
            return Err(Errno::EINTR.into());
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Errno::EAGAIN.into());
        }
        sleep(deadline);
    }
}
