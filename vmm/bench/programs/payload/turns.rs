//! What `maps` and `trees` have in common: the keys, the loops that are timed, which are the same
//! code for a map in a VAS and for one at home, and the rounds in which the two alternate.

use std::time::Instant;

use spacejmp::Error;

use crate::random::Random;

const SEED: u64 = 0x6d61;

/// Keys in the order in which they are inserted, and in the order in which they are looked up.
pub(crate) struct Keys {
    pub(crate) inserted: Vec<u64>,
    found: Vec<u64>,
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

    /// The key that every map has.
    pub(crate) fn first() -> u64 {
        Random::new(SEED).next()
    }

    /// Inserts them all, and returns how many nanoseconds that took.
    ///
    /// # Errors
    /// The first that `insert` returns.
    #[inline]
    pub(crate) fn insert_all<E>(
        &self,
        mut insert: impl FnMut(u64, u64) -> Result<(), E>,
    ) -> Result<u64, E> {
        let start = Instant::now();
        for &key in &self.inserted {
            insert(key, key >> 8)?;
        }
        Ok(start.elapsed().as_nanos() as u64)
    }

    /// Looks them up: nanoseconds, and the sum of the values.
    #[inline]
    pub(crate) fn get_all<'map>(&self, get: impl Fn(&u64) -> Option<&'map u64>) -> (u64, u64) {
        let start = Instant::now();
        let found = self.found.iter().filter_map(get);
        let sum = found.fold(0, |sum: u64, value| sum.wrapping_add(*value));
        (start.elapsed().as_nanos() as u64, sum)
    }
}

/// Nanoseconds, and the sum of the values.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) insert: u64,
    pub(crate) get: u64,
    /// For an ordered map; 0 for others.
    pub(crate) walk: u64,
    pub(crate) sum: u64,
}

impl Times {
    fn best(self, other: Times) -> Times {
        Times {
            insert: self.insert.min(other.insert),
            get: self.get.min(other.get),
            walk: self.walk.min(other.walk),
            sum: other.sum,
        }
    }
}

/// Times of the map in the VAS, and of the one at home.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) ours: Times,
    pub(crate) home: Times,
}

/// The first round, in untouched memory, and the best times of the others. In those, our heap
/// reuses the memory it has, while the process returns large blocks to the system and allocates
/// them again. Without rounds there is only the first.
///
/// # Errors
/// A call's error; when the maps differ in content.
pub(crate) fn take(
    rounds: u64,
    ours: impl Fn() -> Result<Times, Error>,
    home: impl Fn() -> Times,
) -> Result<(Pair, Pair), String> {
    let round = || {
        let pair = Pair { ours: ours().map_err(|err| err.to_string())?, home: home() };
        match pair.ours.sum == pair.home.sum {
            true => Ok(pair),
            false => Err(String::from("the maps do not hold the same")),
        }
    };
    let fresh = round()?;
    let mut best: Option<Pair> = None;
    for _ in 0..rounds {
        let pair = round()?;
        best = Some(best.map_or(pair, |best| Pair {
            ours: best.ours.best(pair.ours),
            home: best.home.best(pair.home),
        }));
    }
    Ok((fresh, best.unwrap_or(fresh)))
}
