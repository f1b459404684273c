//! Finding by id: names are file names, ids are inside the files.
//!
//! Each process remembers what it has seen, and looks again when the folder has changed: for
//! segments that is counted in the store's `live` file, and copies made without us show in
//! the folder's time.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use abi::{SegId, VasId};

use super::dir::{Store, open_plain};
use super::files::read_header;
use super::header::Header;
use super::name::Name;
use super::segment::warn;
use super::{StoreError, manifest::Manifest};

/// What is known of the folders.
#[derive(Debug, Default)]
pub struct Index {
    vases: BTreeMap<VasId, Name>,
    segments: BTreeMap<SegId, Known>,
    /// Counter and time of the folder of segments when it was read.
    seen: Option<(u64, i64, i64)>,
}

#[derive(Clone, Debug)]
struct Known {
    name: Name,
    range: Range<u64>,
}

impl Store {
    /// The name of a segment; `exact` is false when the folder has to be read anyway.
    pub(super) fn segment_name(&self, sid: SegId) -> Result<Name, StoreError> {
        self.read_segments()?;
        let index = self.index.lock().unwrap_or_else(|poison| poison.into_inner());
        let known = index.segments.get(&sid).ok_or(StoreError::NoSuchSegment { sid })?;
        Ok(known.name.clone())
    }

    /// The name of a VAS.
    pub(super) fn vas_name(&self, vid: VasId) -> Result<Name, StoreError> {
        let known = {
            let index = self.index.lock().unwrap_or_else(|poison| poison.into_inner());
            index.vases.get(&vid).cloned()
        };
        if let Some(name) = known
            && self.read_manifest(&name).is_ok_and(|manifest| manifest.vid == vid)
        {
            return Ok(name);
        }
        let mut found = None;
        for (name, manifest) in self.all_manifests()? {
            let mut index = self.index.lock().unwrap_or_else(|poison| poison.into_inner());
            index.vases.insert(manifest.vid, name.clone());
            if manifest.vid == vid {
                found = Some(name);
            }
        }
        found.ok_or(StoreError::NoSuchVas { vid })
    }

    pub(super) fn remember_vas(&self, vid: VasId, name: &Name) {
        let mut index = self.index.lock().unwrap_or_else(|poison| poison.into_inner());
        index.vases.insert(vid, name.clone());
    }

    pub(super) fn forget_vas(&self, vid: VasId) {
        self.index.lock().unwrap_or_else(|poison| poison.into_inner()).vases.remove(&vid);
    }

    /// Notes a segment that this process has made, while the store is locked exclusively and
    /// the index was up to date before.
    pub(super) fn remember_segment(&self, header: &Header) -> Result<(), StoreError> {
        let mark = self.segments_mark()?;
        let mut index = self.index.lock().unwrap_or_else(|poison| poison.into_inner());
        let known = Known { name: header.name.clone(), range: header.range() };
        index.segments.insert(header.sid, known);
        index.seen = Some(mark);
        Ok(())
    }

    /// As [`Store::remember_segment`], for one that is gone.
    pub(super) fn forget_segment(&self, sid: SegId) -> Result<(), StoreError> {
        let mark = self.segments_mark()?;
        let mut index = self.index.lock().unwrap_or_else(|poison| poison.into_inner());
        index.segments.remove(&sid);
        index.seen = Some(mark);
        Ok(())
    }

    fn segments_mark(&self) -> Result<(u64, i64, i64), StoreError> {
        let folder = self.folder("segments");
        let meta = fs::metadata(&folder).map_err(StoreError::io("look at", &folder))?;
        Ok((self.segment_changes(), meta.mtime(), meta.mtime_nsec()))
    }

    /// Reads the folder of segments again if it has changed. Damaged files are left out, with
    /// a warning.
    fn read_segments(&self) -> Result<(), StoreError> {
        let mark = self.segments_mark()?;
        {
            let index = self.index.lock().unwrap_or_else(|poison| poison.into_inner());
            if index.seen == Some(mark) {
                return Ok(());
            }
        }
        let mut segments = BTreeMap::new();
        for name in self.names_in("segments")? {
            let path = self.folder("segments").join(name.as_str());
            let header = open_plain(&path, false)
                .map_err(StoreError::io("open segment", &path))
                .and_then(|file| read_header(&file, &path));
            match header {
                // A copy that nobody has opened yet is found by its name only.
                Ok(header) if header.name != name && segments.contains_key(&header.sid) => {}
                Ok(header) => {
                    let known = Known { name, range: header.range() };
                    segments.insert(header.sid, known);
                }
                Err(error) => warn(&error),
            }
        }
        let mut index = self.index.lock().unwrap_or_else(|poison| poison.into_inner());
        index.segments = segments;
        index.seen = Some(mark);
        Ok(())
    }

    /// Valid names in a folder, in their order.
    pub(super) fn names_in(&self, folder: &str) -> Result<Vec<Name>, StoreError> {
        use std::os::unix::ffi::OsStrExt;
        let folder = self.folder(folder);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(StoreError::io("list", &folder))? {
            let entry = entry.map_err(StoreError::io("list", &folder))?;
            names.extend(Name::new(entry.file_name().as_bytes()));
        }
        names.sort();
        Ok(names)
    }

    /// Every VAS whose manifest can be read.
    pub(super) fn all_manifests(&self) -> Result<Vec<(Name, Manifest)>, StoreError> {
        let mut all = Vec::new();
        for name in self.names_in("vas")? {
            match self.read_manifest(&name) {
                Ok(manifest) => all.push((name, manifest)),
                Err(StoreError::NoSuchName { .. }) => {}
                Err(error) => warn(&error),
            }
        }
        Ok(all)
    }

    /// Whether a segment has this id.
    pub(super) fn has_segment(&self, sid: SegId) -> Result<bool, StoreError> {
        self.read_segments()?;
        let index = self.index.lock().unwrap_or_else(|poison| poison.into_inner());
        Ok(index.segments.contains_key(&sid))
    }

    /// The lowest addresses from `start` to `end`, aligned to `align`, that no segment has.
    pub(super) fn free_range(
        &self,
        start: u64,
        end: u64,
        bytes: u64,
        align: u64,
    ) -> Result<u64, StoreError> {
        self.read_segments()?;
        let index = self.index.lock().unwrap_or_else(|poison| poison.into_inner());
        let mut taken: Vec<&Range<u64>> =
            index.segments.values().map(|known| &known.range).collect();
        taken.sort_unstable_by_key(|range| range.start);
        let mut at = start.next_multiple_of(align);
        for range in taken {
            if range.start >= at && range.start - at >= bytes {
                break;
            }
            at = at.max(range.end.next_multiple_of(align));
        }
        match at.checked_add(bytes) {
            Some(last) if last <= end => Ok(at),
            _ => Err(StoreError::NoRoom { bytes }),
        }
    }
}
