//! Resource limits: the program's own, enforced here.
//!
//! Each is enforced, by us or by the host, or there is nothing in a VM that it could limit (core
//! files, message queues). They are not the VMM's own limits, which its store and its descriptors
//! depend on: a program that limits its own file size must not keep a segment from growing.

mod calls;

use std::sync::{Mutex, MutexGuard, OnceLock};

use abi::Errno;

use super::sched::processors;
use super::task::Process;
use super::time::checked;
use crate::stats::LimitsReport;
pub(super) use calls::{getrlimit, prlimit64, setrlimit};

const INFINITY: u64 = u64::MAX;
const RESOURCES: usize = 16;

/// Soft and hard limit.
pub type Pair = [u64; 2];

/// Descriptors the VMM needs for itself, besides one for each vCPU, which Linux would not count.
const OWN_DESCRIPTORS: u64 = 256;

/// The limits of a process.
#[derive(Debug)]
pub struct Limits(Mutex<[Pair; RESOURCES]>);

impl Limits {
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

    /// Sets a limit of a resource that exists.
    fn set(&self, resource: u32, new: Pair) {
        if let Some(pair) = self.lock().get_mut(resource as usize) {
            *pair = new;
        }
    }

    /// All of them, by resource.
    pub(in crate::linux) fn all(&self) -> [Pair; RESOURCES] {
        *self.lock()
    }

    /// The same limits for another process.
    pub(in crate::linux) fn copy(&self) -> Limits {
        Limits(Mutex::new(self.all()))
    }

    /// Limits that are these, by resource; `None` if there are too few.
    pub(in crate::linux) fn of(all: &[Pair]) -> Option<Limits> {
        all.first_chunk().map(|all| Limits(Mutex::new(*all)))
    }

    /// Allows no more of a resource than `soft` and `hard`.
    pub fn lower(&self, resource: u32, [soft, hard]: Pair) {
        if let Some(pair) = self.lock().get_mut(resource as usize) {
            *pair = [pair[0].min(soft), pair[1].min(hard)];
        }
    }

    /// What of them is told of a process.
    pub(super) fn report(&self) -> LimitsReport {
        let limit = |resource| Some(self.soft(resource)).filter(|limit| *limit != INFINITY);
        LimitsReport {
            processors: processors().len() as u64,
            cpu_seconds: limit(libc::RLIMIT_CPU),
            file_size_bytes: limit(libc::RLIMIT_FSIZE),
            disk_bytes: None,
            disk_used_bytes: None,
            run_cpu_ns: None,
        }
    }

    /// Allows no more processes and threads than there can be vCPUs.
    pub fn limit_threads(&self, most: u64) {
        if let Some(pair) = self.lock().get_mut(libc::RLIMIT_NPROC as usize) {
            *pair = pair.map(|limit| limit.min(most));
        }
    }
}

impl Default for Limits {
    /// What a program starts with: what the VMM was started with, where that is meaningful for it.
    /// The VMM's own limit of descriptors is raised as far as allowed, so that the program really
    /// gets the number it sees.
    fn default() -> Limits {
        let mut all = *at_first();
        for (pair, resource) in all.iter_mut().zip(0..) {
            match resource {
                // The host would count there what the VMM maps and allocates; the program is
                // counted here.
                libc::RLIMIT_AS | libc::RLIMIT_DATA | libc::RLIMIT_RSS => *pair = [INFINITY; 2],
                libc::RLIMIT_NOFILE => *pair = descriptors(*pair),
                _ => {}
            }
        }
        Limits(Mutex::new(all))
    }
}

/// The limits this process was started with: a second VM in it finds some of them changed.
fn at_first() -> &'static [Pair; RESOURCES] {
    static AT_FIRST: OnceLock<[Pair; RESOURCES]> = OnceLock::new();
    AT_FIRST.get_or_init(|| {
        let mut all = [[INFINITY; 2]; RESOURCES];
        for (pair, resource) in all.iter_mut().zip(0..) {
            *pair = host_limit(resource, None).unwrap_or(*pair);
        }
        all
    })
}

/// The host's limit of descriptors as the user set it, as far as it can be honoured.
fn descriptors([soft, hard]: Pair) -> Pair {
    static USABLE: OnceLock<Pair> = OnceLock::new();
    *USABLE.get_or_init(|| {
        let most = u64::from(crate::files::NOFILE_MAX);
        let usable = if raise(libc::RLIMIT_NOFILE, hard).is_ok() { hard } else { soft };
        let usable = usable.saturating_sub(OWN_DESCRIPTORS).clamp(1, most);
        [soft.min(usable), usable]
    })
}

/// Raises a soft limit of the VMM's, if it is lower.
fn raise(resource: u32, to: u64) -> Result<(), Errno> {
    match host_limit(resource, None)? {
        [soft, hard] if soft < to => host_limit(resource, Some([to.min(hard), hard])).map(drop),
        _ => Ok(()),
    }
}

/// Whether the host enforces a limit: these are limits of the scheduler, to which the program's
/// threads are the VMM's.
fn is_of_host(resource: u32) -> bool {
    matches!(resource, libc::RLIMIT_NICE | libc::RLIMIT_RTPRIO | libc::RLIMIT_RTTIME)
}

/// The limit of a resource as the program sees it.
pub(super) fn limit(limits: &Limits, resource: u32) -> Result<Pair, Errno> {
    if is_of_host(resource) {
        return host_limit(resource, None);
    }
    limits.get(resource).ok_or(Errno::EINVAL)
}

/// Reads, or sets, a limit of the VMM itself.
fn host_limit(resource: u32, new: Option<Pair>) -> Result<Pair, Errno> {
    let mut old = [0; 2];
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both are pairs of words or null, and outlive the call.
    checked(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, old.as_mut_ptr()) })?;
    Ok(old)
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
