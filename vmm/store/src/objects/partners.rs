//! Segments that had commits in common: what becomes of the others when the files of one go and its id
//! stays.
//!
//! A program that was killed in a commit of several segments leaves it to whoever opens one of them to
//! look at the others. A segment that is gone has no say there; but one that has new files says that it
//! had no such commit. So the others are opened before.

use abi::objects::SegId;

use crate::format::error::StoreError;
use crate::objects::kept::content::HeldAlone;
use crate::objects::lock::Exclusive;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

impl Store {
    /// Has every segment that had a commit in common with this one decided about its last one, durably.
    ///
    /// # Errors
    /// [`StoreError::Busy`] for one that a program has attached; [`StoreError::Denied`]; what opening it
    /// gives.
    pub(crate) fn settle_partners(
        &self,
        segment: &SegmentFile,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        for other in self.newest(segment)?.partners() {
            let Some(sid) = SegId::new(other) else { continue };
            let other = match self.open_by_id(sid, lock) {
                Err(StoreError::NotFound(_)) => continue,
                opened => opened?,
            };
            if other.is_versioned() && self.newest(&other)?.ends_together() {
                self.check_unattached(sid)?;
                self.open_content(&other, HeldAlone { owner_died: false }, lock)?.settle()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use abi::Errno;
    use abi::objects::{Lifetime, Right, SegId};
    use spacejmp_host::error::Remedy as _;
    use spacejmp_versions::disk::host::HostFolder;
    use spacejmp_versions::segment::{Limits, Part, append_together};
    use spacejmp_versions::{Commit, PageIndex, Segment, VersionsError};

    use crate::testing::{TestStore, name, store, versioned};
    use crate::{Busy, Lease, LeaseInfo, StoreError, VersionWords};

    fn open(s: &TestStore, sid: SegId) -> Segment<HostFolder> {
        let folder = s.open_segment(sid).unwrap().versions_folder().unwrap();
        Segment::open(HostFolder::from_fd(folder), Limits::default()).unwrap()
    }

    /// One commit of both, by a program that is killed then.
    fn commit(s: &TestStore, sids: [SegId; 2]) {
        let mut both = sids.map(|sid| open(s, sid));
        let page = [7; 4096];
        let commits = [0, 1].map(|index: usize| Commit {
            facts: both[index].next_facts(),
            pages: vec![(PageIndex(0), &page)],
        });
        let parts = both.iter_mut().zip(&commits);
        let mut parts: Vec<_> = parts.map(|(segment, commit)| Part { segment, commit }).collect();
        append_together(&mut parts).unwrap();
        for segment in &mut both {
            segment.sync().unwrap();
        }
    }

    fn newest(s: &TestStore, sid: SegId) -> u64 {
        s.newest(&s.open_segment(sid).unwrap()).unwrap().number()
    }

    #[test]
    fn a_segment_that_gets_new_files_takes_no_commit_from_those_it_had_it_with() {
        let s = store();
        let [a, b] = ["a", "b"].map(|name| versioned(&s, name));
        commit(&s, [a, b]);
        let lease = Lease::create(&s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap();
        lease.set_segment(0, Some((b, Right::Write))).unwrap();
        let error = s.convert_segment(a, Lifetime::Persistent).unwrap_err();
        assert!(matches!(error, StoreError::Busy { why: Busy::Attached(_), .. }), "{error}");
        drop(lease);
        s.convert_segment(a, Lifetime::Persistent).unwrap();
        s.convert_segment(a, Lifetime::Versioned).unwrap();
        assert_eq!((newest(&s, a), newest(&s, b)), (0, 1));
        // The other one still names a version of the files that are gone.
        for wanted in [[(a, None), (b, None)], [(b, None), (a, None)]] {
            let views = s.view_segments(&wanted).unwrap();
            let numbers: Vec<_> = views.iter().map(|view| view.number().unwrap()).collect();
            assert_eq!(numbers.iter().sum::<u64>(), 1, "{numbers:?}");
        }
        assert_eq!(open(&s, b).appended().0, 1);
    }

    #[test]
    fn a_segment_that_was_deleted_and_comes_back_takes_no_commit_from_those_it_had_it_with() {
        let s = store();
        let [a, b] = ["a", "b"].map(|name| versioned(&s, name));
        commit(&s, [a, b]);
        let header = s.open_segment(a).unwrap().header().clone();
        s.delete_segment(a).unwrap();
        // As by an import, which keeps its id.
        s.make_versions(&header, crate::Mode::PRIVATE, None, &s.lock_exclusive().unwrap()).unwrap();
        assert_eq!(newest(&s, b), 1);
        assert_eq!(open(&s, b).appended().0, 1);
    }

    #[test]
    fn who_looks_while_a_commit_is_being_published_sees_both_parts_or_none() {
        let s = store();
        let [a, b] = ["a", "b"].map(|name| versioned(&s, name));
        commit(&s, [a, b]);
        let lease = Lease::create(&s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap();
        [a, b].into_iter().zip(0..).for_each(|(sid, row)| {
            lease.set_segment(row, Some((sid, Right::Write))).unwrap();
        });
        let publish = |sid, version| {
            let words = VersionWords { appended: version, published: version };
            s.open_segment(sid).unwrap().write_words(&words).unwrap();
        };
        let seen = |wanted: [(SegId, Option<u64>); 2]| {
            let views = s.view_segments(&wanted).unwrap();
            views.iter().map(|view| view.number().unwrap()).collect::<Vec<_>>()
        };
        for (published, expected) in [([0, 0], [0, 0]), ([1, 0], [1, 1]), ([0, 1], [1, 1])] {
            publish(a, published[0]);
            publish(b, published[1]);
            assert_eq!(seen([(a, None), (b, None)]), expected);
            assert_eq!(seen([(b, None), (a, None)]), expected);
        }
        assert_eq!(seen([(a, Some(0)), (b, None)]), [0, 1], "an old one is what it is");
    }

    #[test]
    fn a_segment_that_was_deleted_takes_no_commit_along_and_one_without_it_does() {
        let s = store();
        let [a, b, c] = ["a", "b", "c"].map(|name| versioned(&s, name));
        commit(&s, [a, b]);
        commit(&s, [c, b]);
        let log = s.open_segment(c).unwrap().path().parent().unwrap().join("../versions");
        let folder = log.join(c.to_string());
        assert_eq!((newest(&s, b), newest(&s, c)), (2, 1));
        // As a power cut would leave it: nothing of the record.
        let logs = std::fs::read_dir(&folder).unwrap().flatten();
        for log in logs.filter(|it| it.file_name().to_string_lossy().starts_with("log.")) {
            let mut bytes = std::fs::read(log.path()).unwrap();
            bytes[4096..].fill(0);
            std::fs::write(log.path(), bytes).unwrap();
        }
        assert_eq!((newest(&s, b), newest(&s, c)), (1, 0));
        s.delete_segment(a).unwrap();
        assert_eq!(newest(&s, b), 1, "a later log follows that commit");
        s.delete_segment(c).unwrap();
        assert_eq!(newest(&s, b), 2, "nobody has the other half");
    }

    #[test]
    fn a_segment_that_cannot_be_looked_at_is_named() {
        let s = store();
        let [a, b] = ["a", "b"].map(|name| versioned(&s, name));
        commit(&s, [a, b]);
        let folder = s.path().join("versions").join(b.to_string());
        std::fs::rename(&folder, s.path().join("aside")).unwrap();
        std::fs::write(&folder, "").unwrap();
        let error = s.open_segment(a).unwrap_err();
        let StoreError::Versions { source, .. } = &error else { panic!("{error}") };
        assert!(source.to_string().contains(&b.to_string()), "{source}");
        assert_eq!(error.errno(), Errno::EIO);
        std::fs::remove_file(&folder).unwrap();
        std::fs::rename(s.path().join("aside"), &folder).unwrap();
        assert_eq!(newest(&s, a), 1);
    }

    #[test]
    fn who_must_not_look_at_the_other_one_is_told_what_to_do() {
        let denied = VersionsError::Io {
            action: "open",
            file: "root".to_owned(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        };
        let source = VersionsError::Companion { segment: 1, source: Box::new(denied) };
        let error = StoreError::Versions { segment: name("a"), source };
        assert_eq!(error.errno(), Errno::EACCES);
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("both")), "{error}");
    }
}
