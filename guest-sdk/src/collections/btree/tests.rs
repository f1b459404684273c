//! The map against the standard library's, and its nodes against the rules of a B-tree.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};

use proptest::prelude::*;

use super::node::{Below, CAPACITY, Inner, Leaf, MINIMUM, Tree};
use super::{Entry, VBTreeMap};
use crate::brand::Brand;
use crate::token::{At, Mode, Write};
use crate::{Error, Space, Storable, VBox, VString, brand};

const ROOM: usize = 16 << 20;

/// Whether all leaves are equally deep, nodes at least half full, keys in order, and the length
/// right. Returns the number of nodes.
fn check<T: Storable<V>, V: Brand, M: Mode>(map: &VBTreeMap<u32, T, V>, at: &At<V, M>) -> usize {
    fn leaf<T>(leaf: &Leaf<u32, T>, is_root: bool, out: &mut Found) -> usize {
        assert!(leaf.len() >= if is_root { 1 } else { MINIMUM } && leaf.len() <= CAPACITY);
        assert_eq!(leaf.keys.len(), leaf.values.len());
        out.nodes += 1;
        out.entries += leaf.len();
        0
    }
    fn inner<T: Storable<V>, V: Brand, M: Mode>(
        node: &Inner<u32, T, V>,
        is_root: bool,
        at: &At<V, M>,
        out: &mut Found,
    ) -> usize {
        leaf(&node.entries, is_root, out);
        let depths: Vec<usize> = match &node.below {
            Below::Leaves(boxes) => {
                boxes.iter().map(|child| leaf(child.get(at), false, out)).collect()
            }
            Below::Inners(boxes) => {
                boxes.iter().map(|child| inner(child.get(at), false, at, out)).collect()
            }
        };
        assert_eq!(depths.len(), node.entries.len() + 1);
        assert!(depths.iter().all(|&depth| depth == depths[0]), "{depths:?}");
        depths[0] + 1
    }
    #[derive(Default)]
    struct Found {
        nodes: usize,
        entries: usize,
    }
    let mut found = Found::default();
    match &map.tree {
        Tree::Empty => 0,
        Tree::Leaf(root) => leaf(root.get(at), true, &mut found),
        Tree::Inner(root) => inner(root.get(at), true, at, &mut found),
    };
    assert_eq!(found.entries, map.len());
    assert!(map.at(at).keys().is_sorted_by(|a, b| a < b));
    found.nodes
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u32, u64),
    InsertMany(u32, u32),
    Remove(u32),
    RemoveMany(u32, u32),
    PopFirst,
    PopLast,
    Entry(u32),
    Retain(u32),
    Double(Bound<u32>, Bound<u32>),
    Range(Bound<u32>, Bound<u32>),
    Clear,
}

const KEYS: u32 = 600;

fn bound() -> impl Strategy<Value = Bound<u32>> {
    prop_oneof![
        1 => Just(Bound::Unbounded),
        3 => (0..KEYS).prop_map(Bound::Included),
        3 => (0..KEYS).prop_map(Bound::Excluded),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..KEYS, any::<u64>()).prop_map(|(key, value)| Step::Insert(key, value)),
        4 => (0..KEYS, 0..200_u32).prop_map(|(key, count)| Step::InsertMany(key, count)),
        8 => (0..KEYS).prop_map(Step::Remove),
        2 => (0..KEYS, 0..100_u32).prop_map(|(key, count)| Step::RemoveMany(key, count)),
        2 => Just(Step::PopFirst),
        2 => Just(Step::PopLast),
        3 => (0..KEYS).prop_map(Step::Entry),
        1 => (1..9_u32).prop_map(Step::Retain),
        2 => (bound(), bound()).prop_map(|(start, end)| Step::Double(start, end)),
        4 => (bound(), bound()).prop_map(|(start, end)| Step::Range(start, end)),
        1 => Just(Step::Clear),
    ]
}

brand! { Model => VBTreeMap<u32, u64, Model> }

/// One step on both maps.
fn take(
    step: &Step,
    map: &mut VBTreeMap<u32, u64, Model>,
    model: &mut BTreeMap<u32, u64>,
    at: &At<Model, Write>,
) {
    let mut view = map.at_mut(at);
    match *step {
        Step::Insert(key, value) => {
            assert_eq!(view.insert(key, value), Ok(model.insert(key, value)));
        }
        Step::InsertMany(from, count) => {
            // Every third: neighbours come later.
            let entries = || (from..).step_by(3).take(count as usize).map(|key| (key, 7));
            view.extend(entries()).unwrap();
            model.extend(entries());
        }
        Step::Remove(key) => assert_eq!(view.remove_entry(&key), model.remove_entry(&key)),
        Step::RemoveMany(from, count) => {
            for key in from..from + count {
                assert_eq!(view.remove(&key), model.remove(&key));
            }
        }
        Step::PopFirst => assert_eq!(view.pop_first(), model.pop_first()),
        Step::PopLast => assert_eq!(view.pop_last(), model.pop_last()),
        Step::Entry(key) => match view.entry(key) {
            Entry::Occupied(mut entry) => {
                let expected = model.remove(&key);
                assert_eq!(Some(*entry.get()), expected);
                if key % 2 == 0 {
                    assert_eq!(Some(entry.insert(5)), expected);
                    model.insert(key, 5);
                } else {
                    assert_eq!(entry.remove_entry(), (key, expected.unwrap()));
                }
            }
            Entry::Vacant(entry) => {
                *entry.insert(1).unwrap() += 1;
                assert_eq!(model.insert(key, 2), None);
            }
        },
        Step::Retain(n) => {
            let keep = |key: &u32, value: &mut u64| {
                *value ^= 1;
                !key.is_multiple_of(n)
            };
            view.retain(keep);
            model.retain(keep);
        }
        Step::Double(start, end) => {
            let range = (start, end);
            view.range_mut(range).for_each(|(_, value)| *value = value.wrapping_mul(2));
            for (key, value) in model.iter_mut() {
                if range.contains(key) {
                    *value = value.wrapping_mul(2);
                }
            }
        }
        Step::Range(start, end) => same_range(&view.as_ref(), model, (start, end)),
        Step::Clear => {
            view.clear();
            model.clear();
        }
    }
}

/// From the front, from the back, and alternately from both.
fn same_range<M: Mode>(
    view: &super::BTreeRef<'_, u32, u64, Model, M>,
    model: &BTreeMap<u32, u64>,
    range: (Bound<u32>, Bound<u32>),
) {
    // Not the model's `range`, which panics where ours is empty.
    let expected: Vec<_> = model.iter().filter(|(key, _)| range.contains(key)).collect();
    assert!(view.range(range).eq(expected.iter().copied()), "{range:?}");
    assert!(view.range(range).rev().eq(expected.iter().rev().copied()), "{range:?}");
    let (mut ours, mut theirs) = (view.range(range), expected.into_iter());
    loop {
        let pair = (ours.next(), ours.next_back());
        assert_eq!(pair, (theirs.next(), theirs.next_back()), "{range:?}");
        if pair.1.is_none() {
            assert_eq!(ours.next(), None);
            return;
        }
    }
}

#[test]
fn it_is_as_the_standard_library_s_whatever_happens() {
    let space = Space::<Model>::in_memory(ROOM, |_| Ok(VBTreeMap::new())).unwrap();
    let cases = if cfg!(miri) { 2 } else { 64 };
    let steps = prop::collection::vec(step(), 1..if cfg!(miri) { 20 } else { 150 });
    let config = ProptestConfig { cases, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps)| {
            space.write(|v| {
                let (map, at) = v.root_mut();
                let mut model = BTreeMap::new();
                map.at_mut(at).clear();
                for step in &steps {
                    take(step, map, &mut model, at);
                    check(map, at);
                }
                let view = map.at(at);
                assert!(view.iter().eq(model.iter()));
                assert!(view.iter().rev().eq(model.iter().rev()));
                assert_eq!(view.iter().len(), model.len());
                assert_eq!(view.first_key_value(), model.first_key_value());
                assert_eq!(view.last_key_value(), model.last_key_value());
                for key in 0..KEYS {
                    assert_eq!(view.get(&key), model.get(&key));
                }
                assert!(map.at_mut(at).iter_mut().map(|(key, value)| (*key, *value)).eq(model));
    Ok::<_, Error>(())
    }).unwrap();
            prop_assert!(true);
        });
}

brand! { Deep => VBTreeMap<u32, u64, Deep> }

#[test]
fn many_entries_in_any_order_go_in_and_out_and_all_memory_comes_back() {
    let count: u32 = if cfg!(miri) { 500 } else { 40_000 };
    let space = Space::<Deep>::in_memory(ROOM, |_| Ok(VBTreeMap::new())).unwrap();
    let before = space.blocks();
    let orders: [fn(u32, u32) -> u32; 3] =
        [|i, _| i, |i, count| count - 1 - i, |i, count| (i * 7919) % count];
    for into in orders {
        for out in orders {
            space
                .write(|v| {
                    let (map, at) = v.root_mut();
                    for i in 0..count {
                        let key = into(i, count);
                        assert_eq!(map.at_mut(at).insert(key, u64::from(key)), Ok(None));
                    }
                    let nodes = check(map, at);
                    // More than half full: an entry more than the least for each.
                    assert!(nodes * MINIMUM <= count as usize, "{nodes}");
                    for i in 0..count {
                        let key = out(i, count);
                        assert_eq!(map.at_mut(at).remove(&key), Some(u64::from(key)));
                        if i % (count / 4) == 0 {
                            check(map, at);
                        }
                    }
                    assert!(map.is_empty());
                    Ok::<_, Error>(())
                })
                .unwrap();
            assert_eq!(space.blocks(), before);
        }
    }
}

brand! { Owners => VBTreeMap<u32, VBox<u64, Owners>, Owners> }

#[test]
fn values_that_own_memory_are_freed_with_their_entries() {
    let space = Space::<Owners>::in_memory(ROOM, |_| Ok(VBTreeMap::new())).unwrap();
    let before = space.blocks();
    space
        .write(|v| {
            let (map, at) = v.root_mut();
            for key in 0..1000 {
                map.at_mut(at).insert(key % 500, VBox::new(at, u64::from(key)).unwrap()).unwrap();
            }
            let nodes = check(map, at);
            assert_eq!(map.len(), 500);
            map.at_mut(at).retain(|key, value| {
                assert_eq!(*value.get(at), u64::from(key + 500));
                key % 7 == 0
            });
            assert_eq!(map.len(), 72);
            assert!(check(map, at) < nodes);
            Ok::<_, Error>(())
        })
        .unwrap();
    let nodes = space.read(|v| check(v.root(), v)).unwrap();
    assert_eq!(space.blocks(), before + 72 + nodes);
    space
        .write(|v| {
            let (map, at) = v.root_mut();
            map.at_mut(at).clear();
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.blocks(), before);
}

brand! { Outside => VBTreeMap<u32, u64, Outside> }

#[test]
fn a_map_dropped_elsewhere_leaks_its_memory() {
    let space = Space::<Outside>::in_memory(ROOM, |_| Ok(VBTreeMap::new())).unwrap();
    let fill = || {
        space
            .write(|v| {
                let (map, at) = v.root_mut();
                map.at_mut(at).extend((0..100).map(|key| (key, 1))).unwrap();
                Ok::<_, Error>(std::mem::take(map))
            })
            .unwrap()
    };
    let before = space.blocks();
    let inside = fill();
    let full = space.blocks();
    assert!(full > before);
    space
        .write(|_| {
            drop(inside);
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.blocks(), before);
    drop(fill());
    assert_eq!(space.blocks(), full);
}

brand! { Full => VBTreeMap<u32, [u64; 4], Full> }

#[test]
fn when_there_is_no_room_for_a_node_the_map_is_as_it_was() {
    let space = Space::<Full>::in_memory(64 << 10, |_| Ok(VBTreeMap::new())).unwrap();
    space
        .write(|v| {
            let (map, at) = v.root_mut();
            let mut model = BTreeMap::new();
            let mut refused = 0;
            for i in 0..20_000_u32 {
                let key = (i * 7919) % 20_000;
                let before = map.len();
                match map.at_mut(at).insert(key, [u64::from(i); 4]) {
                    Ok(replaced) => assert_eq!(replaced, model.insert(key, [u64::from(i); 4])),
                    Err(error) => {
                        refused += 1;
                        assert_eq!(error.brand, "Full");
                        assert_eq!(map.len(), before);
                        // Room for some more.
                        if i % 50 == 0 {
                            map.at_mut(at).retain(|key, _| key % 5 != 0);
                            model.retain(|key, _| key % 5 != 0);
                        }
                    }
                }
                if i % 100 == 0 {
                    check(map, at);
                    assert!(map.at(at).iter().eq(model.iter()));
                }
            }
            assert!(refused > 1000 && map.len() > 500, "{refused} {}", map.len());
            Ok::<_, Error>(())
        })
        .unwrap();
}

brand! { Cursed => VBTreeMap<u32, u64, Cursed> }

#[test]
fn a_panic_of_retain_s_closure_leaves_the_map_whole() {
    let space = Space::<Cursed>::in_memory(ROOM, |_| Ok(VBTreeMap::new())).unwrap();
    space
        .write(|v| {
            let (map, at) = v.root_mut();
            map.at_mut(at).extend((0..100).map(|key| (key, 1))).unwrap();
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                map.at_mut(at).retain(|key, _| {
                    assert!(*key < 50, "on purpose");
                    false
                });
            }));
            assert!(caught.is_err());
            check(map, at);
            assert_eq!(map.len(), 100);
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn its_layout_names_its_nodes_and_what_is_in_them() {
    let layout = crate::layout::TypeLayout::of::<VBTreeMap<u32, u64, Model>, Model>();
    let expected = "\
VBTreeMap version 1 (24 bytes, align 8)
  len +16: usize (8 bytes, align 8)
  nodes with children at 288 and 8 in their array (496 bytes, align 8)
    leaves of 23 entries, keys at 4 in their array, values at 96 and 8 in theirs, lengths of 4 bytes (288 bytes, align 8)
      key: u32 (4 bytes, align 4)
      value: u64 (8 bytes, align 8)
";
    assert_eq!(layout.text(), expected);
}

brand! { Texts => VBTreeMap<VString<Texts>, u64, Texts> }

#[test]
fn texts_are_looked_up_and_ranged_by_str_and_freed_with_their_entries() {
    let space = Space::<Texts>::in_memory(ROOM, |_| Ok(VBTreeMap::new())).unwrap();
    let before = space.blocks();
    space
        .write(|v| {
            let (map, at) = v.root_mut();
            let mut view = map.at_mut(at);
            for word in "one two three four five six one".split(' ') {
                let make = || Ok((VString::new(at, word)?, 0));
                *view.get_or_insert_with(word, make).unwrap() += word.len() as u64;
            }
            assert_eq!(view.insert(VString::new(at, "two").unwrap(), 9), Ok(Some(3)));
            assert_eq!(view.remove("six"), Some(3));
            *view.reborrow().into_mut("five").unwrap() += 1;
            Ok::<_, Error>(())
        })
        .unwrap();
    let keys = |v: &At<Texts, crate::Read>, map: &VBTreeMap<VString<Texts>, u64, Texts>| {
        let range = (Bound::Excluded("four"), Bound::Included("three"));
        map.at(v).range(range).map(|(key, _)| key.to_owned()).collect::<Vec<_>>()
    };
    let read = space.read(|v| {
        assert_eq!(
            format!("{:?}", v.root().at(v)),
            r#"{"five": 5, "four": 4, "one": 6, "three": 5, "two": 9}"#
        );
        assert_eq!(v.root().at(v)["one"], 6);
        keys(v, v.root())
    });
    assert_eq!(read.unwrap(), ["one", "three"]);
    space
        .write(|v| {
            let (map, at) = v.root_mut();
            map.at_mut(at).retain(|key, _| key.starts_with('o'));
            map.at_mut(at).clear();
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.blocks(), before);
}

/// More than is put in order at once, in no order, and some of it twice.
#[test]
fn many_entries_are_inserted_as_one_after_the_other() {
    const COUNT: u32 = 20_000;
    brand! { Many => VBTreeMap<u32, [u64; 64], Many> }
    let key = |i: u32| i.wrapping_mul(0x9e37_79b9) % (COUNT / 2);
    let value = |i: u32| [u64::from(i); 64];
    let space = Space::<Many>::in_memory(64 << 20, |_| Ok(VBTreeMap::new())).unwrap();
    space
        .write(|v| {
            let (map, at) = v.root_mut();
            map.at_mut(at).insert(key(7), value(0))?;
            map.at_mut(at).extend((0..COUNT).map(|i| (key(i), value(i))))?;
            map.at_mut(at).extend([])?;
            check(map, at);
            let model: BTreeMap<u32, [u64; 64]> = (0..COUNT).map(|i| (key(i), value(i))).collect();
            assert!(model.len() < COUNT as usize);
            assert!(map.at(at).iter().eq(&model));
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn entries_for_which_there_is_no_room_leave_a_whole_map() {
    brand! { Cramped => VBTreeMap<u32, [u64; 64], Cramped> }
    let space = Space::<Cramped>::in_memory(1 << 20, |_| Ok(VBTreeMap::new())).unwrap();
    space
        .write(|v| {
            let (map, at) = v.root_mut();
            assert!(map.at_mut(at).extend((0..).map(|i: u32| (!i, [u64::from(i); 64]))).is_err());
            check(map, at);
            assert!(map.len() > 500);
            assert!(map.at(at).iter().all(|(key, value)| value[0] == u64::from(!key)));
            Ok::<_, Error>(())
        })
        .unwrap();
}
