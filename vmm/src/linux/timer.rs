//! Timers: `alarm`, `setitimer`, `timer_create` and kin.
//!
//! Each is a timer of the host kernel, by the same clock, which tells the event loop; that
//! makes a signal of the program's of it. Not a `timerfd`: those know no CPU-time clocks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard};

use abi::Errno;

use super::host_timer::{HostTimer, Tell};
use super::signal::info::{SI_KERNEL, SI_TIMER, SigInfo};
use super::signal::{self, send_to_process, send_to_thread};
use super::time::{host_clock, now, process_clock};
use super::{CallResult, value};
use crate::linux::task::{Process, ThreadCtx};

/// Most overruns that are told (DELAYTIMER_MAX).
const MOST_OVERRUNS: u32 = i32::MAX as u32;
/// In the word a timer expires with: it is an interval timer, and which.
const INTERVAL: u64 = 1 << 32;
/// In that word: CPU time has reached a limit.
const CPU_LIMIT: u64 = 1 << 33;

/// The timers of a process.
#[derive(Debug, Default)]
pub struct Timers {
    inner: Mutex<Inner>,
    /// The host thread of the event loop, which is told.
    server: AtomicI32,
}

#[derive(Debug, Default)]
struct Inner {
    timers: BTreeMap<i32, Timer>,
    /// Numbers are not used again, so that a late signal is not another timer's.
    next: i32,
    /// `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`.
    intervals: [Option<HostTimer>; 3],
    /// From the soft limit of CPU time on, once for each second more, and the hard limit.
    cpu_limit: Option<(HostTimer, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Nobody,
    Process,
    Thread(i32),
}

#[derive(Debug)]
struct Timer {
    host: HostTimer,
    target: Target,
    signo: i32,
    sigval: u64,
    /// Overruns of the signal taken last.
    overruns: u32,
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// From now on the calling thread, `tid`, is told.
    pub(crate) fn serve_by(&self, tid: i32) {
        self.server.store(tid, Ordering::Relaxed);
    }

    fn tell(&self, word: u64) -> Tell {
        Tell::Thread(self.server.load(Ordering::Relaxed), word)
    }

    /// Notes what `timer_getoverrun` says, when a timer's signal is taken.
    pub(super) fn note_taken(&self, info: &SigInfo) {
        if info.code == SI_TIMER
            && let Some(timer) = self.lock().timers.get_mut(&(info.value as i32))
        {
            timer.overruns = (info.value >> 32) as u32;
        }
    }

    /// Watches `RLIMIT_CPU`, seconds of the VMM's CPU time: from the soft limit on SIGXCPU comes
    /// once a second, at the hard limit SIGKILL.
    ///
    /// # Errors
    /// `EAGAIN` when the user has too many timers.
    pub(crate) fn limit_cpu(&self, [soft, hard]: [u64; 2]) -> Result<(), Errno> {
        let mut inner = self.lock();
        if soft == u64::MAX {
            inner.cpu_limit = None;
            return Ok(());
        }
        let timer = HostTimer::new(process_clock(0), self.tell(CPU_LIMIT))?;
        // No time at all would be no timer; Linux takes a second for it, too.
        let first = i64::try_from(soft.max(1)).unwrap_or(i64::MAX);
        let at = |tv_sec| libc::timespec { tv_sec, tv_nsec: 0 };
        let times = libc::itimerspec { it_interval: at(1), it_value: at(first) };
        timer.set(libc::TIMER_ABSTIME, &times)?;
        inner.cpu_limit = Some((timer, hard));
        Ok(())
    }

    /// The signal for a limit of CPU time that has been reached.
    fn cpu_signal(&self) -> i32 {
        let hard = self.lock().cpu_limit.as_ref().map_or(u64::MAX, |(_, hard)| *hard);
        let used = now(process_clock(0)).map_or(0, |time| time.tv_sec.unsigned_abs());
        if used >= hard { libc::SIGKILL } else { libc::SIGXCPU }
    }

    /// Ends all timers: nobody is there any more to be told.
    pub(crate) fn clear(&self) {
        *self.lock() = Inner::default();
    }
}

/// A timer of the host has expired, and `overruns` times more since it was last heard of.
pub(crate) fn expired(process: &Process, word: u64, overruns: u32) {
    if word & CPU_LIMIT != 0 {
        let signo = process.timers.cpu_signal();
        let _ = send_to_process(process, SigInfo::new(signo, SI_KERNEL, 0));
        return;
    }
    if word & INTERVAL != 0 {
        let signo = match (word & !INTERVAL) as i32 {
            libc::ITIMER_REAL => libc::SIGALRM,
            libc::ITIMER_VIRTUAL => libc::SIGVTALRM,
            _ => libc::SIGPROF,
        };
        // An ordinary signal carries nothing that could be lost.
        let _ = send_to_process(process, SigInfo::new(signo, SI_KERNEL, 0));
        return;
    }
    let id = word as i32;
    let Some((target, info)) = process.timers.lock().timers.get(&id).map(|timer| {
        let overruns = u64::from(overruns.min(MOST_OVERRUNS));
        let value = u64::from(id.cast_unsigned()) | overruns << 32;
        let info = SigInfo::new(timer.signo, SI_TIMER, value).with_sigval(timer.sigval);
        (timer.target, info)
    }) else {
        return;
    };
    // With too many signals pending this one is lost, as on Linux.
    let _ = match target {
        Target::Nobody => Ok(()),
        Target::Process => send_to_process(process, info),
        Target::Thread(tid) => match process.threads.get(tid) {
            Some(thread) => send_to_thread(process, &thread, info),
            None => Ok(()),
        },
    };
}

/// Signal number, word and target that a `struct sigevent` asks for.
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
        // To the kernel the C library's threads are signals, too.
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
pub(super) fn timer_create(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
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

fn read_itimerspec(ctx: &ThreadCtx<'_>, at: u64) -> Result<libc::itimerspec, Errno> {
    let [interval_sec, interval_frac, sec, frac] = read_four(ctx, at)?;
    Ok(libc::itimerspec {
        it_interval: libc::timespec { tv_sec: interval_sec, tv_nsec: interval_frac },
        it_value: libc::timespec { tv_sec: sec, tv_nsec: frac },
    })
}

/// Four signed words.
fn read_four(ctx: &ThreadCtx<'_>, at: u64) -> Result<[i64; 4], Errno> {
    let mut bytes = [0; 32];
    ctx.user().copy_in(at, &mut bytes)?;
    let mut words = [0; 4];
    for (word, piece) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = i64::from_le_bytes(piece.try_into().unwrap_or_default());
    }
    Ok(words)
}

fn write_four(ctx: &ThreadCtx<'_>, at: u64, words: [i64; 4]) -> Result<(), Errno> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    ctx.user().copy_out(at, &bytes)
}

fn four(spec: &libc::itimerspec, divisor: i64) -> [i64; 4] {
    let (interval, left) = (spec.it_interval, spec.it_value);
    [interval.tv_sec, interval.tv_nsec / divisor, left.tv_sec, left.tv_nsec / divisor]
}

/// `timer_settime(2)`.
pub(super) fn timer_settime(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [id, flags, new, old, ..] = *a;
    if new == 0 {
        return Err(Errno::EINVAL.into());
    }
    let new = read_itimerspec(ctx, new)?;
    let before = {
        let mut inner = ctx.process.timers.lock();
        let timer = inner.timers.get_mut(&(id as i32)).ok_or(Errno::EINVAL)?;
        let before = timer.host.set(flags as i32, &new)?;
        timer.overruns = 0;
        before
    };
    if old != 0 {
        write_four(ctx, old, four(&before, 1))?;
    }
    value(0)
}

/// `timer_gettime(2)`.
pub(super) fn timer_gettime(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let now = {
        let inner = ctx.process.timers.lock();
        inner.timers.get(&(a[0] as i32)).ok_or(Errno::EINVAL)?.host.get()?
    };
    write_four(ctx, a[1], four(&now, 1))?;
    value(0)
}

/// `timer_getoverrun(2)`.
pub(super) fn timer_getoverrun(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let inner = ctx.process.timers.lock();
    let timer = inner.timers.get(&(a[0] as i32)).ok_or(Errno::EINVAL)?;
    value(u64::from(timer.overruns.min(MOST_OVERRUNS)))
}

/// `timer_delete(2)`.
pub(super) fn timer_delete(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let id = a[0] as i32;
    ctx.process.timers.lock().timers.remove(&id).ok_or(Errno::EINVAL)?;
    signal::forget_timer(ctx.process, id);
    value(0)
}

/// The clock of an interval timer.
fn interval_clock(which: i32) -> Result<libc::clockid_t, Errno> {
    match which {
        libc::ITIMER_REAL => Ok(libc::CLOCK_MONOTONIC),
        libc::ITIMER_VIRTUAL => Ok(process_clock(1)),
        libc::ITIMER_PROF => Ok(process_clock(0)),
        _ => Err(Errno::EINVAL),
    }
}

/// Sets an interval timer; returns what was left.
fn set_interval(
    ctx: &ThreadCtx<'_>,
    which: i32,
    new: &libc::itimerspec,
) -> Result<libc::itimerspec, Errno> {
    let clock = interval_clock(which)?;
    let timers = &ctx.process.timers;
    let mut inner = timers.lock();
    let slot = inner.intervals.get_mut(which as usize).ok_or(Errno::EINVAL)?;
    let timer = match slot {
        Some(timer) => timer,
        None => {
            let tell = timers.tell(INTERVAL | u64::from(which.cast_unsigned()));
            slot.insert(HostTimer::new(clock, tell)?)
        }
    };
    timer.set(0, new)
}

/// `setitimer(2)`.
pub(super) fn setitimer(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [which, new, old, ..] = *a;
    // Without new times Linux takes zeroes.
    let [interval_sec, interval_usec, sec, usec] =
        if new == 0 { [0; 4] } else { read_four(ctx, new)? };
    let valid = |sec: i64, usec: i64| sec >= 0 && (0..1_000_000).contains(&usec);
    if !valid(interval_sec, interval_usec) || !valid(sec, usec) {
        return Err(Errno::EINVAL.into());
    }
    let new = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: interval_sec, tv_nsec: interval_usec * 1000 },
        it_value: libc::timespec { tv_sec: sec, tv_nsec: usec * 1000 },
    };
    let before = set_interval(ctx, which as i32, &new)?;
    if old != 0 {
        write_four(ctx, old, four(&before, 1000))?;
    }
    value(0)
}

/// `getitimer(2)`.
pub(super) fn getitimer(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    interval_clock(a[0] as i32)?;
    let now = {
        let inner = ctx.process.timers.lock();
        match inner.intervals.get(a[0] as usize) {
            Some(Some(timer)) => four(&timer.get()?, 1000),
            _ => [0; 4],
        }
    };
    write_four(ctx, a[1], now)?;
    value(0)
}

/// `alarm(2)`.
pub(super) fn alarm(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let at = libc::timespec { tv_sec: i64::from(a[0] as u32), tv_nsec: 0 };
    let new = libc::itimerspec { it_interval: none, it_value: at };
    let left = set_interval(ctx, libc::ITIMER_REAL, &new)?.it_value;
    // To the nearest second, but never 0 for a timer that runs.
    let up = left.tv_nsec >= 500_000_000 || (left.tv_sec == 0 && left.tv_nsec > 0);
    value((left.tv_sec + i64::from(up)).cast_unsigned())
}
