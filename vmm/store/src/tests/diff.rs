//! Comparing versions: what differs is found, and what is shared is not read.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use abi::objects::{Lifetime, SegId, SegRoot};
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::segment::Limits;
use spacejmp_versions::{Commit, PageIndex, Segment, Sharing};

use crate::testing::{TestStore, name, segment, store, versioned};
use crate::{HeldAlone, SegmentDiff, StoreError, TagName, VersionChoice, diff};

/// No VM has the segment.
const FREE: HeldAlone = HeldAlone { owner_died: false };

fn content(s: &TestStore, sid: SegId) -> Segment<HostFolder> {
    let folder = s.open_segment(sid).unwrap().versions_folder().unwrap();
    Segment::open(HostFolder::from_fd(folder), Limits::default()).unwrap()
}

/// Makes a version with these pages, each full of a byte; returns its number.
fn commit(s: &TestStore, sid: SegId, pages: &[(u64, u8)]) -> u64 {
    let mut content = content(s, sid);
    let facts = content.next_facts();
    let filled: Vec<_> = pages.iter().map(|(at, byte)| (PageIndex(*at), [*byte; 4096])).collect();
    let pages = filled.iter().map(|(at, page)| (*at, page)).collect();
    let version = content.append(&Commit { facts, pages }).unwrap();
    content.sync().unwrap();
    version.0
}

type Of = (SegId, Option<u64>);

fn compare(s: &TestStore, from: Of, to: Of) -> SegmentDiff {
    let view = |(sid, number): Of| s.view_segment(sid, number).unwrap();
    diff(&view(from), &view(to), &mut |_| ()).unwrap()
}

/// The pages that differ.
fn pages(diff: &SegmentDiff) -> Vec<u64> {
    let run = |it: &crate::DiffRange| it.offset / 4096..(it.offset + it.bytes) / 4096;
    diff.ranges.iter().flat_map(run).collect()
}

/// A versioned segment of 256 pages, each with something in it.
fn full(s: &TestStore, text: &str) -> SegId {
    let sid = segment(s, text);
    let file = s.open_segment(sid).unwrap();
    let part = file.part(0).unwrap();
    for page in 0..256 {
        rustix::io::pwrite(part.fd(), &[7; 4096], part.offset() + page * 4096).unwrap();
    }
    s.convert_segment(sid, Lifetime::Versioned).unwrap();
    sid
}

#[test]
fn two_versions_differ_in_what_was_changed_in_between_and_nothing_else_is_read() {
    let s = store();
    let sid = full(&s, "x");
    let first = commit(&s, sid, &[(3, 1), (4, 1), (200, 1)]);
    let second = commit(&s, sid, &[(4, 2), (255, 2)]);
    let found = compare(&s, (sid, Some(first)), (sid, None));
    assert_eq!((pages(&found), found.bytes(), found.compared_pages), (vec![4, 255], 8192, 2));
    assert!(!found.is_resized && !found.is_rerooted && !found.is_empty());
    let found = compare(&s, (sid, Some(0)), (sid, Some(second)));
    assert_eq!((pages(&found), found.compared_pages), (vec![3, 4, 200, 255], 4));
    let runs: Vec<_> = found.ranges.iter().map(|run| (run.offset, run.bytes)).collect();
    assert_eq!(runs, [(3 * 4096, 8192), (200 * 4096, 4096), (255 * 4096, 4096)]);
    let same = compare(&s, (sid, Some(second)), (sid, None));
    assert!(same.is_empty() && same.compared_pages == 0, "{same:?}");
    // Written anew and the same.
    commit(&s, sid, &[(4, 2)]);
    let same = compare(&s, (sid, Some(second)), (sid, None));
    assert!(same.is_empty() && same.compared_pages == 1, "{same:?}");
}

#[test]
fn tags_clones_and_rollbacks_are_compared_by_the_files_that_they_share() {
    let s = store();
    let sid = full(&s, "x");
    let first = commit(&s, sid, &[(9, 1)]);
    s.keep_version(sid, None, &TagName::new(b"one").unwrap(), FREE).unwrap();
    let tag = s.find_segment(&name("x@one")).unwrap();
    commit(&s, sid, &[(10, 2)]);
    let found = compare(&s, (tag, None), (sid, None));
    assert_eq!((pages(&found), found.compared_pages), (vec![10], 1));
    // What a checkpoint has brought to a fresh layer lies elsewhere for one of the two.
    let mut checkpointed = content(&s, sid);
    let newest = checkpointed.appended();
    checkpointed.checkpoint(newest, Sharing::Alone).unwrap();
    drop(checkpointed);
    let found = compare(&s, (tag, None), (sid, None));
    assert_eq!(pages(&found), [10]);
    assert!(found.compared_pages <= 2, "{found:?}");
    let clone = s.clone_version(sid, None, &name("y"), FREE).unwrap();
    let same = compare(&s, (clone, None), (sid, None));
    assert!(same.is_empty() && same.compared_pages == 0, "{same:?}");
    commit(&s, clone, &[(0, 3)]);
    assert_eq!(pages(&compare(&s, (clone, None), (sid, None))), [0]);
    let to = VersionChoice::Tag("one".to_owned());
    let last = s.rollback_segment(sid, &to, FREE).unwrap();
    assert!(last > first);
    let same = compare(&s, (tag, None), (sid, None));
    assert!(same.is_empty(), "{same:?}");
    assert_eq!(pages(&compare(&s, (clone, None), (sid, None))), [0, 10]);
}

#[test]
fn a_raw_segment_is_compared_by_its_content_and_holes_are_zeros() {
    let s = store();
    let (sid, raw) = (versioned(&s, "x"), segment(&s, "raw"));
    let found = compare(&s, (sid, None), (raw, None));
    assert!(found.is_empty() && found.compared_pages == 0, "{found:?}");
    let file = s.open_segment(raw).unwrap();
    let part = file.part(0).unwrap();
    for (page, byte) in [(5, 1), (6, 0), (90, 2)] {
        rustix::io::pwrite(part.fd(), &[byte; 4096], part.offset() + page * 4096).unwrap();
    }
    commit(&s, sid, &[(90, 2), (91, 3)]);
    assert_eq!(pages(&compare(&s, (raw, None), (sid, None))), [5, 91]);
    let same = compare(&s, (raw, None), (raw, None));
    assert!(same.is_empty() && same.compared_pages == 0, "{same:?}");
    // Size and root object count as well.
    s.grow_segment(raw, 2 << 20).unwrap();
    let address = file.header().base + 64;
    s.root_set(raw, SegRoot { address, fingerprint: [1, 2] }).unwrap();
    let found = compare(&s, (sid, None), (raw, None));
    assert!(found.is_resized && found.is_rerooted);
    assert_eq!(pages(&found), [5, 91]);
    let error = s.view_segment(raw, Some(1)).unwrap_err();
    assert!(matches!(error, StoreError::Unversioned { .. }), "{error}");
}

#[test]
fn a_version_that_is_gone_is_named_before_and_after_it_was_read() {
    let s = store();
    let sid = versioned(&s, "x");
    let gone = |error: &StoreError| matches!(error, StoreError::NoVersion { .. });
    let first = commit(&s, sid, &[(0, 1)]);
    assert!(gone(&s.view_segment(sid, Some(99)).unwrap_err()));
    let old = s.view_segment(sid, Some(first)).unwrap();
    commit(&s, sid, &[(0, 2)]);
    let newest = s.view_segment(sid, None).unwrap();
    old.check().unwrap();
    // As by a VM that had looked before the lease was there.
    let mut content = content(&s, sid);
    let last = content.appended();
    content.checkpoint(last, Sharing::Alone).unwrap();
    assert!(gone(&diff(&old, &newest, &mut |_| ()).unwrap_err()));
    newest.check().unwrap();
    assert!(gone(&s.view_segment(sid, Some(first)).unwrap_err()));
}

#[test]
fn who_can_have_no_lease_reads_and_learns_whether_it_was_overwritten() {
    let s = store();
    let sid = versioned(&s, "x");
    let first = commit(&s, sid, &[(0, 1)]);
    let second = commit(&s, sid, &[(3, 2)]);
    // As on a disk that is full, or cannot be written.
    let vms = s.path().join("vms");
    std::fs::remove_dir(&vms).unwrap();
    let (old, newest) =
        (s.view_segment(sid, Some(first)).unwrap(), s.view_segment(sid, None).unwrap());
    assert_eq!(pages(&diff(&old, &newest, &mut |_| ()).unwrap()), [3]);
    let mut content = content(&s, sid);
    content.checkpoint(content.appended(), Sharing::Alone).unwrap();
    assert_eq!(newest.number(), Some(second));
    let error = diff(&old, &newest, &mut |_| ()).unwrap_err();
    assert!(matches!(error, StoreError::NoVersion { number, .. } if number == first), "{error}");
    std::fs::create_dir(&vms).unwrap();
}

/// A row of numbers that is the same each time.
fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

#[test]
fn any_two_versions_differ_as_their_contents_do() {
    let s = store();
    let sid = full(&s, "x");
    let mut state = 1;
    let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::from([(0, vec![7; 256])]);
    for round in 0..40 {
        let mut now = model.values().next_back().unwrap().clone();
        match random(&mut state, 6) {
            0 => {
                let mut content = content(&s, sid);
                let newest = content.appended();
                content.checkpoint(newest, Sharing::Shared).unwrap();
            }
            1 => {
                let numbers: Vec<_> = model.keys().copied().collect();
                let to = numbers[random(&mut state, numbers.len() as u64) as usize];
                let rolled = s.rollback_segment(sid, &VersionChoice::Number(to), FREE);
                if let Ok(number) = rolled {
                    let then = model[&to].clone();
                    model.insert(number, then);
                }
            }
            _ => {
                let changes: Vec<_> = (0..1 + random(&mut state, 4))
                    .map(|_| (random(&mut state, 256), random(&mut state, 3) as u8))
                    .collect();
                let changes: BTreeMap<_, _> = changes.into_iter().collect();
                changes.iter().for_each(|(page, byte)| now[*page as usize] = *byte);
                let changes: Vec<_> = changes.into_iter().collect();
                model.insert(commit(&s, sid, &changes), now);
            }
        }
        if round % 8 != 7 {
            continue;
        }
        let there = s.history(sid).unwrap();
        let there = there.iter().filter(|it| it.opens && model.contains_key(&it.number));
        let there: Vec<u64> = there.map(|it| it.number).collect();
        assert!(!there.is_empty());
        for (one, other) in there.iter().flat_map(|a| there.iter().map(move |b| (*a, *b))) {
            let (old, new) = (&model[&one], &model[&other]);
            let expected: Vec<u64> =
                (0..256).filter(|page| old[*page as usize] != new[*page as usize]).collect();
            let found = compare(&s, (sid, Some(one)), (sid, Some(other)));
            assert_eq!(pages(&found), expected, "{one} and {other}");
        }
    }
    assert!(model.len() > 20);
}

#[test]
fn parts_of_a_large_raw_segment_are_compared_where_they_lie() {
    let s = store();
    let spec = crate::SegmentSpec { lockable: true, ..crate::SegmentSpec::new(9 << 40) };
    let [one, other] = ["one", "other"].map(|text| s.create_segment(&name(text), &spec).unwrap());
    let write = |sid, at: u64| {
        let file = s.open_segment(sid).unwrap();
        let part = file.part(at / crate::PART_BYTES).unwrap();
        let to = std::fs::File::from(part.fd().try_clone_to_owned().unwrap());
        to.write_all_at(b"x", part.offset() + at % crate::PART_BYTES).unwrap();
    };
    for at in [0, crate::PART_BYTES - 4096, crate::PART_BYTES, (9 << 40) - 1] {
        write(one, at);
        assert_eq!(pages(&compare(&s, (one, None), (other, None))), [at / 4096]);
        write(other, at);
    }
    assert!(compare(&s, (one, None), (other, None)).is_empty());
}
