//! Ids to names, and who occupies which addresses.
//!
//! The files are the truth; an index only says where to look, and a hit is checked against
//! the file. It is read anew when the store's count of objects or the folder's time stamp has
//! changed, so that also files copied in by hand are found. A time stamp younger than a tick
//! of the host's clock proves nothing, so a miss reads the folder again if it is that young.

use std::collections::{BTreeSet, HashMap};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use abi::layout::{VAS_END, VAS_START};
use abi::objects::{SegId, VasId};
use rustix::fs::OFlags;

use crate::format::error::StoreError;
use crate::format::header::Header;
use crate::format::manifest::Manifest;
use crate::format::name::Name;
use crate::objects::dir::Dir;
use crate::objects::live::Kind;
use crate::objects::lock::{Exclusive, Locked};
use crate::objects::open::Store;
use crate::objects::segment::read_header;

/// When a folder was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    objects: u64,
    changed: Duration,
}

impl Stamp {
    fn of(store: &Store, kind: Kind, lock: &impl Locked) -> Result<Stamp, StoreError> {
        let stat = match kind {
            Kind::Segment => store.segments.stat_self()?,
            Kind::Vas => store.vas.stat_self()?,
        };
        let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
        let changed = Duration::new(seconds, u32::try_from(stat.st_mtime_nsec).unwrap_or_default());
        Ok(Stamp { objects: store.objects(kind, lock)?, changed })
    }

    /// Whether a change after the stamp would surely have given another one.
    fn settled(self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.checked_sub(self.changed).is_some_and(|age| age > Duration::from_secs(1))
    }
}

/// What the index knows of a segment.
#[derive(Clone, Debug)]
struct Place {
    name: Name,
    base: u64,
    end: u64,
    /// The file bears the name in its header: it is no copy.
    own_name: bool,
}

/// The readable, undamaged segments.
#[derive(Debug, Default)]
pub(crate) struct SegmentIndex {
    stamp: Option<Stamp>,
    by_id: HashMap<SegId, Place>,
    by_address: BTreeSet<(u64, u64, SegId, Name)>,
    /// Two files had the same id.
    copies: bool,
}

impl SegmentIndex {
    pub(crate) fn insert(&mut self, name: &Name, header: &Header) {
        let place = Place {
            name: name.clone(),
            base: header.base,
            end: header.reserve_end(),
            own_name: header.name == *name,
        };
        self.by_address.insert((place.base, place.end, header.sid, name.clone()));
        self.copies |= self.by_id.contains_key(&header.sid);
        match self.by_id.get(&header.sid) {
            // Of a file and its copy, the id means the file.
            Some(known) if known.own_name || !place.own_name => {}
            _ => drop(self.by_id.insert(header.sid, place)),
        }
    }

    pub(crate) fn remove(&mut self, name: &Name, header: &Header) {
        self.by_address.remove(&(header.base, header.reserve_end(), header.sid, name.clone()));
        if self.by_id.get(&header.sid).is_some_and(|place| place.name == *name) {
            self.by_id.remove(&header.sid);
        }
    }

    pub(crate) fn name(&self, sid: SegId) -> Option<&Name> {
        Some(&self.by_id.get(&sid)?.name)
    }

    /// Addresses the segment may use, and its name.
    pub(crate) fn range(&self, sid: SegId) -> Option<(u64, u64)> {
        let place = self.by_id.get(&sid)?;
        Some((place.base, place.end))
    }

    /// The lowest multiple of `align` where `bytes` overlap no segment.
    pub(crate) fn free_base(&self, bytes: u64, align: u64) -> Option<u64> {
        let mut candidate = VAS_START.raw().checked_next_multiple_of(align)?;
        for (base, end, ..) in &self.by_address {
            if candidate.checked_add(bytes)? <= *base {
                break;
            }
            if *end > candidate {
                candidate = end.checked_next_multiple_of(align)?;
            }
        }
        (candidate.checked_add(bytes)? <= VAS_END.raw()).then_some(candidate)
    }

    /// After an own change under the exclusive lock, which the index already contains.
    pub(crate) fn restamp(&mut self, store: &Store, lock: &Exclusive) {
        // What the index says of an id with two files is right only when just read.
        self.stamp = Stamp::of(store, Kind::Segment, lock).ok().filter(|_| !self.copies);
    }

    fn fill(&mut self, store: &Store, lock: &impl Locked) -> Result<(), StoreError> {
        let stamp = Stamp::of(store, Kind::Segment, lock)?;
        *self = SegmentIndex::default();
        for name in store.names_in(&store.segments)? {
            let Ok(file) = store.segments.open_file(name.as_str(), OFlags::RDONLY) else {
                continue;
            };
            if let Ok(header) = read_header(&file, store.segments.path()) {
                self.insert(&name, &header);
            }
        }
        self.stamp = Some(stamp);
        Ok(())
    }
}

/// The readable, undamaged VASes.
#[derive(Debug, Default)]
pub(crate) struct VasIndex {
    stamp: Option<Stamp>,
    /// The flag: the folder bears the name in its manifest.
    by_id: HashMap<VasId, (Name, bool)>,
}

impl VasIndex {
    /// After an own change under the exclusive lock, which the index already contains.
    pub(crate) fn restamp(&mut self, store: &Store, lock: &Exclusive) {
        self.stamp = Stamp::of(store, Kind::Vas, lock).ok();
    }

    pub(crate) fn has(&self, vid: VasId) -> bool {
        self.by_id.contains_key(&vid)
    }

    pub(crate) fn remove(&mut self, vid: VasId) {
        self.by_id.remove(&vid);
    }

    pub(crate) fn insert(&mut self, name: &Name, manifest: &Manifest) {
        let own_name = manifest.name == *name;
        match self.by_id.get(&manifest.vid) {
            Some((_, known)) if *known || !own_name => {}
            _ => drop(self.by_id.insert(manifest.vid, (name.clone(), own_name))),
        }
    }

    fn fill(&mut self, store: &Store, lock: &impl Locked) -> Result<(), StoreError> {
        let stamp = Stamp::of(store, Kind::Vas, lock)?;
        self.by_id.clear();
        for name in store.names_in(&store.vas)? {
            if let Ok(manifest) = store.read_manifest(&name) {
                self.insert(&name, &manifest);
            }
        }
        self.stamp = Some(stamp);
        Ok(())
    }
}

impl Store {
    /// Names in a folder that can be objects' names. Others are strangers' files.
    pub(crate) fn names_in(&self, dir: &Dir) -> Result<Vec<Name>, StoreError> {
        use std::os::unix::ffi::OsStrExt;
        Ok(dir.names()?.iter().filter_map(|name| Name::new(name.as_bytes()).ok()).collect())
    }

    /// The index of segments, as new as the lock.
    pub(crate) fn segment_index(
        &self,
        lock: &impl Locked,
    ) -> Result<MutexGuard<'_, SegmentIndex>, StoreError> {
        let mut index = self.segment_index.lock().unwrap_or_else(PoisonError::into_inner);
        if index.stamp != Some(Stamp::of(self, Kind::Segment, lock)?) {
            index.fill(self, lock)?;
        }
        Ok(index)
    }

    /// Name of the segment's file, which is looked for again before it is called missing.
    pub(crate) fn segment_name(
        &self,
        sid: SegId,
        lock: &impl Locked,
    ) -> Result<Option<Name>, StoreError> {
        let mut index = self.segment_index(lock)?;
        if let Some(name) = index.name(sid) {
            if self.segment_is(name, sid) {
                return Ok(Some(name.clone()));
            }
        } else if index.stamp.is_some_and(Stamp::settled) {
            return Ok(None);
        }
        index.fill(self, lock)?;
        Ok(index.name(sid).cloned())
    }

    fn segment_is(&self, name: &Name, sid: SegId) -> bool {
        self.segments
            .open_file(name.as_str(), OFlags::RDONLY)
            .and_then(|file| read_header(&file, self.segments.path()))
            .is_ok_and(|header| header.sid == sid)
    }

    /// The index of VASes, as new as the lock.
    pub(crate) fn vas_index(
        &self,
        lock: &impl Locked,
    ) -> Result<MutexGuard<'_, VasIndex>, StoreError> {
        let mut index = self.vas_index.lock().unwrap_or_else(PoisonError::into_inner);
        if index.stamp != Some(Stamp::of(self, Kind::Vas, lock)?) {
            index.fill(self, lock)?;
        }
        Ok(index)
    }

    /// Name of the VAS's folder, which is looked for again before it is called missing.
    pub(crate) fn vas_name(
        &self,
        vid: VasId,
        lock: &impl Locked,
    ) -> Result<Option<Name>, StoreError> {
        let mut index = self.vas_index(lock)?;
        match index.by_id.get(&vid) {
            Some((name, _)) if self.read_manifest(name).is_ok_and(|m| m.vid == vid) => {
                return Ok(Some(name.clone()));
            }
            None if index.stamp.is_some_and(Stamp::settled) => return Ok(None),
            _ => {}
        }
        index.fill(self, lock)?;
        Ok(index.by_id.get(&vid).map(|(name, _)| name.clone()))
    }
}
