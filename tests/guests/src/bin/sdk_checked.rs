//! A space that is checked from inside (`Space::check`). `sdk_checked fill` makes it, in a segment that is not versioned, so that its file has
//! what is in memory. `check`: prints the report; status 0, or 3 if something is damaged. `flips SEED ROUNDS`: changes bytes at random,
//! of the heap's own data, too, checks, reads everything if the report is clean, and puts them right again; prints how
//! often it was what.

use std::process::ExitCode;

use guests::random::Random;
use spacejmp::{
    At, Error, Mode, Space, Storable, VArena, VBTreeMap, VBox, VHashMap, VId, VLinearMap, VPtr,
    VRc, VString, VVec, VVecDeque, brand,
};

type Text = VString<Checked>;

#[derive(Storable)]
#[storable(vas = Checked)]
struct User {
    tags: VVec<Text, Checked>,
    is_known: Option<bool>,
    kind: Kind,
}

#[derive(Storable)]
#[repr(u8)]
enum Kind {
    Guest,
    Member { since: char },
}

#[derive(Storable)]
#[storable(vas = Checked)]
struct Stop {
    name: Text,
    next: Option<VPtr<Stop, Checked>>,
}

#[derive(Storable)]
#[storable(vas = Checked)]
struct Root {
    users: VHashMap<Text, User, Checked>,
    days: VBTreeMap<u32, Text, Checked>,
    counts: VLinearMap<u64, Option<VBox<u64, Checked>>, Checked>,
    jobs: VVecDeque<Text, Checked>,
    nodes: VArena<Option<VId<u8>>, Checked>,
    shared: [VRc<Text, Checked>; 3],
    line: Option<VPtr<Stop, Checked>>,
}

brand! { Checked => Root }

fn made(at: &At<Checked, spacejmp::Write>) -> Result<Root, spacejmp::AllocError> {
    let shared = VRc::new(at, VString::new(at, "shared by three")?)?;
    let mut root = Root {
        users: VHashMap::new(),
        days: VBTreeMap::new(),
        counts: VLinearMap::new(),
        jobs: VVecDeque::new(),
        nodes: VArena::new(),
        shared: [shared.another(at), shared.another(at), shared],
        line: None,
    };
    for (number, name) in ["ann", "bob", "christine with a long name"].into_iter().enumerate() {
        let tags = ["north", "tag-of-its-own", "x"].map(|tag| VString::new(at, tag));
        let user = User {
            tags: VVec::try_collect(at, tags)?,
            is_known: [None, Some(true), Some(false)][number],
            kind: if number == 1 { Kind::Guest } else { Kind::Member { since: 'm' } },
        };
        root.users.at_mut(at).insert(VString::new(at, name)?, user)?;
    }
    for day in 0..60 {
        root.days.at_mut(at).insert(day * 2, VString::new(at, &format!("day {day}"))?)?;
        let boxed = if day % 2 == 0 { Some(VBox::new(at, day.into())?) } else { None };
        root.counts.at_mut(at).insert(u64::from(day) << 20, boxed)?;
        root.jobs.at_mut(at).push_back(VString::new(at, &format!("job {day}"))?)?;
        root.nodes.at_mut(at).insert(None)?;
    }
    Ok(root)
}

fn fill() -> Result<Space<Checked>, Error> {
    let space = Space::<Checked>::open_or_create("checked", made)?;
    space.write(|v| {
        let last = VPtr::new(v, Stop { name: VString::new(v, "last")?, next: None })?;
        let first = VPtr::new(v, Stop { name: VString::new(v, "first")?, next: Some(last) })?;
        last.get_mut(v).next = Some(first);
        v.root_mut().0.line = Some(first);
        Ok::<_, Error>(())
    })?;
    Ok(space)
}

/// Follows everything that there is, and finds everything by its key.
fn read_all<M: Mode>(v: &spacejmp::In<Checked, M>) -> usize {
    let root = v.root();
    let mut sum = 0;
    for (name, user) in root.users.at(v) {
        assert!(root.users.at(v).contains_key(name));
        sum += name.chars().count() + usize::from(user.is_known == Some(true));
        sum += user.tags.at(v).iter().map(|tag| tag.at(v).chars().count()).sum::<usize>();
        if let Kind::Member { since } = user.kind {
            sum += since as usize;
        }
    }
    for (day, text) in root.days.at(v).iter() {
        assert!(root.days.at(v).contains_key(day));
        sum += text.at(v).chars().count();
    }
    for (key, boxed) in root.counts.at(v).iter() {
        assert!(root.counts.at(v).contains_key(key));
        sum ^= boxed.as_ref().map_or(1, |boxed| *boxed.get(v) as usize);
    }
    sum += root.jobs.at(v).iter().map(|job| job.at(v).chars().count()).sum::<usize>();
    sum += root.nodes.at(v).iter().map(|(_, node)| usize::from(node.is_some())).sum::<usize>();
    sum += root.shared.iter().map(|text| text.get(v).at(v).chars().count()).sum::<usize>();
    if let Some(stop) = root.line {
        let next = stop.get(v).next.map_or(0, |next| next.get(v).name.at(v).chars().count());
        sum += stop.get(v).name.at(v).chars().count() + next;
    }
    sum
}

/// Reads or writes a byte of the segment, which begins at a multiple of 2 MiB.
fn byte(base: usize, offset: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(base + offset)
}

fn flips(space: &Space<Checked>, seed: u64, rounds: u32) -> Result<(), Error> {
    let base = space.read(|v| std::ptr::from_ref(v.root()).addr() & !((2 << 20) - 1))?;
    // SAFETY: the header of the heap, of which this is the size; the thread is inside.
    let end = space.read(|_| unsafe { byte(base, 24).cast::<u64>().read_volatile() })? as usize;
    // Bytes that are something, and a few of those that are nothing. The heap's front has what says whether a
    // visit is possible, beyond 448.
    let places = space.read(|_| {
        let is_something = |offset: &usize| {
            // SAFETY: within the heap.
            let found = unsafe { byte(base, *offset).read_volatile() };
            (found != 0 || offset.is_multiple_of(509)) && !(448..472).contains(offset)
        };
        (0..end).filter(is_something).collect::<Vec<_>>()
    })?;
    let mut random = Random::new(seed);
    let mut below = |limit: usize| random.below(limit as u64) as usize;
    let (mut clean, mut damaged, mut of_heap) = (0, 0, 0);
    for _ in 0..rounds {
        let mut changes = Vec::new();
        for _ in 0..1 + below(3) {
            let place = places[below(places.len())];
            changes.push((place, [1_u8 << below(8), below(256) as u8][below(2)]));
        }
        let flip = |changes: &[(usize, u8)]| {
            space.write(|_| {
                for &(place, bits) in changes {
                    let place = byte(base, place);
                    // SAFETY: a byte of the heap; the thread is inside, alone.
                    let before = unsafe { place.read_volatile() };
                    // SAFETY: the same. Twice the same change is none.
                    unsafe { place.write_volatile(before ^ bits) };
                }
                Ok::<_, Error>(())
            })
        };
        flip(&changes)?;
        let report = space.check()?;
        if report.is_clean() {
            clean += 1;
            space.read(|v| std::hint::black_box(read_all(v)))?;
        } else {
            damaged += 1;
            of_heap += u32::from(report.findings.iter().any(|finding| finding.path == "heap"));
        }
        flip(&changes)?;
    }
    let report = space.check()?;
    assert!(report.is_clean(), "it is as it was: {report}");
    println!("clean {clean}, damaged {damaged}, of the heap {of_heap}");
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["fill"] => fill().and_then(|space| space.check()),
        ["check"] => Space::<Checked>::open_read_only("checked").and_then(|space| space.check()),
        ["flips", seed, rounds] => {
            let [seed, rounds] = [seed, rounds].map(|it| it.parse::<u32>().expect("a number"));
            Space::<Checked>::open("checked").and_then(|space| {
                flips(&space, seed.into(), rounds)?;
                space.check()
            })
        }
        _ => panic!("sdk_checked fill|check|flips SEED ROUNDS"),
    };
    match done {
        Ok(report) => {
            println!("{report}");
            ExitCode::from(if report.is_clean() { 0 } else { 3 })
        }
        Err(error) => {
            eprintln!("sdk_checked: {error}");
            ExitCode::FAILURE
        }
    }
}
