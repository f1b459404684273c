//! `VLinearMap` over plain memory, beside the standard library's map.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::{AllocError, Error, Space, VLinearMap, VString, VVec, brand};

const ROOM: usize = 16 << 20;

brand! { Numbers<'v> => VLinearMap<u64, u64, Numbers<'v>> }
brand! { Scanned<'v> => VLinearMap<u64, u64, Scanned<'v>> }
brand! { Drawn<'v> => VLinearMap<u64, u64, Drawn<'v>> }
brand! { Texts<'v> => VLinearMap<VVec<u8, Texts<'v>>, VString<Texts<'v>>, Texts<'v>> }
brand! { Tight<'v> => VLinearMap<u64, [u64; 16], Tight<'v>> }

#[derive(Debug, Clone)]
enum Step {
    Insert(u64, u64),
    Remove(u64),
    Change(u64, u64),
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        60 => (0..400_u64, any::<u64>()).prop_map(|(key, value)| Step::Insert(key, value)),
        50 => (0..400_u64).prop_map(Step::Remove),
        10 => (0..400_u64, any::<u64>()).prop_map(|(key, value)| Step::Change(key, value)),
        1 => Just(Step::Clear),
    ];
    prop::collection::vec(step, 0..1200)
}

#[test]
fn it_does_what_the_standard_librarys_map_does() {
    let space = Space::<Numbers<'_>>::in_memory(ROOM, |_| Ok(VLinearMap::new())).unwrap();
    let cases = if cfg!(miri) { 4 } else { 48 };
    proptest!(ProptestConfig::with_cases(cases), |(steps in steps())| {
        let mut model = BTreeMap::new();
        space.write(|v| {
            let (root, at) = v.root_mut();
            let mut map = root.at_mut(at);
            map.clear();
            for step in &steps {
                match *step {
                    Step::Insert(key, value) => {
                        assert_eq!(map.insert(key, value)?, model.insert(key, value));
                    }
                    Step::Remove(key) => assert_eq!(map.remove(&key), model.remove(&key)),
                    Step::Change(key, value) => {
                        assert_eq!(map.get_mut(&key).map(|held| *held = value).is_some(), model.contains_key(&key));
                        model.entry(key).and_modify(|held| *held = value);
                    }
                    Step::Clear => {
                        map.clear();
                        model.clear();
                    }
                }
                assert_eq!(map.len(), model.len());
            }
            let all: BTreeMap<_, _> = map.as_ref().iter().map(|(key, value)| (*key, *value)).collect();
            assert_eq!(all, model);
            for key in 0..400 {
                assert_eq!(map.get(&key), model.get(&key));
            }
            map.clear();
            Ok::<_, Error>(())
        }).unwrap();
        prop_assert_eq!(space.blocks(), 1);
    });
}

#[test]
fn a_scan_meets_every_entry_that_stays_while_the_map_grows_and_shrinks() {
    let space = Space::<Scanned<'_>>::in_memory(ROOM, |_| Ok(VLinearMap::new())).unwrap();
    for (first, then) in [(50, 5000), (5000, 50), (1000, 1000), (0, 300)] {
        space
            .write(|v| {
                let (root, at) = v.root_mut();
                let mut map = root.at_mut(at);
                map.clear();
                // Those below 50 stay.
                for key in 0..first.max(50) {
                    map.insert(key, key)?;
                }
                let (mut cursor, mut seen, mut size, mut pieces) =
                    (0, BTreeSet::new(), first.max(50), 0);
                loop {
                    cursor = map.as_ref().scan(cursor, |key, value| {
                        assert_eq!(key, value);
                        seen.insert(*key);
                    });
                    pieces += 1;
                    if cursor == 0 {
                        break;
                    }
                    for _ in 0..20 {
                        if size < then {
                            map.insert(size, size)?;
                            size += 1;
                        } else if size > then.max(50) {
                            size -= 1;
                            map.remove(&size);
                        }
                    }
                }
                assert!((0..50).all(|key| seen.contains(&key)), "{first} to {then}: {seen:?}");
                assert!(pieces <= 10_000, "{pieces}");
                Ok::<_, Error>(())
            })
            .unwrap();
    }
}

#[test]
fn byte_strings_are_keys_that_are_looked_up_by_slices() {
    let space = Space::<Texts<'_>>::in_memory(ROOM, |_| Ok(VLinearMap::new())).unwrap();
    space
        .write(|v| {
            let (root, at) = v.root_mut();
            let mut map = root.at_mut(at);
            for number in 0..200 {
                let key = format!("{number}\0\u{ff}");
                map.insert(VVec::from_slice(at, key.as_bytes())?, VString::new(at, &key)?)?;
            }
            assert_eq!(map.get("7\0\u{ff}".as_bytes()).map(|text| text.at(at)), Some("7\0\u{ff}"));
            assert!(map.get(b"7").is_none() && map.remove(b"").is_none());
            for number in 0..200 {
                assert!(map.remove(format!("{number}\0\u{ff}").as_bytes()).is_some());
            }
            Ok::<_, Error>(())
        })
        .unwrap();
    // The root, the list of parts, and the first part.
    assert_eq!(space.blocks(), 3);
}

#[test]
fn any_finds_all_entries_sooner_or_later_and_nothing_in_an_empty_map() {
    let space = Space::<Drawn<'_>>::in_memory(ROOM, |_| Ok(VLinearMap::new())).unwrap();
    space
        .write(|v| {
            let (root, at) = v.root_mut();
            let mut map = root.at_mut(at);
            map.clear();
            assert_eq!(map.as_ref().any(5), None);
            for key in 0..30 {
                map.insert(key, key)?;
            }
            let found: BTreeSet<_> = (0..5000_u64)
                .filter_map(|random| map.as_ref().any(random))
                .map(|(key, _)| *key)
                .collect();
            assert_eq!(found.len(), 30);
            // Nor is one chosen much more often than others: 300 times each but for chance.
            let mut counts = [0; 30];
            (0..9000_u64).filter_map(|random| map.as_ref().any(random)).for_each(|(key, _)| {
                counts[*key as usize] += 1;
            });
            assert!(counts.iter().all(|count| (200..400).contains(count)), "{counts:?}");
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn without_room_an_insertion_fails_and_leaves_what_was_there() {
    let space = Space::<Tight<'_>>::in_memory(64 << 10, |_| Ok(VLinearMap::new())).unwrap();
    space
        .write(|v| {
            let (root, at) = v.root_mut();
            let mut map = root.at_mut(at);
            let full: Result<(), AllocError> =
                (0..10_000).try_for_each(|key| map.insert(key, [key; 16]).map(drop));
            assert!(full.is_err());
            let len = map.len() as u64;
            assert!((100..1000).contains(&len), "{len}");
            assert!((0..len).all(|key| map.get(&key) == Some(&[key; 16])));
            assert!(map.get(&len).is_none());
            // A value that is there is replaced without memory.
            assert_eq!(map.insert(0, [9; 16]), Ok(Some([0; 16])));
            for key in 0..len {
                assert!(map.remove(&key).is_some());
            }
            assert!(map.is_empty() && map.insert(1, [1; 16]).is_ok());
            Ok::<_, Error>(())
        })
        .unwrap();
}
