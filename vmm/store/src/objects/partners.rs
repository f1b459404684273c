//! Segments that had commits in common: what becomes of the others when the files of one go and its id
//! stays.
//!
//! A program that was killed in a commit of several segments leaves it to whoever opens one of them to
//! look at the others. A segment that is gone has no say there; but one that has new files says that it
//! had no such commit. So the others are decided before. Which they are only their own files say: the
//! segment whose files go may be the one that has nothing of the commit.

use std::collections::BTreeSet;

use abi::objects::SegId;

use crate::format::error::StoreError;
use crate::objects::kept::content::HeldAlone;
use crate::objects::lock::Exclusive;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

impl Store {
    /// Has every segment that had, or may have had, its last commit in common with this one decided about
    /// it, durably. One that cannot be looked at counts if this one says that they had a commit.
    ///
    /// # Errors
    /// [`StoreError::Busy`] for one that a program has attached; [`StoreError::Denied`]; what opening it
    /// gives.
    pub(crate) fn settle_partners(
        &self,
        segment: &SegmentFile,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        let partners: BTreeSet<u64> = self.newest(segment)?.partners().collect();
        let known: Vec<SegId> = self.segment_index(lock)?.ids().collect();
        let others: BTreeSet<SegId> =
            partners.iter().filter_map(|other| SegId::new(*other)).chain(known).collect();
        for sid in others.into_iter().filter(|sid| *sid != segment.sid()) {
            let is_partner = partners.contains(&sid.raw());
            match self.settle_partner(sid, segment.sid(), lock) {
                Ok(()) => {}
                Err(Unsettled::Unreadable(StoreError::NotFound(_))) => {}
                Err(Unsettled::Unreadable(_)) if !is_partner => {}
                Err(Unsettled::Unreadable(error) | Unsettled::Undecided(error)) => {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn settle_partner(&self, sid: SegId, with: SegId, lock: &Exclusive) -> Result<(), Unsettled> {
        let other = self.open_by_id(sid, lock).map_err(Unsettled::Unreadable)?;
        if !other.is_versioned() || !self.asks(&other, with).map_err(Unsettled::Unreadable)? {
            return Ok(());
        }
        self.check_unattached(&other)
            .and_then(|()| {
                self.open_content(&other, HeldAlone { owner_died: false }, lock)?.settle()
            })
            .map(drop)
            .map_err(Unsettled::Undecided)
    }
}

/// Why it is not known that another segment has decided.
enum Unsettled {
    /// It cannot be told whether it has.
    Unreadable(StoreError),
    /// It has not.
    Undecided(StoreError),
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

    /// As a power cut would leave a segment: nothing of the records in its last log.
    fn lose_records(s: &TestStore, sid: SegId) {
        let folder = s.path().join("versions").join(sid.to_string());
        let files = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path());
        let is_log = |path: &std::path::PathBuf| path.to_string_lossy().contains("/log.");
        let last = files.filter(is_log).max().unwrap();
        let mut bytes = std::fs::read(&last).unwrap();
        bytes[4096..].fill(0);
        std::fs::write(last, bytes).unwrap();
    }

    #[test]
    fn a_segment_that_lost_its_half_and_becomes_raw_does_not_give_the_other_its_own() {
        let s = store();
        let [a, b, c] = ["a", "b", "c"].map(|name| versioned(&s, name));
        commit(&s, [b, c]);
        drop((open(&s, b), open(&s, c)));
        // The one never had a commit with it that it knows of, the other had.
        for other in [a, c] {
            let before = newest(&s, other);
            commit(&s, [other, b]);
            lose_records(&s, b);
            s.convert_segment(b, Lifetime::Persistent).unwrap();
            assert_eq!(newest(&s, other), before, "nothing but half of it is left");
            s.convert_segment(b, Lifetime::Versioned).unwrap();
            commit(&s, [b, c]);
            drop((open(&s, b), open(&s, c)));
        }
    }

    #[test]
    fn a_segment_that_cannot_be_read_and_has_nothing_to_do_with_it_is_no_hindrance() {
        let s = store();
        let [a, b] = ["a", "b"].map(|name| versioned(&s, name));
        std::fs::write(s.path().join("versions").join(b.to_string()).join("root"), "").unwrap();
        s.convert_segment(a, Lifetime::Persistent).unwrap();
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
    fn copies_that_are_made_while_a_commit_is_being_published_have_both_parts_or_none() {
        let s = store();
        let [a, b] = ["a", "b"].map(|name| versioned(&s, name));
        let vid = s.create_vas(&name("v"), crate::Mode::PRIVATE).unwrap();
        [a, b].into_iter().for_each(|sid| s.attach_segment(vid, sid, Right::Write).unwrap());
        commit(&s, [a, b]);
        let lease = Lease::create(&s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap();
        for (sid, row) in [(a, 0), (b, 1)] {
            lease.set_segment(row, Some((sid, Right::Write))).unwrap();
        }
        let publish = |sid, version| {
            let words = VersionWords { appended: version, published: version };
            s.open_segment(sid).unwrap().write_words(&words).unwrap();
        };
        let vas = s.vas(vid).unwrap();
        for (index, published) in [[0, 0], [1, 0], [0, 1], [1, 1]].into_iter().enumerate() {
            publish(a, published[0]);
            publish(b, published[1]);
            let segments = s.open_listed(&vas).unwrap();
            // Whoever may only read them holds no lock.
            let copied = s.copy_vas(&vas, &segments, &name(&format!("w{index}")), &[]).unwrap();
            let first = |sid| {
                let newest = s.newest(&s.open_segment(sid).unwrap()).unwrap();
                let mut page = [0; 4096];
                newest.read(0, &mut page).unwrap();
                page[0]
            };
            let expected = if published == [0, 0] { 0 } else { 7 };
            assert_eq!([first(copied.segments[0]), first(copied.segments[1])], [expected; 2]);
        }
    }

    #[test]
    fn a_segment_that_is_deleted_takes_no_whole_commit_along_and_leaves_no_half_one() {
        let s = store();
        let [a, b, c] = ["a", "b", "c"].map(|name| versioned(&s, name));
        commit(&s, [a, b]);
        commit(&s, [c, b]);
        assert_eq!((newest(&s, b), newest(&s, c)), (2, 1));
        lose_records(&s, c);
        assert_eq!((newest(&s, b), newest(&s, c)), (1, 0));
        s.delete_segment(a).unwrap();
        assert_eq!(newest(&s, b), 1, "a later log follows that commit");
        s.delete_segment(c).unwrap();
        assert_eq!(newest(&s, b), 1, "decided before: the other half was lost");
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
    fn a_folder_of_another_users_has_a_say_only_if_the_segment_is_theirs() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can give files to another user");
            return;
        }
        let s = store();
        let [a, b] = ["a", "b"].map(|name| versioned(&s, name));
        commit(&s, [a, b]);
        lose_records(&s, b);
        let file = s.path().join("segments").join("b");
        let give = |path: &std::path::Path| std::os::unix::fs::chown(path, Some(65534), None);
        // The newest of this one, without the commit if the other one is asked and has lost it.
        let seen = || s.open_segment(a).and_then(|it| s.newest(&it)).map(|newest| newest.number());
        assert_eq!(seen().unwrap(), 0);
        give(&s.path().join("versions").join(b.to_string())).unwrap();
        let error = seen().unwrap_err();
        assert_eq!(error.errno(), Errno::EACCES, "{error}");
        give(&file).unwrap();
        assert_eq!(seen().unwrap(), 0, "now it is that user's");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(seen().unwrap(), 1, "as if there were no folder");
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
