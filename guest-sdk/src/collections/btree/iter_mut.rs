//! Walking a tree in order with values to change, from the front.
//!
//! A walk holds what is left of each node on its path: slices borrowed exclusively. That is what
//! keeps it free of unsafe code, and what a walk from both ends could not do.

use std::fmt;
use std::iter::{FusedIterator, Zip};
use std::ops::{Bound, RangeBounds};
use std::slice;

use arrayvec::ArrayVec;

use super::node::{Below, Inner, Leaf, MAX_DEPTH, Tree};
use crate::boxed::VBox;
use crate::brand::Brand;
use crate::collections::VKey;
use crate::storable::Storable;
use crate::token::{At, Write};

/// What is left of a node's entries.
type Entries<'a, K, T> = Zip<slice::Iter<'a, K>, slice::IterMut<'a, T>>;

fn entries<K, T>(of: &mut Leaf<K, T>, from: usize) -> Entries<'_, K, T> {
    of.keys[from..].iter().zip(&mut of.values[from..])
}

/// What is left of a node's children.
enum Children<'a, K, T, V: Brand> {
    Leaves(slice::IterMut<'a, VBox<Leaf<K, T>, V>>),
    Inners(slice::IterMut<'a, VBox<Inner<K, T, V>, V>>),
}

struct Level<'a, K, T, V: Brand> {
    entries: Entries<'a, K, T>,
    children: Children<'a, K, T, V>,
}

enum NodeMut<'a, K, T, V: Brand> {
    Leaf(&'a mut Leaf<K, T>),
    Inner(&'a mut Inner<K, T, V>),
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand> Level<'a, K, T, V> {
    fn new(inner: &'a mut Inner<K, T, V>, entry: usize, child: usize) -> Self {
        let children = match &mut inner.below {
            Below::Leaves(boxes) => Children::Leaves(boxes[child..].iter_mut()),
            Below::Inners(boxes) => Children::Inners(boxes[child..].iter_mut()),
        };
        Level { entries: entries(&mut inner.entries, entry), children }
    }

    fn next_child(&mut self, at: &'a At<V, Write>) -> Option<NodeMut<'a, K, T, V>> {
        match &mut self.children {
            Children::Leaves(boxes) => boxes.next().map(|leaf| NodeMut::Leaf(leaf.get_mut(at))),
            Children::Inners(boxes) => boxes.next().map(|inner| NodeMut::Inner(inner.get_mut(at))),
        }
    }
}

/// The entries of a [`VBTreeMap`](super::VBTreeMap), in the order of their keys, values to change:
/// of [`BTreeMut::iter_mut`](super::BTreeMut::iter_mut).
pub struct IterMut<'a, K, T, V: Brand> {
    at: &'a At<V, Write>,
    leaf: Entries<'a, K, T>,
    above: ArrayVec<Level<'a, K, T, V>, MAX_DEPTH>,
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand> IterMut<'a, K, T, V> {
    pub(super) fn new(
        at: &'a At<V, Write>,
        tree: &'a mut Tree<K, T, V>,
        start: Bound<&K::Borrowed>,
    ) -> Self {
        let mut iter = IterMut { at, leaf: [].iter().zip(&mut []), above: ArrayVec::new() };
        let root = match tree {
            Tree::Empty => return iter,
            Tree::Leaf(root) => NodeMut::Leaf(root.get_mut(at)),
            Tree::Inner(root) => NodeMut::Inner(root.get_mut(at)),
        };
        iter.descend(root, start);
        iter
    }

    /// To the first entry below `node` that is not before `start`.
    fn descend(&mut self, mut node: NodeMut<'a, K, T, V>, mut start: Bound<&K::Borrowed>) {
        loop {
            let held = match &node {
                NodeMut::Leaf(leaf) => &**leaf,
                NodeMut::Inner(inner) => &inner.entries,
            };
            // The first entry to come, and the first child.
            let (entry, child) = match start {
                Bound::Unbounded => (0, 0),
                Bound::Included(key) => match held.search(self.at, key) {
                    Ok(i) => (i, i + 1),
                    Err(i) => (i, i),
                },
                Bound::Excluded(key) => match held.search(self.at, key) {
                    Ok(i) => {
                        start = Bound::Unbounded;
                        (i + 1, i + 1)
                    }
                    Err(i) => (i, i),
                },
            };
            let inner = match node {
                NodeMut::Leaf(leaf) => {
                    self.leaf = entries(leaf, entry);
                    return;
                }
                NodeMut::Inner(inner) => inner,
            };
            let mut level = Level::new(inner, entry, child);
            // The entry itself is the first, nothing before it.
            let is_here = child > entry;
            let next = if is_here { None } else { level.next_child(self.at) };
            self.above.push(level);
            let Some(below) = next else { return };
            node = below;
        }
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand> Iterator for IterMut<'a, K, T, V> {
    type Item = (&'a K::Borrowed, &'a mut T);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        if let Some((key, value)) = self.leaf.next() {
            return Some((key.borrowed(at), value));
        }
        loop {
            let level = self.above.last_mut()?;
            if let Some((key, value)) = level.entries.next() {
                if let Some(below) = level.next_child(at) {
                    self.descend(below, Bound::Unbounded);
                }
                return Some((key.borrowed(at), value));
            }
            self.above.pop();
        }
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand> FusedIterator for IterMut<'_, K, T, V> {}

impl<K, T, V: Brand> fmt::Debug for IterMut<'_, K, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IterMut").finish_non_exhaustive()
    }
}

/// Some of the entries of a [`VBTreeMap`](super::VBTreeMap), in the order of their keys, values to
/// change: of [`BTreeMut::range_mut`](super::BTreeMut::range_mut).
pub struct RangeMut<'a, K, T, V: Brand, R> {
    /// `None` when there is nothing left.
    entries: Option<IterMut<'a, K, T, V>>,
    range: R,
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, R: RangeBounds<K::Borrowed>>
    RangeMut<'a, K, T, V, R>
{
    pub(super) fn new(at: &'a At<V, Write>, tree: &'a mut Tree<K, T, V>, range: R) -> Self {
        let entries = Some(IterMut::new(at, tree, range.start_bound()));
        RangeMut { entries, range }
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, R: RangeBounds<K::Borrowed>> Iterator
    for RangeMut<'a, K, T, V, R>
{
    type Item = (&'a K::Borrowed, &'a mut T);

    fn next(&mut self) -> Option<Self::Item> {
        let entries = self.entries.as_mut()?;
        let entry = entries.next().filter(|&(key, _)| match self.range.end_bound() {
            Bound::Unbounded => true,
            Bound::Included(end) => key <= end,
            Bound::Excluded(end) => key < end,
        });
        if entry.is_none() {
            self.entries = None;
        }
        entry
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand, R: RangeBounds<K::Borrowed>> FusedIterator
    for RangeMut<'_, K, T, V, R>
{
}

impl<K, T, V: Brand, R: fmt::Debug> fmt::Debug for RangeMut<'_, K, T, V, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeMut").field("range", &self.range).finish_non_exhaustive()
    }
}
