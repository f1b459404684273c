//! Freezing, links, rollback, large commits and checkpoints beside others.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::disk::File;
use crate::disk::simulated::{Done, FaultKind, FolderNumber};
use crate::root::GENERATIONS_MAX;

fn made(disk: &Disk) -> Segment<Disk> {
    Segment::create(disk.clone(), 1, VersionFacts::default(), SMALL).expect("made")
}

fn shared(disk: &Disk, up_to: VersionNumber) -> Segment<Disk> {
    Segment::open_shared(disk.clone(), SMALL, Some(up_to)).expect("opened")
}

/// The first bytes of the first pages of a version.
fn bytes<D: Folder>(segment: &Segment<D>, version: VersionNumber) -> [u8; 4] {
    [0, 1, 2, 3].map(|at| first_byte(segment, at, version))
}

fn version(number: u64) -> VersionNumber {
    VersionNumber(number)
}

fn link(segment: &mut Segment<Disk>, from: VersionNumber, disk: &Disk, into: u32) -> Disk {
    let folder = disk.folder(FolderNumber(into));
    let named = |facts: &mut VersionFacts| facts.note = b"tag".to_vec();
    segment.link_version(from, &folder, u64::from(into), named, SMALL).expect("linked");
    folder
}

#[test]
fn what_is_frozen_is_read_from_below_and_freezing_again_does_nothing() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    let mut reader = shared(&disk, version(0));
    commit(&mut segment, &[(0, 1), (1, 1)]);
    segment.freeze().expect("frozen");
    let names = disk.names().expect("listed");
    segment.freeze().expect("frozen");
    assert_eq!(disk.names().expect("listed"), names);
    let two = commit(&mut segment, &[(1, 2)]);
    assert_eq!((bytes(&segment, version(1)), bytes(&segment, two)), ([1, 1, 0, 0], [1, 2, 0, 0]));
    let changed = segment.changed_between(version(1), two).expect("known");
    assert_eq!(Vec::from_iter(changed), [PageIndex(1)]);
    let changed = segment.changed_between(version(0), two).expect("known");
    assert_eq!(changed.len(), 2);
    // Whether it takes in a version at a time, or all at once, or is new.
    reader.refresh(version(1)).expect("refreshed");
    reader.refresh(two).expect("refreshed");
    for other in [reader, shared(&disk, two), Segment::open(disk.clone(), SMALL).expect("opened")] {
        assert_eq!((bytes(&other, version(1)), bytes(&other, two)), ([1, 1, 0, 0], [1, 2, 0, 0]));
        assert_eq!(other.changed_between(version(1), two).expect("known").len(), 1);
        assert_eq!(other.history().count(), 3);
    }
}

#[test]
fn a_frozen_segment_can_be_taken_over_and_written_by_the_other() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    let mut other = shared(&disk, version(0));
    let one = commit(&mut segment, &[(0, 1)]);
    segment.freeze().expect("frozen");
    other.refresh(one).expect("refreshed");
    let two = commit(&mut other, &[(1, 2)]);
    segment.refresh(two).expect("refreshed");
    let three = commit(&mut segment, &[(2, 3)]);
    drop(segment);
    assert_eq!(other.take_over(two).expect("taken over"), three);
    assert_eq!(bytes(&other, three), [1, 2, 3, 0]);
}

#[test]
fn a_linked_version_is_a_segment_of_its_own_with_the_same_files() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &[(0, 1)]);
    commit(&mut segment, &[(0, 2), (1, 2)]);
    commit(&mut segment, &[(0, 3)]);
    let (tag, clone) =
        (link(&mut segment, version(2), &disk, 1), link(&mut segment, version(3), &disk, 2));
    let tag = Segment::open_shared(tag.clone(), SMALL, None).expect("opened");
    assert_eq!((tag.appended(), bytes(&tag, version(2))), (version(2), [2, 2, 0, 0]));
    assert_eq!(bytes(&tag, version(1)), [1, 0, 0, 0], "it has the history");
    assert!(!tag.has(version(3)));
    assert_eq!(tag.facts(version(2)).expect("there").note, b"tag");
    let mut clone = Segment::open(clone, SMALL).expect("opened");
    assert_eq!(commit(&mut clone, &[(3, 9)]), version(4));
    assert_eq!(commit(&mut segment, &[(3, 4)]), version(4));
    assert_eq!(
        (bytes(&clone, version(4)), bytes(&segment, version(4))),
        ([3, 2, 0, 9], [3, 2, 0, 4])
    );
    assert_eq!(segment.stack.layers[0].as_ref().expect("home").file.links().expect("told"), 3);
}

#[test]
fn nothing_that_the_origin_does_changes_what_was_linked_from_it() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &[(0, 1), (1, 1)]);
    segment.checkpoint(version(1), Sharing::Alone).expect("applied");
    commit(&mut segment, &[(0, 2)]);
    let tag = link(&mut segment, version(2), &disk, 1);
    for round in 3..60 {
        commit(&mut segment, &[(0, round), (1 + u64::from(round) % 3, round)]);
        let newest = segment.appended();
        let sharing = if round % 2 == 1 { Sharing::Alone } else { Sharing::Shared };
        segment.checkpoint(newest, sharing).expect("applied");
        let opened = Segment::open_shared(tag.clone(), SMALL, None).expect("opened");
        assert_eq!(bytes(&opened, version(2)), [2, 1, 0, 0], "after {round}");
        assert_eq!(first_byte(&segment, 0, newest), round);
    }
    // Nor the other way round.
    let before = bytes(&segment, segment.appended());
    let mut clone = Segment::open(tag, SMALL).expect("opened");
    for round in 1..40 {
        commit(&mut clone, &[(0, round), (2, round)]);
        clone.checkpoint(clone.appended(), Sharing::Alone).expect("applied");
    }
    let again = Segment::open(disk.clone(), SMALL).expect("opened");
    assert_eq!(bytes(&again, again.appended()), before);
}

#[test]
fn once_no_other_segment_has_a_layer_it_is_written_in_place_and_the_others_go() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    // So much that it is not merged with what comes.
    commit(&mut segment, &[(0, 1), (4, 1), (5, 1), (6, 1), (7, 1)]);
    segment.checkpoint(version(1), Sharing::Alone).expect("applied");
    let tag = link(&mut segment, version(1), &disk, 1);
    commit(&mut segment, &[(1, 2)]);
    segment.checkpoint(version(2), Sharing::Alone).expect("applied");
    assert!(disk.names().expect("listed").iter().any(|name| name.starts_with("layer.")));
    for name in tag.names().expect("listed") {
        tag.remove(&name).expect("removed");
    }
    commit(&mut segment, &[(2, 3)]);
    segment.checkpoint(version(3), Sharing::Alone).expect("applied");
    let names = disk.names().expect("listed");
    assert_eq!(names.len(), 3, "home, root and a log: {names:?}");
    assert_eq!(bytes(&segment, version(3)), [1, 2, 3, 0]);
    let opened = Segment::open(disk.clone(), SMALL).expect("opened");
    assert_eq!(bytes(&opened, version(3)), [1, 2, 3, 0]);
}

#[test]
fn a_rollback_is_a_new_version_and_those_between_are_still_there() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    let mut reader = shared(&disk, version(0));
    let facts = |size_bytes| VersionFacts { size_bytes, ..VersionFacts::default() };
    let content = page(1);
    let one = vec![(PageIndex(0), &content)];
    segment.append(&Commit { facts: facts(4096), pages: one.clone() }).expect("appended");
    segment.append(&Commit { facts: facts(8192), pages: one }).expect("appended");
    commit(&mut segment, &[(0, 3), (1, 3)]);
    let to = RollbackTo::Version(version(1));
    let four = segment.rollback(&to, |facts| facts.note = b"back".to_vec()).expect("rolled back");
    assert_eq!((four, segment.durable(), bytes(&segment, four)), (version(4), four, [1, 0, 0, 0]));
    let said = segment.facts(four).expect("there");
    assert_eq!(
        (said.size_bytes, &said.note[..], said.pid),
        (4096, &b"back"[..], std::process::id())
    );
    assert_eq!(segment.changed_between(version(3), four), None, "any page may have changed");
    let five = commit(&mut segment, &[(2, 5)]);
    assert_eq!(segment.changed_between(four, five).expect("known").len(), 1);
    assert_eq!(segment.changed_between(version(3), five), None);
    reader.refresh(version(3)).expect("refreshed");
    reader.refresh(five).expect("refreshed");
    for other in [&reader, &Segment::open(disk.clone(), SMALL).expect("opened"), &segment] {
        assert_eq!((bytes(other, five), bytes(other, version(3))), ([1, 0, 5, 0], [3, 3, 0, 0]));
        assert_eq!(other.history().count(), 6);
        assert_eq!(other.changed_between(version(3), five), None);
    }
    let back = segment.rollback(&RollbackTo::Version(version(3)), |_| ()).expect("and back");
    assert_eq!(bytes(&segment, back), [3, 3, 0, 0]);
    let gone = segment.rollback(&RollbackTo::Version(version(99)), |_| ());
    assert!(matches!(gone, Err(VersionsError::Gone { .. })), "{gone:?}");
}

#[test]
fn a_tag_can_be_gone_back_to_when_the_segment_has_its_version_and_when_it_has_not() {
    for has_it in [true, false] {
        let disk = Disk::default();
        let mut segment = made(&disk);
        commit(&mut segment, &[(0, 1)]);
        let tag = link(&mut segment, version(1), &disk, 1);
        commit(&mut segment, &[(0, 2), (1, 2)]);
        if !has_it {
            for round in 3..40 {
                commit(&mut segment, &[(0, round), (1, round)]);
                segment.checkpoint(segment.appended(), Sharing::Alone).expect("applied");
            }
        }
        assert_eq!(segment.has(version(1)), has_it);
        let newest = segment.appended();
        let next = segment.rollback(&RollbackTo::Tag(&tag), |_| ()).expect("rolled back");
        assert_eq!((Some(next), bytes(&segment, next)), (newest.next(), [1, 0, 0, 0]));
        let last = commit(&mut segment, &[(2, 7)]);
        let mut opened = Segment::open(disk.clone(), SMALL).expect("opened");
        assert_eq!(bytes(&opened, last), [1, 0, 7, 0]);
        opened.checkpoint(last, Sharing::Alone).expect("applied");
        assert_eq!(bytes(&opened, last), [1, 0, 7, 0]);
        let tag = Segment::open_shared(tag, SMALL, None).expect("opened");
        assert_eq!(bytes(&tag, version(1)), [1, 0, 0, 0]);
    }
}

#[test]
fn another_segments_files_are_not_linked_in() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &[(0, 1)]);
    let stranger = disk.folder(FolderNumber(1));
    drop(Segment::create(stranger.clone(), 2, VersionFacts::default(), SMALL).expect("made"));
    let before = disk.names().expect("listed");
    let refused = segment.rollback(&RollbackTo::Tag(&stranger), |_| ());
    assert!(matches!(refused, Err(VersionsError::Unrelated { .. })), "{refused:?}");
    assert_eq!(disk.names().expect("listed"), before);
    let refused = segment.link_version(version(1), &stranger, 3, |_| (), SMALL);
    assert!(matches!(refused, Err(VersionsError::Io { .. })), "{refused:?}");
}

#[test]
fn a_commit_larger_than_a_log_is_a_layer_and_durable_at_once() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    let mut reader = shared(&disk, version(0));
    commit(&mut segment, &[(0, 1), (3, 1)]);
    let large: Vec<_> = (0..200).map(|at| (at * 3, 2)).collect();
    let two = commit(&mut segment, &large);
    assert_eq!((two, segment.durable()), (version(2), version(2)));
    let three = commit(&mut segment, &[(1, 3)]);
    let after_two = segment.changed_between(version(1), two).expect("known");
    assert_eq!(after_two.len(), 200);
    reader.refresh(version(1)).expect("refreshed");
    reader.refresh(two).expect("refreshed");
    assert_eq!(reader.appended(), two);
    reader.refresh(three).expect("refreshed");
    for other in [reader, shared(&disk, three), Segment::open(disk.clone(), SMALL).expect("opened")]
    {
        assert_eq!(bytes(&other, version(1)), [1, 0, 0, 1]);
        assert_eq!((bytes(&other, two), bytes(&other, three)), ([2, 0, 0, 2], [2, 3, 0, 2]));
        assert_eq!(first_byte(&other, 597, three), 2);
        assert_eq!(other.history().map(|(_, _, pages)| pages).collect::<Vec<_>>(), [0, 2, 200, 1]);
    }
}

#[test]
fn a_large_commit_shows_nothing_before_it_is_finished_and_leaves_nothing_when_it_is_not() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &[(0, 1)]);
    let before = disk.names().expect("listed");
    let mut large = LargeCommit::begin(&segment).expect("begun");
    large.write(PageIndex(1), &page(9)).expect("written");
    assert!(large.write(PageIndex(u64::MAX), &page(9)).is_err());
    large.abort(&segment);
    assert_eq!(disk.names().expect("listed"), before);
    let mut large = LargeCommit::begin(&segment).expect("begun");
    // In any order, and one of them twice.
    for (at, byte) in [(2, 8), (1, 7), (2, 9)] {
        large.write(PageIndex(at), &page(byte)).expect("written");
    }
    assert_eq!(bytes(&segment, version(1)), [1, 0, 0, 0]);
    let left = Segment::open(disk.clone(), SMALL).expect("opened");
    assert_eq!(bytes(&left, left.appended()), [1, 0, 0, 0]);
    let names = disk.names().expect("listed");
    assert!(!names.iter().any(|name| name.starts_with("layer.")), "{names:?}");
}

#[test]
fn pages_of_a_large_commit_come_in_any_order_and_the_last_of_one_counts() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &[(0, 1)]);
    let mut large = LargeCommit::begin(&segment).expect("begun");
    for (at, byte) in [(2, 8), (3, 8), (1, 7), (2, 9)] {
        large.write(PageIndex(at), &page(byte)).expect("written");
    }
    let facts = segment.next_facts();
    let two = large.finish(&mut segment, facts).expect("finished");
    assert_eq!(bytes(&segment, two), [1, 7, 9, 8]);
}

#[test]
fn what_was_written_out_of_a_commit_is_read_again_and_goes_when_the_lock_is_taken_over() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &[(0, 1)]);
    let newest = segment.appended();
    let mut other = Segment::open_shared(disk.clone(), SMALL, Some(newest)).expect("opened");
    let before = disk.names().expect("listed");
    let mut large = LargeCommit::begin(&segment).expect("begun");
    for byte in [5, 6, 0, 7] {
        large.write(PageIndex(3), &page(byte)).expect("written");
        assert_eq!(large.read(PageIndex(3)).expect("read"), page(byte));
    }
    assert!(large.has(PageIndex(3)) && !large.has(PageIndex(2)));
    assert_eq!(large.count_in(PageIndex(0)..PageIndex(9)), 1);
    assert_ne!(disk.names().expect("listed"), before);
    assert_eq!(bytes(&segment, newest), [1, 0, 0, 0]);
    // The program is killed.
    drop((large, segment));
    other.take_over(newest).expect("taken over");
    assert_eq!(bytes(&other, other.appended()), [1, 0, 0, 0]);
    let names = disk.names().expect("listed");
    assert!(!names.iter().any(|name| name.starts_with("layer.")), "{names:?}");
}

/// An error at any operation of the commit: nothing has happened, and the same commit can be tried again, unless
/// it was the sync of what was written out.
#[test]
fn a_large_commit_that_failed_is_tried_again_with_what_was_written_out() {
    for failing in 0.. {
        let disk = Disk::default();
        let mut segment = made(&disk);
        commit(&mut segment, &[(0, 1)]);
        segment.sync().expect("synced");
        let mut large = LargeCommit::begin(&segment).expect("begun");
        for (at, byte) in [(1, 7), (2, 8), (3, 9)] {
            large.write(PageIndex(at), &page(byte)).expect("written");
        }
        large.flush().expect("written");
        let (mut left, name) = (failing, large.id().file_name());
        let is_layers_sync = Arc::new(AtomicBool::new(false));
        let told = is_layers_sync.clone();
        disk.set_fault(Some(Box::new(move |done, file| {
            left -= 1;
            if left != -1 {
                return FaultKind::None;
            }
            let is_sync = matches!(done, Done::Sync(_)) && file == name;
            told.store(is_sync, Ordering::Relaxed);
            FaultKind::Error(ErrorKind::StorageFull)
        })));
        let facts = segment.next_facts();
        let failed = large.finish(&mut segment, facts.clone());
        disk.set_fault(None);
        let is_layers_sync = is_layers_sync.load(Ordering::Relaxed);
        if failed.is_ok() {
            assert!(failing > 5, "no operation was tried");
            break;
        }
        assert_eq!(bytes(&segment, segment.appended()), [1, 0, 0, 0]);
        if segment.has_failed() {
            assert!(large.finish(&mut segment, facts.clone()).is_err(), "before it is renewed");
            segment.renew(segment.appended()).expect("renewed");
        }
        let again = large.finish(&mut segment, facts);
        assert_eq!(again.is_ok(), !is_layers_sync, "after operation {failing}: {again:?}");
        if again.is_err() {
            large.abort(&segment);
        }
        let expected = if is_layers_sync { [1, 0, 0, 0] } else { [1, 7, 8, 9] };
        assert_eq!(bytes(&segment, segment.appended()), expected, "after operation {failing}");
        drop((large, segment));
        let opened = Segment::open(disk.clone(), SMALL).expect("opened");
        assert_eq!(bytes(&opened, opened.appended()), expected, "after operation {failing}");
    }
}

/// EIO and ENOSPC at every operation: what was committed is there, and it goes on.
#[test]
fn an_error_at_any_operation_of_any_call_loses_nothing() {
    type Call = fn(&mut Segment<Disk>, &Disk, &Disk) -> Result<()>;
    let calls: [(&str, Call); 7] = [
        ("freeze", |segment, _, _| segment.freeze()),
        ("large", |segment, _, _| {
            let content = page(1);
            let pages = (0..30).map(|at| (PageIndex(at), &content)).collect();
            segment.append(&Commit { pages, ..Commit::default() }).map(drop)
        }),
        ("rollback", |segment, _, _| {
            segment.rollback(&RollbackTo::Version(VersionNumber(1)), |_| ()).map(drop)
        }),
        ("tag", |segment, _, tag| segment.rollback(&RollbackTo::Tag(tag), |_| ()).map(drop)),
        ("link", |segment, disk, _| {
            segment.link_version(VersionNumber(2), &disk.folder(FolderNumber(9)), 9, |_| (), SMALL)
        }),
        ("alone", |segment, _, _| segment.checkpoint(segment.appended(), Sharing::Alone)),
        ("shared", |segment, _, _| segment.checkpoint(segment.appended(), Sharing::Shared)),
    ];
    for (name, call) in calls {
        for after in [false, true] {
            let mut operation = 0;
            while !fails_well(name, call, operation, after) {
                operation += 1;
            }
            assert!(operation > 2, "{name} has operations");
        }
    }
}

/// Whether the call was over before the operation that was to fail.
fn fails_well(
    name: &str,
    call: fn(&mut Segment<Disk>, &Disk, &Disk) -> Result<()>,
    operation: u64,
    after: bool,
) -> bool {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &[(0, 1)]);
    let tag = link(&mut segment, version(1), &disk, 1);
    // So that the tag's files are not here any more.
    if name == "tag" {
        commit(&mut segment, &[(0, 4)]);
        segment.checkpoint(version(2), Sharing::Shared).expect("merged");
    } else if name == "alone" {
        tag.names().expect("listed").iter().for_each(|name| tag.remove(name).expect("removed"));
    }
    while segment.appended() < version(4) {
        commit(&mut segment, &[(0, 2), (1, 2)]);
    }
    segment.sync().expect("synced");
    let before = segment.appended();
    let was = bytes(&segment, before);
    let mut left = operation;
    disk.set_fault(Some(Box::new(move |_: &Done, _: &str| {
        left = left.wrapping_sub(1);
        match left == u64::MAX {
            true if after => FaultKind::ErrorAfter(std::io::ErrorKind::Other),
            true => FaultKind::Error(std::io::ErrorKind::StorageFull),
            false => FaultKind::None,
        }
    })));
    let mut other = shared(&disk, before);
    let done = call(&mut segment, &disk, &tag);
    disk.set_fault(None);
    let what = format!("{name}, operation {operation}, {done:?}");
    let opened = Segment::open_shared(disk.clone(), SMALL, None).expect(&what);
    assert!(opened.appended() >= before, "{what}");
    if opened.has(before) {
        assert_eq!(bytes(&opened, before), was, "{what}");
    }
    if done.is_err() {
        assert_eq!((segment.appended(), bytes(&segment, before)), (before, was), "{what}");
        if segment.has_failed() {
            segment.renew(before).expect(&what);
        }
        assert_eq!(bytes(&segment, before), was, "{what}");
        commit(&mut segment, &[(3, 3)]);
        segment.sync().expect(&what);
        let next = segment.appended();
        other.refresh(next).expect(&what);
        let expected = [was[0], was[1], was[2], 3];
        let opened = Segment::open(disk.clone(), SMALL).expect(&what);
        for segment in [&segment, &opened, &other] {
            assert_eq!(bytes(segment, next), expected, "{what}");
        }
    }
    done.is_ok()
}

#[test]
fn a_checkpoint_beside_others_changes_nothing_that_they_have_open() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    let mut idle = shared(&disk, version(0));
    commit(&mut segment, &[(0, 1), (1, 1)]);
    idle.refresh(version(1)).expect("refreshed");
    for round in 2..80 {
        commit(&mut segment, &[(u64::from(round) % 4, round), (u64::from(round) % 23, round)]);
        segment.checkpoint(segment.appended(), Sharing::Shared).expect("merged");
        assert_eq!(bytes(&idle, version(1)), [1, 1, 0, 0], "round {round}");
    }
    let newest = segment.appended();
    idle.refresh(newest).expect("refreshed");
    assert_eq!(
        (bytes(&idle, version(1)), bytes(&idle, newest)),
        ([1, 1, 0, 0], bytes(&segment, newest))
    );
    idle.forget_older(newest);
    assert!(matches!(idle.read(PageIndex(0), version(1)), Err(VersionsError::Gone { .. })));
    assert!(idle.older.is_empty());
    assert!(segment.stack.root.generations.len() <= 9);
}

#[test]
fn who_reads_one_version_for_long_keeps_what_it_consists_of_and_nothing_in_between() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    let mut reader = shared(&disk, version(0));
    commit(&mut segment, &[(0, 1), (1, 1)]);
    reader.refresh(version(1)).expect("refreshed");
    let used = BTreeSet::from([version(1)]);
    for round in 2..80 {
        commit(&mut segment, &[(u64::from(round) % 4, round), (u64::from(round) % 23, round)]);
        segment.checkpoint(segment.appended(), Sharing::Shared).expect("merged");
        // As its VM does once a second.
        let newest = segment.appended();
        reader.refresh(newest).expect("refreshed");
        reader.forget_unused(&used);
        assert!(reader.older.len() <= 1, "round {round}: {}", reader.older.len());
        assert_eq!(bytes(&reader, version(1)), [1, 1, 0, 0], "round {round}");
        assert_eq!(bytes(&reader, newest), bytes(&segment, newest), "round {round}");
    }
    reader.forget_unused(&BTreeSet::new());
    assert!(reader.older.is_empty());
}

#[test]
fn a_format_1_folder_opens_and_its_record_is_replaced_in_both_places() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &[(0, 1)]);
    segment.checkpoint(version(1), Sharing::Alone).expect("applied");
    commit(&mut segment, &[(1, 2)]);
    segment.sync().expect("synced");
    let root = segment.stack.root.clone();
    drop(segment);
    // As the first format has it.
    let mut page = [0; PAGE_BYTES];
    page[..8].copy_from_slice(b"SJMPROT\n");
    let logs: Vec<u64> = root.logs().map(|(_, log)| log.id.0).collect();
    let head = [root.counter, root.segment, root.generations[0].base.0, logs.len() as u64, 0];
    for (index, word) in head.iter().chain(&logs).enumerate() {
        page[8 + 8 * index..][..8].copy_from_slice(&word.to_le_bytes());
    }
    let checksum = crate::checksum::Checksum::of(&page[..PAGE_BYTES - 8]);
    page[PAGE_BYTES - 8..].copy_from_slice(&checksum.0.to_le_bytes());
    let (mut files, _) = disk.take();
    files.insert(FolderNumber(0), "root", [page, page].concat());
    let disk = Disk::with_files(files);
    let reader = Segment::open_shared(disk.clone(), SMALL, None).expect("opened");
    assert_eq!((reader.oldest(), bytes(&reader, version(2))), (version(2), [1, 2, 0, 0]));
    let opened = Segment::open(disk.clone(), SMALL).expect("opened");
    assert_eq!(bytes(&opened, version(2)), [1, 2, 0, 0]);
    let (files, _) = disk.take();
    let root = files.get(FolderNumber(0), "root").expect("there");
    assert_eq!((&root[..8], &root[PAGE_BYTES..][..8]), (&b"SJMPRT2\n"[..], &b"SJMPRT2\n"[..]));
}

/// Bytes of files: what was written to, not what a sparse file's length says.
fn stored_bytes(disk: &Disk) -> u64 {
    let bytes = |name: &String| {
        let file = disk.open(name).expect("opened");
        match crate::layer::LayerId::of_file_name(name).filter(|_| !name.ends_with(".map")) {
            Some(id) => {
                let (_, presence) = crate::layer::open(disk, id).expect("opened");
                presence.count() * PAGE_BYTES as u64
            }
            None => file.bytes().expect("measured"),
        }
    };
    disk.names().expect("listed").iter().map(bytes).sum()
}

/// Ten thousand random updates of 400 pages: once applied alone, there is little besides the data.
#[test]
fn files_take_little_more_than_the_data_once_a_vm_is_alone_whatever_went_before() {
    let disk = Disk::default();
    let limits = Limits { log_bytes: 100 * PAGE_BYTES as u64, ahead_bytes: PAGE_BYTES as u64 };
    let mut segment =
        Segment::create(disk.clone(), 1, VersionFacts::default(), limits).expect("made");
    let mut random = crate::disk::simulated::Random(1);
    let data = 400 * PAGE_BYTES as u64;
    for round in 0..2500_u64 {
        let content = page(round as u8);
        let pages = [(); 4].map(|()| PageIndex(random.below(400)));
        let pages: std::collections::BTreeMap<_, _> = pages.map(|page| (page, &content)).into();
        let commit = Commit { pages: pages.into_iter().collect(), ..Commit::default() };
        segment.append(&commit).expect("appended");
        if segment.checkpoint_is_due() {
            let sharing = if random.below(4) == 0 { Sharing::Alone } else { Sharing::Shared };
            segment.checkpoint(segment.appended(), sharing).expect("applied");
            let stored = stored_bytes(&disk);
            assert!(stored <= 3 * data, "beside others: {stored} bytes for {data}");
            assert!(segment.stack.root.generations.len() <= GENERATIONS_MAX / 2 + 1);
        }
    }
    segment.checkpoint(segment.appended(), Sharing::Alone).expect("applied");
    let stored = stored_bytes(&disk);
    assert!(stored * 10 <= data * 13, "{stored} bytes for {data}");
}

#[test]
fn a_layers_map_that_promises_more_than_the_file_has_is_damage() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &(0..12).map(|at| (at, 1)).collect::<Vec<_>>());
    drop(segment);
    let (mut files, _) = disk.take();
    let names = disk.names().expect("listed");
    let map = names.iter().find(|name| name.ends_with(".map")).expect("a layer").clone();
    files.insert(FolderNumber(0), &map, vec![0xff; 64]);
    let opened = Segment::open(Disk::with_files(files), SMALL);
    assert!(matches!(opened, Err(VersionsError::Damaged { .. })), "{opened:?}");
}
