//! What a segment's files take on the disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;

const DATA: u64 = 512 << 10;

/// Bytes on the disk of the files whose names begin so.
fn taken(folder: &Path, prefix: &str) -> u64 {
    let files = std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file"));
    let files = files.filter(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with(prefix) && !name.ends_with(".map")
    });
    files.map(|file| file.metadata().expect("it is there").blocks() * 512).sum()
}

fn made(folder: &Path) -> Segment<HostFolder> {
    let host = HostFolder::open(folder).expect("opened");
    let limits = Limits { log_bytes: 2 << 20, ahead_bytes: PAGE_BYTES as u64 };
    Segment::create(host, 1, VersionFacts::default(), limits).expect("made")
}

/// [`DATA`] bytes of pages, each of this byte.
fn fill(segment: &mut Segment<HostFolder>, byte: u8) -> VersionNumber {
    let pages: Vec<_> = (0..DATA / PAGE_BYTES as u64).map(|page| (page, byte)).collect();
    commit(segment, &pages)
}

fn assert_all(segment: &Segment<HostFolder>, byte: u8) {
    let version = segment.appended();
    for at in 0..DATA / PAGE_BYTES as u64 {
        assert_eq!(segment.read(PageIndex(at), version).expect("read"), page(byte));
    }
}

#[test]
fn pages_that_became_zeros_take_no_space_after_a_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut segment = made(folder.path());
    for (byte, least, most) in [(1, DATA, 2 * DATA), (0, 0, DATA / 8), (2, DATA, 2 * DATA)] {
        let version = fill(&mut segment, byte);
        segment.checkpoint(version, Sharing::Alone).expect("applied");
        let home = taken(folder.path(), "home");
        assert!((least..=most).contains(&home), "{home} bytes with pages of {byte}");
        assert_all(&segment, byte);
        drop(segment);
        let host = HostFolder::open(folder.path()).expect("opened");
        segment = Segment::open(host, Limits::default()).expect("opened");
        assert_all(&segment, byte);
    }
}

#[test]
fn zeros_that_hide_an_older_layers_pages_take_no_space_in_a_fresh_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut segment = made(folder.path());
    let version = fill(&mut segment, 1);
    segment.checkpoint(version, Sharing::Alone).expect("applied");
    // So that the pages below stay.
    let tag = tempfile::tempdir().expect("a folder");
    let into = HostFolder::open(tag.path()).expect("opened");
    let limits = Limits::default();
    segment.link_version(version, &into, 2, |_| (), limits).expect("linked");
    commit(&mut segment, &[(DATA / PAGE_BYTES as u64 + 9, 3)]);
    let version = fill(&mut segment, 0);
    segment.checkpoint(version, Sharing::Shared).expect("merged");
    let layer = taken(folder.path(), "layer.");
    assert!(layer > 0 && layer <= DATA / 8, "{layer} bytes");
    assert_all(&segment, 0);
    let tag = Segment::open(into, limits).expect("opened");
    assert_all(&tag, 1);
}

#[test]
fn a_layer_that_ends_with_zeros_is_as_long_as_its_map_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut segment = made(folder.path());
    // More than half a log: a layer of its own.
    let pages: Vec<_> = (0..300).map(|page| (page, u8::from(page < 200))).collect();
    let version = commit(&mut segment, &pages);
    drop(segment);
    let host = HostFolder::open(folder.path()).expect("opened");
    let segment = Segment::open(host, Limits::default()).expect("opened");
    assert_eq!(segment.appended(), version);
    assert_eq!([0, 199, 200, 299].map(|at| first_byte(&segment, at, version)), [1, 1, 0, 0]);
    let layer = taken(folder.path(), "layer.");
    assert!((200 * 4096..250 * 4096).contains(&layer), "{layer} bytes");
}

#[test]
fn large_commits_of_zeros_give_the_space_of_large_commits_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut segment = made(folder.path());
    for byte in [1, 0] {
        let pages: Vec<_> = (0..300).map(|page| (page, byte)).collect();
        commit(&mut segment, &pages);
    }
    let before = taken(folder.path(), "layer.");
    assert!((300 * 4096..350 * 4096).contains(&before), "{before} bytes");
    let version = segment.appended();
    segment.checkpoint(version, Sharing::Alone).expect("applied");
    assert!(taken(folder.path(), "layer.") + taken(folder.path(), "home") < DATA / 8);
    assert_eq!([0, 299].map(|at| first_byte(&segment, at, version)), [0, 0]);
}

#[test]
fn less_of_a_log_is_left_at_rest_unless_that_would_copy_much() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut segment = made(folder.path());
    assert!(!segment.checkpoint_is_due_at_rest());
    fill(&mut segment, 1);
    assert!(segment.checkpoint_is_due_at_rest() && !segment.checkpoint_is_due());
    let version = segment.appended();
    segment.checkpoint(version, Sharing::Alone).expect("applied");
    assert!(!segment.checkpoint_is_due_at_rest());
    // A layer of ten times as much as the log will have.
    let pages: Vec<_> = (0..1280).map(|page| (page, 2)).collect();
    commit(&mut segment, &pages);
    fill(&mut segment, 3);
    assert!(!segment.checkpoint_is_due_at_rest());
    for byte in 4..7 {
        fill(&mut segment, byte);
    }
    assert!(segment.checkpoint_is_due_at_rest() || segment.checkpoint_is_due());
}

/// A commit of the pages below a number and some behind it, as a layer of its own.
fn commit_large(segment: &mut Segment<HostFolder>, pages: std::ops::Range<u64>, byte: u8) {
    let mut large = LargeCommit::begin(segment).expect("begun");
    for at in pages.clone() {
        large.write(PageIndex(at), &page(byte)).expect("written");
    }
    let facts =
        VersionFacts { size_bytes: pages.end * PAGE_BYTES as u64, ..VersionFacts::default() };
    large.finish(segment, facts).expect("finished");
}

#[test]
fn large_commits_of_the_same_pages_leave_them_once_at_rest_and_never_many_times() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut segment = made(folder.path());
    // 2 MiB each, as much as a log may have.
    let size = 512 * PAGE_BYTES as u64;
    for byte in 1..8 {
        commit_large(&mut segment, 0..512, byte);
        if segment.checkpoint_is_due() {
            let newest = segment.appended();
            segment.checkpoint(newest, Sharing::Alone).expect("applied");
        }
        let all = taken(folder.path(), "");
        assert!(all <= 4 * size, "{all} bytes after {byte} times {size}");
    }
    commit_large(&mut segment, 0..512, 9);
    assert!(segment.checkpoint_is_due_at_rest());
    let newest = segment.appended();
    segment.checkpoint(newest, Sharing::Alone).expect("applied");
    let all = taken(folder.path(), "");
    assert!(all < size + size / 8, "{all} bytes at rest of {size}");
    assert!(!segment.checkpoint_is_due_at_rest());
    assert_eq!(segment.read(PageIndex(511), newest).expect("read"), page(9));
}

#[test]
fn large_commits_of_new_pages_are_not_copied_at_rest_nor_what_a_tag_has_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut segment = made(folder.path());
    for (byte, from) in [(1, 0), (2, 512), (3, 1024)] {
        commit_large(&mut segment, from..from + 512, byte);
    }
    assert!(!segment.checkpoint_is_due() && !segment.checkpoint_is_due_at_rest());
    // Overwritten, but the pages below are a tag's as well.
    let tag = tempfile::tempdir_in(folder.path().parent().expect("a folder")).expect("a folder");
    let host = HostFolder::open(tag.path()).expect("opened");
    let newest = segment.appended();
    segment.link_version(newest, &host, 2, |_| {}, Limits::default()).expect("linked");
    commit_large(&mut segment, 0..1536, 4);
    assert!(!segment.checkpoint_is_due() && !segment.checkpoint_is_due_at_rest());
}

/// Bytes on the disk of all files in a folder, and of those without a name that this process has open.
fn taken_and_open(folder: &Path) -> u64 {
    let entries = |path: &Path| std::fs::read_dir(path).expect("a folder").flatten();
    let named = entries(folder).map(|entry| entry.path());
    let open = entries(Path::new("/proc/self/fd")).map(|entry| entry.path());
    let open = open.filter(|fd| std::fs::read_link(fd).is_ok_and(|to| to.starts_with(folder)));
    // Another test's descriptor may be closed meanwhile.
    let files = named.chain(open).filter_map(|path| std::fs::metadata(path).ok());
    let files = files.filter(|about| about.is_file());
    let bytes = files.map(|about| (about.ino(), about.blocks() * 512));
    bytes.collect::<std::collections::BTreeMap<_, _>>().values().sum()
}

#[test]
fn beside_a_reader_that_stays_the_files_have_a_bound_however_much_is_committed() {
    const LOG: u64 = 256 << 10;
    let limits = Limits { log_bytes: LOG, ahead_bytes: PAGE_BYTES as u64 };
    // Hundreds of syncs: of a disk where there is no memory for files.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.expect("a folder");
    let host = || HostFolder::open(folder.path()).expect("opened");
    let mut writer = Segment::create(host(), 1, VersionFacts::default(), limits).expect("made");
    // No commit is larger than half a log.
    let pages: Vec<_> = (0..DATA / PAGE_BYTES as u64).map(|page| (page, 1)).collect();
    pages.chunks(16).for_each(|pages| assert!(commit(&mut writer, pages) > VersionNumber(0)));
    writer.sync().expect("synced");
    let seen = writer.appended();
    let mut reader = Segment::open_shared(host(), limits, Some(seen)).expect("opened");
    let (mut most, mut written) = (0, 0);
    for round in 0..400_u64 {
        let count = pages.len() as u64;
        let pages: Vec<_> = (0..8).map(|n| ((round * 37 + n * 29) % count, round as u8)).collect();
        commit(&mut writer, &pages);
        written += 8 * PAGE_BYTES as u64;
        if writer.checkpoint_is_due() {
            writer.sync().expect("synced");
            writer.checkpoint(writer.appended(), Sharing::Shared).expect("merged");
        }
        if round % 8 == 7 {
            // As its VM does once a second.
            reader.refresh(writer.appended()).expect("refreshed");
            reader.forget_unused(&std::collections::BTreeSet::from([seen]));
        }
        most = most.max(taken_and_open(folder.path()));
    }
    (0..pages.len() as u64).for_each(|at| assert_eq!(first_byte(&reader, at, seen), 1));
    let bound = 5 * DATA + 4 * LOG;
    assert!(most <= bound && written > 3 * bound, "{most} of {bound} bytes, {written} written");
}
