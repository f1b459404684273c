//! `VHashMap`: a hash map in a VAS. Here is what is stored; the views are in `map_view`, entries in
//! `entry`.
//!
//! Inside is `hashbrown`'s table, in one block of the heap. A table without capacity has no block:
//! its address is that of a constant in the program, which is somewhere else in another program.
//! **So a table without capacity is never stored.** A map is `None` until something is put into it,
//! and nothing that could release a table's memory is called on a stored one: not `shrink_to_fit`,
//! and not `drain`, which leaves an empty table behind while it runs, forever if it is leaked.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use hashbrown::{HashTable, TryReserveError};

use super::key::VKey;
use super::map_check;
use super::map_view::{MapMut, MapRef};
use super::words;
use crate::alloc::{AllocError, NOWHERE_MAX, VAlloc, may_free};
use crate::brand::Brand;
use crate::check::{Checker, Place};
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

pub(crate) type Table<K, T, V> = HashTable<(K, T), VAlloc<V>>;

/// Owns entries in the heap of `V`, found by key: what `HashMap` is at home.
///
/// [`at`](VHashMap::at) gives a view to read, [`at_mut`](VHashMap::at_mut) one to change. Keys are
/// [`VKey`]s: with `VString` keys a map is asked for a `&str`. Hashes are those of `foldhash`, with a
/// seed that is chosen at random when the first entry comes and stored with the map; as at
/// home, the order of entries means nothing. Where `HashMap` would end the process for want of
/// memory there is an [`AllocError`], and the map is what it was. Dropped outside `V`, it leaks
/// what it owns, as `VBox` does.
///
/// ```
/// use spacejmp::{Space, collections::{VHashMap, VString}};
///
/// spacejmp::brand! { Words => VHashMap<VString<Words>, u64, Words> }
///
/// let words = Space::<Words>::in_memory(1 << 20, |_| Ok(VHashMap::new()))?;
/// words.write(|v| {
///     let (root, at) = v.root_mut();
///     let mut counts = root.at_mut(at);
///     for word in "the map and the territory".split(' ') {
///         *counts.get_or_insert_with(word, || Ok((VString::new(at, word)?, 0)))? += 1;
///     }
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// words.read(|v| {
///     let counts = v.root().at(v);
///     assert_eq!((counts.len(), counts["the"], counts.get("Borges")), (4, 2, None));
/// })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[repr(C)]
pub struct VHashMap<K, T, V: Brand> {
    pub(super) seed: u64,
    /// With capacity, if there is one.
    table: Option<ManuallyDrop<Table<K, T, V>>>,
}

pub(crate) fn no_room<V: Brand>(error: &TryReserveError) -> AllocError {
    AllocError::new::<V>(match error {
        TryReserveError::AllocError { layout } => layout.size(),
        TryReserveError::CapacityOverflow => usize::MAX,
    })
}

impl<K, T, V: Brand> VHashMap<K, T, V> {
    /// No entries, and no memory yet.
    #[inline]
    #[must_use]
    pub const fn new() -> VHashMap<K, T, V> {
        VHashMap { seed: 0, table: None }
    }

    /// How many entries there are. No token is needed: the number is not in `V`'s heap.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.table().map_or(0, HashTable::len)
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(crate) fn table(&self) -> Option<&Table<K, T, V>> {
        self.table.as_deref()
    }

    /// The table, for whatever leaves it with its capacity.
    #[inline]
    pub(crate) fn table_mut(&mut self) -> Option<&mut Table<K, T, V>> {
        self.table.as_deref_mut()
    }

    /// Takes the table and leaves none.
    pub(crate) fn take(&mut self) -> Option<Table<K, T, V>> {
        self.table.take().map(ManuallyDrop::into_inner)
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand> VHashMap<K, T, V> {
    /// No entries, with room for `count`.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn with_capacity(at: &At<V, Write>, count: usize) -> Result<VHashMap<K, T, V>, AllocError> {
        let mut map = VHashMap::new();
        map.at_mut(at).reserve(count)?;
        Ok(map)
    }

    /// The entries of an iterator; of entries with equal keys the last.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; what was taken is dropped.
    pub fn collect(
        at: &At<V, Write>,
        entries: impl IntoIterator<Item = (K, T)>,
    ) -> Result<VHashMap<K, T, V>, AllocError> {
        let mut map = VHashMap::new();
        map.at_mut(at).extend(entries)?;
        Ok(map)
    }

    /// As [`collect`](VHashMap::collect), of entries that may fail to be made, as those that need
    /// memory of their own.
    ///
    /// # Errors
    /// The first one, of the iterator or for want of room; what was taken is dropped.
    pub fn try_collect(
        at: &At<V, Write>,
        entries: impl IntoIterator<Item = Result<(K, T), AllocError>>,
    ) -> Result<VHashMap<K, T, V>, AllocError> {
        let entries = entries.into_iter();
        let mut map = VHashMap::new();
        // As for `extend`.
        let _ = map.at_mut(at).reserve(entries.size_hint().0);
        for entry in entries {
            let (key, value) = entry?;
            map.at_mut(at).insert(key, value)?;
        }
        Ok(map)
    }

    /// The entries.
    #[inline]
    #[must_use]
    pub fn at<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> MapRef<'a, K, T, V, M> {
        MapRef { map: self, at }
    }

    /// The entries, to be changed.
    #[inline]
    #[must_use]
    pub fn at_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> MapMut<'a, K, T, V> {
        MapMut { map: self, at }
    }

    /// Ensures that the table has room for another entry.
    #[inline]
    pub(crate) fn with_room(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        // Only this is on the path of every insertion.
        let has_room = self.table().is_some_and(|table| table.len() < table.capacity());
        if has_room { Ok(()) } else { self.make_room(at, 1) }
    }

    /// Makes room for `more` entries, which are not 0.
    #[cold]
    #[inline(never)]
    pub(crate) fn make_room(&mut self, at: &At<V, Write>, more: usize) -> Result<(), AllocError> {
        if self.table.is_none() {
            self.make(more)?;
        }
        let seed = self.seed;
        let table = self.table_mut().ok_or(AllocError::new::<V>(0))?;
        let reserved = table.try_reserve(more, |(key, _)| words::hash_of(seed, key.borrowed(at)));
        reserved.map_err(|error| no_room::<V>(&error))
    }

    fn make(&mut self, capacity: usize) -> Result<(), AllocError> {
        let mut table = HashTable::new_in(VAlloc::of_owner());
        table.try_reserve(capacity.max(1), |_| 0).map_err(|error| no_room::<V>(&error))?;
        self.seed = RandomState::new().hash_one(0);
        self.table = Some(ManuallyDrop::new(table));
        Ok(())
    }
}

impl<K, T, V: Brand> Drop for VHashMap<K, T, V> {
    #[inline]
    fn drop(&mut self) {
        let may_free = |table: &ManuallyDrop<Table<K, T, V>>| {
            // The others are numbers of entries, which are no addresses of a space.
            let words = words::of_this_table(table).into_iter().filter(|word| *word > NOWHERE_MAX);
            let addresses = words.filter_map(NonZeroUsize::new);
            addresses.map(NonNull::without_provenance).any(may_free::<V>)
        };
        if self.table.as_ref().is_some_and(may_free) {
            drop(self.take());
        }
    }
}

impl<K, T, V: Brand> Default for VHashMap<K, T, V> {
    fn default() -> VHashMap<K, T, V> {
        VHashMap::new()
    }
}

impl<K, T, V: Brand> fmt::Debug for VHashMap<K, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VHashMap<{}>(len {})", V::NAME, self.len())
    }
}

// SAFETY: its memory is `V`'s and owned by it: a table that has none is not stored. `drop` checks
// where the thread is.
unsafe impl<K: VKey<V>, T: Storable<V>, V: Brand> Storable<V> for VHashMap<K, T, V> {
    /// Groups of control bytes are 16: `hashbrown` uses SSE2, which every x86-64 has.
    fn layout(writer: &mut LayoutWriter) {
        let (table, hashes) = (words::of_table(), words::of_hashes());
        let name = format!("VHashMap version 1, groups of 16, words {table}, hashes {hashes:016x}");
        writer.describe::<Self>(name, |writer| writer.part::<(K, T), V>(format_args!("")));
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        map_check::check::<K, T, V>(place, std::mem::offset_of!(Self, table), checker);
    }
}
