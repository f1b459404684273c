//! Resource limits: the program's own, kept here.
//!
//! Each is kept, by us or by the host, or there is nothing in a VM that it could limit (core files,
//! message queues). They are not the VMM's own limits, which its store and its descriptors live by:
//! a program that allows itself no large file must not keep a segment from growing.

use std::sync::{Mutex, MutexGuard, OnceLock};

use abi::Errno;

use super::time::last_errno;
use super::{CallResult, value};
use crate::linux::task::{Process, ThreadCtx};

const INFINITY: u64 = u64::MAX;
const RESOURCES: usize = 16;

/// Soft and hard limit.
pub type Pair = [u64; 2];

/// Descriptors the VMM needs for itself, besides one a vCPU, which Linux would not count.
const OWN_DESCRIPTORS: u64 = 256;

/// The limits of a process.
#[derive(Debug)]
pub struct Limits(Mutex<[Pair; RESOURCES]>);

impl Limits {
    /// What a program starts with: what the VMM was started with, where that means something to
    /// it. The VMM's own limit of descriptors is raised as far as it may be, so that the program
    /// gets all of what it is told.
    #[must_use]
    pub fn new() -> Limits {
        let mut all = *at_first();
        for (slot, resource) in all.iter_mut().zip(0..) {
            match resource {
                // What the VMM maps and allocates would be counted there, and the program is
                // counted here.
                libc::RLIMIT_AS | libc::RLIMIT_DATA | libc::RLIMIT_RSS => *slot = [INFINITY; 2],
                libc::RLIMIT_NOFILE => *slot = descriptors(*slot),
                _ => {}
            }
        }
        Limits(Mutex::new(all))
    }

    fn lock(&self) -> MutexGuard<'_, [Pair; RESOURCES]> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// A limit, `None` for a resource that does not exist.
    #[must_use]
    pub fn get(&self, resource: u32) -> Option<Pair> {
        self.lock().get(resource as usize).copied()
    }

    /// The soft limit.
    #[must_use]
    pub fn soft(&self, resource: u32) -> u64 {
        self.get(resource).map_or(INFINITY, |[soft, _]| soft)
    }

    /// No more processes and threads than there can be vCPUs.
    pub fn limit_threads(&self, most: u64) {
        if let Some(slot) = self.lock().get_mut(libc::RLIMIT_NPROC as usize) {
            *slot = slot.map(|limit| limit.min(most));
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::new()
    }
}

/// The limits this process was started with: a second VM in it finds some of them changed.
fn at_first() -> &'static [Pair; RESOURCES] {
    static AT_FIRST: OnceLock<[Pair; RESOURCES]> = OnceLock::new();
    AT_FIRST.get_or_init(|| {
        let mut all = [[INFINITY; 2]; RESOURCES];
        for (slot, resource) in all.iter_mut().zip(0..) {
            *slot = host_limit(resource, None).unwrap_or(*slot);
        }
        all
    })
}

/// The host's limit of descriptors as the user set it, as far as it can be kept.
fn descriptors([soft, hard]: Pair) -> Pair {
    static USABLE: OnceLock<Pair> = OnceLock::new();
    *USABLE.get_or_init(|| {
        let most = u64::from(crate::files::NOFILE_MAX);
        let usable = if raise(libc::RLIMIT_NOFILE, hard).is_ok() { hard } else { soft };
        let usable = usable.saturating_sub(OWN_DESCRIPTORS).clamp(1, most);
        [soft.min(usable), usable]
    })
}

/// Raises a soft limit of the VMM's, if it is less.
fn raise(resource: u32, to: u64) -> Result<(), Errno> {
    match host_limit(resource, None)? {
        [soft, hard] if soft < to => host_limit(resource, Some([to.min(hard), hard])).map(drop),
        _ => Ok(()),
    }
}

/// Whether the host keeps a limit: these are of the scheduler, which has the program's threads as
/// the VMM's.
fn is_of_host(resource: u32) -> bool {
    matches!(resource, libc::RLIMIT_NICE | libc::RLIMIT_RTPRIO | libc::RLIMIT_RTTIME)
}

/// The limit of a resource as the program sees it.
pub(super) fn limit(process: &Process, resource: u32) -> Result<Pair, Errno> {
    if is_of_host(resource) {
        return host_limit(resource, None);
    }
    process.limits.get(resource).ok_or(Errno::EINVAL)
}

/// Reads, or sets, a limit of the VMM's own.
fn host_limit(resource: u32, new: Option<Pair>) -> Result<Pair, Errno> {
    let mut old = [0; 2];
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both are pairs of words or null, and outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, old.as_mut_ptr()) };
    if done < 0 { Err(last_errno()) } else { Ok(old) }
}

fn set_limit(ctx: &ThreadCtx<'_>, resource: u32, new: Pair) -> Result<(), Errno> {
    let process = ctx.process;
    let old = limit(process, resource)?;
    let [soft, hard] = new;
    if soft > hard {
        return Err(Errno::EINVAL);
    }
    if new == old {
        return Ok(());
    }
    if is_of_host(resource) {
        return host_limit(resource, Some(new)).map(drop);
    }
    if hard > old[1] {
        return Err(Errno::EPERM);
    }
    // Kept here, but the host has a limit of its own on what the VMM does for the program.
    if matches!(resource, libc::RLIMIT_FSIZE | libc::RLIMIT_MEMLOCK) {
        raise(resource, soft)?;
    }
    if let Some(slot) = process.limits.lock().get_mut(resource as usize) {
        *slot = new;
    }
    match resource {
        libc::RLIMIT_NOFILE => process.files.set_nofile(u32::try_from(soft).unwrap_or(u32::MAX)),
        libc::RLIMIT_FSIZE => process.files.set_max_size(soft),
        libc::RLIMIT_CPU => process.timers.limit_cpu(new)?,
        libc::RLIMIT_STACK => process.private.grow_stack(soft),
        _ => {}
    }
    Ok(())
}

/// How much the program may lock (`RLIMIT_MEMLOCK`).
///
/// # Errors
/// `EPERM` when that is nothing.
pub(super) fn lockable(process: &Process) -> Result<u64, Errno> {
    match process.limits.soft(libc::RLIMIT_MEMLOCK) {
        0 => Err(Errno::EPERM),
        limit => Ok(limit),
    }
}

fn read_pair(ctx: &ThreadCtx<'_>, at: u64) -> Result<Pair, Errno> {
    Ok([ctx.user().read_u64(at)?, ctx.user().read_u64(at.wrapping_add(8))?])
}

fn write_pair(ctx: &ThreadCtx<'_>, at: u64, [soft, hard]: Pair) -> Result<(), Errno> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&soft.to_le_bytes());
    bytes[8..].copy_from_slice(&hard.to_le_bytes());
    ctx.user().copy_out(at, &bytes)
}

/// `prlimit64(2)`, on the program itself.
pub(super) fn prlimit64(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [pid, resource, new, old, ..] = *a;
    let new = if new == 0 { None } else { Some(read_pair(ctx, new)?) };
    if pid as i32 != 0 && ctx.process.threads.get(pid as i32).is_none() {
        return Err(Errno::ESRCH.into());
    }
    let before = limit(ctx.process, resource as u32)?;
    if let Some(new) = new {
        set_limit(ctx, resource as u32, new)?;
    }
    if old != 0 {
        write_pair(ctx, old, before)?;
    }
    value(0)
}

/// `getrlimit(2)`.
pub(super) fn getrlimit(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    write_pair(ctx, a[1], limit(ctx.process, a[0] as u32)?)?;
    value(0)
}

/// `setrlimit(2)`.
pub(super) fn setrlimit(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let new = read_pair(ctx, a[1])?;
    set_limit(ctx, a[0] as u32, new)?;
    value(0)
}
