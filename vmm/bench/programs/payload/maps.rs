//! `maps`, `maps-fill`, `maps-open`: a hash map in a VAS against one at home, alternately; and
//! finding it again in the next VM, where nothing has to be loaded.
//!
//! The map at home is the same crate's with the same hashes, so that only the location of the
//! memory and what surrounds the table differ. Keys are pseudo-random and the same in both.

use std::convert::Infallible;
use std::time::Instant;

use foldhash::fast::FixedState;
use spacejmp::{Error, Lifetime, Space, VHashMap, brand};

use crate::json::Object;
use crate::keys::Keys;
use crate::turns::{self, Times};

type Home = hashbrown::HashMap<u64, u64, FixedState>;

brand! { pub(crate) Numbers<'v> => VHashMap<u64, u64, Numbers<'v>> }

#[inline(never)]
fn at_home(keys: &Keys) -> Times {
    let mut map = Home::with_hasher(FixedState::with_seed(1));
    let Ok(insert) = keys.insert_all(|key, value| {
        map.insert(key, value);
        Ok::<_, Infallible>(())
    });
    let (get, sum) = keys.get_all(|key| map.get(key));
    Times { insert, get, walk: 0, sum }
}

#[inline(never)]
fn in_vas(space: &Space<Numbers<'_>>, keys: &Keys) -> Result<Times, Error> {
    space.write(|v| {
        let (root, at) = v.root_mut();
        // Memory of the previous round is freed outside the timed part, as at home.
        *root = VHashMap::new();
        let mut map = root.at_mut(at);
        let insert = keys.insert_all(|key, value| map.insert(key, value).map(drop))?;
        let map = map.as_ref();
        let (get, sum) = keys.get_all(|key| map.get(key));
        Ok(Times { insert, get, walk: 0, sum })
    })
}

fn space(name: &str, lifetime: Lifetime) -> Result<Space<Numbers<'static>>, Error> {
    Space::<Numbers<'_>>::options().lifetime(lifetime).open_or_create(name, |_| Ok(VHashMap::new()))
}

/// Inserts and looks up `count` keys `rounds` times in each map, after a round that is reported
/// separately, as `fresh`. The one in the VAS is in a file of the store, or in volatile memory.
///
/// # Errors
/// A call's error; when the maps differ in content.
pub(crate) fn run(count: u64, rounds: u64, is_volatile: bool) -> Result<Object, String> {
    let keys = Keys::new(count)?;
    let lifetime = if is_volatile { Lifetime::Volatile } else { Lifetime::Persistent };
    let space = space("maps", lifetime).map_err(|err| err.to_string())?;
    let (fresh, best) = turns::take(rounds, || in_vas(&space, &keys), || at_home(&keys))?;
    Ok(Object::new("maps")
        .number("entries", count)
        .number("fresh_ours_ns", fresh.ours.insert)
        .number("fresh_home_ns", fresh.home.insert)
        .number("insert_ours_ns", best.ours.insert)
        .number("get_ours_ns", best.ours.get)
        .number("insert_home_ns", best.home.insert)
        .number("get_home_ns", best.home.get)
        .pattern("sum", best.ours.sum))
}

/// Makes the map `name` of `count` keys.
///
/// # Errors
/// A call's error.
pub(crate) fn fill(name: &str, count: u64) -> Result<Object, String> {
    let keys = Keys::new(count)?;
    let times = space(name, Lifetime::Persistent).and_then(|space| in_vas(&space, &keys));
    let times = times.map_err(|err| err.to_string())?;
    Ok(Object::new("maps-fill").number("entries", count).number("insert_ours_ns", times.insert))
}

/// Opens the map `name`, which another program has filled, and looks one key up: all that a
/// program has to do before it can work with the map.
///
/// # Errors
/// A call's error; when the key is missing.
pub(crate) fn open(name: &str) -> Result<Object, String> {
    let key = Keys::first();
    let start = Instant::now();
    let space = Space::<Numbers<'_>>::open(name).map_err(|err| err.to_string())?;
    let looked = space.read(|v| {
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
