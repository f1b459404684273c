//! File calls that newer ones have replaced, and some that only read: all in terms of the functions
//! that serve the newer ones.

use abi::Errno;

use super::{CWD, CallResult, done, value};
use crate::files::times_of;
use crate::linux::task::ThreadCtx;

type Ctx<'a, 'b> = &'a mut ThreadCtx<'b>;
type Args<'a> = &'a [u64; 6];

/// More than this at a time is not worth the buffer.
const CAPACITY_MAX: u64 = 64 << 10;

/// `getdents(2)`: the records of `getdents64`, but with the type in the last byte, not before
/// the name. Both kinds of record have the same length.
pub(super) fn getdents(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let capacity = u64::from(a[2] as u32).min(CAPACITY_MAX);
    let write = crate::access::MemoryAccess::Write;
    if capacity > 0 && !ctx.user().is_accessible(a[1], capacity, write) {
        ctx.files().get(a[0] as i32)?;
        return Err(Errno::EFAULT.into());
    }
    let mut bytes = ctx.files().getdents64(a[0] as i32, capacity as usize)?;
    let mut rest = bytes.as_mut_slice();
    while let Some(&[low, high]) = rest.get(16..18) {
        let len = usize::from(u16::from_le_bytes([low, high]));
        let Some((record, after)) = rest.split_at_mut_checked(len) else { break };
        if let Some(tail) = record.get_mut(18..) {
            tail.rotate_left(1);
        }
        rest = after;
    }
    ctx.user().copy_out(a[1], &bytes)?;
    value(bytes.len() as u64)
}

/// `sync(2)`: syncs what the program could have changed, not the whole host.
pub(super) fn sync(ctx: Ctx<'_, '_>, _: Args<'_>) -> CallResult {
    ctx.files().sync();
    value(0)
}

/// `utime(2)`: whole seconds.
pub(super) fn utime(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let seconds = if a[1] == 0 { None } else { Some(ctx.user().read_words(a[1])?) };
    let times = seconds.map(|[access, modification]| times_of([access, 0, modification, 0]));
    let path = ctx.user().read_path(a[0])?;
    done(ctx.files().utimensat(CWD, Some(&path), times, 0))
}

/// The file systems `sysfs(2)` numbers, in the order of `/proc/filesystems`.
const FILE_SYSTEMS: [&str; 4] = ["sysfs", "tmpfs", "proc", "devtmpfs"];

/// `sysfs(2)`: names and numbers of file systems.
pub(super) fn sysfs(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    match a[0] as i32 {
        1 => {
            let name = ctx.user().read_path(a[1])?;
            let known = FILE_SYSTEMS.iter().position(|known| known.as_bytes() == name);
            value(known.ok_or(Errno::EINVAL)? as u64)
        }
        2 => {
            let index = a[1] as u32 as usize;
            let name = FILE_SYSTEMS.get(index).ok_or(Errno::EINVAL)?;
            done(ctx.user().copy_out(a[2], &[name.as_bytes(), &[0]].concat()))
        }
        3 => value(FILE_SYSTEMS.len() as u64),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `ustat(2)`: the free space of the file system with a device number.
pub(super) fn ustat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let (blocks, files) = ctx.files().space_on(a[0] as u32).ok_or(Errno::EINVAL)?;
    // Free blocks, padding, free inodes; the names are never filled in.
    done(ctx.user().write_words(a[1], [u64::from(blocks as u32), files, 0, 0]))
}
