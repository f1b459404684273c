//! A space with one of each collection and of values that need a form of their own, for stores that one release has
//! made and every later one is to read (`tests/golden/collections`). `sdk_golden NAME fill`: makes it;
//! what is in it depends on nothing but this file. `show`: prints a line for each collection, found by its keys as well
//! as in its order. `change`: changes all of them. `check`: checks it from inside. Status 0, or 101 with a message.
//!
//! The types here are never changed: what the stored one has is what they say.

use std::cmp::Reverse;
use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use spacejmp::{
    AllocError, At, Error, Mode, Space, Storable, Timestamp, Total, VArena, VBTreeMap, VBTreeSet,
    VBinaryHeap, VBox, VHashMap, VHashSet, VId, VKey, VLinearMap, VRc, VString, VVec, VVecDeque,
    Write, brand,
};

type Text<'v> = VString<Golden<'v>>;

#[derive(Storable, VKey)]
#[storable(vas = Golden<'v>)]
struct Place<'v> {
    country: Text<'v>,
    number: u16,
}

#[derive(Storable)]
#[repr(u8)]
#[storable(vas = Golden<'v>)]
enum Shape<'v> {
    Nothing,
    Circle(f64),
    Named { name: Text<'v>, corners: Option<u8> },
}

#[derive(Storable)]
struct Node {
    value: u32,
    next: Option<VId<Node>>,
}

#[derive(Storable)]
#[storable(vas = Golden<'v>)]
struct Everything<'v> {
    vec: VVec<Text<'v>, Golden<'v>>,
    hash_map: VHashMap<Text<'v>, u64, Golden<'v>>,
    hash_of_numbers: VHashMap<u64, Text<'v>, Golden<'v>>,
    linear_map: VLinearMap<Text<'v>, u32, Golden<'v>>,
    tree: VBTreeMap<u64, Text<'v>, Golden<'v>>,
    tree_of_places: VBTreeMap<Place<'v>, Shape<'v>, Golden<'v>>,
    tree_of_floats: VBTreeMap<Total<f64>, Reverse<i16>, Golden<'v>>,
    hash_set: VHashSet<(u32, Text<'v>), Golden<'v>>,
    tree_set: VBTreeSet<[u8; 4], Golden<'v>>,
    deque: VVecDeque<i128, Golden<'v>>,
    heap: VBinaryHeap<(u8, Reverse<u32>), Golden<'v>>,
    arena: VArena<Node, Golden<'v>>,
    first: Option<VId<Node>>,
    boxes: VBox<[VBox<str, Golden<'v>>], Golden<'v>>,
    shared: [VRc<Text<'v>, Golden<'v>>; 2],
    made: Timestamp,
}

brand! { Golden<'v> => Everything<'v> }

/// Enough for tables that have grown and trees of several levels.
const MANY: u64 = 800;

/// Numbers that lie far apart.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Short ones, and ones that need a block.
fn word(number: u64) -> String {
    format!("{}{number}", "abcdefghij".repeat(number as usize % 5))
}

fn text<'v>(at: &At<Golden<'v>, Write>, number: u64) -> Result<Text<'v>, Error> {
    Ok(VString::new(at, &word(number))?)
}

fn made<'v>(at: &At<Golden<'v>, Write>) -> Result<Everything<'v>, AllocError> {
    let shared = VRc::new(at, VString::new(at, "shared by two")?)?;
    let mut words = VVec::new();
    for word in ["one", "", "three"] {
        words.at_mut(at).push(VBox::from_text(at, word)?)?;
    }
    Ok(Everything {
        vec: VVec::new(),
        hash_map: VHashMap::new(),
        hash_of_numbers: VHashMap::new(),
        linear_map: VLinearMap::new(),
        tree: VBTreeMap::new(),
        tree_of_places: VBTreeMap::new(),
        tree_of_floats: VBTreeMap::new(),
        hash_set: VHashSet::new(),
        tree_set: VBTreeSet::new(),
        deque: VVecDeque::new(),
        heap: VBinaryHeap::new(),
        arena: VArena::new(),
        first: None,
        boxes: words.into_boxed(at)?,
        shared: [shared.another(at), shared],
        made: (UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789)).into(),
    })
}

/// The values of `numbers`, everywhere.
fn add<'v>(
    all: &mut Everything<'v>,
    at: &At<Golden<'v>, Write>,
    numbers: Range<u64>,
) -> Result<(), Error> {
    for n in numbers {
        let small = n as u32;
        all.vec.at_mut(at).push(text(at, n)?)?;
        all.hash_map.at_mut(at).insert(text(at, n)?, n * n)?;
        all.hash_of_numbers.at_mut(at).insert(spread(n), text(at, n)?)?;
        all.linear_map.at_mut(at).insert(text(at, n)?, small)?;
        all.tree.at_mut(at).insert(n * 3, text(at, n)?)?;
        let place = Place { country: text(at, n % 7)?, number: n as u16 };
        let shape = match n % 3 {
            0 => Shape::Nothing,
            1 => Shape::Circle(n as f64 / 8.0),
            _ => Shape::Named { name: text(at, n)?, corners: (n % 2 == 0).then_some(n as u8) },
        };
        all.tree_of_places.at_mut(at).insert(place, shape)?;
        all.tree_of_floats.at_mut(at).insert(Total(1000.0 - n as f64), Reverse(n as i16))?;
        all.hash_set.at_mut(at).insert((small, text(at, n)?))?;
        all.tree_set.at_mut(at).insert((small.wrapping_mul(0x0101_0101)).to_be_bytes())?;
        all.deque.at_mut(at).push_front(i128::from(n) << 64 | i128::from(n))?;
        all.heap.at_mut(at).push(((n % 200) as u8, Reverse(small)))?;
        let next = all.first;
        all.first = Some(all.arena.at_mut(at).insert(Node { value: small, next })?);
    }
    Ok(())
}

/// Takes out every second number of `numbers`, from the end of what has an order.
fn remove<'v>(
    all: &mut Everything<'v>,
    at: &At<Golden<'v>, Write>,
    numbers: Range<u64>,
) -> Result<(), Error> {
    for n in numbers.step_by(2) {
        all.vec.at_mut(at).pop().expect("a text");
        all.hash_map.at_mut(at).remove(&word(n)).expect("a number");
        all.hash_of_numbers.at_mut(at).remove(&spread(n)).expect("a text");
        all.linear_map.at_mut(at).remove(&word(n)).expect("a number");
        all.tree.at_mut(at).remove(&(n * 3)).expect("a text");
        all.tree_of_floats.at_mut(at).remove(&Total(1000.0 - n as f64)).expect("a number");
        all.deque.at_mut(at).pop_back().expect("a number");
        all.heap.at_mut(at).pop().expect("a pair");
        let id = all.first.expect("a node");
        all.first = all.arena.at_mut(at).remove(id).expect("it is there").next;
    }
    Ok(())
}

/// What is there: how many, and a sum over what is found in the order of the collection, or by its keys.
fn show<'v, M: Mode>(all: &Everything<'v>, at: &At<Golden<'v>, M>, most: u64) {
    let print = |name: &str, len: usize, found: &mut dyn Iterator<Item = String>| {
        // FNV-1a: the standard library's hashes may change.
        let add = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let sum = found
            .flat_map(|text| text.into_bytes().into_iter().chain([b'\n']))
            .fold(0xcbf2_9ce4_8422_2325, add);
        println!("{name} {len} {sum:016x}");
    };
    let numbers = || 0..most;
    print("vec", all.vec.len(), &mut all.vec.at(at).iter().map(|text| text.at(at).to_owned()));
    let map = all.hash_map.at(at);
    print("hash map", map.len(), &mut numbers().map(|n| format!("{:?}", map.get(&word(n)))));
    let map = all.hash_of_numbers.at(at);
    let texts = |n: u64| map.get(&spread(n)).map_or(String::new(), |text| text.at(at).to_owned());
    print("hash map of numbers", map.len(), &mut numbers().map(texts));
    let map = all.linear_map.at(at);
    print("linear map", map.len(), &mut numbers().map(|n| format!("{:?}", map.get(&word(n)))));
    let tree = all.tree.at(at);
    let line = |(n, text): (&u64, &Text<'v>)| format!("{n} {}", text.at(at));
    print("tree", tree.len(), &mut tree.iter().map(line));
    let found = numbers().filter(|n| tree.contains_key(&(n * 3))).count();
    assert_eq!(found, tree.len(), "by its keys");
    let places = all.tree_of_places.at(at);
    let line = |shape: &Shape<'v>| match shape {
        Shape::Nothing => "nothing".to_owned(),
        Shape::Circle(radius) => format!("circle {radius}"),
        Shape::Named { name, corners } => format!("{} {corners:?}", name.at(at)),
    };
    print("tree of places", places.len(), &mut places.values().map(line));
    let floats = all.tree_of_floats.at(at);
    let line = |(key, value): (&Total<f64>, &Reverse<i16>)| format!("{} {}", key.0, value.0);
    print("tree of floats", floats.len(), &mut floats.iter().map(line));
    let set = all.hash_set.at(at);
    let is_in = |n: u64| set.iter().any(|key| key.parts() == (&(n as u32), word(n).as_str()));
    print("hash set", set.iter().len(), &mut (0..20).map(|n| is_in(n * 83).to_string()));
    let set = all.tree_set.at(at);
    print("tree set", set.iter().len(), &mut set.iter().map(|key| format!("{key:?}")));
    let deque = all.deque.at(at);
    print("deque", deque.len(), &mut deque.iter().map(ToString::to_string));
    let heap = all.heap.at(at);
    let mut sorted: Vec<_> = heap.iter().map(|(a, b)| format!("{a} {}", b.0)).collect();
    let greatest = heap.peek().map(|(a, b)| format!("{a} {}", b.0));
    sorted.sort();
    print("heap", heap.len(), &mut greatest.into_iter().chain(sorted));
    let arena = all.arena.at(at);
    let list = std::iter::successors(all.first, |id| arena.get(*id).and_then(|node| node.next));
    let value = |id| arena.get(id).map_or(String::new(), |node| node.value.to_string());
    print("arena", arena.len(), &mut list.map(value));
    let boxes = all.boxes.get(at);
    print("boxes", boxes.len(), &mut boxes.iter().map(|text| text.get(at).to_owned()));
    let shared = all.shared[0].get(at).at(at).to_owned();
    print("shared", all.shared[1].owners(at), &mut std::iter::once(shared));
    println!(
        "made {:?}",
        all.made.to_system_time().and_then(|t| t.duration_since(UNIX_EPOCH).ok())
    );
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [name, "fill"] => {
            let space = Space::<Golden<'_>>::open_or_create(name, made).expect("a new space");
            let filled = space.write(|v| {
                let (all, at) = v.root_mut();
                add(all, at, 0..MANY)?;
                remove(all, at, 0..MANY / 4)
            });
            filled.expect("a visit");
        }
        [name, "show"] => {
            let space = Space::<Golden<'_>>::open_read_only(name).expect("the space");
            space.read(|v| show(v.root(), v, 2 * MANY)).expect("a visit");
        }
        [name, "change"] => {
            let space = Space::<Golden<'_>>::open(name).expect("the space");
            let changed = space.write(|v| {
                let (all, at) = v.root_mut();
                add(all, at, MANY..2 * MANY)?;
                remove(all, at, MANY / 2..MANY)
            });
            changed.expect("a visit");
        }
        [name, "check"] => {
            let space = Space::<Golden<'_>>::open_read_only(name).expect("the space");
            let report = space.check().expect("a visit");
            println!("{report}");
            assert!(report.is_clean() && report.unknown.is_empty(), "damaged, or not looked into");
        }
        _ => panic!("sdk_golden NAME fill|show|change|check"),
    }
}
