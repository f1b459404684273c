//! Commits of several segments, when one of them cannot be looked at, or has other files by then.

use std::io::ErrorKind;

use super::*;
use crate::disk::simulated::{AfterCut, Done, FaultKind, FolderNumber, Random};
use crate::error::VersionsError;

const SEGMENTS: [u64; 2] = [1, 2];

/// Two segments side by side.
struct Pair(tempfile::TempDir);

impl Pair {
    fn new() -> Pair {
        let pair = Pair(tempfile::tempdir().expect("a folder"));
        SEGMENTS.into_iter().for_each(|segment| drop(pair.create(segment)));
        pair
    }

    fn path(&self, segment: u64) -> std::path::PathBuf {
        self.0.path().join(format!("{segment:016x}"))
    }

    fn folder(&self, segment: u64) -> HostFolder {
        HostFolder::open(&self.path(segment)).expect("opened")
    }

    fn create(&self, segment: u64) -> Segment<HostFolder> {
        std::fs::create_dir(self.path(segment)).expect("made");
        Segment::create(self.folder(segment), segment, VersionFacts::default(), SMALL)
            .expect("made")
    }

    fn shared(&self, segment: u64) -> Segment<HostFolder> {
        let published = Some(VersionNumber(0));
        Segment::open_shared(self.folder(segment), SMALL, published).expect("opened")
    }

    /// One commit of both, by a program that dies before it makes it known.
    fn commit(&self) {
        let mut both = SEGMENTS.map(|it| Segment::open(self.folder(it), SMALL).expect("opened"));
        let content = page(7);
        let commit = Commit { pages: vec![(PageIndex(0), &content)], ..Commit::default() };
        let parts = both.iter_mut().map(|segment| Part { segment, commit: &commit });
        append_together(&mut Vec::from_iter(parts)).expect("appended");
    }

    /// Nothing of the records is left, as if the program had died before it wrote them.
    fn lose_records(&self, segment: u64) {
        for entry in std::fs::read_dir(self.path(segment)).expect("listed").flatten() {
            if entry.file_name().to_string_lossy().starts_with("log.") {
                let mut bytes = std::fs::read(entry.path()).expect("read");
                bytes[PAGE_BYTES..].fill(0);
                std::fs::write(entry.path(), bytes).expect("written");
            }
        }
    }
}

#[test]
fn who_could_not_look_at_the_other_segment_asks_again_and_takes_no_half() {
    let pair = Pair::new();
    let [one, two] = SEGMENTS;
    pair.commit();
    let mut survivor = pair.shared(one);
    pair.lose_records(two);
    let aside = pair.0.path().join("aside");
    std::fs::rename(pair.path(two), &aside).expect("renamed");
    std::fs::write(pair.path(two), "").expect("written");
    for _ in 0..2 {
        let error = survivor.take_over(VersionNumber(0)).expect_err("it cannot know");
        assert!(matches!(error, VersionsError::Companion { segment: 2, .. }), "{error}");
        assert_eq!(survivor.appended(), VersionNumber(0), "nobody may see it yet");
    }
    std::fs::remove_file(pair.path(two)).expect("removed");
    std::fs::rename(&aside, pair.path(two)).expect("renamed");
    assert_eq!(survivor.take_over(VersionNumber(0)).expect("taken over"), VersionNumber(0));
    assert_eq!(first_byte(&survivor, 0, VersionNumber(0)), 0);
}

#[test]
fn a_part_of_a_commit_is_taken_in_unless_the_files_are_others_by_then() {
    let pair = Pair::new();
    let [one, two] = SEGMENTS;
    pair.commit();
    let first = Segment::open(pair.folder(one), SMALL).expect("opened");
    let part = first.partner(two, first.appended()).expect("they are one commit");
    let mut second = pair.shared(two);
    let other = Partner { id: !part.id, ..part };
    let behind = Partner { version: VersionNumber(9), ..part };
    for part in [other, behind] {
        assert!(!second.take_in_part(part).expect("looked at"), "{part:?}");
        assert_eq!(second.appended(), VersionNumber(0));
    }
    assert!(second.take_in_part(part).expect("looked at"));
    assert_eq!((second.appended(), first_byte(&second, 0, part.version)), (part.version, 7));
    assert!(second.take_in_part(part).expect("looked at"), "again");
    assert!(!second.take_in_part(other).expect("looked at"), "it knows that commit by now");
    // Neither does a checkpoint make it forget.
    let mut writer = Segment::open(pair.folder(two), SMALL).expect("opened");
    writer.checkpoint(writer.appended(), Sharing::Alone).expect("applied");
    let mut again =
        Segment::open_shared(pair.folder(two), SMALL, Some(part.version)).expect("opened");
    assert!(again.take_in_part(part).expect("looked at"));
    // Made anew, as a conversion to raw and back does.
    std::fs::remove_dir_all(pair.path(two)).expect("removed");
    let mut anew = pair.create(two);
    assert!(!anew.take_in_part(part).expect("looked at"));
    assert_eq!(anew.appended(), VersionNumber(0));
    assert_eq!(commit(&mut anew, &[(0, 1)]), part.version);
}

#[test]
fn nobody_waits_for_a_pipe_in_the_place_of_the_other_segments_files() {
    let pair = Pair::new();
    let [one, two] = SEGMENTS;
    pair.commit();
    let root = pair.path(two).join("root");
    std::fs::remove_file(&root).expect("removed");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &root, kind, mode, 0).expect("made");
    let error = Segment::open(pair.folder(one), SMALL).expect_err("no file");
    assert!(matches!(error, VersionsError::Companion { segment: 2, .. }), "{error}");
}

#[test]
fn a_record_that_only_the_page_cache_has_after_a_failed_sync_is_written_anew_by_who_relies_on_it() {
    let disk = Disk::default();
    let folders = [1, 2].map(|number| disk.folder(FolderNumber(number)));
    let made = folders.clone().into_iter().zip(SEGMENTS).map(|(folder, segment)| {
        Segment::create(folder, segment, VersionFacts::default(), SMALL).expect("made")
    });
    let mut both = Vec::from_iter(made);
    let content = page(7);
    let commit = Commit { pages: vec![(PageIndex(0), &content)], ..Commit::default() };
    // The disk takes nothing of what is written for the second one, says so once, and is killed for it.
    let mut writes = 0;
    disk.set_fault(Some(Box::new(move |done, name| match done {
        // Zeros are written ahead of it.
        Done::Write(_, _, bytes) if name.starts_with("log.") && bytes[..8] != [0; 8] => {
            writes += 1;
            if writes == 2 { FaultKind::Dropped } else { FaultKind::None }
        }
        _ => FaultKind::None,
    })));
    let parts = both.iter_mut().map(|segment| Part { segment, commit: &commit });
    append_together(&mut Vec::from_iter(parts)).expect("appended");
    both[0].sync().expect("synced");
    disk.set_fault(Some(Box::new(|_, _| FaultKind::Error(ErrorKind::Other))));
    both[1].sync().expect_err("it fails");
    disk.set_fault(None);
    drop(both);
    let first = Segment::open(folders[0].clone(), SMALL).expect("opened");
    assert_eq!(first.appended(), VersionNumber(1), "the other one has it");
    let mut after = AfterCut::default();
    disk.take().1.iter().for_each(|done| after.advance(done));
    for seed in 0..10 {
        let cut = Disk::with_files(after.leave(&mut Random(seed)));
        let found = [1, 2].map(|number| {
            Segment::open(cut.folder(FolderNumber(number)), SMALL).expect("opened").appended().0
        });
        assert_eq!(found, [1, 1], "half of a commit: {seed}");
    }
}

/// Both segments on a simulated disk, and a commit of both that was appended and not synced.
fn appended(disk: &Disk) -> Vec<Segment<Disk>> {
    let made = [1, 2].map(|number| disk.folder(FolderNumber(number))).into_iter().zip(SEGMENTS);
    let made = made.map(|(folder, segment)| {
        Segment::create(folder, segment, VersionFacts::default(), SMALL).expect("made")
    });
    let mut both = Vec::from_iter(made);
    let content = page(7);
    let commit = Commit { pages: vec![(PageIndex(0), &content)], ..Commit::default() };
    let parts = both.iter_mut().map(|segment| Part { segment, commit: &commit });
    append_together(&mut Vec::from_iter(parts)).expect("appended");
    both
}

#[test]
fn a_commit_that_could_neither_be_synced_nor_taken_back_is_in_no_segment_after_a_kill() {
    // Who looks first: a program that has one of the segments open all the time, or one that opens the other.
    for lives_first in [false, true] {
        for living in [0, 1] {
            let disk = Disk::default();
            let folders = [1, 2].map(|number| disk.folder(FolderNumber(number)));
            let mut both = appended(&disk);
            let before = Some(VersionNumber(0));
            let open = Segment::open_shared(folders[living].clone(), SMALL, before);
            let mut lives = open.expect("opened");
            // No sync works, nothing can be made.
            disk.set_fault(Some(Box::new(|done, _| match done {
                Done::Write(..) => FaultKind::None,
                _ => FaultKind::Error(ErrorKind::Other),
            })));
            both[0].sync().expect_err("it fails");
            for segment in &mut both {
                segment.take_back(VersionNumber(0)).expect_err("it fails");
                assert!(segment.has_failed());
            }
            // Its program has been told, has left, and is killed later.
            drop(both);
            disk.set_fault(None);
            let enters = |lives: &mut Segment<Disk>| {
                lives.refresh(VersionNumber(0)).expect("as published");
                lives.distrust();
                lives.renew(VersionNumber(0)).expect("renewed")
            };
            let opens = || {
                let opened = Segment::open(folders[1 - living].clone(), SMALL);
                opened.expect("opened").appended()
            };
            let found = match lives_first {
                true => [enters(&mut lives), opens()],
                false => {
                    let opened = opens();
                    [enters(&mut lives), opened]
                }
            };
            assert_eq!(found, [VersionNumber(0); 2], "lives first: {lives_first}, {living}");
        }
    }
}

#[test]
fn what_could_neither_be_synced_nor_taken_back_is_whole_in_both_segments_or_none_after_a_power_cut()
{
    let mut found_both = 0;
    for seed in 0..200 {
        let mut random = Random(seed);
        let disk = Disk::default();
        let mut both = appended(&disk);
        let (fails, at) = (random.below(2) as usize, random.below(8));
        if random.below(2) == 0 {
            both[1 - fails].sync().expect("synced");
        }
        let mut count = 0;
        // From some call on the disk takes nothing any more.
        disk.set_fault(Some(Box::new(move |done, _| {
            count += 1;
            let is_sync = matches!(done, Done::Sync(_) | Done::SyncFolder(_));
            if is_sync || count > at { FaultKind::Error(ErrorKind::Other) } else { FaultKind::None }
        })));
        both[fails].sync().expect_err("it fails");
        for segment in &mut both {
            let _ = segment.take_back(VersionNumber(0));
        }
        drop(both);
        disk.set_fault(None);
        let mut after = AfterCut::default();
        disk.take().1.iter().for_each(|done| after.advance(done));
        let cut = Disk::with_files(after.leave(&mut random));
        let first = 1 + random.below(2) as u32;
        let opened = [first, 3 - first].map(|number| {
            let folder = cut.folder(FolderNumber(number));
            Segment::open(folder, SMALL).expect("opened").appended().0
        });
        assert_eq!(opened[0], opened[1], "half of a commit: {seed}");
        found_both += opened[0];
    }
    assert!((1..200).contains(&found_both), "both ends of it: {found_both}");
}
