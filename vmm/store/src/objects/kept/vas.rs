//! A version of all segments of a VAS, of one moment.

use std::time::Duration;

use abi::objects::{Right, SegId, VasId};

use crate::format::error::{Object, StoreError};
use crate::format::header::Header;
use crate::format::name::Name;
use crate::format::record::{VasRecord, VasSegment};
use crate::objects::clone::Copied;
use crate::objects::copy_vas::CopiedVas;
use crate::objects::fresh::now_ns;
use crate::objects::kept::content::HeldAlone;
use crate::objects::kept::link::Becomes;
use crate::objects::kept::names::{is_passing, kept_name, version_of};
use crate::objects::lock::{Exclusive, Locked};
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// A segment of a VAS whose lock is held, or that needs none: a kept one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberHeld {
    /// The segment.
    pub sid: SegId,
    /// Its lock.
    pub held: HeldAlone,
}

/// What [`Store::remove_passing`] has removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// VASes.
    pub vases: Vec<VasId>,
    /// Segments.
    pub segments: Vec<SegId>,
}

impl Store {
    /// Keeps the newest version of all versioned segments of a VAS under `version`, as the VAS
    /// `NAME@VERSION`: durably, in constant time, all at once or nothing. Raw segments have no versions
    /// and are left out. With `at` it keeps those versions instead, and no segment that is not named there.
    /// The caller holds the locks of all of them alone.
    ///
    /// # Errors
    /// As [`Store::keep_version`]; [`StoreError::NoVersions`] for a VAS without versioned segments;
    /// [`StoreError::Busy`] when the VAS has got another segment meanwhile.
    pub fn keep_vas(
        &self,
        vid: VasId,
        version: &str,
        at: Option<&[(SegId, u64)]>,
        members: &[MemberHeld],
    ) -> Result<CopiedVas, StoreError> {
        let lock = self.lock_exclusive()?;
        let vas = self.vas_by_id(vid, &lock)?;
        let name = kept_name(&vas.name, version)?;
        if self.vas.stat(name.as_str())?.is_some() {
            return Err(StoreError::Exists(Object::VasName(name)));
        }
        let mut made = Vec::new();
        let mut listed = Vec::new();
        for listing in &vas.segments {
            let segment = match self.open_present(listing.sid, &lock) {
                Err(StoreError::NotFound(_)) => return Err(vas.lost(listing, listing.sid)),
                opened => opened?,
            };
            let named = at.and_then(|at| at.iter().find(|(sid, _)| *sid == segment.sid()));
            let number = named.map(|(_, number)| *number);
            if segment.header().kept.is_some() {
                let (sid, name) = (segment.sid(), segment.name().clone());
                listed.push(VasSegment { sid, right: Right::Read, name });
            } else if segment.is_versioned() && at.is_some() == number.is_some() {
                let copy = self.keep_member(&vas, &segment, version, number, members, &lock)?;
                let (sid, name) = (copy.header.sid, copy.header.name.clone());
                listed.push(VasSegment { sid, right: Right::Read, name });
                made.push(copy);
            }
        }
        if listed.is_empty() {
            return Err(StoreError::NoVersions(vas.name));
        }
        let vid = self.publish_with_vas(&vas, &name, listed, &mut made, &lock)?;
        Ok(CopiedVas { vid, segments: made.iter().map(|copy| copy.header.sid).collect() })
    }

    fn keep_member(
        &self,
        vas: &VasRecord,
        segment: &SegmentFile,
        version: &str,
        number: Option<u64>,
        members: &[MemberHeld],
        lock: &Exclusive,
    ) -> Result<Copied<'_>, StoreError> {
        let member = members.iter().find(|member| member.sid == segment.sid());
        let held = member.ok_or_else(|| StoreError::Busy {
            object: Object::VasName(vas.name.clone()),
            why: crate::format::error::Busy::Changed,
        })?;
        segment.check_writable()?;
        let mut content = self.open_content(segment, held.held, lock)?;
        let number = number.unwrap_or(content.versions.appended().0);
        let name = kept_name(segment.name(), &format!("{}@{version}", vas.name.as_str()))?;
        let kept = Becomes::Kept;
        let made = self.link_version(&mut content, segment, number, &name, kept, "import", lock)?;
        content.settle()?;
        Ok(made)
    }

    /// Has segments and the VAS that lists them appear together. If we are killed on the way, `gc`
    /// removes those that have appeared without it.
    pub(crate) fn publish_with_vas(
        &self,
        vas: &VasRecord,
        name: &Name,
        listed: Vec<VasSegment>,
        made: &mut [Copied<'_>],
        lock: &Exclusive,
    ) -> Result<VasId, StoreError> {
        let mut published = 0;
        let done = made
            .iter_mut()
            .try_for_each(|copy| {
                self.check_segment_name_free(&copy.header.name, lock)?;
                // The second name goes with the copy, once the VAS lists the segment.
                copy.main.done =
                    !self.publish_segment_of_many(&copy.main.name, &copy.header, lock)?;
                published += 1;
                Ok(())
            })
            .and_then(|()| self.make_vas(name, vas.mode, listed, vas.tagged, None, lock));
        for copy in made.iter_mut().take(published) {
            if done.is_ok() {
                copy.keep_parts();
            } else if let Ok(segment) = self.open_named(&copy.header.name, lock) {
                let _ = self.remove_segment(&segment, lock);
            }
        }
        done
    }

    /// Removes a tag of a VAS, and the kept versions that it lists and that no other VAS lists. Returns
    /// which those are.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while a VM has it or one of its segments attached; [`StoreError::Denied`].
    pub fn remove_kept_vas(&self, vid: VasId) -> Result<Vec<SegId>, StoreError> {
        let vas = self.vas(vid)?;
        for segment in &vas.segments {
            match self.open_to_attach(segment.sid) {
                Ok(segment) => self.check_unattached(&segment)?,
                // What cannot be opened nobody can have opened without a lease.
                Err(_) => self.check_in_no_lease(segment.sid)?,
            }
        }
        self.delete_vas(vid)?;
        let mut removed = Vec::new();
        for segment in &vas.segments {
            let is_kept = self.open_segment(segment.sid).map(|it| it.header().kept.is_some());
            if !is_kept.unwrap_or(false) {
                continue;
            }
            match self.delete_segment(segment.sid) {
                Ok(()) => removed.push(segment.sid),
                // Another VAS has it, too, or it went meanwhile.
                Err(StoreError::Busy { .. } | StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Removes versions that were kept for a while only and that no VM has: those with a number for a
    /// name; and kept versions of a VAS's tag that is gone. Those that are younger than `min_age` stay: a
    /// program may have found one and not attached it yet. Returns what went.
    ///
    /// # Errors
    /// If the host fails.
    pub fn remove_passing(&self, min_age: Duration) -> Result<Removed, StoreError> {
        let min_age_ns = u64::try_from(min_age.as_nanos()).unwrap_or(u64::MAX);
        // One with a time to come, by a clock that was set back, is not young.
        let is_young = |header: &Header| {
            let age_ns = now_ns().checked_sub(header.created_ns);
            age_ns.is_some_and(|age_ns| age_ns < min_age_ns)
        };
        let mut removed = Removed::default();
        let vases = self.names_in(&self.vas)?.into_iter().filter(is_passing);
        for name in vases {
            let Ok(vas) = self.vas_named(&name) else { continue };
            let is_kept = |it: &VasSegment| {
                let segment = self.open_segment(it.sid);
                segment.is_ok_and(|it| it.header().kept.is_some() && !is_young(it.header()))
            };
            // One that earlier versions called so is an ordinary one.
            if !vas.segments.is_empty() && vas.segments.iter().all(is_kept) {
                let Ok(segments) = self.remove_kept_vas(vas.vid) else { continue };
                removed.vases.push(vas.vid);
                removed.segments.extend(segments);
            }
        }
        for name in self.names_in(&self.segments)? {
            if !name.as_str().contains('@') {
                continue;
            }
            let Ok(sid) = self.find_segment(&name) else { continue };
            let Ok(segment) = self.open_segment(sid) else { continue };
            let Some(kept) = segment.header().kept.filter(|_| !is_young(segment.header())) else {
                continue;
            };
            let of = self.open_segment(kept.of);
            let tag = of.ok().and_then(|of| version_of(&name, of.name()).map(str::to_owned));
            if is_passing(&name) || tag.is_some_and(|tag| tag.contains('@')) {
                // Not while a VM has it or a VAS lists it.
                removed.segments.extend(self.delete_segment(sid).is_ok().then_some(sid));
            }
        }
        Ok(removed)
    }

    /// Whether a VAS is a version that is kept for a while only. One that earlier versions called so is
    /// an ordinary one.
    pub(crate) fn is_passing_vas(&self, vas: &VasRecord, lock: &impl Locked) -> bool {
        let is_kept = |it: &VasSegment| {
            self.open_by_id(it.sid, lock).is_ok_and(|segment| segment.header().kept.is_some())
        };
        is_passing(&vas.name) && !vas.segments.is_empty() && vas.segments.iter().all(is_kept)
    }

    /// Removes a kept version of a segment.
    ///
    /// # Errors
    /// [`StoreError::NoTag`]; as [`Store::delete_segment`].
    pub fn remove_kept(&self, sid: SegId, tag: &str) -> Result<(), StoreError> {
        let name = self.open_segment(sid)?.name().clone();
        let kept = self.kept_of(sid)?.into_iter().find(|kept| kept.tag == tag);
        let object = Object::SegmentName(name);
        let kept = kept.ok_or_else(|| StoreError::NoTag { object, tag: tag.to_owned() })?;
        self.delete_segment(kept.sid)
    }
}
