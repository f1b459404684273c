//! A versioned space whose content follows from how many changes were made: whatever a kill or a
//! power cut leaves can be told from what should be there. `ledger NAME new`: makes it. `work [COUNT]`:
//! makes changes, a visit each, and prints the number of each when it is committed. `check`: prints
//! how many changes the newest version has, all of them whole. `watch`: does so again and again,
//! without printing. Status 0, or 101 with what is wrong.

use std::collections::BTreeMap;
use std::io::Write;

use spacejmp::collections::VBTreeMap;
use spacejmp::sys::{Durability, Lifetime};
use spacejmp::{At, In, Mode, Space, Storable, VString};

spacejmp::brand! { Ledger<'v> => Book<'v> }

#[derive(Storable)]
#[storable(vas = Ledger<'v>)]
struct Book<'v> {
    changes: u64,
    entries: VBTreeMap<u64, VString<Ledger<'v>>, Ledger<'v>>,
}

/// What the entries should be: each text follows from the change that wrote it and its length.
type Model = BTreeMap<u64, (u64, usize)>;

/// Keys, and most changes of one visit.
const KEYS: u64 = 300;
const CHANGES_MAX: u64 = 8;

/// A number that looks random and follows from two others (a round of splitmix64).
fn mix(n: u64, k: u64) -> u64 {
    let x = (n ^ k.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ x
}

/// What change `n` does: keys that are written, with the length of the text, or removed.
fn change(n: u64) -> Vec<(u64, Option<usize>)> {
    if n % 97 == 96 {
        return (0..KEYS / 2).map(|key| (2 * key, None)).collect();
    }
    if n % 31 == 30 {
        return vec![(mix(n, 1) % KEYS, Some(300_000))];
    }
    let one = |k| {
        let length = mix(n, k + 100) % 700;
        (mix(n, k) % KEYS, (length >= 100).then_some(length as usize))
    };
    (0..1 + mix(n, 0) % CHANGES_MAX).map(one).collect()
}

fn text(n: u64, key: u64, length: usize) -> String {
    let mut text = format!("{n} {key} ");
    text.extend((0..length as u64).map(|at| (b'a' + ((n + key + at) % 26) as u8) as char));
    text
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [name, ref what @ ..] = args[..] else { panic!("ledger NAME WHAT ...") };
    match *what {
        ["new"] => {
            // What it prints is to survive.
            let options = Space::<Ledger<'_>>::options().lifetime(Lifetime::Versioned);
            let options = options.durability(Durability::Each);
            let made = options.create(name, |_| Ok(Book { changes: 0, entries: VBTreeMap::new() }));
            made.expect("a new space");
        }
        ["work"] => work(&open(name), u64::MAX),
        ["work", count] => work(&open(name), count.parse().expect("a number")),
        ["check"] => {
            let space = Space::<Ledger<'_>>::open_read_only(name).expect("the space");
            println!("{}", space.read(|v| check(v, &mut (0, Model::new()))).expect("a visit"));
        }
        ["watch"] => {
            let space = Space::<Ledger<'_>>::open_read_only(name).expect("the space");
            let mut known = (0, Model::new());
            loop {
                space.read(|v| check(v, &mut known)).expect("a visit");
            }
        }
        _ => panic!("what?"),
    }
}

fn open(name: &str) -> Space<Ledger<'static>> {
    Space::open(name).expect("the space")
}

fn work(space: &Space<Ledger<'_>>, count: u64) {
    for _ in 0..count {
        let done = space.write(|v| {
            let (book, at) = v.root_mut();
            let n = book.changes;
            for (key, length) in change(n) {
                let mut entries = book.entries.at_mut(at);
                match length {
                    Some(length) => {
                        let text = VString::new(at, &text(n, key, length)).expect("memory");
                        entries.insert(key, text).expect("memory");
                    }
                    None => drop(entries.remove(&key)),
                }
            }
            book.changes = n + 1;
            Ok::<_, spacejmp::Error>(n + 1)
        });
        println!("{}", done.expect("a change"));
        std::io::stdout().flush().expect("somebody reads");
    }
}

/// Compares what a visit sees with what its number of changes says. `known` is the model of an earlier
/// look.
fn check<M: Mode>(v: &In<Ledger<'_>, M>, known: &mut (u64, Model)) -> u64 {
    let book = v.root();
    let (at, model) = (&mut known.0, &mut known.1);
    assert!(book.changes >= *at, "{} changes after {at}", book.changes);
    for n in *at..book.changes {
        for (key, length) in change(n) {
            match length {
                Some(length) => model.insert(key, (n, length)),
                None => model.remove(&key),
            };
        }
    }
    *at = book.changes;
    compare(book, v, model);
    book.changes
}

fn compare<'v, M: Mode>(book: &Book<'v>, at: &At<Ledger<'v>, M>, model: &Model) {
    let (n, entries) = (book.changes, book.entries.at(at));
    assert_eq!(entries.len(), model.len(), "entries after {n} changes");
    for ((key, found), (expected, (by, length))) in entries.iter().zip(model) {
        assert_eq!(key, expected, "a key after {n} changes");
        let found = found.at(at);
        assert!(*found == *text(*by, *key, *length), "entry {key} after {n} changes: {found:.40}");
    }
}
