//! Time calls. The vDSO answers most of them without leaving the guest; what remains are sleeps,
//! CPU times, and clocks that the vDSO does not support.

use std::time::{Duration, Instant};

use abi::Errno;

use super::{CallResult, Fail, done, value};
use crate::guest::clock::HINT_MAGIC;
use crate::linux::task::ThreadCtx;
use crate::vm::kick::HostTid;

/// A `struct timespec` from the program.
pub(super) fn read_timespec(ctx: &ThreadCtx<'_>, at: u64) -> Result<libc::timespec, Errno> {
    let [tv_sec, tv_nsec] = ctx.user().read_words(at)?.map(u64::cast_signed);
    if tv_sec < 0 || !(0..1_000_000_000).contains(&tv_nsec) {
        return Err(Errno::EINVAL);
    }
    Ok(libc::timespec { tv_sec, tv_nsec })
}

/// The end of a wait for the time at `at`; none if that is null.
pub(super) fn deadline_at(ctx: &ThreadCtx<'_>, at: u64) -> Result<Option<Instant>, Errno> {
    if at == 0 {
        return Ok(None);
    }
    let ts = read_timespec(ctx, at)?;
    Ok(Instant::now().checked_add(Duration::new(ts.tv_sec as u64, ts.tv_nsec as u32)))
}

/// A time as the program gets it: seconds, and the rest in units of some nanoseconds.
fn words(time: libc::timespec, unit: i64) -> [u64; 2] {
    [time.tv_sec, time.tv_nsec / unit].map(i64::cast_unsigned)
}

/// The host clock for one of the program's. The VMM runs only this program, and its threads are the
/// program's threads, so CPU-time clocks have the same meaning, too. Those of other processes, and
/// clocks that are descriptors, are refused.
pub(super) fn host_clock(ctx: &ThreadCtx<'_>, id: u64) -> Result<libc::clockid_t, Errno> {
    /// Flag in a CPU-time clock's number: it is a thread's.
    const PER_THREAD: i32 = 4;
    const DESCRIPTOR: i32 = 3;
    let id = id as libc::clockid_t;
    match id {
        0..=9 | 11 => return Ok(id),
        0.. => return Err(Errno::EINVAL),
        _ => {}
    }
    let (owner, kind) = (!(id >> 3), id & 7);
    if kind & DESCRIPTOR == DESCRIPTOR {
        return Err(Errno::EINVAL);
    }
    if kind & PER_THREAD != 0 {
        if owner == 0 {
            return Ok(id);
        }
        let thread = ctx.process.threads.get(owner).ok_or(Errno::EINVAL)?;
        return Ok(cpu_clock(thread.host, id & 7));
    }
    // 0 or its own number means the calling process.
    let known = owner == 0 || owner == ctx.process.pid();
    if known { Ok(process_clock(kind)) } else { Err(Errno::EINVAL) }
}

/// The CPU-time clock of the calling process: 0 for all of it, 1 for its time in user mode.
pub(super) const fn process_clock(kind: i32) -> libc::clockid_t {
    !0 << 3 | kind
}

/// The CPU-time clock of a host thread.
pub(super) fn thread_clock(thread: HostTid) -> libc::clockid_t {
    // The third bit says that it is a thread's, the lower two that all of its time counts.
    cpu_clock(thread, 6)
}

fn cpu_clock(thread: HostTid, kind: i32) -> libc::clockid_t {
    !thread.raw() << 3 | kind
}

pub(super) fn now(clock: libc::clockid_t) -> Result<libc::timespec, Errno> {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure it is given.
    checked(unsafe { libc::clock_gettime(clock, &mut ts) }.into())?;
    Ok(ts)
}

/// The result of a host call that returns -1 on failure.
pub(super) fn checked(result: libc::c_long) -> Result<u64, Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(result.cast_unsigned()) }
}

/// The host's errno of the last call.
pub(super) fn last_errno() -> Errno {
    Errno::from_raw(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// A call made by the vDSO passes the value of the time-stamp counter.
fn note_hint(ctx: &ThreadCtx<'_>, a: &[u64; 6]) {
    if a[4] == HINT_MAGIC as u64 {
        ctx.process.start_clock(a[5], || ctx.vcpu.tsc());
    }
}

/// The vDSO returns coarse clocks to the nanosecond. The host's coarse value is that of the last
/// timer interrupt: a program that uses both would see time go backwards.
fn as_the_vdso_tells_it(clock: libc::clockid_t) -> libc::clockid_t {
    match clock {
        libc::CLOCK_REALTIME_COARSE => libc::CLOCK_REALTIME,
        libc::CLOCK_MONOTONIC_COARSE => libc::CLOCK_MONOTONIC,
        other => other,
    }
}

/// `clock_gettime(2)`.
pub(super) fn clock_gettime(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    note_hint(ctx, a);
    let ts = now(as_the_vdso_tells_it(host_clock(ctx, a[0])?))?;
    done(ctx.user().write_words(a[1], words(ts, 1)))
}

/// `clock_getres(2)`.
pub(super) fn clock_getres(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure it is given.
    checked(unsafe { libc::clock_getres(host_clock(ctx, a[0])?, &mut ts) }.into())?;
    done(ctx.user().put_words(a[1], words(ts, 1)))
}

/// `clock_nanosleep(2)`.
pub(super) fn clock_nanosleep(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let clock = host_clock(ctx, a[0])?;
    match clock {
        libc::CLOCK_THREAD_CPUTIME_ID
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_REALTIME_COARSE
        | libc::CLOCK_MONOTONIC_COARSE => return Err(Errno::EOPNOTSUPP.into()),
        _ => {}
    }
    sleep(ctx, clock, a[1] as i32, a[2], a[3])
}

pub(super) fn sleep(
    ctx: &mut ThreadCtx<'_>,
    clock: libc::clockid_t,
    flags: i32,
    request: u64,
    remain: u64,
) -> CallResult {
    let ts = read_timespec(ctx, request)?;
    let absolute = flags & libc::TIMER_ABSTIME != 0;
    // A relative time does not change when the clock is set.
    let is_span = !absolute && clock == libc::CLOCK_REALTIME;
    let clock = if is_span { libc::CLOCK_MONOTONIC } else { clock };
    let deadline = if absolute { ts } else { add(now(clock)?, ts) };
    loop {
        if ctx.is_interrupted() {
            if !absolute {
                ctx.user().put_words(remain, words(sub(deadline, now(clock)?), 1))?;
            }
            // Absolute sleeps restart unchanged; relative ones would start over with the
            // full time, so a handler ends them, as on Linux.
            return Err(if absolute { Fail::Restart } else { Fail::Errno(Errno::EINTR) });
        }
        // SAFETY: reads the structure it is given; the remainder is not requested.
        let failed = unsafe {
            libc::clock_nanosleep(clock, libc::TIMER_ABSTIME, &deadline, std::ptr::null_mut())
        };
        match failed {
            0 => return value(0),
            libc::EINTR => {}
            other => return Err(Errno::from_raw(other).into()),
        }
    }
}

pub(super) fn add(a: libc::timespec, b: libc::timespec) -> libc::timespec {
    let nsec = a.tv_nsec + b.tv_nsec;
    libc::timespec {
        tv_sec: a.tv_sec.saturating_add(b.tv_sec).saturating_add(nsec / 1_000_000_000),
        tv_nsec: nsec % 1_000_000_000,
    }
}

fn sub(a: libc::timespec, b: libc::timespec) -> libc::timespec {
    let borrow = i64::from(a.tv_nsec < b.tv_nsec);
    match a.tv_sec - b.tv_sec - borrow {
        ..0 => libc::timespec { tv_sec: 0, tv_nsec: 0 },
        tv_sec => {
            libc::timespec { tv_sec, tv_nsec: a.tv_nsec - b.tv_nsec + borrow * 1_000_000_000 }
        }
    }
}

/// `gettimeofday(2)`.
pub(super) fn gettimeofday(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    note_hint(ctx, a);
    let ts = now(libc::CLOCK_REALTIME)?;
    ctx.user().put_words(a[0], words(ts, 1000))?;
    done(ctx.user().put_words(a[1], [0]))
}

/// `time(2)`.
pub(super) fn time(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    note_hint(ctx, a);
    let sec = now(libc::CLOCK_REALTIME)?.tv_sec.cast_unsigned();
    ctx.user().put_words(a[0], [sec])?;
    value(sec)
}

/// `clock_settime(2)`: the program may not set the host's clock, not even for root.
pub(super) fn clock_settime(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    match host_clock(ctx, a[0])? {
        libc::CLOCK_REALTIME => {}
        // CPU-time clocks have negative numbers; the others cannot be set at all.
        ..0 => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    read_timespec(ctx, a[1])?;
    Err(Errno::EPERM.into())
}

/// `settimeofday(2)`.
pub(super) fn settimeofday(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[0] != 0 {
        let [sec, usec] = ctx.user().read_words(a[0])?.map(u64::cast_signed);
        if sec < 0 || !(0..1_000_000).contains(&usec) {
            return Err(Errno::EINVAL.into());
        }
    }
    if a[1] != 0 {
        ctx.user().copy_in(a[1], &mut [0; 8])?;
    }
    Err(Errno::EPERM.into())
}

/// Bytes of `struct timex`.
const TIMEX_BYTES: usize = size_of::<libc::timex>();

/// Bits of the modes of `adjtimex`. The first selects the old `adjtime`, the second is only valid
/// with it, the third makes it read-only.
const ADJ_ADJTIME: u32 = 0x8000;
const ADJ_OFFSET_SINGLESHOT: u32 = 1;
const ADJ_OFFSET_READONLY: u32 = 0x2000;
/// Reads what remains of an `adjtime`.
const READ_REMAINDER: u32 = ADJ_ADJTIME | ADJ_OFFSET_READONLY | ADJ_OFFSET_SINGLESHOT;

/// The modes of `adjtimex` that only read.
fn reading_modes(modes: u32) -> Result<u32, Errno> {
    match modes {
        0 | READ_REMAINDER => Ok(modes),
        _ if modes & ADJ_ADJTIME != 0 && modes & ADJ_OFFSET_SINGLESHOT == 0 => Err(Errno::EINVAL),
        _ => Err(Errno::EPERM),
    }
}

/// `adjtimex(2)`: read-only.
pub(super) fn adjtimex(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let mut before = [0; TIMEX_BYTES];
    ctx.user().copy_in(a[0], &mut before)?;
    let modes = reading_modes(ctx.user().read_u32(a[0])?)?;
    let mut timex = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: zeroed, which is a valid structure of integers.
    unsafe { timex.assume_init_mut() }.modes = modes;
    // SAFETY: the modes request no change; writes the structure it is given.
    let state = checked(unsafe { libc::syscall(libc::SYS_adjtimex, timex.as_mut_ptr()) })?;
    let bytes: *const [u8; TIMEX_BYTES] = timex.as_ptr().cast();
    // SAFETY: zeroed, padding included, then filled; any bytes are valid as such.
    ctx.user().copy_out(a[0], unsafe { &*bytes })?;
    value(state)
}

/// `clock_adjtime(2)`: read-only, and only the one clock that supports it.
pub(super) fn clock_adjtime(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    match host_clock(ctx, a[0])? {
        libc::CLOCK_REALTIME => adjtimex(ctx, &[a[1], 0, 0, 0, 0, 0]),
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}

/// Words of `struct rusage`: user and system time in seconds and microseconds, then counts.
const USAGE_WORDS: usize = size_of::<libc::rusage>() / 8;

fn usage(who: i32) -> Result<[u64; USAGE_WORDS], Errno> {
    let mut usage = [0; USAGE_WORDS];
    // SAFETY: writes a structure of that many words.
    checked(unsafe { libc::syscall(libc::SYS_getrusage, who, usage.as_mut_ptr()) })?;
    Ok(usage)
}

/// `times(2)`: the VMM's CPU time counts as the program's.
pub(super) fn times(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    const TICKS: u64 = 100;
    let ticks = |sec, part, parts| sec * TICKS + part * TICKS / parts;
    let used = |who| {
        let [user, user_us, system, system_us, ..] = usage(who)?;
        Ok::<_, Errno>(
            [(user, user_us), (system, system_us)].map(|(s, us)| ticks(s, us, 1_000_000)),
        )
    };
    let [[user, system], [by_children, in_children]] =
        [used(libc::RUSAGE_SELF)?, used(libc::RUSAGE_CHILDREN)?];
    ctx.user().put_words(a[0], [user, system, by_children, in_children])?;
    let [up, up_ns] = words(now(libc::CLOCK_MONOTONIC)?, 1);
    value(ticks(up, up_ns, 1_000_000_000))
}

/// `getrusage(2)`.
pub(super) fn getrusage(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let usage = match a[0] as i32 {
        who @ (libc::RUSAGE_SELF | libc::RUSAGE_THREAD | libc::RUSAGE_CHILDREN) => usage(who)?,
        _ => return Err(Errno::EINVAL.into()),
    };
    done(ctx.user().write_words(a[1], usage))
}
