//! The words of a segment's lock, as the VMM reaches them.
//!
//! The lock page of an attached lockable segment is laid over a page of guest memory, which
//! the guest kernel sees at a fixed address; the VMM uses the same page through its own
//! mapping of that guest memory.

use abi::LeaseId;
use abi::layout::LOCK_PAGES;
use abi::switch::LockRef;
use abi::{GuestPhys, PAGE_SIZE};

use super::VasError;
use crate::store::{SegmentFile, Store};
use crate::vm::Machine;

/// The lock of a segment that the VM has attached.
#[derive(Debug)]
pub(super) struct LockPage {
    index: u32,
    gpa: GuestPhys,
    slot: u32,
}

impl LockPage {
    pub(super) fn map(
        _index: u32,
        _file: &SegmentFile,
        _lease: Option<LeaseId>,
        _store: &Store,
        _machine: &Machine,
    ) -> Result<LockPage, VasError> {
        Err(VasError::Full { what: "locks" })
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn reference(&self, exclusive: bool) -> LockRef {
        LockRef {
            page: LOCK_PAGES.raw() + u64::from(self.index) * PAGE_SIZE,
            slot: self.slot,
            exclusive: u32::from(exclusive),
        }
    }

    pub(super) fn free_slot(self, _machine: &Machine) {
        let _ = self.gpa;
    }
}
