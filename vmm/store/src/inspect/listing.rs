//! Lists of what a store has, the damaged and the unreadable included.

use abi::objects::{Right, SegId};

use crate::format::error::{Object, StoreError};
use crate::format::extent::first_part;
use crate::format::name::{Mode, Name};
use crate::format::record::{Access, SegmentEntry, SegmentRecord, VasEntry};
use crate::objects::leases::LiveLease;
use crate::objects::lock::Locked;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

impl Store {
    /// What there is to know about a segment.
    ///
    /// # Errors
    /// As [`Store::open_segment`].
    pub fn segment(&self, sid: SegId) -> Result<SegmentRecord, StoreError> {
        let gone = {
            let lock = self.lock_shared()?;
            let segment = self.open_by_id(sid, &lock)?;
            if !self.is_gone(segment.header(), &lock) {
                let leases = self.live_leases()?;
                return self.record_of(segment, &leases, &lock);
            }
            segment.name().clone()
        };
        self.reap_volatile(&gone, &self.lock_exclusive()?);
        Err(StoreError::NotFound(Object::Segment(sid)))
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
        leases: &[LiveLease],
        lock: &impl Locked,
    ) -> Result<SegmentRecord, StoreError> {
        self.record_of(self.open_named(name, lock)?, leases, lock)
    }

    fn record_of(
        &self,
        mut segment: SegmentFile,
        leases: &[LiveLease],
        lock: &impl Locked,
    ) -> Result<SegmentRecord, StoreError> {
        if segment.header().name != *segment.name() {
            self.check_content(&segment, lock)?;
        }
        let sid = segment.sid();
        let is_written = leases.iter().any(|lease| lease.right_of(sid) == Some(Right::Write));
        let newest = self.show_newest_number(&mut segment, is_written, lock)?;
        let (version, versions_bytes) = newest.unzip();
        let (header, about) = (segment.header().clone(), segment.about());
        let mut stored_bytes = about.stored_bytes + versions_bytes.unwrap_or_default();
        segment.place().each(first_part(header.lifetime), header.parts(), |dir, part| {
            if let Ok(Some(stat)) = dir.stat(part) {
                stored_bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            }
        });
        let inconsistent = self.is_inconsistent(&segment)?;
        let mut attachers = Vec::new();
        for lease in leases {
            if let Some(right) = lease.right_of(header.sid) {
                attachers.push((lease.id(), right));
            }
        }
        Ok(SegmentRecord {
            name: segment.name().clone(),
            mode: Mode::from_stat(about.mode),
            stored_bytes,
            access: match segment.right() {
                Right::Read => Access::Read,
                Right::Write => Access::Write,
            },
            version,
            attachers,
            inconsistent,
            of_another_boot: self.is_of_another_boot(&header),
            header,
        })
    }
}
