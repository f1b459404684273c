//! Versions that snapshots of processes keep: those that a thread saw which was inside.
//!
//! Each is a tag of its VAS, under a name that no user gives. Its snapshot says in a file of its own which it has, and
//! they go with the last one that has them. The version is there before the snapshot is, so one that no snapshot has is
//! either of one that is being made, or forsaken: whoever made it was killed, or has failed. The folder of an unfinished
//! snapshot comes before the version, and is locked by who makes it: so it is looked for versions first, then for
//! unfinished snapshots, then for what snapshots have.

use abi::objects::{SegId, VasId};

use crate::format::error::StoreError;
use crate::objects::copy_vas::CopiedVas;
use crate::objects::fresh::random_id;
use crate::objects::kept::names::{OF_SNAPSHOT, is_of_snapshot};
use crate::objects::kept::vas::{MemberHeld, Removed};
use crate::objects::store::Store;

impl Store {
    /// Keeps these versions of the segments of a VAS for a snapshot that is being made ([`Store::keep_vas`]).
    ///
    /// # Errors
    /// As there.
    pub fn keep_for_snapshot(
        &self,
        vid: VasId,
        at: &[(SegId, u64)],
        members: &[MemberHeld],
    ) -> Result<CopiedVas, StoreError> {
        let version = format!("{OF_SNAPSHOT}{:016x}", random_id()?);
        self.keep_vas(vid, &version, Some(at), members)
    }

    /// Removes a version that was kept so, for a snapshot that has come to nothing.
    ///
    /// # Errors
    /// As [`Store::remove_kept_vas`].
    pub fn give_up_for_snapshot(&self, vid: VasId) -> Result<(), StoreError> {
        if is_of_snapshot(&self.vas(vid)?.name) {
            self.remove_kept_vas(vid)?;
        }
        Ok(())
    }

    /// Removes versions that were kept for snapshots and that none has, as far as no VM has them. While a snapshot is
    /// being made, none.
    ///
    /// # Errors
    /// If the host fails.
    pub fn remove_forsaken(&self) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        let mut names = self.names_in(&self.vas)?;
        names.retain(is_of_snapshot);
        // What one has that cannot be read is not known.
        let Some(had) = (if names.is_empty() || self.is_making_snapshot()? {
            None
        } else {
            self.versions_of_snapshots()?
        }) else {
            return Ok(removed);
        };
        for name in names {
            let Ok(vas) = self.vas_named(&name) else { continue };
            let is_kept = |sid: SegId| {
                self.open_segment(sid).is_ok_and(|segment| segment.header().kept.is_some())
            };
            // One that somebody has called so by other means is theirs.
            if had.contains(&vas.vid) || !vas.segments.iter().all(|it| is_kept(it.sid)) {
                continue;
            }
            // A VM that began with the snapshot may have it still.
            if let Ok(segments) = self.remove_kept_vas(vas.vid) {
                removed.vases.push(vas.vid);
                removed.segments.extend(segments);
            }
        }
        Ok(removed)
    }
}
