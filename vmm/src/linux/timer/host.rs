//! A timer of the host kernel. It expires to one thread, as a signal that the thread reads from a
//! descriptor.

use std::mem::MaybeUninit;

use abi::Errno;

use crate::linux::time::{checked, now};

/// The signal timers expire with: blocked in the one thread it is sent to, seen by no other.
#[must_use]
pub fn timer_signal() -> libc::c_int {
    libc::SIGRTMIN() + 1
}

/// Which thread is notified.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tell {
    /// None: the timer is only queried.
    Nobody,
    /// This host thread, with this value.
    Thread(i32, u64),
}

/// A timer of the host.
#[derive(Debug)]
pub(super) struct HostTimer(i32);

impl HostTimer {
    /// A timer by a clock of the host; for a thread's CPU time, the calling thread's.
    ///
    /// # Errors
    /// `EINVAL` or `EOPNOTSUPP` for a clock that has no timers, `EPERM` for one that the user
    /// may not use, `EAGAIN` when the user has too many.
    pub(super) fn new(clock: libc::clockid_t, tell: Tell) -> Result<HostTimer, Errno> {
        let mut event = MaybeUninit::<libc::sigevent>::zeroed();
        // SAFETY: integers, a union of two and a pointer: zeroes are valid.
        let event = unsafe { event.assume_init_mut() };
        match tell {
            Tell::Nobody => event.sigev_notify = libc::SIGEV_NONE,
            Tell::Thread(tid, word) => {
                event.sigev_notify = libc::SIGEV_THREAD_ID;
                event.sigev_signo = timer_signal();
                event.sigev_notify_thread_id = tid;
                event.sigev_value.sival_ptr = std::ptr::without_provenance_mut(word as usize);
            }
        }
        let mut id = 0i32;
        // SAFETY: reads the one structure and writes the other; the raw call, since the C
        // library's has its own timer numbers.
        checked(unsafe {
            libc::syscall(libc::SYS_timer_create, clock, std::ptr::from_ref(event), &raw mut id)
        })?;
        Ok(HostTimer(id))
    }

    /// Arms or, with no value, disarms it; returns the time that was left.
    ///
    /// # Errors
    /// `EINVAL` for invalid times.
    pub(super) fn set(
        &self,
        flags: i32,
        new: &libc::itimerspec,
    ) -> Result<libc::itimerspec, Errno> {
        let mut old = NEVER;
        // SAFETY: reads the one structure and writes the other.
        checked(unsafe {
            let new = std::ptr::from_ref(new);
            libc::syscall(libc::SYS_timer_settime, self.0, flags, new, &raw mut old)
        })?;
        Ok(old)
    }

    /// The time left.
    ///
    /// # Errors
    /// None for an existing timer.
    pub(super) fn get(&self) -> Result<libc::itimerspec, Errno> {
        let mut now = NEVER;
        // SAFETY: writes the structure it is given.
        checked(unsafe { libc::syscall(libc::SYS_timer_gettime, self.0, &raw mut now) })?;
        Ok(now)
    }
}

impl Drop for HostTimer {
    fn drop(&mut self) {
        // SAFETY: takes a number, which is a timer of ours.
        unsafe { libc::syscall(libc::SYS_timer_delete, self.0) };
    }
}

const ZERO: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
/// The times of a timer that does not run.
pub(super) const NEVER: libc::itimerspec = libc::itimerspec { it_interval: ZERO, it_value: ZERO };

/// Whether one time is greater.
pub(super) fn is_later(one: libc::timespec, other: libc::timespec) -> bool {
    (one.tv_sec, one.tv_nsec) > (other.tv_sec, other.tv_nsec)
}

/// The same times with the moment by the clock, instead of what is left until then; `None` for a timer that
/// does not run.
pub(super) fn at(clock: libc::clockid_t, left: libc::itimerspec) -> Option<libc::itimerspec> {
    const SECOND: i64 = 1_000_000_000;
    let (now, value) = (now(clock).ok()?, left.it_value);
    if value.tv_sec == 0 && value.tv_nsec == 0 {
        return None;
    }
    let nanoseconds = now.tv_nsec.saturating_add(value.tv_nsec);
    let tv_sec = now.tv_sec.saturating_add(value.tv_sec).saturating_add(nanoseconds / SECOND);
    let it_value = libc::timespec { tv_sec, tv_nsec: nanoseconds % SECOND };
    Some(libc::itimerspec { it_value, ..left })
}
