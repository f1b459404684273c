//! Collections over plain memory: what they own is freed, leaked or kept as it should be, and
//! they do what the standard library's do.

mod boxes;
mod keys;
mod model;
mod queues;
mod sets;

use super::*;
use crate::layout::TypeLayout;
use crate::{AllocError, Error, Space, brand};

const ROOM: usize = 1 << 20;

#[test]
fn what_a_collection_owns_is_freed_inside_and_leaked_elsewhere() {
    type Shelf = VHashMap<VString<Shelves>, VVec<VString<Shelves>, Shelves>, Shelves>;
    brand! { Shelves => Option<Shelf> }
    let space = Space::<Shelves>::in_memory(ROOM, |_| Ok(None)).unwrap();
    let new = || {
        space
            .write(|v| {
                let mut shelf = Shelf::new();
                let mut books = shelf.at_mut(v);
                for (author, title) in [("Eco", "a"), ("Perec", "b"), ("Eco", "c")] {
                    let make = || Ok((VString::new(v, author)?, VVec::new()));
                    let titles = books.get_or_insert_with(author, make)?;
                    titles.at_mut(v).push(VString::new(v, title)?)?;
                }
                Ok::<_, Error>(shelf)
            })
            .unwrap()
    };
    let mine = new();
    // The root, the table, 2 keys, 2 vectors, 3 titles.
    assert_eq!(space.blocks(), 9);
    space
        .write(|_| {
            drop(mine);
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.blocks(), 1);
    let mine = new();
    assert_eq!(mine.len(), 2);
    drop(mine);
    assert_eq!(space.blocks(), 9);
    let mine = new();
    space.read(|_| drop(mine)).unwrap();
    assert_eq!(space.blocks(), 17);
    let mine = new();
    space
        .write(|v| {
            *v.root_mut().0 = Some(mine);
            Ok::<_, Error>(())
        })
        .unwrap();
    let removed = space.write(|v| {
        let (root, at) = v.root_mut();
        let mut books = root.as_mut().unwrap().at_mut(at);
        let titles = books.remove("Eco").unwrap();
        assert_eq!(books.len(), 1);
        Ok::<_, Error>(
            titles.at(at).iter().map(|title| title.at(at).to_owned()).collect::<Vec<_>>(),
        )
    });
    assert_eq!(removed.unwrap(), ["a", "c"]);
    assert_eq!(space.blocks(), 17 + 8 - 4);
    space
        .write(|v| {
            *v.root_mut().0 = None;
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.blocks(), 17);
}

/// An empty table's address is that of a constant in the program: another program would follow
/// it to whatever it has there.
#[test]
fn a_table_without_a_block_of_its_own_is_never_stored() {
    brand! { Empties => VHashMap<u32, u32, Empties> }
    let space = Space::<Empties>::in_memory(4096, |_| Ok(VHashMap::new())).unwrap();
    let check = |map: &VHashMap<u32, u32, Empties>| {
        assert!(map.table().is_none_or(|table| table.allocation_size() > 0));
    };
    space
        .write(|v| {
            let (map, at) = v.root_mut();
            check(map);
            map.at_mut(at).reserve(0).unwrap();
            check(map);
            check(&VHashMap::with_capacity(at, 0).unwrap());
            map.at_mut(at).extend([]).unwrap();
            check(map);
            assert!(map.at_mut(at).reserve(1 << 20).is_err());
            assert!(map.at_mut(at).reserve(usize::MAX).is_err());
            check(map);
            assert!(map.table().is_none());
            let _ = map.at_mut(at).entry(1);
            check(map);
            map.at_mut(at).insert(1, 1).unwrap();
            map.at_mut(at).remove(&1);
            check(map);
            map.at_mut(at).retain(|_, _| false);
            map.at_mut(at).clear();
            check(map);
            map.at_mut(at).insert(1, 1).unwrap();
            // Leaked, it does not put anything back.
            std::mem::forget(map.at_mut(at).drain());
            check(map);
            assert!(map.is_empty());
            map.at_mut(at).insert(2, 2).unwrap();
            assert_eq!(map.at_mut(at).drain().collect::<Vec<_>>(), [(2, 2)]);
            check(map);
            assert!(map.at(at).iter().next().is_none() && map.at(at).get(&2).is_none());
            assert_eq!(map.at_mut(at).iter_mut().len(), 0);
            assert_eq!(map.at_mut(at).drain().len(), 0);
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn a_map_without_room_says_so_and_keeps_what_it_has() {
    brand! { Full => VHashMap<u32, u64, Full> }
    let space = Space::<Full>::in_memory(8192, |_| Ok(VHashMap::new())).unwrap();
    space
        .write(|v| {
            let (root, at) = v.root_mut();
            let mut map = root.at_mut(at);
            let count = (0..).find(|&key| map.insert(key, u64::from(key)).is_err()).unwrap();
            assert!(count > 100, "{count}");
            assert_eq!(map.len(), count as usize);
            assert!((0..count).all(|key| map.get(&key) == Some(&u64::from(key))));
            let refused = map.entry(count).or_insert(0).unwrap_err();
            assert!(refused.bytes > 0 && refused.brand == "Full", "{refused}");
            assert!(map.get_or_insert_with(&count, || Ok((count, 0))).is_err());
            assert!(map.reserve(1).is_err());
            // What is there needs no room.
            assert_eq!(map.insert(0, 70), Ok(Some(0)));
            assert_eq!(map.entry(0).and_modify(|value| *value += 1).or_insert(0), Ok(&mut 71));
            assert_eq!(map.get_or_insert_with(&0, || unreachable!()), Ok(&mut 71));
            assert_eq!(map.remove(&1), Some(1));
            assert_eq!(map.len(), count as usize - 1);
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn a_vector_and_a_string_without_room_say_so_and_keep_what_they_have() {
    brand! { Narrow => (VVec<u64, Narrow>, VString<Narrow>) }
    let init = |at: &crate::At<Narrow, crate::Write>| Ok((VVec::new(), VString::new(at, "ab")?));
    let space = Space::<Narrow>::in_memory(8192, init).unwrap();
    space
        .write(|v| {
            let ((numbers, text), at) = v.root_mut();
            let mut numbers = numbers.at_mut(at);
            let count = (0..).find(|&number| numbers.push(number).is_err()).unwrap();
            assert!(count > 100, "{count}");
            assert!(numbers.insert(0, 7).is_err());
            assert!(numbers.extend_from_slice(&[7; 1000]).is_err());
            assert!(numbers.resize(usize::MAX, 7).is_err());
            assert!(numbers.iter().copied().eq(0..count));
            assert!(text.at_mut(at).push_str(&"x".repeat(8192)).is_err());
            assert!(text.at_mut(at).insert_str(1, &"x".repeat(8192)).is_err());
            assert_eq!(text.at(at), "ab");
            assert!(VString::new(at, &"x".repeat(8192)).is_err());
            assert!(VVec::<u64, Narrow>::with_capacity(at, usize::MAX).is_err());
            numbers.clear();
            assert_eq!(numbers.extend(0..), Err(AllocError::new::<Narrow>(2 * 8 * count as usize)));
            assert_eq!(numbers.len() as u64, count);
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn copies_of_a_slice_come_behind_what_is_there_and_none_do_when_one_cannot_be_made() {
    #[derive(Debug, PartialEq, crate::Storable)]
    struct Odd(u32);
    impl Clone for Odd {
        fn clone(&self) -> Odd {
            assert!(self.0 % 2 == 1, "{} is even", self.0);
            Odd(self.0)
        }
    }
    brand! { Copied => VVec<Odd, Copied> }
    let space = Space::<Copied>::in_memory(ROOM, |_| Ok(VVec::new())).unwrap();
    space
        .write(|v| {
            let (root, at) = v.root_mut();
            root.at_mut(at).extend_from_slice(&[Odd(1), Odd(3)])?;
            root.at_mut(at).extend_from_slice(&[])?;
            root.at_mut(at).extend_from_slice(&[Odd(5)])?;
            let mut numbers = root.at_mut(at);
            let append = || numbers.extend_from_slice(&[Odd(7), Odd(8), Odd(9)]);
            let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(append));
            assert!(unwound.is_err());
            assert_eq!(root.at(at), [Odd(1), Odd(3), Odd(5)]);
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn collecting_stops_at_the_first_error_and_frees_what_it_took() {
    brand! { Taken => VHashMap<VString<Taken>, u32, Taken> }
    let space = Space::<Taken>::in_memory(ROOM, |_| Ok(VHashMap::new())).unwrap();
    let collect = |wrong: usize| {
        space.write(|v| {
            let no_room = AllocError::new::<Taken>(7);
            let text = |n: usize| {
                if n == wrong { Err(no_room) } else { VString::new(v, &n.to_string()) }
            };
            let texts = VVec::try_collect(v, (0..10).map(text))?;
            let entries = texts.at(v).iter().map(|text| Ok((VString::new(v, text.at(v))?, 1)));
            let map =
                VHashMap::try_collect(v, entries.chain([text(wrong + 10).map(|it| (it, 2))]))?;
            assert_eq!((texts.len(), map.len(), map.at(v)["9"]), (10, 11, 1));
            *v.root_mut().0 = map;
            Ok::<_, Error>(())
        })
    };
    assert_eq!(collect(3), Err(AllocError::new::<Taken>(7).into()));
    assert_eq!(space.blocks(), 1, "the root");
    collect(10).unwrap();
    assert_eq!(space.blocks(), 1 + 1 + 11, "the root, the table, the keys");
}

#[test]
fn values_without_bytes_need_no_memory() {
    brand! { Nothing => (VVec<(), Nothing>, VHashMap<(), (), Nothing>) }
    let space = Space::<Nothing>::in_memory(ROOM, |_| Ok(Default::default())).unwrap();
    space
        .write(|v| {
            let ((list, set), at) = v.root_mut();
            list.at_mut(at).resize(1000, ()).unwrap();
            assert_eq!(list.at_mut(at).drain(10..).count(), 990);
            assert_eq!(list.at(at).len(), 10);
            assert_eq!(set.at_mut(at).insert((), ()), Ok(None));
            assert_eq!(set.at_mut(at).insert((), ()), Ok(Some(())));
            assert_eq!(set.at(at).len(), 1);
            Ok::<_, Error>(())
        })
        .unwrap();
    // The root, and the set's control bytes.
    assert_eq!(space.blocks(), 2);
}

#[test]
fn text_is_changed_by_characters() {
    brand! { Texts => VString<Texts> }
    let space = Space::<Texts>::in_memory(ROOM, |_| Ok(VString::empty())).unwrap();
    space
        .write(|v| {
            use std::fmt::Write as _;
            let (root, at) = v.root_mut();
            let mut text = root.at_mut(at);
            text.push_str("na\u{ef}ve").unwrap();
            text.insert_str(4, "--").unwrap();
            assert_eq!(&*text, "na\u{ef}--ve");
            text.truncate(100);
            text.truncate(4);
            assert_eq!(text.pop(), Some('\u{ef}'));
            write!(text, "{}", 12).unwrap();
            text.push('\u{1f980}').unwrap();
            assert_eq!(text.to_string(), "na12\u{1f980}");
            let within =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| text.truncate(5)));
            assert!(within.is_err());
            assert_eq!(format!("{text:?}"), "\"na12\u{1f980}\"");
            text.clear();
            assert_eq!((text.pop(), text.len()), (None, 0));
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn maps_are_looked_up_by_what_their_keys_lend() {
    type Maps = (
        VHashMap<VString<Keys>, u8, Keys>,
        VHashMap<[u8; 4], u8, Keys>,
        VHashMap<(u32, Option<char>), u8, Keys>,
    );
    brand! { Keys => Maps }
    let space = Space::<Keys>::in_memory(ROOM, |_| Ok(Default::default())).unwrap();
    space
        .write(|v| {
            let ((words, tags, pairs), at) = v.root_mut();
            words.at_mut(at).insert(VString::new(at, "one").unwrap(), 1).unwrap();
            tags.at_mut(at).insert(*b"gpia", 2).unwrap();
            pairs.at_mut(at).insert((3, Some('x')), 3).unwrap();
            Ok::<_, Error>(())
        })
        .unwrap();
    space
        .read(|v| {
            let (words, tags, pairs) = v.root();
            let words = words.at(v);
            assert_eq!(
                (words["one"], tags.at(v)[b"gpia"], pairs.at(v)[&(3, Some('x'))]),
                (1, 2, 3)
            );
            assert_eq!(format!("{words:?}"), "{\"one\": 1}");
            assert_eq!(words.keys().collect::<Vec<_>>(), ["one"]);
            assert!(!words.contains_key("two"));
            assert!(
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| words["two"])).is_err()
            );
        })
        .unwrap();
}

#[test]
fn a_key_that_is_made_is_the_one_that_was_asked_for() {
    brand! { Made => VHashMap<u32, u32, Made> }
    let space = Space::<Made>::in_memory(ROOM, |_| Ok(VHashMap::new())).unwrap();
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        space.write(|v| {
            let (root, at) = v.root_mut();
            root.at_mut(at).get_or_insert_with(&1, || Ok((2, 2)))?;
            Ok::<_, Error>(())
        })
    }));
    assert!(made.is_err());
    // SAFETY: the map is intact, which is what this test is about.
    assert_eq!(unsafe { space.recover(|v| v.root().at(v).len()) }, Ok(0));
}

/// Stored maps are read by programs that were built with whatever gives this text. If it changes
/// without a change here, a dependency or the toolchain moved: that is a new layout.
#[test]
fn the_layout_says_how_the_crates_lay_out_and_hash() {
    brand! { Laid => VHashMap<VString<Laid>, u32, Laid> }
    let text = TypeLayout::of::<VHashMap<VString<Laid>, u32, Laid>, Laid>().text().to_owned();
    assert_eq!(text, include_str!("layout.txt"), "{text}");
}

#[test]
fn iterators_and_entries_show_what_is_in_them() {
    type Parts = (VBTreeMap<u32, char, Shown>, VHashMap<u32, char, Shown>, VArena<char, Shown>);
    brand! { Shown => Option<Parts> }
    let space = Space::<Shown>::in_memory(ROOM, |_| Ok(None)).unwrap();
    space
        .write(|v| {
            let mut parts = (VBTreeMap::new(), VHashMap::new(), VArena::<char, Shown>::new());
            let (tree, map, arena) = (&mut parts.0, &mut parts.1, &mut parts.2);
            let mut tree = tree.at_mut(v);
            tree.extend([(1, 'a'), (2, 'b'), (3, 'c')])?;
            let mut walk = tree.as_ref().iter();
            walk.next();
            assert_eq!(format!("{walk:?}"), "[(2, 'b'), (3, 'c')]");
            drop(walk);
            assert_eq!(format!("{:?}", tree.as_ref().range(..3)), "[(1, 'a'), (2, 'b')]");
            assert_eq!(
                format!("{:?}", tree.entry(2)),
                "Entry(OccupiedEntry { key: 2, value: 'b' })"
            );
            assert_eq!(format!("{:?}", tree.entry(9)), "Entry(VacantEntry(9))");
            let mut map = map.at_mut(v);
            map.insert(7, 'x')?;
            assert_eq!(format!("{:?}", map.as_ref().iter()), "[(7, 'x')]");
            assert_eq!(
                format!("{:?}", map.entry(7)),
                "Entry(OccupiedEntry { key: 7, value: 'x' })"
            );
            assert_eq!(format!("{:?}", map.entry(8)), "Entry(VacantEntry(8))");
            let mut arena = arena.at_mut(v);
            arena.insert('y')?;
            assert_eq!(format!("{:?}", arena.as_ref().iter()), "[(VId(0.1), 'y')]");
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn a_vector_is_split_in_two_that_own_what_they_have_or_stays_whole_without_room() {
    brand! { Halves => VVec<VString<Halves>, Halves>, Full => VVec<[u8; 1000], Full> }
    let space = Space::<Halves>::in_memory(ROOM, |_| Ok(VVec::new())).unwrap();
    let split = space.write(|v| {
        let (root, at) = v.root_mut();
        for text in ["a", "b", "c"] {
            root.at_mut(at).push(VString::new(at, text)?)?;
        }
        let rest = root.at_mut(at).split_off(1)?;
        assert!(root.at_mut(at).split_off(1)?.is_empty(), "at its end");
        let texts = |vec: &VVec<VString<Halves>, Halves>| {
            vec.at(at).iter().map(|text| text.at(at).to_owned()).collect::<Vec<_>>()
        };
        Ok::<_, Error>((texts(root), texts(&rest)))
    });
    assert_eq!(split, Ok((vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()])));
    // The root, its block, one text.
    assert_eq!(space.blocks(), 3);

    let full = Space::<Full>::in_memory(3500, |at| VVec::from_slice(at, &[[7; 1000]; 3])).unwrap();
    let refused = full.write(|v| {
        let (root, at) = v.root_mut();
        let refused = root.at_mut(at).split_off(1).map(|rest| rest.len());
        Ok::<_, Error>((refused.map_err(|error| error.bytes), root.len()))
    });
    assert_eq!(refused, Ok((Err(2000), 3)));
}
