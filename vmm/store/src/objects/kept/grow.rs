//! A versioned segment's size, changed from outside: by a commit of its own, that changes nothing else.

use abi::objects::SegId;
use spacejmp_versions::Commit;
use spacejmp_versions::log::record::VersionFacts;

use crate::format::error::StoreError;
use crate::objects::create::round_size;
use crate::objects::kept::content::HeldAlone;
use crate::objects::segments::check_growth;
use crate::objects::store::Store;

/// What is noted as the program that made the new version.
const NOTE: &[u8] = b"spacejmp seg grow";

impl Store {
    /// Makes a versioned segment larger, within its reserve, durably, as its next version; VMs that have it
    /// attached see it when they enter next. The caller holds the segment's lock alone.
    ///
    /// # Errors As [`Store::grow_segment`]; [`StoreError::Kept`] for a tag;
    /// [`StoreError::Versions`]. Then it is as it was.
    pub fn grow_versioned_segment(
        &self,
        sid: SegId,
        size_bytes: u64,
        held: HeldAlone,
    ) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_present(sid, &lock)?;
        segment.check_versioned()?;
        segment.check_writable()?;
        let mut content = self.open_content(&segment, held, &lock)?;
        let facts = content.versions.next_facts();
        let reserve_bytes = segment.header().reserve_bytes;
        check_growth(&segment, facts.size_bytes, size_bytes)?;
        let size_bytes = round_size(size_bytes, reserve_bytes)?;
        let facts = VersionFacts { size_bytes, note: NOTE.to_vec(), ..facts };
        let before = content.versions.appended();
        let appended = content.versions.append(&Commit { facts, pages: Vec::new() });
        let synced = appended.and_then(|_| content.versions.sync());
        if synced.is_err() && content.versions.has_failed() {
            // Should this fail as well, whoever has the lock next may find that it has grown.
            let _ = content.versions.renew(before);
        }
        synced.map_err(segment.of_versions())?;
        content.settle().map(drop)
    }
}
