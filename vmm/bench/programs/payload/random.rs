//! Pseudo-random numbers, the same in every run, so that two programs draw the same.

/// A stream of 64-bit numbers, SplitMix64 (Steele, Lea, Flood 2014): every bit may be used.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream that belongs to `seed`.
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`: the upper half of a product, within 2^-32 of even.
    #[inline]
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        ((u64::from(self.next() as u32) * u64::from(limit)) >> 32) as u32
    }

    /// `count` different numbers below `limit`, all of them if there are not so many.
    pub(crate) fn distinct(&mut self, limit: u32, count: u32) -> Vec<u32> {
        let mut all: Vec<u32> = (0..limit).collect();
        for index in 0..count.min(limit) {
            all.swap(index as usize, (index + self.below(limit - index)) as usize);
        }
        all.truncate(count as usize);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        // First outputs for seed 1234567, as in the reference implementation's documentation.
        let mut random = Random::new(1_234_567);
        let drawn = [random.next(), random.next(), random.next()];
        assert_eq!(
            drawn,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn distinct_numbers_are_all_different_and_other_ones_each_time() {
        let mut random = Random::new(9);
        let (first, second) = (random.distinct(256, 64), random.distinct(256, 64));
        let sorted: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!((sorted.len(), first.len()), (64, 64));
        assert!(first != second && first.iter().all(|&number| number < 256));
        assert_eq!(random.distinct(3, 9).len(), 3);
    }

    #[test]
    fn every_number_below_a_limit_comes_about_as_often() {
        let mut random = Random::new(7);
        let mut seen = [0_u32; 5];
        for _ in 0..50_000 {
            seen[random.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (9_500..10_500).contains(&count)), "{seen:?}");
    }
}
