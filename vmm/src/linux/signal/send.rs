//! Sending signals: `kill` and its kin, which reach this program only.

use std::sync::Arc;

use abi::Errno;

use super::actions::SIG_DFL;
use super::bit;
use super::calls::signal_number;
use super::info::{SI_TKILL, SI_USER, SIGINFO_BYTES, SigInfo};
use crate::linux::children::signals::members;
use crate::linux::task::{Process, Thread, ThreadCtx};
use crate::linux::{CallResult, children, value};
use crate::process_tree::fork;
use crate::process_tree::stop::STOPS;

/// Maximum number of pending signals, for a thread or for the process.
fn pending_limit(process: &Process) -> u64 {
    process.limits.soft(libc::RLIMIT_SIGPENDING)
}

/// Stops the process if that is what the signal does: the host process, as its parent will see it.
/// Only in a run of several; a program alone has no parent that waits for it to stop.
pub(super) fn stops(process: &Process, info: &SigInfo, is_blocked: bool) -> bool {
    let signal = info.signo;
    let by_default = || !is_blocked && process.signals.get(signal).handler == SIG_DFL;
    let is_stop = signal == libc::SIGSTOP && process.children.member().is_some();
    let stops = is_stop || (can_stop(process, signal) && by_default());
    if stops {
        // All its threads stop; this one goes on here when the process is continued.
        let _ = fork::signal(process.pid(), signal, None, || true);
    }
    stops
}

/// Whether a terminal stops the process by this signal, unless the program chose otherwise.
pub(super) fn can_stop(process: &Process, signal: i32) -> bool {
    STOPS.contains(&signal) && process.children.member().is_some()
}

/// To be stopped undoes what is to continue the process, and the other way round.
fn undo_opposite(process: &Process, signal: i32) {
    let opposite = match signal {
        libc::SIGCONT => STOPS.into_iter().fold(0, |set, stop| set | bit(stop)),
        _ if STOPS.contains(&signal) => bit(libc::SIGCONT),
        _ => return,
    };
    process.signals.pending.remove(opposite);
    for thread in process.threads.all() {
        thread.signals.pending.remove(opposite);
    }
}

/// Sends `info` to one thread.
///
/// # Errors
/// `EAGAIN` when too many signals are pending.
pub fn send_to_thread(process: &Process, thread: &Thread, info: SigInfo) -> Result<(), Errno> {
    undo_opposite(process, info.signo);
    if stops(process, &info, thread.signals.blocks(info.signo)) {
        return Ok(());
    }
    // A blocked signal stays pending although it is ignored: it may no longer be ignored later.
    if process.signals.is_ignored(info.signo) && !thread.signals.blocks(info.signo) {
        return Ok(());
    }
    thread.signals.pending.push(info, pending_limit(process))?;
    process.signal_files.note(info.signo);
    process.threads.kick_until_acknowledged(thread);
    Ok(())
}

/// Sends `info` to the process: any thread that does not block it may receive it.
///
/// # Errors
/// `EAGAIN` when too many signals are pending.
pub fn send_to_process(process: &Process, info: SigInfo) -> Result<(), Errno> {
    send_to_first_of(process, &process.threads.all(), info)
}

/// Sends `info` to the process: the first of all its `threads` that does not block it is to receive it.
///
/// # Errors
/// `EAGAIN` when too many signals are pending.
pub(in crate::linux) fn send_to_first_of(
    process: &Process,
    threads: &[Arc<Thread>],
    info: SigInfo,
) -> Result<(), Errno> {
    let is_blocked = threads.iter().any(|thread| thread.signals.blocks(info.signo));
    undo_opposite(process, info.signo);
    if stops(process, &info, is_blocked) {
        return Ok(());
    }
    if process.signals.is_ignored(info.signo) && !is_blocked {
        return Ok(());
    }
    process.signals.pending.push(info, pending_limit(process))?;
    process.signal_files.note(info.signo);
    if let Some(thread) = threads.iter().find(|thread| thread.signals.can_take(info.signo)) {
        process.threads.kick_until_acknowledged(thread);
    }
    Ok(())
}

pub(in crate::linux) fn from_program(ctx: &ThreadCtx<'_>, signal: i32, code: i32) -> SigInfo {
    let uid = u64::from(rustix::process::getuid().as_raw());
    let pid = u64::from(ctx.process.pid().cast_unsigned());
    SigInfo::new(signal, code, pid | uid << 32)
}

/// A signal's number, or `None` for 0, which only checks whether one could be sent.
pub(in crate::linux) fn signal_or_probe(raw: u64) -> Result<Option<i32>, Errno> {
    if raw as i32 == 0 { Ok(None) } else { signal_number(raw).map(Some) }
}

/// `kill(2)`: to this process and the others of its run. `-1` means all of them but this one.
pub(in crate::linux) fn kill(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let pid = a[0] as i32;
    let group = crate::host::process_group();
    let (to_this, others) = match pid {
        pid if pid == ctx.process.pid() => (true, Vec::new()),
        1.. => (false, vec![pid]),
        0 => (true, members(ctx.process, Some(group))),
        -1 => (false, members(ctx.process, None)),
        i32::MIN => return Err(Errno::ESRCH.into()),
        pid => (-pid == group, members(ctx.process, Some(-pid))),
    };
    let is_known = |pid: &i32| ctx.process.children.is_of_run(*pid);
    if !to_this && !others.iter().any(is_known) {
        return Err(Errno::ESRCH.into());
    }
    let info = signal_or_probe(a[1])?.map(|signal| from_program(ctx, signal, SI_USER));
    let alone = others.len() == 1 && !to_this;
    for other in others {
        match children::signals::send(ctx.process, other, info.as_ref()) {
            // Of several, some may be about to end.
            Err(errno) if alone => return Err(errno.into()),
            _ => {}
        }
    }
    if let Some(info) = info.filter(|_| to_this) {
        send_to_process(ctx.process, info)?;
    }
    value(0)
}

/// Sends a signal to a thread. The thread number is checked before the signal number.
fn send_to_tid(
    ctx: &ThreadCtx<'_>,
    tid: i32,
    info: impl FnOnce() -> Result<Option<SigInfo>, Errno>,
) -> CallResult {
    let thread = ctx.process.threads.get(tid).ok_or(Errno::ESRCH)?;
    if let Some(info) = info()? {
        send_to_thread(ctx.process, &thread, info)?;
    }
    value(0)
}

fn tkill_info(ctx: &ThreadCtx<'_>, signal: u64) -> Result<Option<SigInfo>, Errno> {
    Ok(signal_or_probe(signal)?.map(|signal| from_program(ctx, signal, SI_TKILL)))
}

/// Whether a number is that of another process of the run. In a copy from a snapshot a thread may have the same: what
/// names processes means the process then.
fn is_others(ctx: &ThreadCtx<'_>, number: i32) -> bool {
    number != ctx.process.pid() && ctx.process.children.is_of_run(number)
}

/// Sends a signal to the first thread of another process.
fn send_to_other(ctx: &ThreadCtx<'_>, tid: i32, info: Option<SigInfo>) -> CallResult {
    children::signals::send(ctx.process, tid, info.as_ref())?;
    value(0)
}

/// `tkill(2)`.
pub(in crate::linux) fn tkill(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[0] as i32 <= 0 {
        return Err(Errno::EINVAL.into());
    }
    if ctx.process.threads.get(a[0] as i32).is_none() && is_others(ctx, a[0] as i32) {
        return send_to_other(ctx, a[0] as i32, tkill_info(ctx, a[1])?);
    }
    send_to_tid(ctx, a[0] as i32, || tkill_info(ctx, a[1]))
}

/// `tgkill(2)`.
pub(in crate::linux) fn tgkill(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (pid, tid) = (a[0] as i32, a[1] as i32);
    if pid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    if pid == tid && is_others(ctx, tid) {
        return send_to_other(ctx, tid, tkill_info(ctx, a[2])?);
    }
    if pid != ctx.process.pid() {
        return Err(Errno::ESRCH.into());
    }
    send_to_tid(ctx, tid, || tkill_info(ctx, a[2]))
}

/// The `siginfo_t` at `at`, for a signal to `target`, a number of the same kind as `own`. Whether
/// the signal exists is not checked yet.
pub(in crate::linux) fn queued_info(
    ctx: &ThreadCtx<'_>,
    at: u64,
    signal: u64,
    [target, own]: [i32; 2],
) -> Result<SigInfo, Errno> {
    let mut bytes = [0; SIGINFO_BYTES];
    ctx.user().copy_in(at, &mut bytes)?;
    let info = SigInfo::from_bytes(signal as i32, &bytes);
    if info.is_too_big(&bytes) {
        return Err(Errno::from_raw(libc::E2BIG));
    }
    // No sender may pretend to another process that the kernel, or `tkill`, sent it.
    if (info.code >= 0 || info.code == SI_TKILL) && target != own {
        return Err(Errno::EPERM);
    }
    Ok(info)
}

/// `rt_sigqueueinfo(2)`.
pub(in crate::linux) fn rt_sigqueueinfo(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (target, own) = (a[0] as i32, ctx.process.pid());
    let info = queued_info(ctx, a[2], a[1], [target, own])?;
    // A thread's number means its process.
    let is_thread = || ctx.process.threads.get(target).is_some() && !is_others(ctx, target);
    if target != own && !is_thread() {
        let info = signal_or_probe(a[1])?.map(|_| info);
        children::signals::send(ctx.process, target, info.as_ref())?;
        return value(0);
    }
    if signal_or_probe(a[1])?.is_some() {
        send_to_process(ctx.process, info)?;
    }
    value(0)
}

/// `rt_tgsigqueueinfo(2)`.
pub(in crate::linux) fn rt_tgsigqueueinfo(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (pid, tid) = (a[0] as i32, a[1] as i32);
    let info = queued_info(ctx, a[3], a[2], [tid, ctx.thread.tid]);
    if pid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let info = info?;
    if pid != ctx.process.pid() {
        return Err(Errno::ESRCH.into());
    }
    send_to_tid(ctx, tid, || Ok(signal_or_probe(a[2])?.map(|_| info)))
}

/// The signal raised by a write to a pipe without readers.
pub fn broken_pipe(ctx: &ThreadCtx<'_>) {
    let info = from_program(ctx, libc::SIGPIPE, SI_USER);
    // It carries nothing that could be lost.
    let _ = ctx.thread.signals.pending.push(info, u64::MAX);
    ctx.process.signal_files.note(info.signo);
}

/// The signal raised when a file would grow beyond `RLIMIT_FSIZE`; not when the file system's own
/// limit is reached, so only where there is such a limit.
pub fn file_too_large(ctx: &ThreadCtx<'_>) {
    if ctx.process.limits.soft(libc::RLIMIT_FSIZE) != u64::MAX {
        let info = from_program(ctx, libc::SIGXFSZ, SI_USER);
        // It carries nothing that could be lost.
        let _ = ctx.thread.signals.pending.push(info, u64::MAX);
        ctx.process.signal_files.note(info.signo);
    }
}
