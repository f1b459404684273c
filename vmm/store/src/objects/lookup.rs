//! Where the objects of a store are: names to ids and back, over indexes that are read when needed.
//!
//! An index is read again when the store's count of objects or the folder's time stamp has changed,
//! so that files copied in by hand are found, too. A time stamp younger than a tick of the host's
//! clock proves nothing, so a miss reads the folder again if it is that young.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use abi::objects::{Right, SegId, VasId};
use rustix::fs::{OFlags, Stat};

use crate::format::counters::Counted;
use crate::format::error::{Object, StoreError, bad_field, io_error};
use crate::format::header::read_header;
use crate::format::manifest::{MAX_BYTES, Manifest};
use crate::format::name::Name;
use crate::objects::dir::{Dir, or_denied, read_bounded};
use crate::objects::index::{SegmentIndex, Stamp, VasIndex};
use crate::objects::lock::Locked;
use crate::objects::newest::FileId;
use crate::objects::store::Store;

pub(crate) const MANIFEST: &str = "manifest";

/// The manifest that was read last.
#[derive(Debug)]
pub(crate) struct LastManifest {
    name: Name,
    /// Open, so that no other file has its number.
    _file: File,
    id: FileId,
    manifest: Manifest,
}

impl Store {
    /// Names in a folder that can be objects' names. Other files are not the store's.
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
        if index.stamp() != Some(self.stamp(Counted::Segment, lock)?) {
            self.fill_segments(&mut index, lock)?;
        }
        Ok(index)
    }

    /// Name of the segment's file, which is looked up again before it is reported missing.
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
        } else if index.stamp().is_some_and(Stamp::settled) {
            return Ok(None);
        }
        self.fill_segments(&mut index, lock)?;
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
        if index.stamp() != Some(self.stamp(Counted::Vas, lock)?) {
            self.fill_vases(&mut index, lock)?;
        }
        Ok(index)
    }

    /// Name of the VAS's folder, which is looked up again before it is reported missing.
    pub(crate) fn vas_name(
        &self,
        vid: VasId,
        lock: &impl Locked,
    ) -> Result<Option<Name>, StoreError> {
        let mut index = self.vas_index(lock)?;
        match index.name(vid) {
            Some(name) if self.read_manifest(name).is_ok_and(|m| m.vid == vid) => {
                return Ok(Some(name.clone()));
            }
            None if index.stamp().is_some_and(Stamp::settled) => return Ok(None),
            _ => {}
        }
        self.fill_vases(&mut index, lock)?;
        Ok(index.name(vid).cloned())
    }

    /// When the folder of segments or of VASes was changed last.
    pub(crate) fn stamp(&self, kind: Counted, lock: &impl Locked) -> Result<Stamp, StoreError> {
        let stat = match kind {
            Counted::Segment => self.segments.stat_self()?,
            Counted::Vas => self.vas.stat_self()?,
        };
        let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
        let changed = Duration::new(seconds, u32::try_from(stat.st_mtime_nsec).unwrap_or_default());
        Ok(Stamp { objects: self.objects(kind, lock)?, changed })
    }

    fn fill_segments(
        &self,
        index: &mut SegmentIndex,
        lock: &impl Locked,
    ) -> Result<(), StoreError> {
        let stamp = self.stamp(Counted::Segment, lock)?;
        *index = SegmentIndex::default();
        for name in self.names_in(&self.segments)? {
            let Ok(file) = self.segments.open_file(name.as_str(), OFlags::RDONLY) else { continue };
            if let Ok(header) = read_header(&file, self.segments.path()) {
                index.insert(&name, &header);
            }
        }
        index.restamp_read(stamp);
        Ok(())
    }

    fn fill_vases(&self, index: &mut VasIndex, lock: &impl Locked) -> Result<(), StoreError> {
        let stamp = self.stamp(Counted::Vas, lock)?;
        *index = VasIndex::default();
        for name in self.names_in(&self.vas)? {
            if let Ok(manifest) = self.read_manifest(&name) {
                index.insert(&name, &manifest);
            }
        }
        index.restamp(Some(stamp));
        Ok(())
    }

    /// What a VAS's manifest says. The last one that was read is not read again while its file is the same.
    pub(crate) fn read_manifest(&self, name: &Name) -> Result<Manifest, StoreError> {
        let now = || self.vas.stat_at(&format!("{name}/{MANIFEST}")).map(|stat| FileId::of(&stat));
        let mut last = self.last_manifest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = last.as_ref().filter(|known| known.name == *name)
            && now() == Some(known.id)
        {
            return Ok(known.manifest.clone());
        }
        *last = None;
        let (file, stat, manifest) = self.read_manifest_anew(name)?;
        let (name, id) = (name.clone(), FileId::of(&stat));
        *last = Some(LastManifest { name, _file: file, id, manifest: manifest.clone() });
        Ok(manifest)
    }

    fn read_manifest_anew(&self, name: &Name) -> Result<(File, Stat, Manifest), StoreError> {
        let refusal =
            || StoreError::Denied { object: Object::VasName(name.clone()), right: Right::Read };
        let explain = |error| or_denied(error, refusal);
        let file = match self.vas.open_file_below(name.as_str(), MANIFEST, OFlags::RDONLY) {
            Some(file) => file,
            None => {
                self.vas.ensure()?;
                let folder = self.vas.sub(name.as_str()).map_err(|error| match error {
                    StoreError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
                        StoreError::NotFound(Object::VasName(name.clone()))
                    }
                    other => explain(other),
                })?;
                folder.open_file_stat(MANIFEST, OFlags::RDONLY).map_err(explain)?
            }
        };
        let path = self.vas.path_of(name.as_str()).join(MANIFEST);
        let bytes = read_bounded(&file, MAX_BYTES).map_err(|e| io_error("read", &path, e))?;
        let (found, expected) = (format!("more than {MAX_BYTES}"), format!("{MAX_BYTES} or less"));
        let bytes = bytes.ok_or_else(|| bad_field(&path, "length", found, expected))?;
        let manifest = Manifest::decode(&bytes, &path)?;
        let (file, stat) = file;
        Ok((file, stat, manifest))
    }

    /// Names of the VASes that list a segment, as far as the caller may read them.
    pub(crate) fn vases_listing(&self, sid: SegId) -> Result<Vec<Name>, StoreError> {
        let lists = |name: &Name| {
            self.read_manifest(name).is_ok_and(|m| m.segments.iter().any(|s| s.sid == sid))
        };
        Ok(self.names_in(&self.vas)?.into_iter().filter(lists).collect())
    }
}
