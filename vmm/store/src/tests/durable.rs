//! Raw segments and power cuts: what is stored before what, and that what it leaves is told.

use std::fs;
use std::os::unix::fs::FileExt;

use abi::objects::{Lifetime, Right, SegId};

use crate::format::header::{BootId, Header, SegmentState, write_header};
use crate::objects::durable::steps;
use crate::testing::{name, segment, store, versioned};
use crate::{
    Busy, LOCK_PAGE_OFFSET, Lease, LeaseInfo, SegmentFile, SegmentSpec, Store, StoreError,
    check_store,
};

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
    assert_eq!(writer.segment_in_file(0), Some((sid, Right::Read)));
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
        assert_eq!(writer.segment_in_file(0), kept);
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

/// The segment as an earlier boot left it.
fn of_an_earlier_boot(s: &Store, sid: SegId) {
    let file = s.open_segment(sid).unwrap();
    let mut header = file.header().clone();
    (header.state, header.boot) = (SegmentState::Dirty, s.boot());
    header.boot.0[0] ^= 1;
    write_header(file.file(), file.path(), &header).unwrap();
}

/// Whether it is inconsistent: for people, and in the page that programs look at.
fn inconsistent(s: &Store, sid: SegId) -> (bool, bool) {
    let page = s.open_segment(sid).unwrap().lock_view().unwrap();
    (s.segment(sid).unwrap().inconsistent, page.inconsistent)
}

#[test]
fn what_an_earlier_boot_left_dirty_is_inconsistent_for_whoever_attaches_it() {
    let s = store();
    for (round, right) in [Right::Read, Right::Write].into_iter().enumerate() {
        let sid = segment(&s, ["r", "w"][round]);
        of_an_earlier_boot(&s, sid);
        assert_eq!(inconsistent(&s, sid), (true, false), "nobody has had it yet");
        let record = s.segment(sid).unwrap();
        assert!(record.dirty() && record.of_another_boot);
        let user = lease(&s);
        let file = joined(&s, sid, &user, right);
        assert_eq!(inconsistent(&s, sid), (true, true), "{right:?}");
        assert!(!s.segment(sid).unwrap().of_another_boot);
        s.leave(&file, &user, 0).unwrap();
        assert_eq!(inconsistent(&s, sid), (true, true), "leaving recovers nothing");
        // Once only: what was recovered stays so.
        file.file().write_all_at(&[0; 8], LOCK_PAGE_OFFSET).unwrap();
        joined(&s, sid, &lease(&s), Right::Write);
        assert_eq!(inconsistent(&s, sid), (false, false));
    }
}

#[test]
fn a_copy_of_what_an_earlier_boot_left_is_inconsistent_too() {
    let s = store();
    let sid = segment(&s, "x");
    of_an_earlier_boot(&s, sid);
    let copy = s.clone_segment(sid, &name("y")).unwrap();
    assert_eq!(inconsistent(&s, copy), (true, true));
}

#[test]
fn nothing_else_is_inconsistent_after_a_boot() {
    let s = store();
    let spec = SegmentSpec { lockable: false, ..SegmentSpec::new(4096) };
    let unlocked = s.create_segment(&name("unlocked"), &spec).unwrap();
    of_an_earlier_boot(&s, unlocked);
    assert!(s.segment(unlocked).unwrap().of_another_boot);
    let unknown = segment(&s, "unknown");
    let killed = segment(&s, "killed");
    let put = |sid: SegId, state, boot| {
        let file = s.open_segment(sid).unwrap();
        let header = Header { state, boot, ..file.header().clone() };
        write_header(file.file(), file.path(), &header).unwrap();
    };
    put(unknown, SegmentState::Dirty, BootId::default());
    put(killed, SegmentState::Dirty, s.boot());
    let clean = segment(&s, "clean");
    put(clean, SegmentState::Clean, BootId([7; 16]));
    for sid in [unlocked, unknown, killed, clean] {
        assert_eq!(inconsistent(&s, sid), (false, false));
        joined(&s, sid, &lease(&s), Right::Write);
        assert_eq!(inconsistent(&s, sid), (false, false));
    }
    // On a folder that two running kernels share.
    let shared = segment(&s, "shared");
    let elsewhere = lease(&s);
    joined(&s, shared, &elsewhere, Right::Write);
    of_an_earlier_boot(&s, shared);
    joined(&s, shared, &lease(&s), Right::Read);
    assert_eq!(inconsistent(&s, shared), (false, false));
}

#[test]
fn a_check_says_what_an_earlier_boot_left() {
    let s = store();
    let spec = SegmentSpec { lockable: false, ..SegmentSpec::new(4096) };
    let unlocked = s.create_segment(&name("unlocked"), &spec).unwrap();
    let locked = segment(&s, "locked");
    for (sid, text, findings) in [(unlocked, "unlocked", 1), (locked, "locked", 2)] {
        of_an_earlier_boot(&s, sid);
        let report = s.check_segment(&name(text)).unwrap();
        assert_eq!(report.findings.len(), findings, "{report:?}");
        assert!(report.sound() && report.findings[0].expected.contains("lost power"));
        let all = check_store(s.path()).unwrap();
        assert!(report.findings.iter().all(|finding| all.findings.contains(finding)));
    }
}

#[test]
fn a_segment_is_recoverable_while_nobody_can_write_it_or_is_inside() {
    let s = store();
    let sid = segment(&s, "x");
    let file = s.open_segment(sid).unwrap();
    let (writer, reader) = (lease(&s), lease(&s));
    joined(&s, sid, &writer, Right::Write);
    for error in [s.check_recoverable(&file).unwrap_err(), s.declare_clean(&file).unwrap_err()] {
        assert!(matches!(&error, StoreError::Busy { why: Busy::Attached(_), .. }), "{error}");
    }
    drop(writer);
    joined(&s, sid, &reader, Right::Read);
    s.check_recoverable(&file).unwrap();
    let put = |word: usize, value: u64| {
        let at = LOCK_PAGE_OFFSET + word as u64 * 8;
        file.file().write_all_at(&value.to_le_bytes(), at).unwrap();
    };
    put(seg_lock::word::LEASES + 3, reader.id().raw());
    put(seg_lock::word::READER_COUNTS + 3, 2);
    let error = s.check_recoverable(&file).unwrap_err();
    assert!(matches!(&error, StoreError::Busy { why: Busy::Inside(_), .. }), "{error}");
    drop(reader);
    s.check_recoverable(&file).unwrap();
    assert_eq!(state(&s, sid), SegmentState::Dirty);
    done();
    s.declare_clean(&file).unwrap();
    assert_eq!(
        (state(&s, sid), done().as_str()),
        (SegmentState::Clean, "all x, header of x, start x")
    );
    let whole = s.open_segment(versioned(&s, "v")).unwrap();
    let error = s.check_recoverable(&whole).unwrap_err();
    assert!(error.to_string().contains("nothing to recover"), "{error}");
}
