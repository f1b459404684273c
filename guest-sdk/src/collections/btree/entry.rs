//! Entries of a map, there or not yet.

use std::fmt;

use super::view::BTreeMut;
use crate::alloc::AllocError;
use crate::brand::Brand;
use crate::collections::VKey;
use crate::storable::Storable;

/// An entry of a map, from [`BTreeMut::entry`].
pub enum Entry<'a, K, T, V: Brand> {
    /// The key has a value.
    Occupied(OccupiedEntry<'a, K, T, V>),
    /// It has none yet.
    Vacant(VacantEntry<'a, K, T, V>),
}

/// An entry that is there.
pub struct OccupiedEntry<'a, K, T, V: Brand> {
    pub(super) map: BTreeMut<'a, K, T, V>,
    /// The one that was asked for: the map has another that is equal.
    pub(super) key: K,
}

/// An entry that is not there yet.
pub struct VacantEntry<'a, K, T, V: Brand> {
    pub(super) map: BTreeMut<'a, K, T, V>,
    pub(super) key: K,
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand> Entry<'a, K, T, V> {
    /// The key that was asked for.
    #[must_use]
    pub fn key(&self) -> &K {
        match self {
            Entry::Occupied(entry) => &entry.key,
            Entry::Vacant(entry) => &entry.key,
        }
    }

    /// The value, which is `default` if there was none.
    ///
    /// # Errors
    /// As [`VacantEntry::insert`].
    pub fn or_insert(self, default: T) -> Result<&'a mut T, AllocError> {
        self.or_insert_with(|| default)
    }

    /// The value, which is made by `default` if there was none.
    ///
    /// # Errors
    /// As [`VacantEntry::insert`].
    pub fn or_insert_with(self, default: impl FnOnce() -> T) -> Result<&'a mut T, AllocError> {
        match self {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => entry.insert(default()),
        }
    }

    /// The value, which is the default one of its type if there was none.
    ///
    /// # Errors
    /// As [`VacantEntry::insert`].
    pub fn or_default(self) -> Result<&'a mut T, AllocError>
    where
        T: Default,
    {
        self.or_insert_with(T::default)
    }

    /// Changes the value if there is one.
    #[must_use]
    pub fn and_modify(mut self, change: impl FnOnce(&mut T)) -> Self {
        if let Entry::Occupied(entry) = &mut self {
            change(entry.get_mut());
        }
        self
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand> OccupiedEntry<'a, K, T, V> {
    /// The key that was asked for.
    #[must_use]
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> &T {
        there(self.map.get(self.key.borrowed(self.map.at)))
    }

    /// The value, to be changed.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut T {
        there(self.map.map.tree.get_mut(self.map.at, self.key.borrowed(self.map.at)))
    }

    /// The value, to be changed for as long as the map is borrowed.
    #[must_use]
    pub fn into_mut(self) -> &'a mut T {
        let BTreeMut { map, at } = self.map;
        there(map.tree.get_mut(at, self.key.borrowed(at)))
    }

    /// Sets the value; the one before.
    pub fn insert(&mut self, value: T) -> T {
        std::mem::replace(self.get_mut(), value)
    }

    /// Removes the entry; its value.
    #[must_use]
    pub fn remove(self) -> T {
        self.remove_entry().1
    }

    /// Removes the entry.
    #[must_use]
    pub fn remove_entry(mut self) -> (K, T) {
        let at = self.map.at;
        there(self.map.remove_entry(self.key.borrowed(at)))
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand> VacantEntry<'a, K, T, V> {
    /// The key that was asked for.
    #[must_use]
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The key again.
    #[must_use]
    pub fn into_key(self) -> K {
        self.key
    }

    /// Sets the value.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room for another node; the map is as it was, and key and
    /// value are dropped.
    pub fn insert(self, value: T) -> Result<&'a mut T, AllocError> {
        let BTreeMut { map, at } = self.map;
        let (held, before) = map.tree.insert(at, self.key, value)?;
        map.len += usize::from(before.is_none());
        Ok(held)
    }
}

impl<K: VKey<V> + fmt::Debug, T: Storable<V> + fmt::Debug, V: Brand> fmt::Debug
    for Entry<'_, K, T, V>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Occupied(entry) => f.debug_tuple("Entry").field(entry).finish(),
            Entry::Vacant(entry) => f.debug_tuple("Entry").field(entry).finish(),
        }
    }
}

impl<K: VKey<V> + fmt::Debug, T: Storable<V> + fmt::Debug, V: Brand> fmt::Debug
    for OccupiedEntry<'_, K, T, V>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("OccupiedEntry");
        shown.field("key", self.key()).field("value", self.get()).finish()
    }
}

impl<K: VKey<V> + fmt::Debug, T: Storable<V>, V: Brand> fmt::Debug for VacantEntry<'_, K, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VacantEntry").field(self.key()).finish()
    }
}

/// What was just found: the map is borrowed exclusively.
pub(super) fn there<T>(found: Option<T>) -> T {
    found.expect("the order of the keys of a map changed while it was used")
}
