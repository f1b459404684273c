//! The program's timers, and the handling of one that has expired. The calls on them (`alarm`,
//! `setitimer`, `timer_create` and kin) are in `calls`.
//!
//! Each is a timer of the host kernel on the same clock. It notifies the event loop, which turns
//! that into a signal of the program. Not a `timerfd`: those do not support CPU-time clocks.

mod calls;
pub mod host;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use abi::Errno;

use super::signal::info::{SI_KERNEL, SI_TIMER, SigInfo};
use super::signal::{send_to_first_of, send_to_process, send_to_thread};
use super::task::Process;
use super::time::{now, process_clock};
pub(super) use calls::{
    alarm, getitimer, setitimer, timer_create, timer_delete, timer_getoverrun, timer_gettime,
    timer_settime,
};
use host::{HostTimer, Tell};

/// Most overruns reported (DELAYTIMER_MAX).
const MOST_OVERRUNS: u32 = i32::MAX as u32;
/// Flag in a timer's value: it is an interval timer; the other bits say which.
const INTERVAL: u64 = 1 << 32;
/// Flag in that value: CPU time has reached a limit.
const CPU_LIMIT: u64 = 1 << 33;
/// Flag in that value: the processor time of the run is to be looked at.
const RUN_LIMIT: u64 = 1 << 34;
/// Processor time of a process after which it looks at that of the run.
const LOOK: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// What is left for a handler of SIGXCPU.
const GRACE: Duration = Duration::from_secs(1);

/// The timers of a process.
#[derive(Debug, Default)]
pub struct Timers {
    inner: Mutex<Inner>,
    /// The host thread of the event loop, which is notified.
    server: AtomicI32,
    /// The interval timers while no event loop is there: between two programs.
    aside: Mutex<Intervals>,
}

/// The interval timers that run, each with the time of its clock when it expires, and its interval.
pub(crate) type Intervals = [Option<libc::itimerspec>; 3];

#[derive(Debug, Default)]
struct Inner {
    timers: BTreeMap<i32, Timer>,
    /// Numbers are not reused, so that a late signal is not attributed to another timer.
    next: i32,
    /// `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`.
    intervals: [Option<HostTimer>; 3],
    /// Fires at the soft limit of CPU time and each second after it; with the hard limit.
    cpu_limit: Option<(HostTimer, u64)>,
    /// Fires whenever this process has used some time, with whether the program has been told.
    run_limit: Option<(HostTimer, bool)>,
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
    /// Overruns of the signal delivered last.
    overruns: u32,
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// From now on the calling thread, `tid`, is notified.
    pub(crate) fn serve_by(&self, tid: i32) {
        self.server.store(tid, Ordering::Relaxed);
    }

    fn tell(&self, word: u64) -> Tell {
        Tell::Thread(self.server.load(Ordering::Relaxed), word)
    }

    /// Records what `timer_getoverrun` returns when a timer's signal is delivered.
    pub(super) fn note_taken(&self, info: &SigInfo) {
        if info.code == SI_TIMER
            && let Some(timer) = self.lock().timers.get_mut(&(info.value as i32))
        {
            timer.overruns = (info.value >> 32) as u32;
        }
    }

    /// Watches `RLIMIT_CPU`, in seconds of the VMM's CPU time: from the soft limit on SIGXCPU is
    /// sent once a second, at the hard limit SIGKILL.
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
        // A time of 0 would disarm the timer; Linux uses a second instead, too.
        let first = i64::try_from(soft.max(1)).unwrap_or(i64::MAX);
        let at = |tv_sec| libc::timespec { tv_sec, tv_nsec: 0 };
        let times = libc::itimerspec { it_interval: at(1), it_value: at(first) };
        timer.set(libc::TIMER_ABSTIME, &times)?;
        inner.cpu_limit = Some((timer, hard));
        Ok(())
    }

    /// Watches the processor time of all processes of the run together: from a limit on, each that uses any gets
    /// SIGXCPU, and a second later SIGKILL. A process that waits looks at nothing.
    ///
    /// # Errors
    /// `EAGAIN` when the user has too many timers.
    pub(crate) fn watch_run(&self) -> Result<(), Errno> {
        let timer = HostTimer::new(process_clock(0), self.tell(RUN_LIMIT))?;
        // At once, for a process that is started when the time is over.
        let soon = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        timer.set(0, &libc::itimerspec { it_interval: LOOK, it_value: soon })?;
        self.lock().run_limit = Some((timer, false));
        Ok(())
    }

    /// The signal that a limit of the run's asks for, once for each.
    fn run_signal(&self, used: Duration, limit: Duration) -> Option<i32> {
        let mut inner = self.lock();
        let (_, is_told) = inner.run_limit.as_mut()?;
        match used {
            used if used >= limit.saturating_add(GRACE) => Some(libc::SIGKILL),
            used if used >= limit => (!std::mem::replace(is_told, true)).then_some(libc::SIGXCPU),
            _ => None,
        }
    }

    /// The signal for a limit of CPU time that has been reached.
    fn cpu_signal(&self) -> i32 {
        let hard = self.lock().cpu_limit.as_ref().map_or(u64::MAX, |(_, hard)| *hard);
        let used = now(process_clock(0)).map_or(0, |time| time.tv_sec.unsigned_abs());
        if used >= hard { libc::SIGKILL } else { libc::SIGXCPU }
    }

    fn intervals_left(&self) -> [libc::itimerspec; 3] {
        let inner = self.lock();
        inner
            .intervals
            .each_ref()
            .map(|timer| timer.as_ref().and_then(|timer| timer.get().ok()).unwrap_or(host::NEVER))
    }

    /// Those will run when there is an event loop.
    pub(crate) fn put_aside(&self, intervals: Intervals) {
        *self.aside.lock().unwrap_or_else(|poison| poison.into_inner()) = intervals;
    }

    /// Those that were put aside, once.
    pub(super) fn take_aside(&self) -> Intervals {
        std::mem::take(&mut *self.aside.lock().unwrap_or_else(|poison| poison.into_inner()))
    }

    /// Lets those run that were put aside; the calling thread is notified.
    ///
    /// # Errors
    /// `EAGAIN` when the user has too many timers.
    pub(crate) fn resume_intervals(&self) -> Result<(), Errno> {
        for (which, times) in (0..).zip(self.take_aside()) {
            let Some(times) = times else { continue };
            self.interval(which, libc::TIMER_ABSTIME, &times)?;
        }
        Ok(())
    }

    /// Whether the program has any.
    pub(crate) fn has_any(&self) -> bool {
        let inner = self.lock();
        !inner.timers.is_empty() || inner.intervals.iter().any(Option::is_some)
    }

    /// Deletes all timers: no thread is left to be notified.
    pub(crate) fn clear(&self) {
        *self.lock() = Inner::default();
    }
}

/// Stops the interval timers, for the program that takes this one's place. To be called by the thread that is
/// notified; `handle_expired` handles those that have expired.
pub(crate) fn stop_intervals(process: &Process, handle_expired: impl FnOnce()) {
    let timers = &process.timers;
    let before = timers.intervals_left();
    handle_expired();
    let mut aside = Intervals::default();
    let mut late = Vec::new();
    {
        let inner = timers.lock();
        let all = (0..).zip(&inner.intervals).zip(before).zip(&mut aside);
        for (((which, timer), before), aside) in all {
            let Some(timer) = timer else { continue };
            let left = timer.set(0, &host::NEVER).unwrap_or(host::NEVER);
            // It has expired meanwhile: newer kernels drop the signal of a timer that is set again.
            if host::is_later(before.it_value, host::NEVER.it_value)
                && (!host::is_later(left.it_value, host::NEVER.it_value)
                    || host::is_later(left.it_value, before.it_value))
            {
                late.push(INTERVAL | u64::from(i32::cast_unsigned(which)));
            }
            *aside = calls::interval_clock(which).ok().and_then(|clock| host::at(clock, left));
        }
    }
    late.into_iter().for_each(|word| expired(process, word, 0));
    timers.put_aside(aside);
}

/// A timer of the host has expired, and `overruns` more times since it was last handled here.
pub(crate) fn expired(process: &Process, word: u64, overruns: u32) {
    if word & CPU_LIMIT != 0 {
        let signo = process.timers.cpu_signal();
        let _ = send_to_process(process, SigInfo::new(signo, SI_KERNEL, 0));
        return;
    }
    if word & RUN_LIMIT != 0 {
        let registry = process.children.member().map(|member| member.registry().clone());
        let limited =
            registry.and_then(|run| Some((run.processor_time(), run.processor_time_limit()?)));
        let signo = limited.and_then(|(used, limit)| process.timers.run_signal(used, limit));
        if let Some(signo) = signo {
            let _ = send_to_process(process, SigInfo::new(signo, SI_KERNEL, 0));
        }
        return;
    }
    if word & INTERVAL != 0 {
        let signo = match (word & !INTERVAL) as i32 {
            libc::ITIMER_REAL => libc::SIGALRM,
            libc::ITIMER_VIRTUAL => libc::SIGVTALRM,
            _ => libc::SIGPROF,
        };
        let mut threads = process.threads.all();
        if signo != libc::SIGALRM {
            // Of processor time a thread is told that spends it, as on Linux: profilers rely on it.
            threads.sort_by_cached_key(|thread| Reverse(thread.spent_since()));
        }
        // An ordinary signal carries nothing that could be lost.
        let _ = send_to_first_of(process, &threads, SigInfo::new(signo, SI_KERNEL, 0));
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
