//! Where a thread can be: an instance of a VAS, and what the SDK itself guards it with.
//!
//! - `wait`: how long to wait, and how that ended; `plain_lock`: the lock of plain memory
//! - `occupancy`: no two spaces at the same addresses at the same time
//!
//! How a thread gets from one location to another is in `space/switch.rs`.

pub(crate) mod occupancy;
pub(crate) mod plain_lock;
pub(crate) mod wait;

use std::ptr::NonNull;

use abi::{Errno, SegId};

use crate::handle::VasHandle;
use occupancy::Occupancy;
use plain_lock::PlainLock;
use wait::{EntryOutcome, LockMode, Wait};

/// Where a thread is, or can go back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Location {
    /// The instance the thread is in.
    pub(crate) vh: VasHandle,
    /// The lock of plain memory that it holds as well.
    pub(crate) plain: Option<(NonNull<PlainLock>, LockMode)>,
    /// The addresses that it counts as inside of.
    pub(crate) occupancy: Option<NonNull<Occupancy>>,
}

impl Location {
    pub(crate) const HOME: Location =
        Location { vh: VasHandle::HOME, plain: None, occupancy: None };

    /// Whether the instance that the calling thread, which is here, is in has the segment.
    pub(crate) fn has(self, segment: SegId) -> bool {
        // SAFETY: it outlives the stay.
        self.occupancy.is_some_and(|occupancy| unsafe { occupancy.as_ref() }.has(segment))
    }

    /// Acquires what the SDK itself guards a location with.
    pub(crate) fn lock(self, wait: Wait) -> Result<EntryOutcome, Errno> {
        let mut outcome = EntryOutcome::Clean;
        if let Some((lock, access)) = self.plain {
            // SAFETY: it outlives the stay.
            outcome = unsafe { lock.as_ref() }.lock(access, wait)?;
        }
        if let Some(occupancy) = self.occupancy {
            // SAFETY: it outlives the stay.
            unsafe { occupancy.as_ref() }.enter(wait)?;
        }
        Ok(outcome)
    }

    /// Releases it.
    pub(crate) fn unlock(self) {
        if let Some((lock, access)) = self.plain {
            // SAFETY: it outlives the stay.
            unsafe { lock.as_ref() }.unlock(access);
        }
        if let Some(occupancy) = self.occupancy {
            // SAFETY: it outlives the stay.
            unsafe { occupancy.as_ref() }.leave();
        }
    }
}
