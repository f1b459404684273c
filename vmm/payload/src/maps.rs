//! `maps`, `maps-fill`, `maps-open`: a hash map in a VAS beside one at home, taking turns; and
//! finding it again in the next VM, where nothing has to be loaded.
//!
//! The map at home is the same crate's with the same hashes, so that what differs is where the
//! memory is and what stands around the table. Keys look random and are the same in both.

use std::time::Instant;

use foldhash::fast::FixedState;
use spacejmp::{Error, Lifetime, Space, VHashMap, brand};

use crate::json::Object;
use crate::random::Random;

type Home = hashbrown::HashMap<u64, u64, FixedState>;

brand! { Numbers => VHashMap<u64, u64, Numbers> }

const SEED: u64 = 0x6d61;

/// Keys in the order in which they are inserted, and in the order in which they are looked up.
pub(crate) struct Keys {
    pub(crate) inserted: Vec<u64>,
    pub(crate) found: Vec<u64>,
}

impl Keys {
    /// `count` keys, each asked for once on average.
    ///
    /// # Errors
    /// When they cannot be counted in 32 bits.
    pub(crate) fn new(count: u64) -> Result<Keys, String> {
        let count = u32::try_from(count).map_err(|_| "too many keys")?;
        let mut random = Random::new(SEED);
        let inserted: Vec<u64> = (0..count).map(|_| random.next()).collect();
        let found = (0..count).map(|_| inserted[random.below(count) as usize]).collect();
        Ok(Keys { inserted, found })
    }
}

/// The key that every map has.
pub(crate) fn first_key() -> u64 {
    Random::new(SEED).next()
}

/// Best times of inserting and looking up, nanoseconds, and what the values found add up to.
#[derive(Clone, Copy)]
struct Times {
    insert: u64,
    get: u64,
    sum: u64,
}

impl Times {
    const NONE: Times = Times { insert: u64::MAX, get: u64::MAX, sum: 0 };

    fn best(self, other: Times) -> Times {
        Times {
            insert: self.insert.min(other.insert),
            get: self.get.min(other.get),
            sum: other.sum,
        }
    }
}

#[inline(never)]
fn at_home(keys: &Keys) -> Times {
    let start = Instant::now();
    let mut map = Home::with_hasher(FixedState::with_seed(1));
    for &key in &keys.inserted {
        map.insert(key, key >> 8);
    }
    let insert = start.elapsed().as_nanos() as u64;
    let start = Instant::now();
    let found = keys.found.iter().filter_map(|key| map.get(key));
    let sum = found.fold(0, |sum: u64, value| sum.wrapping_add(*value));
    Times { insert, get: start.elapsed().as_nanos() as u64, sum }
}

#[inline(never)]
fn in_vas(space: &Space<Numbers>, keys: &Keys) -> Result<Times, Error> {
    space.enter_mut(|v| {
        let (root, at) = v.root_mut();
        // Memory of the round before is freed outside of what is timed, as at home.
        *root = VHashMap::new();
        let start = Instant::now();
        let mut map = root.at_mut(at);
        for &key in &keys.inserted {
            map.insert(key, key >> 8)?;
        }
        let insert = start.elapsed().as_nanos() as u64;
        let start = Instant::now();
        let map = map.as_ref();
        let found = keys.found.iter().filter_map(|key| map.get(key));
        let sum = found.fold(0, |sum: u64, value| sum.wrapping_add(*value));
        Ok(Times { insert, get: start.elapsed().as_nanos() as u64, sum })
    })?
}

fn space(name: &str, lifetime: Lifetime) -> Result<Space<Numbers>, Error> {
    Space::options().lifetime(lifetime).open_or_create(name, |_| Ok(VHashMap::new()))
}

/// Inserts and looks up `count` keys `rounds` times in each map, after a round that is reported
/// apart, `fresh`: nobody has touched the memory before. Later ours is the heap's that it had,
/// while the process gives large blocks back to the system and takes them anew.
/// The one in the VAS is in a file of the store, or in memory that nobody keeps.
///
/// # Errors
/// What a call says; when the maps do not hold the same.
pub(crate) fn run(count: u64, rounds: u64, is_volatile: bool) -> Result<Object, String> {
    let keys = Keys::new(count)?;
    let lifetime = if is_volatile { Lifetime::Volatile } else { Lifetime::Persistent };
    let space = space("maps", lifetime).map_err(|err| err.to_string())?;
    let (mut ours, mut home) = (Times::NONE, Times::NONE);
    let mut fresh = [0; 2];
    for round in 0..=rounds {
        let (a, b) = (in_vas(&space, &keys).map_err(|err| err.to_string())?, at_home(&keys));
        if a.sum != b.sum {
            return Err("the maps do not hold the same".into());
        }
        if round > 0 {
            (ours, home) = (ours.best(a), home.best(b));
        } else {
            fresh = [a.insert, b.insert];
        }
    }
    Ok(Object::new("maps")
        .number("entries", count)
        .number("fresh_ours_ns", fresh[0])
        .number("fresh_home_ns", fresh[1])
        .number("insert_ours_ns", ours.insert)
        .number("get_ours_ns", ours.get)
        .number("insert_home_ns", home.insert)
        .number("get_home_ns", home.get)
        .pattern("sum", ours.sum))
}

/// Makes the map `name` of `count` keys.
///
/// # Errors
/// What a call says.
pub(crate) fn fill(name: &str, count: u64) -> Result<Object, String> {
    let keys = Keys::new(count)?;
    let times = space(name, Lifetime::Persistent).and_then(|space| in_vas(&space, &keys));
    let times = times.map_err(|err| err.to_string())?;
    Ok(Object::new("maps-fill").number("entries", count).number("insert_ours_ns", times.insert))
}

/// Opens the map `name`, which somebody else has filled, and looks one key up: all that a program
/// has to do before it can work with it.
///
/// # Errors
/// What a call says; when the key is not there.
pub(crate) fn open(name: &str) -> Result<Object, String> {
    let key = first_key();
    let start = Instant::now();
    let space = Space::<Numbers>::open(name).map_err(|err| err.to_string())?;
    let looked = space.enter(|v| {
        let map = v.root().at(v);
        (map.get(&key).copied(), map.len() as u64)
    });
    let taken = start.elapsed().as_nanos() as u64;
    match looked.map_err(|err| err.to_string())? {
        (Some(value), entries) if value == key >> 8 => {
            Ok(Object::new("maps-open").number("entries", entries).number("open_ns", taken))
        }
        other => Err(format!("the first key is not there: {other:?}")),
    }
}
