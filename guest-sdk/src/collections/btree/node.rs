//! Nodes of the tree: how they lie in memory, how they are searched, split, filled and joined.
//!
//! A B-tree as in Knuth (TAOCP vol. 3, 6.2.4) and CLRS chapter 18, worked from the top down: a full
//! child is split, a minimal one filled up, *before* descending into it. Each such step allocates
//! all memory it needs first and leaves a valid tree, so a failed allocation costs nothing, and
//! there is no way back up.
//!
//! Entries lie in their node as in the standard library's map, but twice as many: way down and walk
//! wait for memory at each node, and nodes of eleven are more than a quarter slower with a million entries. The
//! children of a node are all leaves or all not, so a leaf has no room for children, and no
//! child says which it is: their parent does. Nodes own children by [`VBox`]; there is no
//! unsafe code.

use arrayvec::ArrayVec;

use super::search::Sought;
use crate::alloc::AllocError;
use crate::boxed::VBox;
use crate::brand::Brand;
use crate::collections::VKey;
use crate::storable::Storable;
use crate::token::{At, Write};

/// Minimum children of a node that has any, unless it is the root.
const DEGREE: usize = 12;
/// Maximum entries of a node.
pub(super) const CAPACITY: usize = 2 * DEGREE - 1;
/// Maximum children of a node.
pub(super) const CHILDREN: usize = 2 * DEGREE;
/// Minimum entries of a node, unless it is the root.
pub(super) const MINIMUM: usize = DEGREE - 1;
/// Maximum nodes above a leaf: twelve to the power of it is more than there is room for.
pub(super) const MAX_DEPTH: usize = 14;

/// A node without children, and the entries of each other one.
#[repr(C)]
pub(super) struct Leaf<K, T> {
    pub(super) keys: ArrayVec<K, CAPACITY>,
    pub(super) values: ArrayVec<T, CAPACITY>,
}

/// A node with children, one more than it has entries.
#[repr(C)]
pub(super) struct Inner<K, T, V: Brand> {
    pub(super) entries: Leaf<K, T>,
    pub(super) below: Below<K, T, V>,
}

/// Children of one kind.
pub(super) type Boxes<N, V> = ArrayVec<VBox<N, V>, CHILDREN>;

/// The children of a node.
#[repr(u8)]
pub(super) enum Below<K, T, V: Brand> {
    Leaves(Boxes<Leaf<K, T>, V>),
    Inners(Boxes<Inner<K, T, V>, V>),
}

/// A map's nodes.
#[repr(u8)]
pub(super) enum Tree<K, T, V: Brand> {
    Empty,
    Leaf(VBox<Leaf<K, T>, V>),
    Inner(VBox<Inner<K, T, V>, V>),
}

impl<K, T> Leaf<K, T> {
    pub(super) const fn new() -> Leaf<K, T> {
        Leaf { keys: ArrayVec::new_const(), values: ArrayVec::new_const() }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn insert(&mut self, i: usize, key: K, value: T) -> &mut T {
        self.keys.insert(i, key);
        self.values.insert(i, value);
        &mut self.values[i]
    }

    pub(super) fn remove(&mut self, i: usize) -> (K, T) {
        (self.keys.remove(i), self.values.remove(i))
    }

    pub(super) fn push(&mut self, (key, value): (K, T)) {
        self.keys.push(key);
        self.values.push(value);
    }

    /// Replaces entry `i` by `entry` and returns the old one.
    fn replace(&mut self, i: usize, (key, value): (K, T)) -> (K, T) {
        let key = std::mem::replace(&mut self.keys[i], key);
        (key, std::mem::replace(&mut self.values[i], value))
    }

    /// Moves the entries from `from` on to the end of `to`.
    fn move_to(&mut self, from: usize, to: &mut Leaf<K, T>) {
        to.keys.extend(self.keys.drain(from..));
        to.values.extend(self.values.drain(from..));
    }
}

/// Where an array's values begin, and how large its length is: its crate promises neither. The
/// length comes first or last, and is all that there is besides.
pub(super) fn array_layout<E>() -> (usize, usize) {
    let array = ArrayVec::<E, CAPACITY>::new();
    let begin = array.as_ptr().addr() - std::ptr::from_ref(&array).addr();
    (begin, size_of::<ArrayVec<(), CAPACITY>>())
}

/// What the two kinds of nodes have in common; a leaf's children are none.
pub(super) trait Node<K: VKey<V>, T: Storable<V>, V: Brand>: Storable<V> {
    /// An empty node whose children will be of the same kind.
    fn like(&self) -> Self;
    fn entries(&self) -> &Leaf<K, T>;
    fn entries_mut(&mut self) -> &mut Leaf<K, T>;
    /// Moves children `range` to `to`, before its child `at`.
    fn move_children(&mut self, range: std::ops::Range<usize>, to: &mut Self, at: usize);
    /// Removes an entry from the node, which has one to spare or is the root, or from below it.
    fn remove(&mut self, at: &At<V, Write>, sought: Sought<'_, K::Borrowed>) -> Option<(K, T)>;

    fn is_full(&self) -> bool {
        self.entries().len() == CAPACITY
    }

    fn can_spare(&self) -> bool {
        self.entries().len() > MINIMUM
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand> Node<K, T, V> for Leaf<K, T> {
    fn like(&self) -> Self {
        Leaf::new()
    }

    #[inline]
    fn entries(&self) -> &Leaf<K, T> {
        self
    }

    #[inline]
    fn entries_mut(&mut self) -> &mut Leaf<K, T> {
        self
    }

    fn move_children(&mut self, _range: std::ops::Range<usize>, _to: &mut Self, _at: usize) {}

    fn remove(&mut self, at: &At<V, Write>, sought: Sought<'_, K::Borrowed>) -> Option<(K, T)> {
        let found = match sought {
            Sought::Key(key) => self.search(at, key).ok(),
            Sought::First => (self.len() > 0).then_some(0),
            Sought::Last => self.len().checked_sub(1),
        };
        found.map(|i| Leaf::remove(self, i))
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand> Node<K, T, V> for Inner<K, T, V> {
    fn like(&self) -> Self {
        let below = match self.below {
            Below::Leaves(_) => Below::Leaves(ArrayVec::new()),
            Below::Inners(_) => Below::Inners(ArrayVec::new()),
        };
        Inner { entries: Leaf::new(), below }
    }

    #[inline]
    fn entries(&self) -> &Leaf<K, T> {
        &self.entries
    }

    #[inline]
    fn entries_mut(&mut self) -> &mut Leaf<K, T> {
        &mut self.entries
    }

    fn move_children(&mut self, range: std::ops::Range<usize>, to: &mut Self, at: usize) {
        match (&mut self.below, &mut to.below) {
            (Below::Leaves(from), Below::Leaves(to)) => move_boxes(from, range, to, at),
            (Below::Inners(from), Below::Inners(to)) => move_boxes(from, range, to, at),
            // All leaves of a tree are equally deep, so neighbours are of one kind.
            _ => unreachable!("neighbours in a tree have children of different kinds"),
        }
    }

    fn remove(&mut self, at: &At<V, Write>, sought: Sought<'_, K::Borrowed>) -> Option<(K, T)> {
        let entries = &mut self.entries;
        match &mut self.below {
            Below::Leaves(boxes) => remove_below(at, entries, boxes, sought),
            Below::Inners(boxes) => remove_below(at, entries, boxes, sought),
        }
    }
}

fn move_boxes<N, V: Brand>(
    from: &mut Boxes<N, V>,
    range: std::ops::Range<usize>,
    to: &mut Boxes<N, V>,
    at: usize,
) {
    for (i, child) in from.drain(range).enumerate() {
        to.insert(at + i, child);
    }
}

/// Moves the upper half of a full node to `upper`, which is empty; gives the entry between them.
pub(super) fn halve<K: VKey<V>, T: Storable<V>, V: Brand, N: Node<K, T, V>>(
    lower: &mut N,
    upper: &mut N,
) -> (K, T) {
    lower.entries_mut().move_to(DEGREE, upper.entries_mut());
    lower.move_children(DEGREE..CHILDREN, upper, 0);
    lower.entries_mut().remove(MINIMUM)
}

/// Splits the full child `i` of a node that has room for the entry in the middle of it.
pub(super) fn split<K: VKey<V>, T: Storable<V>, V: Brand, N: Node<K, T, V>>(
    at: &At<V, Write>,
    entries: &mut Leaf<K, T>,
    boxes: &mut Boxes<N, V>,
    i: usize,
) -> Result<(), AllocError> {
    let lower = boxes[i].get_mut(at);
    let mut upper = VBox::new(at, lower.like())?;
    // --- point of no return ---
    let (key, value) = halve(lower, upper.get_mut(at));
    entries.insert(i, key, value);
    boxes.insert(i + 1, upper);
    Ok(())
}

/// Gives child `i` an entry to spare, from a neighbour or by joining it with one. Returns where
/// the child is that holds what `i` held.
fn fill<K: VKey<V>, T: Storable<V>, V: Brand, N: Node<K, T, V>>(
    at: &At<V, Write>,
    entries: &mut Leaf<K, T>,
    boxes: &mut Boxes<N, V>,
    i: usize,
) -> usize {
    let spares = |i: usize| boxes.get(i).is_some_and(|child| child.get(at).can_spare());
    let before = i.checked_sub(1);
    if spares(i) {
        i
    } else if let Some(before) = before.filter(|&before| spares(before)) {
        let (left, right) = boxes.split_at_mut(i);
        let (left, right) = (left[before].get_mut(at), right[0].get_mut(at));
        let last = left.entries().len() - 1;
        let entry = entries.replace(before, left.entries_mut().remove(last));
        right.entries_mut().insert(0, entry.0, entry.1);
        left.move_children(last + 1..last + 2, right, 0);
        i
    } else if spares(i + 1) {
        let (left, right) = boxes.split_at_mut(i + 1);
        let (left, right) = (left[i].get_mut(at), right[0].get_mut(at));
        let entry = entries.replace(i, right.entries_mut().remove(0));
        left.entries_mut().push(entry);
        let children = left.entries().len();
        right.move_children(0..1, left, children);
        i
    } else {
        // The last child has no neighbour behind it.
        let left = if i < entries.len() { i } else { i - 1 };
        join(at, entries, boxes, left);
        left
    }
}

/// Joins children `i` and `i + 1`, both minimal, and the entry between them.
fn join<K: VKey<V>, T: Storable<V>, V: Brand, N: Node<K, T, V>>(
    at: &At<V, Write>,
    entries: &mut Leaf<K, T>,
    boxes: &mut Boxes<N, V>,
    i: usize,
) {
    let mut right = boxes.remove(i + 1);
    let (left, right) = (boxes[i].get_mut(at), right.get_mut(at));
    left.entries_mut().push(entries.remove(i));
    let children = left.entries().len();
    right.move_children(0..right.entries().len() + 1, left, children);
    right.entries_mut().move_to(0, left.entries_mut());
}

/// Removes an entry of a node with children, or from below it.
fn remove_below<K: VKey<V>, T: Storable<V>, V: Brand, N: Node<K, T, V>>(
    at: &At<V, Write>,
    entries: &mut Leaf<K, T>,
    boxes: &mut Boxes<N, V>,
    sought: Sought<'_, K::Borrowed>,
) -> Option<(K, T)> {
    let i = match sought {
        Sought::First => 0,
        Sought::Last => entries.len(),
        Sought::Key(key) => match entries.search(at, key) {
            Ok(i) => return remove_here(at, entries, boxes, i, sought),
            Err(i) => i,
        },
    };
    // Filling moves entries between the child and its parent, but never the one sought: it lies
    // on the child's side of the entries that move.
    let i = fill(at, entries, boxes, i);
    boxes[i].get_mut(at).remove(at, sought)
}

/// Removes entry `i` of a node with children: its neighbour from below takes its place, or the
/// children beside it are joined around it and it is removed there.
fn remove_here<K: VKey<V>, T: Storable<V>, V: Brand, N: Node<K, T, V>>(
    at: &At<V, Write>,
    entries: &mut Leaf<K, T>,
    boxes: &mut Boxes<N, V>,
    i: usize,
    sought: Sought<'_, K::Borrowed>,
) -> Option<(K, T)> {
    let (child, end) = if boxes[i].get(at).can_spare() {
        (i, Sought::Last)
    } else if boxes[i + 1].get(at).can_spare() {
        (i + 1, Sought::First)
    } else {
        join(at, entries, boxes, i);
        return boxes[i].get_mut(at).remove(at, sought);
    };
    let neighbour = boxes[child].get_mut(at).remove(at, end)?;
    Some(entries.replace(i, neighbour))
}
