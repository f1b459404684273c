//! `VArena`: values by number in a VAS, for structures that are shared or cyclic and change.
//!
//! A value has a slot in one vector. A slot counts how often it was filled, and an id has slot and
//! count, so an id whose value is gone differs from that of the value that replaced it.

mod check;
#[cfg(test)]
mod tests;
mod view;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::mem::offset_of;
use std::num::NonZero;

pub use view::{ArenaIter, ArenaMut, ArenaRef};

use super::VKey;
use super::vec::VVec;
use crate::brand::Brand;
use crate::check::{Checker, Place};
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// Owns values in the heap of `V` and names them by [`VId`]s, which are copied freely and may lie
/// anywhere, in other values of the arena too: nodes of graphs, of doubly linked lists, of anything
/// that has cycles and is dismantled again. An id whose value was removed finds nothing.
///
/// ```
/// use spacejmp::collections::{VArena, VId};
/// use spacejmp::{Space, Storable};
///
/// #[derive(Storable)]
/// struct Person {
///     born: u32,
///     friend: Option<VId<Person>>,
/// }
///
/// spacejmp::brand! { People => VArena<Person, People> }
///
/// let people = Space::<People>::in_memory(1 << 20, |_| Ok(VArena::new()))?;
/// let (ada, mary) = people.write(|v| {
///     let (root, at) = v.root_mut();
///     let mut people = root.at_mut(at);
///     let ada = people.insert(Person { born: 1815, friend: None })?;
///     let mary = people.insert(Person { born: 1780, friend: Some(ada) })?;
///     people[ada].friend = Some(mary);
///     Ok::<_, spacejmp::Error>((ada, mary))
/// })?;
/// people.write(|v| {
///     let (root, at) = v.root_mut();
///     let mut people = root.at_mut(at);
///     let friend = people[mary].friend.and_then(|id| people.get(id));
///     assert_eq!(friend.map(|ada| ada.born), Some(1815));
///     people.remove(mary);
///     assert!(people[ada].friend.is_some_and(|id| people.get(id).is_none()));
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// Finding, inserting and removing take the same time whatever the length. Slots of removed values
/// are reused; the memory is freed with the arena. Dropped outside `V`, it leaks what it owns, as
/// `VBox` does.
#[repr(C)]
pub struct VArena<T, V: Brand> {
    slots: VVec<Slot<T>, V>,
    /// The slot to be filled next, counted from 1; 0 for none.
    free: u32,
    len: u32,
}

/// Names a value of a [`VArena`]: plain data, which may lie in any VAS, be sent and be copied, and
/// means nothing without its arena. Given to another arena of the same type it finds nothing or
/// another value.
#[repr(C)]
pub struct VId<T> {
    slot: u32,
    filling: NonZero<u32>,
    _names: PhantomData<fn() -> T>,
}

#[repr(C)]
struct Slot<T> {
    /// How often it was filled; if it is full, this time included.
    fillings: u32,
    /// If it is empty, the next one that is, as `VArena::free`.
    next: u32,
    value: Option<T>,
}

impl<T, V: Brand> VArena<T, V> {
    /// No values, and no memory yet.
    #[inline]
    #[must_use]
    pub const fn new() -> VArena<T, V> {
        VArena { slots: VVec::new(), free: 0, len: 0 }
    }

    /// How many values there are. No token is needed: the number is not in `V`'s heap.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Storable<V>, V: Brand> VArena<T, V> {
    /// The values.
    #[inline]
    #[must_use]
    pub fn at<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> ArenaRef<'a, T> {
        ArenaRef { slots: self.slots.at(at), len: self.len() }
    }

    /// The values, to be changed.
    #[inline]
    #[must_use]
    pub fn at_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> ArenaMut<'a, T, V> {
        ArenaMut { arena: self, at }
    }
}

impl<T> Slot<T> {
    /// The id of its value, if it has one.
    fn id(&self, slot: usize) -> Option<VId<T>> {
        // Arenas make no more slots than numbers.
        let slot = u32::try_from(slot).ok()?;
        let filling = NonZero::new(self.fillings)?;
        self.value.is_some().then_some(VId { slot, filling, _names: PhantomData })
    }
}

impl<T, V: Brand> Default for VArena<T, V> {
    fn default() -> VArena<T, V> {
        VArena::new()
    }
}

impl<T, V: Brand> fmt::Debug for VArena<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VArena<{}>(len {})", V::NAME, self.len())
    }
}

impl<T> Clone for VId<T> {
    #[inline]
    fn clone(&self) -> VId<T> {
        *self
    }
}

impl<T> Copy for VId<T> {}

impl<T> PartialEq for VId<T> {
    #[inline]
    fn eq(&self, other: &VId<T>) -> bool {
        (self.slot, self.filling) == (other.slot, other.filling)
    }
}

impl<T> Eq for VId<T> {}

impl<T> PartialOrd for VId<T> {
    fn partial_cmp(&self, other: &VId<T>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Some order, to be a key.
impl<T> Ord for VId<T> {
    fn cmp(&self, other: &VId<T>) -> std::cmp::Ordering {
        (self.slot, self.filling).cmp(&(other.slot, other.filling))
    }
}

impl<T> Hash for VId<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.slot, self.filling).hash(state);
    }
}

impl<T> fmt::Debug for VId<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VId({}.{})", self.slot, self.filling)
    }
}

impl<T, V: Brand> VKey<V> for VId<T> {
    type Borrowed = VId<T>;

    #[inline]
    fn borrowed<'a, M: Mode>(&'a self, _at: &'a At<V, M>) -> &'a VId<T> {
        self
    }
}

// SAFETY: two numbers.
unsafe impl<T, V: Brand> Storable<V> for VId<T> {
    const HAS_ONE_NICHE: bool = true;

    /// What it names is in the arena's layout.
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("VId version 1", |_| {});
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        let filling = place.number(offset_of!(Self, filling), 4);
        if filling == 0 {
            checker.no_value("VId", filling);
        }
    }

    fn show_stored(place: Place, _checker: &mut Checker<'_, V>) -> Option<String> {
        let number = |offset| place.number(offset, 4);
        let (slot, filling) = (offset_of!(Self, slot), offset_of!(Self, filling));
        Some(format!("VId({}.{})", number(slot), number(filling)))
    }
}

// SAFETY: numbers, and a value that may lie in `V`.
unsafe impl<T: Storable<V>, V: Brand> Storable<V> for Slot<T> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("arena's slot", |writer| {
            writer.field::<Option<T>, V>("value", offset_of!(Slot<T>, value));
        });
    }
}

// SAFETY: numbers, and a vector that may lie in `V`.
unsafe impl<T: Storable<V>, V: Brand> Storable<V> for VArena<T, V> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("VArena version 1", |writer| {
            writer.field::<VVec<Slot<T>, V>, V>("slots", offset_of!(VArena<T, V>, slots));
            let free = offset_of!(VArena<T, V>, free);
            writer.field::<[u32; 2], V>("free, len", free);
        });
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        check::check::<T, V>(place, checker);
    }
}
