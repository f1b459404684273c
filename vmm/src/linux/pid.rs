//! Process numbers, groups and sessions: the host's, since the VMM's process is the program's.
//! 0 is a number, too: that of a parent, a group or a session outside the PID namespace.
//!
//! The program knows no other processes: they do not exist (`ESRCH`).

use abi::Errno;
use rustix::process::Pid;

use super::{CallResult, value};
use crate::files::host;
use crate::host::{process_group, session};
use crate::linux::task::ThreadCtx;

pub(super) fn number(pid: i32) -> CallResult {
    value(u64::from(pid.cast_unsigned()))
}

pub(super) fn parent() -> i32 {
    Pid::as_raw(rustix::process::getppid())
}

/// Refuses numbers that do not mean the calling process.
fn own(ctx: &ThreadCtx<'_>, pid: u64) -> Result<(), Errno> {
    match pid as i32 {
        0 => Ok(()),
        pid if pid == ctx.process.pid() || ctx.process.threads.get(pid).is_some() => Ok(()),
        _ => Err(Errno::ESRCH),
    }
}

/// The process's parent, group and session, as it sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parents {
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
}

/// What `getppid`, `getpgrp` and `getsid` return.
pub(super) fn parents() -> Parents {
    Parents { parent: parent(), group: process_group(), session: session() }
}

/// `getpgid(2)`.
pub(super) fn getpgid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    own(ctx, a[0])?;
    number(process_group())
}

/// `getsid(2)`.
pub(super) fn getsid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    own(ctx, a[0])?;
    number(session())
}

/// `setpgid(2)`: into its own new group, or the one it is in. It knows no other.
pub(super) fn setpgid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let group = a[1] as i32;
    if group < 0 {
        return Err(Errno::EINVAL.into());
    }
    own(ctx, a[0])?;
    let now = process_group();
    if group != 0 && group != ctx.process.pid() && group != now {
        return Err(Errno::EPERM.into());
    }
    let group = if group == now { Pid::from_raw(now) } else { None };
    rustix::process::setpgid(None, group).map_err(host)?;
    value(0)
}

/// `setsid(2)`.
pub(super) fn setsid(_ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    number(rustix::process::setsid().map_err(host)?.as_raw_pid())
}
