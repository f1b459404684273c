//! `timerfd`: the host's own. Its clocks are the program's.
#![forbid(unsafe_code)]

use abi::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_gettime, timerfd_settime,
};

use super::{CallResult, descriptor, done};
use crate::files::host;
use crate::linux::task::ThreadCtx;

/// `timerfd_create(2)`.
pub(super) fn create(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let flags = a[1] as u32;
    let known = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let clock = match a[0] as i32 {
        libc::CLOCK_REALTIME => TimerfdClockId::Realtime,
        libc::CLOCK_MONOTONIC => TimerfdClockId::Monotonic,
        libc::CLOCK_BOOTTIME => TimerfdClockId::Boottime,
        // They wake the machine, for which a program has no right.
        libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM if flags & !known.bits() == 0 => {
            return Err(Errno::EPERM.into());
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    if flags & !known.bits() != 0 {
        return Err(Errno::EINVAL.into());
    }
    let given = TimerfdFlags::from_bits_retain(flags);
    let fd = timerfd_create(clock, given | TimerfdFlags::CLOEXEC).map_err(host)?;
    descriptor(ctx.files().own(fd, given.contains(TimerfdFlags::CLOEXEC)))
}

/// `timerfd_settime(2)`.
pub(super) fn settime(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let words: [u64; 4] = ctx.user().read_words(a[2])?;
    let [interval_s, interval_ns, value_s, value_ns] = words.map(u64::cast_signed);
    let new = Itimerspec {
        it_interval: Timespec { tv_sec: interval_s, tv_nsec: interval_ns },
        it_value: Timespec { tv_sec: value_s, tv_nsec: value_ns },
    };
    let file = ctx.files().for_io(a[0] as i32)?;
    let flags = TimerfdTimerFlags::from_bits_retain(a[1] as u32);
    let old = timerfd_settime(file.host_fd(), flags, &new).map_err(host)?;
    if a[3] == 0 {
        return done(Ok(()));
    }
    put(ctx, a[3], &old)
}

/// `timerfd_gettime(2)`.
pub(super) fn gettime(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let file = ctx.files().for_io(a[0] as i32)?;
    let now = timerfd_gettime(file.host_fd()).map_err(host)?;
    put(ctx, a[1], &now)
}

fn put(ctx: &ThreadCtx<'_>, at: u64, timer: &Itimerspec) -> CallResult {
    let Itimerspec { it_interval: interval, it_value: value } = timer;
    let words = [interval.tv_sec, interval.tv_nsec, value.tv_sec, value.tv_nsec];
    done(ctx.user().write_words(at, words.map(i64::cast_unsigned)))
}
