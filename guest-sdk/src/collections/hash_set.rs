//! `VHashSet`: a set in a VAS, which is a hash map without values.

use super::sets::set_of_map;
use super::{MapMut, MapRef, VHashMap, VKey};
use crate::alloc::AllocError;
use crate::brand::Brand;
use crate::token::{At, Mode, Write};

/// A set in the heap of `V`: what [`HashSet`](std::collections::HashSet) is at home.
///
/// ```
/// use spacejmp::{Space, VHashSet, VString};
///
/// spacejmp::brand! { Names => VHashSet<VString<Names>, Names> }
///
/// let space = Space::<Names>::in_memory(1 << 20, |_| Ok(VHashSet::new()))?;
/// space.write(|v| {
///     let (root, at) = v.root_mut();
///     let mut names = root.at_mut(at);
///     for name in ["Emmy", "Ada", "Emmy"] {
///         names.insert(VString::new(at, name)?)?;
///     }
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// assert_eq!(space.read(|v| (v.root().len(), v.root().at(v).contains("Ada")))?, (2, true));
/// # Ok::<_, spacejmp::Error>(())
/// ```
#[repr(transparent)]
pub struct VHashSet<K, V: Brand> {
    map: VHashMap<K, (), V>,
}

/// A [`VHashSet`] to be read.
pub struct HashSetRef<'a, K, V: Brand, M> {
    map: MapRef<'a, K, (), V, M>,
}

/// A [`VHashSet`] to be changed.
pub struct HashSetMut<'a, K, V: Brand> {
    map: MapMut<'a, K, (), V>,
}

impl<K, V: Brand> VHashSet<K, V> {
    /// An empty set, which takes no memory of `V` yet.
    #[must_use]
    pub const fn new() -> VHashSet<K, V> {
        VHashSet { map: VHashMap::new() }
    }

    /// How many keys it has. No token is needed: the number is not in `V`'s heap.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

impl<K: VKey<V>, V: Brand> VHashSet<K, V> {
    pub(crate) fn as_map(&self) -> &VHashMap<K, (), V> {
        &self.map
    }

    pub(crate) fn of_map(map: VHashMap<K, (), V>) -> VHashSet<K, V> {
        VHashSet { map }
    }

    /// The set, to be read.
    #[must_use]
    pub fn at<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> HashSetRef<'a, K, V, M> {
        HashSetRef { map: self.map.at(at) }
    }

    /// The set, to be changed.
    #[must_use]
    pub fn at_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> HashSetMut<'a, K, V> {
        HashSetMut { map: self.map.at_mut(at) }
    }
}

impl<'a, K: VKey<V>, V: Brand, M: Mode> HashSetRef<'a, K, V, M> {
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

    /// The keys, in no order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a K::Borrowed> + Clone {
        self.map.keys()
    }
}

impl<K: VKey<V>, V: Brand> HashSetMut<'_, K, V> {
    /// Makes room for `more` keys.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn reserve(&mut self, more: usize) -> Result<(), AllocError> {
        self.map.reserve(more)
    }

    /// Takes all keys out, whether they are taken from the iterator or not.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = K> {
        self.map.drain().map(|(key, ())| key)
    }
}

set_of_map!(VHashSet, VHashMap, HashSetRef, HashSetMut, "VHashSet version 1");
