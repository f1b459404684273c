//! The store as a program may use it: every call that names a VAS or a segment comes through
//! here, and nothing else hands the store to calls.
//!
//! Each function is one of the store's, behind a check of what was granted (`grants`). Whatever was
//! not granted is `EACCES`, whether it exists or not; only the name of a segment that does not
//! exist is `ENOENT`, since a program that makes one has to ask for it first.
//!
//! Putting a segment into a VAS, by attaching it or by cloning the VAS, needs the right to write
//! the segment: otherwise what was granted for reading today would be writable tomorrow, when only
//! the VAS it was put into is granted.

pub(crate) mod charge;
pub(crate) mod disk;
pub mod grants;

use std::sync::Arc;

use abi::objects::{Durability, PagePolicy, SegRoot};
use abi::{Right, SegId, VasId};

use crate::process_tree::disk_use::DiskUse;
use crate::store::{
    Access, Chosen, CopiedVas, LeaseView, Mode, Name, Object, Removed, SegmentRecord, SegmentSpec,
    Store, StoreError, VasRecord,
};
use crate::vas::VasError;
use crate::vas::granted::charge::{OBJECT_BYTES, StoreCharge, segment_bytes};
use crate::vas::granted::disk::disk_bytes;
use crate::vas::granted::grants::Grants;
use crate::vas::kept;

/// The store of a process, as far as it was granted.
#[derive(Debug)]
pub struct Granted {
    pub(crate) store: Arc<Store>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) charge: Arc<StoreCharge>,
    /// Who counts what is added to it.
    pub(crate) disk: Option<Arc<DiskUse>>,
}

/// What the host permits, and not more than what was granted.
fn limited(access: Access, granted: Right) -> Access {
    match granted {
        Right::Read => access.min(Access::Read),
        Right::Write => access,
    }
}

#[expect(clippy::missing_errors_doc, reason = "those of the store, and NotGranted")]
impl Granted {
    fn check_vas(&self, vid: VasId, right: Right) -> Result<(), VasError> {
        self.grants.check_vas(&self.store, vid, right)
    }

    /// Refuses a segment that is not granted with this right.
    pub fn check_segment(&self, sid: SegId, right: Right) -> Result<(), VasError> {
        self.grants.check_segment(&self.store, sid, right)
    }

    /// [`Store::create_vas`].
    pub fn create_vas(&self, name: &Name, mode: Mode) -> Result<VasId, VasError> {
        self.grants.check_name(name, Right::Write)?;
        let make = || self.charge.vas_made(|| Ok(self.store.create_vas(name, mode)?));
        self.taking(|| Ok(OBJECT_BYTES), make)
    }

    /// [`Store::choose_vas`]. A version that is to be kept for a while is kept by `keep`.
    pub(crate) fn find_vas(
        &self,
        name: &Name,
        keep: impl FnOnce(&Store, VasId, u64) -> Result<CopiedVas, VasError>,
    ) -> Result<VasId, VasError> {
        self.grants.check_name(name, Right::Read)?;
        match self.store.choose_vas(name)? {
            Chosen::Whole(vid) => Ok(vid),
            Chosen::Number(vid, number) => {
                self.check_vas(vid, Right::Read)?;
                self.gone(&kept::remove_old(&self.store)?);
                self.kept(vid, |store| keep(store, vid, number))
            }
        }
    }

    /// What is charged for kept versions that went by themselves is released.
    pub(crate) fn gone(&self, removed: &Removed) {
        let vases = removed.vases.iter().map(|vid| vid.raw());
        let all = vases.chain(removed.segments.iter().map(|sid| sid.raw()));
        all.for_each(|raw| self.charge.deleted(raw));
    }

    /// Makes a kept version of a VAS. Each of its segments may come to have all of the content: what it
    /// shares today, the original gives up when it changes.
    fn kept(
        &self,
        vid: VasId,
        keep: impl FnOnce(&Store) -> Result<CopiedVas, VasError>,
    ) -> Result<VasId, VasError> {
        let bytes = || {
            let mut all = Vec::new();
            for segment in self.store.open_listed(&self.store.vas(vid)?)? {
                let header = segment.header();
                if segment.is_versioned() && header.kept.is_none() {
                    all.push(segment_bytes(header.lifetime, header.size_bytes));
                }
            }
            Ok(all)
        };
        // Their files have other names, and grow when something is committed.
        let objects = || Ok(OBJECT_BYTES * (1 + self.store.vas(vid)?.segments.len() as u64));
        Ok(self.taking(objects, || self.charge.vas_copied(bytes, || keep(&self.store)))?.vid)
    }

    /// Makes a tag of a VAS by `keep`.
    pub(crate) fn tag_vas(
        &self,
        vid: VasId,
        keep: impl FnOnce(&Store) -> Result<CopiedVas, VasError>,
    ) -> Result<VasId, VasError> {
        self.check_vas(vid, Right::Write)?;
        for segment in self.store.vas(vid)?.segments {
            self.check_segment(segment.sid, Right::Write)?;
        }
        self.kept(vid, keep)
    }

    /// [`Store::clone_vas`].
    pub fn clone_vas(&self, vid: VasId, name: &Name) -> Result<VasId, VasError> {
        self.check_vas(vid, Right::Read)?;
        self.grants.check_name(name, Right::Write)?;
        if !self.grants.is_all() {
            for segment in self.store.vas(vid)?.segments {
                self.check_segment(segment.sid, Right::Write)?;
            }
        }
        let clone = || self.charge.vas_made(|| Ok(self.store.clone_vas(vid, name)?));
        self.taking(|| Ok(OBJECT_BYTES), clone)
    }

    /// Makes a VAS `name` with copies of the segments of another by `copy`.
    pub(crate) fn copy_vas(
        &self,
        vid: VasId,
        name: &Name,
        copy: impl FnOnce(&Store, VasRecord) -> Result<CopiedVas, VasError>,
    ) -> Result<VasId, VasError> {
        self.check_vas(vid, Right::Read)?;
        self.grants.check_name(name, Right::Write)?;
        let vas = self.store.vas(vid)?;
        for segment in &vas.segments {
            self.check_segment(segment.sid, Right::Read)?;
        }
        let sids: Vec<SegId> = vas.segments.iter().map(|segment| segment.sid).collect();
        let on_disk = || {
            let each = sids.iter().map(|sid| self.disk_bytes_of_copy(*sid));
            let sum = |all: u64, one| Ok::<_, VasError>(all.saturating_add(one?));
            each.into_iter().try_fold(OBJECT_BYTES, sum)
        };
        let copied = self.taking(on_disk, || {
            self.charge.vas_copied(
                || sids.iter().map(|sid| self.bytes_of(*sid, None)).collect(),
                || copy(&self.store, vas),
            )
        })?;
        copied.segments.iter().for_each(|sid| self.note_made(*sid));
        self.grants.adopt(copied.segments);
        Ok(copied.vid)
    }

    /// [`Store::set_vas_mode`].
    pub fn set_vas_mode(&self, vid: VasId, mode: Mode) -> Result<(), VasError> {
        self.check_vas(vid, Right::Write)?;
        Ok(self.store.set_vas_mode(vid, mode)?)
    }

    /// [`Store::set_vas_tagged`].
    pub fn set_vas_tagged(&self, vid: VasId, tagged: bool) -> Result<(), VasError> {
        self.check_vas(vid, Right::Write)?;
        Ok(self.store.set_vas_tagged(vid, tagged)?)
    }

    /// [`Store::delete_vas`]. Its segments stay the program's, as far as they were.
    pub fn delete_vas(&self, vid: VasId) -> Result<(), VasError> {
        self.check_vas(vid, Right::Write)?;
        let mut own = Vec::new();
        if !self.grants.is_all() {
            for segment in self.store.vas(vid)?.segments {
                let right = self.grants.on_segment(&self.store, segment.sid)?;
                own.extend((right == Some(Right::Write)).then_some(segment.sid));
            }
        }
        self.store.delete_vas(vid)?;
        self.charge.deleted(vid.raw());
        self.grants.adopt(own);
        Ok(())
    }

    /// The readable ones of [`Store::list_vases`].
    pub fn list_vases(&self) -> Result<Vec<VasRecord>, VasError> {
        let all = self.store.list_vases()?.into_iter().filter_map(|entry| entry.record.ok());
        let granted = all.filter_map(|record| {
            let right = self.grants.on_name(&record.name)?;
            Some(VasRecord { access: limited(record.access, right), ..record })
        });
        Ok(granted.collect())
    }

    /// [`Store::vas`].
    pub fn vas(&self, vid: VasId) -> Result<VasRecord, VasError> {
        self.check_vas(vid, Right::Read)?;
        let record = self.store.vas(vid)?;
        let right = self.grants.on_name(&record.name).unwrap_or(Right::Read);
        Ok(VasRecord { access: limited(record.access, right), ..record })
    }

    /// [`Store::leases`].
    pub fn leases(&self) -> Result<Vec<LeaseView>, VasError> {
        Ok(self.store.leases()?)
    }

    /// [`Store::create_segment`].
    pub fn create_segment(&self, name: &Name, spec: &SegmentSpec) -> Result<SegId, VasError> {
        self.grants.check_makes_segments(name)?;
        let make = || {
            self.charge.segment_made(
                || Ok(segment_bytes(spec.lifetime, spec.size_bytes)),
                || self.store.create_segment(name, spec).map_err(|e| self.taken(name, e.into())),
            )
        };
        let sid = self.taking(|| Ok(disk_bytes(spec.lifetime, spec.size_bytes)), make)?;
        self.note_made(sid);
        self.grants.adopt([sid]);
        Ok(sid)
    }

    /// What a segment uses in a private store, with its present or future size.
    fn bytes_of(&self, sid: SegId, size_bytes: Option<u64>) -> Result<u64, VasError> {
        let segment = self.store.open_segment(sid)?;
        let header = segment.header();
        Ok(segment_bytes(header.lifetime, size_bytes.unwrap_or(header.size_bytes)))
    }

    /// The name of a segment that was not granted: the program must not learn that it exists.
    fn taken(&self, name: &Name, error: VasError) -> VasError {
        if let VasError::Store(StoreError::Exists(_)) = error
            && let Err(error @ VasError::NotGranted { .. }) = self.find_segment(name)
        {
            return error;
        }
        error
    }

    /// [`Store::find_segment`].
    pub fn find_segment(&self, name: &Name) -> Result<SegId, VasError> {
        let sid = self.store.find_segment(name)?;
        self.check_segment(sid, Right::Read).map_err(|error| match error {
            VasError::NotGranted { right, .. } => {
                VasError::NotGranted { object: Object::SegmentName(name.clone()), right }
            }
            other => other,
        })?;
        Ok(sid)
    }

    /// Makes a copy of a segment by `copy`; `name` is the copy's.
    pub(crate) fn clone_segment(
        &self,
        sid: SegId,
        name: &Name,
        copy: impl FnOnce(&Store) -> Result<SegId, VasError>,
    ) -> Result<SegId, VasError> {
        self.check_segment(sid, Right::Read)?;
        self.grants.check_makes_segments(name)?;
        let make = || {
            self.charge.segment_made(
                || self.bytes_of(sid, None),
                || copy(&self.store).map_err(|error| self.taken(name, error)),
            )
        };
        let sid = self.taking(|| self.disk_bytes_of_copy(sid), make)?;
        self.note_made(sid);
        self.grants.adopt([sid]);
        Ok(sid)
    }

    /// [`Store::attach_segment`].
    pub fn attach_segment(&self, vid: VasId, sid: SegId, right: Right) -> Result<(), VasError> {
        self.check_vas(vid, Right::Write)?;
        self.check_segment(sid, Right::Write)?;
        Ok(self.store.attach_segment(vid, sid, right)?)
    }

    /// [`Store::detach_segment`]. The segment stays the program's, if it was.
    pub fn detach_segment(&self, vid: VasId, sid: SegId) -> Result<(), VasError> {
        self.check_vas(vid, Right::Write)?;
        let right = self.grants.on_segment(&self.store, sid)?;
        self.store.detach_segment(vid, sid)?;
        self.grants.adopt((right == Some(Right::Write)).then_some(sid));
        Ok(())
    }

    /// [`Store::set_segment_mode`].
    pub fn set_segment_mode(&self, sid: SegId, mode: Mode) -> Result<(), VasError> {
        self.check_segment(sid, Right::Write)?;
        Ok(self.store.set_segment_mode(sid, mode)?)
    }

    /// [`Store::set_lockable`].
    pub fn set_lockable(&self, sid: SegId, lockable: bool) -> Result<(), VasError> {
        self.check_segment(sid, Right::Write)?;
        Ok(self.store.set_lockable(sid, lockable)?)
    }

    /// [`Store::set_pages`].
    pub fn set_pages(&self, sid: SegId, pages: PagePolicy) -> Result<(), VasError> {
        self.check_segment(sid, Right::Write)?;
        Ok(self.store.set_pages(sid, pages)?)
    }

    /// [`Store::set_durability`].
    pub fn set_durability(&self, sid: SegId, durability: Durability) -> Result<(), VasError> {
        self.check_segment(sid, Right::Write)?;
        Ok(self.store.set_durability(sid, durability)?)
    }

    /// [`Store::delete_segment`].
    pub fn delete_segment(&self, sid: SegId) -> Result<(), VasError> {
        self.check_segment(sid, Right::Write)?;
        self.store.delete_segment(sid)?;
        self.charge.deleted(sid.raw());
        Ok(())
    }

    /// The readable ones of [`Store::list_segments`].
    pub fn list_segments(&self) -> Result<Vec<SegmentRecord>, VasError> {
        let mut granted = Vec::new();
        for entry in self.store.list_segments()? {
            let Ok(record) = entry.record else { continue };
            let Some(right) = self.grants.on_segment(&self.store, record.header.sid)? else {
                continue;
            };
            granted.push(SegmentRecord { access: limited(record.access, right), ..record });
        }
        Ok(granted)
    }

    /// [`Store::segment`].
    pub fn segment(&self, sid: SegId) -> Result<SegmentRecord, VasError> {
        self.check_segment(sid, Right::Read)?;
        let right = self.grants.on_segment(&self.store, sid)?.unwrap_or(Right::Read);
        let record = self.store.segment(sid)?;
        Ok(SegmentRecord { access: limited(record.access, right), ..record })
    }

    /// Where a segment begins.
    pub fn base_of(&self, sid: SegId) -> Result<u64, VasError> {
        self.check_segment(sid, Right::Read)?;
        Ok(self.store.open_to_attach(sid)?.header().base)
    }

    /// [`Store::grow_segment`].
    pub fn grow_segment(&self, sid: SegId, size_bytes: u64) -> Result<(), VasError> {
        self.check_segment(sid, Right::Write)?;
        self.cover_growth(sid, size_bytes)?;
        self.charge.segment_grown(
            sid,
            || self.bytes_of(sid, Some(size_bytes)),
            || Ok(self.store.grow_segment(sid, size_bytes)?),
        )
    }

    /// [`Store::reserve_segment`].
    pub fn reserve_segment(&self, sid: SegId, offset: u64, bytes: u64) -> Result<(), VasError> {
        self.check_segment(sid, Right::Write)?;
        if let Some(disk) = &self.disk {
            disk.cover_segment(&self.store.open_segment(sid)?)?;
        }
        Ok(self.store.reserve_segment(sid, offset, bytes)?)
    }

    /// [`Store::sync`].
    pub fn sync(&self, sid: SegId) -> Result<(), VasError> {
        self.check_segment(sid, Right::Write)?;
        Ok(self.store.sync(&self.store.open_segment(sid)?)?)
    }

    /// [`Store::root_get`].
    pub fn root_get(&self, sid: SegId) -> Result<SegRoot, VasError> {
        self.check_segment(sid, Right::Read)?;
        Ok(self.store.root_get(sid)?)
    }

    /// [`Store::root_set`].
    pub fn root_set(&self, sid: SegId, root: SegRoot) -> Result<(), VasError> {
        self.check_segment(sid, Right::Write)?;
        Ok(self.store.root_set(sid, root)?)
    }
}
