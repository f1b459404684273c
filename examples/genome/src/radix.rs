//! Sorting places of reads: a number for each, in which little is different.

/// Digits have so many bits at most: for each value of one there is a place where the next key goes, and these
/// have to stay in the processor's nearest memory.
const DIGIT_BITS: u32 = 10;

/// The ranks of the keys in rising order; those of equal keys stay as they are.
#[must_use]
pub fn ranks(mut keys: Vec<u64>) -> Vec<u32> {
    // Keys have a number above and one below, and neither uses many of its bits, but for the largest above.
    let none = u64::from(u32::MAX >> 1);
    let (mut above, mut below) = (0, 0);
    for key in &keys {
        let high = key >> 33;
        above = above.max(if high == none { 0 } else { high + 1 });
        below |= key & ((1 << 33) - 1);
    }
    let bits = |number: u64| u64::BITS - number.leading_zeros();
    let (low, rank_bits) = (bits(below), bits(keys.len() as u64));
    let key_bits = bits(above) + low;
    if key_bits + rank_bits > u64::BITS {
        let mut pairs: Vec<(u64, u32)> = keys.into_iter().zip(0..).collect();
        // With the rank in it, the quicker kind of sort keeps what is equal in order.
        pairs.sort_unstable();
        return pairs.into_iter().map(|(_, rank)| rank).collect();
    }
    // With the rank below, a key is all that has to be moved.
    for (rank, key) in (0u64..).zip(&mut keys) {
        let high = if *key >> 33 == none { above } else { *key >> 33 };
        *key = (high << low | *key & ((1 << low) - 1)) << rank_bits | rank;
    }
    let keys = sorted(keys, rank_bits, key_bits);
    // A rank has 32 bits: there are no more reads.
    keys.into_iter().map(|key| (key & ((1 << rank_bits) - 1)) as u32).collect()
}

/// Sorts by some of the bits, from the lowest digit on, so that keys with equal digits keep the order that lower
/// ones gave them.
fn sorted(mut keys: Vec<u64>, from: u32, bits: u32) -> Vec<u64> {
    let digits = bits.div_ceil(DIGIT_BITS).max(1);
    let width = bits.div_ceil(digits);
    let digit =
        |key: u64, number: u32| (key >> (from + number * width)) as usize & ((1 << width) - 1);
    let mut counts = vec![vec![0usize; 1 << width]; digits as usize];
    for key in &keys {
        for (number, counts) in (0..).zip(&mut counts) {
            counts[digit(*key, number)] += 1;
        }
    }
    let mut other = vec![0; keys.len()];
    for (number, mut next) in (0..).zip(counts) {
        if next.contains(&keys.len()) {
            continue;
        }
        let mut sum = 0;
        for place in &mut next {
            (*place, sum) = (sum, sum + *place);
        }
        for key in &keys {
            let place = &mut next[digit(*key, number)];
            other[*place] = *key;
            *place += 1;
        }
        std::mem::swap(&mut keys, &mut other);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_pairs(keys: &[u64]) -> Vec<u32> {
        let mut pairs: Vec<(u64, u32)> = keys.iter().copied().zip(0..).collect();
        pairs.sort_unstable();
        pairs.into_iter().map(|(_, rank)| rank).collect()
    }

    #[test]
    fn ranks_are_those_of_a_sort_that_keeps_what_is_equal_in_order() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for (references, positions, count) in
            [(1, 10, 500), (3, 1000, 3000), (80, 1 << 28, 3000), (1 << 30, 1 << 31, 200)]
        {
            let keys: Vec<u64> = (0..count)
                .map(|_| match random(10) {
                    0 => 0x7fff_ffff << 33,
                    1 => 0x7fff_ffff << 33 | 8,
                    _ => random(references) << 33 | random(positions) << 1 | random(2),
                })
                .collect();
            assert_eq!(ranks(keys.clone()), by_pairs(&keys), "{references} {positions}");
        }
        assert_eq!(ranks(Vec::new()), Vec::<u32>::new());
        assert_eq!(ranks(vec![5]), [0]);
        let wide = vec![1 << 63, (1 << 63) - 1, 0x3fff_ffff_ffff_ffff, 0];
        assert_eq!(ranks(wide.clone()), by_pairs(&wide));
    }
}
