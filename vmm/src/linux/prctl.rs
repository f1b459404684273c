//! `prctl` and `personality`: small settings of a thread or of the process.
//!
//! A setting is served when it has its effect, or when its effect could only show in what does not
//! exist here (core files, `exec`, children). Every other one is refused as by a kernel without it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::{Errno, PAGE_SIZE};

use super::time::checked;
use super::{CallResult, done, value};
use crate::linux::task::ThreadCtx;

/// A process's settings made by these calls.
#[derive(Debug, Default)]
pub struct Settings {
    not_dumpable: AtomicBool,
    keeps_capabilities: AtomicBool,
    no_new_privileges: AtomicBool,
    child_subreaper: AtomicBool,
    personality: AtomicU32,
}

impl Settings {
    /// What a child inherits, as bits: all of them but that it is a reaper of orphans.
    pub(super) fn bits(&self) -> u64 {
        let bit = |setting: &AtomicBool| u64::from(setting.load(Ordering::Relaxed));
        bit(&self.not_dumpable)
            | bit(&self.keeps_capabilities) << 1
            | bit(&self.no_new_privileges) << 2
            | u64::from(self.personality.load(Ordering::Relaxed)) << 32
    }

    /// Settings of a child.
    pub(super) fn of_bits(bits: u64) -> Settings {
        Settings {
            not_dumpable: (bits & 1 != 0).into(),
            keeps_capabilities: (bits & 2 != 0).into(),
            no_new_privileges: (bits & 4 != 0).into(),
            child_subreaper: false.into(),
            personality: ((bits >> 32) as u32).into(),
        }
    }

    /// Whether `PR_SET_NO_NEW_PRIVS` was set.
    pub(super) fn no_new_privileges(&self) -> bool {
        self.no_new_privileges.load(Ordering::Relaxed)
    }
}

/// The last existing capability: bits above it do not name one.
const LAST_CAPABILITY: u64 = 40;

fn is_zero(args: &[u64]) -> Result<(), Errno> {
    if args.iter().all(|&arg| arg == 0) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// A setting that is 0 or 1.
fn flag(arg: u64) -> Result<bool, Errno> {
    match arg {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Errno::EINVAL),
    }
}

fn put(setting: &AtomicBool, on: bool) -> CallResult {
    setting.store(on, Ordering::Relaxed);
    value(0)
}

fn get(setting: &AtomicBool) -> CallResult {
    value(u64::from(setting.load(Ordering::Relaxed)))
}

/// `prctl(2)`.
pub(super) fn prctl(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let settings = &ctx.process.settings;
    match a[0] as i32 {
        libc::PR_SET_NAME => set_name(ctx, a[1]),
        libc::PR_GET_NAME => get_name(ctx, a[1]),
        libc::PR_SET_DUMPABLE => put(&settings.not_dumpable, !flag(a[1])?),
        libc::PR_GET_DUMPABLE => value(u64::from(!settings.not_dumpable.load(Ordering::Relaxed))),
        libc::PR_SET_KEEPCAPS => put(&settings.keeps_capabilities, flag(a[1])?),
        libc::PR_GET_KEEPCAPS => get(&settings.keeps_capabilities),
        libc::PR_SET_NO_NEW_PRIVS => {
            is_zero(&a[2..5])?;
            if a[1] != 1 {
                return Err(Errno::EINVAL.into());
            }
            put(&settings.no_new_privileges, true)
        }
        libc::PR_GET_NO_NEW_PRIVS => {
            is_zero(&a[1..5])?;
            get(&settings.no_new_privileges)
        }
        libc::PR_SET_CHILD_SUBREAPER => put(&settings.child_subreaper, a[1] != 0),
        libc::PR_GET_CHILD_SUBREAPER => {
            let on = u32::from(settings.child_subreaper.load(Ordering::Relaxed));
            done(ctx.user().copy_out(a[1], &on.to_le_bytes()))
        }
        // No signal is ever sent for the end of a parent that the program cannot see.
        libc::PR_SET_PDEATHSIG => done(is_zero(&a[1..2])),
        libc::PR_GET_PDEATHSIG => done(ctx.user().copy_out(a[1], &[0; 4])),
        libc::PR_SET_TIMERSLACK | libc::PR_GET_TIMERSLACK => timer_slack(a),
        libc::PR_GET_TIMING | libc::PR_GET_SECUREBITS | libc::PR_GET_SECCOMP => value(0),
        libc::PR_SET_TIMING => done(is_zero(&a[1..2])),
        libc::PR_GET_THP_DISABLE => done(is_zero(&a[1..5])),
        libc::PR_GET_TSC => done(ctx.user().copy_out(a[1], &1u32.to_le_bytes())),
        libc::PR_CAPBSET_READ if a[1] <= LAST_CAPABILITY => value(0),
        libc::PR_CAPBSET_DROP | libc::PR_SET_SECUREBITS => Err(Errno::EPERM.into()),
        libc::PR_CAP_AMBIENT => ambient(a),
        libc::PR_GET_TID_ADDRESS => {
            let at = ctx.thread.clear_child_tid.load(Ordering::Relaxed);
            done(ctx.user().copy_out(a[1], &at.to_le_bytes()))
        }
        libc::PR_SET_VMA => name_mapping(ctx, a),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `PR_CAP_AMBIENT`: none is set, and none can be added.
fn ambient(a: &[u64; 6]) -> CallResult {
    if a[1] == libc::PR_CAP_AMBIENT_CLEAR_ALL as u64 {
        is_zero(&a[2..5])?;
        return value(0);
    }
    is_zero(&a[3..5])?;
    if a[2] > LAST_CAPABILITY {
        return Err(Errno::EINVAL.into());
    }
    match a[1] as libc::c_int {
        libc::PR_CAP_AMBIENT_IS_SET | libc::PR_CAP_AMBIENT_LOWER => value(0),
        libc::PR_CAP_AMBIENT_RAISE => Err(Errno::EPERM.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn set_name(ctx: &ThreadCtx<'_>, at: u64) -> CallResult {
    let mut name = Vec::new();
    while name.len() < 15 {
        let mut byte = [0];
        ctx.user().copy_in(at.wrapping_add(name.len() as u64), &mut byte)?;
        if byte[0] == 0 {
            break;
        }
        name.push(byte[0]);
    }
    ctx.thread.set_name(&name);
    if ctx.thread.tid == ctx.process.pid() {
        ctx.process.show();
    }
    value(0)
}

fn get_name(ctx: &ThreadCtx<'_>, at: u64) -> CallResult {
    let mut name = [0; 16];
    for (to, byte) in name.iter_mut().take(15).zip(ctx.thread.name()) {
        *to = byte;
    }
    done(ctx.user().copy_out(at, &name))
}

/// The timer slack of the calling thread is that of its host thread.
fn timer_slack(a: &[u64; 6]) -> CallResult {
    // SAFETY: these options take numbers.
    value(checked(unsafe { libc::prctl(a[0] as i32, a[1]) }.into())?)
}

/// Most bytes of a mapping's name, its NUL included.
const MAPPING_NAME_BYTES: u64 = 80;

/// `PR_SET_VMA`: a name for anonymous memory. It is checked, and never read.
fn name_mapping(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [_, option, start, len, name, _] = *a;
    if option != libc::PR_SET_VMA_ANON_NAME as u64 {
        return Err(Errno::EINVAL.into());
    }
    if name != 0 {
        check_mapping_name(ctx, name)?;
    }
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EINVAL)?;
    if len == 0 {
        return value(0);
    }
    if start.checked_add(len).is_none() {
        return Err(Errno::EINVAL.into());
    }
    if ctx.process.private.covers(start, len) { value(0) } else { Err(Errno::ENOMEM.into()) }
}

fn check_mapping_name(ctx: &ThreadCtx<'_>, name: u64) -> Result<(), Errno> {
    for at in 0..MAPPING_NAME_BYTES {
        let mut byte = [0];
        ctx.user().copy_in(name.wrapping_add(at), &mut byte)?;
        match byte[0] {
            0 => return Ok(()),
            b' '..=b'~' if !b"\\`$[]".contains(&byte[0]) => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    Err(Errno::EINVAL)
}

/// Queries `personality` without changing it.
const QUERY: u32 = u32::MAX;
/// What affects only a program started afterwards: no randomisation, where `mmap` begins, a page at
/// 0.
const AT_NEXT_EXEC: u32 = 0x0004_0000 | 0x0020_0000 | 0x0010_0000;
/// `uname` reports a release 2.6.
const UNAME26: u32 = 0x0002_0000;
/// The systems that programs may take this one for.
const SYSTEM: u32 = 0x0000_00ff;
/// Of those Linux for 32 bits, the only one that shows: `uname` reports another machine.
const LINUX32: u32 = 8;
/// What changes nothing for programs of 64 bits, on Linux neither: limits of addresses of others, short inode
/// numbers, whole seconds, descriptors of functions.
const WITHOUT_EFFECT: u32 = 0x0080_0000 | 0x0800_0000 | 0x0100_0000 | 0x0200_0000 | 0x0008_0000;
/// `select` and its kin leave the time limit as it was.
const STICKY_TIMEOUTS: u32 = 0x0400_0000;

const KNOWN: u32 = SYSTEM | WITHOUT_EFFECT | AT_NEXT_EXEC | UNAME26 | STICKY_TIMEOUTS;

impl Settings {
    /// What `personality` was last set to.
    #[must_use]
    pub fn personality(&self) -> u32 {
        self.personality.load(Ordering::Relaxed)
    }

    /// Whether `uname` is to report a release 2.6.
    #[must_use]
    pub fn has_old_release(&self) -> bool {
        self.personality() & UNAME26 != 0
    }

    /// Whether `uname` is to report a machine of 32 bits.
    #[must_use]
    pub fn has_small_machine(&self) -> bool {
        self.personality() & SYSTEM == LINUX32
    }

    /// Whether what remains of a wait is not reported.
    #[must_use]
    pub fn keeps_timeouts(&self) -> bool {
        self.personality() & STICKY_TIMEOUTS != 0
    }
}

/// `personality(2)`: returns the previous value.
pub(super) fn personality(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let personality = &ctx.process.settings.personality;
    match a[0] as u32 {
        QUERY => value(u64::from(personality.load(Ordering::Relaxed))),
        new if new & !KNOWN == 0 => value(u64::from(personality.swap(new, Ordering::Relaxed))),
        _ => Err(Errno::EINVAL.into()),
    }
}
