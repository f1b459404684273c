//! What one VM does while another has the segment.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::disk::simulated::{AfterCut, Done, FaultKind, Files, Random, killed_after};

fn made(disk: &Disk) -> Segment<Disk> {
    Segment::create(disk.clone(), 1, VersionFacts::default(), SMALL).expect("made")
}

fn shared(disk: &Disk, up_to: VersionNumber) -> Segment<Disk> {
    Segment::open_shared(disk.clone(), SMALL, Some(up_to)).expect("opened")
}

#[test]
fn a_refresh_takes_in_what_is_known_and_nothing_behind_it() {
    let disk = Disk::default();
    let mut writer = made(&disk);
    let mut reader = shared(&disk, VersionNumber(0));
    let one = commit(&mut writer, &[(0, 1)]);
    let two = commit(&mut writer, &[(0, 2), (3, 2)]);
    reader.refresh(one).expect("refreshed");
    assert_eq!((reader.appended(), first_byte(&reader, 0, one)), (one, 1));
    assert_eq!(reader.facts(two), None);
    reader.refresh(two).expect("refreshed");
    assert_eq!(first_byte(&reader, 3, two), 2);
    let changed = reader.changed_between(one, two).expect("known");
    assert_eq!(Vec::from_iter(changed), [PageIndex(0), PageIndex(3)]);
}

#[test]
fn a_version_that_was_made_known_and_is_not_there_is_damage() {
    let disk = Disk::default();
    let mut writer = made(&disk);
    let mut reader = shared(&disk, VersionNumber(0));
    commit(&mut writer, &[(0, 1)]);
    let missing = reader.refresh(VersionNumber(2));
    assert!(matches!(missing, Err(VersionsError::Damaged { .. })), "{missing:?}");
    assert_eq!(first_byte(&reader, 0, VersionNumber(1)), 1);
}

#[test]
fn a_version_older_than_a_checkpoint_is_gone_and_the_newest_is_not() {
    let disk = Disk::default();
    let mut writer = made(&disk);
    let mut idle = shared(&disk, VersionNumber(0));
    let one = commit(&mut writer, &[(0, 1)]);
    let two = commit(&mut writer, &[(0, 2)]);
    writer.checkpoint(two, Sharing::Alone).expect("applied");
    let gone = idle.refresh(one);
    assert!(matches!(gone, Err(VersionsError::Gone { oldest, .. }) if oldest == two), "{gone:?}");
    assert!(Segment::open_shared(disk.clone(), SMALL, Some(one)).is_err());
    idle.refresh(two).expect("refreshed");
    assert_eq!((idle.oldest(), first_byte(&idle, 0, two)), (two, 2));
    assert!(idle.facts(two).is_some());
    assert_eq!(idle.changed_between(VersionNumber(0), two), None, "any page may have changed");
}

#[test]
fn what_somebody_reads_who_came_while_a_checkpoint_was_under_way_is_not_overwritten() {
    let disk = Disk::default();
    let mut writer = made(&disk);
    let one = commit(&mut writer, &[(0, 1)]);
    writer.checkpoint(one, Sharing::Alone).expect("applied");
    let two = commit(&mut writer, &[(0, 2)]);
    let (mut reader, mut asked) = (None, 0);
    let mut who = || {
        asked += 1;
        if asked == 1 {
            // Directly after the writer has looked.
            reader = Some(shared(&disk, one));
            return Sharing::Alone;
        }
        Sharing::Shared
    };
    writer.checkpoint_asking(two, &mut who).expect("merged");
    let reader = reader.expect("it came");
    assert_eq!(first_byte(&reader, 0, one), 1);
    assert_eq!(first_byte(&writer, 0, two), 2);
    // Who comes later gets what is there.
    assert!(Segment::open_shared(disk.clone(), SMALL, Some(one)).is_err());
    assert_eq!(first_byte(&shared(&disk, two), 0, two), 2);
    assert_eq!(asked, 2);
}

#[test]
fn a_segment_that_has_not_reached_the_last_log_is_not_written_to() {
    let disk = Disk::default();
    let mut writer = made(&disk);
    let mut behind = shared(&disk, VersionNumber(0));
    for round in 1..=30 {
        commit(&mut writer, &[(0, round)]);
    }
    behind.refresh(VersionNumber(3)).expect("refreshed");
    let content = page(9);
    let change = Commit { pages: vec![(PageIndex(0), &content)], ..Commit::default() };
    let refused = behind.append(&change);
    assert!(matches!(refused, Err(VersionsError::Behind(VersionNumber(3)))), "{refused:?}");
    let refused = behind.checkpoint(VersionNumber(3), Sharing::Alone);
    assert!(matches!(refused, Err(VersionsError::Behind(_))), "{refused:?}");
    behind.refresh(VersionNumber(30)).expect("refreshed");
    assert_eq!(behind.append(&change).expect("appended"), VersionNumber(31));
    writer.refresh(VersionNumber(31)).expect("refreshed");
    assert_eq!(first_byte(&writer, 0, VersionNumber(31)), 9);
}

#[test]
fn a_refresh_reads_the_head_of_a_record_and_not_its_pages() {
    let disk = Disk::default();
    let mut writer = made(&disk);
    let mut reader = shared(&disk, VersionNumber(0));
    let one = commit(&mut writer, &[(0, 1), (1, 1), (2, 1)]);
    let before = disk.reads();
    reader.refresh(one).expect("refreshed");
    // One for the root record.
    assert_eq!(disk.reads() - before, 2);
}

#[test]
fn two_syncs_at_once_do_not_hide_that_one_failed() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &[(0, 1)]);
    let first = segment.sync_ticket();
    commit(&mut segment, &[(0, 2)]);
    let second = segment.sync_ticket();
    let mut is_first = true;
    disk.set_fault(Some(Box::new(move |done, _| match done {
        // As the host does it: the error is told once.
        Done::Sync(_) if std::mem::take(&mut is_first) => {
            FaultKind::Error(std::io::ErrorKind::Other)
        }
        _ => FaultKind::None,
    })));
    let results = (first.run(), second.run());
    assert!(segment.synced(second, results.1).is_err());
    assert!(segment.synced(first, results.0).is_err());
    assert_eq!(segment.durable(), VersionNumber(0));
    disk.set_fault(None);
    assert_eq!(segment.renew(VersionNumber(2)).expect("renewed"), VersionNumber(2));
}

#[test]
fn a_sync_that_succeeded_counts_although_an_append_has_failed_since() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    let one = commit(&mut segment, &[(0, 1)]);
    let ticket = segment.sync_ticket();
    let result = ticket.run();
    // Behind the zeros that are written ahead.
    disk.set_fault(Some(killed_after(1, 100)));
    assert!(segment.append(&Commit::default()).is_err());
    disk.set_fault(None);
    assert_eq!(segment.synced(ticket, result).expect("synced"), one);
    assert!(matches!(segment.sync(), Err(VersionsError::Failed { durable }) if durable == one));
    assert_eq!(segment.renew(one).expect("renewed"), one);
}

#[test]
fn a_ticket_of_a_log_that_is_closed_changes_nothing() {
    let disk = Disk::default();
    let mut segment = made(&disk);
    commit(&mut segment, &[(0, 1)]);
    let ticket = segment.sync_ticket();
    for round in 2..=30 {
        commit(&mut segment, &[(0, round)]);
    }
    let durable = segment.durable();
    assert!(durable > ticket.version());
    let late = segment.synced(ticket, Err(std::io::ErrorKind::Other.into()));
    assert_eq!(late.expect("closed"), durable);
    assert_eq!(segment.sync().expect("synced"), VersionNumber(30));
}

#[test]
fn a_version_that_was_given_up_is_replaced_by_what_came_instead() {
    let disk = Disk::default();
    let mut writer = made(&disk);
    let one = commit(&mut writer, &[(0, 1)]);
    writer.sync().expect("synced");
    let two = commit(&mut writer, &[(0, 2), (1, 2)]);
    let mut other = shared(&disk, two);
    assert_eq!(writer.renew(one).expect("renewed"), one);
    assert_eq!(commit(&mut writer, &[(0, 3)]), two);
    other.refresh(two).expect("refreshed");
    assert_eq!((first_byte(&other, 0, two), first_byte(&other, 1, two)), (3, 0));
    // The same for one that has nothing instead yet.
    assert_eq!(writer.renew(one).expect("renewed"), one);
    other.refresh(one).expect("refreshed");
    assert_eq!((other.appended(), first_byte(&other, 0, one)), (one, 1));
}

#[test]
fn a_log_that_failed_is_no_matter_once_another_vm_has_begun_a_new_one() {
    let disk = Disk::default();
    let mut writer = made(&disk);
    let one = commit(&mut writer, &[(0, 1)]);
    let mut other = shared(&disk, one);
    disk.set_fault(Some(Box::new(|_, _| FaultKind::Error(std::io::ErrorKind::Other))));
    assert!(writer.sync().is_err());
    disk.set_fault(None);
    let refused = writer.append(&Commit::default());
    assert!(matches!(refused, Err(VersionsError::Failed { .. })), "{refused:?}");
    assert_eq!(other.renew(one).expect("renewed"), one);
    writer.refresh(one).expect("refreshed");
    assert_eq!(commit(&mut writer, &[(0, 2)]), VersionNumber(2));
    assert_eq!(writer.sync().expect("synced"), VersionNumber(2));
}

#[test]
fn a_renewal_by_one_vm_keeps_what_another_appended_to_a_later_log() {
    let disk = Disk::default();
    let mut writer = made(&disk);
    let mut other = shared(&disk, VersionNumber(0));
    for round in 1..=30 {
        commit(&mut writer, &[(u64::from(round), round)]);
    }
    let last = writer.appended();
    other.refresh(last).expect("refreshed");
    assert!(other.durable() > VersionNumber(0) && other.durable() < last);
    assert_eq!(other.renew(last).expect("renewed"), last);
    assert_eq!((first_byte(&other, 1, last), first_byte(&other, 30, last)), (1, 30));
    writer.refresh(last).expect("refreshed");
    assert_eq!((first_byte(&writer, 1, last), first_byte(&writer, 30, last)), (1, 30));
}

/// A disk with an empty segment, all of it durable, and its files: its journal begins here.
fn durable() -> (Files, Disk) {
    let disk = Disk::default();
    drop(made(&disk));
    let (files, _) = disk.take();
    (files.clone(), Disk::with_files(files))
}

/// A root record that was written and not synced, and the next one over the other place: a cut could
/// tear both.
#[test]
fn a_power_cut_after_a_kill_leaves_a_root_record_at_every_operation() {
    for (operations, all_die) in
        (0..16).flat_map(|operations| [(operations, true), (operations, false)])
    {
        let (files, disk) = durable();
        let mut writer = shared(&disk, VersionNumber(0));
        let mut other = shared(&disk, VersionNumber(0));
        let one = commit(&mut writer, &[(0, 1)]);
        writer.sync().expect("synced");
        let (_, before) = disk.take();
        disk.set_fault(Some(killed_after(operations, PAGE_BYTES)));
        let _ = writer.checkpoint(one, Sharing::Alone);
        disk.set_fault(None);
        if all_die {
            Segment::open(disk.clone(), SMALL).expect("opened");
        } else {
            other.take_over(one).expect("taken over");
        }
        let mut after = AfterCut::with_files(&files);
        before.iter().for_each(|done| after.advance(done));
        for (at, done) in disk.take().1.iter().enumerate() {
            after.advance(done);
            for seed in 0..60 {
                let left = Disk::with_files(after.leave(&mut Random(seed)));
                let opened = Segment::open(left, SMALL);
                let opened = opened.unwrap_or_else(|error| {
                    panic!("killed after {operations} operations, cut after {at} more: {error}")
                });
                assert_eq!((opened.appended(), first_byte(&opened, 0, one)), (one, 1));
            }
        }
    }
}

/// A writer that fails, or is killed, between a root record's write and its sync leaves it to those
/// who share the page cache, and not to those who come after a power cut.
#[test]
fn what_is_durable_does_not_depend_on_a_root_record_that_is_not() {
    let (files, disk) = durable();
    let (mut writer, mut other) =
        (shared(&disk, VersionNumber(0)), shared(&disk, VersionNumber(0)));
    // The other has made sure of the record that there is, and not of the one that will come.
    let mut appended = commit(&mut other, &[(0, 1)]);
    writer.refresh(appended).expect("refreshed");
    let is_root_sync = |done: &Done, name: &str| matches!(done, Done::Sync(_)) && name == "root";
    let mut root_syncs = 0;
    disk.set_fault(Some(Box::new(move |done, name| {
        root_syncs += u32::from(is_root_sync(done, name));
        // The first is that of the record that was there.
        if root_syncs == 2 { FaultKind::Error(std::io::ErrorKind::Other) } else { FaultKind::None }
    })));
    let full = page(1);
    loop {
        let pages = vec![(PageIndex(appended.0), &full)];
        match writer.append(&Commit { pages, ..Commit::default() }) {
            Ok(version) => appended = version,
            Err(error) => break assert!(matches!(error, VersionsError::Io { .. }), "{error}"),
        }
    }
    disk.set_fault(None);
    other.refresh(appended).expect("refreshed");
    let last = commit(&mut other, &[(20, 1)]);
    assert_eq!(other.sync().expect("synced"), last);
    let mut after = AfterCut::with_files(&files);
    disk.take().1.iter().for_each(|done| after.advance(done));
    for seed in 0..50 {
        let left = Disk::with_files(after.leave(&mut Random(seed)));
        let opened = Segment::open(left, SMALL).expect("opened");
        assert_eq!((opened.appended(), first_byte(&opened, 20, last)), (last, 1));
    }
}

#[test]
fn who_takes_over_goes_on_in_a_new_log_and_removes_what_nothing_names() {
    let disk = Disk::default();
    let mut writer = made(&disk);
    let mut other = shared(&disk, VersionNumber(0));
    let one = commit(&mut writer, &[(0, 1)]);
    let logs = || {
        let names = disk.names().expect("listed");
        Vec::from_iter(names.into_iter().filter(|name| name.starts_with("log.")))
    };
    let before = logs();
    // Killed when the next log has its file, and the root record does not name it.
    disk.set_fault(Some(killed_after(2, 0)));
    assert!(writer.checkpoint(one, Sharing::Alone).is_err());
    disk.set_fault(None);
    assert_eq!(logs().len(), 2);
    assert_eq!(other.take_over(VersionNumber(0)).expect("taken over"), one);
    let after = logs();
    assert_eq!(after.len(), 2, "{after:?}");
    assert_eq!(after.iter().filter(|name| before.contains(name)).count(), 1);
}

/// Every operation of an append, and every page of its write.
#[test]
fn wherever_a_writer_dies_the_other_has_all_of_its_commit_or_nothing() {
    for bytes in (0..=4 * PAGE_BYTES).step_by(PAGE_BYTES / 2) {
        for operations in 0.. {
            let disk = Disk::default();
            let mut writer = made(&disk);
            let mut other = shared(&disk, VersionNumber(0));
            let reader = shared(&disk, VersionNumber(0));
            // So that what follows begins a log.
            commit(&mut writer, &Vec::from_iter((0..8).map(|at| (at, 1))));
            let one = commit(&mut writer, &Vec::from_iter((8..16).map(|at| (at, 1))));
            disk.set_fault(Some(killed_after(operations, bytes)));
            let contents = [page(2), page(3)];
            let pages = vec![(PageIndex(0), &contents[0]), (PageIndex(9), &contents[1])];
            let done = writer.append(&Commit { pages, ..Commit::default() });
            disk.set_fault(None);
            drop(writer);
            let newest = other.take_over(one).expect("taken over");
            let expected = if newest > one { (2, 3) } else { (1, 1) };
            let read = (first_byte(&other, 0, newest), first_byte(&other, 9, newest));
            assert_eq!(read, expected, "killed after {operations} operations and {bytes} bytes");
            let next = commit(&mut other, &[(9, 4)]);
            assert_eq!((next.0, first_byte(&other, 9, next)), (newest.0 + 1, 4));
            assert_eq!(first_byte(&reader, 0, VersionNumber(0)), 0);
            if let Ok(version) = done {
                assert_eq!(version, newest);
                assert!(operations > 3, "a commit that begins a log is more than that");
                break;
            }
        }
    }
}

#[test]
fn a_read_only_folder_of_the_host_is_read_and_never_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || HostFolder::open(folder.path()).expect("opened");
    let mut writer = Segment::create(open(), 1, VersionFacts::default(), SMALL).expect("made");
    let one = commit(&mut writer, &[(0, 1)]);
    let mut reader = Segment::open_shared(open().read_only(), SMALL, None).expect("opened");
    assert_eq!((reader.appended(), first_byte(&reader, 0, one)), (one, 1));
    let refused = reader.append(&Commit::default());
    assert!(matches!(refused, Err(VersionsError::Io { .. })), "{refused:?}");
    assert!(open().read_only().create("log.x").is_err());
    assert!(open().read_only().remove("root").is_err());
    let two = commit(&mut writer, &[(0, 2)]);
    reader.refresh(two).expect("refreshed");
    assert_eq!(first_byte(&reader, 0, two), 2);
}

/// What a thread that writes and threads that read share, as VMs do.
struct Board {
    published: AtomicU64,
    /// By reader: the version it uses; 0 while it chooses one, which pins all.
    pins: [AtomicU64; 2],
}

const UNPINNED: u64 = u64::MAX;

#[test]
fn readers_follow_while_a_writer_changes_logs_and_root_records() {
    const COMMITS: u64 = 600;
    let folder = tempfile::tempdir().expect("a folder");
    let open = || HostFolder::open(folder.path()).expect("opened");
    let mut writer = Segment::create(open(), 1, VersionFacts::default(), SMALL).expect("made");
    let pins = [const { AtomicU64::new(UNPINNED) }; 2];
    let board = Board { published: AtomicU64::new(0), pins };
    let read = |pin: &AtomicU64| {
        let mut segment = None;
        loop {
            pin.store(0, SeqCst);
            let version = VersionNumber(board.published.load(SeqCst));
            pin.store(version.0, SeqCst);
            let mut current = match segment.take() {
                Some(segment) if !version.0.is_multiple_of(5) => segment,
                _ => {
                    Segment::open_shared(open().read_only(), SMALL, Some(version)).expect("opened")
                }
            };
            current.refresh(version).expect("refreshed");
            for at in 0..7 {
                let newest = (0..=version.0).rev().find(|version| version % 7 == at).unwrap_or(0);
                assert_eq!(first_byte(&current, at, version), newest as u8, "{version}");
            }
            segment = Some(current);
            pin.store(UNPINNED, SeqCst);
            if version.0 == COMMITS {
                return;
            }
        }
    };
    std::thread::scope(|threads| {
        for pin in &board.pins {
            threads.spawn(move || read(pin));
        }
        for version in 1..=COMMITS {
            commit(&mut writer, &[(version % 7, version as u8), (8 + version % 40, 1)]);
            board.published.store(version, SeqCst);
            if version.is_multiple_of(3) {
                let oldest = board.pins.iter().map(|pin| pin.load(SeqCst)).min().expect("pins");
                writer
                    .checkpoint(VersionNumber(oldest.min(version)), Sharing::Alone)
                    .expect("applied");
            }
        }
    });
}
