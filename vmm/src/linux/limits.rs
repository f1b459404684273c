//! Resource limits: the program's own, kept here.
//!
//! A limit that can be set is enforced, by us or by the host, or means nothing in a VM. The
//! others can be read and not changed (`EPERM`): to accept them would promise what nobody keeps.
//! They are not the VMM's own limits, which its store and its descriptors live by.

use std::sync::{Mutex, MutexGuard, OnceLock};

use abi::Errno;

use super::time::last_errno;
use super::{CallResult, value};
use crate::process::{Process, ThreadCtx};

const INFINITY: u64 = u64::MAX;
const RESOURCES: usize = 16;

/// Soft and hard limit.
pub type Pair = [u64; 2];

/// Descriptors the VMM needs for itself, besides one a vCPU, which Linux would not count.
const OWN_DESCRIPTORS: u64 = 256;

/// Who keeps a limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// The VMM, or it means nothing here.
    Us,
    /// The host, for the threads of the VMM.
    Host,
    /// Nobody: it cannot be changed.
    Nobody,
}

fn keeper(resource: u32) -> Keeper {
    match resource {
        libc::RLIMIT_NOFILE | libc::RLIMIT_AS | libc::RLIMIT_DATA => Keeper::Us,
        // Core files are never written, the stack is mapped as a whole at the start and its
        // limit is what thread libraries read, and Linux itself ignores the other two.
        libc::RLIMIT_CORE | libc::RLIMIT_STACK | libc::RLIMIT_RSS | libc::RLIMIT_LOCKS => {
            Keeper::Us
        }
        libc::RLIMIT_NICE | libc::RLIMIT_RTPRIO | libc::RLIMIT_RTTIME => Keeper::Host,
        _ => Keeper::Nobody,
    }
}

/// The limits of a process.
#[derive(Debug)]
pub struct Limits(Mutex<[Pair; RESOURCES]>);

impl Limits {
    /// What a program starts with. The VMM's own limit of descriptors is raised as far as it
    /// may be, so that the program gets all of what it is told.
    #[must_use]
    pub fn new() -> Limits {
        let mut all = [[INFINITY; 2]; RESOURCES];
        let mut put = |resource: u32, pair: Pair| {
            if let Some(slot) = all.get_mut(resource as usize) {
                *slot = pair;
            }
        };
        put(libc::RLIMIT_NOFILE, descriptors());
        put(libc::RLIMIT_STACK, [abi::layout::STACK_BYTES, INFINITY]);
        put(libc::RLIMIT_CORE, [0, 0]);
        // Nothing can be locked: what the host swaps is its own affair.
        put(libc::RLIMIT_MEMLOCK, [0, 0]);
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
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::new()
    }
}

/// The host's limit of descriptors as the user set it, as far as it can be kept.
fn descriptors() -> Pair {
    static AT_FIRST: OnceLock<Pair> = OnceLock::new();
    // A second VM in this process finds the soft limit raised.
    *AT_FIRST.get_or_init(|| {
        let most = u64::from(super::fs::NOFILE_MAX);
        let host = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let soft = host.current.unwrap_or(most);
        let hard = host.maximum.unwrap_or(most);
        let raised = rustix::process::Rlimit { current: Some(hard), maximum: host.maximum };
        let is_raised = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
        let usable = if is_raised.is_ok() { hard } else { soft };
        let usable = usable.saturating_sub(OWN_DESCRIPTORS).clamp(1, most);
        [soft.min(usable), usable]
    })
}

/// The limit of a resource as the program sees it.
pub(super) fn limit(process: &Process, resource: u32) -> Result<Pair, Errno> {
    match (resource, keeper(resource)) {
        (libc::RLIMIT_NPROC, _) => Ok([u64::from(process.machine.max_vcpus()); 2]),
        (0..16, Keeper::Host) => host_limit(resource, None),
        _ => process.limits.get(resource).ok_or(Errno::EINVAL),
    }
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
    let old = limit(ctx.process, resource)?;
    let [soft, hard] = new;
    if soft > hard {
        return Err(Errno::EINVAL);
    }
    if new == old {
        return Ok(());
    }
    match keeper(resource) {
        Keeper::Host => host_limit(resource, Some(new)).map(drop),
        Keeper::Us if hard <= old[1] => {
            if let Some(slot) = ctx.process.limits.lock().get_mut(resource as usize) {
                *slot = new;
            }
            if resource == libc::RLIMIT_NOFILE {
                ctx.process.files.set_nofile(u32::try_from(soft).unwrap_or(u32::MAX));
            }
            Ok(())
        }
        Keeper::Us | Keeper::Nobody => Err(Errno::EPERM),
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
