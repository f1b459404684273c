//! The calls on resource limits.

use abi::Errno;

use super::{Pair, host_limit, is_of_host, limit, raise};
use crate::linux::task::ThreadCtx;
use crate::linux::{CallResult, done};

fn set_limit(ctx: &ThreadCtx<'_>, resource: u32, new: Pair) -> Result<(), Errno> {
    let process = ctx.process;
    let old = limit(ctx.limits(), resource)?;
    let [soft, hard] = new;
    if soft > hard {
        return Err(Errno::EINVAL);
    }
    if new == old {
        return Ok(());
    }
    if is_of_host(resource) {
        // A child's host process is not this one.
        if ctx.child.is_some() {
            return Err(Errno::EPERM);
        }
        return host_limit(resource, Some(new)).map(drop);
    }
    if hard > old[1] {
        return Err(Errno::EPERM);
    }
    // Kept here, but the host has its own limit on what the VMM does for the program.
    if matches!(resource, libc::RLIMIT_FSIZE | libc::RLIMIT_MEMLOCK) {
        raise(resource, soft)?;
    }
    ctx.limits().set(resource, new);
    match resource {
        libc::RLIMIT_NOFILE => ctx.files().set_nofile(u32::try_from(soft).unwrap_or(u32::MAX)),
        libc::RLIMIT_FSIZE => ctx.files().set_max_size(soft),
        // The other limits of a child begin to count when its program runs.
        _ if ctx.child.is_some() => {}
        libc::RLIMIT_CPU => process.timers.limit_cpu(new)?,
        libc::RLIMIT_STACK => process.private.grow_stack(soft),
        _ => {}
    }
    Ok(())
}

/// `prlimit64(2)`, on the program itself.
pub(in crate::linux) fn prlimit64(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [pid, resource, new, old, ..] = *a;
    let new = if new == 0 { None } else { Some(ctx.user().read_words(new)?) };
    let is_child = ctx.child.as_ref().is_some_and(|child| child.pid == pid as i32);
    if pid as i32 != 0 && !is_child && ctx.process.threads.get(pid as i32).is_none() {
        return Err(Errno::ESRCH.into());
    }
    let before = limit(ctx.limits(), resource as u32)?;
    if let Some(new) = new {
        set_limit(ctx, resource as u32, new)?;
    }
    done(ctx.user().put_words(old, before))
}

/// `getrlimit(2)`.
pub(in crate::linux) fn getrlimit(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    done(ctx.user().write_words(a[1], limit(ctx.limits(), a[0] as u32)?))
}

/// `setrlimit(2)`.
pub(in crate::linux) fn setrlimit(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let new = ctx.user().read_words(a[1])?;
    done(set_limit(ctx, a[0] as u32, new))
}
