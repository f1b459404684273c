//! Operations on a whole tree: taken apart, and put together from entries in order.
//!
//! Removing many entries one by one would search for each, and need its key while the tree
//! changes. What is taken apart has as many nodes at each level as fewer entries can need, so
//! nothing is allocated in the VAS, and nothing can fail. Of a map that is split in two the second one's nodes are
//! allocated first.

use std::mem;
use std::ops::Bound;

use arrayvec::ArrayVec;

use super::VBTreeMap;
use super::iter_mut::IterMut;
use super::node::{Below, Boxes, CHILDREN, Inner, Leaf, Tree};
use crate::alloc::AllocError;
use crate::boxed::VBox;
use crate::brand::Brand;
use crate::collections::VKey;
use crate::storable::Storable;
use crate::token::{At, Write};

/// What a tree consists of.
struct Parts<K, T, V: Brand> {
    /// In order.
    entries: Vec<(K, T)>,
    /// Empty ones.
    leaves: Vec<VBox<Leaf<K, T>, V>>,
    /// Empty ones.
    inners: Vec<VBox<Inner<K, T, V>, V>>,
}

/// Removes the entries that `keep` does not want.
pub(super) fn retain<K: VKey<V>, T: Storable<V>, V: Brand>(
    at: &At<V, Write>,
    map: &mut VBTreeMap<K, T, V>,
    mut keep: impl FnMut(&K::Borrowed, &mut T) -> bool,
) {
    // All calls of `keep` first: if one panics, the map is intact.
    let entries = IterMut::new(at, &mut map.tree, std::ops::Bound::Unbounded);
    let kept: Vec<bool> = entries.map(|(key, value)| keep(key, value)).collect();
    if kept.iter().all(|&kept| kept) {
        return;
    }
    let mut parts = Parts::take(at, map);
    let mut answers = kept.into_iter();
    parts.entries.retain(|_| answers.next().unwrap_or(true));
    map.len = parts.entries.len();
    map.tree = parts.build(at);
}

/// Moves the entries from `key` on into a map of their own.
///
/// # Errors
/// [`AllocError`] when there is no room for its nodes; nothing is moved.
pub(super) fn split_off<K: VKey<V>, T: Storable<V>, V: Brand>(
    at: &At<V, Write>,
    map: &mut VBTreeMap<K, T, V>,
    key: &K::Borrowed,
) -> Result<VBTreeMap<K, T, V>, AllocError> {
    let moved = map.at(at).range((Bound::Included(key), Bound::Unbounded)).count().min(map.len);
    let stay = map.len - moved;
    if moved == 0 || stay == 0 {
        let none = VBTreeMap::new();
        return Ok(if moved == 0 { none } else { mem::replace(map, none) });
    }
    // The nodes that are there are enough for those that stay.
    let mut rest = Parts::with_nodes_for(at, moved)?;
    let mut parts = Parts::take(at, map);
    rest.entries = parts.entries.split_off(stay);
    map.len = stay;
    map.tree = parts.build(at);
    Ok(VBTreeMap { tree: rest.build(at), len: moved })
}

impl<K: VKey<V>, T: Storable<V>, V: Brand> Parts<K, T, V> {
    /// Takes a map apart, which is empty then.
    fn take(at: &At<V, Write>, map: &mut VBTreeMap<K, T, V>) -> Parts<K, T, V> {
        let entries = Vec::with_capacity(map.len);
        let mut parts = Parts { entries, leaves: Vec::new(), inners: Vec::new() };
        map.len = 0;
        match mem::replace(&mut map.tree, Tree::Empty) {
            Tree::Empty => {}
            Tree::Leaf(root) => parts.take_leaf(at, root),
            Tree::Inner(root) => parts.take_inner(at, root),
        }
        parts
    }

    /// The nodes that a tree of so many entries has, as `build` builds it, and no entries.
    fn with_nodes_for(at: &At<V, Write>, entries: usize) -> Result<Parts<K, T, V>, AllocError> {
        let mut parts = Parts { entries: Vec::new(), leaves: Vec::new(), inners: Vec::new() };
        if entries == 0 {
            return Ok(parts);
        }
        let mut level = (entries + 1).div_ceil(CHILDREN);
        for _ in 0..level {
            parts.leaves.push(VBox::new(at, Leaf::new())?);
        }
        while level > 1 {
            level = level.div_ceil(CHILDREN);
            for _ in 0..level {
                let below = Below::Leaves(ArrayVec::new());
                parts.inners.push(VBox::new(at, Inner { entries: Leaf::new(), below })?);
            }
        }
        Ok(parts)
    }

    fn take_leaf(&mut self, at: &At<V, Write>, mut leaf: VBox<Leaf<K, T>, V>) {
        let Leaf { keys, values } = leaf.get_mut(at);
        self.entries.extend(keys.drain(..).zip(values.drain(..)));
        self.leaves.push(leaf);
    }

    fn take_inner(&mut self, at: &At<V, Write>, mut inner: VBox<Inner<K, T, V>, V>) {
        let Inner { entries, below } = inner.get_mut(at);
        let mut between = entries.keys.drain(..).zip(entries.values.drain(..));
        match mem::replace(below, Below::Leaves(ArrayVec::new())) {
            Below::Leaves(boxes) => {
                for child in boxes {
                    self.take_leaf(at, child);
                    self.entries.extend(between.next());
                }
            }
            Below::Inners(boxes) => {
                for child in boxes {
                    self.take_inner(at, child);
                    self.entries.extend(between.next());
                }
            }
        }
        drop(between);
        self.inners.push(inner);
    }

    /// A tree of the entries, of nodes that were taken; the others are freed.
    fn build(self, at: &At<V, Write>) -> Tree<K, T, V> {
        let Parts { entries, leaves: mut free_leaves, mut inners } = self;
        if entries.is_empty() {
            return Tree::Empty;
        }
        // Each leaf but the last is followed by an entry that goes up.
        let places = entries.len() + 1;
        let count = places.div_ceil(CHILDREN);
        let (mut leaves, mut between) = (Vec::new(), Vec::new());
        let mut entries = entries.into_iter();
        for i in 0..count {
            let mut leaf = there(free_leaves.pop());
            let held = leaf.get_mut(at);
            entries.by_ref().take(share(places, count, i) - 1).for_each(|it| held.push(it));
            leaves.push(leaf);
            between.extend(entries.next());
        }
        if count == 1 {
            return leaves.pop().map_or(Tree::Empty, Tree::Leaf);
        }
        let mut level = raise(at, leaves, &mut between, &mut inners, Below::Leaves);
        while level.len() > 1 {
            level = raise(at, level, &mut between, &mut inners, Below::Inners);
        }
        level.pop().map_or(Tree::Empty, Tree::Inner)
    }
}

/// Puts the nodes of a level under as few nodes as can be, and takes the entries between these
/// children from `between`, which has those between the new nodes then.
fn raise<K: VKey<V>, T: Storable<V>, V: Brand, N>(
    at: &At<V, Write>,
    level: Vec<VBox<N, V>>,
    between: &mut Vec<(K, T)>,
    free: &mut Vec<VBox<Inner<K, T, V>, V>>,
    kind: fn(Boxes<N, V>) -> Below<K, T, V>,
) -> Vec<VBox<Inner<K, T, V>, V>> {
    let (children, count) = (level.len(), level.len().div_ceil(CHILDREN));
    let mut level = level.into_iter();
    let mut entries = mem::take(between).into_iter();
    let mut above = Vec::new();
    for i in 0..count {
        let size = share(children, count, i);
        let mut inner = there(free.pop());
        let held = inner.get_mut(at);
        held.below = kind(level.by_ref().take(size).collect());
        entries.by_ref().take(size - 1).for_each(|entry| held.entries.push(entry));
        above.push(inner);
        between.extend(entries.next());
    }
    above
}

/// Part `i` of `count` parts of `total`, which differ by one at most.
fn share(total: usize, count: usize, i: usize) -> usize {
    total * (i + 1) / count - total * i / count
}

fn there<N>(node: Option<N>) -> N {
    let Some(node) = node else { unreachable!("fewer entries need no more nodes") };
    node
}
