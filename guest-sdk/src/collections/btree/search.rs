//! From the root to an entry, to read and to change, and the changes at the root.

use std::cmp::Ordering;
use std::mem;

use arrayvec::ArrayVec;

use super::node::{Below, Boxes, Inner, Leaf, Node, Tree, halve, split};
use crate::alloc::AllocError;
use crate::boxed::VBox;
use crate::brand::Brand;
use crate::collections::VKey;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// Which entry is meant.
pub(super) enum Sought<'k, Q: ?Sized> {
    Key(&'k Q),
    First,
    Last,
}

impl<Q: ?Sized> Clone for Sought<'_, Q> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q: ?Sized> Copy for Sought<'_, Q> {}

/// An entry that was there or is there now, and the value that it had.
pub(super) type Inserted<'a, T> = (&'a mut T, Option<T>);

impl<K, T> Leaf<K, T> {
    /// Where `key` is (`Ok`), or before which entry it would be (`Err`).
    #[inline]
    pub(super) fn search<V: Brand, M: Mode>(
        &self,
        at: &At<V, M>,
        key: &K::Borrowed,
    ) -> Result<usize, usize>
    where
        K: VKey<V>,
    {
        // A key that owns memory is read there, which takes longer than to guess wrongly.
        if const { mem::needs_drop::<K>() } {
            return self.keys.binary_search_by(|held| held.borrowed(at).cmp(key));
        }
        // Where a search ends a processor cannot foretell: to guess wrongly costs it more than to look at the
        // other keys of a node, and what follows is begun meanwhile if nothing has to be guessed.
        if const { mem::size_of::<K>() <= mem::size_of::<u64>() } {
            let is_less = |held: &&K| held.borrowed(at).cmp(key) == Ordering::Less;
            let less = self.keys.iter().filter(is_less).count();
            let is_there = self
                .keys
                .get(less)
                .is_some_and(|held| held.borrowed(at).cmp(key) == Ordering::Equal);
            return if is_there { Ok(less) } else { Err(less) };
        }
        // Linear search: nodes are short, and a processor predicts it better than binary search.
        for (i, held) in self.keys.iter().enumerate() {
            match key.cmp(held.borrowed(at)) {
                Ordering::Greater => {}
                Ordering::Equal => return Ok(i),
                Ordering::Less => return Err(i),
            }
        }
        Err(self.len())
    }
}

/// A node on the way down.
pub(super) enum NodeRef<'a, K, T, V: Brand> {
    Leaf(&'a Leaf<K, T>),
    Inner(&'a Inner<K, T, V>),
}

impl<K: VKey<V>, T: Storable<V>, V: Brand> Inner<K, T, V> {
    /// Child `i`, which is there: the number of entries at most.
    #[inline]
    pub(super) fn child<'a, M: Mode>(&'a self, at: &'a At<V, M>, i: usize) -> NodeRef<'a, K, T, V> {
        match &self.below {
            Below::Leaves(boxes) => NodeRef::Leaf(boxes[i].get(at)),
            Below::Inners(boxes) => NodeRef::Inner(boxes[i].get(at)),
        }
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand> Tree<K, T, V> {
    /// The root.
    pub(super) fn root<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> Option<NodeRef<'a, K, T, V>> {
        match self {
            Tree::Empty => None,
            Tree::Leaf(root) => Some(NodeRef::Leaf(root.get(at))),
            Tree::Inner(root) => Some(NodeRef::Inner(root.get(at))),
        }
    }

    /// The entry of `key`.
    #[inline]
    pub(super) fn get<'a, M: Mode>(
        &'a self,
        at: &'a At<V, M>,
        key: &K::Borrowed,
    ) -> Option<(&'a K, &'a T)> {
        let mut node = self.root(at)?;
        loop {
            let inner = match node {
                NodeRef::Leaf(leaf) => {
                    let i = leaf.search(at, key).ok()?;
                    return leaf.keys.get(i).zip(leaf.values.get(i));
                }
                NodeRef::Inner(inner) => inner,
            };
            match inner.entries.search(at, key) {
                Ok(i) => return inner.entries.keys.get(i).zip(inner.entries.values.get(i)),
                Err(i) => node = inner.child(at, i),
            }
        }
    }

    /// The value of `key`, to be changed.
    #[inline]
    pub(super) fn get_mut<'a>(
        &'a mut self,
        at: &'a At<V, Write>,
        key: &K::Borrowed,
    ) -> Option<&'a mut T> {
        let mut node = match self {
            Tree::Empty => return None,
            Tree::Leaf(root) => return root.get_mut(at).value_mut(at, key),
            Tree::Inner(root) => root.get_mut(at),
        };
        loop {
            let i = match node.entries.search(at, key) {
                Ok(i) => return node.entries.values.get_mut(i),
                Err(i) => i,
            };
            match &mut node.below {
                Below::Leaves(boxes) => return boxes[i].get_mut(at).value_mut(at, key),
                Below::Inners(boxes) => node = boxes[i].get_mut(at),
            }
        }
    }

    /// Sets the value of `key`. After an error nothing has changed.
    pub(super) fn insert<'a>(
        &'a mut self,
        at: &'a At<V, Write>,
        key: K,
        value: T,
    ) -> Result<Inserted<'a, T>, AllocError> {
        self.make_room(at)?;
        let mut node = match self {
            Tree::Empty => unreachable!("`make_room` leaves a root"),
            Tree::Leaf(root) => return Ok(root.get_mut(at).set(at, key, value)),
            Tree::Inner(root) => root.get_mut(at),
        };
        loop {
            let Inner { entries, below } = node;
            let found = match below {
                Below::Leaves(boxes) => lead(at, entries, boxes, &key)?,
                Below::Inners(boxes) => lead(at, entries, boxes, &key)?,
            };
            let i = match found {
                Ok(i) => {
                    let held = &mut entries.values[i];
                    let before = mem::replace(held, value);
                    return Ok((held, Some(before)));
                }
                Err(i) => i,
            };
            match below {
                Below::Leaves(boxes) => return Ok(boxes[i].get_mut(at).set(at, key, value)),
                Below::Inners(boxes) => node = boxes[i].get_mut(at),
            }
        }
    }

    /// Ensures that the root has room for one more entry.
    fn make_room(&mut self, at: &At<V, Write>) -> Result<(), AllocError> {
        match self {
            Tree::Empty => *self = Tree::Leaf(VBox::new(at, Leaf::new())?),
            Tree::Leaf(root) if root.get(at).len() == super::node::CAPACITY => {
                let upper = VBox::new(at, Leaf::new())?;
                let below = Below::Leaves(ArrayVec::new());
                let above = VBox::new(at, Inner { entries: Leaf::new(), below })?;
                // --- point of no return ---
                if let Tree::Leaf(lower) = mem::replace(self, Tree::Empty) {
                    *self = Tree::Inner(raise(at, lower, upper, above, Below::Leaves));
                }
            }
            Tree::Inner(root) if root.get(at).is_full() => {
                let upper = VBox::new(at, root.get(at).like())?;
                let below = Below::Inners(ArrayVec::new());
                let above = VBox::new(at, Inner { entries: Leaf::new(), below })?;
                // --- point of no return ---
                if let Tree::Inner(lower) = mem::replace(self, Tree::Empty) {
                    *self = Tree::Inner(raise(at, lower, upper, above, Below::Inners));
                }
            }
            Tree::Leaf(_) | Tree::Inner(_) => {}
        }
        Ok(())
    }

    /// Removes an entry.
    pub(super) fn remove(
        &mut self,
        at: &At<V, Write>,
        sought: Sought<'_, K::Borrowed>,
    ) -> Option<(K, T)> {
        match self {
            Tree::Empty => None,
            Tree::Leaf(root) => {
                let leaf = root.get_mut(at);
                let removed = Node::<K, T, V>::remove(leaf, at, sought);
                if leaf.len() == 0 {
                    *self = Tree::Empty;
                }
                removed
            }
            Tree::Inner(root) => {
                let removed = root.get_mut(at).remove(at, sought);
                // Joining may have left it with one child.
                if root.get(at).entries.len() == 0 {
                    let only = match &mut root.get_mut(at).below {
                        Below::Leaves(boxes) => boxes.pop().map(Tree::Leaf),
                        Below::Inners(boxes) => boxes.pop().map(Tree::Inner),
                    };
                    *self = only.unwrap_or(Tree::Empty);
                }
                removed
            }
        }
    }
}

impl<K, T> Leaf<K, T> {
    fn value_mut<V: Brand>(&mut self, at: &At<V, Write>, key: &K::Borrowed) -> Option<&mut T>
    where
        K: VKey<V>,
    {
        let i = self.search(at, key).ok()?;
        self.values.get_mut(i)
    }

    /// Sets the value of `key` in a leaf with room.
    fn set<V: Brand>(&mut self, at: &At<V, Write>, key: K, value: T) -> Inserted<'_, T>
    where
        K: VKey<V>,
    {
        match self.search(at, key.borrowed(at)) {
            Ok(i) => {
                let held = &mut self.values[i];
                let before = mem::replace(held, value);
                (held, Some(before))
            }
            Err(i) => (self.insert(i, key, value), None),
        }
    }
}

/// Where `key` is in a node (`Ok`), or the child to look into (`Err`), which has room then.
#[inline]
fn lead<K: VKey<V>, T: Storable<V>, V: Brand, N: Node<K, T, V>>(
    at: &At<V, Write>,
    entries: &mut Leaf<K, T>,
    boxes: &mut Boxes<N, V>,
    key: &K,
) -> Result<Result<usize, usize>, AllocError> {
    let key = key.borrowed(at);
    let i = match entries.search(at, key) {
        Ok(i) => return Ok(Ok(i)),
        Err(i) => i,
    };
    if !boxes[i].get(at).is_full() {
        return Ok(Err(i));
    }
    split(at, entries, boxes, i)?;
    Ok(match key.cmp(entries.keys[i].borrowed(at)) {
        Ordering::Less => Err(i),
        Ordering::Equal => Ok(i),
        Ordering::Greater => Err(i + 1),
    })
}

/// A root above the two halves of a full one; `upper` and `above` are empty.
fn raise<K: VKey<V>, T: Storable<V>, V: Brand, N: Node<K, T, V>>(
    at: &At<V, Write>,
    mut lower: VBox<N, V>,
    mut upper: VBox<N, V>,
    mut above: VBox<Inner<K, T, V>, V>,
    kind: fn(Boxes<N, V>) -> Below<K, T, V>,
) -> VBox<Inner<K, T, V>, V> {
    let middle = halve(lower.get_mut(at), upper.get_mut(at));
    let root = above.get_mut(at);
    root.entries.push(middle);
    root.below = kind([lower, upper].into_iter().collect());
    above
}
