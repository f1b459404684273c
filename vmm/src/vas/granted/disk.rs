//! A store on a disk against what the run may add to disks (`--disk`).
//!
//! A raw segment counts with its size, from its making, or from when the run first has it to write: its pages
//! are written without an exit, and its holes with them. The files of a versioned segment count
//! as they grow, where they are written. Objects count a few pages each for their header, folder and names.
#![forbid(unsafe_code)]

use abi::SegId;
use abi::objects::Lifetime;

use super::Granted;
use super::charge::OBJECT_BYTES;
use crate::files::{DiskAccount, OverDisk, Stored};
use crate::process_tree::disk_use::DiskUse;
use crate::store::SegmentFile;
use crate::vas::VasError;

/// What a segment of this size takes when it is made.
pub(super) fn disk_bytes(lifetime: Lifetime, size_bytes: u64) -> u64 {
    match lifetime {
        Lifetime::Persistent => OBJECT_BYTES.saturating_add(size_bytes),
        Lifetime::Versioned | Lifetime::Volatile => OBJECT_BYTES,
    }
}

impl DiskUse {
    /// Charges what the content of a raw segment may come to take beyond what is stored of it.
    ///
    /// # Errors
    /// It is more than the run may add; one of its files cannot be opened.
    pub(crate) fn cover_segment(&self, segment: &SegmentFile) -> Result<(), VasError> {
        let header = segment.header();
        if header.lifetime != Lifetime::Persistent {
            return Ok(());
        }
        for index in 0..header.parts() {
            self.cover(segment.part(index)?.fd())?;
        }
        Ok(())
    }
}

impl Granted {
    /// Runs `make`, and takes `bytes` for what it makes.
    ///
    /// # Errors
    /// It is more than the run may add; those of `make`, with nothing taken.
    pub(super) fn taking<T>(
        &self,
        bytes: impl FnOnce() -> Result<u64, VasError>,
        make: impl FnOnce() -> Result<T, VasError>,
    ) -> Result<T, VasError> {
        let Some(disk) = &self.disk else { return make() };
        let bytes = bytes()?;
        disk.take(bytes)?;
        make().inspect_err(|_| disk.give_back(bytes))
    }

    /// What a copy of a segment takes when it is made.
    pub(super) fn disk_bytes_of_copy(&self, sid: SegId) -> Result<u64, VasError> {
        let segment = self.store.open_segment(sid)?;
        let header = segment.header();
        if segment.is_versioned() && !segment.is_linked_by_clones() {
            return Ok(OBJECT_BYTES.saturating_add(header.size_bytes));
        }
        Ok(disk_bytes(header.lifetime, header.size_bytes))
    }

    /// Notes the files of a segment that was made, and for which enough was taken.
    pub(super) fn note_made(&self, sid: SegId) {
        let Some(disk) = &self.disk else { return };
        let Ok(segment) = self.store.open_segment(sid) else { return };
        if segment.header().lifetime != Lifetime::Persistent {
            return;
        }
        for index in 0..segment.header().parts() {
            // One that is not noted is charged again when it is attached.
            if let Ok(part) = segment.part(index) {
                disk.made_with_all(part.fd());
            }
        }
    }

    /// Charges what a raw segment grows by. If it does not, that stays, for the next time.
    ///
    /// # Errors
    /// It is more than the run may add.
    pub(super) fn cover_growth(&self, sid: SegId, size_bytes: u64) -> Result<(), VasError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let segment = self.store.open_segment(sid)?;
        let header = segment.header();
        if header.lifetime != Lifetime::Persistent || size_bytes > header.reserve_bytes {
            return Ok(());
        }
        let more = size_bytes.saturating_sub(header.size_bytes);
        let part = segment.part(header.parts().saturating_sub(1))?;
        // What goes on in another file is charged to the last one that is there.
        let end = &mut |size: u64| size.saturating_add(more);
        let grown: Result<(), OverDisk> =
            DiskAccount::grow(&**disk, part.fd(), end, Stored::AsAskedFor, &mut || ());
        Ok(grown?)
    }
}
