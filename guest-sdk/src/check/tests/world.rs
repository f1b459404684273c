//! A space with everything in it that can be stored, and reading all of it.

use std::cmp::Reverse;
use std::num::NonZero;
use std::ops::Range;
use std::time::Duration;

use crate::{
    At, In, Mode, Result, Space, Storable, Timestamp, Total, VArena, VBTreeMap, VBTreeSet,
    VBinaryHeap, VBox, VHashMap, VHashSet, VId, VKey, VLinearMap, VPtr, VRc, VSlice, VString, VVec,
    VVecDeque,
};

crate::brand! { pub(super) World<'v> => Everything<'v> }

type Text<'v> = VString<World<'v>>;

#[derive(Storable)]
#[storable(vas = World<'v>)]
pub(super) struct Everything<'v> {
    pub(super) users: VHashMap<Text<'v>, User<'v>, World<'v>>,
    pub(super) days: VBTreeMap<u32, Text<'v>, World<'v>>,
    pub(super) sales: VBTreeSet<(Text<'v>, u32), World<'v>>,
    pub(super) linear: VLinearMap<VVec<u8, World<'v>>, Option<bool>, World<'v>>,
    pub(super) levels: VHashSet<Reverse<Total<f64>>, World<'v>>,
    pub(super) queue: VVecDeque<Text<'v>, World<'v>>,
    pub(super) heap: VBinaryHeap<Text<'v>, World<'v>>,
    pub(super) people: VArena<Person<'v>, World<'v>>,
    pub(super) list: Option<VBox<Link<'v>, World<'v>>>,
    pub(super) shared: VVec<VRc<Text<'v>, World<'v>>, World<'v>>,
    pub(super) first: Option<VPtr<Town<'v>, World<'v>>>,
    pub(super) towns: VSlice<Town<'v>, World<'v>>,
    pub(super) flags: VBox<[Option<bool>], World<'v>>,
    pub(super) text: VBox<str, World<'v>>,
    pub(super) plain: Plain,
}

#[derive(Storable)]
#[storable(vas = World<'v>)]
pub(super) struct User<'v> {
    pub(super) tags: VVec<Text<'v>, World<'v>>,
    pub(super) shape: Shape,
}

#[derive(Storable)]
#[storable(vas = World<'v>)]
pub(super) struct Person<'v> {
    pub(super) name: Text<'v>,
    pub(super) friend: Option<VId<Person<'v>>>,
}

#[derive(Storable)]
#[storable(vas = World<'v>)]
pub(super) struct Link<'v> {
    pub(super) value: u64,
    pub(super) next: Option<VBox<Link<'v>, World<'v>>>,
}

#[derive(Storable)]
#[storable(vas = World<'v>)]
pub(super) struct Town<'v> {
    pub(super) name: Text<'v>,
    pub(super) road: Option<VPtr<Town<'v>, World<'v>>>,
}

#[derive(Storable, Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub(super) enum Shape {
    Point = 3,
    Circle { radius: u32, is_filled: bool },
    Letter(char) = 9,
}

#[derive(Storable, Clone, Copy, Debug, PartialEq)]
pub(super) enum Colour {
    Red,
    Green = 7,
}

#[derive(Storable)]
pub(super) struct Plain {
    pub(super) truth: bool,
    pub(super) letter: char,
    pub(super) length: Duration,
    pub(super) order: std::cmp::Ordering,
    pub(super) shapes: [Shape; 3],
    pub(super) many: [bool; 20],
    pub(super) colour: Colour,
    pub(super) maybe: Option<Colour>,
    pub(super) pair: Option<(bool, u32)>,
    pub(super) range: Range<u8>,
    pub(super) one: NonZero<u32>,
    pub(super) nested: Option<Option<u64>>,
    pub(super) time: Timestamp,
}

/// A space with some of everything.
pub(super) fn world() -> Space<World<'static>> {
    Space::<World<'_>>::in_memory(1 << 24, |at| {
        let mut all = empty(at)?;
        fill(&mut all, at)?;
        Ok(all)
    })
    .and_then(|space| {
        space.write(link)?;
        Ok(space)
    })
    .unwrap()
}

fn plain() -> Plain {
    Plain {
        truth: true,
        letter: 'z',
        length: Duration::new(3, 999),
        order: std::cmp::Ordering::Less,
        shapes: [Shape::Point, Shape::Circle { radius: 7, is_filled: true }, Shape::Letter('a')],
        many: [true; 20],
        colour: Colour::Green,
        maybe: None,
        pair: Some((true, 5)),
        range: 1..4,
        one: NonZero::<u32>::MIN,
        nested: Some(None),
        time: Timestamp::now(),
    }
}

type Made<T> = std::result::Result<T, crate::AllocError>;

pub(super) fn empty<'v>(at: &At<World<'v>, crate::Write>) -> Made<Everything<'v>> {
    Ok(Everything {
        users: VHashMap::new(),
        days: VBTreeMap::new(),
        sales: VBTreeSet::new(),
        linear: VLinearMap::new(),
        levels: VHashSet::new(),
        queue: VVecDeque::new(),
        heap: VBinaryHeap::new(),
        people: VArena::new(),
        list: None,
        shared: VVec::new(),
        first: None,
        towns: VSlice::empty(),
        flags: VBox::from_slice(at, &[Some(true), None])?,
        text: VBox::from_text(at, "a text")?,
        plain: plain(),
    })
}

fn fill<'v>(all: &mut Everything<'v>, at: &At<World<'v>, crate::Write>) -> Made<()> {
    let text = |text: &str| VString::new(at, text);
    for (name, shape) in [("ann", Shape::Point), ("bob", Shape::Letter('x'))] {
        let tags = VVec::try_collect(at, ["new", "north", "old", "tall"].map(text))?;
        all.users.at_mut(at).insert(text(name)?, User { tags, shape })?;
    }
    for day in 0..100 {
        all.days.at_mut(at).insert(day, text(&format!("day {day}"))?)?;
        all.sales.at_mut(at).insert((text(["tea", "rice"][day as usize % 2])?, day))?;
        let flag = [None, Some(true), Some(false)][day as usize % 3];
        let name = VVec::from_slice(at, format!("key {day}").as_bytes())?;
        all.linear.at_mut(at).insert(name, flag)?;
        all.levels.at_mut(at).insert(Reverse(Total(f64::from(day) / 3.0)))?;
    }
    for number in 0..12 {
        all.queue.at_mut(at).push_back(text(&format!("job {number}"))?)?;
        if number % 3 == 0 {
            all.queue.at_mut(at).pop_front();
        }
        all.heap.at_mut(at).push(text(&format!("{}", number * 7 % 12))?)?;
    }
    let mut people = all.people.at_mut(at);
    let ada = people.insert(Person { name: text("Ada")?, friend: None })?;
    let mary = people.insert(Person { name: text("Mary")?, friend: Some(ada) })?;
    let gone = people.insert(Person { name: text("Gone")?, friend: Some(mary) })?;
    people.insert(Person { name: text("Emmy")?, friend: None })?;
    people.remove(gone);
    for value in 0..5 {
        let next = all.list.take();
        all.list = Some(VBox::new(at, Link { value, next })?);
    }
    let sale = VRc::new(at, text("sale")?)?;
    let other = VRc::new(at, text("other")?)?;
    for owner in [sale.another(at), other, sale] {
        all.shared.at_mut(at).push(owner)?;
    }
    Ok(())
}

/// Towns, which point to each other.
fn link<'v>(v: &mut In<World<'v>, crate::Write>) -> Result<()> {
    let names = ["Ulm", "Bonn", "Kiel"];
    let town = |name: &str| Ok(Town { name: VString::new(v, name)?, road: None });
    let towns = VVec::try_collect(v, names.map(town))?.share();
    let capital = Town { name: VString::new(v, "Berlin")?, road: Some(towns.ptr(1)) };
    let capital = VPtr::new(v, capital)?;
    towns.get_mut(v)[1].road = Some(capital);
    towns.get_mut(v)[2].road = Some(towns.ptr(0));
    let root = v.root_mut().0;
    (root.first, root.towns) = (Some(capital), towns);
    Ok(())
}

/// Reads all that there is, by all the ways that there are; a number that depends on all of it.
pub(super) fn read_all<'v, M: Mode>(v: &In<World<'v>, M>) -> u64 {
    let all = v.root();
    let mut sum = 0_u64;
    let mut add = |number: u64| sum = sum.rotate_left(5) ^ number;
    let text = |text: &str| text.chars().map(u64::from).fold(0, u64::wrapping_add);
    let shape = |shape: &Shape| match *shape {
        Shape::Point => 1,
        Shape::Circle { radius, is_filled } => u64::from(radius) + u64::from(is_filled),
        Shape::Letter(letter) => u64::from(letter),
    };
    for (name, user) in all.users.at(v) {
        add(text(name) + shape(&user.shape));
        assert!(all.users.at(v).contains_key(name));
        user.tags.at(v).iter().for_each(|tag| add(text(tag.at(v))));
    }
    for (day, name) in all.days.at(v).iter() {
        add(u64::from(*day) + text(name.at(v)));
        assert!(all.days.at(v).get(day).is_some());
    }
    for sale in all.sales.at(v).iter() {
        let (what, day) = sale.parts();
        add(text(what) + u64::from(*day));
        assert!(all.sales.at(v).contains(sale));
    }
    for (name, flag) in all.linear.at(v).iter() {
        add(name.iter().copied().map(u64::from).sum::<u64>() + flag.map_or(7, u64::from));
        assert!(all.linear.at(v).contains_key(name));
    }
    for level in all.levels.at(v).iter() {
        add(level.0.0.to_bits());
        assert!(all.levels.at(v).contains(level));
    }
    all.queue.at(v).iter().for_each(|job| add(text(job.at(v))));
    for index in 0..all.queue.len() {
        assert!(all.queue.at(v).get(index).is_some());
    }
    all.heap.at(v).iter().for_each(|value| add(text(value.borrowed(v))));
    if let Some(greatest) = all.heap.at(v).peek() {
        assert!(all.heap.at(v).iter().all(|value| value.at(v) <= greatest.at(v)));
    }
    let people = all.people.at(v);
    let met = people.iter().map(|(id, person)| {
        assert!(people.contains(id));
        text(person.name.at(v)) + person.friend.map_or(0, |id| people.get(id).map_or(1, |_| 2))
    });
    let met: Vec<u64> = met.collect();
    assert_eq!(met.len(), people.len());
    met.into_iter().for_each(&mut add);
    let mut link = all.list.as_ref();
    while let Some(found) = link {
        let found = found.get(v);
        add(found.value);
        link = found.next.as_ref();
    }
    for owner in all.shared.at(v) {
        add(text(owner.get(v).at(v)));
        assert!(owner.owners(v) > 0);
    }
    let towns = all
        .towns
        .get(v)
        .iter()
        .map(|town| (town.name.at(v), town.road))
        .chain(all.first.map(|town| (town.get(v).name.at(v), town.get(v).road)));
    for (name, road) in towns {
        add(text(name) + road.map_or(0, |to| text(to.get(v).name.at(v))));
    }
    for flag in all.flags.get(v) {
        add(flag.map_or(2, u64::from));
    }
    add(text(all.text.get(v)));
    let plain = &all.plain;
    add(u64::from(plain.truth) + u64::from(plain.letter));
    add(plain.length.as_nanos() as u64 + (plain.order.reverse() as i64 as u64));
    plain.shapes.iter().for_each(|it| add(shape(it)));
    add(plain.many.iter().map(|it| u64::from(*it)).sum());
    let colour = |colour: Colour| match colour {
        Colour::Red => 1,
        Colour::Green => 2,
    };
    add(colour(plain.colour) + plain.maybe.map_or(0, colour));
    add(plain.pair.map_or(0, |(flag, number)| u64::from(flag) + u64::from(number)));
    add(u64::from(plain.range.start) + u64::from(plain.one.get()));
    add(plain.nested.map_or(1, |inner| inner.unwrap_or(2)));
    add(plain.time.to_system_time().is_some().into());
    sum
}
