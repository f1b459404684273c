//! `VBTreeMap`: an ordered map in a VAS.
//!
//! A tree of our own, because the standard library's takes no allocator on a stable toolchain, and
//! we know of no well-maintained crate with one that does.
//!
//! - here: the map and its two views, to read and to change; `entry`: entries, there or not yet
//! - `node`: nodes and how they are split and joined; `search`: from the root to an entry;
//!   `rebuild`: a whole tree at once
//! - `iter`, `iter_mut`: walks

mod check;
mod entry;
mod iter;
mod iter_mut;
mod node;
mod rebuild;
mod search;
#[cfg(test)]
mod tests;
mod view;

use std::fmt;
use std::mem::offset_of;

pub use entry::{Entry, OccupiedEntry, VacantEntry};
pub use iter::{Iter, Range};
pub use iter_mut::{IterMut, RangeMut};
pub use view::{BTreeMut, BTreeRef};

use crate::brand::Brand;
use crate::check::{Checker, Place};
use crate::collections::VKey;
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};
use node::{Inner, Leaf, Tree};

/// An ordered map in the heap of `V`: what [`BTreeMap`](std::collections::BTreeMap) is at home.
///
/// It is read through [`at`](VBTreeMap::at) and changed through [`at_mut`](VBTreeMap::at_mut), with
/// a token. Finding, inserting and removing take time in the logarithm of its length. Dropped
/// inside `V`, writable, it drops its entries and frees its memory; elsewhere it leaks both.
///
/// ```
/// use spacejmp::Space;
/// use spacejmp::collections::VBTreeMap;
///
/// spacejmp::brand! { Diary => VBTreeMap<u32, f64, Diary> }
///
/// let space = Space::<Diary>::in_memory(1 << 20, |_| Ok(VBTreeMap::new()))?;
/// space.write(|v| {
///     let (root, at) = v.root_mut();
///     let mut days = root.at_mut(at);
///     for day in [19, 3, 7, 12] {
///         days.insert(day, f64::from(day) / 2.0)?;
///     }
///     *days.entry(7).or_insert(0.0)? += 1.0;
///     days.remove(&3);
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// space.read(|v| {
///     let days = v.root().at(v);
///     assert_eq!(days.get(&7), Some(&4.5));
///     assert_eq!(days.range(10..).map(|(day, _)| *day).collect::<Vec<_>>(), [12, 19]);
///     assert_eq!(format!("{days:?}"), "{7: 4.5, 12: 6.0, 19: 9.5}");
/// })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[repr(C)]
pub struct VBTreeMap<K, T, V: Brand> {
    tree: Tree<K, T, V>,
    len: usize,
}

impl<K, T, V: Brand> VBTreeMap<K, T, V> {
    /// An empty map, which takes no memory of `V` yet.
    #[must_use]
    pub const fn new() -> VBTreeMap<K, T, V> {
        VBTreeMap { tree: Tree::Empty, len: 0 }
    }

    /// How many entries it has. No token is needed: the number is not in `V`'s heap.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand> VBTreeMap<K, T, V> {
    /// The map, to be read.
    #[inline]
    #[must_use]
    pub fn at<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> BTreeRef<'a, K, T, V, M> {
        BTreeRef { map: self, at }
    }

    /// The map, to be changed.
    #[inline]
    #[must_use]
    pub fn at_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> BTreeMut<'a, K, T, V> {
        BTreeMut { map: self, at }
    }
}

impl<K, T, V: Brand> Default for VBTreeMap<K, T, V> {
    fn default() -> VBTreeMap<K, T, V> {
        VBTreeMap::new()
    }
}

impl<K, T, V: Brand> fmt::Debug for VBTreeMap<K, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VBTreeMap<{}>(len {})", V::NAME, self.len)
    }
}

// SAFETY: entries may lie in `V`; all else are numbers and boxes of `V`, which check where the
// thread is when they are dropped.
unsafe impl<K: VKey<V>, T: Storable<V>, V: Brand> Storable<V> for VBTreeMap<K, T, V> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("VBTreeMap version 1", |writer| {
            let offset = offset_of!(VBTreeMap<K, T, V>, len);
            writer.field::<usize, V>("len", offset);
            writer.part::<Inner<K, T, V>, V>(format_args!(""));
        });
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        check::check::<K, T, V>(place, checker);
    }
}

// SAFETY: as for the map.
unsafe impl<K: VKey<V>, T: Storable<V>, V: Brand> Storable<V> for Inner<K, T, V> {
    fn layout(writer: &mut LayoutWriter) {
        let below = offset_of!(Inner<K, T, V>, below);
        let children = node::array_layout::<crate::VBox<Leaf<K, T>, V>>().0;
        let name = format!("nodes with children at {below} and {children} in their array");
        writer.describe::<Self>(name, |writer| {
            writer.part::<Leaf<K, T>, V>(format_args!(""));
        });
    }
}

// SAFETY: as for the map.
unsafe impl<K: VKey<V>, T: Storable<V>, V: Brand> Storable<V> for Leaf<K, T> {
    fn layout(writer: &mut LayoutWriter) {
        let (length, values) = (node::CAPACITY, offset_of!(Leaf<K, T>, values));
        let arrays = [node::array_layout::<K>(), node::array_layout::<T>()];
        let name = format!(
            "leaves of {length} entries, keys at {} in their array, values at {values} and {} in \
             theirs, lengths of {} bytes",
            arrays[0].0, arrays[1].0, arrays[0].1
        );
        writer.describe::<Self>(name, |writer| {
            writer.part::<K, V>(format_args!("key: "));
            writer.part::<T, V>(format_args!("value: "));
        });
    }
}
