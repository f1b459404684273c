//! `trees`: an ordered map in a VAS against the standard library's at home, alternately.
//!
//! Both get the same pseudo-random keys in the same order; then keys they contain are looked up,
//! and they are traversed from end to end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Instant;

use spacejmp::sys::Lifetime;
use spacejmp::{Error, Space, VBTreeMap, brand};

use crate::json::Object;
use crate::keys::Keys;
use crate::turns::{self, Times};

brand! { pub(crate) Ordered<'v> => VBTreeMap<u64, u64, Ordered<'v>> }

/// Traverses from end to end: nanoseconds, and the sum of the values. Detects keys out of order.
#[inline]
fn walk<'a>(entries: impl Iterator<Item = (&'a u64, &'a u64)>) -> (u64, u64) {
    let start = Instant::now();
    let (mut sum, mut before) = (0_u64, 0);
    for (&key, &value) in entries {
        sum = sum.rotate_left(1).wrapping_add(if key < before { 1 } else { value });
        before = key;
    }
    (start.elapsed().as_nanos() as u64, sum)
}

#[inline(never)]
fn at_home(keys: &Keys) -> Times {
    let mut map = BTreeMap::new();
    let Ok(insert) = keys.insert_all(|key, value| {
        map.insert(key, value);
        Ok::<_, Infallible>(())
    });
    let (get, found) = keys.get_all(|key| map.get(key));
    let (walk, walked) = walk(map.iter());
    Times { insert, get, walk, sum: found.wrapping_add(walked) }
}

#[inline(never)]
fn in_vas(space: &Space<Ordered<'_>>, keys: &Keys) -> Result<Times, Error> {
    space.write(|v| {
        let (root, at) = v.root_mut();
        // Memory of the previous round is freed outside the timed part, as at home.
        *root = VBTreeMap::new();
        let mut map = root.at_mut(at);
        let insert = keys.insert_all(|key, value| map.insert(key, value).map(drop))?;
        let map = map.as_ref();
        let (get, found) = keys.get_all(|key| map.get(key));
        let (walk, walked) = walk(map.iter());
        Ok(Times { insert, get, walk, sum: found.wrapping_add(walked) })
    })
}

/// Inserts, looks up and traverses `count` keys `rounds` times in each map, after a round
/// that does not count; without rounds, that one does.
///
/// # Errors
/// A call's error; when the maps differ in content.
pub(crate) fn run(count: u64, rounds: u64) -> Result<Object, String> {
    let keys = Keys::new(count)?;
    // Without what a commit costs: the maps are compared.
    let options = Space::<Ordered<'_>>::options().lifetime(Lifetime::Persistent);
    let space = options.open_or_create("trees", |_| Ok(VBTreeMap::new()));
    let space = space.map_err(|err| err.to_string())?;
    let (_, best) = turns::take(rounds, || in_vas(&space, &keys), || at_home(&keys))?;
    Ok(Object::new("trees")
        .number("entries", count)
        .number("insert_ours_ns", best.ours.insert)
        .number("get_ours_ns", best.ours.get)
        .number("walk_ours_ns", best.ours.walk)
        .number("insert_home_ns", best.home.insert)
        .number("get_home_ns", best.home.get)
        .number("walk_home_ns", best.home.walk)
        .pattern("sum", best.ours.sum))
}
