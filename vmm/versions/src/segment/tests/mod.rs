//! What can be told without a crash.

use super::*;
use crate::disk::host::HostFolder;
use crate::disk::simulated::Disk;
use crate::page::PAGE_BYTES;

mod exhaustive;
mod generations;
mod model;
mod opening;
mod reading;
mod several;
mod sharing;
mod space;

const SMALL: Limits = Limits { log_bytes: 20 * PAGE_BYTES as u64, ahead_bytes: PAGE_BYTES as u64 };

fn page(byte: u8) -> Page {
    [byte; PAGE_BYTES]
}

fn commit<D: Folder>(segment: &mut Segment<D>, pages: &[(u64, u8)]) -> VersionNumber {
    let contents: Vec<_> = pages.iter().map(|(at, byte)| (PageIndex(*at), page(*byte))).collect();
    let pages = contents.iter().map(|(at, content)| (*at, content)).collect();
    segment.append(&Commit { pages, ..Commit::default() }).expect("appended")
}

fn first_byte<D: Folder>(segment: &Segment<D>, at: u64, version: VersionNumber) -> u8 {
    segment.read(PageIndex(at), version).expect("read")[0]
}

#[test]
fn each_version_keeps_its_pages_while_it_is_used() {
    let mut segment =
        Segment::create(Disk::default(), 1, VersionFacts::default(), SMALL).expect("made");
    let one = commit(&mut segment, &[(0, 1), (5, 1)]);
    let two = commit(&mut segment, &[(5, 2)]);
    segment.sync().expect("synced");
    for use_it in [one, two] {
        segment.checkpoint(use_it, Sharing::Alone).expect("applied");
        assert_eq!((first_byte(&segment, 0, two), first_byte(&segment, 5, two)), (1, 2));
        assert_eq!(first_byte(&segment, 9, two), 0);
        if use_it == one {
            assert_eq!(first_byte(&segment, 5, one), 1);
        }
    }
    assert_eq!(segment.oldest(), two);
}

#[test]
fn a_commit_is_one_write_and_one_sync_once_the_log_is_prepared() {
    use crate::disk::simulated::Done;
    let disk = Disk::default();
    let mut segment =
        Segment::create(disk.clone(), 1, VersionFacts::default(), Limits::default()).expect("made");
    let _ = disk.take();
    commit(&mut segment, &[(3, 1), (4, 2)]);
    segment.sync().expect("synced");
    let (_, journal) = disk.take();
    let [Done::Write(_, _, bytes), Done::Sync(_)] = &journal[..] else { panic!("{journal:?}") };
    assert_eq!(bytes.len(), 3 * PAGE_BYTES);
}

#[test]
fn a_segment_on_the_host_is_there_when_it_is_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || HostFolder::open(folder.path()).expect("opened");
    let mut segment = Segment::create(open(), 1, VersionFacts::default(), SMALL).expect("made");
    for round in 1..=50 {
        commit(&mut segment, &[(u64::from(round) % 7, round), (100, round)]);
    }
    let last = segment.sync().expect("synced");
    drop(segment);
    let mut segment = Segment::open(open(), SMALL).expect("opened again");
    assert_eq!(segment.durable(), last);
    assert_eq!((first_byte(&segment, 1, last), first_byte(&segment, 100, last)), (50, 50));
    segment.checkpoint(last, Sharing::Alone).expect("applied");
    assert_eq!((first_byte(&segment, 1, last), first_byte(&segment, 100, last)), (50, 50));
    let names = HostFolder::open(folder.path()).and_then(|folder| folder.names()).expect("listed");
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn a_renewal_that_fails_loses_nothing_and_can_be_tried_again() {
    use crate::disk::simulated::{Done, FaultKind};
    let disk = Disk::default();
    let mut segment =
        Segment::create(disk.clone(), 1, VersionFacts::default(), SMALL).expect("made");
    commit(&mut segment, &[(0, 1)]);
    segment.sync().expect("synced");
    let two = commit(&mut segment, &[(0, 2)]);
    let three = commit(&mut segment, &[(1, 3)]);
    let failing = |what: fn(&Done) -> bool| {
        let kind = move |done: &Done| match what(done) {
            true => FaultKind::Error(std::io::ErrorKind::StorageFull),
            false => FaultKind::None,
        };
        disk.set_fault(Some(Box::new(move |done, _| kind(done))));
    };
    failing(|done| matches!(done, Done::Sync(_)));
    assert!(segment.sync().is_err());
    // The disk takes the new log and its first record, and not the second.
    failing(
        |done| matches!(done, Done::Write(_, offset, bytes) if *offset > 8192 && bytes[0] != 0),
    );
    assert!(segment.renew(three).is_err());
    assert!(matches!(segment.sync(), Err(VersionsError::Failed { .. })));
    disk.set_fault(None);
    assert_eq!(segment.renew(three).expect("renewed"), three);
    let read = [(0, two), (0, three), (1, three)].map(|(at, v)| first_byte(&segment, at, v));
    assert_eq!(read, [2, 2, 3]);
}

#[test]
fn a_page_that_no_file_has_and_a_note_that_is_too_long_are_refused() {
    let mut segment =
        Segment::create(Disk::default(), 1, VersionFacts::default(), SMALL).expect("made");
    let content = page(1);
    let far = Commit { pages: vec![(PageIndex(u64::MAX), &content)], ..Commit::default() };
    assert!(matches!(segment.append(&far), Err(VersionsError::NoSuchPage(_))));
    let facts = VersionFacts { note: vec![b'x'; 1000], ..VersionFacts::default() };
    let long = Commit { facts, ..Commit::default() };
    assert!(matches!(segment.append(&long), Err(VersionsError::NoteTooLong { bytes: 1000, .. })));
    assert_eq!(commit(&mut segment, &[(0, 1)]), VersionNumber(1));
}

#[test]
fn the_next_version_has_the_size_and_the_root_object_of_the_newest() {
    let (size_bytes, root_address, note) = (1 << 20, 0x1000, b"x".to_vec());
    let facts = VersionFacts { size_bytes, root_address, note, ..VersionFacts::default() };
    let segment = Segment::create(Disk::default(), 1, facts, SMALL).expect("made");
    let next = segment.next_facts();
    assert_eq!((next.size_bytes, next.root_address, next.note.len()), (1 << 20, 0x1000, 0));
    assert_eq!(next.pid, std::process::id());
    assert!(next.time_ns > 0);
}
