//! Keys of several parts, looked up by the parts.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Included, Unbounded};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::model::config;
use crate::{
    By, Error, Space, Storable, VBTreeMap, VHashMap, VHashSet, VKey, VLinearMap, VString, VVec,
    brand,
};

const ROOM: usize = 1 << 20;

type Pairs<V> = (
    VHashMap<(VString<V>, u8), u32, V>,
    VBTreeMap<(VString<V>, u8), u32, V>,
    VBTreeMap<(u8, VString<V>), u32, V>,
    VLinearMap<(VString<V>, u8), u32, V>,
);

brand! { Model => Pairs<Model> }

fn name(number: u8) -> String {
    // Some are the beginning of others, which only the end of a text tells from them.
    "abc".repeat(usize::from(number % 5))
}

fn run(space: &Space<Model>, steps: Vec<(u8, u8, u8)>) -> Result<(), Error> {
    let mut std: HashMap<(String, u8), u32> = HashMap::new();
    space.write(|v| {
        let (root, at) = v.root_mut();
        *root = Default::default();
        let (hashed, by_name, by_number, linear) = root;
        for (step, (kind, a, b)) in (0..).zip(steps) {
            let (text, b) = (name(a), b % 4);
            let by = By((text.as_str(), &b));
            if kind % 3 == 0 {
                let was = std.remove(&(text.clone(), b));
                assert_eq!(hashed.at_mut(at).remove(&by), was);
                assert_eq!(by_name.at_mut(at).remove(&by), was);
                assert_eq!(by_number.at_mut(at).remove(&By((&b, text.as_str()))), was);
                assert_eq!(linear.at_mut(at).remove(&by), was);
            } else {
                let was = std.insert((text.clone(), b), step);
                let made = || VString::new(at, &text);
                assert_eq!(hashed.at_mut(at).insert((made()?, b), step)?, was);
                assert_eq!(by_name.at_mut(at).insert((made()?, b), step)?, was);
                assert_eq!(by_number.at_mut(at).insert((b, made()?), step)?, was);
                assert_eq!(linear.at_mut(at).insert((made()?, b), step)?, was);
            }
            let wanted = std.get(&(text.clone(), b));
            assert_eq!(hashed.at(at).get(&by), wanted);
            assert_eq!(by_name.at(at).get(&by), wanted);
            assert_eq!(linear.at(at).get(&by), wanted);
        }
        let ordered: BTreeMap<_, _> = std.iter().collect();
        let seen = by_name.at(at).iter().map(|(key, value)| (key.parts(), value));
        assert!(seen.eq(ordered.iter().map(|((text, b), value)| ((text.as_str(), b), *value))));
        let mut swapped: Vec<_> =
            std.iter().map(|((text, b), value)| ((b, &**text), value)).collect();
        swapped.sort_unstable();
        assert!(by_number.at(at).iter().map(|(key, value)| (key.parts(), value)).eq(swapped));
        let of_name = (Included(&*By(("abc", &0))), Excluded(&*By(("abcabc", &0))));
        let of_std = ordered.keys().filter(|(text, _)| text == "abc").count();
        assert_eq!(by_name.at(at).range(of_name).count(), of_std);
        assert_eq!(hashed.len(), std.len());
        *root = Default::default();
        Ok::<_, Error>(())
    })
}

#[test]
fn keys_of_a_text_and_a_number_do_what_those_of_the_standard_maps_do() {
    let space = Space::<Model>::in_memory(1 << 24, |_| Ok(Default::default())).unwrap();
    let steps =
        proptest::collection::vec(any::<(u8, u8, u8)>(), 0..if cfg!(miri) { 20 } else { 120 });
    TestRunner::new(config())
        .run(&steps, |steps| {
            run(&space, steps).unwrap();
            prop_assert_eq!(space.blocks(), 1);
            Ok(())
        })
        .unwrap();
}

#[derive(Storable, VKey, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Point<T> {
    x: T,
    y: T,
}

#[derive(Storable, VKey)]
#[storable(vas = V)]
struct Name<V: crate::Brand>(VString<V>);

#[derive(Storable, VKey)]
#[storable(vas = V)]
struct Place<T, V: crate::Brand> {
    point: T,
    name: Name<V>,
    tags: VVec<u8, V>,
    number: u16,
}

#[test]
fn types_of_one_s_own_are_keys_by_themselves_or_by_their_parts() {
    type All = (
        VHashMap<Point<i8>, u8, Own>,
        VHashSet<Name<Own>, Own>,
        VBTreeMap<Place<Point<i8>, Own>, u8, Own>,
    );
    brand! { Own => All }
    let space = Space::<Own>::in_memory(ROOM, |_| Ok(Default::default())).unwrap();
    let done = space.write(|v| {
        let ((points, names, places), at) = v.root_mut();
        let (here, there) = (Point { x: 1, y: 2 }, Point { x: 2, y: 1 });
        points.at_mut(at).insert(here, 1)?;
        assert_eq!((points.at(at).get(&here), points.at(at).get(&there)), (Some(&1), None));
        names.at_mut(at).insert(Name(VString::new(at, "Ada")?))?;
        assert!(names.at(at).contains("Ada") && !names.at(at).contains("Adam"));
        for (point, name, tags, number) in
            [(there, "a", &b"x"[..], 1), (here, "b", b"xy", 2), (here, "b", b"x", 3)]
        {
            let name = Name(VString::new(at, name)?);
            let place = Place { point, name, tags: VVec::from_slice(at, tags)?, number };
            places.at_mut(at).insert(place, 7)?;
        }
        let order: Vec<_> = places.at(at).keys().map(|key| key.parts().3).collect();
        assert_eq!(order, [&3, &2, &1]);
        assert!(places.at(at).contains_key(&By((&here, "b", &b"xy"[..], &2))));
        assert!(!places.at(at).contains_key(&By((&here, "b", &b"xy"[..], &3))));
        let shown = format!("{:?}", places.at(at).keys().next());
        assert_eq!(shown, "Some((Point { x: 1, y: 2 }, \"b\", [120], 3))");
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
}

#[test]
fn texts_and_vectors_are_keys_at_any_place_of_a_tuple() {
    type Texts = (
        VHashSet<(VString<Places>, VString<Places>), Places>,
        VHashSet<(bool, VVec<u16, Places>, VString<Places>), Places>,
        VBTreeMap<(u8, char, VString<Places>, (u8, u8)), (), Places>,
    );
    brand! { Places => Texts }
    let space = Space::<Places>::in_memory(ROOM, |_| Ok(Default::default())).unwrap();
    let done = space.write(|v| {
        let ((two, three, four), at) = v.root_mut();
        let text = |text| VString::new(at, text);
        two.at_mut(at).insert((text("ab")?, text("c")?))?;
        assert!(two.at(at).contains(&By(("ab", "c"))) && !two.at(at).contains(&By(("a", "bc"))));
        three.at_mut(at).insert((true, VVec::from_slice(at, &[1, 2])?, text("x")?))?;
        assert!(three.at(at).contains(&By((&true, &[1, 2][..], "x"))));
        four.at_mut(at).insert((1, 'y', text("z")?, (2, 3)), ())?;
        assert!(four.at(at).contains_key(&By((&1, &'y', "z", &(2, 3)))));
        let all = (Unbounded, Included(&*By((&1, &'y', "z", &(2, 3)))));
        assert_eq!(four.at(at).range(all).count(), 1);
        let mut four = four.at_mut(at);
        let held = four.get_or_insert_with(&By((&1, &'y', "z", &(2, 3))), || unreachable!());
        assert!(held.is_ok());
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
}
