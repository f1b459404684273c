//! Making an old version the newest again.

use abi::objects::SegId;
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::segment::RollbackTo;
use spacejmp_versions::{Segment, VersionNumber, VersionsError};

use crate::format::error::{Busy, Object, StoreError};
use crate::objects::kept::content::HeldAlone;
use crate::objects::kept::names::VersionChoice;
use crate::objects::newest::root_of;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// What is noted as the program that made the new version.
const NOTE: &[u8] = b"spacejmp rollback";

impl Store {
    /// Makes the content of an old version of a segment its newest, under the next number, durably, in
    /// constant time; VMs that have it attached see it when they enter next. Returns the number. The
    /// caller holds the segment's lock alone.
    ///
    /// # Errors
    /// [`StoreError::NoTag`]; [`StoreError::Busy`] for a version with another root object while a VM has
    /// the segment attached, whose program knows this one; [`StoreError::NoVersion`] for a version that
    /// is gone; [`StoreError::Denied`], [`StoreError::NotOwner`] to go back to a tag that links must be
    /// made of; [`StoreError::Versions`]; the host's. Then it is as it was.
    pub fn rollback_segment(
        &self,
        sid: SegId,
        to: &VersionChoice,
        held: HeldAlone,
    ) -> Result<u64, StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_present(sid, &lock)?;
        segment.check_versioned()?;
        segment.check_writable()?;
        let kept = self.kept_with(sid, &lock)?;
        let found = kept.iter().find(|kept| match to {
            VersionChoice::Number(number) => kept.number == *number,
            VersionChoice::Tag(tag) => kept.tag == *tag,
        });
        let tag = match (found, to) {
            (Some(kept), _) => Some(self.open_by_id(kept.sid, &lock)?),
            (None, VersionChoice::Number(_)) => None,
            (None, VersionChoice::Tag(tag)) => {
                let (object, tag) = (Object::SegmentName(segment.name().clone()), tag.clone());
                return Err(StoreError::NoTag { object, tag });
            }
        };
        let mut content = self.open_content(&segment, held, &lock)?;
        self.check_same_root(&segment, &content.versions, to, tag.as_ref())?;
        let note = |facts: &mut VersionFacts| {
            facts.note = NOTE.to_vec();
        };
        let by_number = match to {
            VersionChoice::Number(number) => {
                Some(content.versions.rollback(&RollbackTo::Version(VersionNumber(*number)), note))
            }
            VersionChoice::Tag(_) => None,
        };
        let rolled = match (by_number, &tag) {
            // Its own has it no more.
            (None | Some(Err(VersionsError::Gone { .. })), Some(tag)) => {
                segment.check_linkable()?;
                let folder = HostFolder::from_fd(tag.versions_folder()?);
                content.versions.rollback(&RollbackTo::Tag(&folder), note)
            }
            (Some(rolled), _) => rolled,
            (None, None) => return Err(StoreError::NotFound(Object::Segment(sid))),
        };
        let version = rolled.map_err(|error| self.of_versions_of(&segment, error, &lock))?;
        content.settle()?;
        Ok(version.0)
    }

    /// Refuses a version with another root object while programs have the segment attached: they would
    /// use what they know of the present one, its address and type, on content that it is not of.
    fn check_same_root(
        &self,
        segment: &SegmentFile,
        versions: &Segment<HostFolder>,
        to: &VersionChoice,
        tag: Option<&SegmentFile>,
    ) -> Result<(), StoreError> {
        let then = match (to, tag) {
            (VersionChoice::Number(number), _) if versions.has(VersionNumber(*number)) => {
                versions.facts(VersionNumber(*number)).map(root_of)
            }
            (_, Some(tag)) => self.newest(tag)?.facts().map(root_of),
            _ => None,
        };
        let now = versions.facts(versions.appended()).map(root_of);
        if then.is_none() || then == now {
            return Ok(());
        }
        self.check_unattached(segment.sid()).map_err(|error| match error {
            StoreError::Busy { why: Busy::Attached(holders), .. } => StoreError::Busy {
                object: Object::SegmentName(segment.name().clone()),
                why: Busy::OtherRoot(holders),
            },
            other => other,
        })
    }
}
