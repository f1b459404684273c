//! Computing: sorting, hashing, a `HashMap` and a `BTreeMap`, all deterministic. With
//! several threads each does the whole job, so that N threads on N cores take as long as
//! one thread on one core.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use crate::json::Object;
use crate::random::Random;

/// Sizes of the full job; `--quick` divides them by ten.
const SORTED: usize = 10_000_000;
const HASHED: usize = 64 << 20;
const MAPPED: usize = 2_000_000;
const TREE: usize = 10_000_000;

/// What one thread found and how long each part took.
struct Part {
    checksum: u64,
    sort_ns: u64,
    hash_ns: u64,
    map_ns: u64,
    tree_ns: u64,
}

/// Runs the job in `threads` threads, `1 / scale` of the full size, and reports the time
/// from when all were ready until the last has finished.
pub(crate) fn run(threads: usize, scale: usize) -> Object {
    let ready = Barrier::new(threads);
    let one = || {
        let (numbers, bytes) = set_up(SORTED / scale, HASHED / scale);
        ready.wait();
        work(numbers, &bytes, MAPPED / scale, TREE / scale)
    };
    let (parts, elapsed) = std::thread::scope(|scope| {
        // The calling thread is one of them, as in any program that splits its work.
        let others: Vec<_> =
            (1..threads).map(|_| scope.spawn(|| (one(), Instant::now()))).collect();
        let (numbers, bytes) = set_up(SORTED / scale, HASHED / scale);
        ready.wait();
        let start = Instant::now();
        let mut parts = vec![work(numbers, &bytes, MAPPED / scale, TREE / scale)];
        let mut end = Instant::now();
        for other in others {
            let (part, ended) = other.join().expect("no part panics");
            parts.push(part);
            end = end.max(ended);
        }
        (parts, end.saturating_duration_since(start))
    });
    let slowest = |time: fn(&Part) -> u64| parts.iter().map(time).max().unwrap_or(0);
    let agree = parts.windows(2).all(|pair| pair[0].checksum == pair[1].checksum);
    Object::new("compute")
        .number("threads", threads as u64)
        .number("scale", scale as u64)
        .pattern("checksum", parts[0].checksum)
        .truth("threads_agree", agree)
        .number("sort_ns", slowest(|part| part.sort_ns))
        .number("hash_ns", slowest(|part| part.hash_ns))
        .number("map_ns", slowest(|part| part.map_ns))
        .number("tree_ns", slowest(|part| part.tree_ns))
        .number("ns", elapsed.as_nanos())
}

/// The input, every page of it touched before the clock starts.
fn set_up(sorted: usize, hashed: usize) -> (Vec<u64>, Vec<u8>) {
    let numbers = (0..sorted as u64).map(mix).collect();
    let bytes = (0..hashed as u64).map(|index| (mix(index) >> 56) as u8).collect();
    (numbers, bytes)
}

fn work(numbers: Vec<u64>, bytes: &[u8], mapped: usize, tree: usize) -> Part {
    let (sorted, sort_ns) = timed(|| sort(numbers));
    let (hashed, hash_ns) = timed(|| hash(bytes));
    let (mapped, map_ns) = timed(|| hash_map(mapped));
    let (treed, tree_ns) = timed(|| tree_map(tree));
    let checksum = [sorted, hashed, mapped, treed].into_iter().fold(0, fold);
    Part { checksum, sort_ns, hash_ns, map_ns, tree_ns }
}

fn sort(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers.iter().step_by(1009).copied().fold(0, fold)
}

fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut sip = DefaultHasher::new();
    sip.write(bytes);
    fold(fnv, sip.finish())
}

fn hash_map(entries: usize) -> u64 {
    // Fixed keys for the hasher: the same work in every run.
    let mut map: HashMap<u64, u64, BuildHasherDefault<DefaultHasher>> = HashMap::default();
    for index in 0..entries as u64 {
        *map.entry(mix(index) % (entries as u64 * 3 / 4)).or_insert(0) += index;
    }
    let mut sum = map.len() as u64;
    for index in 0..entries as u64 {
        sum = sum.wrapping_add(map.get(&index).copied().unwrap_or(1));
    }
    sum
}

fn tree_map(entries: usize) -> u64 {
    let mut tree = BTreeMap::new();
    for index in 0..entries as u64 {
        tree.insert(mix(index), index);
    }
    let walked = tree.iter().fold(0, |sum, (key, value)| fold(sum, key ^ value));
    let mut found = tree.len() as u64;
    for index in (0..entries as u64).step_by(4) {
        found = found.wrapping_add(*tree.get(&mix(index)).expect("every key was inserted"));
    }
    fold(walked, found)
}

fn timed(job: impl FnOnce() -> u64) -> (u64, u64) {
    let start = Instant::now();
    let value = black_box(job());
    (value, start.elapsed().as_nanos() as u64)
}

fn fold(sum: u64, value: u64) -> u64 {
    sum.rotate_left(5) ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A permutation of the 64-bit numbers (one step of SplitMix64): keys that look random and never
/// repeat.
fn mix(index: u64) -> u64 {
    Random::new(index).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_does_not_depend_on_the_run_or_the_number_of_threads() {
        let checksum = |threads| {
            let line = run(threads, 1000).to_string();
            assert!(line.contains("\"threads_agree\":true"), "{line}");
            let at = line.find("checksum").expect("a checksum is printed");
            line[at..at + 30].to_owned()
        };
        assert_eq!(checksum(1), checksum(1));
        assert_eq!(checksum(1), checksum(3));
    }

    #[test]
    fn the_tree_holds_every_key() {
        assert_ne!(tree_map(1000), tree_map(1001));
        assert_eq!(tree_map(1000), tree_map(1000));
    }
}
