//! The workloads, the same for every peer.

use std::time::Instant;

use crate::Result;
use crate::json::Object;
use crate::keys::Keys;
use crate::random::Random;
use crate::samples::Samples;

/// Bytes of a page's content: less than 4096, so that each peer can have it on one page of its own,
/// beside a key and what it keeps of it.
pub(crate) const PAGE_DATA: usize = 4000;
/// How many pages there are to choose from: a small hot part of a database.
pub(crate) const PAGES: u64 = 256;
/// Commits before those that are timed.
const WARM_UP: u64 = 8;

/// A database with a map of numbers and a map of pages.
pub(crate) trait Peer: Sync {
    /// Inserts the keys in their order, in one transaction; returns when it is durable.
    fn load(&self, keys: &Keys) -> Result<()>;
    /// Looks keys up in one transaction: the time, and the sum of the values.
    fn get_all(&self, keys: &Keys) -> Result<(u64, u64)>;
    /// Looks keys up in one transaction: how many there were.
    fn get_some(&self, keys: &mut dyn Iterator<Item = u64>) -> Result<u64>;
    /// Goes through all in the order of the keys: how many, and the sum of the values.
    fn scan(&self) -> Result<(u64, u64)>;
    /// Changes one value; returns when that is durable.
    fn put(&self, key: u64, value: u64) -> Result<()>;
    /// Gives some pages another content; returns when that is durable.
    fn commit(&self, pages: &[u64], content: &[u8]) -> Result<()>;
}

pub(crate) fn load(peer: &impl Peer, entries: u64) -> Result<Object> {
    let keys = Keys::new(entries)?;
    let begin = Instant::now();
    peer.load(&keys)?;
    let ns = begin.elapsed().as_nanos();
    Ok(Object::new("load").number("entries", entries).number("load_ns", ns))
}

pub(crate) fn read(peer: &impl Peer, entries: u64) -> Result<Object> {
    let keys = Keys::new(entries)?;
    // The first round brings files and caches into memory.
    let mut best = (u64::MAX, u128::MAX);
    let (mut get_sum, mut scan_sum) = (0, 0);
    for _ in 0..2 {
        let (ns, sum) = peer.get_all(&keys)?;
        let begin = Instant::now();
        let (found, walked) = peer.scan()?;
        let scan = begin.elapsed().as_nanos();
        if found != entries {
            return Err(format!("{found} keys of {entries} are there").into());
        }
        best = (best.0.min(ns), best.1.min(scan));
        (get_sum, scan_sum) = (sum, walked);
    }
    Ok(Object::new("read")
        .number("entries", entries)
        .number("get_ns", best.0)
        .number("scan_ns", best.1)
        .pattern("get_sum", get_sum)
        .pattern("scan_sum", scan_sum))
}

pub(crate) fn put(peer: &impl Peer, entries: u64, count: u64, seed: u64) -> Result<Object> {
    let keys = Keys::new(entries)?.inserted;
    let (mut random, mut samples) = (Random::new(seed), Samples::default());
    let limit = u32::try_from(keys.len())?;
    for round in 0..count + WARM_UP {
        let key = keys[random.below(limit) as usize];
        let value = other_value(key, round);
        let begin = Instant::now();
        peer.put(key, value)?;
        if round >= WARM_UP {
            samples.push(begin.elapsed().as_nanos() as u64);
        }
    }
    Ok(samples.into(Object::new("put").number("entries", entries), "put"))
}

/// What a key gets in the given round: never what it has. A change to the same value costs SQLite no
/// sync, and ours no commit.
pub(crate) fn other_value(key: u64, round: u64) -> u64 {
    Keys::value(key) ^ (1 << 60) ^ round
}

pub(crate) fn commit(peer: &impl Peer, pages: u64, count: u64, seed: u64) -> Result<Object> {
    if !(1..=PAGES).contains(&pages) {
        return Err(format!("--pages is one of 1 to {PAGES}").into());
    }
    let all: Vec<u64> = (0..PAGES).collect();
    peer.commit(&all, &[0; PAGE_DATA])?;
    let (mut random, mut samples) = (Random::new(seed), Samples::default());
    for round in 0..count + WARM_UP {
        let chosen = random.distinct(PAGES as u32, pages as u32);
        let chosen: Vec<u64> = chosen.into_iter().map(u64::from).collect();
        let content = [round as u8 + 1; PAGE_DATA];
        let begin = Instant::now();
        peer.commit(&chosen, &content)?;
        if round >= WARM_UP {
            samples.push(begin.elapsed().as_nanos() as u64);
        }
    }
    Ok(samples.into(Object::new("commit").number("pages", pages), "commit"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lmdb::Lmdb;
    use crate::redb::Redb;
    use crate::sqlite::Sqlite;

    fn all_of(peer: &impl Peer) -> String {
        load(peer, 500).expect("it loads");
        let first = read(peer, 500).expect("it reads").to_string();
        put(peer, 500, 3, 7).expect("it puts");
        commit(peer, 5, 3, 7).expect("it commits");
        let again = read(peer, 500).expect("it reads").to_string();
        let sums = |text: &str| text[text.find("get_sum").expect("a sum")..].to_owned();
        assert_ne!(sums(&first), sums(&again), "every put is a change");
        crate::reader::run(peer, 500, 30).expect("readers read");
        sums(&first) + &sums(&again)
    }

    #[test]
    fn every_peer_has_the_same_after_the_same_work_and_after_it_was_opened_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let sub = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).expect("a folder");
            path
        };
        let lmdb = all_of(&Lmdb::open(&sub("lmdb")).expect("it opens"));
        let redb = all_of(&Redb::open(&sub("redb")).expect("it opens"));
        let sqlite = all_of(&Sqlite::open(&sub("sqlite")).expect("it opens"));
        assert_eq!((&redb, &sqlite), (&lmdb, &lmdb));
        let again = Sqlite::open(&dir.path().join("sqlite")).expect("it opens again");
        assert!(read(&again, 500).is_ok());
        assert!(read(&again, 499).is_err(), "a key too many is noticed");
    }

    #[test]
    fn a_commit_of_no_page_or_of_more_than_there_are_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let peer = Redb::open(dir.path()).expect("it opens");
        assert!(commit(&peer, 0, 1, 1).is_err() && commit(&peer, PAGES + 1, 1, 1).is_err());
    }
}
