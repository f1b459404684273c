//! Ids to names, and which segment occupies which addresses.
//!
//! The files are authoritative; an index is only a hint where to look (`lookup` fills it, and
//! checks a hit against the file).

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use abi::layout::{VAS_END, VAS_START};
use abi::objects::{SegId, VasId};

use crate::format::header::Header;
use crate::format::manifest::Manifest;
use crate::format::name::Name;

/// When a folder was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    pub(crate) objects: u64,
    pub(crate) changed: Duration,
}

impl Stamp {
    /// Whether a change after the stamp would certainly have produced a different one.
    pub(crate) fn settled(self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.checked_sub(self.changed).is_some_and(|age| age > Duration::from_secs(1))
    }
}

/// What the index knows of a segment.
#[derive(Clone, Debug)]
struct Indexed {
    name: Name,
    base: u64,
    end: u64,
    /// The file's name is the one in its header: it is no copy.
    own_name: bool,
}

/// The readable, undamaged segments.
#[derive(Debug, Default)]
pub(crate) struct SegmentIndex {
    stamp: Option<Stamp>,
    by_id: HashMap<SegId, Indexed>,
    by_address: BTreeSet<(u64, u64, SegId, Name)>,
    /// Two files had the same id.
    copies: bool,
}

impl SegmentIndex {
    pub(crate) fn insert(&mut self, name: &Name, header: &Header) {
        let place = Indexed {
            name: name.clone(),
            base: header.base,
            end: header.reserve_end(),
            own_name: header.name == *name,
        };
        self.by_address.insert((place.base, place.end, header.sid, name.clone()));
        self.copies |= self.by_id.contains_key(&header.sid);
        match self.by_id.get(&header.sid) {
            // If there is a file and its copy, the id means the file.
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

    /// All of them, in no order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = SegId> + '_ {
        self.by_id.keys().copied()
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
    pub(crate) fn restamp(&mut self, stamp: Option<Stamp>) {
        // What the index says about an id with two files is right only when just read.
        self.stamp = stamp.filter(|_| !self.copies);
    }

    /// After the folder was read.
    pub(crate) fn restamp_read(&mut self, stamp: Stamp) {
        self.stamp = Some(stamp);
    }

    pub(crate) fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }
}

/// The readable, undamaged VASes.
#[derive(Debug, Default)]
pub(crate) struct VasIndex {
    stamp: Option<Stamp>,
    /// The flag: the folder's name is the one in its manifest.
    by_id: HashMap<VasId, (Name, bool)>,
}

impl VasIndex {
    /// After an own change under the exclusive lock, which the index already contains.
    pub(crate) fn restamp(&mut self, stamp: Option<Stamp>) {
        self.stamp = stamp;
    }

    pub(crate) fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// Name of the VAS's folder.
    pub(crate) fn name(&self, vid: VasId) -> Option<&Name> {
        Some(&self.by_id.get(&vid)?.0)
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
}
