//! What becomes of the numbers of a VAS when a segment goes whose files know them: the manifest says then
//! up to which they are used.

use abi::objects::{SegId, VasId};

use crate::format::error::StoreError;
use crate::format::manifest::Manifest;
use crate::format::record::VasSegment;
use crate::objects::fresh::now_ns;
use crate::objects::lock::Exclusive;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

impl Store {
    /// The highest number that a commit through a VAS may have had which is to give up a segment, and which
    /// nobody is inside of. Also what the others know: the numbers of one that is left alone are those of
    /// the VAS only if there never were any others.
    pub(crate) fn last_number_without(&self, vas: &Manifest, sid: SegId, lock: &Exclusive) -> u64 {
        let known = |listed: &VasSegment| {
            let segment = self.open_by_id(listed.sid, lock);
            match segment.and_then(|segment| self.last_number_of(&segment, vas.vid)) {
                Ok(number) => number,
                // It cannot be read. There were fewer commits than nanoseconds.
                Err(error) if listed.sid == sid && !is_gone(&error) => now_ns(),
                Err(_) => 0,
            }
        };
        vas.segments.iter().map(known).max().unwrap_or(0)
    }

    fn last_number_of(&self, segment: &SegmentFile, vid: VasId) -> Result<u64, StoreError> {
        if !segment.is_versioned() || segment.header().kept.is_some() {
            return Ok(0);
        }
        Ok(self.newest(segment)?.content().last_number(vid.raw()))
    }

    /// Before a segment gets new files: each VAS that lists it notes the numbers that only the old
    /// ones may know, durably.
    ///
    /// # Errors
    /// [`StoreError::Denied`] for a VAS with such numbers that the caller may not change.
    pub(crate) fn keep_numbers(
        &self,
        segment: &SegmentFile,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        for name in self.vases_listing(segment.sid())? {
            let vas = self.vas_record(&name)?;
            let number = self.last_number_of(segment, vas.vid)?;
            if number > vas.numbers_after {
                self.set_numbers_after(vas.vid, number, lock)?;
            }
        }
        Ok(())
    }
}

/// By hand, or as a volatile one.
fn is_gone(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound(_))
}

#[cfg(test)]
mod tests {
    use abi::objects::{Lifetime, Right};
    use spacejmp_versions::disk::host::HostFolder;
    use spacejmp_versions::log::entry::{Member, VasEntry};
    use spacejmp_versions::log::record::VersionFacts;
    use spacejmp_versions::segment::Limits;
    use spacejmp_versions::{Commit, Segment};

    use super::*;
    use crate::format::name::Mode;
    use crate::testing::{TestStore, name, store, versioned};

    /// A commit of a segment alone, with a number of a VAS.
    fn commit(s: &TestStore, sid: SegId, vid: VasId, number: u64) {
        let folder = s.open_segment(sid).unwrap().versions_folder().unwrap();
        let mut segment = Segment::open(HostFolder::from_fd(folder), Limits::default()).unwrap();
        let facts = segment.next_facts();
        let version = segment.appended().next().unwrap();
        let member = Member { segment: sid.raw(), version, time_ns: facts.time_ns };
        let entry = Some(VasEntry { vas: vid.raw(), number, members: vec![member] });
        let facts = VersionFacts { entry, ..facts };
        segment.append(&Commit { facts, pages: Vec::new() }).unwrap();
        segment.sync().unwrap();
    }

    fn after(s: &TestStore, vid: VasId) -> u64 {
        s.vas(vid).unwrap().numbers_after
    }

    /// A VAS with two segments; the numbers of its commits that each of them knows.
    fn used(s: &TestStore, numbers: [u64; 2]) -> (VasId, [SegId; 2]) {
        let sids = ["a", "b"].map(|name| versioned(s, name));
        let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
        for (sid, number) in sids.into_iter().zip(numbers) {
            s.attach_segment(vid, sid, Right::Write).unwrap();
            commit(s, sid, vid, number);
        }
        (vid, sids)
    }

    #[test]
    fn numbers_that_a_segment_knew_stay_used_when_the_vas_gives_it_up() {
        let s = store();
        let (vid, [a, b]) = used(&s, [12, 17]);
        assert_eq!(after(&s, vid), 0);
        s.detach_segment(vid, a).unwrap();
        assert_eq!(after(&s, vid), 17, "the higher one");
        s.detach_segment(vid, b).unwrap();
        assert_eq!(after(&s, vid), 17);
        s.set_vas_tagged(vid, false).unwrap();
        s.attach_segment(vid, b, Right::Write).unwrap();
        assert_eq!(after(&s, vid), 17, "no other change forgets it");
    }

    #[test]
    fn a_segment_that_is_converted_leaves_the_numbers_to_the_vases_that_list_it() {
        let s = store();
        let (vid, [a, _]) = used(&s, [17, 12]);
        s.convert_segment(a, Lifetime::Persistent).unwrap();
        assert_eq!(after(&s, vid), 17);
        s.convert_segment(a, Lifetime::Versioned).unwrap();
        assert_eq!(after(&s, vid), 17);
    }

    #[test]
    fn of_a_segment_that_cannot_be_read_any_number_may_have_been_used() {
        let s = store();
        let (vid, [a, _]) = used(&s, [17, 12]);
        let before = now_ns();
        std::fs::write(s.path().join("versions").join(a.to_string()).join("root"), [0; 8192])
            .unwrap();
        s.detach_segment(vid, a).unwrap();
        assert!(after(&s, vid) >= before);
    }

    #[test]
    fn a_segment_without_numbers_leaves_none() {
        let s = store();
        let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
        for sid in [versioned(&s, "a"), crate::testing::segment(&s, "raw")] {
            s.attach_segment(vid, sid, Right::Write).unwrap();
            s.detach_segment(vid, sid).unwrap();
        }
        assert_eq!(after(&s, vid), 0);
    }
}
