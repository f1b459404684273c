//! `store-load`, `store-read`, `store-put`, `store-update`, `store-beside`: maps of numbers in
//! versioned spaces, hashed and ordered. The keys and values are those of the peers, so that the
//! sums must be the same.

use std::time::Instant;

use spacejmp::sys;
use spacejmp::{Durability, Error, Lifetime, Space, VBTreeMap, VHashMap};

use crate::beside::VISIT;
use crate::json::Object;
use crate::keys::Keys;
use crate::maps::Numbers;
use crate::random::Random;
use crate::samples::Samples;
use crate::space::tell;
use crate::trees::Ordered;

/// Puts before those that are timed.
const WARM_UP: u64 = 8;

fn ordered(name: &str, lifetime: Lifetime) -> Result<Space<Ordered<'static>>, Error> {
    let options = Space::<Ordered<'_>>::options().lifetime(lifetime);
    let options = match lifetime {
        Lifetime::Versioned => options.durability(Durability::Each),
        _ => options,
    };
    options.open_or_create(name, |_| Ok(VBTreeMap::new()))
}

/// Each commit is durable when it returns, as the peers' are.
fn hashed(name: &str, room: usize) -> Result<Space<Numbers<'static>>, Error> {
    let options = Space::<Numbers<'_>>::options().lifetime(Lifetime::Versioned);
    let options = options.durability(Durability::Each);
    options.open_or_create(name, |at| VHashMap::with_capacity(at, room))
}

fn say(error: Error) -> String {
    error.to_string()
}

/// How a map is filled.
pub(super) struct Load {
    /// How many keys, in random order.
    pub(super) count: u64,
    /// How many of them in each transaction; all if 0.
    pub(super) batch: u64,
    /// Hashed, with room for all before, or ordered.
    pub(super) is_hashed: bool,
    /// An ordered one by single insertions, not by handing over all keys of a transaction at once.
    pub(super) is_one_by_one: bool,
    /// Versioned, or persistent and synced at the end. Of an ordered map only.
    pub(super) lifetime: Lifetime,
}

/// Fills a map; the time until the last key is durable.
pub(super) fn load(name: &str, how: &Load) -> Result<Object, String> {
    let keys = Keys::new(how.count)?.inserted;
    let batch = if how.batch == 0 { keys.len().max(1) } else { how.batch as usize };
    let transactions = keys.chunks(batch).len() as u64;
    let begin;
    if how.is_hashed {
        let space = hashed(name, keys.len()).map_err(say)?;
        begin = Instant::now();
        in_batches(&keys, batch, |some| {
            space.write(|v| {
                let (map, at) = v.root_mut();
                let mut map = map.at_mut(at);
                some.iter().try_for_each(|&key| map.insert(key, Keys::value(key)).map(drop))?;
                Ok(())
            })
        })?;
    } else {
        let space = ordered(name, how.lifetime).map_err(say)?;
        begin = Instant::now();
        match how.is_one_by_one {
            true => insert_all(&space, &keys, batch, Keys::value)?,
            false => in_batches(&keys, batch, |some| {
                space.write(|v| {
                    let (map, at) = v.root_mut();
                    let entries = some.iter().map(|&key| (key, Keys::value(key)));
                    Ok(map.at_mut(at).extend(entries)?)
                })
            })?,
        }
        sync(name, how.lifetime)?;
    }
    Ok(Object::new("store-load")
        .number("entries", how.count)
        .number("transactions", transactions)
        .number("load_ns", begin.elapsed().as_nanos()))
}

/// A commit of a versioned one is durable already.
fn sync(name: &str, lifetime: Lifetime) -> Result<(), String> {
    if lifetime == Lifetime::Versioned {
        return Ok(());
    }
    let sid = tell("seg_find", sys::seg_find(name))?;
    tell("seg_sync", sys::seg_sync(sid))
}

fn insert_all(
    space: &Space<Ordered<'_>>,
    keys: &[u64],
    batch: usize,
    value: impl Fn(u64) -> u64,
) -> Result<(), String> {
    in_batches(keys, batch, |some| {
        space.write(|v| {
            let (map, at) = v.root_mut();
            let mut map = map.at_mut(at);
            some.iter().try_for_each(|&key| map.insert(key, value(key)).map(drop))?;
            Ok(())
        })
    })
}

/// `rounds` updates of random keys of an ordered map of `count`, `batch` in each transaction, durable
/// at the end.
pub(super) fn update(name: &str, how: &Load, rounds: u64) -> Result<Object, String> {
    let (keys, mut random) = (Keys::new(how.count)?.inserted, Random::new(11));
    let drawn: Vec<u64> = (0..rounds).map(|_| drawn(&keys, &mut random)).collect();
    let space = Space::<Ordered<'_>>::open(name).map_err(say)?;
    let batch = if how.batch == 0 { drawn.len().max(1) } else { how.batch as usize };
    let begin = Instant::now();
    insert_all(&space, &drawn, batch, |key| Keys::value(key) ^ (1 << 61))?;
    sync(name, how.lifetime)?;
    Ok(Object::new("store-update")
        .number("updates", rounds)
        .number("update_ns", begin.elapsed().as_nanos()))
}

fn in_batches(
    keys: &[u64],
    batch: usize,
    insert: impl Fn(&[u64]) -> Result<(), Error>,
) -> Result<(), String> {
    for some in keys.chunks(batch) {
        insert(some).map_err(say)?;
    }
    Ok(())
}

/// Looks all keys up in random order and, in an ordered map, goes through them; the better of two
/// rounds.
pub(super) fn read(name: &str, count: u64, is_hashed: bool) -> Result<Object, String> {
    let keys = Keys::new(count)?;
    let (mut get, mut scan, mut sums) = (u64::MAX, u64::MAX, (0, 0));
    for _ in 0..2 {
        let (found, walked) = if is_hashed {
            let space = Space::<Numbers<'_>>::open_read_only(name).map_err(say)?;
            let look = |v: &mut spacejmp::In<Numbers<'_>, spacejmp::Read>| {
                let map = v.root().at(v);
                (keys.get_all(|key| map.get(key)), (0, 0))
            };
            space.read(look).map_err(say)?
        } else {
            let space = Space::<Ordered<'_>>::open_read_only(name).map_err(say)?;
            let look = |v: &mut spacejmp::In<Ordered<'_>, spacejmp::Read>| {
                let map = v.root().at(v);
                (keys.get_all(|key| map.get(key)), walk(map.iter()))
            };
            space.read(look).map_err(say)?
        };
        (get, scan) = (get.min(found.0), scan.min(walked.0));
        sums = (found.1, walked.1);
    }
    let object = Object::new("store-read").number("entries", count).number("get_ns", get);
    let object = object.pattern("get_sum", sums.0);
    Ok(match is_hashed {
        true => object,
        false => object.number("scan_ns", scan).pattern("scan_sum", sums.1),
    })
}

fn walk<'map>(entries: impl Iterator<Item = (&'map u64, &'map u64)>) -> (u64, u64) {
    let begin = Instant::now();
    let sum = entries.fold(0, |sum: u64, (_, value)| sum.wrapping_add(*value));
    (begin.elapsed().as_nanos() as u64, sum)
}

/// Changes single values of an ordered map, each in a transaction of its own.
pub(super) fn put(name: &str, count: u64, rounds: u64, seed: u64) -> Result<Object, String> {
    let keys = Keys::new(count)?.inserted;
    let space = Space::<Ordered<'_>>::open(name).map_err(say)?;
    let (mut random, mut samples) = (Random::new(seed), Samples::default());
    for round in 0..rounds + WARM_UP {
        let key = drawn(&keys, &mut random);
        let begin = Instant::now();
        put_one(&space, key, round)?;
        if round >= WARM_UP {
            samples.push(begin.elapsed().as_nanos() as u64);
        }
    }
    Ok(samples.into(Object::new("store-put").number("entries", count), "put"))
}

fn drawn(keys: &[u64], random: &mut Random) -> u64 {
    keys[random.below(keys.len() as u32) as usize]
}

/// Never the value that the key has: a visit that changes nothing is no commit.
fn put_one(space: &Space<Ordered<'_>>, key: u64, round: u64) -> Result<(), String> {
    let put = space.write(|v| {
        let (map, at) = v.root_mut();
        map.at_mut(at).insert(key, Keys::value(key) ^ (1 << 60) ^ round)?;
        Ok(())
    });
    put.map_err(say)
}

/// Visits that look keys up, for `millis` milliseconds, alone and while another thread commits.
pub(super) fn beside(name: &str, count: u64, millis: u64) -> Result<Object, String> {
    let keys = Keys::new(count)?.inserted;
    let space = Space::<Ordered<'_>>::open(name).map_err(say)?;
    let visit = |random: &mut Random| {
        let visit = space.read(|v| {
            let (map, begin) = (v.root().at(v), Instant::now());
            let mut found = 0;
            while begin.elapsed() < VISIT {
                let some = (0..64).filter(|_| map.get(&drawn(&keys, random)).is_some());
                found += some.count() as u64;
            }
            found
        });
        visit.map_err(say)
    };
    crate::beside::beside("store-beside", millis, visit, |random, round| {
        put_one(&space, drawn(&keys, random), round)
    })
}
