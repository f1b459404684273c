//! `pidfd`: descriptors of processes, those of the run. Each is the host's own, so that `poll` says when the
//! process has ended.
#![forbid(unsafe_code)]

use std::os::fd::AsRawFd;

use abi::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::signal::{self, from_program, queued_info, signal_or_probe};
use super::{CallResult, children, value};
use crate::files::{FileKind, host};
use crate::linux::task::ThreadCtx;

/// `pidfd_open(2)`. It is always close-on-exec.
pub(super) fn open(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let pid = a[0] as i32;
    let flags = a[1] as u32;
    if flags & !PidfdFlags::NONBLOCK.bits() != 0 || pid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let own = ctx.process.pid();
    // A child that has ended can be waited for by its descriptor, too.
    let is_known = || {
        let children = &ctx.process.children;
        pid == own || children.has(pid) || children.is_of_run(pid)
    };
    if !is_known() {
        return Err(match ctx.process.threads.get(pid) {
            // A thread that leads no process.
            Some(_) => Errno::EINVAL,
            None => Errno::ESRCH,
        }
        .into());
    }
    let target = if pid == own { std::process::id().cast_signed() } else { pid };
    let target = Pid::from_raw(target).ok_or(Errno::ESRCH)?;
    let flags = PidfdFlags::from_bits_retain(flags);
    let fd = rustix::process::pidfd_open(target, flags).map_err(host)?;
    // Now the number is bound to a process, which may be another one than before.
    if !is_known() {
        return Err(Errno::ESRCH.into());
    }
    let (fd, _) = ctx.files().own_of_kind(fd, FileKind::PidFd, true)?;
    value(fd as u64)
}

/// The process that a descriptor is for, `None` when it has been waited for.
///
/// # Errors
/// `EBADF` for any other descriptor.
pub(super) fn process_of(ctx: &ThreadCtx<'_>, fd: i32) -> Result<Option<i32>, Errno> {
    let file = ctx.files().for_io(fd)?;
    if file.kind() != FileKind::PidFd {
        return Err(Errno::EBADF);
    }
    let about = format!("/proc/self/fdinfo/{}", file.host_fd().as_raw_fd());
    let about = std::fs::read_to_string(about).map_err(|_| Errno::EBADF)?;
    let line = about.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid = line.and_then(|pid| pid.trim().parse::<i32>().ok());
    Ok(pid.filter(|pid| *pid > 0))
}

/// `pidfd_send_signal(2)`, also by the process's directory in `/proc`: as `kill`, or as `rt_sigqueueinfo` with a `siginfo_t`.
pub(super) fn send_signal(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [fd, number, info, flags, ..] = *a;
    if flags as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let own = ctx.process.pid();
    let target = match ctx.files().is_process_directory(fd as i32) {
        true => Some(own),
        false => process_of(ctx, fd as i32)?,
    };
    let info = match info {
        0 => None,
        at => {
            let given = ctx.user().read_u32(at)?;
            let info = queued_info(ctx, at, number, [target.unwrap_or(0), own])?;
            if given != number as u32 {
                return Err(Errno::EINVAL.into());
            }
            Some(info)
        }
    };
    let number = signal_or_probe(number)?;
    let target = target.ok_or(Errno::ESRCH)?;
    let info = number
        .map(|number| info.unwrap_or_else(|| from_program(ctx, number, signal::info::SI_USER)));
    match info {
        info if target != own => children::signals::send(ctx.process, target, info.as_ref())?,
        Some(info) => signal::send_to_process(ctx.process, info)?,
        None => {}
    }
    value(0)
}

/// `pidfd_getfd(2)`: of the program itself, a duplicate. To other processes it has no right.
pub(super) fn getfd(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[2] as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    match process_of(ctx, a[0] as i32)? {
        Some(pid) if pid == ctx.process.pid() => {
            value(ctx.files().fcntl(a[1] as i32, libc::F_DUPFD_CLOEXEC, 0)?)
        }
        Some(_) => Err(Errno::EPERM.into()),
        None => Err(Errno::ESRCH.into()),
    }
}
