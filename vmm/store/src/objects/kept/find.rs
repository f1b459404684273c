//! What is kept of an object.

use abi::objects::{SegId, VasId};
use rustix::fs::OFlags;
use spacejmp_versions::VersionsError;

use crate::format::error::{Object, StoreError};
use crate::format::header::{KeptVersion, read_header};
use crate::format::name::Name;
use crate::objects::kept::names::{VersionChoice, is_passing, version_of, with_version};
use crate::objects::lock::Locked;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// A kept version of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Its own id.
    pub sid: SegId,
    /// What stands behind the `@` of its name: a tag, or `VAS@TAG` for one of a VAS's.
    pub tag: String,
    /// The number of the version.
    pub number: u64,
    /// When it was made: nanoseconds since 1970.
    pub created_ns: u64,
    /// It has a number for a name, and goes by itself.
    pub is_passing: bool,
}

/// A segment and one of its versions, as a name says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chosen<Id> {
    /// An object with the whole name.
    Whole(Id),
    /// An object, and a version that has no name of its own.
    Number(Id, u64),
}

impl Store {
    /// The kept versions of a segment, in the order of their numbers.
    ///
    /// # Errors
    /// If the host fails.
    pub fn kept_of(&self, sid: SegId) -> Result<Vec<Kept>, StoreError> {
        self.kept_with(sid, &self.lock_shared()?)
    }

    pub(crate) fn kept_with(
        &self,
        sid: SegId,
        lock: &impl Locked,
    ) -> Result<Vec<Kept>, StoreError> {
        let Some(name) = self.segment_name(sid, lock)? else { return Ok(Vec::new()) };
        let mut kept = Vec::new();
        for other in self.names_in(&self.segments)? {
            let Some(tag) = version_of(&other, &name) else { continue };
            let Ok(file) = self.segments.open_file(other.as_str(), OFlags::RDONLY) else {
                continue;
            };
            let Ok(header) = read_header(&file, self.segments.path()) else { continue };
            // A segment of this name that is gone may have left tags.
            let Some(KeptVersion { of, number }) = header.kept else { continue };
            if of == sid {
                let (tag, is_passing) = (tag.to_owned(), is_passing(&other));
                let (sid, created_ns) = (header.sid, header.created_ns);
                kept.push(Kept { sid, tag, number, created_ns, is_passing });
            }
        }
        kept.sort_by(|a, b| (a.number, &a.tag).cmp(&(b.number, &b.tag)));
        Ok(kept)
    }

    /// The error of a segment's versions; of a version that is gone it names the nearest that is kept.
    pub(crate) fn of_versions_of(
        &self,
        segment: &SegmentFile,
        error: VersionsError,
        lock: &impl Locked,
    ) -> StoreError {
        let VersionsError::Gone { version, oldest } = error else {
            return segment.of_versions()(error);
        };
        // The error is about the version, whatever else there is.
        let kept = self.kept_with(segment.sid(), lock).unwrap_or_default().into_iter();
        let tagged = kept.filter(|kept| !kept.is_passing);
        let nearest = tagged.min_by_key(|kept| kept.number.abs_diff(version.0));
        StoreError::NoVersion {
            segment: segment.name().clone(),
            number: version.0,
            oldest: oldest.0,
            nearest: nearest.map(|kept| (kept.number, kept.tag)),
        }
    }

    /// The names of all kept versions of a VAS: tags, and what is kept for a while.
    ///
    /// # Errors
    /// If the host fails.
    pub fn vas_versions(&self, name: &Name) -> Result<Vec<Name>, StoreError> {
        let _lock = self.lock_shared()?;
        let all = self.names_in(&self.vas)?.into_iter();
        Ok(all.filter(|other| version_of(other, name).is_some()).collect())
    }

    /// The tags of a VAS: what stands behind the `@` of their names, and their ids.
    ///
    /// # Errors
    /// If the host fails.
    pub fn vas_tags(&self, name: &Name) -> Result<Vec<(String, VasId)>, StoreError> {
        let _lock = self.lock_shared()?;
        let mut tags = Vec::new();
        for other in self.names_in(&self.vas)? {
            if let Some(tag) = version_of(&other, name).filter(|_| !is_passing(&other))
                && let Ok(manifest) = self.read_manifest(&other)
            {
                tags.push((tag.to_owned(), manifest.vid));
            }
        }
        Ok(tags)
    }

    /// What a name means: the segment with the whole name, a kept version, or a segment and the number
    /// of one that the log may have.
    ///
    /// # Errors
    /// As [`Store::find_segment`]; [`StoreError::NoTag`].
    pub fn choose_segment(&self, name: &Name) -> Result<Chosen<SegId>, StoreError> {
        let whole = match self.find_segment(name) {
            Err(error @ StoreError::NotFound(_)) => error,
            found => return Ok(Chosen::Whole(found?)),
        };
        for (object, version) in with_version(name) {
            let sid = match self.find_segment(&object) {
                Err(StoreError::NotFound(_)) => continue,
                found => found?,
            };
            let object = Object::SegmentName(object);
            return match version {
                VersionChoice::Tag(tag) => Err(StoreError::NoTag { object, tag }),
                VersionChoice::Number(number) => {
                    let kept = self.kept_of(sid)?.into_iter();
                    let tagged = kept.filter(|kept| kept.number == number && !kept.is_passing);
                    let mut same = tagged.filter(|kept| self.is_of_present(sid, kept));
                    Ok(same.next().map_or(Chosen::Number(sid, number), |it| Chosen::Whole(it.sid)))
                }
            };
        }
        Err(whole)
    }

    /// Whether a kept version is what the segment has under its number, if it has that. It may be of the
    /// files that the segment had before it was converted and back, with numbers of their own.
    fn is_of_present(&self, sid: SegId, kept: &Kept) -> bool {
        let facts = |sid| {
            let newest = self.open_segment(sid).and_then(|segment| self.newest(&segment)).ok()?;
            newest.facts_of(kept.number).cloned()
        };
        let present = facts(sid);
        present.is_none() || present == facts(kept.sid)
    }

    /// The same for a VAS.
    ///
    /// # Errors
    /// As [`Store::find_vas`]; [`StoreError::NoTag`].
    pub fn choose_vas(&self, name: &Name) -> Result<Chosen<VasId>, StoreError> {
        let whole = match self.find_vas(name) {
            Err(error @ StoreError::NotFound(_)) => error,
            found => return Ok(Chosen::Whole(found?)),
        };
        for (object, version) in with_version(name) {
            let vid = match self.find_vas(&object) {
                Err(StoreError::NotFound(_)) => continue,
                found => found?,
            };
            return match version {
                VersionChoice::Tag(tag) => {
                    Err(StoreError::NoTag { object: Object::VasName(object), tag })
                }
                VersionChoice::Number(number) => {
                    let tagged = self.tag_of_number(vid, number)?;
                    Ok(tagged.map_or(Chosen::Number(vid, number), |(_, tag)| Chosen::Whole(tag)))
                }
            };
        }
        Err(whole)
    }
}
