//! Store and lease of a process that has attached something; acquiring a segment needs both.

use std::sync::Arc;

use abi::Right;
use spacejmp_versions::Sharing;

use crate::store::{Lease, SegmentFile, Store, StoreError};

/// See the module. Both are there from the first `vas_attach` to the end of the process.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Arc<Store>,
    pub(crate) lease: Lease,
}

impl Opened {
    /// Whether others have a segment attached. If it cannot be told, they may.
    pub(crate) fn sharing(&self, file: &SegmentFile) -> Sharing {
        match self.store.others_attached(file, self.lease.id()) {
            Ok(false) => Sharing::Alone,
            Ok(true) | Err(_) => Sharing::Shared,
        }
    }

    /// Checks that this VM can have a segment with a right: others must be able to find who writes, and whoever makes
    /// versions known writes the change counters, as they are mapped.
    pub(crate) fn check(&self, right: Right) -> Result<(), StoreError> {
        if right == Right::Read {
            return Ok(());
        }
        self.lease.check_named()?;
        self.store.check_counters_writable()
    }
}
