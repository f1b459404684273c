//! Segments that are changed by commits only.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use abi::Errno;
use abi::objects::{Lifetime, Right, SegId, SegRoot};
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::page::Page;
use spacejmp_versions::segment::Limits;
use spacejmp_versions::{Commit, PageIndex, Segment, VersionsError};

use crate::testing::{TestStore, mode, name, segment, store, versioned};
use crate::{
    CheckReport, GcReport, Lease, LeaseInfo, Mode, OtherWriters, SegmentSpec, SegmentState, Store,
    StoreError, VersionWords, check_store,
};

fn lease(s: &TestStore) -> Lease {
    Lease::create(s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap()
}

fn folder(s: &TestStore, sid: SegId) -> PathBuf {
    s.path().join("versions").join(sid.to_string())
}

fn files(s: &TestStore, sid: SegId) -> Vec<String> {
    let entries = fs::read_dir(folder(s, sid)).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn bits(path: PathBuf) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Joins and notes what `open` was told.
fn join(s: &Store, sid: SegId, lease: &Lease, right: Right) -> OtherWriters {
    let mut told = None;
    let mut file = s.open_segment(sid).unwrap();
    s.join_versioned(&mut file, lease, 0, right, &mut |segment, others| {
        assert_eq!(segment.sid(), sid);
        told = Some(others);
        Ok(())
    })
    .unwrap();
    told.unwrap()
}

#[test]
fn a_new_one_has_a_page_of_words_and_a_folder_with_its_content() {
    let s = store();
    let sid = versioned(&s, "x");
    assert_eq!(fs::metadata(s.path().join("segments/x")).unwrap().len(), 12288);
    assert_eq!(files(&s, sid), ["home", "log.0000000000000001", "root"]);
    assert!(s.tmp.names().unwrap().is_empty());
    let file = s.open_segment(sid).unwrap();
    assert!(file.is_versioned() && file.header().lockable);
    assert!(file.versions_folder().is_ok());
    let error = file.part(0).unwrap_err();
    assert!(matches!(error, StoreError::Versioned { .. }), "{error}");
    let raw = s.open_segment(segment(&s, "raw")).unwrap();
    assert!(!raw.is_versioned());
    assert_eq!(raw.versions_folder().unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(s.gc().unwrap(), GcReport::default());
}

#[test]
fn its_lock_cannot_be_left_out_or_taken_away() {
    let s = store();
    let spec =
        SegmentSpec { lifetime: Lifetime::Versioned, lockable: false, ..SegmentSpec::new(1 << 20) };
    let made = s.create_segment(&name("x"), &spec).unwrap_err();
    let changed = s.set_lockable(versioned(&s, "y"), false).unwrap_err();
    for error in [made, changed] {
        assert!(error.to_string().contains("leave out --no-lock"), "{error}");
        assert_eq!(error.errno(), Errno::EINVAL);
    }
    assert_eq!(s.list_segments().unwrap().len(), 1);
}

#[test]
fn folder_and_files_have_the_mode_of_the_segment() {
    let s = store();
    // Also the mode of an owner who may not write it: a folder like that cannot be moved.
    for (at, old) in [0o640, 0o400, 0o666].into_iter().enumerate() {
        let spec = SegmentSpec {
            lifetime: Lifetime::Versioned,
            mode: mode(old),
            ..SegmentSpec::new(1 << 20)
        };
        let sid = s.create_segment(&name(&format!("x{at}")), &spec).unwrap();
        for of_file in [old, 0o644, 0o600, 0o664] {
            s.set_segment_mode(sid, mode(of_file)).unwrap();
            for file in files(&s, sid) {
                assert_eq!(bits(folder(&s, sid).join(file)), of_file);
            }
            assert_eq!(bits(folder(&s, sid)), of_file | (of_file & 0o444) >> 2);
        }
    }
}

#[test]
fn a_store_of_an_earlier_version_gets_the_folder_for_the_same_users() {
    let s = store();
    fs::remove_dir(s.path().join("versions")).unwrap();
    fs::set_permissions(s.path().join("parts"), fs::Permissions::from_mode(0o1777)).unwrap();
    Store::open(s.path()).unwrap();
    segment(&s, "raw");
    assert!(!s.path().join("versions").exists());
    let sid = versioned(&s, "x");
    assert!(s.open_segment(sid).unwrap().versions_folder().is_ok());
    assert_eq!(bits(s.path().join("versions")), 0o1777);
}

/// As many as may read it. Each is looked at by whoever comes, which takes no descriptor for each, and no place in its lock.
#[test]
fn a_thousand_readers_keep_neither_another_reader_out_nor_a_writer() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const READERS: usize = 1000;
    // Of all leases in this one process.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit })
        .unwrap();
    let s = store();
    let sid = versioned(&s, "x");
    let readers: Vec<Lease> = (0..READERS)
        .map(|_| {
            let reader = lease(&s);
            reader.set_segment(0, Some((sid, Right::Read))).unwrap();
            reader
        })
        .collect();
    let (reader, writer) = (lease(&s), lease(&s));
    join(&s, sid, &reader, Right::Read);
    assert_eq!(join(&s, sid, &writer, Right::Write), OtherWriters::None);
    let attached = s.leases().unwrap();
    let reading = attached.iter().filter(|view| view.segments == [(sid, Right::Read)]).count();
    assert_eq!(reading, READERS + 1);
    // As long as one of them has it, it is not deleted.
    drop(reader);
    s.delete_segment(sid).unwrap_err();
    drop((readers, writer));
    s.delete_segment(sid).unwrap();
    assert_eq!(s.leases().unwrap().len(), 0);
}

#[test]
fn nobody_is_kept_from_recovery_but_by_a_live_writer() {
    let s = store();
    let sid = versioned(&s, "x");
    let (first, second, third) = (lease(&s), lease(&s), lease(&s));
    assert_eq!(join(&s, sid, &first, Right::Read), OtherWriters::None);
    assert_eq!(join(&s, sid, &second, Right::Write), OtherWriters::None, "one that reads");
    assert_eq!(join(&s, sid, &second, Right::Write), OtherWriters::None, "its own entry");
    assert_eq!(join(&s, sid, &third, Right::Read), OtherWriters::Live);
    let file = s.open_segment(sid).unwrap();
    assert!(s.others_attached(&file, first.id()).unwrap());
    drop(second);
    assert_eq!(join(&s, sid, &third, Right::Write), OtherWriters::None, "it is dead");
    s.leave(&file, &first, 0).unwrap();
    assert!(!s.others_attached(&file, third.id()).unwrap());
    s.leave(&file, &third, 0).unwrap();
    assert!(!s.others_attached(&file, first.id()).unwrap());
}

#[test]
fn what_is_known_of_the_newest_version_is_not_believed_of_other_files() {
    let s = store();
    let sid = versioned(&s, "x");
    let base = s.open_segment(sid).unwrap().header().base;
    let root = || s.open_segment(sid).unwrap().header().root.address;
    let folder = s.path().join("versions").join(sid.to_string());
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        std::fs::create_dir(to).unwrap();
        for file in std::fs::read_dir(from).unwrap().flatten() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    let backup = s.folder.path().join("backup");
    {
        let disk = HostFolder::from_fd(s.open_segment(sid).unwrap().versions_folder().unwrap());
        let mut content = Segment::open(disk, Limits::default()).unwrap();
        let mut append = |root_address| {
            let facts = VersionFacts { root_address, ..content.next_facts() };
            content.append(&Commit { facts, pages: Vec::new() }).unwrap();
            content.sync().unwrap();
        };
        append(base + 64);
        copy(&folder, &backup);
        append(base + 128);
    }
    assert_eq!([root(), root()], [base + 128; 2]);
    // The same root record, and a log that ends sooner.
    std::fs::rename(&folder, s.folder.path().join("aside")).unwrap();
    copy(&backup, &folder);
    assert_eq!(root(), base + 64);
}

#[test]
fn content_that_cannot_be_opened_is_not_attached() {
    let s = store();
    let sid = versioned(&s, "x");
    let lease = lease(&s);
    let mut file = s.open_segment(sid).unwrap();
    let failed = || StoreError::Versions { segment: name("x"), source: VersionsError::TooDeep };
    let error = s
        .join_versioned(&mut file, &lease, 3, Right::Write, &mut |_, _| Err(failed()))
        .unwrap_err();
    assert_eq!(error.errno(), Errno::ENOSPC);
    assert_eq!(lease.segment_in_file(3), None);
    s.join_versioned(&mut file, &lease, 3, Right::Read, &mut |_, _| Ok(())).unwrap();
    s.join_versioned(&mut file, &lease, 3, Right::Write, &mut |_, _| Err(failed())).unwrap_err();
    assert_eq!(lease.segment_in_file(3), Some((sid, Right::Read)), "as it was");
    s.leave(&file, &lease, 3).unwrap();
    s.delete_segment(sid).unwrap();
    let mut never =
        |_: &_, _| -> Result<(), StoreError> { panic!("there is nothing to open any more") };
    let error = s.join_versioned(&mut file, &lease, 3, Right::Write, &mut never).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOENT);
    let mut raw = s.open_segment(segment(&s, "raw")).unwrap();
    let error = s.join_versioned(&mut raw, &lease, 3, Right::Write, &mut never).unwrap_err();
    assert_eq!(error.errno(), Errno::EINVAL);
}

#[test]
fn while_one_opens_it_nobody_else_does() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let s = store();
    let sid = versioned(&s, "x");
    let (first, second) = (lease(&s), lease(&s));
    let is_open = AtomicBool::new(false);
    let join = |lease: &Lease| {
        let mut file = s.open_segment(sid).unwrap();
        s.join_versioned(&mut file, lease, 0, Right::Write, &mut |_, _| {
            assert!(!is_open.swap(true, Ordering::SeqCst));
            std::thread::yield_now();
            is_open.store(false, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        s.leave(&file, lease, 0).unwrap();
    };
    std::thread::scope(|scope| {
        for lease in [&first, &second] {
            scope.spawn(move || (0..20).for_each(|_| join(lease)));
        }
    });
}

#[test]
fn whoever_dies_it_is_clean_and_consistent() {
    let s = store();
    let sid = versioned(&s, "x");
    let dead = lease(&s);
    join(&s, sid, &dead, Right::Write);
    let file = s.open_segment(sid).unwrap();
    s.mark_dirty(&file, dead.id()).unwrap();
    s.stop_writing(&file, &dead, 0).unwrap();
    let owned = seg_lock::state::INCONSISTENT.to_le_bytes();
    file.file().write_all_at(&owned, 4096 + seg_lock::word::STATE as u64 * 8).unwrap();
    drop(dead);
    let record = s.segment(sid).unwrap();
    assert!(!record.inconsistent && !record.dirty());
    assert_eq!(record.header.state, SegmentState::Clean);
    assert_eq!(
        s.join(&mut { file }, &lease(&s), 0, Right::Write).unwrap_err().errno(),
        Errno::EOPNOTSUPP
    );
}

#[test]
fn a_folder_that_somebody_else_made_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make folders of another user");
        return;
    }
    let s = store();
    let sid = versioned(&s, "x");
    std::os::unix::fs::chown(folder(&s, sid), Some(65534), None).unwrap();
    let file = s.open_segment(sid);
    let error = file.and_then(|file| file.versions_folder()).unwrap_err();
    assert!(matches!(error, StoreError::BadField { field: "owner", .. }), "{error}");
}

#[test]
fn a_link_in_its_place_is_not_followed() {
    let s = store();
    let sid = versioned(&s, "x");
    let elsewhere = s.folder.path().join("elsewhere");
    fs::rename(folder(&s, sid), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, folder(&s, sid)).unwrap();
    let file = s.open_segment(sid);
    let error = file.and_then(|file| file.versions_folder()).unwrap_err();
    assert!(matches!(error, StoreError::BadField { field: "type", .. }), "{error}");
}

#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    let of = |kind: std::io::ErrorKind| {
        let source =
            VersionsError::Io { action: "write", file: "log.1".into(), source: kind.into() };
        StoreError::Versions { segment: name("x"), source }.errno()
    };
    assert_eq!(of(std::io::ErrorKind::StorageFull), Errno::ENOSPC);
    assert_eq!(of(std::io::ErrorKind::QuotaExceeded), Errno::ENOSPC);
    assert_eq!(of(std::io::ErrorKind::Other), Errno::EIO);
}

#[test]
fn a_version_of_the_format_that_knows_none_would_say_that_it_is_newer() {
    let s = store();
    versioned(&s, "x");
    segment(&s, "raw");
    let features = |text: &str| {
        let mut bytes = [0; 8];
        let file = fs::File::open(s.path().join("segments").join(text)).unwrap();
        file.read_exact_at(&mut bytes, 24).unwrap();
        u64::from_le_bytes(bytes)
    };
    assert_eq!((features("x"), features("raw")), (1, 0));
}

#[test]
fn what_a_killed_maker_left_is_collected() {
    let s = store();
    let sid = versioned(&s, "x");
    // Killed while it filled the folder, and before it published the segment.
    let tmp = s.path().join("tmp/00000000000000aa.versions");
    fs::create_dir(&tmp).unwrap();
    fs::write(tmp.join("home"), "").unwrap();
    let orphan = SegId::new(0xbb).unwrap();
    fs::create_dir(folder(&s, orphan)).unwrap();
    fs::write(folder(&s, orphan).join("home"), "").unwrap();
    fs::create_dir(s.path().join("versions/notes")).unwrap();
    assert_eq!(s.gc().unwrap(), GcReport { unfinished: 1, parts: 1, ..GcReport::default() });
    assert_eq!(s.gc().unwrap(), GcReport::default());
    assert!(folder(&s, sid).exists() && !folder(&s, orphan).exists());
    assert!(s.path().join("versions/notes").exists(), "it is not the store's");
}

#[test]
fn nothing_is_left_of_a_deleted_one() {
    let s = store();
    let sid = versioned(&s, "x");
    s.delete_segment(sid).unwrap();
    assert!(!folder(&s, sid).exists() && !s.path().join("segments/x").exists());
    assert_ne!(versioned(&s, "x"), sid);
}

/// The content as a VM that may write it opens it.
fn content(s: &TestStore, sid: SegId) -> Segment<HostFolder> {
    Segment::open(HostFolder::open(&folder(s, sid)).unwrap(), Limits::default()).unwrap()
}

fn facts(size_bytes: u64, root_address: u64) -> VersionFacts {
    let root_fingerprint = [5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
    VersionFacts { size_bytes, root_address, root_fingerprint, ..VersionFacts::default() }
}

/// Commits one page and what a version says besides.
fn commit(content: &mut Segment<HostFolder>, facts: VersionFacts, page: &Page) {
    content.append(&Commit { facts, pages: vec![(PageIndex(0), page)] }).unwrap();
    content.sync().unwrap();
}

/// Every file of the folder, with its bytes.
fn bytes(s: &TestStore, sid: SegId) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| (name.clone(), fs::read(folder(s, sid).join(name)).unwrap());
    files(s, sid).into_iter().map(read).collect()
}

fn size(s: &TestStore, sid: SegId) -> u64 {
    s.segment(sid).unwrap().header.size_bytes
}

#[test]
fn size_and_root_are_those_of_the_newest_version_and_looking_changes_nothing() {
    let s = store();
    let spec = SegmentSpec {
        lifetime: Lifetime::Versioned,
        reserve_bytes: 8 << 20,
        ..SegmentSpec::new(1 << 20)
    };
    let sid = s.create_segment(&name("x"), &spec).unwrap();
    let base = s.open_segment(sid).unwrap().header().base;
    assert_eq!(size(&s, sid), 1 << 20);
    let mut writer = content(&s, sid);
    commit(&mut writer, facts(3 << 20, base + 16), &[1; 4096]);
    drop(writer);
    let before = bytes(&s, sid);
    let root = SegRoot { address: base + 16, fingerprint: [5, 6] };
    let mut file = s.open_segment(sid).unwrap();
    assert_eq!((file.header().size_bytes, file.header().root), (3 << 20, root));
    s.refresh(&mut file).unwrap();
    assert_eq!((file.header().size_bytes, file.header().root), (3 << 20, root));
    assert_eq!(s.root_get(sid).unwrap(), root);
    let stored = s.segment(sid).unwrap().stored_bytes;
    let of_files: u64 = files(&s, sid)
        .into_iter()
        .map(|file| fs::metadata(folder(&s, sid).join(file)).unwrap().blocks() * 512)
        .sum();
    let own = fs::metadata(s.path().join("segments/x")).unwrap().blocks() * 512;
    assert_eq!(stored, own + of_files);
    let report = s.check_segment(&name("x")).unwrap();
    assert_eq!(report, CheckReport { segments: 1, ..CheckReport::default() });
    assert!(check_store(s.path()).unwrap().findings.is_empty());
    assert_eq!(bytes(&s, sid), before);
}

#[test]
fn while_somebody_writes_what_is_published_is_the_newest() {
    let s = store();
    let sid = versioned(&s, "x");
    let lease = lease(&s);
    join(&s, sid, &lease, Right::Write);
    let mut writer = content(&s, sid);
    let file = s.open_segment(sid).unwrap();
    commit(&mut writer, facts(8192, 0), &[1; 4096]);
    assert_eq!(size(&s, sid), 8192, "nothing says what is published");
    file.write_words(&VersionWords { appended: 1, published: 0 }).unwrap();
    assert_eq!(size(&s, sid), 1 << 20);
    file.write_words(&VersionWords { appended: 1, published: 1 }).unwrap();
    commit(&mut writer, facts(4096, 0), &[2; 4096]);
    assert_eq!(size(&s, sid), 8192);
    let report = s.check_segment(&name("x")).unwrap();
    assert!(report.heap_in_use && report.findings.is_empty());
    // No VM has got so far.
    file.write_words(&VersionWords { appended: 9, published: 9 }).unwrap();
    assert_eq!(s.open_segment(sid).unwrap_err().errno(), Errno::EIO);
    drop(lease);
    assert_eq!(size(&s, sid), 4096, "the log decides");
}

#[test]
fn a_size_or_a_root_that_a_segment_cannot_have_is_refused() {
    let s = store();
    let sid = versioned(&s, "x");
    let base = s.open_segment(sid).unwrap().header().base;
    let mut writer = content(&s, sid);
    let wrong = [
        (facts(0, 0), "size of a version"),
        (facts(4097, 0), "size of a version"),
        (facts(1 << 40, 0), "size of a version"),
        (facts(4096, base - 1), "root address of a version"),
        (facts(4096, base + 4096), "root address of a version"),
    ];
    for (facts, expected) in wrong {
        commit(&mut writer, facts, &[1; 4096]);
        let error = s.open_segment(sid).unwrap_err();
        let StoreError::BadField { field, .. } = error else { panic!("{error}") };
        assert_eq!(field, expected);
        assert!(!s.check_segment(&name("x")).unwrap().sound());
    }
    commit(&mut writer, facts(4096, base), &[1; 4096]);
    s.open_segment(sid).unwrap();
}

#[test]
fn damaged_logs_are_found_and_others_are_unaffected() {
    let s = store();
    let (sid, other) = (versioned(&s, "x"), versioned(&s, "other"));
    let log = folder(&s, sid).join("log.0000000000000001");
    let log = fs::File::options().read(true).write(true).open(log).unwrap();
    let mut byte = [0];
    log.read_exact_at(&mut byte, 100).unwrap();
    log.write_all_at(&[!byte[0]], 100).unwrap();
    let error = s.open_segment(sid).unwrap_err();
    assert!(matches!(error, StoreError::Versions { .. }), "{error}");
    let report = check_store(s.path()).unwrap();
    let [finding] = &report.findings[..] else { panic!("{report:?}") };
    assert_eq!(finding.field, "log.0000000000000001");
    assert!(!report.sound() && !s.check_segment(&name("x")).unwrap().sound());
    let listed: Vec<_> =
        s.list_segments().unwrap().into_iter().map(|entry| entry.record.is_ok()).collect();
    assert_eq!(listed, [true, false]);
    s.open_segment(other).unwrap();
    s.delete_segment(sid).unwrap();
    assert!(check_store(s.path()).unwrap().findings.is_empty());
}

#[test]
fn the_heap_in_the_newest_version_is_checked() {
    let s = store();
    let spec = SegmentSpec { lifetime: Lifetime::Versioned, ..SegmentSpec::new(8 << 20) };
    let sid = s.create_segment(&name("x"), &spec).unwrap();
    let base = s.open_segment(sid).unwrap().header().base;
    let mut page = [0xff; 4096];
    page[..8].copy_from_slice(b"SJMPHEAP");
    commit(&mut content(&s, sid), facts(8 << 20, base), &page);
    let report = s.check_segment(&name("x")).unwrap();
    assert!(report.findings.iter().any(|finding| finding.field.starts_with("heap")), "{report:?}");
}

#[test]
fn a_folder_without_a_segment_is_no_damage() {
    let s = store();
    versioned(&s, "x");
    let orphan = SegId::new(0xbb).unwrap();
    fs::create_dir(folder(&s, orphan)).unwrap();
    let report = check_store(s.path()).unwrap();
    let [finding] = &report.findings[..] else { panic!("{report:?}") };
    assert_eq!((&finding.file, &finding.field[..]), (&folder(&s, orphan), "folder"));
    assert!(report.sound());
}

#[test]
fn only_commits_change_it() {
    let s = store();
    let sid = versioned(&s, "x");
    let base = s.open_segment(sid).unwrap().header().base;
    let file = s.open_segment(sid).unwrap();
    let errors = [
        s.grow_segment(sid, 1 << 20).unwrap_err(),
        s.root_set(sid, SegRoot { address: base, fingerprint: [1, 1] }).unwrap_err(),
        s.reserve_segment(sid, 0, 4096).unwrap_err(),
        s.sync(&file).unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains("changes are made inside a visit"), "{error}");
        assert_eq!(error.errno(), Errno::EOPNOTSUPP);
    }
}

#[test]
fn a_raw_copy_of_it_is_refused_and_leaves_nothing() {
    let s = store();
    let sid = versioned(&s, "x");
    let error = s.clone_segment(sid, &name("y")).unwrap_err();
    assert!(error.to_string().contains("segment 'x': it is versioned"), "{error}");
    assert_eq!(error.errno(), Errno::EOPNOTSUPP);
    assert!(s.tmp.names().unwrap().is_empty());
    assert_eq!(s.gc().unwrap(), GcReport::default());
    assert_eq!(s.list_segments().unwrap().len(), 1);
}

#[test]
fn a_copied_file_without_its_content_is_refused_by_name() {
    let s = store();
    let sid = versioned(&s, "x");
    let path = |text: &str| s.path().join("segments").join(text);
    fs::copy(path("x"), path("copy")).unwrap();
    let error = s.find_segment(&name("copy")).unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, StoreError::VersionedCopy { .. }), "{told}");
    assert!(told.contains("segments/copy") && told.contains("'x'"), "{told}");
    assert_eq!(error.errno(), Errno::ENODATA);
    let listed = s.list_segments().unwrap();
    assert!(listed[0].record.is_err() && listed[1].record.is_ok());
    assert!(!check_store(s.path()).unwrap().sound());
    assert_eq!(s.find_segment(&name("x")).unwrap(), sid);
    // Two that were renamed: the id means one of them, and never both.
    fs::rename(path("x"), path("moved")).unwrap();
    let found = [s.find_segment(&name("moved")).is_ok(), s.find_segment(&name("copy")).is_ok()];
    assert_eq!(found.iter().filter(|found| **found).count(), 1, "{found:?}");
}

#[test]
fn a_renamed_file_keeps_its_content() {
    let s = store();
    let sid = versioned(&s, "x");
    fs::rename(s.path().join("segments/x"), s.path().join("segments/y")).unwrap();
    assert_eq!(s.find_segment(&name("y")).unwrap(), sid);
    assert_eq!(s.open_segment(sid).unwrap().name(), &name("y"));
}

#[test]
fn brought_to_another_store_it_needs_its_folder() {
    let (s, t) = (store(), store());
    let sid = versioned(&s, "x");
    commit(&mut content(&s, sid), facts(8192, 0), &[1; 4096]);
    fs::copy(s.path().join("segments/x"), t.path().join("segments/x")).unwrap();
    let vid = t.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    let lost = |error: StoreError| {
        assert!(error.to_string().contains(&sid.to_string()), "{error}");
        assert!(matches!(error, StoreError::VersionsMissing { .. }), "{error}");
        assert_eq!(error.errno(), Errno::ENODATA);
    };
    assert_eq!(t.find_segment(&name("x")).unwrap(), sid, "so that it can be deleted");
    lost(t.open_segment(sid).unwrap_err());
    lost(t.attach_segment(vid, sid, Right::Write).unwrap_err());
    lost(t.list_segments().unwrap().remove(0).record.unwrap_err());
    let report = t.check_segment(&name("x")).unwrap();
    assert_eq!((report.sound(), &report.findings[0].field[..]), (false, "folder"));
    fs::create_dir(folder(&t, sid)).unwrap();
    for file in files(&s, sid) {
        fs::copy(folder(&s, sid).join(&file), folder(&t, sid).join(&file)).unwrap();
    }
    t.attach_segment(vid, sid, Right::Write).unwrap();
    assert_eq!(size(&t, sid), 8192);
    fs::remove_dir_all(folder(&t, sid)).unwrap();
    t.detach_segment(vid, sid).unwrap();
    t.delete_segment(sid).unwrap();
}
