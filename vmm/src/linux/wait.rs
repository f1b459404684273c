//! `wait4` and `waitid`: the host's, on the host processes that are the program's children. Others,
//! such as the one that starts them, are none of the program's.
#![forbid(unsafe_code)]

use abi::Errno;
use abi::addr::LOWER_HALF_END;

use super::{CallResult, Fail, value};
use crate::linux::children::Children;
use crate::linux::task::ThreadCtx;
use crate::process_tree::fork;
use crate::process_tree::wait::{Changed, wait};

/// The options that both calls accept: which kinds of child are meant. All of ours are of one kind,
/// except that `__WCLONE` means those without SIGCHLD, of which there are none.
const KINDS: u32 = (libc::__WNOTHREAD | libc::__WALL | libc::__WCLONE).cast_unsigned();
const WAIT4: u32 = (libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED) as u32 | KINDS;
/// The events that `waitid` can wait for: at least one of them is needed.
const EVENTS: u32 = (libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED) as u32;
const WAITID: u32 = EVENTS | (libc::WNOHANG | libc::WNOWAIT) as u32 | KINDS;

/// Which children are meant.
#[derive(Clone, Copy)]
enum Which {
    All,
    One(i32),
    Group(i32),
}

impl Which {
    fn is_there(self, children: &Children) -> bool {
        let in_group = |group: i32| move |pid: &i32| fork::group_of(*pid).is_ok_and(|g| g == group);
        match self {
            Which::All => !children.all().is_empty(),
            Which::One(pid) => children.has(pid),
            Which::Group(group) => children.all().iter().any(in_group(group)),
        }
    }

    fn for_host(self) -> (u32, i32) {
        match self {
            Which::All => (libc::P_ALL, 0),
            Which::One(pid) => (libc::P_PID, pid),
            Which::Group(group) => (libc::P_PGID, group),
        }
    }
}

/// Waits; `None` with `WNOHANG` if nothing has happened.
fn next(ctx: &ThreadCtx<'_>, which: Which, options: u32) -> Result<Option<Changed>, Fail> {
    const NONE: Fail = Fail::Errno(Errno::ECHILD);
    let children = &ctx.process.children;
    if options & libc::__WCLONE.cast_unsigned() != 0 && options & libc::__WALL as u32 == 0 {
        return Err(NONE);
    }
    let (kind, id) = which.for_host();
    let options = (options & !KINDS).cast_signed();
    loop {
        if ctx.is_interrupted() {
            return Err(Fail::Restart);
        }
        if !which.is_there(children) {
            return Err(NONE);
        }
        // Looked at first, and taken when it is known to be a child of the program's.
        let look = || wait(kind, id, options | libc::WNOWAIT);
        let seen = match children.waiting(look) {
            Ok(None) => return Ok(None),
            Ok(Some(seen)) => seen,
            Err(error) => match error.raw_os_error() {
                // The next round knows why: a signal, or another thread took the last one.
                Some(libc::EINTR) => continue,
                Some(errno) => return Err(Errno::from_raw(errno).into()),
                None => return Err(NONE),
            },
        };
        if !children.has(seen.pid) {
            // Left behind by a process that has ended, or our own helper.
            children.bury_orphan(seen.pid);
            continue;
        }
        // SIGCHLD is ignored: there is nothing to wait for but the last one's end.
        if seen.has_ended() && ctx.process.signals.for_children().0 {
            let _ = take(ctx, seen, libc::WEXITED);
            continue;
        }
        if options & libc::WNOWAIT != 0 {
            return Ok(Some(seen));
        }
        if let Some(taken) = take(ctx, seen, options) {
            return Ok(Some(taken));
        }
    }
}

/// Takes what was seen, unless another thread was faster.
fn take(ctx: &ThreadCtx<'_>, seen: Changed, options: i32) -> Option<Changed> {
    let children = &ctx.process.children;
    if !seen.has_ended() {
        return wait(libc::P_PID, seen.pid, options | libc::WNOHANG).ok().flatten();
    }
    let taken = children.take(seen.pid, options)?;
    // It may have been the last one that others wait for.
    children.wake_waiting(ctx.process);
    Some(taken)
}

/// `wait4(2)`.
pub(super) fn wait4(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [pid, status, options, usage, ..] = *a;
    let options = options as u32;
    let which = match pid as i32 {
        _ if options & !WAIT4 != 0 => return Err(Errno::EINVAL.into()),
        i32::MIN => return Err(Errno::ESRCH.into()),
        -1 => Which::All,
        0 => Which::Group(crate::host::process_group()),
        pid @ 1.. => Which::One(pid),
        group => Which::Group(-group),
    };
    let Some(changed) = next(ctx, which, options | libc::WEXITED as u32)? else {
        return value(0);
    };
    if status != 0 {
        ctx.user().copy_out(status, &changed.status_word().to_le_bytes())?;
    }
    ctx.user().put_words(usage, changed.usage)?;
    value(u64::from(changed.pid.cast_unsigned()))
}

/// `waitid(2)`.
pub(super) fn waitid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [kind, id, info, options, usage, _] = *a;
    let (id, options) = (id as i32, options as u32);
    // Of a descriptor that does not block it is asked without waiting.
    let asks_only = kind as u32 == libc::P_PIDFD
        && options & libc::WNOHANG as u32 == 0
        && ctx.files().for_io(id).is_ok_and(|file| file.nonblocking());
    let nohang = if asks_only { libc::WNOHANG as u32 } else { 0 };
    let which = match kind as u32 {
        _ if options & !WAITID != 0 || options & EVENTS == 0 => Err(Errno::EINVAL),
        libc::P_ALL => Ok(Which::All),
        libc::P_PID if id > 0 => Ok(Which::One(id)),
        libc::P_PGID if id == 0 => Ok(Which::Group(crate::host::process_group())),
        libc::P_PGID if id > 0 => Ok(Which::Group(id)),
        libc::P_PIDFD if id >= 0 => match super::pidfd::process_of(ctx, id) {
            Ok(pid) => pid.map(Which::One).ok_or(Errno::ECHILD),
            Err(errno) => Err(errno),
        },
        _ => Err(Errno::EINVAL),
    };
    let found = which.map_err(Fail::from).and_then(|which| next(ctx, which, options | nohang));
    let found = match found {
        Ok(None) if asks_only => Err(Errno::EAGAIN.into()),
        found => found,
    };
    if let Err(fail @ (Fail::Restart | Fail::RestartAlways)) = found {
        return Err(fail);
    }
    let changed = found.as_ref().ok().copied().flatten();
    if info != 0 {
        // Linux fills in the structure, whatever the call returns.
        put(ctx, info, changed)?;
    }
    if let Some(changed) = found? {
        ctx.user().put_words(usage, changed.usage)?;
    }
    value(0)
}

/// Fills in the fields of a `siginfo_t` that are for a child: with zeroes if there is none.
fn put(ctx: &ThreadCtx<'_>, at: u64, changed: Option<Changed>) -> Result<(), Errno> {
    const INFO_BYTES: u64 = 128;
    if at.checked_add(INFO_BYTES).is_none_or(|end| end > LOWER_HALF_END) {
        return Err(Errno::EFAULT);
    }
    let [signal, code, pid, uid, status] = changed.map_or([0; 5], |changed| {
        [libc::SIGCHLD, changed.code, changed.pid, changed.uid.cast_signed(), changed.status]
    });
    for (offset, fields) in [(0, [signal, 0, code]), (16, [pid, uid, status])] {
        let bytes = fields.map(i32::to_le_bytes);
        ctx.user().copy_out(at.wrapping_add(offset), bytes.as_flattened())?;
    }
    Ok(())
}
