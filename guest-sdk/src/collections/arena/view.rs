//! An arena with the token of its VAS: to read, and to change.

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::num::NonZero;
use std::ops::{Index, IndexMut};
use std::slice;

use super::{Slot, VArena, VId};
use crate::alloc::AllocError;
use crate::brand::Brand;
use crate::storable::Storable;
use crate::token::{At, Write};

/// A [`VArena`] to be read: from [`VArena::at`].
pub struct ArenaRef<'a, T> {
    pub(super) slots: &'a [Slot<T>],
    pub(super) len: usize,
}

/// A [`VArena`] to be changed: from [`VArena::at_mut`].
pub struct ArenaMut<'a, T, V: Brand> {
    pub(super) arena: &'a mut VArena<T, V>,
    pub(super) at: &'a At<V, Write>,
}

fn find<T>(slots: &[Slot<T>], id: VId<T>) -> Option<&Slot<T>> {
    slots.get(id.slot as usize).filter(|slot| slot.fillings == id.filling.get())
}

fn find_mut<T>(slots: &mut [Slot<T>], id: VId<T>) -> Option<&mut Slot<T>> {
    slots.get_mut(id.slot as usize).filter(|slot| slot.fillings == id.filling.get())
}

impl<'a, T> ArenaRef<'a, T> {
    /// How many values there are.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The value, if it is still there.
    #[inline]
    #[must_use]
    pub fn get(self, id: VId<T>) -> Option<&'a T> {
        find(self.slots, id)?.value.as_ref()
    }

    /// Whether the value is still there.
    #[inline]
    #[must_use]
    pub fn contains(self, id: VId<T>) -> bool {
        self.get(id).is_some()
    }

    /// The values with their ids, in no order.
    #[inline]
    #[must_use]
    pub fn iter(self) -> ArenaIter<'a, T> {
        ArenaIter { slots: self.slots.iter().enumerate(), left: self.len }
    }

    /// The values, in no order.
    pub fn values(self) -> impl ExactSizeIterator<Item = &'a T> + Clone {
        self.iter().map(|(_, value)| value)
    }
}

impl<T> Clone for ArenaRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ArenaRef<'_, T> {}

impl<'a, T> IntoIterator for ArenaRef<'a, T> {
    type Item = (VId<T>, &'a T);
    type IntoIter = ArenaIter<'a, T>;

    #[inline]
    fn into_iter(self) -> ArenaIter<'a, T> {
        self.iter()
    }
}

/// # Panics
/// If the value was removed.
impl<T> Index<VId<T>> for ArenaRef<'_, T> {
    type Output = T;

    #[inline]
    fn index(&self, id: VId<T>) -> &T {
        self.get(id).expect("the arena has no value of this id any more")
    }
}

impl<T: fmt::Debug> fmt::Debug for ArenaRef<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(*self).finish()
    }
}

/// The values of a [`VArena`] with their ids, in no order.
pub struct ArenaIter<'a, T> {
    slots: std::iter::Enumerate<slice::Iter<'a, Slot<T>>>,
    left: usize,
}

impl<'a, T> Iterator for ArenaIter<'a, T> {
    type Item = (VId<T>, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.slots.find_map(|(i, slot)| slot.id(i).zip(slot.value.as_ref()))?;
        self.left = self.left.saturating_sub(1);
        Some(found)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T> ExactSizeIterator for ArenaIter<'_, T> {}
impl<T> FusedIterator for ArenaIter<'_, T> {}

impl<T> Clone for ArenaIter<'_, T> {
    fn clone(&self) -> Self {
        ArenaIter { slots: self.slots.clone(), left: self.left }
    }
}

impl<T: fmt::Debug> fmt::Debug for ArenaIter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<'a, T: Storable<V>, V: Brand> ArenaMut<'a, T, V> {
    /// The values, to be read for as long as they are not changed.
    #[inline]
    #[must_use]
    pub fn as_ref(&self) -> ArenaRef<'_, T> {
        self.arena.at(self.at)
    }

    /// How many values there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.arena.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.arena.is_empty()
    }

    /// Makes room for `more` values.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn reserve(&mut self, more: usize) -> Result<(), AllocError> {
        let empty = self.arena.slots.len() - self.arena.len();
        self.arena.slots.at_mut(self.at).reserve(more.saturating_sub(empty))
    }

    /// Puts a value into the arena.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `value` is dropped.
    #[inline]
    pub fn insert(&mut self, value: T) -> Result<VId<T>, AllocError> {
        self.insert_with(|_| value)
    }

    /// Puts a value into the arena that knows its own id.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `make` is not called.
    pub fn insert_with(&mut self, make: impl FnOnce(VId<T>) -> T) -> Result<VId<T>, AllocError> {
        let free = match self.arena.free.checked_sub(1) {
            Some(free) => free,
            None => self.add_slot()?,
        };
        let mut slots = self.arena.slots.at_mut(self.at);
        let slot = &mut slots[free as usize];
        // Full slots, and those that were filled too often, are not on the list.
        let filling = NonZero::<u32>::MIN.saturating_add(slot.fillings);
        let id = VId { slot: free, filling, _names: PhantomData };
        let value = make(id);
        (slot.fillings, slot.value) = (filling.get(), Some(value));
        self.arena.free = std::mem::take(&mut slot.next);
        self.arena.len += 1;
        Ok(id)
    }

    /// An empty slot at the end, which is the only one on the list then.
    #[cold]
    fn add_slot(&mut self) -> Result<u32, AllocError> {
        let slot = u32::try_from(self.arena.slots.len()).unwrap_or(u32::MAX);
        if slot == u32::MAX {
            return Err(AllocError::new::<V>(size_of::<Slot<T>>()));
        }
        self.arena.slots.at_mut(self.at).push(Slot { fillings: 0, next: 0, value: None })?;
        self.arena.free = slot + 1;
        Ok(slot)
    }

    /// The value, if it is still there.
    #[inline]
    #[must_use]
    pub fn get(&self, id: VId<T>) -> Option<&T> {
        self.as_ref().get(id)
    }

    /// Whether the value is still there.
    #[inline]
    #[must_use]
    pub fn contains(&self, id: VId<T>) -> bool {
        self.as_ref().contains(id)
    }

    /// The value, to be changed, if it is still there.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, id: VId<T>) -> Option<&mut T> {
        let slots = self.arena.slots.at_mut(self.at).into_slice();
        find_mut(slots, id)?.value.as_mut()
    }

    /// The value, to be changed for as long as the view was made for, if it is still there.
    #[inline]
    #[must_use]
    pub fn into_mut(self, id: VId<T>) -> Option<&'a mut T> {
        let slots = self.arena.slots.at_mut(self.at).into_slice();
        find_mut(slots, id)?.value.as_mut()
    }

    /// Several values at once, to be changed: if all are still there, and no two are the same.
    #[must_use]
    pub fn get_disjoint_mut<const N: usize>(&mut self, ids: [VId<T>; N]) -> Option<[&mut T; N]> {
        if !ids.iter().all(|&id| self.contains(id)) {
            return None;
        }
        let slots = self.arena.slots.at_mut(self.at).into_slice();
        let slots = slots.get_disjoint_mut(ids.map(|id| id.slot as usize)).ok()?;
        let mut values = slots.map(|slot| slot.value.as_mut());
        values.iter().all(Option::is_some).then(|| {
            // Each was found above.
            std::array::from_fn(|i| values[i].take().expect("the value is there"))
        })
    }

    /// Takes the value out, if it is still there. No id finds it any more.
    pub fn remove(&mut self, id: VId<T>) -> Option<T> {
        let slots = self.arena.slots.at_mut(self.at).into_slice();
        let slot = find_mut(slots, id)?;
        let value = slot.value.take()?;
        // A slot whose count has reached its maximum is not reused: ids would repeat.
        if slot.fillings < u32::MAX {
            slot.next = std::mem::replace(&mut self.arena.free, id.slot + 1);
        }
        self.arena.len -= 1;
        Some(value)
    }

    /// Drops the values for which `keep` returns false; it sees them in no order.
    pub fn retain(&mut self, mut keep: impl FnMut(VId<T>, &mut T) -> bool) {
        for i in 0..self.arena.slots.len() {
            let slots = self.arena.slots.at_mut(self.at).into_slice();
            let (id, slot) = (slots[i].id(i), &mut slots[i]);
            if let (Some(id), Some(value)) = (id, &mut slot.value)
                && !keep(id, value)
            {
                self.remove(id);
            }
        }
    }

    /// Drops all values. Their ids find nothing, also when there are new ones.
    pub fn clear(&mut self) {
        self.retain(|_, _| false);
    }

    /// The values with their ids, in no order, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (VId<T>, &mut T)> {
        let slots = self.arena.slots.at_mut(self.at).into_slice().iter_mut().enumerate();
        slots.filter_map(|(i, slot)| slot.id(i).zip(slot.value.as_mut()))
    }

    /// The values, in no order, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.iter_mut().map(|(_, value)| value)
    }
}

/// # Panics
/// If the value was removed.
impl<T: Storable<V>, V: Brand> Index<VId<T>> for ArenaMut<'_, T, V> {
    type Output = T;

    #[inline]
    fn index(&self, id: VId<T>) -> &T {
        self.get(id).expect("the arena has no value of this id any more")
    }
}

/// # Panics
/// If the value was removed.
impl<T: Storable<V>, V: Brand> IndexMut<VId<T>> for ArenaMut<'_, T, V> {
    #[inline]
    fn index_mut(&mut self, id: VId<T>) -> &mut T {
        self.get_mut(id).expect("the arena has no value of this id any more")
    }
}

impl<T: Storable<V> + fmt::Debug, V: Brand> fmt::Debug for ArenaMut<'_, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}
