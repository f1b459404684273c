//! One visit: going in, running a closure with a witness, and leaving again however it ends.

use std::any::TypeId;
use std::ptr::NonNull;

use abi::Errno;

use super::seat::{Access, Arrival, Seat, Wait};
use crate::alloc::SpaceHeap;
use crate::brand::Brand;
use crate::place::{self, Place, Scope};
use crate::token::{At, Mode};

/// Where a visit goes.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) seat: Seat,
    pub(crate) heap: NonNull<dyn SpaceHeap>,
}

/// What to do about a holder of the lock that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dead {
    /// Leave at once.
    Refuse,
    /// Go on: the caller knows.
    Accept,
}

/// Why a visit did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The switch failed.
    Switch(Errno),
    /// A holder of the lock died.
    OwnerDead,
}

/// Goes back when it is dropped.
struct Guard {
    before: Place,
    seat: Seat,
}

impl Drop for Guard {
    fn drop(&mut self) {
        place::set(self.before);
        // SAFETY: the token of the visit is gone, and with it every borrow of what is left.
        let back = unsafe { self.seat.go(self.before.seat, Wait::Return) };
        if back != Ok(Arrival::Sound) {
            lost(self.before, back);
        }
    }
}

/// The thread cannot go back where a token says that it is, or what is there is broken. Unwinding
/// would not help: code on the way could catch it and use the token.
#[cold]
fn lost(place: Place, back: Result<Arrival, Errno>) -> ! {
    let reason = match back {
        Err(errno) => errno.to_string(),
        Ok(_) => "another holder of its lock died meanwhile".to_owned(),
    };
    eprintln!("spacejmp: cannot go back to {}: {reason}; the process ends", place.name);
    std::process::abort()
}

/// Goes to `target`, calls `f` with a witness, and goes back.
///
/// # Safety
/// Whatever token the thread has is borrowed mutably until this returns. The target is
/// one of `V`, its heap valid for whoever is inside as `M` says, and both outlive the visit.
pub(crate) unsafe fn visit<V: Brand, M: Mode, R>(
    target: Target,
    wait: Wait,
    dead: Dead,
    f: impl FnOnce(At<V, M>) -> R,
) -> Result<R, Refused> {
    let before = place::current();
    // SAFETY: no reference into where the thread is can be used while the token is borrowed.
    let arrival = unsafe { before.seat.go(target.seat, wait) }.map_err(Refused::Switch)?;
    let guard = Guard { before, seat: target.seat };
    if arrival == Arrival::OwnerDead && dead == Dead::Refuse {
        return Err(Refused::OwnerDead);
    }
    place::set(Place {
        brand: Some(TypeId::of::<V>()),
        name: V::NAME,
        writable: M::WRITABLE,
        heap: M::WRITABLE.then_some(target.heap),
        scope: Scope::Outside,
        seat: target.seat,
    });
    // SAFETY: the thread is inside until the guard is dropped, when `f` is done with it.
    let result = f(unsafe { At::new() });
    drop(guard);
    Ok(result)
}

/// How a mode locks.
pub(crate) const fn access<M: Mode>() -> Access {
    if M::WRITABLE { Access::Exclusive } else { Access::Shared }
}
