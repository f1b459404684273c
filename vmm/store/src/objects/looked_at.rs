//! A segment's versions as somebody has looked at them, to be attached next: most programs ask for a segment's
//! size before, and the files are open and read by then.

use std::sync::PoisonError;

use spacejmp_versions::Segment;
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::root::FILE_NAME as ROOT;

use crate::objects::newest::FileId;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// What is open keeps its disk space when somebody deletes it: it is no more than that.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct LookedAt {
    /// Open, so that no other file has its number.
    segment: SegmentFile,
    root: FileId,
    /// Whether a change of that file since then would show.
    tells: bool,
    versions: Segment<HostFolder>,
}

/// Versions that somebody has looked at before.
#[derive(Debug)]
pub struct SeenVersions {
    /// They may have more by now: see [`Segment::resume`].
    pub versions: Segment<HostFolder>,
    /// That the root record was not written since, by anybody: see [`Segment::resume_unchanged`].
    pub is_unchanged: bool,
}

impl Store {
    /// Keeps versions that were opened while nobody could write them, with `root` as the root record's file, which
    /// tells of changes since or not, and that take so many bytes of disk space.
    pub(crate) fn keep_looked_at(
        &self,
        segment: &SegmentFile,
        (root, tells): (FileId, bool),
        bytes: u64,
        versions: Segment<HostFolder>,
    ) {
        let is_useful = bytes <= KEPT_BYTES_MAX && versions.folder().is_writable();
        let kept = is_useful.then(|| LookedAt { segment: segment.clone(), root, tells, versions });
        self.set_looked_at(kept);
    }

    pub(crate) fn forget_looked_at(&self) {
        self.set_looked_at(None);
    }

    fn set_looked_at(&self, kept: Option<LookedAt>) {
        *self.looked_at.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    /// The versions of a segment as they were when somebody looked at them, if the files are still the same.
    #[must_use]
    pub fn take_looked_at(&self, segment: &SegmentFile) -> Option<SeenVersions> {
        let kept = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let key = |it: &SegmentFile| (it.identity(), it.sid());
        if key(&kept.segment) != key(segment) {
            return None;
        }
        let root = self.versions_by_sid.stat_at(&format!("{}/{ROOT}", segment.sid()));
        let is_same = root.is_some_and(|root| FileId::of(&root) == kept.root);
        is_same.then_some(SeenVersions { versions: kept.versions, is_unchanged: kept.tells })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use abi::objects::Right;

    use super::KEPT_BYTES_MAX;
    use crate::testing::{store, versioned};

    #[test]
    fn what_was_looked_at_is_taken_once_and_only_while_its_files_are_the_same() {
        let s = store();
        let (sid, other) = (versioned(&s, "x"), versioned(&s, "y"));
        let file = s.open_to_attach(sid).unwrap();
        assert_eq!(file.right(), Right::Write);
        assert!(s.take_looked_at(&file).is_none(), "nobody has");
        s.segment(sid).unwrap();
        assert!(s.take_looked_at(&file).is_some());
        assert!(s.take_looked_at(&file).is_none(), "once");

        let looked = |sid| {
            // What is known of it is not looked for again.
            s.known_newest.lock().unwrap().clear();
            s.segment(sid).unwrap();
        };
        looked(other);
        assert!(s.take_looked_at(&file).is_none(), "another segment");

        looked(sid);
        let root = file.versions_path().join("root");
        let (old, moved) = (std::fs::read(&root).unwrap(), root.with_extension("old"));
        std::fs::rename(&root, &moved).unwrap();
        std::fs::write(&root, &old).unwrap();
        assert!(s.take_looked_at(&file).is_none(), "another file with the same content");

        looked(sid);
        let written = std::fs::File::options().write(true).open(&root).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        written.write_all_at(&old[..1], 0).unwrap();
        assert!(s.take_looked_at(&file).is_none(), "it was written to");

        looked(sid);
        s.delete_segment(sid).unwrap();
        assert!(s.looked_at.lock().unwrap().is_none(), "its disk space is free");
    }

    #[test]
    fn a_root_record_that_was_written_a_moment_before_may_be_written_again_unnoticed() {
        let s = store();
        let sid = versioned(&s, "x");
        let file = s.open_to_attach(sid).unwrap();
        let root = file.versions_path().join("root");
        let old = std::fs::read(&root).unwrap();
        let written = std::fs::File::options().write(true).open(&root).unwrap();
        let is_unchanged = || {
            s.known_newest.lock().unwrap().clear();
            s.segment(sid).unwrap();
            s.take_looked_at(&file).map(|seen| seen.is_unchanged)
        };
        // However long this thread waits for a processor, one of many tries is quick enough.
        let is_noticed = (0..1000).any(|_| {
            written.write_all_at(&old, 0).unwrap();
            is_unchanged() == Some(false)
        });
        assert!(is_noticed);
        let is_settled = (0..10_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            is_unchanged() == Some(true)
        });
        assert!(is_settled);
    }

    #[test]
    fn large_ones_are_not_kept_open() {
        let s = store();
        let sid = versioned(&s, "x");
        let file = s.open_to_attach(sid).unwrap();
        let home = file.versions_path().join("home");
        let home = std::fs::File::options().write(true).open(home).unwrap();
        rustix::fs::fallocate(
            &home,
            rustix::fs::FallocateFlags::KEEP_SIZE,
            0,
            KEPT_BYTES_MAX + 4096,
        )
        .unwrap();
        s.segment(sid).unwrap();
        assert!(s.take_looked_at(&file).is_none());
    }
}
