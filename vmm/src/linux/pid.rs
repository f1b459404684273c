//! Process numbers, groups and sessions: the host's, since the VMM's process is the program's.
//!
//! Of other processes the program knows none: they are not there (`ESRCH`).

use abi::Errno;
use rustix::process::Pid;

use super::{CallResult, value};
use crate::process::ThreadCtx;

fn number(pid: Pid) -> CallResult {
    value(u64::from(pid.as_raw_nonzero().get().cast_unsigned()))
}

fn host(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

/// Refuses numbers that do not mean the calling process.
fn own(ctx: &ThreadCtx<'_>, pid: u64) -> Result<(), Errno> {
    match pid as i32 {
        0 => Ok(()),
        pid if pid == ctx.process.pid() || ctx.process.threads.get(pid).is_some() => Ok(()),
        _ => Err(Errno::ESRCH),
    }
}

/// The processes above one, as it sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parents {
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
}

/// What `getppid`, `getpgrp` and `getsid` say.
pub(super) fn parents() -> Parents {
    let raw = |pid: Option<Pid>| pid.map_or(0, |pid| pid.as_raw_nonzero().get());
    Parents {
        parent: raw(rustix::process::getppid()),
        group: raw(Some(rustix::process::getpgrp())),
        session: raw(rustix::process::getsid(None).ok()),
    }
}

/// `getppid(2)`: whoever started the VMM.
pub(super) fn getppid(_ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    // No parent: it is outside of the PID name space, and 0 to Linux.
    rustix::process::getppid().map_or_else(|| value(0), number)
}

/// `getpgrp(2)`.
pub(super) fn getpgrp(_ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    number(rustix::process::getpgrp())
}

/// `getpgid(2)`.
pub(super) fn getpgid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    own(ctx, a[0])?;
    number(rustix::process::getpgrp())
}

/// `getsid(2)`.
pub(super) fn getsid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    own(ctx, a[0])?;
    number(rustix::process::getsid(None).map_err(host)?)
}

/// `setpgid(2)`: into a group of its own, or the one it is in. It is told of no other.
pub(super) fn setpgid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let group = a[1] as i32;
    if group < 0 {
        return Err(Errno::EINVAL.into());
    }
    own(ctx, a[0])?;
    let now = rustix::process::getpgrp().as_raw_nonzero().get();
    if group != 0 && group != ctx.process.pid() && group != now {
        return Err(Errno::EPERM.into());
    }
    let group = if group == now { Pid::from_raw(now) } else { None };
    rustix::process::setpgid(None, group).map_err(host)?;
    value(0)
}

/// `setsid(2)`.
pub(super) fn setsid(_ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    number(rustix::process::setsid().map_err(host)?)
}
