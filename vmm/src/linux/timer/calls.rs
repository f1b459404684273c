//! The calls on timers: `alarm`, `setitimer`, `timer_create` and kin.

use abi::Errno;

use super::host::{HostTimer, Tell};
use super::{INTERVAL, MOST_OVERRUNS, Target, Timer, Timers};
use crate::linux::task::ThreadCtx;
use crate::linux::time::{host_clock, process_clock};
use crate::linux::{CallResult, done, signal, value};

/// Signal number, value and target requested by a `struct sigevent`.
fn read_event(ctx: &ThreadCtx<'_>, at: u64) -> Result<(i32, u64, Target), Errno> {
    const EVENT_BYTES: usize = 64;
    let mut bytes = [0; EVENT_BYTES];
    ctx.user().copy_in(at, &mut bytes)?;
    let int = |at: usize| {
        let piece = bytes.get(at..at + 4).and_then(|b| b.first_chunk());
        i32::from_le_bytes(piece.copied().unwrap_or_default())
    };
    let (signo, notify, tid) = (int(8), int(12), int(16));
    let target = match notify {
        libc::SIGEV_NONE => Target::Nobody,
        // To the kernel, the C library's notification by thread is a signal, too.
        libc::SIGEV_SIGNAL | libc::SIGEV_THREAD => Target::Process,
        libc::SIGEV_THREAD_ID if ctx.process.threads.get(tid).is_some() => Target::Thread(tid),
        _ => return Err(Errno::EINVAL),
    };
    if target != Target::Nobody && !(1..=64).contains(&signo) {
        return Err(Errno::EINVAL);
    }
    let sigval = bytes.first_chunk().copied().unwrap_or_default();
    Ok((signo, u64::from_le_bytes(sigval), target))
}

/// `timer_create(2)`.
pub(in crate::linux) fn timer_create(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [clock, event_at, id_at, ..] = *a;
    let clock = host_clock(ctx, clock)?;
    let event = if event_at == 0 { None } else { Some(read_event(ctx, event_at)?) };
    let timers = &ctx.process.timers;
    let mut inner = timers.lock();
    let id = inner.next;
    let default = (libc::SIGALRM, u64::from(id.cast_unsigned()), Target::Process);
    let (signo, sigval, target) = event.unwrap_or(default);
    let tell = match target {
        Target::Nobody => Tell::Nobody,
        _ => timers.tell(u64::from(id.cast_unsigned())),
    };
    let host = HostTimer::new(clock, tell)?;
    ctx.user().copy_out(id_at, &id.to_le_bytes())?;
    inner.next = id.checked_add(1).ok_or(Errno::EAGAIN)?;
    inner.timers.insert(id, Timer { host, target, signo, sigval, overruns: 0 });
    value(0)
}

/// What the program passes as interval and first time: each in seconds, and the rest in units of
/// `unit` nanoseconds.
fn spec(words: [u64; 4], unit: i64) -> libc::itimerspec {
    let [interval_sec, interval, sec, rest] = words.map(u64::cast_signed);
    let time = |tv_sec, rest: i64| libc::timespec { tv_sec, tv_nsec: rest * unit };
    libc::itimerspec { it_interval: time(interval_sec, interval), it_value: time(sec, rest) }
}

/// The inverse of [`spec`].
fn four(spec: &libc::itimerspec, unit: i64) -> [u64; 4] {
    let (interval, left) = (spec.it_interval, spec.it_value);
    [interval.tv_sec, interval.tv_nsec / unit, left.tv_sec, left.tv_nsec / unit]
        .map(i64::cast_unsigned)
}

/// `timer_settime(2)`.
pub(in crate::linux) fn timer_settime(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [id, flags, new, old, ..] = *a;
    if new == 0 {
        return Err(Errno::EINVAL.into());
    }
    let new = spec(ctx.user().read_words(new)?, 1);
    let before = {
        let mut inner = ctx.process.timers.lock();
        let timer = inner.timers.get_mut(&(id as i32)).ok_or(Errno::EINVAL)?;
        let before = timer.host.set(flags as i32, &new)?;
        timer.overruns = 0;
        before
    };
    done(ctx.user().put_words(old, four(&before, 1)))
}

/// `timer_gettime(2)`.
pub(in crate::linux) fn timer_gettime(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let now = {
        let inner = ctx.process.timers.lock();
        inner.timers.get(&(a[0] as i32)).ok_or(Errno::EINVAL)?.host.get()?
    };
    done(ctx.user().write_words(a[1], four(&now, 1)))
}

/// `timer_getoverrun(2)`.
pub(in crate::linux) fn timer_getoverrun(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let inner = ctx.process.timers.lock();
    let timer = inner.timers.get(&(a[0] as i32)).ok_or(Errno::EINVAL)?;
    value(u64::from(timer.overruns.min(MOST_OVERRUNS)))
}

/// `timer_delete(2)`.
pub(in crate::linux) fn timer_delete(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let id = a[0] as i32;
    ctx.process.timers.lock().timers.remove(&id).ok_or(Errno::EINVAL)?;
    signal::forget_timer(ctx.process, id);
    value(0)
}

/// The clock of an interval timer.
pub(super) fn interval_clock(which: i32) -> Result<libc::clockid_t, Errno> {
    match which {
        libc::ITIMER_REAL => Ok(libc::CLOCK_MONOTONIC),
        libc::ITIMER_VIRTUAL => Ok(process_clock(1)),
        libc::ITIMER_PROF => Ok(process_clock(0)),
        _ => Err(Errno::EINVAL),
    }
}

impl Timers {
    /// Sets an interval timer; returns the time that was left.
    pub(super) fn interval(
        &self,
        which: i32,
        flags: i32,
        new: &libc::itimerspec,
    ) -> Result<libc::itimerspec, Errno> {
        let clock = interval_clock(which)?;
        let mut inner = self.lock();
        let interval = inner.intervals.get_mut(which as usize).ok_or(Errno::EINVAL)?;
        let timer = match interval {
            Some(timer) => timer,
            None => {
                let tell = self.tell(INTERVAL | u64::from(which.cast_unsigned()));
                interval.insert(HostTimer::new(clock, tell)?)
            }
        };
        timer.set(flags, new)
    }
}

/// `setitimer(2)`.
pub(in crate::linux) fn setitimer(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [which, new, old, ..] = *a;
    // Without new times Linux assumes zeroes.
    let new = if new == 0 { [0; 4] } else { ctx.user().read_words(new)? };
    let [interval_sec, interval_usec, sec, usec] = new.map(u64::cast_signed);
    let valid = |sec: i64, usec: i64| sec >= 0 && (0..1_000_000).contains(&usec);
    if !valid(interval_sec, interval_usec) || !valid(sec, usec) {
        return Err(Errno::EINVAL.into());
    }
    let before = ctx.process.timers.interval(which as i32, 0, &spec(new, 1000))?;
    done(ctx.user().put_words(old, four(&before, 1000)))
}

/// `getitimer(2)`.
pub(in crate::linux) fn getitimer(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    interval_clock(a[0] as i32)?;
    let now = {
        let inner = ctx.process.timers.lock();
        match inner.intervals.get(a[0] as usize) {
            Some(Some(timer)) => four(&timer.get()?, 1000),
            _ => [0; 4],
        }
    };
    done(ctx.user().write_words(a[1], now))
}

/// `alarm(2)`.
pub(in crate::linux) fn alarm(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let new = spec([0, 0, u64::from(a[0] as u32), 0], 1);
    let left = ctx.process.timers.interval(libc::ITIMER_REAL, 0, &new)?.it_value;
    // To the nearest second, but never 0 for a timer that runs.
    let up = left.tv_nsec >= 500_000_000 || (left.tv_sec == 0 && left.tv_nsec > 0);
    value((left.tv_sec + i64::from(up)).cast_unsigned())
}
