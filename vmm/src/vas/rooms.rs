//! Small numbers that are handed out and given back: rows of the lease, lock pages, places for
//! lists of locks.

use std::collections::BTreeMap;

/// Numbers handed out in runs: the lowest that fit.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    used: BTreeMap<u32, u32>,
}

impl Rooms {
    /// The first of `count` numbers in a row below `limit`, if there are so many.
    pub(super) fn take(&mut self, count: u32, limit: u32) -> Option<u32> {
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

    /// Gives back what was taken from `start` on.
    pub(super) fn give_back(&mut self, start: u32) {
        self.used.remove(&start);
    }
}

#[cfg(test)]
mod tests {
    use super::Rooms;

    #[test]
    fn the_lowest_run_that_fits_is_handed_out() {
        let mut rooms = Rooms::default();
        assert_eq!(
            [rooms.take(2, 9), rooms.take(3, 9), rooms.take(4, 9)],
            [Some(0), Some(2), Some(5)]
        );
        assert_eq!(rooms.take(1, 9), None);
        rooms.give_back(2);
        assert_eq!(
            [rooms.take(4, 9), rooms.take(1, 9), rooms.take(2, 9)],
            [None, Some(2), Some(3)]
        );
        assert_eq!(rooms.take(u32::MAX, u32::MAX), None);
    }
}
