//! `pidfd`: descriptors of processes. A program knows one, its own.
#![forbid(unsafe_code)]

use abi::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::signal::{self, from_program, queued_info, signal_or_probe};
use super::{CallResult, value};
use crate::files::{FileKind, host};
use crate::linux::task::ThreadCtx;

/// `pidfd_open(2)`. It is always close-on-exec.
pub(super) fn open(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let pid = a[0] as i32;
    let flags = a[1] as u32;
    if flags & !PidfdFlags::NONBLOCK.bits() != 0 || pid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    if pid != ctx.process.pid() {
        return Err(match ctx.process.threads.get(pid) {
            // A thread that leads no process.
            Some(_) => Errno::EINVAL,
            None => Errno::ESRCH,
        }
        .into());
    }
    let own = Pid::from_raw(std::process::id().cast_signed()).ok_or(Errno::ESRCH)?;
    let flags = PidfdFlags::from_bits_retain(flags);
    let fd = rustix::process::pidfd_open(own, flags).map_err(host)?;
    let (fd, _) = ctx.files().own_of_kind(fd, FileKind::PidFd, true)?;
    value(fd as u64)
}

/// Whether a descriptor is one of a process.
pub(super) fn is_one(ctx: &ThreadCtx<'_>, fd: i32) -> bool {
    ctx.files().for_io(fd).is_ok_and(|file| file.kind() == FileKind::PidFd)
}

/// `pidfd_send_signal(2)`, also by the process's directory in `/proc`: as `kill`, or as `rt_sigqueueinfo` with a `siginfo_t`.
pub(super) fn send_signal(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [fd, number, info, flags, ..] = *a;
    if flags as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    if !is_one(ctx, fd as i32) && !ctx.files().is_process_directory(fd as i32) {
        return Err(Errno::EBADF.into());
    }
    let own = ctx.process.pid();
    let info = match info {
        0 => None,
        at => {
            let given = ctx.user().read_u32(at)?;
            let info = queued_info(ctx, at, number, [own, own])?;
            if given != number as u32 {
                return Err(Errno::EINVAL.into());
            }
            Some(info)
        }
    };
    if let Some(number) = signal_or_probe(number)? {
        let info = info.unwrap_or_else(|| from_program(ctx, number, signal::info::SI_USER));
        signal::send_to_process(ctx.process, info)?;
    }
    value(0)
}

/// `pidfd_getfd(2)`: of the program itself, a duplicate.
pub(super) fn getfd(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[2] as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    if !is_one(ctx, a[0] as i32) {
        return Err(Errno::EBADF.into());
    }
    value(ctx.files().fcntl(a[1] as i32, libc::F_DUPFD_CLOEXEC, 0)?)
}
