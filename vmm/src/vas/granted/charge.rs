//! A private store against the run's memory limit.
//!
//! The store of `--no-store` lies in memory. Its content belongs to the program alone, stays when
//! detached, and is freed when deleted; so each object is charged from its creation on, a
//! persistent segment with its full size, since its pages are touched without an exit. The content
//! of volatile ones is charged as in any store, by each VM that has them attached
//! (`residency::segment`).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};

use abi::objects::Lifetime;
use abi::{PAGE_SIZE, SegId, VasId};

use crate::store::CopiedVas;
use crate::vas::VasError;
use crate::vm::{MemoryError, MemoryKind, MemoryLedger};

/// Header and lock page of a segment, or the files of a VAS, with what the host keeps of them.
pub(crate) const OBJECT_BYTES: u64 = 4 * PAGE_SIZE;

/// What the objects of a private store are charged with; nothing in another store.
#[derive(Debug, Default)]
pub(crate) struct StoreCharge {
    ledger: Option<Arc<MemoryLedger>>,
    objects: Mutex<BTreeMap<u64, u64>>,
}

/// What a segment of this size uses in a private store.
pub(crate) fn segment_bytes(lifetime: Lifetime, size_bytes: u64) -> u64 {
    match lifetime {
        Lifetime::Persistent | Lifetime::Versioned => OBJECT_BYTES.saturating_add(size_bytes),
        Lifetime::Volatile => OBJECT_BYTES,
    }
}

impl StoreCharge {
    /// With a ledger for a private store.
    pub(crate) fn new(ledger: Option<Arc<MemoryLedger>>) -> StoreCharge {
        StoreCharge { ledger, objects: Mutex::default() }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.objects.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Charges `bytes` for the object that `make` makes.
    ///
    /// # Errors
    /// Over the limit, with nothing created; errors of `make`, with nothing charged.
    fn made<T: Copy>(
        &self,
        bytes: u64,
        raw: impl FnOnce(T) -> u64,
        make: impl FnOnce() -> Result<T, VasError>,
    ) -> Result<T, VasError> {
        let Some(ledger) = &self.ledger else { return make() };
        ledger.charge(MemoryKind::Files, bytes).map_err(MemoryError::from)?;
        match make() {
            Ok(id) => {
                self.objects().insert(raw(id), bytes);
                Ok(id)
            }
            Err(error) => {
                ledger.release(MemoryKind::Files, bytes);
                Err(error)
            }
        }
    }

    /// See [`StoreCharge::made`].
    pub(crate) fn vas_made(
        &self,
        make: impl FnOnce() -> Result<VasId, VasError>,
    ) -> Result<VasId, VasError> {
        self.made(OBJECT_BYTES, VasId::raw, make)
    }

    /// See [`StoreCharge::made`]; `bytes` is [`segment_bytes`]' result.
    pub(crate) fn segment_made(
        &self,
        bytes: impl FnOnce() -> Result<u64, VasError>,
        make: impl FnOnce() -> Result<SegId, VasError>,
    ) -> Result<SegId, VasError> {
        let bytes = if self.ledger.is_some() { bytes()? } else { 0 };
        self.made(bytes, SegId::raw, make)
    }

    /// Charges a VAS, and for each of its new segments as many bytes as `bytes` says in the order in
    /// which `make` makes them. What `make` has found, and not made, is charged already.
    ///
    /// # Errors
    /// As [`StoreCharge::made`].
    pub(crate) fn vas_copied(
        &self,
        bytes: impl FnOnce() -> Result<Vec<u64>, VasError>,
        make: impl FnOnce() -> Result<CopiedVas, VasError>,
    ) -> Result<CopiedVas, VasError> {
        let Some(ledger) = &self.ledger else { return make() };
        let bytes = bytes()?;
        let all = bytes.iter().fold(OBJECT_BYTES, |sum, bytes| sum.saturating_add(*bytes));
        ledger.charge(MemoryKind::Files, all).map_err(MemoryError::from)?;
        let copied = make().inspect_err(|_| ledger.release(MemoryKind::Files, all))?;
        let mut objects = self.objects();
        let segments = copied.segments.iter().map(|sid| sid.raw()).zip(bytes);
        let mut rest = all;
        for (raw, bytes) in std::iter::once((copied.vid.raw(), OBJECT_BYTES)).chain(segments) {
            if let Entry::Vacant(new) = objects.entry(raw) {
                new.insert(bytes);
                rest = rest.saturating_sub(bytes);
            }
        }
        ledger.release(MemoryKind::Files, rest);
        Ok(copied)
    }

    /// Charges what a segment uses after `grow` has grown it.
    ///
    /// # Errors
    /// As [`StoreCharge::made`].
    pub(crate) fn segment_grown(
        &self,
        sid: SegId,
        bytes: impl FnOnce() -> Result<u64, VasError>,
        grow: impl FnOnce() -> Result<(), VasError>,
    ) -> Result<(), VasError> {
        let Some(ledger) = &self.ledger else { return grow() };
        let bytes = bytes()?;
        // One growth at a time, so that each charges what it adds.
        let mut objects = self.objects();
        let before = objects.get(&sid.raw()).copied().unwrap_or(0);
        let more = bytes.saturating_sub(before);
        ledger.charge(MemoryKind::Files, more).map_err(MemoryError::from)?;
        let grown = grow();
        if grown.is_ok() {
            objects.insert(sid.raw(), before + more);
        } else {
            ledger.release(MemoryKind::Files, more);
        }
        grown
    }

    /// The object with this number is gone.
    pub(crate) fn deleted(&self, raw: u64) {
        let bytes = self.objects().remove(&raw);
        if let (Some(ledger), Some(bytes)) = (&self.ledger, bytes) {
            ledger.release(MemoryKind::Files, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_charged_from_their_making_to_their_end_and_failures_are_free() {
        let ledger = Arc::new(MemoryLedger::default());
        ledger.begin(10 * OBJECT_BYTES);
        let charge = StoreCharge::new(Some(ledger.clone()));
        let sid = SegId::new(7).unwrap();
        let bytes = |size| move || Ok(segment_bytes(Lifetime::Persistent, size));
        charge.segment_made(bytes(2 * OBJECT_BYTES), || Ok(sid)).unwrap();
        assert_eq!(ledger.held(MemoryKind::Files), 3 * OBJECT_BYTES);
        charge.segment_grown(sid, bytes(4 * OBJECT_BYTES), || Ok(())).unwrap();
        assert_eq!(ledger.total(), 5 * OBJECT_BYTES);
        let failed = || Err(VasError::Invalid { what: "the test" });
        charge.segment_grown(sid, bytes(6 * OBJECT_BYTES), failed).unwrap_err();
        charge.segment_grown(sid, bytes(u64::MAX), || panic!("over the limit")).unwrap_err();
        charge.vas_made(|| Err(VasError::Invalid { what: "the test" })).unwrap_err();
        assert_eq!(ledger.total(), 5 * OBJECT_BYTES);
        let other = SegId::new(8).unwrap();
        let refused = charge.segment_made(bytes(5 * OBJECT_BYTES), || panic!("over the limit"));
        assert_eq!(refused.unwrap_err().errno(), abi::Errno::ENOMEM);
        charge
            .segment_made(|| Ok(segment_bytes(Lifetime::Volatile, 1 << 40)), || Ok(other))
            .unwrap();
        charge.deleted(sid.raw());
        charge.deleted(sid.raw());
        assert_eq!(ledger.total(), OBJECT_BYTES);
    }

    #[test]
    fn a_vas_that_was_found_and_not_made_is_charged_once() {
        let ledger = Arc::new(MemoryLedger::default());
        ledger.begin(100 * OBJECT_BYTES);
        let charge = StoreCharge::new(Some(ledger.clone()));
        let (vid, sid) = (VasId::new(7).unwrap(), SegId::new(8).unwrap());
        let bytes = || Ok(vec![2 * OBJECT_BYTES]);
        for segments in [vec![sid], Vec::new(), Vec::new()] {
            charge.vas_copied(bytes, || Ok(CopiedVas { vid, segments })).unwrap();
            assert_eq!(ledger.total(), 3 * OBJECT_BYTES);
        }
        charge.deleted(sid.raw());
        charge.deleted(vid.raw());
        assert_eq!(ledger.total(), 0);
    }

    #[test]
    fn a_store_on_disk_is_not_charged() {
        let charge = StoreCharge::new(None);
        let sid = SegId::new(7).unwrap();
        charge.segment_made(|| panic!("it is not needed"), || Ok(sid)).unwrap();
        charge.segment_grown(sid, || panic!("it is not needed"), || Ok(())).unwrap();
        charge.deleted(sid.raw());
    }
}
