//! A versioned space by the safe API. `sdk_versioned NAME add FIRST COUNT`: inserts COUNT entries,
//! a visit each. `abort COUNT`: as often changes all it can and gives up, by an error and by
//! panics, and goes on. `full`: fills the disk in one visit, and goes on with a small one.
//! `fill MIB`: an entry of so many MiB, and 5000 small ones. `empty`: removes all.
//! `nested`: visits inside of visits. `kept`: a brand that lets handles be kept is refused.
//! `count`: prints how many entries there are, all of them whole. `watch`: versions, waiting for
//! them, durability. `old`: keeps versions, and reads them beside the newest. `read COUNT`: as
//! often finds the space empty. `at TAG`: prints how many entries there were then, and are. `stay`:
//! keeps the space open while others commit, and says after each line of input what visits find.
//! `number`: makes a space of a number. Status 0, or 101 with a message.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use abi::Errno;
use spacejmp::collections::VBTreeMap;
use spacejmp::sys::Lifetime;
use spacejmp::{Durability, Error, In, Segment, Space, VString, Write};

type Map<'v> = VBTreeMap<u64, VString<Words<'v>>, Words<'v>>;

spacejmp::brand! {
    Words<'v> => Map<'v>,
    Raw<'v> => u64,
    Each<'v> => u64,
    Kept => VBTreeMap<u64, VString<Kept>, Kept>,
}

/// Why a visit is given up.
enum Why {
    OnPurpose(u64),
    Failed(Error),
}

impl From<Error> for Why {
    fn from(error: Error) -> Why {
        Why::Failed(error)
    }
}

/// It was given up for this reason.
fn on_purpose(result: Result<(), Why>, number: u64) {
    match result {
        Err(Why::OnPurpose(it)) => assert_eq!(it, number),
        Err(Why::Failed(error)) => panic!("{error}"),
        Ok(()) => panic!("it was not given up"),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let [name, ref what @ ..] = args[..] else { panic!("sdk_versioned NAME WHAT ...") };
    if *what == ["number"] {
        let options = Space::<Each<'_>>::options().lifetime(Lifetime::Versioned);
        let space = options.open_or_create(name, |_| Ok(7)).expect("the space");
        println!("{:?}", space.read(|v| *v.root()));
        return;
    }
    // Versioned without a word: the brand has a lifetime.
    let options = Space::<Words<'_>>::options();
    let space = options.open_or_create(name, |_| Ok(VBTreeMap::new())).expect("the space");
    match *what {
        ["add", first, count] => {
            (0..number(count)).for_each(|n| add(&space, number(first) + n).expect("a visit"));
        }
        ["abort", count] => aborts(&space, number(count)),
        ["full"] => {
            let long = "x".repeat(30 << 20);
            let filled = space.write(|v| insert(v, 0, &long));
            assert!(matches!(filled, Err(Error::NotCommitted { .. })), "{filled:?}");
            assert_eq!(space.read(|v| v.root().at(v).get(&0).is_none()), Ok(true));
            println!("refused");
        }
        ["fill", mib] => {
            let long = "x".repeat((number(mib) as usize) << 20);
            space.write(|v| insert(v, 0, &long)).expect("a visit");
            (1..5000).for_each(|n| space.write(|v| insert(v, n, "short")).expect("a visit"));
        }
        ["empty"] => {
            let emptied = space.write(|v| {
                let (map, at) = v.root_mut();
                map.at_mut(at).clear();
                Ok::<(), Error>(())
            });
            emptied.expect("a visit");
        }
        ["nested"] => nested(&space),
        ["kept"] => {
            let refused = |result: Result<Space<Kept>, Error>| match result {
                Err(error @ Error::KeptHandles { .. }) => println!("{error}"),
                other => panic!("{other:?}"),
            };
            refused(Space::open(name));
            refused(Space::open_read_only(name));
            let options = Space::<Kept>::options().lifetime(Lifetime::Versioned);
            refused(options.open_or_create(name, |_| Ok(VBTreeMap::new())));
            refused(options.create("fresh", |_| Ok(VBTreeMap::new())));
            let options = Space::<Kept>::options();
            let raw = options.create("kept", |_| Ok(VBTreeMap::new())).expect("a raw space");
            assert!(matches!(raw.version(), Err(Error::NotVersioned { .. })));
        }
        ["watch"] => watch(&space, name),
        ["old"] => old(&space),
        ["at", tag] => println!("{} {}", count(&space.at(tag).expect("the tag")), count(&space)),
        ["stay"] => stay(&space),
        ["read", times] => (0..number(times)).for_each(|_| assert_eq!(count(&space), 0)),
        ["count"] => println!("{}", count(&space)),
        _ => panic!("what?"),
    }
}

fn text(n: u64) -> String {
    format!("entry {n} {}", "x".repeat(n as usize % 300))
}

fn insert(v: &mut In<Words<'_>, Write>, n: u64, text: &str) -> Result<(), Error> {
    let (root, at) = v.root_mut();
    root.at_mut(at).insert(n, VString::new(at, text)?)?;
    Ok(())
}

fn add(space: &Space<Words<'_>>, n: u64) -> Result<(), Error> {
    space.write(|v| insert(v, n, &text(n)))
}

fn count(space: &Space<Words<'_>>) -> usize {
    let counted = space.read(|v| {
        let torn = v.root().at(v).iter().find(|(n, it)| it.at(v) != text(**n));
        assert!(torn.is_none(), "a torn entry");
        v.root().len()
    });
    counted.expect("a visit")
}

/// What a visit does before it is given up: takes out what is there, keeps some of it beside, grows the
/// segment, makes the root another.
fn destroy<'v>(v: &mut In<Words<'v>, Write>, kept: &mut Option<Map<'v>>) -> Result<(), Error> {
    let (root, at) = v.root_mut();
    *kept = Some(std::mem::take(root));
    for n in 0..50 {
        root.at_mut(at).insert(n, VString::new(at, &"y".repeat(70_000))?)?;
    }
    Ok(())
}

fn aborts(space: &Space<Words<'_>>, times: u64) {
    let before = count(space);
    for n in 0..times {
        let given_up = space.write(|v| {
            // The owner of what was there is dropped inside, or not at all.
            let mut kept = None;
            destroy(v, &mut kept)?;
            if n % 2 == 0 {
                std::mem::forget(kept);
            }
            Err::<(), _>(Why::OnPurpose(n))
        });
        on_purpose(given_up, n);
        if n % 10 == 0 {
            let visit = || {
                space.write(|v| -> Result<(), Error> { destroy(v, &mut None).map(|()| panic!()) })
            };
            assert!(catch_unwind(AssertUnwindSafe(visit)).is_err());
        }
        // Every fifth time it writes as well: what was freed and taken meanwhile is neither.
        if n % 5 == 0 {
            add(space, 1_000_000 + n).expect("a visit");
        }
        assert_eq!(count(space), before + (n / 5 + 1) as usize, "after {n} aborts");
    }
    println!("{}", count(space));
}

/// Numbers of versions, and waiting for them.
fn watch(space: &Space<Words<'_>>, name: &str) {
    let (soon, late) = (Duration::from_millis(50), Duration::from_secs(60));
    let before = space.version().expect("a version");
    add(space, 8000).expect("a visit");
    let after = before + 1;
    assert_eq!((space.version(), space.sync()), (Ok(after), Ok(after)));
    let given_up = space
        .write(|v| insert(v, 8001, "").map_err(Why::from).and(Err::<(), _>(Why::OnPurpose(1))));
    on_purpose(given_up, 1);
    assert_eq!(space.version(), Ok(after), "nothing has happened");
    let reader = Space::<Words<'_>>::open_read_only(name).expect("the space");
    assert_eq!(reader.wait_newer(before, late), Ok(Some(after)));
    assert_eq!(reader.wait_newer(after, soon), Ok(None));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| reader.wait_newer(after, late));
        std::thread::sleep(soon);
        add(space, 8002).expect("a visit");
        assert_eq!(waiting.join().expect("no panic"), Ok(Some(after + 1)));
    });
    // A reader may wait inside, and sees what it saw.
    let seen = reader.read(|v| (reader.wait_newer(before, late), v.root().len()));
    assert_eq!(seen, Ok((Ok(Some(after + 1)), count(space))));
    let kept_out = space.write(|_| Ok::<_, Error>(space.wait_newer(after + 1, late)));
    let errno = kept_out.expect("a visit").map_err(|error| error.errno());
    assert_eq!(errno, Err(Some(Errno::EDEADLK)));
    let gone = reader.at("never").map(|_| ()).map_err(|error| error.errno());
    assert_eq!(gone, Err(Some(Errno::ENOENT)));
    raw();
    let options = Space::<Each<'_>>::options().lifetime(Lifetime::Versioned);
    options.durability(Durability::Each).open_or_create("each", |_| Ok(0)).expect("a space");
    let info = Segment::find("each").and_then(|segment| segment.stat()).expect("a segment");
    assert_eq!(info.durability, Some(Durability::Each));
    println!("watched");
}

/// Versions that are kept, read by the same functions as the newest.
fn old(space: &Space<Words<'_>>) {
    (0..3).for_each(|n| add(space, n).expect("a visit"));
    let number = space.version().expect("a version");
    space.tag("monday").expect("a tag");
    assert_eq!(space.tag("monday").map_err(|error| error.errno()), Err(Some(Errno::EEXIST)));
    assert_eq!(space.tag("7").map_err(|error| error.errno()), Err(Some(Errno::EINVAL)));
    add(space, 3).expect("a visit");
    let monday = space.at("monday").expect("the tag");
    let by_number = space.at(&number.to_string()).expect("its number");
    for _ in 0..2 {
        assert_eq!((count(&monday), count(&by_number)), (3, 3));
        add(space, 4).expect("a visit");
        assert_eq!((count(&monday), count(space)), (3, 5));
    }
    let written = add(&monday, 9).map_err(|error| error.errno());
    assert_eq!(written, Err(Some(Errno::EACCES)));
    // A version of a version: the same again.
    monday.tag("noon").expect("a tag");
    assert_eq!(count(&monday.at("noon").expect("the tag")), 3);
    // A thread that is inside one keeps the others of its process out of the other: it has the same addresses.
    let kept_out = monday.read(|v| {
        let read = || space.read_timeout(Duration::from_millis(50), |v| v.root().len());
        let other = std::thread::scope(|scope| scope.spawn(read).join().expect("no panic"));
        (v.root().len(), other)
    });
    assert!(
        matches!(kept_out, Ok((3, Err(Error::Locked { .. } | Error::SameAddresses { .. })))),
        "{kept_out:?}"
    );
    // The same thread sees one from inside the other: the first is suspended.
    let both = space.read(|v| (v.read(&monday, |w| w.root().len()), v.root().len()));
    assert_eq!(both, Ok((Ok(3), 5)));
    println!("{} {}", count(&monday), count(space));
}

/// The space stays open while other programs commit. After each line of input it says what visits find.
fn stay(space: &Space<Words<'_>>) {
    // It is attached to be read, and to be written.
    add(space, 0).expect("a visit");
    println!("{}", count(space));
    for line in std::io::stdin().lines() {
        line.expect("a line");
        let before = space.version();
        let read = space.read(|v| v.root().len());
        let written = space.write(|v| insert(v, 1, &text(1)));
        match (read, written) {
            (Ok(_), Ok(())) => println!("{}", count(space)),
            (Err(Error::Changed { .. }), Err(Error::Changed { .. })) => {
                assert_eq!(space.version(), before, "nothing was committed");
                let again = Space::<Words<'_>>::open(space.name()).map(|_| ());
                let error = again.expect_err("there are no words").to_string();
                println!("{}", error.lines().next().unwrap_or_default());
            }
            other => println!("{other:?}"),
        }
    }
}

/// A space without versions.
fn raw() {
    let raw = Space::<Raw<'_>>::options().lifetime(Lifetime::Persistent);
    let raw = raw.open_or_create("raw", |_| Ok(0)).expect("a space");
    let none = Error::NotVersioned { space: "raw".to_owned() };
    assert_eq!((raw.version(), raw.sync()), (Err(none.clone()), Err(none.clone())));
    assert_eq!(raw.wait_newer(0, Duration::ZERO), Err(none));
    // What cannot be undone stays, and is valid.
    let refused = raw.write(|v| {
        *v.root_mut().0 = 3;
        Err::<(), _>(Why::OnPurpose(1))
    });
    on_purpose(refused, 1);
    assert_eq!(raw.read(|v| *v.root()), Ok(3));
}

/// Visits from inside a versioned space, which suspend it, and one into it from another.
fn nested(space: &Space<Words<'_>>) {
    let outer = Space::<Raw<'_>>::options().lifetime(Lifetime::Persistent);
    let outer = outer.open_or_create("outer", |_| Ok(1)).expect("the space");
    let before = count(space);
    let visited = space.write(|v| {
        insert(v, 5000, &text(5000))?;
        let own: Result<(), Error> = v.write(space, |_| Ok(()));
        assert!(matches!(own, Err(Error::WouldDeadlock { .. })), "{own:?}");
        assert_eq!(v.read(space, |w| w.root().len()), Ok(before), "what is committed");
        v.write(&outer, |w| {
            *w.root_mut().0 += 1;
            Ok::<_, Error>(())
        })?;
        let inner = v.read(&outer, |w| {
            assert!(matches!(
                w.write(space, |_| Ok::<_, Error>(())),
                Err(Error::WouldDeadlock { .. })
            ));
            (*w.root(), w.read(space, |x| x.root().len()))
        });
        assert_eq!(inner, Ok((2, Ok(before))));
        insert(v, 5001, &text(5001))?;
        assert_eq!(v.root().len(), before + 2);
        Err::<(), _>(Why::OnPurpose(3))
    });
    on_purpose(visited, 3);
    assert_eq!(count(space), before, "nothing was committed on the way");
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        space.write(|v| {
            insert(v, 5002, &text(5002))?;
            v.read(&outer, |_| panic!("on purpose")).map_err(Why::from)
        })
    }));
    assert!(caught.is_err());
    assert_eq!(count(space), before, "nor by a panic two visits deep");
    let read = space.read(|v| {
        v.write(space, |w| insert(w, 5003, &text(5003)))?;
        assert_eq!(v.root().len(), before, "the view stays");
        assert_eq!(v.read(space, |w| w.root().len()), Ok(before + 1));
        v.write(space, |w| insert(w, 5004, &text(5004)))
    });
    let newer = read.expect("a visit");
    assert!(matches!(newer, Err(Error::Newer { .. })), "{newer:?}");
    let before = before + 1;
    let reset = outer.write(|v| {
        *v.root_mut().0 = 1;
        Ok::<_, Error>(())
    });
    reset.expect("a visit");
    let visited = outer.write(|v| {
        *v.root_mut().0 += 1;
        v.write(space, |w| insert(w, 6000, &text(6000)))?;
        let inner = v.write(space, |w| {
            insert(w, 6001, "").map_err(Why::from).and(Err::<(), _>(Why::OnPurpose(4)))
        });
        on_purpose(inner, 4);
        assert_eq!(v.read(space, |w| w.root().len()), Ok(before + 1));
        *v.root_mut().0 += 1;
        Ok::<_, Error>(*v.root())
    });
    assert_eq!((visited, count(space)), (Ok(3), before + 1));
    println!("nested");
}
