//! Users, groups and capabilities.
//!
//! The program runs as the user running the VMM, with all of its ids the same, the same groups, and no capability:
//! what only a capability allows is refused, even to root. Setting an id to its current value
//! succeeds, as it does for every user on Linux.

use abi::Errno;

use super::{CallResult, value};
use crate::linux::task::ThreadCtx;

/// All bits set: "leave it as it is", where a call has several ids.
const UNCHANGED: u32 = u32::MAX;

pub(super) fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

pub(super) fn gid() -> u32 {
    rustix::process::getegid().as_raw()
}

pub(super) fn write_three(ctx: &ThreadCtx<'_>, a: &[u64; 6], id: u32) -> CallResult {
    for at in a.iter().take(3) {
        ctx.user().copy_out(*at, &id.to_le_bytes())?;
    }
    value(0)
}

/// Sets the first `count` arguments, each of which may be "unchanged".
pub(super) fn set_several(a: &[u64; 6], count: usize, own: u32) -> CallResult {
    let known = a.iter().take(count).all(|&id| id as u32 == own || id as u32 == UNCHANGED);
    if known { value(0) } else { Err(Errno::EPERM.into()) }
}

pub(super) fn set_one(a: &[u64; 6], own: u32) -> CallResult {
    match a[0] as u32 {
        UNCHANGED => Err(Errno::EINVAL.into()),
        id if id == own => value(0),
        _ => Err(Errno::EPERM.into()),
    }
}

/// The supplementary groups of the user who runs the VMM: files are accessed as one of them.
pub(super) fn groups() -> Vec<u32> {
    let groups = rustix::process::getgroups().unwrap_or_default();
    groups.iter().map(|group| group.as_raw()).collect()
}

/// As `/proc` lists them.
pub(super) fn listed_groups() -> String {
    let groups: Vec<_> = groups().iter().map(u32::to_string).collect();
    groups.join(" ") + " "
}

/// `getgroups(2)`.
pub(super) fn getgroups(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let room = usize::try_from(a[0] as i32).map_err(|_| Errno::EINVAL)?;
    let groups = groups();
    if room > 0 {
        if groups.len() > room {
            return Err(Errno::EINVAL.into());
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
        ctx.user().copy_out(a[1], &bytes)?;
    }
    value(groups.len() as u64)
}

/// Version 3 of the structures of `capget`, the current one, and those before.
const CAPABILITY_V3: u32 = 0x2008_0522;
const CAPABILITY_V2: u32 = 0x2007_1026;
const CAPABILITY_V1: u32 = 0x1998_0330;

/// The number of data words that a header implies. An unknown version is replaced by the one to
/// use.
fn data_words(ctx: &ThreadCtx<'_>, header: u64) -> Result<Option<usize>, Errno> {
    match ctx.user().read_u32(header)? {
        CAPABILITY_V1 => Ok(Some(3)),
        CAPABILITY_V2 | CAPABILITY_V3 => Ok(Some(6)),
        _ => {
            ctx.user().copy_out(header, &CAPABILITY_V3.to_le_bytes())?;
            Ok(None)
        }
    }
}

/// `capget(2)`: none.
pub(super) fn capget(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [header, data, ..] = *a;
    let Some(words) = data_words(ctx, header)? else {
        // Without space for an answer, only the version was requested.
        return if data == 0 { value(0) } else { Err(Errno::EINVAL.into()) };
    };
    let pid = ctx.user().read_u32(header.wrapping_add(4))?.cast_signed();
    if pid < 0 {
        return Err(Errno::EINVAL.into());
    }
    if pid != 0 && ctx.process.threads.get(pid).is_none() {
        return Err(Errno::ESRCH.into());
    }
    if data != 0 {
        ctx.user().copy_out(data, &vec![0; words * 4])?;
    }
    value(0)
}

/// `capset(2)`: to none.
pub(super) fn capset(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [header, data, ..] = *a;
    let words = data_words(ctx, header)?.ok_or(Errno::EINVAL)?;
    let pid = ctx.user().read_u32(header.wrapping_add(4))?.cast_signed();
    if pid != 0 && pid != ctx.thread.tid {
        return Err(Errno::EPERM.into());
    }
    let mut wanted = vec![0; words * 4];
    ctx.user().copy_in(data, &mut wanted)?;
    if wanted.iter().any(|&byte| byte != 0) {
        return Err(Errno::EPERM.into());
    }
    value(0)
}
