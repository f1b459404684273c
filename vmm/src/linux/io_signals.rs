//! Signals of input and output: the host's part of `F_SETOWN`, and `FIOASYNC`.
//!
//! The host sends SIGIO to this host process and to no other: the owner it is told of is this
//! process or nobody, whatever the program asks for at the same time on another thread.

use std::os::fd::AsRawFd;

use abi::Errno;

use super::time::checked;
use super::{CallResult, value};
use crate::files::{FileKind, OpenFile};
use crate::linux::task::ThreadCtx;

/// Tells the host who owns a description, as far as that concerns it.
///
/// # Errors
/// `EBADF`.
pub(super) fn tell_host(ctx: &ThreadCtx<'_>, fd: i32) -> Result<(), Errno> {
    let file = ctx.files().for_io(fd)?;
    if !ctx.files().host_signals(&file) {
        return Ok(());
    }
    let own = std::process::id().cast_signed();
    let owner = match ctx.files().fcntl(fd, libc::F_GETOWN, 0)? {
        owner if owner == u64::from(own.cast_unsigned()) => own,
        _ => 0,
    };
    // SAFETY: takes a number.
    checked(unsafe { libc::fcntl(file.host_fd().as_raw_fd(), libc::F_SETOWN, owner) }.into())?;
    Ok(())
}

/// `FIOASYNC`.
pub(super) fn fioasync(ctx: &ThreadCtx<'_>, file: &OpenFile, fd: i32, arg: u64) -> CallResult {
    let on = ctx.user().read_u32(arg)? != 0;
    let old = ctx.files().fcntl(fd, libc::F_GETFL, 0)?;
    let bit = libc::O_ASYNC as u64;
    let new = if on { old | bit } else { old & !bit };
    let sends = matches!(
        file.kind(),
        FileKind::Pipe | FileKind::Terminal | FileKind::Socket | FileKind::Netlink
    );
    match (new == old, sends) {
        (true, _) => value(0),
        (false, true) => value(ctx.files().fcntl(fd, libc::F_SETFL, new)?),
        (false, false) => Err(Errno::ENOTTY.into()),
    }
}
