//! Going from one location to another: the switch itself, for spaces in a VM and in plain memory.

use abi::Errno;

use super::visit::Refused;
use crate::handle::VasHandle;
use crate::location::Location;
use crate::location::wait::{EntryOutcome, Wait};
use crate::sys::{vas_nest, vas_return, vas_switch, vas_switch_timeout, vas_try_switch};

/// How a thread goes from one location to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// What both need stays, the rest of the first is given up.
    Switch,
    /// Nothing of the first is given up.
    Nest,
    /// Back, after that.
    Return,
}

impl Way {
    /// Back from where it led.
    pub(crate) fn back(self) -> Way {
        match self {
            Way::Switch => Way::Switch,
            Way::Nest | Way::Return => Way::Return,
        }
    }
}

/// Moves the calling thread from `from` to `to`. After an error it is where it was.
///
/// # Safety
/// The thread is at `from`, and no reference into what is there is used until it is back. Locks
/// of plain memory and grounds outlive its stay. It goes back the way that it came.
pub(crate) unsafe fn go(
    from: Location,
    to: Location,
    way: Way,
    wait: Wait,
) -> Result<EntryOutcome, Refused> {
    from.unlock();
    // Plain memory is visited without leaving the instance.
    let moves = match way {
        Way::Switch => to.vh != from.vh,
        Way::Nest => to.plain.is_none(),
        Way::Return => from.plain.is_none(),
    };
    let result = match to.lock(wait) {
        Ok(outcome) if moves => {
            let moved = match way {
                // SAFETY: the caller's promise.
                Way::Switch => unsafe { switch(to.vh, wait) }.map_err(Refused::Switch),
                // SAFETY: the caller's promise.
                Way::Nest => unsafe { nest(to.vh, wait) },
                Way::Return => {
                    // SAFETY: the caller's promise.
                    let back = unsafe { vas_return() };
                    back.map(|_| EntryOutcome::Clean).map_err(Refused::Switch)
                }
            };
            let moved = moved.inspect_err(|_| to.unlock());
            moved.map(|other| if outcome == EntryOutcome::Clean { other } else { outcome })
        }
        other => other.map_err(Refused::Switch),
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
    until_done(|| match wait {
        // SAFETY: the caller's promise.
        Wait::Forever | Wait::Return => unsafe { vas_switch(vh) },
        // SAFETY: the caller's promise.
        Wait::Never => unsafe { vas_try_switch(vh) },
        Wait::Until(_) => {
            let limit = wait.remaining().unwrap_or_default();
            // SAFETY: the caller's promise.
            unsafe { vas_switch_timeout(vh, limit) }
        }
    })
}

/// Enters `vh` from a visit, which is suspended.
///
/// # Safety
/// As [`vas_nest`].
unsafe fn nest(vh: VasHandle, wait: Wait) -> Result<EntryOutcome, Refused> {
    // SAFETY: the caller's promise.
    let nested = until_done(|| unsafe { vas_nest(vh, wait.remaining()) });
    nested.map_err(|errno| match errno {
        Errno::EDEADLK => Refused::OwnLock,
        errno => Refused::Switch(errno),
    })
}

fn until_done(mut enter: impl FnMut() -> Result<(), Errno>) -> Result<EntryOutcome, Errno> {
    loop {
        match enter() {
            Ok(()) => return Ok(EntryOutcome::Clean),
            Err(Errno::EOWNERDEAD) => return Ok(EntryOutcome::OwnerDied),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
