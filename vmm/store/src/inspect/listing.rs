//! Lists of what a store has, the damaged and the unreadable included.

use std::os::unix::fs::MetadataExt;

use abi::objects::{Right, SegId};

use crate::format::error::{StoreError, io_error};
use crate::format::extent::first_part;
use crate::format::name::Name;
use crate::format::record::{Access, SegmentEntry, SegmentRecord, VasEntry};
use crate::objects::leases::OpenLease;
use crate::objects::lock::Locked;
use crate::objects::store::Store;

impl Store {
    /// What there is to know about a segment.
    ///
    /// # Errors
    /// As [`Store::open_segment`].
    pub fn segment(&self, sid: SegId) -> Result<SegmentRecord, StoreError> {
        let segment = self.open_segment(sid)?;
        let lock = self.lock_shared()?;
        let leases = self.live_leases()?;
        let name = segment.name().clone();
        self.segment_record(&name, &leases, &lock)
    }

    /// All segments by name, the damaged and the unreadable too.
    ///
    /// # Errors
    /// If the host fails.
    pub fn list_segments(&self) -> Result<Vec<SegmentEntry>, StoreError> {
        let lock = self.lock_shared()?;
        let leases = self.live_leases()?;
        let mut entries = Vec::new();
        for name in self.names_in(&self.segments)? {
            let record = self.segment_record(&name, &leases, &lock);
            let gone = record.as_ref().is_ok_and(|record| {
                record.attachers.is_empty() && self.is_gone_unattached(&record.header)
            });
            if !gone {
                entries.push(SegmentEntry { name, record });
            }
        }
        Ok(entries)
    }

    /// All VASes by name, the damaged and the unreadable too.
    ///
    /// # Errors
    /// If the host fails.
    pub fn list_vases(&self) -> Result<Vec<VasEntry>, StoreError> {
        let _lock = self.lock_shared()?;
        let names = self.names_in(&self.vas)?.into_iter();
        Ok(names.map(|name| VasEntry { record: self.vas_record(&name), name }).collect())
    }

    fn segment_record(
        &self,
        name: &Name,
        leases: &[OpenLease],
        lock: &impl Locked,
    ) -> Result<SegmentRecord, StoreError> {
        let mut segment = self.open_named(name, lock)?;
        self.check_content(&segment, lock)?;
        let newest = self.show_newest(&mut segment)?;
        let failed = |e| io_error("look at", segment.path(), e);
        let header = segment.header().clone();
        let mut stored_bytes = segment.file().metadata().map_err(failed)?.blocks() * 512;
        segment.place().each(first_part(header.lifetime), header.parts(), |dir, part| {
            if let Ok(Some(stat)) = dir.stat(part) {
                stored_bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            }
        });
        stored_bytes += self.versions_bytes(&segment)?;
        let inconsistent = self.is_inconsistent(&segment)?;
        let mut attachers = Vec::new();
        for lease in leases {
            if let Some(right) = lease.right_of(header.sid) {
                attachers.push((lease.id(), right));
            }
        }
        Ok(SegmentRecord {
            name: name.clone(),
            mode: self.mode_of(&segment)?,
            stored_bytes,
            access: match segment.right() {
                Right::Read => Access::Read,
                Right::Write => Access::Write,
            },
            version: newest.map(|newest| newest.number()),
            attachers,
            inconsistent,
            of_another_boot: self.is_of_another_boot(&header),
            header,
        })
    }
}
