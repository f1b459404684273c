//! How much of a log is read.

use super::*;
use crate::disk::File as _;
use crate::disk::simulated::Disk;

/// A segment with a few large commits and many small ones in one log, all durable.
fn filled(disk: &Disk) -> VersionNumber {
    let facts = VersionFacts::default();
    let mut segment = Segment::create(disk.clone(), 1, facts, Limits::default()).expect("made");
    for round in 1..=4 {
        let pages: Vec<_> = (0..1000).map(|page| (page, round)).collect();
        commit(&mut segment, &pages);
    }
    for round in 5..=100 {
        commit(&mut segment, &[(u64::from(round), round)]);
    }
    segment.sync().expect("synced")
}

#[test]
fn a_log_is_read_in_large_pieces_and_by_who_opens_it_again_its_heads_alone() {
    let disk = Disk::default();
    let last = filled(&disk);
    let verified = Verified::new();
    let before = disk.reads();
    let limits = Limits::default();
    let first = Segment::open_shared_beside(disk.clone(), limits, None, &verified).expect("opened");
    let once = disk.reads() - before;
    // 17 MiB in pieces of 1.25 MiB; root record and headers.
    assert!((14..30).contains(&once), "{once}");
    let before = disk.reads();
    let second = Segment::open_beside(disk.clone(), limits, &verified).expect("opened");
    let again = disk.reads() - before;
    assert!(again < 25, "{again}, and {once} the first time");
    for segment in [&first, &second] {
        assert_eq!(segment.appended(), last);
        assert_eq!([7, 50, 900].map(|page| first_byte(segment, page, last)), [7, 50, 4]);
    }
    verified.clear();
    let before = disk.reads();
    Segment::open_shared_beside(disk.clone(), limits, None, &verified).expect("opened");
    assert!(disk.reads() - before >= once - 5);
}

#[test]
fn a_record_that_is_torn_does_not_count_although_those_before_it_are_known() {
    let disk = Disk::default();
    let last = filled(&disk);
    let verified = Verified::new();
    let limits = Limits::default();
    let mut segment = Segment::open_beside(disk.clone(), limits, &verified).expect("opened");
    assert_eq!(segment.appended(), last);
    let torn = commit(&mut segment, &[(0, 200)]);
    let Source::Log(log, offset) = segment.locate(PageIndex(0), torn).expect("there") else {
        panic!("it was just appended")
    };
    let file = disk.open(&log.file_name()).expect("opened");
    file.write_at(&[std::io::IoSlice::new(&[9])], offset + 100).expect("written");
    let opened = Segment::open_beside(disk, limits, &verified).expect("opened");
    assert_eq!((opened.appended(), first_byte(&opened, 0, last)), (last, 4));
}
