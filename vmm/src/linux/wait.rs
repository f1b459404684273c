//! `wait4` and `waitid`: there are no children, which is reported once the arguments are valid.
#![forbid(unsafe_code)]

use abi::Errno;
use abi::addr::LOWER_HALF_END;

use crate::linux::task::ThreadCtx;

/// The options that both calls accept: which kinds of child are meant.
const KINDS: u32 = (libc::__WNOTHREAD | libc::__WALL | libc::__WCLONE).cast_unsigned();
const WAIT4: u32 = (libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED) as u32 | KINDS;
/// The events that `waitid` can wait for: at least one of them is needed.
const EVENTS: u32 = (libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED) as u32;
const WAITID: u32 = EVENTS | (libc::WNOHANG | libc::WNOWAIT) as u32 | KINDS;

/// `wait4(2)`.
pub(super) fn wait4(a: &[u64; 6]) -> Errno {
    match a[0] as i32 {
        _ if a[2] as u32 & !WAIT4 != 0 => Errno::EINVAL,
        i32::MIN => Errno::ESRCH,
        _ => Errno::ECHILD,
    }
}

/// `waitid(2)`.
pub(super) fn waitid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> Errno {
    let [kind, id, info, options, ..] = *a;
    let (id, options) = (id as i32, options as u32);
    let errno = match kind as u32 {
        _ if options & !WAITID != 0 || options & EVENTS == 0 => Errno::EINVAL,
        libc::P_ALL => Errno::ECHILD,
        libc::P_PID if id > 0 => Errno::ECHILD,
        libc::P_PGID if id >= 0 => Errno::ECHILD,
        // The only process descriptors are the program's own, and it is not its own child.
        libc::P_PIDFD if id >= 0 => match super::pidfd::is_one(ctx, id) {
            true => Errno::ECHILD,
            false => Errno::EBADF,
        },
        _ => Errno::EINVAL,
    };
    match info {
        0 => errno,
        _ => put_nothing(ctx, info).err().unwrap_or(errno),
    }
}

/// Linux fills in the structure, whatever the call returns: with zeroes when it found no child.
fn put_nothing(ctx: &ThreadCtx<'_>, at: u64) -> Result<(), Errno> {
    /// Bytes of a `siginfo_t`, and the fields of it for a child: signal, error, code; then pid,
    /// user and status.
    const INFO_BYTES: u64 = 128;
    const PARTS: [(u64, usize); 2] = [(0, 12), (16, 12)];
    if at.checked_add(INFO_BYTES).is_none_or(|end| end > LOWER_HALF_END) {
        return Err(Errno::EFAULT);
    }
    for (offset, bytes) in PARTS {
        ctx.user().copy_out(at.wrapping_add(offset), &vec![0; bytes])?;
    }
    Ok(())
}
