//! Which records were found whole, so that who opens a segment twice reads its content once: to show what
//! there is, and then to work with it.
//!
//! A record's checksum covers those of its pages, the log's salt, and all records before it. What was
//! found whole under it in the same file is not torn: only the end of this process could have torn it, by a
//! power cut. Who remembers belongs to the process, so nothing of it outlives that.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::checksum::Checksum;
use crate::log::scan::Found;

/// More than all logs of a segment have that are worth a checkpoint. Beyond it, all is read again.
const RECORDS_MAX: usize = 1 << 17;

/// Device and inode, place of the content, and the record's checksum.
type Key = ((u64, u64), u64, Checksum);

/// See the module.
#[derive(Debug, Default)]
pub struct Verified {
    records: Option<Mutex<HashSet<Key>>>,
}

impl Verified {
    /// What remembers.
    #[must_use]
    pub fn new() -> Verified {
        Verified { records: Some(Mutex::default()) }
    }

    /// What remembers nothing.
    #[must_use]
    pub fn none() -> Verified {
        Verified { records: None }
    }

    fn records(&self) -> Option<MutexGuard<'_, HashSet<Key>>> {
        let records = self.records.as_ref()?;
        Some(records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets everything, for its memory.
    pub fn clear(&self) {
        if let Some(mut records) = self.records() {
            *records = HashSet::new();
        }
    }

    pub(super) fn has(&self, file: Option<(u64, u64)>, found: &Found) -> bool {
        let known = file.zip(self.records());
        known.is_some_and(|(file, known)| known.contains(&(file, found.content, found.checksum)))
    }

    pub(super) fn add(&self, file: Option<(u64, u64)>, found: &Found) {
        let Some((file, mut records)) = file.zip(self.records()) else { return };
        if records.len() < RECORDS_MAX {
            records.insert((file, found.content, found.checksum));
        }
    }
}
