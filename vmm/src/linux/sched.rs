//! Scheduling: which processors a thread runs on, and how much of them it gets.
//!
//! A thread of the program is a host thread, so these calls act on that thread in the host's
//! scheduler. Only processor numbers are translated: the program's are contiguous from 0, in the
//! order of those the VMM may use, because programs index arrays of as many elements as there are
//! processors. The structures are passed through as bytes; the host checks them.

use std::sync::OnceLock;

use abi::Errno;

use super::time::checked;
use super::{CallResult, done, value};
use crate::linux::task::ThreadCtx;

/// Maximum number of processors: the bits of the host's mask.
const MAX_CPUS: usize = 8192;

/// The host's numbers of the processors the VMM may use; the program's numbers are indices.
pub(super) fn processors() -> &'static [usize] {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    CPUS.get_or_init(|| {
        // The affinity alone, as on Linux: a quota of the cgroup is not considered, and finding one
        // would cost every start a tenth of a millisecond.
        let mask = host_affinity(std::process::id() as i32).unwrap_or_default();
        let cpus: Vec<_> = (0..MAX_CPUS).filter(|&cpu| has_bit(&mask, cpu)).collect();
        if cpus.is_empty() { vec![0] } else { cpus }
    })
}

/// Lets the calling thread, and what it starts, run on `count` of the processors that it may run on now: to be
/// called before there is a program. They are other ones for each process, so that runs that are limited do not share
/// them as long as there are enough.
///
/// # Errors
/// The host's, and `EINVAL` if there are fewer.
pub fn use_processors(count: usize) -> std::io::Result<()> {
    let refused = |errno: Errno| std::io::Error::from_raw_os_error(errno.raw());
    let usable = host_affinity(0).map_err(refused)?;
    let usable: Vec<usize> = (0..MAX_CPUS).filter(|&cpu| has_bit(&usable, cpu)).collect();
    if count == 0 || count > usable.len() {
        return Err(refused(Errno::EINVAL));
    }
    let mut mask = vec![0u8; MAX_CPUS / 8];
    let first = std::process::id() as usize % usable.len();
    usable.iter().cycle().skip(first).take(count).for_each(|&cpu| set_bit(&mut mask, cpu));
    set_host_affinity(0, &mask).map(drop).map_err(refused)
}

pub(super) fn has_bit(mask: &[u8], bit: usize) -> bool {
    mask.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 != 0)
}

pub(super) fn set_bit(mask: &mut [u8], bit: usize) {
    if let Some(byte) = mask.get_mut(bit / 8) {
        *byte |= 1 << (bit % 8);
    }
}

fn host_affinity(host_tid: i32) -> Result<Vec<u8>, Errno> {
    let mut mask = vec![0u8; MAX_CPUS / 8];
    // SAFETY: the buffer is as long as stated.
    let got = unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, host_tid, mask.len(), mask.as_mut_ptr())
    };
    mask.truncate(checked(got)? as usize);
    Ok(mask)
}

fn set_host_affinity(host_tid: i32, mask: &[u8]) -> Result<u64, Errno> {
    // SAFETY: the buffer is as long as stated.
    let done =
        unsafe { libc::syscall(libc::SYS_sched_setaffinity, host_tid, mask.len(), mask.as_ptr()) };
    checked(done)
}

/// The host thread of the program's with this number; 0 is the caller. A process between `vfork` and `execve` is its host process, whose first thread will run its
/// program.
///
/// # Errors
/// `ESRCH` for a number that no thread of the program and no process of the run has.
fn host_thread(ctx: &ThreadCtx<'_>, tid: u64) -> Result<i32, Errno> {
    if let Some(child) = &ctx.child {
        return if [0, child.pid].contains(&(tid as i32)) {
            Ok(child.pid)
        } else {
            Err(Errno::ESRCH)
        };
    }
    match tid as i32 {
        0 => Ok(ctx.thread.host.raw()),
        tid if ctx.process.children.is_of_run(tid) => Ok(tid),
        tid => Ok(ctx.process.threads.get(tid).ok_or(Errno::ESRCH)?.host.raw()),
    }
}

/// As [`host_thread`], for the calls that return another error for a negative number.
fn host_thread_not_negative(ctx: &ThreadCtx<'_>, tid: u64) -> Result<i32, Errno> {
    if (tid as i32) < 0 { Err(Errno::EINVAL) } else { host_thread(ctx, tid) }
}

/// The processors that a thread may run on, by the program's numbers.
///
/// # Errors
/// `ESRCH`.
pub(super) fn allowed(tid: i32) -> Result<Vec<usize>, Errno> {
    let host = host_affinity(tid)?;
    let cpus = processors().iter().enumerate();
    Ok(cpus.filter(|&(_, &cpu)| has_bit(&host, cpu)).map(|(number, _)| number).collect())
}

/// `sched_getaffinity(2)`.
pub(super) fn getaffinity(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (capacity, at) = (a[1] as u32 as usize, a[2]);
    let cpus = processors();
    let bytes = cpus.len().div_ceil(64) * 8;
    if capacity < bytes || !capacity.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    let mut mask = vec![0; bytes];
    for cpu in allowed(host_thread(ctx, a[0])?)? {
        set_bit(&mut mask, cpu);
    }
    ctx.user().copy_out(at, &mask)?;
    value(bytes as u64)
}

/// `sched_setaffinity(2)`.
pub(super) fn setaffinity(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let mut mask = vec![0; (a[1] as u32 as usize).min(MAX_CPUS / 8)];
    ctx.user().copy_in(a[2], &mut mask)?;
    let host_tid = host_thread(ctx, a[0])?;
    let mut host = vec![0u8; MAX_CPUS / 8];
    for (cpu, &host_cpu) in processors().iter().enumerate() {
        if has_bit(&mask, cpu) {
            set_bit(&mut host, host_cpu);
        }
    }
    value(set_host_affinity(host_tid, &host)?)
}

/// `getcpu(2)`: one of the processors in `sched_getaffinity`; node 0, the only one.
pub(super) fn getcpu(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let host = rustix::thread::sched_getcpu();
    let cpu = processors().iter().position(|&cpu| cpu == host).unwrap_or(0);
    for (at, word) in a.iter().zip([cpu as u32, 0]) {
        if *at != 0 {
            ctx.user().copy_out(*at, &word.to_le_bytes())?;
        }
    }
    value(0)
}

/// `sched_getparam(2)`.
pub(super) fn getparam(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[1] == 0 {
        return Err(Errno::EINVAL.into());
    }
    let host_tid = host_thread_not_negative(ctx, a[0])?;
    let mut priority = 0i32;
    // SAFETY: the structure is one int.
    checked(unsafe { libc::syscall(libc::SYS_sched_getparam, host_tid, &raw mut priority) })?;
    done(ctx.user().copy_out(a[1], &priority.to_le_bytes()))
}

/// `sched_setparam(2)`.
pub(super) fn setparam(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    set(ctx, libc::SYS_sched_setparam, a[0], None, a[1])
}

/// `sched_setscheduler(2)`.
pub(super) fn setscheduler(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let policy = a[1] as i32;
    if policy < 0 {
        return Err(Errno::EINVAL.into());
    }
    set(ctx, libc::SYS_sched_setscheduler, a[0], Some(policy), a[2])
}

fn set(
    ctx: &ThreadCtx<'_>,
    call: libc::c_long,
    tid: u64,
    policy: Option<i32>,
    at: u64,
) -> CallResult {
    if at == 0 || (tid as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority = ctx.user().read_u32(at)?.cast_signed();
    let host_tid = host_thread(ctx, tid)?;
    let param = &raw const priority;
    let done = match policy {
        // SAFETY: the structure is one int.
        Some(policy) => unsafe { libc::syscall(call, host_tid, policy, param) },
        // SAFETY: as above.
        None => unsafe { libc::syscall(call, host_tid, param) },
    };
    value(checked(done)?)
}

/// `sched_getscheduler(2)`.
pub(super) fn getscheduler(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let host_tid = host_thread_not_negative(ctx, a[0])?;
    // SAFETY: takes no pointers.
    value(checked(unsafe { libc::syscall(libc::SYS_sched_getscheduler, host_tid) })?)
}

/// Bytes of `struct sched_attr` in its first version.
const FIRST_ATTR_BYTES: u32 = 48;
const MAX_ATTR_BYTES: u32 = abi::PAGE_SIZE as u32;

/// `sched_setattr(2)`.
pub(super) fn setattr(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [tid, at, flags, ..] = *a;
    if at == 0 || (tid as i32) < 0 || flags as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let size = match ctx.user().read_u32(at)? {
        0 => FIRST_ATTR_BYTES,
        // The host returns the size it supports.
        size => size.clamp(4, MAX_ATTR_BYTES),
    };
    let mut attr = vec![0u8; MAX_ATTR_BYTES as usize];
    let given = attr.get_mut(..size as usize).unwrap_or_default();
    ctx.user().copy_in(at, given)?;
    let host_tid = host_thread(ctx, tid)?;
    // SAFETY: the buffer is a page long, which is the most the host reads.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, host_tid, attr.as_mut_ptr(), 0) };
    let done = checked(done);
    if done == Err(Errno::E2BIG) {
        ctx.user().copy_out(at, attr.get(..4).unwrap_or_default())?;
    }
    value(done?)
}

/// `sched_getattr(2)`.
pub(super) fn getattr(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [tid, at, size, flags, ..] = *a;
    let size = size as u32;
    let is_sized = (FIRST_ATTR_BYTES..=MAX_ATTR_BYTES).contains(&size);
    if at == 0 || (tid as i32) < 0 || !is_sized || flags as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let host_tid = host_thread(ctx, tid)?;
    let mut attr = vec![0u8; size as usize];
    // SAFETY: the buffer is as long as stated.
    let got =
        unsafe { libc::syscall(libc::SYS_sched_getattr, host_tid, attr.as_mut_ptr(), size, 0) };
    checked(got)?;
    done(ctx.user().copy_out(at, &attr))
}

/// `sched_get_priority_min(2)` and `sched_get_priority_max(2)`: the host's.
pub(super) fn priority_bound(call: u64, a: &[u64; 6]) -> CallResult {
    // SAFETY: neither call takes pointers.
    value(checked(unsafe { libc::syscall(call as libc::c_long, a[0] as i32) })?)
}

/// `sched_rr_get_interval(2)`.
pub(super) fn rr_get_interval(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let host_tid = host_thread_not_negative(ctx, a[0])?;
    let mut words = [0u64; 2];
    // SAFETY: the structure is two words.
    let got =
        unsafe { libc::syscall(libc::SYS_sched_rr_get_interval, host_tid, words.as_mut_ptr()) };
    checked(got)?;
    done(ctx.user().write_words(a[1], words))
}

/// How a call names its targets.
struct Who {
    process: i32,
    group: i32,
    user: i32,
}

const PRIORITY: Who = Who { process: 0, group: 1, user: 2 };
const IO_PRIORITY: Who = Who { process: 1, group: 2, user: 3 };

/// The host threads concerned: one, or all of the program, which is the only one in its group and,
/// as far as it can see, the only one of its user.
fn concerned(ctx: &ThreadCtx<'_>, who: &Who, which: u64, id: u64) -> Result<Vec<i32>, Errno> {
    let (which, own) = (which as i32, id as i32);
    let all = || ctx.process.threads.all().iter().map(|thread| thread.host.raw()).collect();
    if which == who.process {
        return Ok(vec![host_thread(ctx, id)?]);
    }
    if ctx.child.is_some() {
        // The others of its group and its user are its parent's.
        return Err(Errno::ESRCH);
    }
    let is_us = if which == who.group {
        own == 0 || own == crate::host::process_group() || ctx.process.threads.get(own).is_some()
    } else if which == who.user {
        own == 0 || own == rustix::process::getuid().as_raw().cast_signed()
    } else {
        return Err(Errno::EINVAL);
    };
    if is_us { Ok(all()) } else { Err(Errno::ESRCH) }
}

/// `getpriority(2)`: 20 minus the nice value, the best of those concerned.
pub(super) fn getpriority(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let mut best = 0;
    for host_tid in concerned(ctx, &PRIORITY, a[0], a[1])? {
        // SAFETY: takes no pointers.
        let got = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, host_tid) };
        best = best.max(checked(got)?);
    }
    value(best)
}

/// `setpriority(2)`.
pub(super) fn setpriority(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let nice = a[2] as i32;
    for host_tid in concerned(ctx, &PRIORITY, a[0], a[1])? {
        // SAFETY: takes no pointers.
        let done =
            unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, host_tid, nice) };
        checked(done)?;
    }
    value(0)
}

/// `ioprio_get(2)`: the best of those concerned, which is the lowest number.
pub(super) fn ioprio_get(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let mut best = u64::MAX;
    for host_tid in concerned(ctx, &IO_PRIORITY, a[0], a[1])? {
        // SAFETY: takes no pointers.
        let got = unsafe { libc::syscall(libc::SYS_ioprio_get, IO_PRIORITY.process, host_tid) };
        best = best.min(checked(got)?);
    }
    value(best)
}

/// `ioprio_set(2)`.
pub(super) fn ioprio_set(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let priority = a[2] as i32;
    // Linux checks the value first.
    let invalid = |errno| if ioprio_is_valid(priority) { errno } else { Errno::EINVAL };
    for host_tid in concerned(ctx, &IO_PRIORITY, a[0], a[1]).map_err(invalid)? {
        // SAFETY: takes no pointers.
        let done =
            unsafe { libc::syscall(libc::SYS_ioprio_set, IO_PRIORITY.process, host_tid, priority) };
        checked(done)?;
    }
    value(0)
}

/// Classes 0 to 3, levels 0 to 7 (none in class 0).
fn ioprio_is_valid(priority: i32) -> bool {
    let (class, level) = (priority >> 13 & 7, priority & 0x1fff);
    matches!((class, level & 7), (1..=3, _) | (0, 0))
}
