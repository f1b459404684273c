//! Going from one place to another: the switch itself, for spaces in a VM and in plain memory.

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use abi::Errno;

use super::ground::Ground;
use super::plain::PlainLock;
use crate::sys::{SegId, VasHandle, vas_switch, vas_switch_timeout, vas_try_switch};

/// How long to wait for locks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    Forever,
    Never,
    Until(Instant),
    /// Forever, to where the thread must go back to.
    Return,
}

impl Wait {
    /// What is left of it; `None` for no limit.
    pub(crate) fn remaining(self) -> Option<Duration> {
        match self {
            Wait::Forever | Wait::Return => None,
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
    /// The addresses that it counts as inside of.
    pub(crate) ground: Option<NonNull<Ground>>,
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
    pub(crate) const HOME: Seat = Seat { vh: VasHandle::HOME, plain: None, ground: None };

    /// Whether the instance that the calling thread, which is here, is in has the segment.
    pub(crate) fn has(self, segment: SegId) -> bool {
        // SAFETY: it outlives the stay.
        self.ground.is_some_and(|ground| unsafe { ground.as_ref() }.has(segment))
    }

    /// Moves the calling thread from `self` to `to`. After an error it is where it was.
    ///
    /// # Safety
    /// The thread is at `self`, and no reference into what is there is used until it is back. Locks
    /// of plain memory and grounds outlive its stay.
    pub(crate) unsafe fn go(self, to: Seat, wait: Wait) -> Result<Arrival, Errno> {
        self.unlock();
        let result = match to.lock(wait) {
            Ok(arrival) if to.vh != self.vh => {
                // SAFETY: the caller's promise.
                let switched = unsafe { switch(to.vh, wait) }.inspect_err(|_| to.unlock());
                switched.map(|other| if arrival == Arrival::Sound { other } else { arrival })
            }
            other => other,
        };
        if result.is_err() {
            // To where the thread is still, locking does not fail.
            let _ = self.lock(Wait::Return);
        }
        result
    }

    /// What the SDK itself keeps of a place, before the switch.
    fn lock(self, wait: Wait) -> Result<Arrival, Errno> {
        let mut arrival = Arrival::Sound;
        if let Some((lock, access)) = self.plain {
            // SAFETY: it outlives the stay.
            arrival = unsafe { lock.as_ref() }.lock(access, wait)?;
        }
        if let Some(ground) = self.ground {
            // SAFETY: it outlives the stay.
            unsafe { ground.as_ref() }.enter(wait)?;
        }
        Ok(arrival)
    }

    fn unlock(self) {
        if let Some((lock, access)) = self.plain {
            // SAFETY: it outlives the stay.
            unsafe { lock.as_ref() }.unlock(access);
        }
        if let Some(ground) = self.ground {
            // SAFETY: it outlives the stay.
            unsafe { ground.as_ref() }.leave();
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
            Wait::Forever | Wait::Return => unsafe { vas_switch(vh) },
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
