//! A set of numbers that uses memory in proportion to its content.

use alloc::boxed::Box;
use alloc::vec::Vec;

const LEAF_WORDS: usize = 64;
const LEAF_BITS: u64 = LEAF_WORDS as u64 * 64;
const LEAVES: usize = 1024;

type Leaf = [u64; LEAF_WORDS];
type Branch = [Option<Box<Leaf>>; LEAVES];

/// A set of numbers below 2^43, the number of 16-byte granules in a heap of the largest
/// size.
#[derive(Default)]
pub(super) struct Bits {
    branches: Vec<Option<Box<Branch>>>,
}

/// Branch, leaf, word, bit.
fn place(number: u64) -> (usize, usize, usize, u64) {
    let leaf = number / LEAF_BITS;
    let within = number % LEAF_BITS;
    let (branch, leaf) = (leaf / LEAVES as u64, leaf % LEAVES as u64);
    (branch as usize, leaf as usize, (within / 64) as usize, 1 << (within % 64))
}

impl Bits {
    /// Adds `number`; returns whether it was new.
    pub(super) fn add(&mut self, number: u64) -> bool {
        let (branch, leaf, word, bit) = place(number);
        if self.branches.len() <= branch {
            self.branches.resize_with(branch + 1, || None);
        }
        let branch =
            self.branches[branch].get_or_insert_with(|| Box::new([const { None }; LEAVES]));
        let leaf = branch[leaf].get_or_insert_with(|| Box::new([0; LEAF_WORDS]));
        let new = leaf[word] & bit == 0;
        leaf[word] |= bit;
        new
    }

    /// Whether `number` is in it.
    pub(super) fn has(&self, number: u64) -> bool {
        let (branch, leaf, word, bit) = place(number);
        let branch = self.branches.get(branch).and_then(Option::as_ref);
        let leaf = branch.and_then(|branch| branch[leaf].as_ref());
        leaf.is_some_and(|leaf| leaf[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_it_once_they_are_added() {
        let mut bits = Bits::default();
        let numbers = [0, 1, 63, 64, LEAF_BITS - 1, LEAF_BITS, LEAF_BITS * LEAVES as u64, 1 << 30];
        for number in numbers {
            assert!(!bits.has(number) && bits.add(number) && bits.has(number), "{number}");
            assert!(!bits.add(number), "{number}");
        }
        assert!(!bits.has(2) && !bits.has((1 << 43) - 1));
    }
}
