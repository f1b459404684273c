//! A map with the token of its VAS: to read, and to change.

use std::fmt;
use std::ops::{Bound, Index, RangeBounds};

use super::entry::{Entry, OccupiedEntry, VacantEntry, there};
use super::iter::{Iter, Range, Stored};
use super::iter_mut::{IterMut, RangeMut};
use super::search::Sought;
use super::{VBTreeMap, rebuild};
use crate::alloc::AllocError;
use crate::brand::Brand;
use crate::collections::VKey;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// A [`VBTreeMap`], to be read: from [`VBTreeMap::at`].
pub struct BTreeRef<'a, K, T, V: Brand, M> {
    pub(super) map: &'a VBTreeMap<K, T, V>,
    pub(crate) at: &'a At<V, M>,
}

impl<K, T, V: Brand, M> Clone for BTreeRef<'_, K, T, V, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, T, V: Brand, M> Copy for BTreeRef<'_, K, T, V, M> {}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> BTreeRef<'a, K, T, V, M> {
    /// The entries as they are stored.
    pub(crate) fn stored(self) -> Stored<'a, K, T, V, M> {
        Stored(self.iter())
    }

    /// How many entries there are.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.map.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.map.len == 0
    }

    /// The value of `key`.
    #[inline]
    #[must_use]
    pub fn get(self, key: &K::Borrowed) -> Option<&'a T> {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// The entry of `key`, with the key that the map has.
    #[inline]
    #[must_use]
    pub fn get_key_value(self, key: &K::Borrowed) -> Option<(&'a K, &'a T)> {
        self.map.tree.get(self.at, key)
    }

    /// Whether `key` has an entry.
    #[inline]
    #[must_use]
    pub fn contains_key(self, key: &K::Borrowed) -> bool {
        self.get_key_value(key).is_some()
    }

    /// The entry with the least key.
    #[must_use]
    pub fn first_key_value(self) -> Option<(&'a K::Borrowed, &'a T)> {
        self.iter().next()
    }

    /// The entry with the greatest key.
    #[must_use]
    pub fn last_key_value(self) -> Option<(&'a K::Borrowed, &'a T)> {
        self.iter().next_back()
    }

    /// All entries, in the order of their keys, from either end.
    #[must_use]
    pub fn iter(self) -> Iter<'a, K, T, V, M> {
        Iter::new(self.at, &self.map.tree, self.map.len)
    }

    /// All keys, in order, from either end.
    pub fn keys(
        self,
    ) -> impl DoubleEndedIterator<Item = &'a K::Borrowed> + ExactSizeIterator + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys, from either end.
    pub fn values(self) -> impl DoubleEndedIterator<Item = &'a T> + ExactSizeIterator + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// The entries whose keys are in `range`, in order, from either end. There are none in a
    /// range that ends before it begins. Texts are two [`Bound`]s:
    /// `(Bound::Included("a"), Bound::Unbounded)`.
    #[must_use]
    pub fn range(self, range: impl RangeBounds<K::Borrowed>) -> Range<'a, K, T, V, M> {
        Range::new(self.at, &self.map.tree, &range)
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> IntoIterator for BTreeRef<'a, K, T, V, M> {
    type Item = (&'a K::Borrowed, &'a T);
    type IntoIter = Iter<'a, K, T, V, M>;

    fn into_iter(self) -> Iter<'a, K, T, V, M> {
        self.iter()
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> Index<&K::Borrowed>
    for BTreeRef<'_, K, T, V, M>
{
    type Output = T;

    /// # Panics
    /// If `key` has no entry.
    fn index(&self, key: &K::Borrowed) -> &T {
        self.get(key).expect("the map has no entry of this key")
    }
}

impl<K: VKey<V>, T: Storable<V> + fmt::Debug, V: Brand, M: Mode> fmt::Debug
    for BTreeRef<'_, K, T, V, M>
where
    K::Borrowed: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(*self).finish()
    }
}

/// A [`VBTreeMap`], to be changed: from [`VBTreeMap::at_mut`].
pub struct BTreeMut<'a, K, T, V: Brand> {
    pub(super) map: &'a mut VBTreeMap<K, T, V>,
    pub(super) at: &'a At<V, Write>,
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand> BTreeMut<'a, K, T, V> {
    /// The map, to be read for as long as it is not changed.
    #[inline]
    #[must_use]
    pub fn as_ref(&self) -> BTreeRef<'_, K, T, V, Write> {
        BTreeRef { map: self.map, at: self.at }
    }

    #[inline]
    pub(super) fn reborrow(&mut self) -> BTreeMut<'_, K, T, V> {
        BTreeMut { map: self.map, at: self.at }
    }

    /// How many entries there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.len == 0
    }

    /// The value of `key`.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &K::Borrowed) -> Option<&T> {
        self.as_ref().get(key)
    }

    /// Whether `key` has an entry.
    #[inline]
    #[must_use]
    pub fn contains_key(&self, key: &K::Borrowed) -> bool {
        self.as_ref().contains_key(key)
    }

    /// The value of `key`, to be changed.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, key: &K::Borrowed) -> Option<&mut T> {
        self.map.tree.get_mut(self.at, key)
    }

    /// The value of `key`, to be changed for as long as the view was made for.
    #[inline]
    #[must_use]
    pub fn into_mut(self, key: &K::Borrowed) -> Option<&'a mut T> {
        self.map.tree.get_mut(self.at, key)
    }

    /// Sets the value of `key`, and returns the old one, if any. A key that was there stays.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room for another node; the map is as it was, and `key` and
    /// `value` are dropped.
    #[inline]
    pub fn insert(&mut self, key: K, value: T) -> Result<Option<T>, AllocError> {
        let (_, before) = self.map.tree.insert(self.at, key, value)?;
        self.map.len += usize::from(before.is_none());
        Ok(before)
    }

    /// Inserts all of `entries`, as [`insert`](BTreeMut::insert) does one after the other.
    ///
    /// Up to 4 MiB of them at a time are put in order in the process's memory first. Entries that
    /// follow one another then go to nodes that follow one another, and are in the processor's caches: a million
    /// in random order take a quarter of the time, and lie so that reading them in order is quicker, too.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room for another node: any of the entries may be in the map then,
    /// the others are dropped.
    pub fn extend(&mut self, entries: impl IntoIterator<Item = (K, T)>) -> Result<(), AllocError> {
        let at_once = const { (4 << 20) / (size_of::<(K, T)>() + 1) + 1 };
        let (mut entries, mut some) = (entries.into_iter(), Vec::new());
        loop {
            some.extend(entries.by_ref().take(at_once));
            if some.is_empty() {
                return Ok(());
            }
            // Of equal keys the last stays the last.
            some.sort_by(|(a, _), (b, _)| a.borrowed(self.at).cmp(b.borrowed(self.at)));
            some.drain(..).try_for_each(|(key, value)| self.insert(key, value).map(drop))?;
        }
    }

    /// Removes the entry of `key`; its value.
    pub fn remove(&mut self, key: &K::Borrowed) -> Option<T> {
        self.remove_entry(key).map(|(_, value)| value)
    }

    /// Removes the entry of `key`.
    pub fn remove_entry(&mut self, key: &K::Borrowed) -> Option<(K, T)> {
        self.take(Sought::Key(key))
    }

    /// Removes the entry with the least key.
    pub fn pop_first(&mut self) -> Option<(K, T)> {
        self.take(Sought::First)
    }

    /// Removes the entry with the greatest key.
    pub fn pop_last(&mut self) -> Option<(K, T)> {
        self.take(Sought::Last)
    }

    fn take(&mut self, sought: Sought<'_, K::Borrowed>) -> Option<(K, T)> {
        let removed = self.map.tree.remove(self.at, sought);
        self.map.len -= usize::from(removed.is_some());
        removed
    }

    /// The entry of `key`, there or not yet.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, T, V> {
        if self.contains_key(key.borrowed(self.at)) {
            Entry::Occupied(OccupiedEntry { map: self.reborrow(), key })
        } else {
            Entry::Vacant(VacantEntry { map: self.reborrow(), key })
        }
    }

    /// The value of `key`; `make` makes the entry if there is none. Unlike
    /// [`entry`](BTreeMut::entry) it needs no key of the map's type where there is an entry.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room, or `make` returns it; there is no entry then.
    ///
    /// # Panics
    /// If the key that `make` gives is another one.
    pub fn get_or_insert_with(
        &mut self,
        key: &K::Borrowed,
        make: impl FnOnce() -> Result<(K, T), AllocError>,
    ) -> Result<&mut T, AllocError> {
        if !self.contains_key(key) {
            let (made, value) = make()?;
            assert!(made.borrowed(self.at) == key, "the key that was made is another one");
            return VacantEntry { map: self.reborrow(), key: made }.insert(value);
        }
        Ok(there(self.get_mut(key)))
    }

    /// Removes the entries that `keep` does not want; it sees them in order. In memory of the
    /// process it needs room for the other ones, unless there is nothing to remove.
    pub fn retain(&mut self, keep: impl FnMut(&K::Borrowed, &mut T) -> bool) {
        rebuild::retain(self.at, self.map, keep);
    }

    /// Moves the entries from `key` on into a map of their own. Both are built anew, in time in proportion to the
    /// length, and in memory of the process there is room for all entries meanwhile.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; nothing is moved.
    pub fn split_off(&mut self, key: &K::Borrowed) -> Result<VBTreeMap<K, T, V>, AllocError> {
        rebuild::split_off(self.at, self.map, key)
    }

    /// Removes all entries, and frees their memory.
    pub fn clear(&mut self) {
        *self.map = VBTreeMap::new();
    }

    /// All entries, in the order of their keys, values to change.
    #[must_use]
    pub fn iter_mut(&mut self) -> IterMut<'_, K, T, V> {
        IterMut::new(self.at, &mut self.map.tree, Bound::Unbounded)
    }

    /// All values, in the order of their keys, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// The entries whose keys are in `range`, in order, values to change.
    #[must_use]
    pub fn range_mut<R: RangeBounds<K::Borrowed>>(&mut self, range: R) -> RangeMut<'_, K, T, V, R> {
        RangeMut::new(self.at, &mut self.map.tree, range)
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand> IntoIterator for BTreeMut<'a, K, T, V> {
    type Item = (&'a K::Borrowed, &'a mut T);
    type IntoIter = IterMut<'a, K, T, V>;

    fn into_iter(self) -> IterMut<'a, K, T, V> {
        IterMut::new(self.at, &mut self.map.tree, Bound::Unbounded)
    }
}

impl<K: VKey<V>, T: Storable<V> + fmt::Debug, V: Brand> fmt::Debug for BTreeMut<'_, K, T, V>
where
    K::Borrowed: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}
