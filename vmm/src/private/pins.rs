//! Memory of the private region that system calls use while the region's lock is not held.
//!
//! The memory regions behind it stay mapped as long as the machine. What a pin keeps is the *GPA*: that
//! of a block that the program has freed is not given to other addresses while a call, which may block
//! for ever, can still store into it. A list beside the lock of the areas, so that letting go
//! never waits for an edit.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use abi::Errno;

use super::region::{BLOCK, PrivateRegion};
use crate::access::MemoryAccess;
use crate::vm::memory::HostRange;

/// Runs of blocks that are pinned, and how often each.
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

    /// The runs of blocks now. None is added while the caller has the region locked; one that is
    /// listed may go at any time.
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
        let run = (gva / BLOCK, (gva + good).div_ceil(BLOCK));
        // Before the lock is let go: nothing of it can be given to other addresses in between.
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
