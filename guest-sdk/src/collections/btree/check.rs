//! A check of a `VBTreeMap`: its nodes, then keys, their order, and values.
//!
//! The tree is at most `MAX_DEPTH` deep, so its nodes are gone through by recursion, and remembered: entries are looked at
//! node by node, their order in the tree's.

use std::mem::offset_of;

use super::VBTreeMap;
use super::node::{self, Below, Boxes, CAPACITY, CHILDREN, Inner, Leaf, MAX_DEPTH, MINIMUM, Tree};
use crate::boxed::VBox;
use crate::brand::Brand;
use crate::check::{Checker, Expected, Needed, Place, Problem, Walk};
use crate::collections::VKey;
use crate::layout::VariantOffsets;
use crate::storable::Storable;

/// Phases of the frame of a tree.
const KEYS: u8 = 0;
const VALUES: u8 = 1;

/// Looks at a map.
pub(super) fn check<K: VKey<V>, T: Storable<V>, V: Brand>(
    map: Place,
    checker: &mut Checker<'_, V>,
) {
    checker.count("VBTreeMap");
    let tree = offset_of!(VBTreeMap<K, T, V>, tree);
    let root = map.word(tree + VariantOffsets::new(1).next::<VBox<Leaf<K, T>, V>>());
    let kind = map.number(tree, 1);
    if kind > 2 {
        return checker.no_value("tree", kind);
    }
    if checker.is_shallow() {
        if kind != 0 && root == 0 {
            checker.damaged(Problem::NoBlock { address: root });
        }
        return;
    }
    let (mut nodes, before) = (Vec::new(), checker.taint());
    let mut gather = Gather { checker, nodes: &mut nodes, entries: 0 };
    match kind {
        0 => {}
        1 => drop(gather.leaf::<K, T>(root, true)),
        _ => drop(gather.inner::<K, T>(root, true, 0)),
    }
    let entries = gather.entries;
    let len = map.word(offset_of!(VBTreeMap<K, T, V>, len));
    if checker.taint() == before && len != entries {
        checker.wrong_number("its length", len, Expected::Exactly(entries as u128));
    }
    if nodes.is_empty() {
        return;
    }
    let is_sound = checker.taint() == before;
    let mut walk = Walk::new(map, nodes.len());
    (walk.nodes, walk.numbers, walk.mark) = (nodes, [0, usize::from(is_sound)], checker.taint());
    checker.push(entries_of::<K, T, V>, label::<K, T, V>, walk);
}

/// The length of an array of `N` values at `offset`, and where its values begin.
fn array_at<E, const N: usize>(place: Place, offset: usize) -> (usize, usize) {
    let (begin, bytes) = node::array_layout::<E>();
    let values = N * size_of::<E>();
    // The length is first, unless the values are.
    let length = if begin > 0 || values == 0 { 0 } else { values.next_multiple_of(bytes) };
    (place.number(offset + length, bytes) as usize, offset + begin)
}

/// Collects nodes, of which only what makes a tree of them is looked at.
struct Gather<'g, 'c, V: Brand> {
    checker: &'g mut Checker<'c, V>,
    /// Of each its entries.
    nodes: &'g mut Vec<Place>,
    entries: usize,
}

impl<V: Brand> Gather<'_, '_, V> {
    /// A node's entries; returns their number.
    fn entries<K, T>(&mut self, node: Place, is_root: bool) -> Option<usize> {
        let (keys, _) = array_at::<K, CAPACITY>(node, offset_of!(Leaf<K, T>, keys));
        let (values, _) = array_at::<T, CAPACITY>(node, offset_of!(Leaf<K, T>, values));
        let least = if is_root { 1 } else { MINIMUM };
        let expected = match keys {
            _ if keys > CAPACITY => Expected::AtMost(CAPACITY as u128),
            _ if keys < least => Expected::AtLeast(least as u128),
            _ if values != keys => {
                let expected = Expected::Exactly(keys as u128);
                self.checker.wrong_number("the number of a node's values", values, expected);
                return None;
            }
            _ => {
                self.nodes.push(node);
                self.entries += keys;
                return Some(keys);
            }
        };
        self.checker.wrong_number("the number of a node's keys", keys, expected);
        None
    }

    /// A leaf.
    fn leaf<K, T>(&mut self, address: usize, is_root: bool) -> Option<usize> {
        let node = self.checker.claim(address, Needed::of::<Leaf<K, T>>())?;
        self.entries::<K, T>(node, is_root)?;
        Some(0)
    }

    /// A node with children; returns how many nodes are below it on each way down.
    fn inner<K, T>(&mut self, address: usize, is_root: bool, depth: usize) -> Option<usize> {
        if depth >= MAX_DEPTH {
            let most = Expected::AtMost(MAX_DEPTH as u128);
            self.checker.wrong_number("the depth of its tree", depth + 1, most);
            return None;
        }
        let node = self.checker.claim(address, Needed::of::<Inner<K, T, V>>())?;
        let own = node.part(offset_of!(Inner<K, T, V>, entries), size_of::<Leaf<K, T>>())?;
        let entries = self.entries::<K, T>(own, is_root)?;
        let below = node.part(offset_of!(Inner<K, T, V>, below), size_of::<Below<K, T, V>>())?;
        let kind = below.number(0, 1);
        if kind > 1 {
            self.checker.no_value("kind of children", kind);
            return None;
        }
        let boxes = VariantOffsets::new(1).next::<Boxes<Leaf<K, T>, V>>();
        let (children, begin) = array_at::<VBox<Leaf<K, T>, V>, CHILDREN>(below, boxes);
        if children != entries + 1 {
            let expected = Expected::Exactly(entries as u128 + 1);
            self.checker.wrong_number("the number of a node's children", children, expected);
            return None;
        }
        let mut depths = Vec::new();
        for child in 0..children {
            let address = below.word(begin + child * size_of::<usize>());
            depths.push(match kind {
                0 => self.leaf::<K, T>(address, false),
                _ => self.inner::<K, T>(address, false, depth + 1),
            });
        }
        let depths: Vec<usize> = depths.into_iter().collect::<Option<_>>()?;
        let first = depths.first().copied()?;
        if depths.iter().any(|&depth| depth != first) {
            self.checker.damaged(Problem::Order("leaves of its tree are not equally deep"));
            return None;
        }
        Some(first + 1)
    }
}

/// Key and value of an entry of a node, if it has so many.
fn entry_at<K, T>(node: Place, entry: usize) -> Option<(Place, Place)> {
    let (count, keys) = array_at::<K, CAPACITY>(node, offset_of!(Leaf<K, T>, keys));
    let (_, values) = array_at::<T, CAPACITY>(node, offset_of!(Leaf<K, T>, values));
    if entry >= count.min(CAPACITY) {
        return None;
    }
    let key = node.part(keys + entry * size_of::<K>(), size_of::<K>())?;
    Some((key, node.part(values + entry * size_of::<T>(), size_of::<T>())?))
}

/// The step of a check that goes through keys, then through values.
fn entries_of<K: VKey<V>, T: Storable<V>, V: Brand>(checker: &mut Checker<'_, V>) -> bool {
    loop {
        let walk = checker.walk();
        let (entry, phase) = (walk.numbers[0], walk.phase);
        let Some(&node) = walk.nodes.get(walk.next) else {
            if phase == VALUES {
                return false;
            }
            check_keys::<K, T, V>(checker);
            let walk = checker.walk();
            walk.next = if T::ANY_BITS { walk.count } else { 0 };
            (walk.phase, walk.numbers[0]) = (VALUES, 0);
            continue;
        };
        let Some((key, value)) = entry_at::<K, T>(node, entry) else {
            (walk.next, walk.numbers[0]) = (walk.next + 1, 0);
            continue;
        };
        walk.numbers[0] += 1;
        match phase {
            KEYS => checker.part::<K>(key, 0),
            _ => checker.part::<T>(value, 0),
        }
        if checker.has_more_below() {
            return true;
        }
    }
}

/// Whether the keys are in order, if they can be compared: the tree and all keys are sound, and values are values.
fn check_keys<K: VKey<V>, T: Storable<V>, V: Brand>(checker: &mut Checker<'_, V>) {
    let (at, taint) = (checker.at(), checker.taint());
    let walk = checker.walk();
    let (map, nodes) = (walk.place, std::mem::take(&mut walk.nodes));
    let is_sound = walk.numbers[1] == 1 && taint == walk.mark;
    let are_values = is_sound
        && (T::ANY_BITS
            || checker.could_be(|checker| {
                let entries = |&node| (0..CAPACITY).map_while(move |i| entry_at::<K, T>(node, i));
                let values = nodes.iter().flat_map(entries);
                values.for_each(|(_, value)| checker.part::<T>(value, 0));
            }));
    let mut wrong = Some(None);
    if are_values {
        // SAFETY: the tree is sound, with its nodes; keys were looked at with all that they own, and values as far as they are
        // in the nodes.
        let map = unsafe { map.value::<VBTreeMap<K, T, V>>() };
        wrong = checker.guarded(|| {
            let keys = || map.at(at).stored().map(|(key, _)| key);
            let mut pairs = keys().zip(keys().skip(1));
            let wrong = pairs.find(|(one, other)| one.borrowed(at) >= other.borrowed(at));
            wrong.map(|(_, key)| std::ptr::from_ref(key).addr())
        });
    }
    checker.walk().nodes = nodes;
    match wrong {
        None => checker.damaged(Problem::Panicked),
        Some(Some(address)) => {
            let walk = checker.walk();
            let holds = |node: &Place| address.wrapping_sub(node.address()) < node.bytes();
            let place = walk.nodes.iter().position(holds).unwrap_or(0);
            let of_key = |&entry: &usize| {
                let found = walk.nodes.get(place).and_then(|&node| entry_at::<K, T>(node, entry));
                found.is_some_and(|(key, _)| key.address() == address)
            };
            let entry = (0..CAPACITY).find(of_key).unwrap_or(0);
            (walk.next, walk.numbers[0]) = (place, entry + 1);
            checker.damaged(Problem::Order("its key is not greater than the one before it"));
        }
        Some(None) => {}
    }
}

/// An entry's key in brackets.
fn label<K: VKey<V>, T: Storable<V>, V: Brand>(
    checker: &mut Checker<'_, V>,
    frame: usize,
) -> Option<String> {
    let walk = checker.walk_of(frame)?;
    let (number, entry) = (walk.next, walk.numbers[0].checked_sub(1)?);
    let (key, _) = entry_at::<K, T>(*walk.nodes.get(number)?, entry)?;
    let key = K::show_stored(key, checker);
    let key = key.unwrap_or_else(|| format!("entry {entry} of node {number}"));
    Some(format!("[{key}]"))
}

// What `kind` above is about.
const _: () = {
    assert!(size_of::<Tree<u64, u64, Fixed>>() == 16);
    assert!(align_of::<Tree<u64, u64, Fixed>>() == 8);
};

/// Some brand.
struct Fixed;

impl Brand for Fixed {
    type Root = ();
    const NAME: &'static str = "";
    type Handles = crate::brand::Kept<Self>;
}
