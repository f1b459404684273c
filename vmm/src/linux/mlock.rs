//! `mlock` and its kin: memory of the program that stays resident on the host.
//!
//! The pages that back it are locked on the host, as far as it allows the user running the VMM, and
//! count against the program's `RLIMIT_MEMLOCK`, which is initially the VMM's. Segments are only in
//! the host's page cache, and are not locked: `ENOMEM`, as for a hole.
#![forbid(unsafe_code)]

use std::ops::Range;

use abi::{Errno, PAGE_SIZE};

use super::{CallResult, limits, value};
use crate::linux::task::ThreadCtx;
use crate::private::{MemoryLock, page_up};

/// The whole pages of a range.
fn pages(start: u64, len: u64) -> Result<Range<u64>, Errno> {
    let offset = start % PAGE_SIZE;
    let start = start - offset;
    // Linux treats a length that wraps to 0 as 0.
    let len = page_up(len.wrapping_add(offset)).unwrap_or(0);
    let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
    Ok(start..end)
}

/// `mlock(2)`, `mlock2(2)`.
pub(super) fn mlock(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [start, len, flags, ..] = *a;
    let lock = match flags as u32 {
        0 => MemoryLock::Locked,
        libc::MLOCK_ONFAULT => MemoryLock::OnFault,
        _ => return Err(Errno::EINVAL.into()),
    };
    let limit = limits::lockable(ctx.process)?;
    // Linux compares with the limit before it checks the range.
    let offset = start % PAGE_SIZE;
    let wanted = page_up(len.wrapping_add(offset)).unwrap_or(0);
    if wanted > limit {
        return Err(Errno::ENOMEM.into());
    }
    let range = pages(start, len)?;
    if !range.is_empty() {
        ctx.process.private.set_lock(range, lock, limit)?;
    }
    value(0)
}

/// `munlock(2)`.
pub(super) fn munlock(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let range = pages(a[0], a[1])?;
    if !range.is_empty() {
        ctx.process.private.set_lock(range, MemoryLock::Unlocked, 0)?;
    }
    value(0)
}

/// `mlockall(2)`.
pub(super) fn mlockall(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let flags = a[0] as i32;
    let known = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    if flags == 0 || flags & !known != 0 || flags == libc::MCL_ONFAULT {
        return Err(Errno::EINVAL.into());
    }
    let limit = limits::lockable(ctx.process)?;
    let how = match flags & libc::MCL_ONFAULT {
        0 => MemoryLock::Locked,
        _ => MemoryLock::OnFault,
    };
    let now = (flags & libc::MCL_CURRENT != 0).then_some(how);
    let new = if flags & libc::MCL_FUTURE != 0 { how } else { MemoryLock::Unlocked };
    ctx.process.private.lock_all(now, new, limit)?;
    value(0)
}

/// `munlockall(2)`.
pub(super) fn munlockall(ctx: &mut ThreadCtx<'_>) -> CallResult {
    let private = &ctx.process.private;
    private.lock_all(Some(MemoryLock::Unlocked), MemoryLock::Unlocked, u64::MAX)?;
    value(0)
}
