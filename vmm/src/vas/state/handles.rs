//! Handles of instances, and the disk space of their entries in the lease.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use abi::objects::MAX_INSTANCES;
use abi::switch::InstanceEntry;

use crate::store::{INSTANCES_OFFSET, Lease};
use crate::vas::VasError;

/// Bytes of the instance table that get disk space at first.
pub(super) const ENTRIES_AHEAD: u64 = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    /// Below the highest ever used.
    free: BTreeSet<u32>,
    highest: u32,
    /// Of the instance table in the lease.
    reserved_bytes: u64,
}

impl Handles {
    /// The lowest free handle.
    pub(crate) fn lowest_free(&self) -> Result<u32, VasError> {
        let limit = MAX_INSTANCES - 1;
        let fresh = self.highest + 1;
        match self.free.first() {
            Some(&free) => Ok(free),
            None if fresh <= limit => Ok(fresh),
            None => Err(VasError::TooManyInstances { limit }),
        }
    }

    /// A certain handle, if it is free.
    pub(crate) fn claim(&mut self, vh: u32) -> Result<u32, VasError> {
        for between in self.highest + 1..vh {
            self.free.insert(between);
            self.highest = between;
        }
        if vh > self.highest || self.free.contains(&vh) {
            return Ok(vh);
        }
        Err(VasError::Invalid { what: "the handle" })
    }

    /// Reserves disk space for a handle's entry: a full disk must not cause a fault in the guest
    /// kernel.
    pub(crate) fn reserve_entry(&mut self, vh: u32, lease: &Lease) -> Result<(), VasError> {
        let needed = (u64::from(vh) + 1) * size_of::<InstanceEntry>() as u64;
        if needed > self.reserved_bytes {
            let more = ENTRIES_AHEAD.max(self.reserved_bytes);
            lease.reserve(INSTANCES_OFFSET + self.reserved_bytes, more)?;
            self.reserved_bytes += more;
        }
        Ok(())
    }

    /// That many bytes of the lease's table have disk space.
    pub(super) fn have_reserved(&mut self, bytes: u64) {
        self.reserved_bytes = bytes;
    }

    pub(crate) fn take(&mut self, vh: u32) {
        self.free.remove(&vh);
        self.highest = self.highest.max(vh);
    }

    pub(crate) fn give_back(&mut self, vh: u32) {
        self.free.insert(vh);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_handle_is_given_out_and_then_no_more() {
        let last = MAX_INSTANCES - 1;
        let mut handles = Handles { highest: last - 1, ..Handles::default() };
        assert_eq!(handles.lowest_free().unwrap(), last);
        handles.take(last);
        let error = handles.lowest_free().unwrap_err();
        assert_eq!(error.errno(), abi::Errno::EMFILE);
        handles.give_back(7);
        assert_eq!(handles.lowest_free().unwrap(), 7);
    }

    #[test]
    fn a_handle_that_is_claimed_leaves_those_below_it_free() {
        let mut handles = Handles::default();
        for vh in [4, 2] {
            assert_eq!(handles.claim(vh).unwrap(), vh);
            handles.take(vh);
            assert!(handles.claim(vh).is_err());
        }
        let mut next = || {
            let vh = handles.lowest_free().unwrap();
            handles.take(vh);
            vh
        };
        assert_eq!([next(), next(), next()], [1, 3, 5]);
    }
}
