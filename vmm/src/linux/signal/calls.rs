//! Calls on the signal state of a thread or the process: actions, masks, pending signals, the
//! alternate stack, and the return from a handler.

use abi::Errno;

use super::actions::{Action, SA_KNOWN};
use super::send::can_stop;
use super::stack::AltStack;
use super::thread::UNBLOCKABLE;
use super::{bit, locked};
use crate::linux::sigframe;
use crate::linux::task::ThreadCtx;
use crate::linux::{CallResult, Done, done};

/// # Errors
/// `EINVAL` for a number that is not a signal.
pub(super) fn signal_number(raw: u64) -> Result<i32, Errno> {
    match raw as i32 {
        n @ 1..=64 => Ok(n),
        _ => Err(Errno::EINVAL),
    }
}

/// `rt_sigaction(2)`.
pub(in crate::linux) fn rt_sigaction(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [signal, new, old, set_bytes, ..] = *a;
    let signal = signal_number(signal)?;
    if set_bytes != 8 || (new != 0 && bit(signal) & UNBLOCKABLE != 0) {
        return Err(Errno::EINVAL.into());
    }
    let before = ctx.actions().get(signal);
    if new != 0 {
        let [handler, flags, restorer, mask] = ctx.user().read_words(new)?;
        let (flags, mask) = (flags & SA_KNOWN, mask & !UNBLOCKABLE);
        let action = Action { handler, flags, restorer, mask };
        ctx.actions().set(signal, action);
        if ctx.child.is_none() && can_stop(ctx.process, signal) {
            ctx.process.signals.mirror_stop(signal);
        }
        // An ignored signal does not stay pending, blocked or not.
        if ctx.child.is_none() && ctx.process.signals.is_ignored(signal) {
            ctx.process.signals.pending.remove(bit(signal));
            for thread in ctx.process.threads.all() {
                thread.signals.pending.remove(bit(signal));
            }
        }
    }
    let words = [before.handler, before.flags, before.restorer, before.mask];
    done(ctx.user().put_words(old, words))
}

/// `rt_sigprocmask(2)`.
pub(in crate::linux) fn rt_sigprocmask(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [how, new, old, set_bytes, ..] = *a;
    if set_bytes != 8 {
        return Err(Errno::EINVAL.into());
    }
    let before = ctx.mask();
    if new != 0 {
        let set = ctx.user().read_u64(new)?;
        let mask = match how as i32 {
            libc::SIG_BLOCK => before | set,
            libc::SIG_UNBLOCK => before & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        match &mut ctx.child {
            Some(child) => child.mask = mask & !UNBLOCKABLE,
            None => _ = ctx.thread.signals.set_mask(mask),
        }
    }
    done(ctx.user().put_words(old, [before]))
}

/// `rt_sigreturn(2)`.
pub(in crate::linux) fn rt_sigreturn(ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    let returned = sigframe::read(ctx).and_then(|frame| {
        // Linux, too, restores the mask even if the rest turns out to be invalid.
        ctx.thread.signals.set_mask(frame.mask());
        sigframe::restore(ctx, &frame)?;
        // A frame may contain a stack that `sigaltstack` would refuse; then nothing changes.
        let _ = set_stack(ctx, frame.alt());
        Ok(())
    });
    Ok(if returned.is_ok() { Done::Registers } else { Done::BadFrame })
}

/// `rt_sigpending(2)`.
pub(in crate::linux) fn rt_sigpending(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    // Linux accepts a shorter set here.
    let bytes = usize::try_from(a[1]).ok().filter(|&bytes| bytes <= 8).ok_or(Errno::EINVAL)?;
    let pending = ctx.thread.signals.pending_set() | ctx.process.signals.pending_set();
    let set = (pending & ctx.thread.signals.mask()).to_le_bytes();
    done(ctx.user().copy_out(a[0], set.get(..bytes).unwrap_or_default()))
}

/// Sets the calling thread's alternate stack.
///
/// # Errors
/// As [`AltStack::replaced_by`].
fn set_stack(ctx: &ThreadCtx<'_>, new: AltStack) -> Result<(), Errno> {
    let mut stack = locked(&ctx.thread.signals.alt);
    *stack = stack.replaced_by(new, ctx.vcpu.regs.rsp)?;
    Ok(())
}

/// `sigaltstack(2)`.
pub(in crate::linux) fn sigaltstack(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [new, old, ..] = *a;
    let user = ctx.user();
    let before = *locked(&ctx.thread.signals.alt);
    if new != 0 {
        let [base, flags, size] = user.read_words(new)?;
        set_stack(ctx, AltStack { base, flags: flags as u32, size })?;
    }
    let flags = u64::from(before.shown_flags(ctx.vcpu.regs.rsp));
    done(user.put_words(old, [before.base, flags, before.size]))
}
