//! Damage of each kind, planted: it is found, and named by the way to it.

use std::mem::offset_of;

use super::says;
use super::world::{Everything, Link, Plain, Town, User, World, read_all, world};
use crate::check::CheckReport;
use crate::collections::words;
use crate::{Error, In, Space, VBox, Write};

/// Writes a number over what is there.
fn poke(address: usize, bytes: &[u8]) {
    let to = std::ptr::with_exposed_provenance_mut::<u8>(address);
    // SAFETY: memory of the space, which this thread may write; who reads it next is the check.
    unsafe { to.copy_from(bytes.as_ptr(), bytes.len()) };
}

fn peek(address: usize) -> usize {
    // SAFETY: a word of the space.
    unsafe { std::ptr::with_exposed_provenance::<usize>(address).read() }
}

fn poke_word(address: usize, word: usize) {
    poke(address, &word.to_le_bytes());
}

/// Where a word of a vector is: `p`ointer, `c`apacity or `l`ength.
fn of_vec(vec: usize, which: char) -> usize {
    vec + words::of_vec().find(which).unwrap() * 8
}

fn of_wide(pointer: usize, which: char) -> usize {
    pointer + words::of_wide_pointer().find(which).unwrap() * 8
}

fn of_table(table: usize, which: char) -> usize {
    table + words::of_table().find(which).unwrap() * 8
}

fn address<T: ?Sized>(value: &T) -> usize {
    std::ptr::from_ref(value).cast::<u8>().expose_provenance()
}

/// What a check says after `plant` was at work, which is not nothing.
fn after(plant: impl for<'v> FnOnce(&mut In<World<'v>, Write>, usize)) -> CheckReport {
    let report = checked_after(plant);
    assert!(!report.is_clean());
    report
}

/// What a check says of the first of these bytes with which `plant` has done what is looked for: by chance, a key that was changed is
/// where its hash leads.
fn after_one_of(
    bytes: &[u8],
    plant: impl for<'v> Fn(&mut In<World<'v>, Write>, usize, u8),
    is_looked_for: impl Fn(&CheckReport) -> bool,
) -> CheckReport {
    let mut reports = bytes.iter().map(|&byte| checked_after(|v, root| plant(v, root, byte)));
    reports.find(is_looked_for).expect("one of so many bytes does it")
}

/// What a check says after `plant` was at work, and that it said nothing before.
fn checked_after(plant: impl for<'v> FnOnce(&mut In<World<'v>, Write>, usize)) -> CheckReport {
    let space = world();
    let before = space.check().unwrap();
    assert!(before.is_clean(), "{before}");
    assert_eq!(before.leaks.as_ref().map(|leaks| leaks.blocks), Some(0), "{before}");
    assert!(before.unknown.is_empty() && before.lost_owners == 0, "{before}");
    space.read(|v| read_all(v)).unwrap();
    plant_in(&space, plant);
    space.check().unwrap()
}

fn plant_in(
    space: &Space<World<'static>>,
    plant: impl for<'v> FnOnce(&mut In<World<'v>, Write>, usize),
) {
    let planted = space.write(|v| {
        let root = address(v.root());
        plant(v, root);
        Ok::<_, Error>(())
    });
    planted.unwrap();
}

macro_rules! plain {
    ($field:ident) => {
        offset_of!(Everything<'static>, plain) + offset_of!(Plain, $field)
    };
}

macro_rules! field {
    ($field:ident) => {
        offset_of!(Everything<'static>, $field)
    };
}

#[test]
fn bytes_that_are_no_values_are_found_where_they_are() {
    type Case = (usize, &'static [u8], &'static str, &'static str);
    let cases: &[Case] = &[
        (plain!(truth), &[2], "root.plain.truth", "0x2 is no bool"),
        (plain!(letter), &[0, 0xd8, 0, 0], "root.plain.letter", "0xd800 is no char"),
        (plain!(order), &[2], "root.plain.order", "is no Ordering"),
        (plain!(shapes), &[5], "root.plain.shapes[0]", "0x5 is no Shape"),
        (plain!(many) + 17, &[9], "root.plain.many[17]", "0x9 is no bool"),
        (plain!(colour), &[1], "root.plain.colour", "0x1 is no Colour"),
        (plain!(maybe), &[0x77], "root.plain.maybe", "0x77 is no Colour"),
        (plain!(one), &[0; 4], "root.plain.one", "is no NonZero<u32>"),
        (plain!(nested), &[9], "root.plain.nested", "0x9 is no Option"),
    ];
    for &(offset, bytes, path, problem) in cases {
        let report = after(|_, root| poke(root + offset, bytes));
        says(&report, path, problem);
    }
    let circle = size_of::<super::world::Shape>();
    let report = after(|_, root| poke(root + plain!(shapes) + circle + 8, &[3]));
    says(&report, "root.plain.shapes[1].Circle.is_filled", "0x3 is no bool");
    let report = after(|v, _| {
        let nanoseconds = address(&v.root().plain.length);
        // Wherever they are: seconds may be anything.
        poke(nanoseconds, &[0xff; 4]);
        poke(nanoseconds + 8, &[0xff; 4]);
    });
    says(&report, "root.plain.length", "is no Duration");
    let report = after(|v, _| {
        let pair = v.root().plain.pair.as_ref().map(|(flag, _)| address(flag));
        poke(pair.unwrap(), &[99]);
    });
    says(&report, "root.plain.pair.0", "0x63 is no bool");
    let report = after(|v, _| poke(address(&v.root().flags.get(v)[1]), &[50]));
    says(&report, "root.flags[1]", "0x32 is no bool");
}

#[test]
fn owners_of_no_block_of_another_or_of_none_of_their_own_are_found() {
    let list = field!(list);
    let report = after(|_, root| poke_word(root + list, 0x10));
    says(&report, "root.list", "0x10 is the address of no block in use");
    let report = after(|_, root| poke_word(root + list, peek(root + list) + 8));
    says(&report, "root.list", "and not where it begins");
    let report = after(|_, root| poke_word(root + list, peek(root + list) + 1));
    says(&report, "root.list", "is not a multiple of 8");
    // A list that comes back to itself.
    let report = after(|v, root| {
        let first = v.root().list.as_ref().map(|first| address(first.get(v)));
        let second = peek(first.unwrap() + offset_of!(Link<'static>, next));
        poke_word(second + offset_of!(Link<'static>, next), peek(root + list));
    });
    says(&report, "root.list.next.next", "something else owns or points to the block");
    // The end is lost, and said to be.
    assert_eq!(report.leaks.map(|leaks| leaks.blocks), Some(3));
    // A block that is too small for a link.
    let report = after(|v, root| {
        let small = v.root_mut().1;
        let small = VBox::new(small, 7_u64).unwrap();
        poke_word(root + list, address(small.get(v)));
        std::mem::forget(small);
    });
    says(&report, "root.list", "has 8 bytes, and should have 16");
    let report = after(|_, root| poke_word(of_wide(root + field!(text), 'l'), 1 << 40));
    says(&report, "root.text", "should have 1099511627776");
    let report = after(|_, root| poke_word(of_wide(root + field!(flags), 'p'), 0));
    says(&report, "root.flags", "0x0 is the address of no block");
}

#[test]
fn lengths_and_texts_that_are_wrong_are_found_by_key_and_number() {
    let tags = |v: &In<World<'_>, Write>| {
        let user = v.root().users.at(v).get("ann").map(address::<User<'_>>);
        user.unwrap() + offset_of!(User<'static>, tags)
    };
    let report = after(|v, _| poke_word(of_vec(tags(v), 'l'), 77));
    says(&report, "root.users[\"ann\"].tags", "its length is 77, and should be");
    let report = after(|v, _| poke_word(of_vec(tags(v), 'c'), usize::MAX / 8));
    says(&report, "root.users[\"ann\"].tags", "and should have");
    let report = after(|v, _| {
        let tag = v.root().users.at(v).get("ann").map(|user| address(&user.tags.at(v)[3]));
        poke(peek(of_vec(tag.unwrap(), 'p')) + 1, &[0xff]);
    });
    says(&report, "root.users[\"ann\"].tags[3]", "not UTF-8 from byte 1 on");
    let report = after(|v, _| {
        let user = v.root().users.at(v).get("bob").map(address::<User<'_>>);
        poke(user.unwrap() + offset_of!(User<'static>, shape), &[200]);
    });
    says(&report, "root.users[\"bob\"].shape", "0xc8 is no Shape");
    let report = after(|v, root| {
        let text = peek(of_wide(root + field!(text), 'p'));
        poke(text, &[0x80]);
        let _ = v;
    });
    says(&report, "root.text", "not UTF-8 from byte 0 on");
}

#[test]
fn hash_maps_are_found_out() {
    let users = field!(users);
    let table = |root: usize| {
        // Behind the seed.
        root + users + 8
    };
    let misplaced = "it is not where the hash of its key leads";
    let is_misplaced = |report: &CheckReport, end: &str| {
        let is_key = |path: &str| path.starts_with("root.users[") && path.ends_with(end);
        report.findings.iter().any(|found| is_key(&found.path))
    };
    let report = after_one_of(
        b"\x55\x66\x77\x88",
        |_, root, byte| poke(root + users, &[byte; 8]),
        |report| is_misplaced(report, "[\"ann\"]"),
    );
    says(&report, "root.users[\"ann\"]", misplaced);
    let report = after_one_of(
        b"XYZU",
        |v, _, byte| {
            let (key, _) = v.root().users.at(v).get_key_value("ann").unwrap();
            poke(peek(of_vec(address(key), 'p')), &[byte]);
        },
        |report| is_misplaced(report, "nn\"]"),
    );
    says(&report, &report.findings[0].path, misplaced);
    let report = after(|_, root| poke_word(of_table(table(root), 'i'), 3));
    says(&report, "root.users", "its length is 3, and should be 2");
    let report = after(|_, root| poke_word(of_table(table(root), 'g'), 3));
    says(&report, "root.users", "the room in its table is 3, and should be 1");
    let report = after(|_, root| poke_word(of_table(table(root), 'm'), 4));
    says(&report, "root.users", "the table's size is 5, and should be a power of two");
    let report = after(|_, root| poke_word(of_table(table(root), 'm'), 0));
    says(&report, "root.users", "the table's size is 1");
    let report = after(|_, root| poke_word(of_table(table(root), 'm'), (1 << 50) - 1));
    says(&report, "root.users", "is the address of no block in use");
    let report = after_one_of(
        b"\x11\x12",
        |_, root, byte| poke(peek(of_table(table(root), 'c')) + 18, &[byte]),
        |report| !report.is_clean(),
    );
    says(&report, "root.users", "copies of the table's control bytes differ");
    let report = after(|_, root| {
        let controls = peek(of_table(table(root), 'c'));
        poke(controls + 1, &[0x85]);
    });
    says(&report, "root.users", "0x85 is no control byte");
    // Two entries with the same key: the second is where it belongs, too.
    let space = Space::<Twice>::in_memory(1 << 20, |_| Ok(crate::VHashMap::new())).unwrap();
    let planted = space.write(|v| {
        let (map, at) = v.root_mut();
        map.at_mut(at).insert(Same(1, 0), true)?;
        map.at_mut(at).insert(Same(1, 1), true)?;
        let (key, _) = map.at(at).get_key_value(&Same(1, 1)).expect("it was put there");
        poke(address(&key.1), &[0]);
        Ok::<_, Error>(())
    });
    planted.unwrap();
    says(&space.check().unwrap(), "root[Same(1, 0)]", "another entry has the same key");
}

crate::brand! { Twice => crate::VHashMap<Same, bool, Twice> }

/// A key whose hash is that of its first part.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Same(u32, u8);

impl std::hash::Hash for Same {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

// SAFETY: two numbers.
unsafe impl<V: crate::Brand> crate::Storable<V> for Same {
    fn layout(writer: &mut crate::layout::LayoutWriter) {
        writer.describe::<Same>("Same", |writer| {
            writer.field::<u32, V>("0", offset_of!(Same, 0));
            writer.field::<u8, V>("1", offset_of!(Same, 1));
        });
    }

    fn check_stored(place: crate::check::Place, checker: &mut crate::check::Checker<'_, V>) {
        checker.field::<u32>(place, "0", offset_of!(Same, 0));
        checker.field::<u8>(place, "1", offset_of!(Same, 1));
    }

    fn show_stored(
        place: crate::check::Place,
        _checker: &mut crate::check::Checker<'_, V>,
    ) -> Option<String> {
        let number = |offset, bytes| place.number(offset, bytes);
        Some(format!(
            "Same({}, {})",
            number(offset_of!(Same, 0), 4),
            number(offset_of!(Same, 1), 1)
        ))
    }
}

impl<V: crate::Brand> crate::VKey<V> for Same {
    type Borrowed = Same;

    fn borrowed<'a, M: crate::Mode>(&'a self, _at: &'a crate::At<V, M>) -> &'a Same {
        self
    }
}

#[test]
fn trees_are_found_out() {
    let days = field!(days);
    let len = |root: usize| root + days + 16;
    let report = after(|_, root| poke_word(len(root), 101));
    says(&report, "root.days", "its length is 101, and should be 100");
    let report = after(|_, root| poke(root + days, &[7]));
    says(&report, "root.days", "0x7 is no tree");
    let report = after(|_, root| poke(root + days, &[1]));
    says(&report, "root.days", "its length is 100, and should be");
    let report = after(|v, _| {
        let (key, _) = v.root().days.at(v).iter().nth(50).unwrap();
        poke(address(key), &0_u32.to_le_bytes());
    });
    says(&report, "root.days[0]", "its key is not greater than the one before it");
    let report = after(|v, _| {
        let (_, value) = v.root().days.at(v).iter().nth(50).unwrap();
        poke(peek(of_vec(address(value), 'p')), &[0xff]);
    });
    says(&report, "root.days[50]", "not UTF-8");
    let node = |root: usize| peek(root + days + 8);
    let report = after(|_, root| poke(node(root), &24_u32.to_le_bytes()));
    says(&report, "root.days", "the number of a node's keys is 24, and should be 23 at most");
    let report = after(|_, root| poke(node(root), &0_u32.to_le_bytes()));
    says(&report, "root.days", "the number of a node's keys is 0, and should be 1 at least");
    let report = after(|v, _| {
        // The key as a whole, in a set of texts and numbers.
        let sale = v.root().sales.at(v).iter().nth(3).unwrap();
        let (_, day) = sale.parts();
        poke(address(day), &99_u32.to_le_bytes());
    });
    says(&report, "root.sales[(\"rice\", 9)]", "not greater than the one before it");
}

#[test]
fn other_collections_are_found_out() {
    let report = after(|_, root| poke_word(root + field!(linear) + 16, 101));
    says(&report, "root.linear", "the number of buckets in a part");
    let report = after(|_, root| poke_word(root + field!(linear) + 8, 101));
    says(&report, "root.linear", "its length is 101, and should be 100");
    let report = after_one_of(
        b"xyzu",
        |v, _, byte| {
            let (key, _) = v.root().linear.at(v).iter().next().unwrap();
            poke(key.as_ptr().expose_provenance(), &[byte]);
        },
        |report| !report.is_clean(),
    );
    let path = &report.findings[0].path;
    assert!(path.starts_with("root.linear[\"") && path.contains("ey "), "{report}");
    says(&report, path, "it is not where the hash of its key leads");
    let deque = offset_of!(Everything<'static>, queue) + 24;
    let report = after(|_, root| poke_word(root + deque, 1000));
    says(&report, "root.queue", "its first cell is 1000, and should be");
    let report = after(|_, root| poke_word(root + deque + 8, 1000));
    says(&report, "root.queue", "its length is 1000, and should be");
    let report = after(|v, _| {
        let job = v.root().queue.at(v).get(2).map(address).unwrap();
        poke_word(of_vec(job, 'l'), usize::MAX);
    });
    says(&report, "root.queue[2]", "its length is");
    let report = after(|v, _| {
        let third = v.root().heap.at(v).iter().nth(2).map(address).unwrap();
        poke(peek(of_vec(third, 'p')), b"~");
    });
    says(&report, "root.heap[2]", "it is greater than the value above it in the heap");
    let people = field!(people) + 24;
    let report = after(|_, root| poke(root + people, &[0]));
    says(&report, "root.people[2]", "the slot is empty, and not on the list of these");
    let report = after(|_, root| poke(root + people, &[1]));
    says(&report, "root.people", "leads to one that is not empty");
    let report = after(|_, root| poke(root + people + 4, &[9]));
    says(&report, "root.people", "its length is 9, and should be 3");
}

#[test]
fn shared_values_and_pointers_are_found_out() {
    // Fewer owners than there are.
    let report = after(|v, _| {
        let block = peek(address(&v.root().shared.at(v)[0]));
        poke_word(block, 1);
    });
    says(&report, "root.shared[0]", "its number of owners is 1, and should be 2 at least");
    // More: no damage, and said.
    let space = world();
    plant_in(&space, |v, _| poke_word(peek(address(&v.root().shared.at(v)[0])), 5));
    let report = space.check().unwrap();
    assert!(report.is_clean() && report.lost_owners == 3, "{report}");
    // An owner of several of what has one.
    let report = after(|v, _| {
        let tags = v.root().users.at(v).get("ann").map(|user| address(user.tags.at(v)));
        poke_word(address(&v.root().shared.at(v)[1]), tags.unwrap());
    });
    says(&report, "root.shared[1]", "something else owns or points to the block");
    let report = after(|_, root| poke_word(root + field!(first), 64));
    says(&report, "root.first", "0x40 is the address of no block in use");
    let report = after(|v, root| {
        let towns = v.root().towns;
        poke_word(root + field!(first), towns.ptr(1).address() + 8);
    });
    says(&report, "root.first", "another type, or between its values");
    let report = after(|v, root| {
        let tags = v.root().users.at(v).get("ann").map(|user| address(user.tags.at(v)));
        poke_word(root + field!(first), tags.unwrap());
    });
    // What is met first is believed.
    says(&report, "root.users[\"ann\"].tags", "owns or points to the block");
    let report = after(|_, root| poke_word(root + field!(towns) + 8, 1 << 50));
    assert!(report.findings[0].path == "root.towns", "{report}");
    // Within what is pointed to: by its type and address.
    let report = after(|v, _| {
        let town = v.root().towns.ptr(2);
        let name = town.address() + offset_of!(Town<'static>, name);
        poke_word(of_vec(name, 'l'), 1 << 30);
    });
    let path = &report.findings[0].path;
    assert!(path.starts_with("(Town at 0x") && path.ends_with(")[2].name"), "{report}");
}

#[test]
fn a_root_object_that_is_not_there_is_said() {
    let mut space = world();
    space.set_root_for_tests(0x4000);
    says(&space.check().unwrap(), "root", "0x4000 is the address of no block in use");
}

crate::brand! { Chain<'v> => Option<VBox<Long<'v>, Chain<'v>>> }

#[derive(crate::Storable)]
#[storable(vas = Chain<'v>)]
struct Long<'v> {
    next: Option<VBox<Long<'v>, Chain<'v>>>,
    is_last: bool,
}

/// Neither is the thread's stack in the way, nor are paths without end.
#[test]
fn a_long_chain_is_checked_to_its_end() {
    let length = if cfg!(miri) { 100 } else { 200_000 };
    let space = Space::<Chain<'_>>::in_memory(1 << 30, |_| Ok(None)).unwrap();
    let made = space.write(|v| {
        let (root, at) = v.root_mut();
        let mut last = 0;
        for number in 0..length {
            let next = root.take();
            let link = VBox::new(at, Long { next, is_last: number == 0 })?;
            if number == 0 {
                last = address(&link.get(at).is_last);
            }
            *root = Some(link);
        }
        Ok::<_, Error>(last)
    });
    let report = space.check().unwrap();
    assert!(report.is_clean() && report.counts["VBox"] == length, "{report}");
    poke(made.unwrap(), &[4]);
    let report = space.check().unwrap();
    let path = &report.findings[0].path;
    assert!(path.starts_with("root.next.next") && path.ends_with(".next.is_last"), "{path}");
    assert!(path.contains("...") && path.len() < 1000, "{path}");
}
