//! A version that is read for long and without the segment's lock, for a copy, an archive or a comparison.
//!
//! A VM that finds itself alone with a segment overwrites the files below its newest version at a
//! checkpoint. A lease that names the segment says that it is not alone, as that of a VM that has
//! attached it to be read; so does the lock of who has none because the disk takes none (`nameless`). Who can have
//! neither learns afterwards whether something was overwritten: the root record says so before it happens.

use abi::objects::{Right, SegId};
use spacejmp_versions::disk::Folder;
use spacejmp_versions::disk::host::HostFile;
use spacejmp_versions::root::{FILE_NAME, Root};
use spacejmp_versions::{VersionNumber, VersionsError};

use crate::format::error::{StoreError, io_error};
use crate::format::lease::LeaseInfo;
use crate::objects::lease::Lease;
use crate::objects::newest::Newest;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// A version whose files nobody overwrites.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) content: Newest,
    pub(crate) number: u64,
    /// With size and root of the version.
    pub(crate) segment: SegmentFile,
    root: HostFile,
    /// The last to go. None where this user can have none.
    _lease: Option<Lease>,
}

impl Store {
    /// Opens a version of a versioned segment, by default its newest, and keeps it as it is. What was read
    /// of it counts once [`Pinned::check`] has said so.
    ///
    /// # Errors
    /// [`StoreError::NoVersion`] for one that is gone; as [`Store::open_segment`].
    pub(crate) fn pin_version(
        &self,
        sid: SegId,
        number: Option<u64>,
    ) -> Result<Pinned, StoreError> {
        self.pin(sid, number, 0)
    }

    /// The newest version, and not an older one than `least`, which belongs to a version of another segment
    /// that is published already.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn pin_at_least(&self, sid: SegId, least: u64) -> Result<Pinned, StoreError> {
        self.pin(sid, None, least)
    }

    fn pin(&self, sid: SegId, number: Option<u64>, least: u64) -> Result<Pinned, StoreError> {
        let program = "spacejmp, copying a segment".to_owned();
        let info = LeaseInfo { program, pid: std::process::id() };
        let lease = Lease::create_to_read(self, &info, 0).ok();
        let mut segment = self.open_segment(sid)?;
        if let Some(lease) = &lease {
            let lock = self.lock_shared()?;
            self.check_still_there(&segment, &lock)?;
            lease.note_segment(0, &segment, Right::Read, self)?;
        }
        let folder = segment.versions_files()?.read_only();
        let root = folder.open(FILE_NAME);
        let root = root.map_err(|e| io_error("open", &segment.versions_path(), e))?;
        let mut content = self.newest(&segment)?;
        content.reach(least).map_err(segment.of_versions())?;
        let number = number.unwrap_or(content.number());
        let Some(facts) = content.facts_of(number).cloned() else {
            let (version, oldest) = (VersionNumber(number), content.oldest());
            let gone = VersionsError::Gone { version, oldest };
            return Err(self.of_versions_of(&segment, gone, &self.lock_shared()?));
        };
        segment.show_version(&facts)?;
        Ok(Pinned { content, number, segment, root, _lease: lease })
    }
}

impl Pinned {
    /// Whether what was read is what the version has.
    ///
    /// # Errors
    /// [`StoreError::NoVersion`] if a checkpoint has written newer pages over some of it.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let failed = self.segment.of_versions();
        let root = Root::read(&self.root).map_err(failed)?;
        let lowest = root.generations.first().map(|one| one.base);
        // The first format does not say it: there the layer has the version that its logs follow.
        let oldest = root.oldest.or(lowest).unwrap_or_default();
        let version = VersionNumber(self.number);
        if version < oldest {
            let (segment, number) = (self.segment.name().clone(), self.number);
            return Err(StoreError::NoVersion { segment, number, oldest: oldest.0, nearest: None });
        }
        Ok(())
    }
}
