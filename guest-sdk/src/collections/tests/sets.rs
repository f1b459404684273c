//! Sets against those of the standard library, and keys that are not numbers.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{Error, Space, Total, VBTreeMap, VBTreeSet, VHashMap, VHashSet, VString, brand};

const ROOM: usize = 1 << 20;

brand! {
    Sets => (VBTreeSet<u16, Sets>, VHashSet<u16, Sets>),
    Names => VHashSet<VString<Names>, Names>,
    Keys => (
        VBTreeMap<Total<f64>, u8, Keys>,
        VHashMap<Total<f32>, u8, Keys>,
        VBTreeMap<(Reverse<u8>, Ipv4Addr), u8, Keys>,
        VHashMap<(Ipv6Addr, u8, bool, char), u8, Keys>,
    ),
}

#[test]
fn sets_have_what_the_standard_library_s_have() {
    let space = Space::<Sets>::in_memory(ROOM, |_| Ok(Default::default())).expect("a space");
    let done = space.write(|v| {
        let (root, at) = v.root_mut();
        let (mut ordered, mut hashed) = (root.0.at_mut(at), root.1.at_mut(at));
        let (mut model, mut random) = (BTreeSet::new(), 1_u32);
        for _ in 0..4000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (random >> 16) as u16 % 500;
            match random % 3 {
                0 => {
                    let was_there = model.remove(&key);
                    assert_eq!((ordered.remove(&key), hashed.remove(&key)), (was_there, was_there));
                }
                _ => {
                    let is_new = model.insert(key);
                    assert_eq!((ordered.insert(key)?, hashed.insert(key)?), (is_new, is_new));
                }
            }
            assert_eq!(
                (ordered.contains(&key), hashed.contains(&key)),
                (model.contains(&key), model.contains(&key))
            );
        }
        assert!(ordered.as_ref().iter().eq(&model));
        assert!(ordered.as_ref().range(100..200).eq(model.range(100..200)));
        assert_eq!(
            (ordered.as_ref().first(), ordered.as_ref().last()),
            (model.first(), model.last())
        );
        assert_eq!(format!("{ordered:?}"), format!("{model:?}"));
        assert_eq!(
            hashed.as_ref().iter().copied().collect::<HashSet<_>>(),
            model.iter().copied().collect()
        );
        assert_eq!(
            (ordered.pop_first(), ordered.pop_last()),
            (model.pop_first(), model.pop_last())
        );
        ordered.retain(|key| key % 2 == 0);
        model.retain(|key| key % 2 == 0);
        assert!(ordered.as_ref().iter().eq(&model));
        let count = hashed.len();
        assert_eq!(hashed.drain().count(), count);
        ordered.clear();
        assert!(ordered.is_empty() && hashed.is_empty());
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
}

#[test]
fn a_set_of_texts_is_asked_by_text_and_frees_what_it_had() {
    let space = Space::<Names>::in_memory(ROOM, |_| Ok(VHashSet::new())).expect("a space");
    let done = space.write(|v| {
        let (root, at) = v.root_mut();
        let mut names = root.at_mut(at);
        assert!(names.insert(VString::new(at, "Ada")?)?);
        assert!(!names.insert(VString::new(at, "Ada")?)?, "it is there");
        names.insert(VString::new(at, "Emmy")?)?;
        assert_eq!(names.take("Emmy").map(|name| name.len()), Some(4));
        assert_eq!(names.as_ref().get("Ada").map(VString::len), Some(3));
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
    // The root object, the table, one text.
    assert_eq!(space.blocks(), 3);
}

#[test]
fn floating_point_numbers_addresses_and_reversed_values_are_keys() {
    let space = Space::<Keys>::in_memory(ROOM, |_| Ok(Default::default())).expect("a space");
    let done = space.write(|v| {
        let (root, at) = v.root_mut();
        for (n, number) in [f64::NAN, 0.0, -0.0, f64::INFINITY, -3.5].into_iter().zip(0..) {
            root.0.at_mut(at).insert(Total(n), number)?;
            root.1.at_mut(at).insert(Total(n as f32), number)?;
        }
        let order: Vec<u8> = root.0.at(at).values().copied().collect();
        assert_eq!(order, [4, 2, 1, 3, 0]);
        assert_eq!(root.1.at(at).get(&Total(f32::NAN)), Some(&0));
        assert_eq!(
            (root.1.at(at).get(&Total(0.0)), root.1.at(at).get(&Total(-0.0))),
            (Some(&1), Some(&2))
        );
        for n in 0..3 {
            root.2.at_mut(at).insert((Reverse(n), Ipv4Addr::LOCALHOST), n)?;
            root.3.at_mut(at).insert((Ipv6Addr::LOCALHOST, n, true, 'x'), n)?;
        }
        assert_eq!(root.2.at(at).values().copied().collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!(root.3.at(at).get(&(Ipv6Addr::LOCALHOST, 1, true, 'x')), Some(&1));
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
}
