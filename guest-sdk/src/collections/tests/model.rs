//! Random steps on a collection and the standard library's, side by side. Maps and vectors hold
//! strings, so that a value that is lost or dropped twice shows as a wrong number of blocks.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::collections::{VHashMap, VString, VVec};
use crate::{Error, Space, brand};

brand! {
    Model => VHashMap<u8, VString<Model>, Model>,
    ListModel => VVec<VString<ListModel>, ListModel>,
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, u8),
    Entry(u8, u8),
    Append(u8, u8),
    GetOrInsert(u8, u8),
    Remove(u8),
    Retain(u8),
    Clear,
    Drain(usize),
    Reserve(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<(u8, u8)>().prop_map(|(key, value)| Step::Insert(key, value)),
        4 => any::<(u8, u8)>().prop_map(|(key, value)| Step::Entry(key, value)),
        4 => any::<(u8, u8)>().prop_map(|(key, value)| Step::Append(key, value)),
        4 => any::<(u8, u8)>().prop_map(|(key, value)| Step::GetOrInsert(key, value)),
        8 => any::<u8>().prop_map(Step::Remove),
        1 => any::<u8>().prop_map(Step::Retain),
        1 => Just(Step::Clear),
        1 => (0..20_usize).prop_map(Step::Drain),
        1 => (0..200_usize).prop_map(Step::Reserve),
    ]
}

pub(super) fn text(value: u8) -> String {
    format!("value {value}")
}

fn run(space: &Space<Model>, steps: Vec<Step>) -> Result<(), Error> {
    let mut std: HashMap<u8, String> = HashMap::new();
    space.write(|v| {
        let (root, at) = v.root_mut();
        *root = VHashMap::new();
        let mut map = root.at_mut(at);
        let made = |value| VString::new(at, &text(value));
        for step in steps {
            match step {
                Step::Insert(key, value) => {
                    let old = map.insert(key, made(value)?)?;
                    assert_eq!(
                        old.as_ref().map(|old| old.at(at)),
                        std.insert(key, text(value)).as_deref()
                    );
                }
                Step::Entry(key, value) => {
                    map.entry(key)
                        .and_modify(|old| old.at_mut(at).clear())
                        .or_try_insert_with(|| made(value))?;
                    std.entry(key).and_modify(String::clear).or_insert_with(|| text(value));
                }
                Step::Append(key, value) => {
                    let found = map.get_mut(&key).map(|old| old.at_mut(at).push_str(&text(value)));
                    let expected = std.get_mut(&key).map(|old| old.push_str(&text(value)));
                    assert_eq!(found.transpose()?, expected);
                }
                Step::GetOrInsert(key, value) => {
                    let found = map.get_or_insert_with(&key, || Ok((key, made(value)?)))?;
                    assert_eq!(found.at(at), std.entry(key).or_insert_with(|| text(value)));
                }
                Step::Remove(key) => {
                    let old = map.remove(&key);
                    assert_eq!(old.as_ref().map(|old| old.at(at)), std.remove(&key).as_deref());
                }
                Step::Retain(limit) => {
                    map.retain(|key, _| *key < limit);
                    std.retain(|key, _| *key < limit);
                }
                Step::Clear => {
                    map.clear();
                    std.clear();
                }
                Step::Drain(taken) => {
                    for (key, value) in map.drain().take(taken) {
                        assert_eq!(std.remove(&key).as_deref(), Some(value.at(at)));
                    }
                    std.clear();
                }
                Step::Reserve(more) => {
                    map.reserve(more)?;
                    assert!(map.capacity() >= map.len() + more);
                }
            }
            assert_eq!(map.len(), std.len());
        }
        let all = map.as_ref().iter().map(|(key, value)| (*key, value.at(at).to_owned()));
        assert_eq!(all.collect::<HashMap<_, _>>(), std);
        assert_eq!(map.values_mut().len(), std.len());
        assert!(
            std.iter().all(|(key, value)| map.get(key).map(|found| found.at(at)) == Some(value))
        );
        *root = VHashMap::new();
        Ok::<_, Error>(())
    })
}

/// Miri is slow.
pub(super) fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: if cfg!(miri) { 3 } else { usual.cases }, ..usual }
}

#[test]
fn a_map_does_what_the_standard_one_does() {
    let space = Space::<Model>::in_memory(1 << 24, |_| Ok(VHashMap::new())).unwrap();
    let steps = proptest::collection::vec(step(), 0..if cfg!(miri) { 40 } else { 300 });
    TestRunner::new(config())
        .run(&steps, |steps| {
            run(&space, steps).unwrap();
            prop_assert_eq!(space.blocks(), 1);
            Ok(())
        })
        .unwrap();
}

fn run_list(space: &Space<ListModel>, steps: Vec<(u8, u16)>) -> Result<(), Error> {
    let mut std: Vec<String> = Vec::new();
    space.write(|v| {
        let (root, at) = v.root_mut();
        *root = VVec::new();
        let mut list = root.at_mut(at);
        let made = |value: u8| VString::new(at, &text(value));
        for (kind, number) in steps {
            let value = number.to_le_bytes()[0];
            let place = usize::from(number) % (std.len() + 1);
            let within = place < std.len();
            match kind % 12 {
                0..=3 => {
                    list.push(made(value)?)?;
                    std.push(text(value));
                }
                4 => {
                    list.insert(place, made(value)?)?;
                    std.insert(place, text(value));
                }
                5 if within => assert_eq!(list.remove(place).at(at), std.remove(place)),
                6 if within => {
                    assert_eq!(list.swap_remove(place).at(at), std.swap_remove(place))
                }
                7 => assert_eq!(list.pop().as_ref().map(|last| last.at(at)), std.pop().as_deref()),
                8 => {
                    list.retain(|text| text.at(at).len() % 2 == place % 2);
                    std.retain(|text| text.len() % 2 == place % 2);
                }
                9 => {
                    let taken = list.drain(place..).map(|text| text.at(at).to_owned());
                    assert!(taken.take(2).eq(std.drain(place..).take(2)));
                }
                10 => {
                    let mut more = VVec::collect(at, [made(1)?, made(2)?])?;
                    list.append(&mut more)?;
                    assert!(more.is_empty());
                    std.extend([text(1), text(2)]);
                }
                _ => {
                    list.sort_by(|a, b| a.at(at).cmp(b.at(at)));
                    std.sort();
                }
            }
            assert!(list.iter().map(|text| text.at(at)).eq(std.iter()));
        }
        let taken =
            std::mem::take(root).into_iter(at).rev().skip(1).map(|text| text.at(at).to_owned());
        assert!(taken.eq(std.into_iter().rev().skip(1)));
        Ok::<_, Error>(())
    })
}

#[test]
fn a_vector_does_what_the_standard_one_does() {
    let space = Space::<ListModel>::in_memory(1 << 24, |_| Ok(VVec::new())).unwrap();
    let steps = proptest::collection::vec(any::<(u8, u16)>(), 0..if cfg!(miri) { 20 } else { 60 });
    TestRunner::new(config())
        .run(&steps, |steps| {
            run_list(&space, steps).unwrap();
            prop_assert_eq!(space.blocks(), 1);
            Ok(())
        })
        .unwrap();
}
