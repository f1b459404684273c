//! `spacejmp vas export` and `import`: an import restores what was exported, equally sparse, and
//! a damaged archive is one error that leaves nothing behind. Needs no KVM.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use abi::objects::{Lifetime, Right, SegRoot};
use serde_json::Value;
use tests::guests::{self, Profile};
use vmm::store::{Chosen, Mode, Name, SegmentSpec, Store};
use vmm::vas::snapshot::export;

fn run<S: AsRef<OsStr>>(store: &Path, args: &[S]) -> Output {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").env("SPACEJMP_STORE", store).args(args);
    command.output().expect("the command starts")
}

#[track_caller]
fn ok<S: AsRef<OsStr>>(store: &Path, args: &[S]) -> String {
    let output = run(store, args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && error.is_empty(), "{:?}: {error}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// Places in the segment and what is written there.
const CONTENT: [(u64, &[u8]); 4] =
    [(0, b"first"), (4095, b"across"), (3 << 30, &[7; 10_000]), ((1 << 40) - 4, b"last")];

/// A VAS `map` with a sparse segment of 1 TiB, `big`, and a small one, `small`.
fn source(path: &Path) -> Store {
    let store = Store::open_or_create(path).expect("a new store");
    let big = store.create_segment(&name("big"), &SegmentSpec::new(1 << 40)).expect("made");
    let spec = SegmentSpec { mode: Mode::new(0o640).expect("a mode"), ..SegmentSpec::new(8192) };
    let small = store.create_segment(&name("small"), &spec).expect("made");
    let file = store.open_segment(big).expect("there");
    let part = file.part(0).expect("there");
    for (at, bytes) in CONTENT {
        rustix::io::pwrite(part.fd(), bytes, part.offset() + at).expect("written");
    }
    let address = file.header().base + 64;
    store.root_set(big, SegRoot { address, fingerprint: [1, 2] }).expect("set");
    let vid = store.create_vas(&name("map"), Mode::PRIVATE).expect("made");
    store.attach_segment(vid, big, Right::Write).expect("attached");
    store.attach_segment(vid, small, Right::Read).expect("attached");
    store
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        match entry.file_type().expect("a type").is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

#[test]
fn a_vas_with_a_sparse_terabyte_comes_back_in_another_store_as_it_was() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let original = source(&from);
    let archive = folder.path().join("map.vas");
    let file = archive.to_str().expect("ASCII");
    ok(&from, &["vas", "export", "map", file]);
    assert!(fs::metadata(&archive).expect("there").len() < 4096, "it stores zeros");
    let again = run(&from, &["vas", "export", "map", file]);
    assert_eq!(again.status.code(), Some(125), "an existing file is not replaced");
    ok(&from, &["vas", "export", "map", file, "--force"]);

    let said: Value =
        serde_json::from_str(&ok(&to, &["vas", "import", file, "--json"])).expect("JSON");
    assert_eq!(said["segments"].as_array().expect("a list").len(), 2);
    let copy = Store::open(&to).expect("a store");
    let vas =
        |store: &Store| store.vas(store.find_vas(&name("map")).expect("there")).expect("whole");
    assert_eq!(vas(&copy), vas(&original), "ids, rights and order stay");
    for text in ["big", "small"] {
        let record = |store: &Store| {
            store.segment(store.find_segment(&name(text)).expect("there")).expect("whole")
        };
        let (old, new) = (record(&original), record(&copy));
        assert_eq!((&old.header, old.mode), (&new.header, new.mode));
        assert!(new.stored_bytes < 1 << 20, "holes stay holes: {}", new.stored_bytes);
    }
    let file = copy.open_segment(copy.find_segment(&name("big")).expect("there")).expect("there");
    let part = file.part(0).expect("there");
    for (at, bytes) in CONTENT {
        let mut found = vec![0; bytes.len()];
        rustix::io::pread(part.fd(), &mut found[..], part.offset() + at).expect("read");
        assert_eq!(found, bytes, "at {at:#x}");
    }
    ok(&to, &["store", "check"]);
}

#[test]
fn names_that_are_taken_are_refused_and_another_name_brings_a_second_copy() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("store");
    let store = source(&path);
    let archive = folder.path().join("map.vas");
    let file = archive.to_str().expect("ASCII");
    ok(&path, &["vas", "export", "map", file]);
    let before = files(&path);
    let refused = run(&path, &["vas", "import", file]);
    let error = String::from_utf8(refused.stderr).expect("text");
    assert!(error.contains("VAS 'map' exists") && error.contains("--as"), "{error}");
    store.delete_vas(store.find_vas(&name("map")).expect("there")).expect("deleted");
    let refused = run(&path, &["vas", "import", file]);
    let error = String::from_utf8(refused.stderr).expect("text");
    assert!(error.contains("segment 'big' exists"), "{error}");
    ok(&path, &["vas", "create", "map"]);
    assert_eq!(files(&path), before, "a refused import leaves nothing");

    ok(&path, &["vas", "import", file, "--as", "second"]);
    let vas = store.vas(store.find_vas(&name("second")).expect("there")).expect("whole");
    let names: Vec<_> = vas.segments.iter().map(|segment| segment.name.as_str()).collect();
    assert_eq!(names, ["second.big", "second.small"]);
    let sid = |text: &str| store.find_segment(&name(text)).expect("there");
    assert_ne!(sid("big"), sid("second.big"), "a taken id is given anew");
    assert_eq!(vas.segments[0].sid, sid("second.big"));
    ok(&path, &["store", "check"]);
}

#[test]
fn an_archive_goes_through_a_pipe() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    source(&from);
    let exported = run(&from, &["vas", "export", "map", "-"]);
    assert!(exported.status.success());
    let input = folder.path().join("piped");
    fs::write(&input, &exported.stdout).expect("written");
    let status = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .env("SPACEJMP_STORE", &to)
        .args(["vas", "import", "-"])
        .stdin(Stdio::from(fs::File::open(&input).expect("there")))
        .status();
    assert!(status.expect("the command starts").success());
    ok(&to, &["seg", "show", "big"]);
}

#[test]
fn a_damaged_archive_is_refused_and_leaves_nothing_or_gives_exactly_what_was_in_it() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let original = source(&folder.path().join("from"));
    let vid = original.find_vas(&name("map")).expect("there");
    let mut archive = Vec::new();
    let whole = &Chosen::Whole(vid);
    export(&original, whole, &mut archive, "x".as_ref(), None, &|| false, &mut |_| {})
        .expect("exported");
    let store = Store::open_or_create(&folder.path().join("to")).expect("a new store");
    let empty = files(store.path());
    let import =
        |bytes: &[u8]| store.import_vas(&mut &*bytes, "damaged".as_ref(), None, 0o022, &mut |_| {});
    let (mut refused, mut harmless) = (0, 0);
    let step = (archive.len() / 300).max(1);
    for at in (0..archive.len()).step_by(step) {
        let mut changed = archive.clone();
        changed[at] ^= 1 << (at % 8);
        match import(&changed) {
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("damaged"), "byte {at}: {error}");
            }
            // Bits that zstd ignores: then the import is unchanged.
            Ok(imported) => {
                harmless += 1;
                let mut again = Vec::new();
                export(
                    &store,
                    &Chosen::Whole(imported.vid),
                    &mut again,
                    "x".as_ref(),
                    None,
                    &|| false,
                    &mut |_| {},
                )
                .expect("ok");
                assert_eq!(again, archive, "byte {at}");
                store.delete_vas(imported.vid).expect("deleted");
                for (_, sid) in imported.segments {
                    store.delete_segment(sid).expect("deleted");
                }
            }
        }
        assert_eq!(files(store.path()), empty, "byte {at}");
    }
    for len in (0..archive.len()).step_by(step) {
        import(&archive[..len]).expect_err("cut off");
        assert_eq!(files(store.path()), empty, "cut at {len}");
    }
    for garbage in [&b"garbage at the end"[..], &archive] {
        import(&[&archive, garbage].concat()).expect_err("something follows");
        assert_eq!(files(store.path()), empty);
    }
    assert!(refused > 250 && harmless < 10, "{refused} refused, {harmless} harmless");
    import(&archive).expect("the archive itself is whole");
}

#[test]
fn a_damaged_archive_is_one_error_that_names_it_and_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    source(&from);
    let archive = folder.path().join("map.vas");
    let file = archive.to_str().expect("ASCII");
    ok(&from, &["vas", "export", "map", file]);
    let whole = fs::read(&archive).expect("there");
    fs::File::options()
        .write(true)
        .open(&archive)
        .and_then(|to| to.write_all_at(&[whole[whole.len() / 2] ^ 1], whole.len() as u64 / 2))
        .expect("written");
    Store::open_or_create(&to).expect("a new store");
    let kinds = [
        (None, "is damaged: found"),
        (Some(&b"no archive at all"[..]), "is not an archive"),
        (Some(&b""[..]), "is not an archive"),
        (Some(&whole[..50]), "ends in the middle"),
    ];
    for (bytes, what) in kinds {
        if let Some(bytes) = bytes {
            fs::write(&archive, bytes).expect("written");
        }
        let output = run(&to, &["vas", "import", file]);
        assert_eq!(output.status.code(), Some(125));
        let error = String::from_utf8(output.stderr).expect("text");
        let (_, cause) = error.split_once("  1: ").expect("a cause");
        assert!(cause.contains(file) && cause.contains(what), "{error}");
        let list: Value =
            serde_json::from_str(&ok(&to, &["store", "info", "--json"])).expect("JSON");
        assert_eq!((&list["vases"], &list["segments"]), (&0.into(), &0.into()));
    }
}

#[test]
fn content_of_several_files_and_of_volatile_segments_comes_back() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let store = Store::open_or_create(&from).expect("a new store");
    let vid = store.create_vas(&name("map"), Mode::PRIVATE).expect("made");
    let kept = SegmentSpec::new(17 << 40);
    let volatile = SegmentSpec { lifetime: Lifetime::Volatile, ..SegmentSpec::new(9 << 40) };
    // In each of their files, at its start, in the middle, and at its end.
    let places = |spec: &SegmentSpec| {
        let parts = (0..spec.size_bytes).step_by(8 << 40);
        let end = |start: u64| (start + (8 << 40)).min(spec.size_bytes) - 8;
        parts.flat_map(move |start| [start, start + (5 << 30), end(start)]).collect::<Vec<u64>>()
    };
    for (text, spec) in [("kept", &kept), ("volatile", &volatile)] {
        let sid = store.create_segment(&name(text), spec).expect("made");
        store.attach_segment(vid, sid, Right::Write).expect("attached");
        let file = store.open_segment(sid).expect("there");
        for at in places(spec) {
            let part = file.part(at >> 43).expect("there");
            let offset = part.offset() + at % (8 << 40);
            rustix::io::pwrite(part.fd(), &at.to_le_bytes(), offset).expect("written");
        }
    }
    let archive = folder.path().join("map.vas");
    let file = archive.to_str().expect("ASCII");
    ok(&from, &["vas", "export", "map", file]);
    ok(&to, &["vas", "import", file]);
    let copy = Store::open(&to).expect("a store");
    for (text, spec) in [("kept", &kept), ("volatile", &volatile)] {
        let sid = copy.find_segment(&name(text)).expect("there");
        let record = copy.segment(sid).expect("whole");
        assert_eq!(record.header.lifetime, spec.lifetime, "{text}");
        assert!(record.stored_bytes < 1 << 20, "{text}: holes stay holes");
        let file = copy.open_segment(sid).expect("there");
        for at in places(spec) {
            let part = file.part(at >> 43).expect("there");
            let mut found = [0; 8];
            rustix::io::pread(part.fd(), &mut found[..], part.offset() + at % (8 << 40))
                .expect("read");
            assert_eq!(u64::from_le_bytes(found), at, "{text} at {at:#x}");
        }
    }
    ok(&to, &["store", "check"]);
    for store in [store, copy] {
        store.delete_vas(vid).expect("deleted");
        for text in ["kept", "volatile"] {
            let sid = store.find_segment(&name(text)).expect("there");
            store.delete_segment(sid).expect("deleted");
        }
    }
}

/// Whether there are segments without a VAS, and whether the check names them all.
fn orphans(store: &Store, path: &Path) -> usize {
    let segments = store.list_segments().expect("a list");
    if !store.list_vases().expect("a list").is_empty() {
        return 0;
    }
    let output = run(path, &["store", "check", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for segment in &segments {
        let file = path.join("segments").join(segment.name.as_str());
        let named = report["findings"].as_array().expect("a list").iter().any(|finding| {
            finding["file"] == file.to_str().expect("ASCII") && finding["field"] == "import"
        });
        assert!(named, "{} is not named: {report}", segment.name);
    }
    segments.len()
}

#[test]
fn what_a_killed_import_leaves_is_named_by_check_and_removed_by_gc() {
    const SEGMENTS: usize = 60;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let source = Store::open_or_create(&from).expect("a new store");
    let vid = source.create_vas(&name("map"), Mode::PRIVATE).expect("made");
    for n in 0..SEGMENTS {
        let text = format!("s{n}");
        // Some with further files, which must be removed, too.
        let size_bytes = if n % 20 == 0 { 9 << 40 } else { 4096 };
        let lifetime = if n % 3 == 1 { Lifetime::Versioned } else { Lifetime::Persistent };
        let spec = SegmentSpec { lifetime, ..SegmentSpec::new(size_bytes) };
        let sid = source.create_segment(&name(&text), &spec);
        source.attach_segment(vid, sid.expect("made"), Right::Write).expect("attached");
    }
    let archive = folder.path().join("map.vas");
    let file = archive.to_str().expect("ASCII");
    ok(&from, &["vas", "export", "map", file]);
    let store = Store::open_or_create(&to).expect("a new store");
    let empty = files(store.path());
    let (mut in_the_middle, mut round) = (0, 0);
    while in_the_middle < 3 {
        round += 1;
        assert!(round < 200, "no import was killed while it published");
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.env("SPACEJMP_STORE", &to).args(["vas", "import", file]);
        let mut child = command.stderr(Stdio::null()).spawn().expect("the command starts");
        // As soon as something has been published: the rest takes many times as long.
        let published = |store: &Store| fs::read_dir(store.path().join("segments"));
        while child.try_wait().expect("it can be waited for").is_none() {
            if published(&store).expect("the folder can be listed").count() > round % SEGMENTS {
                break;
            }
        }
        // It may just have ended.
        let _ = child.kill();
        child.wait().expect("it can be waited for");
        in_the_middle += usize::from(orphans(&store, &to) > 0);
        store.gc().expect("garbage is collected");
        match store.find_vas(&name("map")) {
            Ok(vid) => {
                // It was faster; then it is complete, with nothing else.
                let segments = store.vas(vid).expect("whole").segments;
                assert_eq!(segments.len(), SEGMENTS);
                store.delete_vas(vid).expect("deleted");
                segments.iter().for_each(|s| store.delete_segment(s.sid).expect("deleted"));
            }
            Err(error) => assert_eq!(error.errno(), abi::Errno::ENOENT, "{error}"),
        }
        assert_eq!(files(store.path()), empty, "round {round}");
    }
    println!("{in_the_middle} of {round} imports were killed while they published");
}

#[test]
fn a_segment_of_a_killed_import_that_somebody_took_to_stays() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("store");
    let store = Store::open_or_create(&path).expect("a new store");
    let sid = store.create_segment(&name("taken"), &SegmentSpec::new(4096)).expect("made");
    let second = path.join("tmp/0123456789abcdef.import");
    fs::hard_link(path.join("segments/taken"), &second).expect("linked");
    // A copy of a file is not the file: its segment is not changed.
    store.create_segment(&name("other"), &SegmentSpec::new(4096)).expect("made");
    let copied = path.join("tmp/copy.import");
    fs::copy(path.join("segments/other"), &copied).expect("copied");
    fs::hard_link(&copied, path.join("tmp/link.import")).expect("linked");
    let vid = store.create_vas(&name("mine"), Mode::PRIVATE).expect("made");
    store.attach_segment(vid, sid, Right::Write).expect("attached");
    store.gc().expect("garbage is collected");
    assert!(!second.exists() && !copied.exists());
    for text in ["taken", "other"] {
        store.find_segment(&name(text)).expect("it is there");
    }
    ok(&path, &["store", "check"]);
}

#[test]
fn an_import_says_what_it_writes_before_and_heeds_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let store = source(&from);
    let archive = folder.path().join("map.vas");
    let file = archive.to_str().expect("ASCII");
    let (vid, mode) = (store.find_vas(&name("map")).expect("there"), Mode::new(0o666));
    store.set_vas_mode(vid, mode.expect("a mode")).expect("changed");
    let sid = store.find_segment(&name("big")).expect("there");
    store.set_segment_mode(sid, mode.expect("a mode")).expect("changed");
    ok(&from, &["vas", "export", "map", file]);
    // The whole command line except for the umask.
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 026; exec \"$@\"", "sh"]).env("SPACEJMP_STORE", &to);
    shell
        .arg(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .args(["vas", "import", file]);
    let output = shell.output().expect("the command starts");
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).expect("text");
    assert!(told.starts_with("importing VAS 'map': 2 segments with "), "{told}");
    assert!(told.contains("1.0 TiB of addresses") || told.contains("1 TiB of addresses"), "{told}");
    let mode =
        |path: &str| fs::metadata(to.join(path)).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode("segments/big"), mode("segments/small")), (0o640, 0o640));
    assert_eq!((mode("vas/map"), mode("vas/map/manifest")), (0o750, 0o640));
    // This is printed before anything is done, so also when it cannot be done.
    let refused = run(&to, &["vas", "import", file]);
    assert_eq!(refused.status.code(), Some(125));
    assert_eq!(String::from_utf8(refused.stdout).expect("text"), told);
    fs::write(&archive, "no archive").expect("written");
    let damaged = run(&folder.path().join("third"), &["vas", "import", file]);
    assert!(!damaged.status.success() && damaged.stdout.is_empty());
    assert!(!folder.path().join("third").exists(), "no store is made for nothing");
}
