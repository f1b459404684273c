//! Views of a `VHashMap`: `MapRef` reads, `MapMut` changes.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Index;

use hashbrown::hash_table;

use super::entry::{Entry, MapSlot, slot};
use super::key::VKey;
use super::map::VHashMap;
use super::within::Within;
use super::words;
use crate::alloc::{AllocError, VAlloc};
use crate::brand::Brand;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// A [`VHashMap`] to be read. It is copied freely.
pub struct MapRef<'a, K, T, V: Brand, M> {
    pub(super) map: &'a VHashMap<K, T, V>,
    pub(crate) at: &'a At<V, M>,
}

/// A [`VHashMap`] to be changed.
pub struct MapMut<'a, K, T, V: Brand> {
    pub(super) map: &'a mut VHashMap<K, T, V>,
    pub(super) at: &'a At<V, Write>,
}

/// The entries of a map, in no order.
pub struct Iter<'a, K, T, V: Brand, M> {
    entries: hash_table::Iter<'a, (K, T)>,
    at: &'a At<V, M>,
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> MapRef<'a, K, T, V, M> {
    /// The entries as they are stored.
    pub(crate) fn stored(self) -> impl ExactSizeIterator<Item = (&'a K, &'a T)> {
        let entries = self.iter().entries;
        entries.map(|(key, value)| (key, value))
    }

    /// How many entries there are.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.map.is_empty()
    }

    /// The entry of a key: the key as it is stored, and the value.
    #[inline]
    #[must_use]
    pub fn get_key_value(self, key: &K::Borrowed) -> Option<(&'a K, &'a T)> {
        let table = self.map.table()?;
        let hash = words::hash_of(self.map.seed, key);
        let (key, value) = table.find(hash, |(stored, _)| stored.borrowed(self.at) == key)?;
        Some((key, value))
    }

    /// The value of a key.
    #[inline]
    #[must_use]
    pub fn get(self, key: &K::Borrowed) -> Option<&'a T> {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// Whether a key has an entry.
    #[inline]
    #[must_use]
    pub fn contains_key(self, key: &K::Borrowed) -> bool {
        self.get_key_value(key).is_some()
    }

    /// The entries, in no order.
    #[inline]
    pub fn iter(self) -> Iter<'a, K, T, V, M> {
        let entries = self.map.table().map_or_else(hash_table::Iter::default, |table| table.iter());
        Iter { entries, at: self.at }
    }

    /// The keys, in no order.
    #[inline]
    pub fn keys(self) -> impl ExactSizeIterator<Item = &'a K::Borrowed> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// The values, in no order.
    #[inline]
    pub fn values(self) -> impl ExactSizeIterator<Item = &'a T> + Clone {
        self.iter().map(|(_, value)| value)
    }
}

impl<K, T, V: Brand, M> Clone for MapRef<'_, K, T, V, M> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, T, V: Brand, M> Copy for MapRef<'_, K, T, V, M> {}

/// # Panics
/// If the key has no entry.
impl<K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> Index<&K::Borrowed> for MapRef<'_, K, T, V, M> {
    type Output = T;

    #[inline]
    fn index(&self, key: &K::Borrowed) -> &T {
        self.get(key).expect("the map has no entry with this key")
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> IntoIterator for MapRef<'a, K, T, V, M> {
    type Item = (&'a K::Borrowed, &'a T);
    type IntoIter = Iter<'a, K, T, V, M>;

    #[inline]
    fn into_iter(self) -> Iter<'a, K, T, V, M> {
        self.iter()
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> fmt::Debug for MapRef<'_, K, T, V, M>
where
    K::Borrowed: fmt::Debug,
    T: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(*self).finish()
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> Iterator for Iter<'a, K, T, V, M> {
    type Item = (&'a K::Borrowed, &'a T);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.entries.next()?;
        Some((key.borrowed(self.at), value))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> ExactSizeIterator for Iter<'_, K, T, V, M> {}
impl<K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> FusedIterator for Iter<'_, K, T, V, M> {}

impl<K, T, V: Brand, M> Clone for Iter<'_, K, T, V, M> {
    #[inline]
    fn clone(&self) -> Self {
        Iter { entries: self.entries.clone(), at: self.at }
    }
}

impl<K: VKey<V>, T: Storable<V> + fmt::Debug, V: Brand, M: Mode> fmt::Debug for Iter<'_, K, T, V, M>
where
    K::Borrowed: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand> MapMut<'a, K, T, V> {
    /// To read for a while.
    #[inline]
    #[must_use]
    pub fn as_ref(&self) -> MapRef<'_, K, T, V, Write> {
        MapRef { map: self.map, at: self.at }
    }

    /// How many entries there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// How many entries there is room for without another block.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.map.table().map_or(0, |table| table.capacity())
    }

    /// The value of a key.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &K::Borrowed) -> Option<&T> {
        self.as_ref().get(key)
    }

    /// Whether a key has an entry.
    #[inline]
    #[must_use]
    pub fn contains_key(&self, key: &K::Borrowed) -> bool {
        self.as_ref().contains_key(key)
    }

    /// The value of a key, to be changed.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, key: &K::Borrowed) -> Option<&mut T> {
        MapMut { map: self.map, at: self.at }.into_mut(key)
    }

    /// The value of a key, to be changed for as long as the view was made for.
    #[inline]
    #[must_use]
    pub fn into_mut(self, key: &K::Borrowed) -> Option<&'a mut T> {
        let (seed, at) = (self.map.seed, self.at);
        let table = self.map.table_mut()?;
        let hash = words::hash_of(seed, key);
        table.find_mut(hash, |(stored, _)| stored.borrowed(at) == key).map(|(_, value)| value)
    }

    /// Makes an entry, or replaces the value of the existing one and returns the old value.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `key` and `value` are dropped.
    #[inline]
    pub fn insert(&mut self, key: K, value: T) -> Result<Option<T>, AllocError> {
        if let Err(error) = self.map.with_room(self.at) {
            return self.insert_without_room(&key, value, error);
        }
        // Not by `slot`, whose result goes through memory: a tenth of the time of an insertion.
        let (seed, at) = (self.map.seed, self.at);
        let Some(table) = self.map.table_mut() else { return Err(AllocError::new::<V>(0)) };
        let hash = words::hash_of(seed, key.borrowed(at));
        let place = table.entry(
            hash,
            |(stored, _)| stored.borrowed(at) == key.borrowed(at),
            |(stored, _)| words::hash_of(seed, stored.borrowed(at)),
        );
        match place {
            hash_table::Entry::Occupied(mut entry) => {
                Ok(Some(std::mem::replace(&mut entry.get_mut().1, value)))
            }
            hash_table::Entry::Vacant(entry) => {
                entry.insert((key, value));
                Ok(None)
            }
        }
    }

    /// Where the map is full and cannot grow, an entry that is there can still be replaced.
    #[cold]
    #[inline(never)]
    fn insert_without_room(
        &mut self,
        key: &K,
        value: T,
        error: AllocError,
    ) -> Result<Option<T>, AllocError> {
        let held = self.get_mut(key.borrowed(self.at)).ok_or(error)?;
        Ok(Some(std::mem::replace(held, value)))
    }

    /// The place of a key, with an entry or without.
    #[inline]
    pub fn entry(&mut self, key: K) -> Entry<'_, K, T, V> {
        Entry::of(self.map, self.at, key)
    }

    /// The value of a key; `make` makes the entry if there is none. Unlike
    /// [`entry`](MapMut::entry) it needs no key of the map's type where there is an entry.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room, or `make` returns it; there is no entry then.
    ///
    /// # Panics
    /// If the key that `make` gives is another one.
    #[inline]
    pub fn get_or_insert_with(
        &mut self,
        key: &K::Borrowed,
        make: impl FnOnce() -> Result<(K, T), AllocError>,
    ) -> Result<&mut T, AllocError> {
        match slot(self.map, self.at, key)? {
            MapSlot::Occupied(entry) => Ok(&mut entry.into_mut().1),
            MapSlot::Vacant(entry) => {
                let made = make()?;
                assert!(made.0.borrowed(self.at) == key, "the key that was made is another one");
                Ok(&mut entry.insert(made).into_mut().1)
            }
        }
    }

    /// Takes the value of a key out, and drops the stored key.
    #[inline]
    pub fn remove(&mut self, key: &K::Borrowed) -> Option<T> {
        self.remove_entry(key).map(|(_, value)| value)
    }

    /// Takes the entry of a key out.
    #[inline]
    pub fn remove_entry(&mut self, key: &K::Borrowed) -> Option<(K, T)> {
        let (seed, at) = (self.map.seed, self.at);
        let table = self.map.table_mut()?;
        let hash = words::hash_of(seed, key);
        let found = table.find_entry(hash, |(stored, _)| stored.borrowed(at) == key).ok()?;
        Some(found.remove().0)
    }

    /// The entries, in no order; values may be changed.
    #[inline]
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&K::Borrowed, &mut T)> {
        let at = self.at;
        let entries = match self.map.table_mut() {
            Some(table) => table.iter_mut(),
            None => hash_table::IterMut::default(),
        };
        entries.map(|(key, value)| (key.borrowed(at), value))
    }

    /// The values, in no order, to be changed.
    #[inline]
    pub fn values_mut(&mut self) -> impl ExactSizeIterator<Item = &mut T> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// Drops the entries for which `keep` returns false.
    pub fn retain(&mut self, mut keep: impl FnMut(&K::Borrowed, &mut T) -> bool) {
        let at = self.at;
        if let Some(table) = self.map.table_mut() {
            table.retain(|(key, value)| keep(key.borrowed(at), value));
        }
    }

    /// Takes all entries out, in no order. The map's memory is freed with the iterator;
    /// [`clear`](MapMut::clear) keeps it.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = (K, T)> + FusedIterator {
        let table =
            self.map.take().unwrap_or_else(|| hashbrown::HashTable::new_in(VAlloc::of_owner()));
        Within::new(table.into_iter(), self.at)
    }

    /// Drops all entries and keeps the memory.
    pub fn clear(&mut self) {
        if let Some(table) = self.map.table_mut() {
            table.clear();
        }
    }

    /// Makes room for `more` entries.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn reserve(&mut self, more: usize) -> Result<(), AllocError> {
        // A table without capacity is not stored.
        if more == 0 { Ok(()) } else { self.map.make_room(self.at, more) }
    }

    /// Inserts what an iterator gives. It may use the same token.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; what came before it stays inserted.
    pub fn extend(&mut self, entries: impl IntoIterator<Item = (K, T)>) -> Result<(), AllocError> {
        let mut entries = entries.into_iter();
        // Only to grow rarely: keys may be equal, and an iterator that promises too much is no
        // error.
        let _ = self.reserve(entries.size_hint().0);
        entries.try_for_each(|(key, value)| self.insert(key, value).map(drop))
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand> fmt::Debug for MapMut<'_, K, T, V>
where
    K::Borrowed: fmt::Debug,
    T: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}
