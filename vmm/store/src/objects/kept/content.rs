//! Opening the versions of a segment to change them from outside: by who holds its lock alone, and the
//! store's, so that no VM comes or goes meanwhile.

use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::segment::Limits;
use spacejmp_versions::{Commit, Segment, VersionNumber, VersionsError};

use crate::format::error::StoreError;
use crate::objects::attach::OtherWriters;
use crate::objects::lock::Exclusive;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;
use crate::objects::words::VersionWords;

/// What is noted as the program that made a version without pages.
const NOTE: &[u8] = b"spacejmp";

/// That the caller holds a segment's lock alone, or that no VM can have the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldAlone {
    /// Its last holder died: what it has appended is not published.
    pub owner_died: bool,
}

/// Versions, open to be changed.
pub(crate) struct OpenContent<'a> {
    pub(crate) versions: Segment<HostFolder>,
    segment: &'a SegmentFile,
    /// The newest version when it was opened.
    before: VersionNumber,
    /// What the root record's file had then, if a live VM can write the segment.
    root_before: Option<Vec<u8>>,
}

impl SegmentFile {
    /// The error of its versions.
    pub(crate) fn of_versions(&self) -> impl Fn(VersionsError) -> StoreError {
        |source| StoreError::Versions { segment: self.name().clone(), source }
    }
}

impl Store {
    /// Opens the versions of a segment whose lock is held. What a dead writer has appended whole counts.
    pub(crate) fn open_content<'a>(
        &self,
        segment: &'a SegmentFile,
        held: HeldAlone,
        _lock: &Exclusive,
    ) -> Result<OpenContent<'a>, StoreError> {
        let failed = segment.of_versions();
        let folder = segment.versions_files()?;
        let limits = Limits::default();
        if segment.header().kept.is_some() {
            // Nobody writes it, so there is nothing to recover and nobody to tell anything.
            let versions = Segment::open_shared(folder, limits, None).map_err(failed)?;
            return Ok(OpenContent::of(versions, segment, None));
        }
        segment.check_writable()?;
        let words = match self.writers_but(segment.sid(), None)? {
            OtherWriters::Live => segment.read_words()?,
            OtherWriters::None => None,
        };
        let Some(words) = words else {
            let seen = Segment::open_shared(folder, limits, None).map_err(&failed)?;
            segment.check_trusted(&seen)?;
            let folder = segment.versions_files()?;
            let versions = Segment::open(folder, limits).inspect_err(|error| {
                if matches!(error, VersionsError::Io { .. }) {
                    segment.note_failure(&seen);
                }
            });
            let versions = versions.map_err(failed)?;
            return Ok(OpenContent::of(versions, segment, None));
        };
        let published = VersionNumber(words.published);
        let mut versions =
            Segment::open_shared(folder, limits, Some(published)).map_err(&failed)?;
        segment.check_trusted(&versions)?;
        if held.owner_died {
            versions.take_over(published).map_err(failed)?;
        }
        let root = segment.root_record()?;
        Ok(OpenContent::of(versions, segment, Some(root)))
    }
}

impl SegmentFile {
    /// Checks that no sync of the current log has failed. What is not durable then has to be written
    /// anew by a program that writes; a sync of ours would succeed and say nothing.
    fn check_trusted(&self, versions: &Segment<HostFolder>) -> Result<(), StoreError> {
        if self.failed_log()? != Some(versions.current_log().0) {
            return Ok(());
        }
        let durable = versions.durable();
        Err(self.of_versions()(VersionsError::Failed { durable }))
    }

    /// Tells everybody that a sync of the current log may have failed. The error that has shown it is what
    /// the caller gets, whatever becomes of this.
    fn note_failure(&self, versions: &Segment<HostFolder>) {
        let _ = self.note_failed_log(versions.current_log().0);
    }
}

impl Drop for OpenContent<'_> {
    /// The host tells of a sync that failed once, and the next one succeeds.
    fn drop(&mut self) {
        if self.versions.has_failed() {
            self.segment.note_failure(&self.versions);
        }
    }
}

impl<'a> OpenContent<'a> {
    fn of(
        versions: Segment<HostFolder>,
        segment: &'a SegmentFile,
        root_before: Option<Vec<u8>>,
    ) -> OpenContent<'a> {
        let before = versions.appended();
        OpenContent { versions, segment, before, root_before }
    }

    /// A VM that has the segment takes in a new root record together with a new version. So if there is
    /// a new record, such as after room was made for a tag, and no new version, one is made that changes
    /// nothing.
    fn announce_root(&mut self) -> Result<(), StoreError> {
        let Some(before) = &self.root_before else { return Ok(()) };
        if self.versions.appended() != self.before || *before == self.segment.root_record()? {
            return Ok(());
        }
        let facts = VersionFacts { note: NOTE.to_vec(), ..self.versions.next_facts() };
        let appended = self.versions.append(&Commit { facts, pages: Vec::new() });
        let synced = appended.and_then(|_| self.versions.sync());
        synced.map(drop).map_err(self.segment.of_versions())
    }

    /// Tells all VMs which version is the newest, and that files may have changed.
    pub(crate) fn settle(mut self) -> Result<VersionNumber, StoreError> {
        if self.segment.header().kept.is_some() {
            return Ok(self.versions.appended());
        }
        self.announce_root()?;
        let newest = self.versions.appended();
        let words = VersionWords { appended: newest.0, published: newest.0 };
        self.segment.write_words(&words)?;
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use crate::objects::kept::content::HeldAlone;
    use crate::testing::{store, versioned};
    use crate::{StoreError, TagName};

    #[test]
    fn a_failure_is_noted_so_that_nobody_trusts_the_next_sync() {
        let s = store();
        let (sid, free) = (versioned(&s, "x"), HeldAlone { owner_died: false });
        let segment = s.open_segment(sid).unwrap();
        let log = {
            let lock = s.lock_exclusive().unwrap();
            let mut content = s.open_content(&segment, free, &lock).unwrap();
            content.versions.distrust();
            content.announce_root().unwrap();
            content.versions.current_log().0
        };
        assert_eq!(segment.failed_log().unwrap(), Some(log));
        let size_bytes = segment.header().size_bytes;
        let grown = s.grow_versioned_segment(sid, size_bytes, free).unwrap_err();
        let tag = TagName::new(b"t").unwrap();
        let tagged = s.keep_version(sid, None, &tag, free).unwrap_err();
        for error in [grown, tagged] {
            let told = error.to_string();
            assert!(matches!(error, StoreError::Versions { .. }), "{told}");
        }
    }
}
