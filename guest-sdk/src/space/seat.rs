//! Going from one place to another: the switch itself, for spaces in a VM and in plain memory.

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use abi::Errno;

use super::plain::PlainLock;
use crate::sys::{VasHandle, vas_switch, vas_switch_timeout, vas_try_switch};

/// How long to wait for locks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    Forever,
    Never,
    Until(Instant),
}

impl Wait {
    /// What is left of it; `None` for no limit.
    pub(crate) fn remaining(self) -> Option<Duration> {
        match self {
            Wait::Forever => None,
            Wait::Never => Some(Duration::ZERO),
            Wait::Until(end) => Some(end.saturating_duration_since(Instant::now())),
        }
    }
}

/// Where a thread can go back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat {
    /// The instance the thread is in.
    pub(crate) vh: VasHandle,
    /// The lock of plain memory that it holds besides.
    pub(crate) plain: Option<(NonNull<PlainLock>, Access)>,
}

/// Shared or exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Shared,
    Exclusive,
}

/// How one has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// With everything as it should be.
    Sound,
    /// Inside, but a holder of a lock died.
    OwnerDead,
}

impl Seat {
    pub(crate) const HOME: Seat = Seat { vh: VasHandle::HOME, plain: None };

    /// Moves the calling thread from `self` to `to`. After an error it is where it was.
    ///
    /// # Safety
    /// The thread is at `self`, and no reference into what is there is used until it is back. Locks
    /// of plain memory outlive its stay.
    pub(crate) unsafe fn go(self, to: Seat, wait: Wait) -> Result<Arrival, Errno> {
        self.unlock();
        let result = match to.plain {
            Some((lock, access)) => {
                // SAFETY: it outlives the stay.
                unsafe { lock.as_ref() }.lock(access, wait)
            }
            None => Ok(Arrival::Sound),
        };
        let result = match result {
            Ok(arrival) if to.vh != self.vh => {
                // SAFETY: the caller's promise.
                let switched = unsafe { switch(to.vh, wait) }.inspect_err(|_| to.unlock());
                switched.map(|other| if arrival == Arrival::Sound { other } else { arrival })
            }
            other => other,
        };
        if result.is_err() {
            self.relock();
        }
        result
    }

    fn unlock(self) {
        if let Some((lock, access)) = self.plain {
            // SAFETY: it outlives the stay.
            unsafe { lock.as_ref() }.unlock(access);
        }
    }

    fn relock(self) {
        if let Some((lock, access)) = self.plain {
            // SAFETY: it outlives the stay. Without a limit locking does not fail.
            let _ = unsafe { lock.as_ref() }.lock(access, Wait::Forever);
        }
    }
}

/// Switches to `vh`; a signal that was handled meanwhile is no reason to give up.
///
/// # Safety
/// As [`vas_switch`].
unsafe fn switch(vh: VasHandle, wait: Wait) -> Result<Arrival, Errno> {
    loop {
        let result = match wait {
            // SAFETY: the caller's promise.
            Wait::Forever => unsafe { vas_switch(vh) },
            // SAFETY: the caller's promise.
            Wait::Never => unsafe { vas_try_switch(vh) },
            Wait::Until(_) => {
                let limit = wait.remaining().unwrap_or_default();
                // SAFETY: the caller's promise.
                unsafe { vas_switch_timeout(vh, limit) }
            }
        };
        match result {
            Ok(()) => return Ok(Arrival::Sound),
            Err(Errno::EOWNERDEAD) => return Ok(Arrival::OwnerDead),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
