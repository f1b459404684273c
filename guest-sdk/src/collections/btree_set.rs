//! `VBTreeSet`: an ordered set in a VAS, which is an ordered map without values.

use std::ops::RangeBounds;

use super::btree::{BTreeMut, BTreeRef};
use super::sets::set_of_map;
use super::{VBTreeMap, VKey};
use crate::alloc::AllocError;
use crate::brand::Brand;
use crate::token::{At, Mode, Write};

/// An ordered set in the heap of `V`: what [`BTreeSet`](std::collections::BTreeSet) is at home.
///
/// ```
/// use spacejmp::{Space, VBTreeSet, VString};
///
/// spacejmp::brand! { Names => VBTreeSet<VString<Names>, Names> }
///
/// let space = Space::<Names>::in_memory(1 << 20, |_| Ok(VBTreeSet::new()))?;
/// space.write(|v| {
///     let (root, at) = v.root_mut();
///     let mut names = root.at_mut(at);
///     for name in ["Emmy", "Ada", "Emmy"] {
///         names.insert(VString::new(at, name)?)?;
///     }
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// let names = space.read(|v| v.root().at(v).iter().map(str::to_owned).collect::<Vec<_>>())?;
/// assert_eq!(names, ["Ada", "Emmy"]);
/// # Ok::<_, spacejmp::Error>(())
/// ```
#[repr(transparent)]
pub struct VBTreeSet<K, V: Brand> {
    map: VBTreeMap<K, (), V>,
}

/// A [`VBTreeSet`] to be read.
pub struct BTreeSetRef<'a, K, V: Brand, M> {
    map: BTreeRef<'a, K, (), V, M>,
}

/// A [`VBTreeSet`] to be changed.
pub struct BTreeSetMut<'a, K, V: Brand> {
    map: BTreeMut<'a, K, (), V>,
}

impl<K, V: Brand> VBTreeSet<K, V> {
    /// An empty set, which takes no memory of `V` yet.
    #[must_use]
    pub const fn new() -> VBTreeSet<K, V> {
        VBTreeSet { map: VBTreeMap::new() }
    }

    /// How many keys it has. No token is needed: the number is not in `V`'s heap.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

impl<K: VKey<V>, V: Brand> VBTreeSet<K, V> {
    pub(crate) fn as_map(&self) -> &VBTreeMap<K, (), V> {
        &self.map
    }

    pub(crate) fn of_map(map: VBTreeMap<K, (), V>) -> VBTreeSet<K, V> {
        VBTreeSet { map }
    }

    /// The set, to be read.
    #[must_use]
    pub fn at<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> BTreeSetRef<'a, K, V, M> {
        BTreeSetRef { map: self.map.at(at) }
    }

    /// The set, to be changed.
    #[must_use]
    pub fn at_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> BTreeSetMut<'a, K, V> {
        BTreeSetMut { map: self.map.at_mut(at) }
    }
}

impl<'a, K: VKey<V>, V: Brand, M: Mode> BTreeSetRef<'a, K, V, M> {
    /// Whether it has the key.
    #[must_use]
    pub fn contains(self, key: &K::Borrowed) -> bool {
        self.map.contains_key(key)
    }

    /// The key as it is stored.
    #[must_use]
    pub fn get(self, key: &K::Borrowed) -> Option<&'a K> {
        self.map.get_key_value(key).map(|(key, ())| key)
    }

    /// The smallest key.
    #[must_use]
    pub fn first(self) -> Option<&'a K::Borrowed> {
        self.map.first_key_value().map(|(key, ())| key)
    }

    /// The largest key.
    #[must_use]
    pub fn last(self) -> Option<&'a K::Borrowed> {
        self.map.last_key_value().map(|(key, ())| key)
    }

    /// The keys, in order.
    pub fn iter(
        self,
    ) -> impl DoubleEndedIterator<Item = &'a K::Borrowed> + ExactSizeIterator + Clone {
        self.map.keys()
    }

    /// The keys of a range, in order.
    pub fn range(
        self,
        range: impl RangeBounds<K::Borrowed>,
    ) -> impl DoubleEndedIterator<Item = &'a K::Borrowed> + Clone {
        self.map.range(range).map(|(key, ())| key)
    }
}

impl<K: VKey<V>, V: Brand> BTreeSetMut<'_, K, V> {
    /// Takes the smallest key out.
    pub fn pop_first(&mut self) -> Option<K> {
        self.map.pop_first().map(|(key, ())| key)
    }

    /// Moves the keys from `key` on into a set of their own, as
    /// [`BTreeMut::split_off`](super::btree::BTreeMut::split_off) does.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; nothing is moved.
    pub fn split_off(&mut self, key: &K::Borrowed) -> Result<VBTreeSet<K, V>, AllocError> {
        self.map.split_off(key).map(VBTreeSet::of_map)
    }

    /// Takes the largest key out.
    pub fn pop_last(&mut self) -> Option<K> {
        self.map.pop_last().map(|(key, ())| key)
    }
}

set_of_map!(VBTreeSet, VBTreeMap, BTreeSetRef, BTreeSetMut, "VBTreeSet version 1");
