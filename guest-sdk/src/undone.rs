//! Versioned segments of which this process has thrown changes away.
//!
//! A visit to write that does not end well (its closure panics, or the program says that what is
//! there is inconsistent) is not committed. Owners and pointers that were made in it, and that the
//! program keeps outside, would point to what never was. So the process does not enter such a segment
//! again, except by [`recover`](crate::Space::recover), which is `unsafe`. Other processes never saw
//! any of it, and go on.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use abi::SegId;

static UNDONE: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

fn undone() -> MutexGuard<'static, BTreeSet<u64>> {
    UNDONE.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Notes that changes to a segment will be thrown away.
pub(crate) fn note(sid: SegId) {
    undone().insert(sid.raw());
}

/// Whether that has happened.
pub(crate) fn is_noted(sid: SegId) -> bool {
    undone().contains(&sid.raw())
}

/// The program promises that it keeps nothing of them.
pub(crate) fn forget(sid: SegId) {
    undone().remove(&sid.raw());
}
