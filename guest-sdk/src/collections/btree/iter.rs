//! Walking a tree in order, from both ends.
//!
//! The position of a walk is an edge: a place in a leaf, before its first entry, between two, or
//! after its last. Between two edges next to each other lies exactly one entry, in the leaf or, at
//! its ends, in a node above, so two walks that meet are at the same edge.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};

use arrayvec::ArrayVec;

use super::node::{Inner, Leaf, MAX_DEPTH, Tree};
use super::search::{NodeRef, Sought};
use crate::brand::Brand;
use crate::collections::VKey;
use crate::storable::Storable;
use crate::token::{At, Mode};

/// A place in a leaf and the path to it: nodes with the child taken.
struct Edge<'a, K, T, V: Brand> {
    above: ArrayVec<(&'a Inner<K, T, V>, usize), MAX_DEPTH>,
    leaf: &'a Leaf<K, T>,
    i: usize,
}

impl<K, T, V: Brand> Clone for Edge<'_, K, T, V> {
    fn clone(&self) -> Self {
        Edge { above: self.above.clone(), leaf: self.leaf, i: self.i }
    }
}

impl<K, T, V: Brand> PartialEq for Edge<'_, K, T, V> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.i == other.i && std::ptr::eq(self.leaf, other.leaf)
    }
}

/// Which edge.
enum Side<'k, Q: ?Sized> {
    /// The first or last of all, or the one before an entry, or where it would be.
    Before(Sought<'k, Q>),
    /// The one behind an entry, or where it would be.
    Behind(&'k Q),
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand> Edge<'a, K, T, V> {
    fn find<M: Mode>(
        at: &'a At<V, M>,
        root: NodeRef<'a, K, T, V>,
        mut side: Side<'_, K::Borrowed>,
    ) -> Self {
        let mut above = ArrayVec::new();
        let mut node = root;
        loop {
            let entries = match node {
                NodeRef::Leaf(leaf) => leaf,
                NodeRef::Inner(inner) => &inner.entries,
            };
            let i = match side {
                Side::Before(Sought::First) => 0,
                Side::Before(Sought::Last) => entries.len(),
                Side::Before(Sought::Key(key)) => match entries.search(at, key) {
                    Ok(i) => {
                        side = Side::Before(Sought::Last);
                        i
                    }
                    Err(i) => i,
                },
                Side::Behind(key) => match entries.search(at, key) {
                    Ok(i) => {
                        side = Side::Before(Sought::First);
                        i + 1
                    }
                    Err(i) => i,
                },
            };
            match node {
                NodeRef::Leaf(leaf) => return Edge { above, leaf, i },
                NodeRef::Inner(inner) => {
                    above.push((inner, i));
                    node = inner.child(at, i);
                }
            }
        }
    }

    /// On to the next edge, and the entry on the way there.
    #[inline]
    fn next<M: Mode>(&mut self, at: &'a At<V, M>) -> Option<(&'a K, &'a T)> {
        let entry = self.leaf.keys.get(self.i).zip(self.leaf.values.get(self.i));
        if entry.is_none() {
            return self.climb_next(at);
        }
        self.i += 1;
        entry
    }

    fn climb_next<M: Mode>(&mut self, at: &'a At<V, M>) -> Option<(&'a K, &'a T)> {
        let keep = self.above.iter().rposition(|&(inner, i)| i < inner.entries.len())? + 1;
        self.above.truncate(keep);
        let (inner, i) = self.above.last_mut()?;
        let (inner, passed) = (*inner, *i);
        *i += 1;
        self.descend(at, inner.child(at, passed + 1), Sought::First);
        inner.entries.keys.get(passed).zip(inner.entries.values.get(passed))
    }

    /// Back to the edge before, and the entry on the way there.
    #[inline]
    fn back<M: Mode>(&mut self, at: &'a At<V, M>) -> Option<(&'a K, &'a T)> {
        let Some(i) = self.i.checked_sub(1) else { return self.climb_back(at) };
        self.i = i;
        self.leaf.keys.get(i).zip(self.leaf.values.get(i))
    }

    fn climb_back<M: Mode>(&mut self, at: &'a At<V, M>) -> Option<(&'a K, &'a T)> {
        let keep = self.above.iter().rposition(|&(_, i)| i > 0)? + 1;
        self.above.truncate(keep);
        let (inner, i) = self.above.last_mut()?;
        *i -= 1;
        let (inner, passed) = (*inner, *i);
        self.descend(at, inner.child(at, passed), Sought::Last);
        inner.entries.keys.get(passed).zip(inner.entries.values.get(passed))
    }

    fn descend<M: Mode>(
        &mut self,
        at: &'a At<V, M>,
        to: NodeRef<'a, K, T, V>,
        end: Sought<'_, K::Borrowed>,
    ) {
        let below = Edge::find(at, to, Side::Before(end));
        self.above.extend(below.above);
        (self.leaf, self.i) = (below.leaf, below.i);
    }
}

/// Some of the entries of a [`VBTreeMap`](super::VBTreeMap), in the order of their keys, from
/// either end: of [`BTreeRef::range`](super::BTreeRef::range).
pub struct Range<'a, K, T, V: Brand, M> {
    at: &'a At<V, M>,
    /// `None` when there is nothing left.
    ends: Option<(Edge<'a, K, T, V>, Edge<'a, K, T, V>)>,
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> Range<'a, K, T, V, M> {
    pub(super) fn new(
        at: &'a At<V, M>,
        tree: &'a Tree<K, T, V>,
        range: &impl RangeBounds<K::Borrowed>,
    ) -> Self {
        let front = match range.start_bound() {
            Bound::Unbounded => Side::Before(Sought::First),
            Bound::Included(key) => Side::Before(Sought::Key(key)),
            Bound::Excluded(key) => Side::Behind(key),
        };
        let back = match range.end_bound() {
            Bound::Unbounded => Side::Before(Sought::Last),
            Bound::Included(key) => Side::Behind(key),
            Bound::Excluded(key) => Side::Before(Sought::Key(key)),
        };
        let ends = match (tree.root(at), tree.root(at)) {
            (Some(first), Some(second)) if !is_empty(range) => {
                let front = Edge::find(at, first, front);
                Some((front, Edge::find(at, second, back)))
            }
            _ => None,
        };
        Range { at, ends }
    }
}

/// An entry with what its key lends.
#[inline]
fn lend<'a, K: VKey<V>, T, V: Brand, M: Mode>(
    at: &'a At<V, M>,
    entry: Option<(&'a K, &'a T)>,
) -> Option<(&'a K::Borrowed, &'a T)> {
    entry.map(|(key, value)| (key.borrowed(at), value))
}

/// Whether a range ends where it begins, or before.
fn is_empty<Q: Ord + ?Sized>(range: &impl RangeBounds<Q>) -> bool {
    match (range.start_bound(), range.end_bound()) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end))
        | (Bound::Excluded(start), Bound::Included(end)) => start >= end,
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> Iterator for Range<'a, K, T, V, M> {
    type Item = (&'a K::Borrowed, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        let (front, back) = self.ends.as_mut()?;
        if front == back {
            self.ends = None;
            return None;
        }
        lend(self.at, front.next(self.at))
    }

    fn last(mut self) -> Option<Self::Item> {
        self.next_back()
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> DoubleEndedIterator for Range<'_, K, T, V, M> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let (front, back) = self.ends.as_mut()?;
        if front == back {
            self.ends = None;
            return None;
        }
        lend(self.at, back.back(self.at))
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> FusedIterator for Range<'_, K, T, V, M> {}

impl<K, T, V: Brand, M> Clone for Range<'_, K, T, V, M> {
    fn clone(&self) -> Self {
        Range { at: self.at, ends: self.ends.clone() }
    }
}

impl<K: VKey<V>, T: Storable<V> + fmt::Debug, V: Brand, M: Mode> fmt::Debug
    for Range<'_, K, T, V, M>
where
    K::Borrowed: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// The entries of a [`VBTreeMap`](super::VBTreeMap), in the order of their keys, from either
/// end: of [`BTreeRef::iter`](super::BTreeRef::iter).
pub struct Iter<'a, K, T, V: Brand, M> {
    range: Range<'a, K, T, V, M>,
    left: usize,
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> Iter<'a, K, T, V, M> {
    pub(super) fn new(at: &'a At<V, M>, tree: &'a Tree<K, T, V>, len: usize) -> Self {
        Iter { range: Range::new(at, tree, &..), left: len }
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> Iterator for Iter<'a, K, T, V, M> {
    type Item = (&'a K::Borrowed, &'a T);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (front, _) = self.range.ends.as_mut()?;
        lend(self.range.at, front.next(self.range.at))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }

    fn last(mut self) -> Option<Self::Item> {
        self.next_back()
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> DoubleEndedIterator for Iter<'_, K, T, V, M> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (_, back) = self.range.ends.as_mut()?;
        lend(self.range.at, back.back(self.range.at))
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> ExactSizeIterator for Iter<'_, K, T, V, M> {}
impl<K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> FusedIterator for Iter<'_, K, T, V, M> {}

/// The entries with their keys as they are stored, in order.
pub(crate) struct Stored<'a, K, T, V: Brand, M>(pub(super) Iter<'a, K, T, V, M>);

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> Iterator for Stored<'a, K, T, V, M> {
    type Item = (&'a K, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.left = self.0.left.checked_sub(1)?;
        let (front, _) = self.0.range.ends.as_mut()?;
        front.next(self.0.range.at)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<K, T, V: Brand, M> Clone for Iter<'_, K, T, V, M> {
    fn clone(&self) -> Self {
        Iter { range: self.range.clone(), left: self.left }
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
