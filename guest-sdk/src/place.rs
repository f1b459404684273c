//! Where the calling thread is: one thread-local word of truth for everything that cannot
//! have a token, which is destructors and allocators.
//!
//! Only entering and leaving (`space/visit.rs`) write it. Its destructor-free cell can be read at
//! any time in a thread's life, also while the thread's other locals are being dropped.

use std::any::TypeId;
use std::cell::Cell;
use std::ptr::NonNull;

use crate::alloc::SpaceHeap;
use crate::brand::Brand;
use crate::space::seat::Seat;

/// A place a thread can be in.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The brand of the VAS; `None` at home.
    pub(crate) brand: Option<TypeId>,
    /// What messages call it.
    pub(crate) name: &'static str,
    /// Whether the thread holds the VAS's lock exclusively and its memory may be written.
    pub(crate) writable: bool,
    /// The heap of the VAS, for as long as the thread is inside; `None` at home, read-only.
    pub(crate) heap: Option<NonNull<dyn SpaceHeap>>,
    /// What has to be gone back to.
    pub(crate) seat: Seat,
}

impl Place {
    pub(crate) const HOME: Place =
        Place { brand: None, name: "home", writable: false, heap: None, seat: Seat::HOME };
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::HOME) };
}

/// Where the calling thread is.
#[inline]
pub(crate) fn current() -> Place {
    PLACE.get()
}

/// Notes that the calling thread has moved; where it was before.
#[inline]
pub(crate) fn set(place: Place) -> Place {
    PLACE.replace(place)
}

/// How the calling thread is inside a VAS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// At home, or in another VAS: memory of this one must not be touched.
    Elsewhere,
    /// Inside, with shared access.
    ReadOnly,
    /// Inside, with exclusive access.
    Writable,
}

/// How the calling thread is inside `V`.
///
/// For destructors of types that own memory in `V`: they must not touch it unless this is
/// [`Inside::Writable`], and leak it otherwise. Everything else takes a token.
#[inline]
#[must_use]
pub fn inside<V: Brand>() -> Inside {
    let place = current();
    match (place.brand == Some(TypeId::of::<V>()), place.writable) {
        (false, _) => Inside::Elsewhere,
        (true, false) => Inside::ReadOnly,
        (true, true) => Inside::Writable,
    }
}
