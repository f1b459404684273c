//! The keys of maps: pseudo-random, the same in every run and in every program, those of
//! `bench-peers` among them; and the loops that are timed over them.

use std::borrow::Borrow;
use std::time::Instant;

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

    /// What belongs to a key in every map.
    pub(crate) fn value(key: u64) -> u64 {
        key >> 8
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
            insert(key, Keys::value(key))?;
        }
        Ok(start.elapsed().as_nanos() as u64)
    }

    /// Looks them up: nanoseconds, and the sum of the values.
    #[inline]
    pub(crate) fn get_all<V: Borrow<u64>>(&self, get: impl FnMut(&u64) -> Option<V>) -> (u64, u64) {
        let start = Instant::now();
        let found = self.found.iter().filter_map(get);
        let sum = found.fold(0, |sum: u64, value| sum.wrapping_add(*value.borrow()));
        (start.elapsed().as_nanos() as u64, sum)
    }
}
