//! Memory of the private region that system calls use while the region's lock is not held.
//!
//! The memory regions behind it stay mapped as long as the machine exists. A pin keeps the
//! *address*: a chunk that the program has freed is not given to other addresses while a call,
//! which may block indefinitely, can still store into it. The list has its own lock, apart from the
//! areas' lock, so that unpinning never waits for an edit of the areas.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use abi::Errno;

use super::region::{PrivateRegion, SLOT};
use crate::access::MemoryAccess;
use crate::vm::memory::HostRange;

/// Pinned runs of slots, and how often each is pinned.
#[derive(Debug, Default)]
pub(super) struct PinList(Mutex<BTreeMap<(u64, u64), usize>>);

impl PinList {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u64, u64), usize>> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn add(&self, (first, end): (u64, u64)) {
        *self.lock().entry((first, end)).or_default() += 1;
    }

    fn remove(&self, run: (u64, u64)) {
        let mut runs = self.lock();
        match runs.get_mut(&run) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                runs.remove(&run);
            }
        }
    }

    /// The current runs of slots. None is added while the caller has the region locked; a listed
    /// one may be removed at any time.
    pub(super) fn runs(&self) -> Vec<Range<u64>> {
        self.lock().keys().map(|&(first, end)| first..end).collect()
    }
}

/// Memory of the private region that may be used until this is dropped.
#[derive(Debug)]
pub(crate) struct PrivatePins<'a> {
    ranges: Vec<HostRange<'a>>,
    list: &'a PinList,
    run: (u64, u64),
}

impl PrivatePins<'_> {
    /// The pieces, in the order of the program's addresses.
    pub(crate) fn ranges(&self) -> &[HostRange<'_>] {
        &self.ranges
    }

    /// Total bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.len() as u64).sum()
    }
}

impl Drop for PrivatePins<'_> {
    fn drop(&mut self) {
        self.list.remove(self.run);
    }
}

impl PrivateRegion {
    /// Pins the part of `len` bytes at `gva` that the program could access.
    ///
    /// # Errors
    /// As [`PrivateRegion::pieces`].
    pub(crate) fn pin(
        &self,
        gva: u64,
        len: u64,
        access: MemoryAccess,
    ) -> Result<PrivatePins<'_>, Errno> {
        let mut inner = self.lock();
        let mut ranges = Vec::new();
        let good = self.pieces_locked(&mut inner, gva, len, access, |range, _| {
            ranges.push(range);
            Ok(())
        })?;
        let run = (gva / SLOT, (gva + good).div_ceil(SLOT));
        // Before the lock is released: nothing of it can be given to other addresses in between.
        self.pins.add(run);
        Ok(PrivatePins { ranges, list: &self.pins, run })
    }
}

#[cfg(test)]
mod tests {
    use super::PinList;

    #[test]
    fn a_run_is_pinned_until_all_who_pinned_it_have_let_go() {
        let list = PinList::default();
        for run in [(1, 3), (1, 3), (2, 9)] {
            list.add(run);
        }
        list.remove((1, 3));
        assert_eq!(list.runs(), [1..3, 2..9]);
        list.remove((1, 3));
        assert_eq!(list.runs().as_slice(), std::slice::from_ref(&(2..9)));
    }
}
