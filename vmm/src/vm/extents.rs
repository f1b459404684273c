//! Free ranges of guest-physical space: allocated first-fit, coalesced when freed.
//!
//! Bookkeeping only. The caller that frees a range must know that nothing uses it or holds
//! translations to it any more.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Extents {
    /// Start to length; no two of them touch.
    free: BTreeMap<u64, u64>,
}

impl Extents {
    /// Allocates `len` contiguous bytes at a multiple of `align`, if available.
    pub(super) fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        let fits = |(&start, &free): (&u64, &u64)| {
            let at = start.next_multiple_of(align);
            (at + len <= start + free).then_some((start, free, at))
        };
        let (start, free, at) = self.free.iter().find_map(fits)?;
        self.free.remove(&start);
        for (from, to) in [(start, at), (at + len, start + free)] {
            if from < to {
                self.free.insert(from, to - from);
            }
        }
        Some(at)
    }

    /// Frees an allocated range.
    pub(super) fn give_back(&mut self, mut start: u64, mut len: u64) {
        if let Some(after) = self.free.remove(&(start + len)) {
            len += after;
        }
        if let Some((&before, &before_len)) = self.free.range(..start).next_back()
            && before + before_len == start
        {
            self.free.remove(&before);
            start = before;
            len += before_len;
        }
        if len > 0 {
            self.free.insert(start, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Extents;
    use proptest::prelude::*;

    const UNITS: usize = 64;

    proptest! {
        #[test]
        fn what_is_taken_is_free_before_and_what_comes_back_is_joined(
            steps in prop::collection::vec((1..9_u64, 0..3_u32, any::<prop::sample::Index>(), any::<bool>()), 1..80),
        ) {
            let mut extents = Extents::default();
            extents.give_back(0, UNITS as u64);
            let mut used = [false; UNITS];
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (len, shift, which, gives) in steps {
                if gives && !taken.is_empty() {
                    let (at, len) = taken.swap_remove(which.index(taken.len()));
                    extents.give_back(at, len);
                    used[at as usize..(at + len) as usize].fill(false);
                    continue;
                }
                let align = 1 << shift;
                let free = |at: usize| !used[at..at + len as usize].contains(&true);
                let first = (0..=UNITS - len as usize).step_by(align).find(|&at| free(at));
                let got = extents.take(len, align as u64);
                prop_assert_eq!(got, first.map(|at| at as u64));
                if let Some(at) = got {
                    used[at as usize..(at + len) as usize].fill(true);
                    taken.push((at, len));
                }
            }
            for (at, len) in taken {
                extents.give_back(at, len);
            }
            prop_assert_eq!(extents.free, [(0, UNITS as u64)].into());
        }
    }
}
