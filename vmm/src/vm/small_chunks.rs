//! Where the host maps a file by pages of 4 KiB, although it could by 2 MiB.
//!
//! A host maps what its page cache has in one piece by one entry of 2 MiB, and has no way to drop 4 KiB
//! of such an entry: the file's memory is mapped again at the next access, so `MADV_DONTNEED` of a page drops all 2 MiB, and
//! tells KVM so. Under shadow tables, which have a translation for each page, 512 then fault again, 1 to 2 us each,
//! at every page that a version changes: a reader beside a hundred commits a second lost a quarter of its time to them. With
//! second-level tables it is a single fault, so there the large entry is worth more, and this is not used.
//!
//! Each range with an advice of its own is a mapping of its own to the host, of which a process may have 65,530. So a
//! window in which more than a few chunks are small is small as a whole.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::iter;
use std::ops::Range;

use abi::PAGE_SIZE_2M;

/// A window of fewer chunks than these is small as a whole only when so many of them are.
const ALWAYS_ALLOWED: u64 = 4;
/// Of more chunks, one in so many may be small by itself.
const ALLOWED_OF: u64 = 16;

/// Those chunks of 2 MiB of a window.
#[derive(Debug, Default)]
pub(super) struct SmallChunks {
    chunks: BTreeSet<u64>,
    all: bool,
}

impl SmallChunks {
    /// The chunks that a range of a window of `window_bytes` touches are small; what the host is to be told, in bytes
    /// of the window.
    pub(super) fn add(&mut self, range: Range<u64>, window_bytes: u64) -> Vec<Range<u64>> {
        let end = range.end.min(window_bytes);
        if self.all || range.start >= end {
            return Vec::new();
        }
        let touched = range.start / PAGE_SIZE_2M..end.div_ceil(PAGE_SIZE_2M);
        let new: Vec<u64> = touched.filter(|chunk| self.chunks.insert(*chunk)).collect();
        let allowed = (window_bytes / PAGE_SIZE_2M / ALLOWED_OF).max(ALWAYS_ALLOWED);
        if self.chunks.len() as u64 > allowed {
            (self.all, self.chunks) = (true, BTreeSet::new());
            return iter::once(0..window_bytes).collect();
        }
        let bytes = |chunk: u64| {
            let start = chunk * PAGE_SIZE_2M;
            start..(start + PAGE_SIZE_2M).min(window_bytes)
        };
        new.into_iter().map(bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use abi::{PAGE_SIZE, PAGE_SIZE_1G};

    use super::*;

    #[test]
    fn a_chunk_is_told_of_once() {
        let mut small = SmallChunks::default();
        let window = 8 * PAGE_SIZE_2M + PAGE_SIZE;
        let first = small.add(PAGE_SIZE..2 * PAGE_SIZE, window);
        assert!(first.iter().eq([&(0..PAGE_SIZE_2M)]));
        assert!(small.add(0..PAGE_SIZE_2M, window).is_empty());
        let start = 8 * PAGE_SIZE_2M;
        let last = small.add(start..u64::MAX, window);
        assert!(last.iter().eq([&(start..window)]), "as far as the window goes");
        assert!(small.add(window..window + 1, window).is_empty());
    }

    #[test]
    fn a_range_over_two_chunks_makes_both_small() {
        let range = PAGE_SIZE_2M - PAGE_SIZE..PAGE_SIZE_2M + PAGE_SIZE;
        let told = SmallChunks::default().add(range, PAGE_SIZE_1G);
        assert_eq!(told, [0..PAGE_SIZE_2M, PAGE_SIZE_2M..2 * PAGE_SIZE_2M]);
    }

    #[test]
    fn a_window_with_many_is_small_as_a_whole() {
        for (window, allowed) in [(64 << 20, 4), (PAGE_SIZE_1G, 32), (PAGE_SIZE, 1)] {
            let mut small = SmallChunks::default();
            let chunks = (0..window).step_by(PAGE_SIZE_2M as usize);
            let told = chunks.flat_map(|start| small.add(start..start + PAGE_SIZE, window));
            let told: Vec<_> = told.collect();
            assert_eq!(told.len() as u64, (allowed + 1).min(window.div_ceil(PAGE_SIZE_2M)));
            assert_eq!(told.last(), Some(&(0..window)), "{window}");
            assert!(small.add(0..window, window).is_empty());
        }
    }
}
