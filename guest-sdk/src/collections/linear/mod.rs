//! `VLinearMap`: a hash map that grows by a bucket at a time. Here is what is stored and where an entry lies;
//! the views are in `view`, walks in `iter`.
//!
//! Linear hashing (Litwin, 1980). There are as many buckets as entries, about; each insertion that makes
//! more entries than buckets splits one bucket in two, in turn, and removals join them again. So no
//! insertion moves more than a few entries: a table that doubles writes all of its pages at once, which
//! a commit of a versioned space would have to store.
//!
//! Buckets are lists of boxed nodes, which stay where they are. They lie in *parts*, each as large as all before
//! it together, whose memory is asked for as a whole and touched bucket by bucket.

mod check;
mod iter;
#[cfg(test)]
mod tests;
mod view;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::mem::offset_of;

pub use iter::Iter;
pub use view::{LinearMut, LinearRef};

use super::key::VKey;
use super::vec::VVec;
use super::words;
use crate::alloc::AllocError;
use crate::boxed::VBox;
use crate::brand::Brand;
use crate::check::{Checker, Place};
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// How many buckets the first part has; a power of two.
const FIRST: usize = 8;

/// An entry, and the next one of its bucket.
#[repr(C)]
struct Node<K, T, V: Brand> {
    key: K,
    value: T,
    next: Bucket<K, T, V>,
}

type Bucket<K, T, V> = Option<VBox<Node<K, T, V>, V>>;

/// Owns entries in the heap of `V`, found by key, for maps that are large, or that are looked through while
/// they change.
///
/// It is used as a [`VHashMap`](super::VHashMap) is, and differs in three ways.
/// - An insertion changes few pages however large the map is. A `VHashMap` that is full moves all its entries to
///   another table: for a million entries a commit of tens of MiB, now and then.
/// - [`scan`](LinearRef::scan) goes through it in pieces, between which it may be changed, in this visit and
///   in others.
/// - Each entry is a block of its own: looking up needs one more access to memory, and going through all
///   entries as many as there are.
///
/// ```
/// use spacejmp::{Space, VLinearMap, VVec};
///
/// spacejmp::brand! { Names<'v> => VLinearMap<VVec<u8, Names<'v>>, u64, Names<'v>> }
///
/// let names = Space::<Names>::in_memory(1 << 20, |_| Ok(VLinearMap::new()))?;
/// names.write(|v| {
///     let (root, at) = v.root_mut();
///     let mut names = root.at_mut(at);
///     for (number, name) in [b"one".as_slice(), b"two", b"three"].into_iter().enumerate() {
///         names.insert(VVec::from_slice(at, name)?, number as u64 + 1)?;
///     }
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// let (mut cursor, mut sum) = (0, 0);
/// loop {
///     cursor = names.read(|v| v.root().at(v).scan(cursor, |_, number| sum += number))?;
///     if cursor == 0 {
///         break;
///     }
/// }
/// assert_eq!(sum, 6);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[repr(C)]
pub struct VLinearMap<K, T, V: Brand> {
    /// Of the hashes; chosen with the first entry.
    seed: u64,
    len: usize,
    /// How many buckets there are: 0, or `FIRST` and more.
    buckets: usize,
    parts: VVec<VVec<Bucket<K, T, V>, V>, V>,
}

/// Which part a bucket is in, and its place there.
#[inline]
fn place(bucket: usize) -> (usize, usize) {
    if bucket < FIRST {
        return (0, bucket);
    }
    let part = (bucket / FIRST).ilog2() as usize + 1;
    (part, bucket - (FIRST << (part - 1)))
}

/// In which bucket of `buckets`, which are some, a hash is.
#[inline]
fn bucket_of(hash: u64, buckets: usize) -> usize {
    let level = buckets.next_power_of_two();
    let fine = hash as usize & (level - 1);
    // Not split yet: with the one it will be split from.
    if fine < buckets { fine } else { fine & (level / 2 - 1) }
}

impl<K, T, V: Brand> VLinearMap<K, T, V> {
    /// No entries, and no memory yet.
    #[inline]
    #[must_use]
    pub const fn new() -> VLinearMap<K, T, V> {
        VLinearMap { seed: 0, len: 0, buckets: 0, parts: VVec::new() }
    }

    /// How many entries there are. No token is needed: the number is not in `V`'s heap.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand> VLinearMap<K, T, V> {
    /// The entries.
    #[inline]
    #[must_use]
    pub fn at<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> LinearRef<'a, K, T, V, M> {
        LinearRef { map: self, at }
    }

    /// The entries, to be changed.
    #[inline]
    #[must_use]
    pub fn at_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> LinearMut<'a, K, T, V> {
        LinearMut { map: self, at }
    }

    /// The first entry of a bucket. `None`, too, if there is no such bucket.
    #[inline]
    fn bucket<'a, M: Mode>(&'a self, at: &'a At<V, M>, bucket: usize) -> Option<&'a Node<K, T, V>> {
        let (part, place) = place(bucket);
        self.parts.at(at).get(part)?.at(at).get(place)?.as_ref().map(|node| node.get(at))
    }

    /// A bucket, to be changed.
    #[inline]
    fn bucket_mut<'a>(
        &'a mut self,
        at: &'a At<V, Write>,
        bucket: usize,
    ) -> Option<&'a mut Bucket<K, T, V>> {
        let (part, place) = place(bucket);
        let part = self.parts.at_mut(at).into_slice().get_mut(part)?;
        part.at_mut(at).into_slice().get_mut(place)
    }

    /// The bucket of a key and how many entries are before the key's there, if it has one.
    #[inline]
    fn find<M: Mode>(&self, at: &At<V, M>, key: &K::Borrowed) -> (usize, Option<usize>) {
        if self.buckets == 0 {
            return (0, None);
        }
        let bucket = bucket_of(words::hash_of(self.seed, key), self.buckets);
        let (mut node, mut depth) = (self.bucket(at, bucket), 0);
        while let Some(found) = node {
            if found.key.borrowed(at) == key {
                return (bucket, Some(depth));
            }
            (node, depth) = (found.next.as_ref().map(|next| next.get(at)), depth + 1);
        }
        (bucket, None)
    }

    /// What owns the entry at `depth` of a bucket, or is `None` at its end.
    fn slot_mut<'a>(
        &'a mut self,
        at: &'a At<V, Write>,
        bucket: usize,
        depth: usize,
    ) -> Option<&'a mut Bucket<K, T, V>> {
        let mut slot = self.bucket_mut(at, bucket)?;
        for _ in 0..depth {
            slot = &mut slot.as_mut()?.get_mut(at).next;
        }
        Some(slot)
    }

    /// Appends an empty bucket.
    fn push_bucket(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        let (part, place) = place(self.buckets);
        if part == self.parts.len() {
            let size = if part == 0 { FIRST } else { FIRST << (part - 1) };
            let fresh = VVec::with_capacity(at, size)?;
            self.parts.at_mut(at).push(fresh)?;
        }
        let part = &mut self.parts.at_mut(at).into_slice()[part];
        debug_assert_eq!(part.len(), place);
        part.at_mut(at).push(None)?;
        self.buckets += 1;
        Ok(())
    }

    /// Room for another entry. What fails leaves the map as it was.
    fn grow(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        if self.buckets == 0 {
            while self.buckets < FIRST {
                self.push_bucket(at)?;
            }
            self.seed = RandomState::new().hash_one(0);
            return Ok(());
        }
        if self.len < self.buckets {
            return Ok(());
        }
        let new = self.buckets;
        self.push_bucket(at)?;
        // It is split off the one that its entries were in until now.
        let level = self.buckets.next_power_of_two();
        let (seed, from) = (self.seed, new - level / 2);
        let (mut rest, mut stay, mut go) = (self.take_bucket(at, from), None, None);
        while let Some(mut node) = rest {
            let inner = node.get_mut(at);
            rest = inner.next.take();
            let hash = words::hash_of(seed, inner.key.borrowed(at));
            let kept = if hash as usize & (level - 1) == new { &mut go } else { &mut stay };
            inner.next = kept.take();
            *kept = Some(node);
        }
        self.put_bucket(at, from, stay);
        self.put_bucket(at, new, go);
        Ok(())
    }

    /// Removes buckets when there are far fewer entries: four at a time, so that none are left over when all
    /// entries are removed.
    fn shrink(&mut self, at: &At<V, Write>) {
        for _ in 0..4 {
            if self.buckets <= FIRST || self.len * 4 > self.buckets {
                return;
            }
            self.join_last(at);
        }
    }

    /// Joins the last bucket to the one it was split from.
    fn join_last(&mut self, at: &At<V, Write>) {
        let last = self.buckets - 1;
        let to = last - self.buckets.next_power_of_two() / 2;
        let mut rest = self.take_bucket(at, last);
        let mut all = self.take_bucket(at, to);
        while let Some(mut node) = rest {
            rest = std::mem::replace(&mut node.get_mut(at).next, all);
            all = Some(node);
        }
        self.put_bucket(at, to, all);
        let mut parts = self.parts.at_mut(at);
        if let Some(part) = parts.last_mut() {
            part.at_mut(at).pop();
            if part.is_empty() {
                parts.pop();
            }
        }
        self.buckets = last;
    }

    fn take_bucket(&mut self, at: &At<V, Write>, bucket: usize) -> Bucket<K, T, V> {
        self.bucket_mut(at, bucket).and_then(Option::take)
    }

    fn put_bucket(&mut self, at: &At<V, Write>, bucket: usize, nodes: Bucket<K, T, V>) {
        if let Some(place) = self.bucket_mut(at, bucket) {
            *place = nodes;
        }
    }
}

impl<K, T, V: Brand> Default for VLinearMap<K, T, V> {
    fn default() -> VLinearMap<K, T, V> {
        VLinearMap::new()
    }
}

impl<K, T, V: Brand> fmt::Debug for VLinearMap<K, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VLinearMap<{}>(len {})", V::NAME, self.len)
    }
}

// SAFETY: entries may lie in `V`; all else are numbers, vectors and boxes of `V`, which check where the
// thread is when they are dropped.
unsafe impl<K: VKey<V>, T: Storable<V>, V: Brand> Storable<V> for VLinearMap<K, T, V> {
    fn layout(writer: &mut LayoutWriter) {
        let (vec, hashes) = (words::of_vec(), words::of_hashes());
        let name =
            format!("VLinearMap version 1, first part {FIRST}, words {vec}, hashes {hashes:016x}");
        writer.describe::<Self>(name, |writer| {
            writer.part::<Node<K, T, V>, V>(format_args!(""));
        });
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        check::check::<K, T, V>(place, checker);
    }
}

// SAFETY: as for the map.
unsafe impl<K: VKey<V>, T: Storable<V>, V: Brand> Storable<V> for Node<K, T, V> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("node", |writer| {
            writer.field::<K, V>("key", offset_of!(Node<K, T, V>, key));
            writer.field::<T, V>("value", offset_of!(Node<K, T, V>, value));
            writer.field::<Bucket<K, T, V>, V>("next", offset_of!(Node<K, T, V>, next));
        });
    }
}
