//! `pidfd`: descriptors of processes: of those of the run.
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
    let children = &ctx.process.children;
    let host_pid = match pid == ctx.process.pid() {
        true => std::process::id().cast_signed(),
        false if children.is_of_run(pid) => pid,
        // A thread that leads no process.
        false if ctx.process.threads.get(pid).is_some() => return Err(Errno::EINVAL.into()),
        false => return Err(Errno::ESRCH.into()),
    };
    let flags = PidfdFlags::from_bits_retain(flags);
    let named = Pid::from_raw(host_pid).ok_or(Errno::ESRCH)?;
    let fd = rustix::process::pidfd_open(named, flags).map_err(host)?;
    if pid != ctx.process.pid() && !children.is_of_run(pid) {
        // It has ended in between, and the number may be another one's.
        return Err(Errno::ESRCH.into());
    }
    let (fd, _) = ctx.files().own_of_kind(fd, FileKind::PidFd, true)?;
    value(fd as u64)
}

/// The number of the process that a descriptor is of, as the program knows it; `None` for one that has been
/// waited for.
///
/// # Errors
/// `EBADF` for another descriptor.
pub(super) fn process_of(ctx: &ThreadCtx<'_>, fd: i32) -> Result<Option<i32>, Errno> {
    let file = ctx.files().for_io(fd)?;
    if file.kind() != FileKind::PidFd {
        return Err(Errno::EBADF);
    }
    // Only the host's kernel knows: a descriptor may have been inherited.
    let info = format!("/proc/self/fdinfo/{}", file.host_fd().as_raw_fd());
    let info = std::fs::read_to_string(info).map_err(|_| Errno::EBADF)?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    Ok(number.filter(|pid| *pid > 0).map(|pid: i32| match pid.cast_unsigned() {
        own if own == std::process::id() => ctx.process.pid(),
        _ => pid,
    }))
}

/// `pidfd_send_signal(2)`, also by the process's directory in `/proc`: as `kill`, or as `rt_sigqueueinfo` with a `siginfo_t`.
pub(super) fn send_signal(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [fd, number, info, flags, ..] = *a;
    if flags as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let own = ctx.process.pid();
    let target = match ctx.files().is_process_directory(fd as i32) {
        true => own,
        false => process_of(ctx, fd as i32)?.ok_or(Errno::ESRCH)?,
    };
    let info = match info {
        0 => None,
        at => {
            let given = ctx.user().read_u32(at)?;
            let info = queued_info(ctx, at, number, [target, own])?;
            if given != number as u32 {
                return Err(Errno::EINVAL.into());
            }
            Some(info)
        }
    };
    let number = signal_or_probe(number)?;
    let info = number
        .map(|number| info.unwrap_or_else(|| from_program(ctx, number, signal::info::SI_USER)));
    match info {
        info if target != own => children::signals::send(ctx.process, target, info.as_ref())?,
        Some(info) => signal::send_to_process(ctx.process, info)?,
        None => {}
    }
    value(0)
}

/// `pidfd_getfd(2)`: of the program itself, a duplicate.
pub(super) fn getfd(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[2] as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    match process_of(ctx, a[0] as i32)? {
        Some(pid) if pid == ctx.process.pid() => {}
        // Its memory is another VMM's: nobody may take its files.
        Some(_) => return Err(Errno::EPERM.into()),
        None => return Err(Errno::ESRCH.into()),
    }
    value(ctx.files().fcntl(a[1] as i32, libc::F_DUPFD_CLOEXEC, 0)?)
}
