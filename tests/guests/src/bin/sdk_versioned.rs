//! A versioned space by the safe API. `sdk_versioned NAME add FIRST COUNT`: inserts COUNT entries, a
//! visit each. `panic`: panics in the middle of a visit; the process is refused afterwards. `full`:
//! fills the disk in one visit. `count`: prints how many entries there are, all of them whole.
//! Status 0, or 101 with a message.

use std::panic::{AssertUnwindSafe, catch_unwind};

use spacejmp::collections::VBTreeMap;
use spacejmp::sys::Lifetime;
use spacejmp::{Error, Space, VString};

spacejmp::brand! { Words => VBTreeMap<u64, VString<Words>, Words> }

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let [name, ref what @ ..] = args[..] else { panic!("sdk_versioned NAME WHAT ...") };
    let options = Space::<Words>::options().lifetime(Lifetime::Versioned);
    let space = options.open_or_create(name, |_| Ok(VBTreeMap::new())).expect("the space");
    match *what {
        ["add", first, count] => (0..number(count)).for_each(|n| add(&space, number(first) + n)),
        ["panic"] => {
            let before = count(&space);
            let visit = || space.write(|_| panic!("in the middle"));
            let ended = catch_unwind(AssertUnwindSafe(visit));
            assert!(ended.is_err());
            let refused = space.read(|v| v.root().len());
            assert!(matches!(refused, Err(Error::Undone { .. })), "{refused:?}");
            println!("{before}");
        }
        ["full"] => {
            let filled = space.write(|v| {
                let (root, at) = v.root_mut();
                let long = "x".repeat(30 << 20);
                root.at_mut(at).insert(0, VString::new(at, &long)?).map(drop)
            });
            assert!(matches!(filled, Err(Error::NotCommitted { .. })), "{filled:?}");
            println!("refused");
        }
        ["count"] => println!("{}", count(&space)),
        _ => panic!("what?"),
    }
}

fn text(n: u64) -> String {
    format!("entry {n} {}", "x".repeat(n as usize % 300))
}

fn add(space: &Space<Words>, n: u64) {
    let added = space.write(|v| {
        let (root, at) = v.root_mut();
        root.at_mut(at).insert(n, VString::new(at, &text(n))?).map(drop)
    });
    added.expect("a visit").expect("memory");
}

fn count(space: &Space<Words>) -> usize {
    let counted = space.read(|v| {
        let torn = v.root().at(v).iter().find(|(n, it)| it.at(v) != text(**n));
        assert!(torn.is_none(), "a torn entry");
        v.root().len()
    });
    counted.expect("a visit")
}
