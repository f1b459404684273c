//! `trees`: an ordered map in a VAS beside the standard library's at home, taking turns.
//!
//! Both get the same keys, which look random, in the same order; then they are asked for keys they
//! have, and walked through from end to end.

use std::collections::BTreeMap;
use std::time::Instant;

use spacejmp::{Error, Space, VBTreeMap, brand};

use crate::json::Object;
use crate::maps::Keys;

brand! { Ordered => VBTreeMap<u64, u64, Ordered> }

/// Best times, nanoseconds, and what the values that were met add up to.
#[derive(Clone, Copy)]
struct Times {
    insert: u64,
    get: u64,
    walk: u64,
    sum: u64,
}

impl Times {
    const NONE: Times = Times { insert: u64::MAX, get: u64::MAX, walk: u64::MAX, sum: 0 };

    fn best(self, other: Times) -> Times {
        Times {
            insert: self.insert.min(other.insert),
            get: self.get.min(other.get),
            walk: self.walk.min(other.walk),
            sum: other.sum,
        }
    }
}

/// A walk notices keys that are not in order.
#[inline]
fn sum_in_order<'a>(entries: impl Iterator<Item = (&'a u64, &'a u64)>) -> u64 {
    let (mut sum, mut before) = (0_u64, 0);
    for (&key, &value) in entries {
        sum = sum.rotate_left(1).wrapping_add(if key < before { 1 } else { value });
        before = key;
    }
    sum
}

#[inline(never)]
fn at_home(keys: &Keys) -> Times {
    let start = Instant::now();
    let mut map = BTreeMap::new();
    for &key in &keys.inserted {
        map.insert(key, key >> 8);
    }
    let insert = start.elapsed().as_nanos() as u64;
    let start = Instant::now();
    let found = keys.found.iter().filter_map(|key| map.get(key));
    let sum = found.fold(0, |sum: u64, value| sum.wrapping_add(*value));
    let get = start.elapsed().as_nanos() as u64;
    let start = Instant::now();
    let sum = sum.wrapping_add(sum_in_order(map.iter()));
    Times { insert, get, walk: start.elapsed().as_nanos() as u64, sum }
}

#[inline(never)]
fn in_vas(space: &Space<Ordered>, keys: &Keys) -> Result<Times, Error> {
    space.enter_mut(|v| {
        let (root, at) = v.root_mut();
        // Memory of the round before is freed outside of what is timed, as at home.
        *root = VBTreeMap::new();
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
        let get = start.elapsed().as_nanos() as u64;
        let start = Instant::now();
        let sum = sum.wrapping_add(sum_in_order(map.iter()));
        Ok(Times { insert, get, walk: start.elapsed().as_nanos() as u64, sum })
    })?
}

/// Inserts, looks up and walks through `count` keys `rounds` times in each map, after a round
/// that does not count; without rounds, that one does.
///
/// # Errors
/// What a call says; when the maps do not hold the same.
pub(crate) fn run(count: u64, rounds: u64) -> Result<Object, String> {
    let keys = Keys::new(count)?;
    let space = Space::options().open_or_create("trees", |_| Ok(VBTreeMap::new()));
    let space = space.map_err(|err| err.to_string())?;
    let (mut ours, mut home) = (Times::NONE, Times::NONE);
    for round in 0..=rounds {
        let (a, b) = (in_vas(&space, &keys).map_err(|err| err.to_string())?, at_home(&keys));
        if a.sum != b.sum {
            return Err("the maps do not hold the same".into());
        }
        if round > 0 || rounds == 0 {
            (ours, home) = (ours.best(a), home.best(b));
        }
    }
    Ok(Object::new("trees")
        .number("entries", count)
        .number("insert_ours_ns", ours.insert)
        .number("get_ours_ns", ours.get)
        .number("walk_ours_ns", ours.walk)
        .number("insert_home_ns", home.insert)
        .number("get_home_ns", home.get)
        .number("walk_home_ns", home.walk)
        .pattern("sum", ours.sum))
}
