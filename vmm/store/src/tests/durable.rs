//! Raw segments and power cuts: what is stored before what, and that what it leaves is told.

use std::fs;

use abi::objects::{Lifetime, Right, SegId};

use crate::format::header::SegmentState;
use crate::objects::durable::steps;
use crate::testing::{name, segment, store, versioned};
use crate::{Lease, LeaseInfo, SegmentFile, SegmentSpec, Store};

fn lease(s: &Store) -> Lease {
    Lease::create(s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap()
}

fn joined(s: &Store, sid: SegId, lease: &Lease, right: Right) -> SegmentFile {
    let mut file = s.open_segment(sid).unwrap();
    s.join(&mut file, lease, 0, right).unwrap();
    file
}

fn state(s: &Store, sid: SegId) -> SegmentState {
    s.segment(sid).unwrap().header.state
}

/// A segment of two files.
fn huge(s: &Store) -> SegId {
    let spec = SegmentSpec { reserve_bytes: 40 << 40, ..SegmentSpec::new(9 << 40) };
    s.create_segment(&name("x"), &spec).unwrap()
}

/// What was done since it was called last, in order.
fn done() -> String {
    steps().join(", ")
}

#[test]
fn content_is_stored_before_the_header_calls_it_clean_and_after_it_was_dirty() {
    let s = store();
    let sid = huge(&s);
    done();
    let writer = lease(&s);
    let file = joined(&s, sid, &writer, Right::Write);
    assert_eq!(done(), "header of x, start x");
    s.leave(&file, &writer, 0).unwrap();
    assert_eq!(done(), "all x, all 1, header of x, start x");
    assert_eq!(state(&s, sid), SegmentState::Clean);
    let file = joined(&s, sid, &writer, Right::Write);
    done();
    s.stop_writing(&file, &writer, 0).unwrap();
    assert_eq!(done(), "all x, all 1, header of x, start x");
    assert_eq!(writer.segment(0).unwrap(), Some((sid, Right::Read)));
    s.leave(&file, &writer, 0).unwrap();
    assert_eq!(done(), "", "a reader has nothing to store");
}

#[test]
fn a_second_writer_waits_for_no_disk_and_stores_what_both_have_written() {
    let s = store();
    let sid = segment(&s, "x");
    let (one, two) = (lease(&s), lease(&s));
    let file = joined(&s, sid, &one, Right::Write);
    done();
    let other = joined(&s, sid, &two, Right::Write);
    assert_eq!(done(), "header of x");
    s.leave(&other, &two, 0).unwrap();
    assert!(done().starts_with("all x, header of x"));
    assert_eq!(state(&s, sid), SegmentState::Dirty, "the first one writes still");
    s.leave(&file, &one, 0).unwrap();
    assert!(done().starts_with("all x, header of x"));
    assert_eq!(state(&s, sid), SegmentState::Clean);
}

#[test]
fn what_cannot_be_stored_stays_dirty_and_is_left_all_the_same() {
    let s = store();
    let sid = huge(&s);
    let writer = lease(&s);
    let file = joined(&s, sid, &writer, Right::Write);
    let part = s.path().join(format!("parts/{sid}.1"));
    let aside = s.path().join("parts/aside");
    for stops in [true, false] {
        fs::rename(&part, &aside).unwrap();
        let left = match stops {
            true => s.stop_writing(&file, &writer, 0),
            false => s.leave(&file, &writer, 0),
        };
        let error = left.unwrap_err();
        assert!(error.to_string().contains("part"), "{error}");
        fs::rename(&aside, &part).unwrap();
        assert_eq!(state(&s, sid), SegmentState::Dirty);
        let kept = stops.then_some((sid, Right::Read));
        assert_eq!(writer.segment(0).unwrap(), kept);
        joined(&s, sid, &writer, Right::Write);
    }
}

#[test]
fn volatile_and_versioned_segments_wait_for_no_disk() {
    let s = store();
    let spec = SegmentSpec { lifetime: Lifetime::Volatile, ..SegmentSpec::new(4096) };
    let sid = s.create_segment(&name("v"), &spec).unwrap();
    let (writer, other) = (lease(&s), versioned(&s, "w"));
    done();
    let file = joined(&s, sid, &writer, Right::Write);
    s.leave(&file, &writer, 0).unwrap();
    assert_eq!(done(), "header of v, header of v");
    let mut file = s.open_segment(other).unwrap();
    s.join_versioned(&mut file, &writer, 0, Right::Write, &mut |_, _| Ok(())).unwrap();
    s.leave(&file, &writer, 0).unwrap();
    assert_eq!(done(), "");
}

#[test]
fn lengths_are_stored_before_the_header_that_promises_them() {
    let s = store();
    let sid = huge(&s);
    assert!(done().starts_with("all 1, names in "), "made with the segment");
    s.grow_segment(sid, 17 << 40).unwrap();
    let done = done();
    let (before, after) = done.split_once(", header of x, ").unwrap();
    assert!(before.starts_with("start x, all 1, all 2, names in "), "{before}");
    assert_eq!(after, "start x");
}

#[test]
fn a_growth_that_was_interrupted_can_be_repeated() {
    let s = store();
    let sid = huge(&s);
    s.open_segment(sid).unwrap().file().set_len((20 << 20) + (8 << 40)).unwrap();
    fs::File::options()
        .write(true)
        .open(s.path().join(format!("parts/{sid}.1")))
        .unwrap()
        .set_len(2 << 40)
        .unwrap();
    fs::write(s.path().join(format!("parts/{sid}.2")), "").unwrap();
    assert_eq!(s.open_segment(sid).unwrap().header().size_bytes, 9 << 40);
    assert_eq!(s.open_segment(sid).unwrap().part(1).unwrap().len_bytes(), 1 << 40);
    assert!(s.check_segment(&name("x")).unwrap().findings.is_empty());
    s.grow_segment(sid, 17 << 40).unwrap();
    let file = s.open_segment(sid).unwrap();
    assert_eq!(file.part(1).unwrap().len_bytes(), 8 << 40);
    assert_eq!(file.part(2).unwrap().len_bytes(), 1 << 40);
}
