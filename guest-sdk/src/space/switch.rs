//! Going from one location to another: the switch itself, for spaces in a VM and in plain memory.

use abi::Errno;

use crate::handle::VasHandle;
use crate::location::Location;
use crate::location::wait::{EntryOutcome, Wait};
use crate::sys::{vas_switch, vas_switch_timeout, vas_try_switch};

/// Moves the calling thread from `from` to `to`. After an error it is where it was.
///
/// # Safety
/// The thread is at `from`, and no reference into what is there is used until it is back. Locks
/// of plain memory and grounds outlive its stay.
pub(crate) unsafe fn go(from: Location, to: Location, wait: Wait) -> Result<EntryOutcome, Errno> {
    from.unlock();
    let result = match to.lock(wait) {
        Ok(outcome) if to.vh != from.vh => {
            // SAFETY: the caller's promise.
            let switched = unsafe { switch(to.vh, wait) }.inspect_err(|_| to.unlock());
            switched.map(|other| if outcome == EntryOutcome::Clean { other } else { outcome })
        }
        other => other,
    };
    if result.is_err() {
        // For the location the thread is still in, locking does not fail.
        let _ = from.lock(Wait::Return);
    }
    result
}

/// Switches to `vh`; a handled signal is no reason to give up.
///
/// # Safety
/// As [`vas_switch`].
unsafe fn switch(vh: VasHandle, wait: Wait) -> Result<EntryOutcome, Errno> {
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
            Ok(()) => return Ok(EntryOutcome::Clean),
            Err(Errno::EOWNERDEAD) => return Ok(EntryOutcome::OwnerDied),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
