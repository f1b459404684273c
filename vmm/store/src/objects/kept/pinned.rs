//! A version that is read for long and without the segment's lock, for a copy.
//!
//! A VM that finds itself alone with a segment overwrites the files below its newest version at a
//! checkpoint. A lease that names the segment says that it is not alone, as that of a VM that has
//! attached it to be read.

use abi::objects::{Right, SegId};
use spacejmp_versions::{VersionNumber, VersionsError};

use crate::format::error::StoreError;
use crate::format::lease::LeaseInfo;
use crate::objects::lease::Lease;
use crate::objects::newest::Newest;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// A version whose files nobody overwrites.
pub(crate) struct Pinned {
    pub(crate) content: Newest,
    pub(crate) number: u64,
    /// With size and root of the version.
    pub(crate) segment: SegmentFile,
    /// The last to go.
    _lease: Lease,
}

impl Store {
    /// Opens a version of a versioned segment, by default its newest, and keeps it as it is.
    ///
    /// # Errors
    /// [`StoreError::Versions`] for a version that is gone; as [`Store::open_segment`] and
    /// [`Lease::create`].
    pub(crate) fn pin_version(
        &self,
        sid: SegId,
        number: Option<u64>,
    ) -> Result<Pinned, StoreError> {
        let program = "spacejmp, copying a segment".to_owned();
        let lease = Lease::create(self, &LeaseInfo { program, pid: std::process::id() })?;
        let mut segment = self.open_segment(sid)?;
        {
            let lock = self.lock_shared()?;
            self.check_still_there(&segment, &lock)?;
            lease.set_segment(0, Some((sid, Right::Read)))?;
        }
        let content = self.newest(&segment)?;
        let number = number.unwrap_or(content.number());
        let Some(facts) = content.facts_of(number).cloned() else {
            let (version, oldest) = (VersionNumber(number), content.oldest());
            let gone = VersionsError::Gone { version, oldest };
            return Err(self.of_versions_of(&segment, gone, &self.lock_shared()?));
        };
        segment.show_version(&facts)?;
        Ok(Pinned { content, number, segment, _lease: lease })
    }
}
