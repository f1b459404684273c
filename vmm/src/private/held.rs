//! Which pages of a block may hold host memory, kept by the VMM alone.
//!
//! A page is *held* from the moment the program or a system call may have accessed it until its
//! content is dropped, whatever access the program has to it: `mprotect(PROT_NONE)` releases
//! nothing. Page tables cannot tell, because they record what is accessible, and also lie in guest
//! memory.
#![forbid(unsafe_code)]

use std::ops::Range;

/// Pages of a block.
pub(super) const BLOCK_PAGES: usize = 512;

/// Maximum number of areas of a program: Linux's default (`vm.max_map_count`).
pub(super) const MAX_AREAS: usize = 65_530;

/// VMM memory charged for an area: the record, and its share of the map.
pub(super) const AREA_RECORD_BYTES: u64 = 160;

/// One bit for each page of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldPages([u64; BLOCK_PAGES / 64]);

impl HeldPages {
    /// Each word's index, with the mask of its bits that `pages` covers.
    fn masks(pages: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
        let pages = pages.start.min(BLOCK_PAGES)..pages.end.min(BLOCK_PAGES);
        (pages.start / 64..pages.end.div_ceil(64)).map(move |word| {
            let from = pages.start.saturating_sub(word * 64).min(64) as u32;
            let to = (pages.end - word * 64).min(64) as u32;
            let below = |bits: u32| if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
            (word, below(to) & !below(from))
        })
    }

    /// The number of `pages` that are held.
    pub(super) fn count(&self, pages: Range<usize>) -> u64 {
        Self::masks(pages).map(|(word, mask)| u64::from((self.0[word] & mask).count_ones())).sum()
    }

    /// Whether all of `pages` are held.
    pub(super) fn has_all(&self, pages: Range<usize>) -> bool {
        Self::masks(pages).all(|(word, mask)| self.0[word] & mask == mask)
    }

    /// Whether none is.
    pub(super) fn is_empty(&self) -> bool {
        self.0 == [0; BLOCK_PAGES / 64]
    }

    /// Marks `pages` as held.
    pub(super) fn set(&mut self, pages: Range<usize>) {
        for (word, mask) in Self::masks(pages) {
            self.0[word] |= mask;
        }
    }

    /// Marks `pages` as no longer held; returns how many were.
    pub(super) fn clear(&mut self, pages: Range<usize>) -> u64 {
        let count = self.count(pages.clone());
        for (word, mask) in Self::masks(pages) {
            self.0[word] &= !mask;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_PAGES, HeldPages};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_of_pages_behave_like_a_list_of_flags(
            edits in prop::collection::vec((0..=BLOCK_PAGES, 0..=BLOCK_PAGES, any::<bool>()), 1..20),
            looked_at in (0..=BLOCK_PAGES, 0..=BLOCK_PAGES),
        ) {
            let mut held = HeldPages::default();
            let mut model = [false; BLOCK_PAGES];
            for (a, b, set) in edits {
                let range = a.min(b)..a.max(b);
                let were = model[range.clone()].iter().filter(|&&flag| flag).count() as u64;
                if set {
                    held.set(range.clone());
                } else {
                    prop_assert_eq!(held.clear(range.clone()), were);
                }
                model[range].fill(set);
            }
            let (a, b) = looked_at;
            let range = a.min(b)..a.max(b);
            let flags = &model[range.clone()];
            prop_assert_eq!(held.count(range.clone()), flags.iter().filter(|&&f| f).count() as u64);
            prop_assert_eq!(held.is_empty(), !model.contains(&true));
            prop_assert_eq!(held.has_all(range), flags.iter().all(|&f| f));
        }
    }
}
