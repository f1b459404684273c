//! Entries of a `VHashMap`: a place that is found once, and then read, filled or emptied.

use std::fmt;

use hashbrown::hash_table;

use super::key::VKey;
use super::map::VHashMap;
use super::words;
use crate::alloc::{AllocError, VAlloc};
use crate::brand::Brand;
use crate::storable::Storable;
use crate::token::{At, Write};

/// The place of a key in a map, with an entry or without.
///
/// ```
/// # use spacejmp::{Space, collections::VHashMap};
/// # spacejmp::brand! { Sums => VHashMap<u32, u64, Sums> }
/// # let space = Space::<Sums>::in_memory(1 << 20, |_| Ok(VHashMap::new()))?;
/// let sum = space.write(|v| {
///     let (root, at) = v.root_mut();
///     let mut sums = root.at_mut(at);
///     for (key, amount) in [(1, 10), (2, 20), (1, 30)] {
///         *sums.entry(key).or_insert(0)? += amount;
///     }
///     Ok::<_, spacejmp::Error>(sums.get(&1).copied())
/// })?;
/// assert_eq!(sum, Some(40));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub enum Entry<'m, K, T, V: Brand> {
    /// There is an entry.
    Occupied(OccupiedEntry<'m, K, T, V>),
    /// There is none.
    Vacant(VacantEntry<'m, K, T, V>),
}

/// An entry that is there.
pub struct OccupiedEntry<'m, K, T, V: Brand> {
    entry: hash_table::OccupiedEntry<'m, (K, T), VAlloc<V>>,
    at: &'m At<V, Write>,
}

/// A place for an entry that is not there.
pub struct VacantEntry<'m, K, T, V: Brand> {
    key: K,
    /// An error where the map is full and cannot grow.
    slot: Result<hash_table::VacantEntry<'m, (K, T), VAlloc<V>>, AllocError>,
}

/// A place in the table.
pub(crate) type MapSlot<'m, K, T, V> = hash_table::Entry<'m, (K, T), VAlloc<V>>;

/// Finds the place of a key. The map grows if there might be no room for the key, but a failure to
/// grow is only reported where the key is not there.
#[inline]
pub(crate) fn slot<'m, K: VKey<V>, T: Storable<V>, V: Brand>(
    map: &'m mut VHashMap<K, T, V>,
    at: &'m At<V, Write>,
    key: &K::Borrowed,
) -> Result<MapSlot<'m, K, T, V>, AllocError> {
    if let Err(error) = map.with_room(at) {
        return without_room(map, at, key, error);
    }
    // The seed is chosen by `with_room`, for the first entry.
    let seed = map.seed;
    let Some(table) = map.table_mut() else { return Err(AllocError::new::<V>(0)) };
    let hash = words::hash_of(seed, key);
    Ok(table.entry(
        hash,
        |(stored, _)| stored.borrowed(at) == key,
        |(stored, _)| words::hash_of(seed, stored.borrowed(at)),
    ))
}

#[cold]
#[inline(never)]
fn without_room<'m, K: VKey<V>, T: Storable<V>, V: Brand>(
    map: &'m mut VHashMap<K, T, V>,
    at: &'m At<V, Write>,
    key: &K::Borrowed,
    error: AllocError,
) -> Result<MapSlot<'m, K, T, V>, AllocError> {
    let hash = words::hash_of(map.seed, key);
    let Some(table) = map.table_mut() else { return Err(error) };
    let found = table.find_entry(hash, |(stored, _)| stored.borrowed(at) == key);
    found.map(MapSlot::Occupied).map_err(|_| error)
}

impl<'m, K: VKey<V>, T: Storable<V>, V: Brand> Entry<'m, K, T, V> {
    #[inline]
    pub(crate) fn of(
        map: &'m mut VHashMap<K, T, V>,
        at: &'m At<V, Write>,
        key: K,
    ) -> Entry<'m, K, T, V> {
        let slot = match slot(map, at, key.borrowed(at)) {
            Ok(MapSlot::Occupied(entry)) => return Entry::Occupied(OccupiedEntry { entry, at }),
            Ok(MapSlot::Vacant(slot)) => Ok(slot),
            Err(error) => Err(error),
        };
        Entry::Vacant(VacantEntry { key, slot })
    }

    /// The value, which is `value` if there was none.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; key and value are dropped.
    #[inline]
    pub fn or_insert(self, value: T) -> Result<&'m mut T, AllocError> {
        self.or_insert_with(|| value)
    }

    /// The value, made by `value` if there was none.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; key and value are dropped.
    #[inline]
    pub fn or_insert_with(self, value: impl FnOnce() -> T) -> Result<&'m mut T, AllocError> {
        self.or_try_insert_with(|| Ok(value()))
    }

    /// The value, made by `value`, which needs memory itself, if there was none.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room, or `value` returns it; there is no entry then.
    #[inline]
    pub fn or_try_insert_with(
        self,
        value: impl FnOnce() -> Result<T, AllocError>,
    ) -> Result<&'m mut T, AllocError> {
        match self {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => entry.insert(value()?),
        }
    }

    /// The value, the type's default one if there was none.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    #[inline]
    pub fn or_default(self) -> Result<&'m mut T, AllocError>
    where
        T: Default,
    {
        self.or_insert_with(T::default)
    }

    /// Changes the value if there is one.
    #[inline]
    #[must_use]
    pub fn and_modify(mut self, change: impl FnOnce(&mut T)) -> Entry<'m, K, T, V> {
        if let Entry::Occupied(entry) = &mut self {
            change(entry.get_mut());
        }
        self
    }
}

impl<'m, K: VKey<V>, T: Storable<V>, V: Brand> OccupiedEntry<'m, K, T, V> {
    /// The key.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &K::Borrowed {
        self.entry.get().0.borrowed(self.at)
    }

    /// The value.
    #[inline]
    #[must_use]
    pub fn get(&self) -> &T {
        &self.entry.get().1
    }

    /// The value, to be changed.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.entry.get_mut().1
    }

    /// The value, to be changed for as long as the map is borrowed.
    #[inline]
    #[must_use]
    pub fn into_mut(self) -> &'m mut T {
        &mut self.entry.into_mut().1
    }

    /// Replaces the value and returns the old one.
    #[inline]
    pub fn insert(&mut self, value: T) -> T {
        std::mem::replace(self.get_mut(), value)
    }

    /// Takes the entry out.
    #[inline]
    pub fn remove(self) -> (K, T) {
        self.entry.remove().0
    }
}

impl<'m, K: VKey<V>, T: Storable<V>, V: Brand> VacantEntry<'m, K, T, V> {
    /// The key that an entry would have.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Returns the key.
    #[inline]
    #[must_use]
    pub fn into_key(self) -> K {
        self.key
    }

    /// Makes the entry.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; key and value are dropped.
    #[inline]
    pub fn insert(self, value: T) -> Result<&'m mut T, AllocError> {
        Ok(&mut self.slot?.insert((self.key, value)).into_mut().1)
    }
}

impl<K: VKey<V> + fmt::Debug, T: Storable<V> + fmt::Debug, V: Brand> fmt::Debug
    for Entry<'_, K, T, V>
where
    K::Borrowed: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Occupied(entry) => f.debug_tuple("Entry").field(entry).finish(),
            Entry::Vacant(entry) => f.debug_tuple("Entry").field(entry).finish(),
        }
    }
}

impl<K: VKey<V>, T: Storable<V> + fmt::Debug, V: Brand> fmt::Debug for OccupiedEntry<'_, K, T, V>
where
    K::Borrowed: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("OccupiedEntry");
        shown.field("key", &self.key()).field("value", self.get()).finish()
    }
}

impl<K: fmt::Debug, T, V: Brand> fmt::Debug for VacantEntry<'_, K, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VacantEntry").field(&self.key).finish()
    }
}
