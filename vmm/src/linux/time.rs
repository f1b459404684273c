//! Time calls. The vDSO answers most of them without leaving the guest; what remains are sleeps,
//! CPU times, and clocks that the vDSO does not support.

use abi::Errno;

use super::{CallResult, Fail, value};
use crate::guest::clock::HINT_MAGIC;
use crate::linux::task::ThreadCtx;

/// A `struct timespec` from the program.
pub(super) fn read_timespec(ctx: &ThreadCtx<'_>, at: u64) -> Result<libc::timespec, Errno> {
    let mut bytes = [0; 16];
    ctx.user().copy_in(at, &mut bytes)?;
    let [sec, nsec] = halves(&bytes);
    if sec < 0 || !(0..1_000_000_000).contains(&nsec) {
        return Err(Errno::EINVAL);
    }
    Ok(libc::timespec { tv_sec: sec, tv_nsec: nsec })
}

fn halves(bytes: &[u8; 16]) -> [i64; 2] {
    let mut words = [0; 2];
    for (word, piece) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = i64::from_le_bytes(piece.try_into().unwrap_or_default());
    }
    words
}

fn write_pair(ctx: &ThreadCtx<'_>, at: u64, first: i64, second: i64) -> Result<(), Errno> {
    let mut bytes = [0; 16];
    let words = [first, second];
    for (field, word) in bytes.chunks_exact_mut(8).zip(words) {
        field.copy_from_slice(&word.to_le_bytes());
    }
    ctx.user().copy_out(at, &bytes)
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
        let known = owner == 0 || ctx.process.threads.get(owner).is_some();
        return if known { Ok(id) } else { Err(Errno::EINVAL) };
    }
    // 0 or its own number means the calling process.
    let known = owner == 0 || owner == ctx.process.pid();
    if known { Ok(process_clock(kind)) } else { Err(Errno::EINVAL) }
}

/// The CPU-time clock of the calling process: 0 for all of it, 1 for its time in user mode.
pub(super) const fn process_clock(kind: i32) -> libc::clockid_t {
    !0 << 3 | kind
}

pub(super) fn now(clock: libc::clockid_t) -> Result<libc::timespec, Errno> {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure it is given.
    if unsafe { libc::clock_gettime(clock, &mut ts) } == 0 { Ok(ts) } else { Err(last_errno()) }
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
    write_pair(ctx, a[1], ts.tv_sec, ts.tv_nsec)?;
    value(0)
}

/// `clock_getres(2)`.
pub(super) fn clock_getres(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure it is given.
    if unsafe { libc::clock_getres(host_clock(ctx, a[0])?, &mut ts) } != 0 {
        return Err(last_errno().into());
    }
    if a[1] != 0 {
        write_pair(ctx, a[1], ts.tv_sec, ts.tv_nsec)?;
    }
    value(0)
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

/// `nanosleep(2)`.
pub(super) fn nanosleep(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    sleep(ctx, libc::CLOCK_MONOTONIC, 0, a[0], a[1])
}

fn sleep(
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
            if !absolute && remain != 0 {
                let left = sub(deadline, now(clock)?);
                write_pair(ctx, remain, left.tv_sec, left.tv_nsec)?;
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
    let mut sec = a.tv_sec - b.tv_sec;
    let mut nsec = a.tv_nsec - b.tv_nsec;
    if nsec < 0 {
        nsec += 1_000_000_000;
        sec -= 1;
    }
    if sec < 0 {
        libc::timespec { tv_sec: 0, tv_nsec: 0 }
    } else {
        libc::timespec { tv_sec: sec, tv_nsec: nsec }
    }
}

/// `gettimeofday(2)`.
pub(super) fn gettimeofday(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    note_hint(ctx, a);
    let ts = now(libc::CLOCK_REALTIME)?;
    if a[0] != 0 {
        write_pair(ctx, a[0], ts.tv_sec, ts.tv_nsec / 1000)?;
    }
    if a[1] != 0 {
        ctx.user().copy_out(a[1], &[0; 8])?;
    }
    value(0)
}

/// `time(2)`.
pub(super) fn time(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    note_hint(ctx, a);
    let sec = now(libc::CLOCK_REALTIME)?.tv_sec;
    if a[0] != 0 {
        ctx.user().copy_out(a[0], &sec.to_le_bytes())?;
    }
    value(sec as u64)
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
        let mut bytes = [0; 16];
        ctx.user().copy_in(a[0], &mut bytes)?;
        let [sec, usec] = halves(&bytes);
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
    let state = unsafe { libc::syscall(libc::SYS_adjtimex, timex.as_mut_ptr()) };
    if state < 0 {
        return Err(last_errno().into());
    }
    let bytes: *const [u8; TIMEX_BYTES] = timex.as_ptr().cast();
    // SAFETY: zeroed, padding included, then filled; any bytes are valid as such.
    ctx.user().copy_out(a[0], unsafe { &*bytes })?;
    value(state.cast_unsigned())
}

/// `clock_adjtime(2)`: read-only, and only the one clock that supports it.
pub(super) fn clock_adjtime(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    match host_clock(ctx, a[0])? {
        libc::CLOCK_REALTIME => adjtimex(ctx, &[a[1], 0, 0, 0, 0, 0]),
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}

fn usage(who: i32) -> Result<libc::rusage, Errno> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: writes the structure it is given.
    if unsafe { libc::getrusage(who, usage.as_mut_ptr()) } != 0 {
        return Err(last_errno());
    }
    // SAFETY: zeroed and then filled; every bit pattern is valid for its integers.
    Ok(unsafe { usage.assume_init() })
}

/// `times(2)`: the VMM's CPU time counts as the program's.
pub(super) fn times(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    const TICKS: i64 = 100;
    let usage = usage(libc::RUSAGE_SELF)?;
    let ticks = |t: libc::timeval| t.tv_sec * TICKS + t.tv_usec * TICKS / 1_000_000;
    if a[0] != 0 {
        write_pair(ctx, a[0], ticks(usage.ru_utime), ticks(usage.ru_stime))?;
        write_pair(ctx, a[0].wrapping_add(16), 0, 0)?;
    }
    let up = now(libc::CLOCK_MONOTONIC)?;
    value((up.tv_sec * TICKS + up.tv_nsec * TICKS / 1_000_000_000) as u64)
}

/// `getrusage(2)`.
pub(super) fn getrusage(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let usage = match a[0] as i32 {
        who @ (libc::RUSAGE_SELF | libc::RUSAGE_THREAD) => usage(who)?,
        libc::RUSAGE_CHILDREN => {
            ctx.user().copy_out(a[1], &[0; 144])?;
            return value(0);
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let times = [
        usage.ru_utime.tv_sec,
        usage.ru_utime.tv_usec,
        usage.ru_stime.tv_sec,
        usage.ru_stime.tv_usec,
        usage.ru_maxrss,
        usage.ru_ixrss,
        usage.ru_idrss,
        usage.ru_isrss,
        usage.ru_minflt,
        usage.ru_majflt,
        usage.ru_nswap,
        usage.ru_inblock,
        usage.ru_oublock,
        usage.ru_msgsnd,
        usage.ru_msgrcv,
        usage.ru_nsignals,
        usage.ru_nvcsw,
        usage.ru_nivcsw,
    ];
    let bytes: Vec<u8> = times.iter().flat_map(|w| w.to_le_bytes()).collect();
    ctx.user().copy_out(a[1], &bytes)?;
    value(0)
}
