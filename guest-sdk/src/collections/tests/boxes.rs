//! Boxes of slices and texts, shared owners, and what is split off.

use crate::layout::TypeLayout;
use crate::{
    AllocError, CloneIn, Error, Space, Storable, VBTreeMap, VBTreeSet, VBox, VHashMap, VRc,
    VString, VVec, brand,
};

const ROOM: usize = 1 << 20;

#[test]
fn a_slice_and_a_text_in_a_box_are_those_that_they_were_made_of_and_freed_as_one() {
    type Boxes = (VBox<[VString<Boxed>], Boxed>, VBox<str, Boxed>, VBox<[u64], Boxed>);
    brand! { Boxed => Option<Boxes> }
    let space = Space::<Boxed>::in_memory(ROOM, |_| Ok(None)).unwrap();
    let done = space.write(|v| {
        let (root, at) = v.root_mut();
        let mut texts = VVec::with_capacity(at, 10)?;
        for text in ["a", "b", "c"] {
            texts.at_mut(at).push(VString::new(at, text)?)?;
        }
        let mut text = VString::new(at, "na\u{ef}ve")?;
        text.at_mut(at).reserve(100)?;
        *root = Some((texts.into_boxed(at)?, text.into_boxed(at)?, VBox::from_slice(at, &[])?));
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
    // The root, three texts, their slice, the text; no values have none.
    assert_eq!(space.blocks(), 6);
    let seen = space.write(|v| {
        let (root, at) = v.root_mut();
        let Some((texts, text, none)) = root.as_mut() else { return Ok(String::new()) };
        texts.get_mut(at)[1].at_mut(at).push('!')?;
        text.get_mut(at).make_ascii_uppercase();
        let copies = (texts.clone_in(at)?, text.clone_in(at)?, none.clone_in(at)?);
        let seen: Vec<_> = copies.0.get(at).iter().map(|text| text.at(at)).collect();
        let seen = format!("{seen:?} {} {:?}", copies.1.get(at), copies.2.get(at));
        let mut values = copies.0.into_iter(at);
        assert_eq!(values.next_back().map(|text| text.len()), Some(1));
        Ok::<_, Error>(seen)
    });
    assert_eq!(seen, Ok("[\"a\", \"b!\", \"c\"] NA\u{ef}VE []".to_owned()));
    assert_eq!(space.blocks(), 6);
    space.write(|v| Ok::<_, Error>(v.root_mut().0.take().is_some())).unwrap();
    assert_eq!(space.blocks(), 1);

    let text = |layout: TypeLayout| layout.text().to_owned();
    assert_eq!(
        text(TypeLayout::of::<(Option<VBox<[u8], Boxed>>, VBox<str, Boxed>), Boxed>()),
        "tuple (32 bytes, align 8)\n  0 +0: Option (16 bytes, align 8)\n    VBox of values version 1, words pl \
         (16 bytes, align 8)\n      u8 (1 bytes, align 1)\n  1 +16: VBox of text version 1, words pl (16 \
         bytes, align 8)\n"
    );
}

#[test]
fn boxes_of_values_without_size_have_no_memory() {
    brand! { Units => Option<VBox<[()], Units>> }
    let space = Space::<Units>::in_memory(4096, |_| Ok(None)).unwrap();
    let done = space.write(|v| {
        let (root, at) = v.root_mut();
        *root = Some(VBox::from_slice(at, &[(); 7])?);
        Ok::<_, Error>(root.as_ref().map(|units| units.get(at).len()))
    });
    assert_eq!((done, space.blocks()), (Ok(Some(7)), 1));
}

#[derive(Storable, CloneIn)]
#[storable(vas = V)]
struct Node<V: crate::Brand> {
    name: VString<V>,
    below: VVec<VRc<Node<V>, V>, V>,
}

#[test]
fn a_shared_value_lives_as_long_as_its_last_owner_and_is_changed_by_its_only_one() {
    brand! { Shared => VVec<VRc<Node<Shared>, Shared>, Shared> }
    let space = Space::<Shared>::in_memory(ROOM, |_| Ok(VVec::new())).unwrap();
    let node = |at: &crate::At<Shared, crate::Write>, name: &str| {
        Ok::<_, AllocError>(Node { name: VString::new(at, name)?, below: VVec::new() })
    };
    let done = space.write(|v| {
        let (root, at) = v.root_mut();
        let leaf = VRc::new(at, node(at, "leaf")?)?;
        for name in ["a", "b"] {
            let mut above = VRc::new(at, node(at, name)?)?;
            let held = above.get_mut(at).expect("its only owner");
            held.below.at_mut(at).push(leaf.another(at))?;
            root.at_mut(at).push(above)?;
        }
        assert_eq!(leaf.owners(at), 3);
        assert!(leaf.is_same(&root.at(at)[1].get(at).below.at(at)[0]));
        assert!(leaf.into_inner(at).is_err(), "there are others");
        // A copy of a node has the same leaf.
        let copy = root.at(at)[0].get(at).clone_in(at)?;
        assert_eq!(copy.below.at(at)[0].owners(at), 3);
        drop(copy);
        root.at_mut(at).truncate(1);
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
    // The root and its block; "a" with its text and its block; the leaf with its text.
    assert_eq!(space.blocks(), 2 + 3 + 2);
    let owners = space.read(|v| v.root().at(v)[0].get(v).below.at(v)[0].owners(v));
    assert_eq!(owners, Ok(1));

    let done = space.write(|v| {
        let (root, at) = v.root_mut();
        let mut owner = root.at(at)[0].another(at);
        assert!(owner.get_mut(at).is_none() && root.at_mut(at)[0].get_mut(at).is_none());
        owner.make_mut(at)?.name.at_mut(at).push('!')?;
        assert_eq!((owner.owners(at), root.at(at)[0].owners(at)), (1, 1));
        assert_eq!((owner.get(at).name.at(at), root.at(at)[0].get(at).name.at(at)), ("a!", "a"));
        let taken = owner.into_inner(at).map_err(|_| "it is the only owner");
        assert_eq!(taken.map(|node| node.name.at(at).to_owned()), Ok("a!".to_owned()));
        root.at_mut(at).clear();
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
    assert_eq!(space.blocks(), 2);
}

#[test]
fn an_owner_that_is_dropped_elsewhere_goes_on_to_count_and_its_value_stays() {
    brand! { Outside => Option<VRc<u64, Outside>>, Beside => u8 }
    let space = Space::<Outside>::in_memory(ROOM, |at| VRc::new(at, 7).map(Some)).unwrap();
    let beside = Space::<Beside>::in_memory(ROOM, |_| Ok(0)).unwrap();
    let another = || {
        space
            .write(|v| {
                let (root, at) = v.root_mut();
                Ok::<_, Error>(root.as_ref().map(|owner| owner.another(at)))
            })
            .unwrap()
    };
    drop(another());
    let kept = another();
    space.read(|_| drop(kept)).unwrap();
    let kept = another();
    beside
        .write(|_| {
            drop(kept);
            Ok::<_, Error>(())
        })
        .unwrap();
    std::mem::forget(another());
    let kept = another();
    let done = space.write(|v| {
        let (root, at) = v.root_mut();
        drop(kept);
        let owners = root.as_ref().map(|owner| owner.owners(at));
        *root = None;
        Ok::<_, Error>(owners)
    });
    assert_eq!(done, Ok(Some(5)));
    let layout = TypeLayout::of::<Option<VRc<u64, Outside>>, Outside>();
    let expected = "Option (8 bytes, align 8)\n  VRc version 1 (8 bytes, align 8)\n    u64 (8 bytes, align 8)\n";
    assert_eq!(layout.text(), expected);
    // It can still be read through what was forgotten, so it must not be freed.
    assert_eq!(space.blocks(), 2);
}

#[test]
fn one_text_is_the_key_of_many_maps() {
    type Names = VHashMap<VRc<VString<Interned>, Interned>, u8, Interned>;
    brand! { Interned => (Names, VBTreeMap<VBox<str, Interned>, u8, Interned>) }
    let space = Space::<Interned>::in_memory(ROOM, |_| Ok(Default::default())).unwrap();
    let done = space.write(|v| {
        let ((shared, boxed), at) = v.root_mut();
        let name = VRc::new(at, VString::new(at, "Ada")?)?;
        let mut other = VHashMap::<_, _, Interned>::new();
        shared.at_mut(at).insert(name.another(at), 1)?;
        other.at_mut(at).insert(name, 2)?;
        boxed.at_mut(at).insert(VBox::from_text(at, "Ada")?, 3)?;
        let found = (shared.at(at)["Ada"], other.at(at)["Ada"], boxed.at(at)["Ada"]);
        Ok::<_, Error>(found)
    });
    assert_eq!(done, Ok((1, 2, 3)));
}

#[test]
fn a_text_and_a_tree_are_split_in_two() {
    type Parts = (VString<Split>, VBTreeMap<u32, VString<Split>, Split>, VBTreeSet<u8, Split>);
    brand! { Split => Parts }
    let space = Space::<Split>::in_memory(1 << 22, |_| Ok(Default::default())).unwrap();
    let done = space.write(|v| {
        let ((text, tree, set), at) = v.root_mut();
        *text = VString::new(at, "na\u{ef}ve")?;
        let rest = text.at_mut(at).split_off(4)?;
        assert_eq!((text.at(at), rest.at(at)), ("na\u{ef}", "ve"));
        let within = std::panic::AssertUnwindSafe(|| text.at_mut(at).split_off(3).map(drop));
        assert!(std::panic::catch_unwind(within).is_err());
        set.at_mut(at).extend(0..9)?;
        assert!(set.at_mut(at).split_off(&6)?.at(at).iter().eq(&[6, 7, 8]));
        assert_eq!(set.len(), 6);
        // Around the sizes at which a tree has another node, or level.
        for count in (0..30_u32).chain([300, 575, 576, 577, 13_000, 14_000]) {
            for from in [0, 1, count / 2, count.saturating_sub(1), count, count + 1] {
                let mut std = std::collections::BTreeMap::new();
                *tree = VBTreeMap::new();
                for key in 0..count {
                    tree.at_mut(at).insert(key, VString::new(at, &key.to_string())?)?;
                    std.insert(key, key.to_string());
                }
                let (mut rest, std_rest) =
                    (tree.at_mut(at).split_off(&from)?, std.split_off(&from));
                for (tree, std) in [(&mut *tree, std), (&mut rest, std_rest)] {
                    assert_eq!(tree.len(), std.len());
                    let entries = tree.at(at).iter().map(|(key, value)| (key, value.at(at)));
                    assert!(entries.eq(std.iter().map(|(key, value)| (key, value.as_str()))));
                    // It is a tree like any other.
                    for key in 0..20 {
                        tree.at_mut(at).insert(key, VString::empty())?;
                        tree.at_mut(at).remove(&(key + 5));
                    }
                }
            }
        }
        *tree = VBTreeMap::new();
        *set = VBTreeSet::new();
        *text = VString::empty();
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
    assert_eq!(space.blocks(), 1);
}

#[test]
fn a_tree_that_cannot_be_split_for_want_of_room_stays_whole() {
    brand! { Whole => VBTreeMap<u64, [u64; 3], Whole> }
    let space = Space::<Whole>::in_memory(8192, |_| Ok(VBTreeMap::new())).unwrap();
    let done = space.write(|v| {
        let (root, at) = v.root_mut();
        let mut tree = root.at_mut(at);
        let count = (0..).find(|&key| tree.insert(key, [key; 3]).is_err()).unwrap();
        assert!(count > 50 && tree.split_off(&3).is_err(), "{count}");
        assert!(tree.as_ref().keys().copied().eq(0..count));
        // The last leaf's entries need no more than what is freed.
        tree.clear();
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
    assert_eq!(space.blocks(), 1);
}
