//! Process numbers, groups and sessions: the host's, since the VMM's process is the program's.
//! 0 is a number, too: that of a parent, a group or a session outside the PID namespace.
//!
//! The program knows the processes of its run; others do not exist (`ESRCH`).

use abi::Errno;
use rustix::process::Pid;

use super::{CallResult, value};
use crate::files::host;
use crate::host::{process_group, session};
use crate::linux::children::signals::members;
use crate::linux::task::ThreadCtx;
use crate::process_tree::fork;

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
        pid if pid == ctx.process.pid() => Ok(()),
        // In a copy from a snapshot, another process may have the number as well: that is meant then.
        pid if ctx.process.children.is_of_run(pid) => Err(Errno::ESRCH),
        pid => ctx.process.threads.get(pid).map(|_| ()).ok_or(Errno::ESRCH),
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

/// The host process that a number means: the caller, one of its threads, or another process of its
/// run.
fn process(ctx: &ThreadCtx<'_>, pid: u64) -> Result<Option<i32>, Errno> {
    match own(ctx, pid) {
        Ok(()) => Ok(None),
        Err(_) if ctx.process.children.is_of_run(pid as i32) => Ok(Some(pid as i32)),
        Err(errno) => Err(errno),
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::ESRCH))
}

/// `getpgid(2)`.
pub(super) fn getpgid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    match process(ctx, a[0])? {
        None => number(process_group()),
        Some(pid) => number(fork::group_of(pid).map_err(errno)?),
    }
}

/// `getsid(2)`.
pub(super) fn getsid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    match process(ctx, a[0])? {
        None => number(session()),
        Some(pid) => number(fork::session_of(pid).map_err(errno)?),
    }
}

/// `setpgid(2)`: the caller or a child of its own, into a group of its own or one of the run.
pub(super) fn setpgid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let group = a[1] as i32;
    if group < 0 {
        return Err(Errno::EINVAL.into());
    }
    let children = &ctx.process.children;
    let pid = match children.has_started(a[0] as i32) {
        // It may have begun to rely on its group.
        Some(true) => return Err(Errno::EACCES.into()),
        Some(false) => a[0] as i32,
        None => own(ctx, a[0]).map(|()| ctx.process.pid())?,
    };
    let now = process_group();
    let known = group == 0 || group == pid || group == now;
    if !known && members(ctx.process, Some(group)).is_empty() {
        return Err(Errno::EPERM.into());
    }
    let group = if group == 0 { pid } else { group };
    // The caller is 0: its number need not be that of the host process.
    let (pid, group) = match pid == ctx.process.pid() {
        true => (0, if group == pid { 0 } else { group }),
        false => (pid, group),
    };
    fork::set_group(pid, group).map_err(errno)?;
    value(0)
}

/// `setsid(2)`.
pub(super) fn setsid(ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    let session = rustix::process::setsid().map_err(host)?.as_raw_pid();
    // Now, while it has one thread.
    ctx.process.children.follow_session(ctx.process);
    number(session)
}
