//! Small numbers that are allocated in runs and freed again: rows of the lease, lock pages, places for
//! lists of locks.

use std::collections::BTreeMap;

/// Numbers allocated in runs, the lowest that fit.
#[derive(Debug, Default)]
pub(crate) struct RangeAllocator {
    used: BTreeMap<u32, u32>,
}

impl RangeAllocator {
    /// The first of `count` consecutive numbers below `limit`, if there are that many.
    pub(crate) fn allocate(&mut self, count: u32, limit: u32) -> Option<u32> {
        let mut at = 0;
        for (&start, &len) in &self.used {
            if start - at >= count {
                break;
            }
            at = start + len;
        }
        let end = at.checked_add(count)?;
        (end <= limit).then(|| {
            if count > 0 {
                self.used.insert(at, count);
            }
            at
        })
    }

    /// Frees what was allocated from `start` on.
    pub(crate) fn free(&mut self, start: u32) {
        self.used.remove(&start);
    }
}

#[cfg(test)]
mod tests {
    use super::RangeAllocator;

    #[test]
    fn the_lowest_run_that_fits_is_allocated() {
        let mut ranges = RangeAllocator::default();
        assert_eq!(
            [ranges.allocate(2, 9), ranges.allocate(3, 9), ranges.allocate(4, 9)],
            [Some(0), Some(2), Some(5)]
        );
        assert_eq!(ranges.allocate(1, 9), None);
        ranges.free(2);
        assert_eq!(
            [ranges.allocate(4, 9), ranges.allocate(1, 9), ranges.allocate(2, 9)],
            [None, Some(2), Some(3)]
        );
        assert_eq!(ranges.allocate(u32::MAX, u32::MAX), None);
    }
}
