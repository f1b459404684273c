//! Process numbers, groups and sessions: the host's, since the VMM's process is the program's.
//! 0 is a number, too: of a parent, a group or a session outside of the PID namespace.
//!
//! Of other processes the program knows none: they are not there (`ESRCH`).

use abi::Errno;
use rustix::process::Pid;

use super::{CallResult, value};
use crate::host::{process_group, session};
use crate::process::ThreadCtx;

fn number(pid: i32) -> CallResult {
    value(u64::from(pid.cast_unsigned()))
}

fn parent() -> i32 {
    Pid::as_raw(rustix::process::getppid())
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
    Parents { parent: parent(), group: process_group(), session: session() }
}

/// `getppid(2)`: whoever started the VMM.
pub(super) fn getppid(_ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    number(parent())
}

/// `getpgrp(2)`.
pub(super) fn getpgrp(_ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    number(process_group())
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

/// `setpgid(2)`: into a group of its own, or the one it is in. It is told of no other.
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

/// Which children a wait means; there are none of any kind.
const KINDS_OF_CHILDREN: u32 = (libc::__WNOTHREAD | libc::__WCLONE | libc::__WALL) as u32;

/// `wait4(2)`: nobody to wait for, once the arguments are good.
pub(super) fn wait4(a: &[u64; 6]) -> Errno {
    let (pid, options) = (a[0] as i32, a[2] as u32);
    let known = (libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED) as u32 | KINDS_OF_CHILDREN;
    match pid {
        _ if options & !known != 0 => Errno::EINVAL,
        i32::MIN => Errno::ESRCH,
        _ => Errno::ECHILD,
    }
}

/// `waitid(2)`: likewise. Linux says that nothing happened, whatever the error, and does not
/// touch the padding.
pub(super) fn waitid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> Errno {
    let (info, user) = (a[2], ctx.user());
    // Signal, error, code; process, user, status.
    let told = match info {
        0 => Ok(()),
        _ => user
            .copy_out(info, &[0; 12])
            .and_then(|()| user.copy_out(info.wrapping_add(16), &[0; 12])),
    };
    told.err().unwrap_or_else(|| nobody(a))
}

/// Why `waitid` finds no child.
fn nobody(a: &[u64; 6]) -> Errno {
    let (which, id, options) = (a[0] as u32, a[1] as i32, a[3] as u32);
    let events = (libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED) as u32;
    let known = events | (libc::WNOHANG | libc::WNOWAIT) as u32 | KINDS_OF_CHILDREN;
    if options & !known != 0 || options & events == 0 {
        return Errno::EINVAL;
    }
    match which {
        libc::P_ALL => Errno::ECHILD,
        libc::P_PID if id > 0 => Errno::ECHILD,
        libc::P_PGID if id >= 0 => Errno::ECHILD,
        // No descriptor stands for a process.
        libc::P_PIDFD if id >= 0 => Errno::EBADF,
        _ => Errno::EINVAL,
    }
}
