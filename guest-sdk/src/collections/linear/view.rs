//! Views of a `VLinearMap`: `LinearRef` reads, `LinearMut` changes.

use std::fmt;

use super::iter::Iter;
use super::{Node, VLinearMap, bucket_of};
use crate::alloc::AllocError;
use crate::boxed::VBox;
use crate::brand::Brand;
use crate::collections::VKey;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// A [`VLinearMap`] to be read. It is copied freely.
pub struct LinearRef<'a, K, T, V: Brand, M> {
    pub(super) map: &'a VLinearMap<K, T, V>,
    pub(super) at: &'a At<V, M>,
}

/// A [`VLinearMap`] to be changed.
pub struct LinearMut<'a, K, T, V: Brand> {
    pub(super) map: &'a mut VLinearMap<K, T, V>,
    pub(super) at: &'a At<V, Write>,
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> LinearRef<'a, K, T, V, M> {
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

    /// The value of a key.
    #[inline]
    #[must_use]
    pub fn get(self, key: &K::Borrowed) -> Option<&'a T> {
        let (bucket, depth) = self.map.find(self.at, key);
        let mut node = self.map.bucket(self.at, bucket)?;
        for _ in 0..depth? {
            node = node.next.as_ref()?.get(self.at);
        }
        Some(&node.value)
    }

    /// Whether a key has an entry.
    #[inline]
    #[must_use]
    pub fn contains_key(self, key: &K::Borrowed) -> bool {
        self.map.find(self.at, key).1.is_some()
    }

    /// The entries, in no order.
    #[must_use]
    pub fn iter(self) -> Iter<'a, K, T, V, M> {
        Iter::new(self.map, self.at)
    }

    /// The keys, in no order.
    pub fn keys(self) -> impl Iterator<Item = &'a K::Borrowed> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// The values, in no order.
    pub fn values(self) -> impl Iterator<Item = &'a T> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// A piece of the map: calls `visit` with some of the entries, often none or one, and returns the cursor of
    /// the next piece, or 0 after the last. The first one's cursor is 0.
    ///
    /// An entry that is there all the time, from the first piece to the last, is visited, however the map
    /// changes in between; some may be visited more than once. A cursor means the same in every program.
    pub fn scan(self, cursor: u64, mut visit: impl FnMut(&'a K::Borrowed, &'a T)) -> u64 {
        if self.map.buckets == 0 {
            return 0;
        }
        // In the order of hashes read from their lowest bit on, each bucket is an interval, and a split
        // one is two halves of it.
        let bucket = bucket_of(cursor, self.map.buckets);
        let mut node = self.map.bucket(self.at, bucket);
        while let Some(found) = node {
            visit(found.key.borrowed(self.at), &found.value);
            node = found.next.as_ref().map(|next| next.get(self.at));
        }
        let level = self.map.buckets.next_power_of_two();
        let is_split = bucket >= level / 2 || bucket + level / 2 < self.map.buckets;
        let bits = level.ilog2() - u32::from(!is_split);
        let (length, mask) = (1_u64 << (64 - bits), (1_u64 << bits) - 1);
        let start = (bucket as u64 & mask).reverse_bits();
        start.wrapping_add(length).reverse_bits()
    }

    /// An entry that a number chooses: with random ones, each is chosen as often as any other.
    #[must_use]
    pub fn any(self, random: u64) -> Option<(&'a K::Borrowed, &'a T)> {
        /// More than any bucket has, but for one in many millions.
        const PLACES: u64 = 16;
        let buckets = self.map.buckets;
        let next = |node: &&'a Node<K, T, V>| node.next.as_ref().map(|next| next.get(self.at));
        // A place of a bucket, again and again until there is something at one. Otherwise the only entry of a
        // bucket would be chosen more often than each of several.
        let mut state = random;
        for _ in 0..200 {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            let bucket = mixed.checked_rem(buckets as u64)? as usize;
            let place = (mixed / buckets as u64 % PLACES) as usize;
            let first = self.map.bucket(self.at, bucket);
            if let Some(node) = std::iter::successors(first, next).nth(place) {
                return Some((node.key.borrowed(self.at), &node.value));
            }
        }
        // Of few entries in many buckets the next one after a number has to do.
        let bucket = random.checked_rem(buckets as u64)? as usize;
        let order = (bucket..buckets).chain(0..bucket);
        let first = order.into_iter().find_map(|bucket| self.map.bucket(self.at, bucket))?;
        let length = std::iter::successors(Some(first), next).count() as u64;
        let chosen = (random / buckets as u64 % length) as usize;
        let node = std::iter::successors(Some(first), next).nth(chosen)?;
        Some((node.key.borrowed(self.at), &node.value))
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand> LinearMut<'a, K, T, V> {
    /// To read for a while.
    #[inline]
    #[must_use]
    pub fn as_ref(&self) -> LinearRef<'_, K, T, V, Write> {
        LinearRef { map: self.map, at: self.at }
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
        LinearMut { map: self.map, at: self.at }.into_mut(key)
    }

    /// As [`get_mut`](LinearMut::get_mut), for as long as the view was made for.
    #[inline]
    #[must_use]
    pub fn into_mut(self, key: &K::Borrowed) -> Option<&'a mut T> {
        let (bucket, depth) = self.map.find(self.at, key);
        let slot = self.map.slot_mut(self.at, bucket, depth?)?;
        Some(&mut slot.as_mut()?.get_mut(self.at).value)
    }

    /// Sets the value of a key and returns the one it had. The key that is there stays.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; key and value are dropped, and no entry has changed.
    pub fn insert(&mut self, key: K, value: T) -> Result<Option<T>, AllocError> {
        let (bucket, depth) = self.map.find(self.at, key.borrowed(self.at));
        if let Some(depth) = depth
            && let Some(Some(node)) = self.map.slot_mut(self.at, bucket, depth)
        {
            return Ok(Some(std::mem::replace(&mut node.get_mut(self.at).value, value)));
        }
        let node = VBox::new(self.at, Node { key, value, next: None })?;
        self.map.grow(self.at)?;
        // Growing may have moved its place.
        let (bucket, _) = self.map.find(self.at, node.get(self.at).key.borrowed(self.at));
        let mut node = node;
        if let Some(place) = self.map.bucket_mut(self.at, bucket) {
            node.get_mut(self.at).next = place.take();
            *place = Some(node);
            self.map.len += 1;
        }
        Ok(None)
    }

    /// Removes a key's entry and returns its value.
    #[inline]
    pub fn remove(&mut self, key: &K::Borrowed) -> Option<T> {
        self.remove_entry(key).map(|(_, value)| value)
    }

    /// Removes a key's entry and returns it.
    pub fn remove_entry(&mut self, key: &K::Borrowed) -> Option<(K, T)> {
        let (bucket, depth) = self.map.find(self.at, key);
        let slot = self.map.slot_mut(self.at, bucket, depth?)?;
        let Node { key, value, next } = slot.take()?.into_inner(self.at);
        *slot = next;
        self.map.len -= 1;
        self.map.shrink(self.at);
        Some((key, value))
    }

    /// Drops all entries and frees the memory.
    pub fn clear(&mut self) {
        *self.map = VLinearMap::new();
    }
}

impl<K, T, V: Brand, M> Clone for LinearRef<'_, K, T, V, M> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, T, V: Brand, M> Copy for LinearRef<'_, K, T, V, M> {}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> IntoIterator for LinearRef<'a, K, T, V, M> {
    type Item = (&'a K::Borrowed, &'a T);
    type IntoIter = Iter<'a, K, T, V, M>;

    fn into_iter(self) -> Iter<'a, K, T, V, M> {
        self.iter()
    }
}

impl<K: VKey<V>, T: Storable<V> + fmt::Debug, V: Brand, M: Mode> fmt::Debug
    for LinearRef<'_, K, T, V, M>
where
    K::Borrowed: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(*self).finish()
    }
}

impl<K: VKey<V>, T: Storable<V> + fmt::Debug, V: Brand> fmt::Debug for LinearMut<'_, K, T, V>
where
    K::Borrowed: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}
