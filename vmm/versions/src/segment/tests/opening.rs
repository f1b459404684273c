//! What opening a segment to write does to its logs.

use super::*;
use crate::disk::File as _;
use crate::disk::simulated::{Disk, Done};

fn made(disk: &Disk) -> Segment<Disk> {
    Segment::create(disk.clone(), 1, VersionFacts::default(), SMALL).expect("made")
}

fn opened(disk: &Disk) -> Segment<Disk> {
    Segment::open(disk.clone(), SMALL).expect("opened")
}

#[test]
fn opening_makes_no_file_and_the_first_commit_begins_a_log() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    let one = commit(&mut segment, &[(0, 1)]);
    segment.sync().expect("synced");
    drop(segment);
    let names = disk.names().expect("listed");
    let _ = disk.take();
    let mut segment = opened(&disk);
    let (_, journal) = disk.take();
    let is_sync_or_root = |done: &Done| matches!(done, Done::Sync(_) | Done::Write(..));
    assert!(journal.iter().all(is_sync_or_root), "{journal:?}");
    assert_eq!(disk.names().expect("listed"), names);
    let found = segment.current_log();
    let two = commit(&mut segment, &[(0, 2)]);
    assert!(segment.current_log() > found);
    let begun = segment.current_log();
    commit(&mut segment, &[(0, 3)]);
    assert_eq!(segment.current_log(), begun, "once only");
    assert_eq!([one, two].map(|version| first_byte(&segment, 0, version)), [1, 2]);
}

#[test]
fn who_has_looked_goes_on_without_reading_if_nobody_has_written_since_and_opens_anew_otherwise() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &[(0, 1)]);
    segment.sync().expect("synced");
    drop(segment);
    let look = || Segment::open_shared(disk.clone(), SMALL, None).expect("opened");
    let (seen, stale) = (look(), look());
    let before = disk.reads();
    let mut segment = Segment::resume_unchanged(seen).expect("it goes on");
    assert_eq!(disk.reads(), before);
    let found = segment.current_log();
    let two = commit(&mut segment, &[(0, 2)]);
    // Which is why nothing is appended unless a root record is written.
    assert!(segment.current_log() > found);
    segment.sync().expect("synced");
    drop(segment);
    assert!(Segment::resume(stale).expect("read").is_none(), "somebody has written");
    let segment = Segment::resume(look()).expect("read").expect("nobody has");
    assert_eq!((segment.appended(), first_byte(&segment, 0, two)), (two, 2));
}

#[test]
fn a_log_is_read_with_its_header_and_a_long_record_with_what_lies_behind_it() {
    let reads = |pages: u64| {
        let (disk, facts, limits) = (Disk::default(), VersionFacts::default(), Limits::default());
        let mut segment = Segment::create(disk.clone(), 1, facts, limits).expect("made");
        let first: Vec<_> = (0..pages).map(|page| (page, 1)).collect();
        commit(&mut segment, &first);
        let last = commit(&mut segment, &[(0, 2)]);
        segment.sync().expect("synced");
        drop(segment);
        let before = disk.reads();
        let found = Segment::open_shared(disk.clone(), limits, None).expect("opened");
        let reads = disk.reads() - before;
        assert_eq!(found.appended(), last);
        assert_eq!([0, pages - 1].map(|page| first_byte(&found, page, last)), [2, 1]);
        reads
    };
    // The root record, and the log.
    assert_eq!(reads(2), 2);
    assert_eq!(reads(40), 3, "more than is read at first");
}

#[test]
fn a_torn_record_that_is_written_anew_does_not_bring_back_the_whole_one_behind_it() {
    for is_beside_another in [false, true] {
        let disk = Disk::default();
        let mut segment = made(&disk);
        let one = commit(&mut segment, &[(0, 1)]);
        let two = commit(&mut segment, &[(0, 2)]);
        let three = commit(&mut segment, &[(0, 3)]);
        segment.sync().expect("synced");
        let Source::Log(log, offset) = segment.locate(PageIndex(0), two).expect("there") else {
            panic!("it was just appended")
        };
        drop(segment);
        // All of the second record but its content reached the disk, and the third did.
        let file = disk.open(&log.file_name()).expect("opened");
        file.write_at(&[std::io::IoSlice::new(&page(0))], offset).expect("written");
        let mut first = opened(&disk);
        assert_eq!(first.appended(), one);
        if is_beside_another {
            // The first to open it may write, and another one does.
            first = Segment::open_shared(disk.clone(), SMALL, Some(one)).expect("opened");
        }
        assert_eq!(commit(&mut first, &[(0, 2)]), two, "byte for byte");
        first.sync().expect("synced");
        let again = opened(&disk);
        assert_eq!(again.appended(), two, "and not {three}");
    }
}
