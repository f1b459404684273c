//! A check of a `VLinearMap`: its buckets, then keys, whether each is in its bucket, and values.

use std::mem::offset_of;

use super::{Bucket, FIRST, Node, VLinearMap, bucket_of, place};
use crate::brand::Brand;
use crate::check::{Checker, Expected, Needed, Place, Problem, Walk};
use crate::collections::{VKey, VVec, words};
use crate::storable::Storable;

/// Phases of the frame of a map.
const KEYS: u8 = 0;
const VALUES: u8 = 1;

/// Looks at a map.
pub(super) fn check<K: VKey<V>, T: Storable<V>, V: Brand>(
    map: Place,
    checker: &mut Checker<'_, V>,
) {
    checker.count("VLinearMap");
    let of = |offset| map.word(offset);
    let len = of(offset_of!(VLinearMap<K, T, V>, len));
    let buckets = of(offset_of!(VLinearMap<K, T, V>, buckets));
    let parts = offset_of!(VLinearMap<K, T, V>, parts);
    let Some(parts) = map.part(parts, size_of::<VVec<(), V>>()) else { return };
    let [address, capacity, count] = words::in_vec(parts);
    if checker.is_shallow() {
        if address == 0 {
            checker.damaged(Problem::NoBlock { address });
        }
        return;
    }
    let before = checker.taint();
    if buckets != 0 && buckets < FIRST {
        let least = Expected::AtLeast(FIRST as u128);
        return checker.wrong_number("the number of its buckets", buckets, least);
    }
    let (expected, last) = match buckets.checked_sub(1) {
        None => (0, 0),
        Some(last) => (place(last).0 + 1, place(last).1 + 1),
    };
    if count != expected {
        let expected = Expected::Exactly(expected as u128);
        return checker.wrong_number("the number of its parts", count, expected);
    }
    let mut nodes = Vec::new();
    type Part<K, T, V> = VVec<Bucket<K, T, V>, V>;
    if let Some((all, count)) = checker.claim_values::<Part<K, T, V>>(address, count, capacity) {
        for number in 0..count {
            let size = size_of::<Part<K, T, V>>();
            let Some(part) = all.part(number * size, size) else { continue };
            let [address, capacity, len] = words::in_vec(part);
            let full = if number == 0 { FIRST } else { FIRST << (number - 1) };
            let expected = if number + 1 == count { last } else { full };
            if len != expected {
                let expected = Expected::Exactly(expected as u128);
                checker.wrong_number("the number of buckets in a part", len, expected);
                continue;
            }
            let part = checker.claim_values::<Bucket<K, T, V>>(address, len, capacity);
            let Some((part, len)) = part else { continue };
            for bucket in 0..len {
                let mut next = part.word(bucket * size_of::<usize>());
                // Each node is claimed once, so a list that comes back to itself ends.
                while next != 0 {
                    let Some(node) = checker.claim(next, Needed::of::<Node<K, T, V>>()) else {
                        break;
                    };
                    next = node.word(offset_of!(Node<K, T, V>, next));
                    nodes.push(node);
                }
            }
        }
    }
    if checker.taint() == before && len != nodes.len() {
        checker.wrong_number("its length", len, Expected::Exactly(nodes.len() as u128));
    }
    if nodes.is_empty() {
        return;
    }
    let is_sound = checker.taint() == before;
    let mut walk = Walk::new(map, nodes.len());
    (walk.nodes, walk.numbers, walk.mark) = (nodes, [0, usize::from(is_sound)], checker.taint());
    checker.push(entries_of::<K, T, V>, label::<K, T, V>, walk);
}

/// The step of a check that goes through keys, then through values.
fn entries_of<K: VKey<V>, T: Storable<V>, V: Brand>(checker: &mut Checker<'_, V>) -> bool {
    loop {
        let walk = checker.walk();
        let phase = walk.phase;
        let Some(&node) = walk.nodes.get(walk.next) else {
            if phase == VALUES {
                return false;
            }
            check_keys::<K, T, V>(checker);
            let walk = checker.walk();
            (walk.phase, walk.next) = (VALUES, if T::ANY_BITS { walk.count } else { 0 });
            continue;
        };
        walk.next += 1;
        match phase {
            KEYS => checker.part::<K>(node, offset_of!(Node<K, T, V>, key)),
            _ => checker.part::<T>(node, offset_of!(Node<K, T, V>, value)),
        }
        if checker.has_more_below() {
            return true;
        }
    }
}

/// Whether each entry is in the bucket of its key, and no key twice, if that can be asked: the map and all keys are sound, and
/// values are values.
fn check_keys<K: VKey<V>, T: Storable<V>, V: Brand>(checker: &mut Checker<'_, V>) {
    let (at, taint) = (checker.at(), checker.taint());
    let walk = checker.walk();
    let (map, nodes) = (walk.place, std::mem::take(&mut walk.nodes));
    let is_sound = walk.numbers[1] == 1 && taint == walk.mark;
    let are_values = is_sound
        && (T::ANY_BITS
            || checker.could_be(|checker| {
                let value = offset_of!(Node<K, T, V>, value);
                nodes.iter().for_each(|&node| checker.part::<T>(node, value));
            }));
    let mut wrong = Some(None);
    if are_values {
        // SAFETY: vectors and nodes are sound; keys were looked at with all that they own, and values as far as they are in
        // the nodes.
        let map = unsafe { map.value::<VLinearMap<K, T, V>>() };
        wrong = checker.guarded(|| (0..map.buckets).find_map(|bucket| wrong_in(map, bucket, at)));
    }
    checker.walk().nodes = nodes;
    match wrong {
        None => checker.damaged(Problem::Panicked),
        Some(Some((address, problem))) => {
            let walk = checker.walk();
            let position = walk.nodes.iter().position(|node| node.address() == address);
            walk.next = position.unwrap_or(0) + 1;
            checker.damaged(Problem::Order(problem));
        }
        Some(None) => {}
    }
}

/// The first node of a bucket that should not be there, and why.
fn wrong_in<K: VKey<V>, T: Storable<V>, V: Brand>(
    map: &VLinearMap<K, T, V>,
    bucket: usize,
    at: &crate::At<V, crate::Read>,
) -> Option<(usize, &'static str)> {
    let of_bucket = || {
        std::iter::successors(map.bucket(at, bucket), |node| {
            node.next.as_ref().map(|next| next.get(at))
        })
    };
    let address = |node: &Node<K, T, V>| std::ptr::from_ref(node).addr();
    let hash = |node: &Node<K, T, V>| words::hash_of(map.seed, node.key.borrowed(at));
    if let Some(node) = of_bucket().find(|node| bucket_of(hash(node), map.buckets) != bucket) {
        return Some((address(node), "it is not where the hash of its key leads"));
    }
    let mut keys: Vec<_> = of_bucket().map(|node| (node.key.borrowed(at), address(node))).collect();
    keys.sort_unstable_by_key(|(one, _)| *one);
    let repeated = keys.windows(2).find(|pair| matches!(pair, [(a, _), (b, _)] if a == b))?;
    Some((repeated.last()?.1, "another entry has the same key"))
}

/// An entry's key in brackets.
fn label<K: VKey<V>, T: Storable<V>, V: Brand>(
    checker: &mut Checker<'_, V>,
    frame: usize,
) -> Option<String> {
    let walk = checker.walk_of(frame)?;
    let number = walk.next.checked_sub(1)?;
    let key = walk.nodes.get(number)?.part(offset_of!(Node<K, T, V>, key), size_of::<K>())?;
    let key = K::show_stored(key, checker).unwrap_or_else(|| format!("entry {number}"));
    Some(format!("[{key}]"))
}
