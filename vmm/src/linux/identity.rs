//! Who and where the program is: users, host name, limits, randomness.

use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;

use super::time::last_errno;
use super::{CallResult, Fail, value};
use crate::process::{Process, ThreadCtx};
use crate::space::Access;

/// `getuid(2)`, `geteuid(2)`: the user who runs the VMM.
pub(super) fn uid(_ctx: &ThreadCtx<'_>) -> CallResult {
    value(u64::from(rustix::process::geteuid().as_raw()))
}

/// `getgid(2)`, `getegid(2)`.
pub(super) fn gid(_ctx: &ThreadCtx<'_>) -> CallResult {
    value(u64::from(rustix::process::getegid().as_raw()))
}

fn write_three(ctx: &ThreadCtx<'_>, a: &[u64; 6], id: u32) -> CallResult {
    for at in a.iter().take(3) {
        ctx.user().copy_out(*at, &id.to_le_bytes())?;
    }
    value(0)
}

/// `getresuid(2)`.
pub(super) fn getresuid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    write_three(ctx, a, rustix::process::geteuid().as_raw())
}

/// `getresgid(2)`.
pub(super) fn getresgid(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    write_three(ctx, a, rustix::process::getegid().as_raw())
}

/// `uname(2)`: the host's kernel release, since its calls are what the program gets.
pub(super) fn uname(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let host = rustix::system::uname();
    let fields: [&[u8]; 6] = [
        b"Linux",
        host.nodename().to_bytes(),
        host.release().to_bytes(),
        b"spacejmp",
        b"x86_64",
        b"(none)",
    ];
    let mut bytes = vec![0; 65 * 6];
    for (slot, text) in bytes.chunks_exact_mut(65).zip(fields) {
        slot.iter_mut().take(64).zip(text).for_each(|(s, b)| *s = *b);
    }
    ctx.user().copy_out(a[0], &bytes)?;
    value(0)
}

/// `sysinfo(2)`: the VM's memory, the host's load and uptime.
pub(super) fn sysinfo(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let host = rustix::system::sysinfo();
    let space = &ctx.process.space;
    let total = space.limit_bytes();
    let free = total.saturating_sub(space.present_bytes());
    let mut bytes = [0u8; 112];
    let loads = host.loads;
    let words = [host.uptime as u64, loads[0], loads[1], loads[2], total, free, 0, 0, 0, 0];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    let threads = ctx.process.threads.counts().0 as u16;
    bytes[80..82].copy_from_slice(&threads.to_le_bytes());
    bytes[104..108].copy_from_slice(&1u32.to_le_bytes());
    ctx.user().copy_out(a[0], &bytes)?;
    value(0)
}

/// `getrandom(2)`: the host's, straight into the program's memory.
pub(super) fn getrandom(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [at, len, flags, ..] = *a;
    if flags & !7 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut done = 0;
    let buffer = ctx.user().ranges(at, len.min(32 << 20), Access::Write)?;
    for range in buffer.ranges() {
        let (at, len) = (range.as_ptr(), range.len());
        // SAFETY: guest memory, which may change at any time and stays mapped as long as
        // `buffer`.
        let got = unsafe { libc::syscall(libc::SYS_getrandom, at, len, flags as u32) };
        match got {
            n if n >= 0 => done += n as u64,
            _ if done > 0 => break,
            _ if last_errno() == Errno::EINTR => return Err(Fail::Restart),
            _ => return Err(last_errno().into()),
        }
    }
    value(done)
}

/// `prctl(2)`, the parts run-time libraries use.
pub(super) fn prctl(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    match a[0] as i32 {
        libc::PR_SET_NAME => {
            let mut name = [0; 16];
            let len = (0..16).take_while(|&i| {
                let mut byte = [0];
                let ok = ctx.user().copy_in(a[1].wrapping_add(i), &mut byte).is_ok();
                if ok && byte[0] != 0 {
                    name[i as usize] = byte[0];
                }
                ok && byte[0] != 0
            });
            let len = len.count().min(15);
            ctx.thread.set_name(&name[..len]);
            value(0)
        }
        libc::PR_GET_NAME => {
            let mut name = [0; 16];
            for (slot, byte) in name.iter_mut().take(15).zip(ctx.thread.name()) {
                *slot = byte;
            }
            ctx.user().copy_out(a[1], &name)?;
            value(0)
        }
        libc::PR_GET_DUMPABLE => value(1),
        libc::PR_SET_DUMPABLE | libc::PR_SET_PDEATHSIG | libc::PR_SET_NO_NEW_PRIVS => value(0),
        libc::PR_GET_NO_NEW_PRIVS => value(1),
        // Naming an anonymous mapping: nobody reads the name.
        libc::PR_SET_VMA => value(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The processes above one, as it sees them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parents {
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
}

/// What `getppid`, `getpgrp` and `getsid` say.
pub(super) fn parents(_process: &Process) -> Parents {
    let pid = crate::process::table::PID;
    Parents { parent: 1, group: pid, session: pid }
}

/// The limits that mean something here; anything else is unlimited.
pub(super) fn limit(process: &Process, resource: u64) -> Option<[u64; 2]> {
    let infinity = u64::MAX;
    match resource as u32 {
        libc::RLIMIT_STACK => Some([abi::layout::STACK_BYTES, infinity]),
        libc::RLIMIT_NOFILE => Some([1024, 1024]),
        libc::RLIMIT_AS | libc::RLIMIT_DATA | libc::RLIMIT_RSS => Some([infinity, infinity]),
        libc::RLIMIT_NPROC => Some([u64::from(process.machine.max_vcpus()); 2]),
        libc::RLIMIT_CORE => Some([0, 0]),
        0..16 => Some([infinity, infinity]),
        _ => None,
    }
}

fn write_limit(ctx: &ThreadCtx<'_>, resource: u64, at: u64) -> CallResult {
    let pair = limit(ctx.process, resource).ok_or(Errno::EINVAL)?;
    let bytes: Vec<u8> = pair.iter().flat_map(|w| w.to_le_bytes()).collect();
    ctx.user().copy_out(at, &bytes)?;
    value(0)
}

/// `prlimit64(2)`: limits can be read; setting them is accepted and changes nothing.
pub(super) fn prlimit64(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [pid, resource, new, old, ..] = *a;
    if pid != 0 && pid != crate::process::table::PID as u64 {
        return Err(Errno::ESRCH.into());
    }
    if new != 0 {
        ctx.user().copy_in(new, &mut [0; 16])?;
    }
    if old != 0 {
        return write_limit(ctx, resource, old);
    }
    limit(ctx.process, resource).ok_or(Errno::EINVAL)?;
    value(0)
}

/// `getrlimit(2)`.
pub(super) fn getrlimit(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    write_limit(ctx, a[0], a[1])
}

/// `getcpu(2)`: the vCPU's number.
pub(super) fn getcpu(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let words = [ctx.vcpu.index(), 0];
    for (at, word) in a.iter().zip(words) {
        if *at != 0 {
            ctx.user().copy_out(*at, &word.to_le_bytes())?;
        }
    }
    value(0)
}

/// `sched_getparam(2)`: ordinary scheduling, priority 0.
pub(super) fn sched_getparam(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    ctx.user().copy_out(a[1], &[0; 4])?;
    value(0)
}

/// Set once the VMM has registered for private expedited barriers, and for those that also
/// serialise instruction fetch. The host counts them for the process, and so do we.
static REGISTERED: AtomicU32 = AtomicU32::new(0);

/// Commands of `membarrier(2)`, as `linux/membarrier.h` numbers them.
mod barrier {
    pub(super) const QUERY: u32 = 0;
    pub(super) const GLOBAL: u32 = 1;
    pub(super) const GLOBAL_EXPEDITED: u32 = 1 << 1;
    pub(super) const REGISTER_GLOBAL_EXPEDITED: u32 = 1 << 2;
    pub(super) const PRIVATE: u32 = 1 << 3;
    pub(super) const REGISTER_PRIVATE: u32 = 1 << 4;
    pub(super) const SYNC_CORE: u32 = 1 << 5;
    pub(super) const REGISTER_SYNC_CORE: u32 = 1 << 6;
    pub(super) const OFFERED: u32 = PRIVATE | REGISTER_PRIVATE | SYNC_CORE | REGISTER_SYNC_CORE;
}

/// `membarrier(2)`, for the threads of the program: they are threads of the VMM's process, and a
/// vCPU that runs guest code is a running host thread, so the host's private barrier reaches
/// all of them.
///
/// The global commands would make the host interrupt every processor, or wait for every program,
/// at the guest's pleasure. They get the private barrier, which is what they promise as far as
/// the program's own threads go; `QUERY` does not offer them.
///
/// # Errors
/// `EINVAL` for other commands and any flag, `EPERM` without registration.
pub(super) fn membarrier(_ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (command, flags) = (a[0] as u32, a[1] as u32);
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    match command {
        barrier::QUERY => {
            let offered = host_barrier(barrier::QUERY)? as u32 & barrier::OFFERED;
            value(u64::from(offered))
        }
        barrier::REGISTER_GLOBAL_EXPEDITED => value(0),
        barrier::GLOBAL | barrier::GLOBAL_EXPEDITED => {
            host_barrier(barrier::REGISTER_PRIVATE)?;
            value(host_barrier(barrier::PRIVATE)?)
        }
        barrier::REGISTER_PRIVATE | barrier::REGISTER_SYNC_CORE => {
            let done = host_barrier(command)?;
            REGISTERED.fetch_or(command, Ordering::Relaxed);
            value(done)
        }
        barrier::PRIVATE | barrier::SYNC_CORE => {
            // The registration's bit is the one above the command's.
            if REGISTERED.load(Ordering::Relaxed) & command << 1 == 0 {
                return Err(Errno::EPERM.into());
            }
            value(host_barrier(command)?)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

fn host_barrier(command: u32) -> Result<u64, Errno> {
    // SAFETY: takes no pointers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if done < 0 { Err(last_errno()) } else { Ok(done as u64) }
}
