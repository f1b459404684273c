//! A store inside a grant is inaccessible by any name.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use abi::Errno;
use abi::objects::Lifetime;
use tempfile::TempDir;

use super::super::{Files, FilesError, Namespace, NamespaceError};
use super::{CWD, GrantAccess, OffLimits, files_without, grant, null, open, read};
use spacejmp_store::{FOLDERS, Name, SegmentSpec, Store};

const AWAY: Errno = Errno::EACCES;

/// A home directory, granted at `/w`, with a store at `share/space/store`.
struct Home {
    host: TempDir,
    files: Files,
}

fn store_in(host: &Path) -> PathBuf {
    host.join("share/space/store")
}

fn files_of(host: &Path) -> Files {
    let off_limits = OffLimits::stores([store_in(host)], &FOLDERS);
    files_without(&[grant(host, "/w", GrantAccess::ReadWrite)], "/w", off_limits)
}

fn home() -> Home {
    let host = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(&store_in(host.path())).unwrap();
    store.create_segment(&name("seg"), &SegmentSpec::new(4096)).unwrap();
    let spec = SegmentSpec { lifetime: Lifetime::Versioned, ..SegmentSpec::new(4096) };
    store.create_segment(&name("versioned"), &spec).unwrap();
    store.create_vas(&name("space"), spacejmp_store::Mode::PRIVATE).unwrap();
    let files = files_of(host.path());
    Home { host, files }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// The result of every call that takes one path.
fn each_call(files: &Files, path: &str) -> Vec<(&'static str, Result<(), Errno>)> {
    let bytes = path.as_bytes();
    let opened = |flags| open(files, path, flags).map(drop);
    vec![
        ("open", opened(libc::O_RDONLY)),
        ("open for writing", opened(libc::O_RDWR)),
        ("open and cut", opened(libc::O_WRONLY | libc::O_TRUNC)),
        ("open or make", opened(libc::O_RDWR | libc::O_CREAT)),
        ("open the path", opened(libc::O_PATH)),
        ("open a nameless file", opened(libc::O_RDWR | libc::O_TMPFILE)),
        ("stat", files.newfstatat(CWD, bytes, 0).map(drop)),
        ("statx", files.statx(CWD, bytes, 0, 0x7ff).map(drop)),
        ("statfs", files.statfs(bytes).map(drop)),
        ("access", files.faccessat2(CWD, bytes, 0, 0)),
        ("chdir", files.chdir(bytes)),
        ("chmod", files.fchmodat2(CWD, bytes, 0o777, 0)),
        ("chown", files.fchownat(CWD, bytes, u32::MAX, u32::MAX, 0)),
        ("utimes", files.utimensat(CWD, Some(bytes), None, 0)),
        ("truncate", files.truncate(bytes, 0)),
        ("mkdir", files.mkdirat(CWD, bytes, 0o777)),
        ("mknod", files.mknodat(CWD, bytes, libc::S_IFREG | 0o666)),
        ("symlink", files.symlinkat(b"x", CWD, bytes)),
        ("link from", files.linkat(CWD, bytes, CWD, b"/w/stolen", 0x400)),
        ("link to", files.linkat(CWD, b"/w/mine", CWD, bytes, 0)),
        ("unlink", files.unlinkat(CWD, bytes, 0)),
        ("rmdir", files.unlinkat(CWD, bytes, libc::AT_REMOVEDIR as u32)),
        ("rename from", files.renameat2(CWD, bytes, CWD, b"/w/stolen", 0)),
        ("rename to", files.renameat2(CWD, b"/w/mine", CWD, bytes, 0)),
        ("exchange", files.renameat2(CWD, b"/w/mine", CWD, bytes, 2)),
    ]
}

#[test]
fn every_call_is_refused_everything_in_the_store() {
    let h = home();
    std::fs::write(h.host.path().join("mine"), "mine").unwrap();
    let store = "/w/share/space/store";
    let inside = [
        "",
        "/",
        "/.",
        "/format",
        "/live",
        "/lock",
        "/tmp",
        "/segments/seg",
        "/new",
        "/new/x",
        "/format/x",
    ]
    .into_iter()
    .chain(["/vas/space", "/vas/space/manifest", "/segments/new", "/vms/..", "/vas/space/.."]);
    for end in inside {
        let path = format!("{store}{end}");
        for (call, result) in each_call(&h.files, &path) {
            assert_eq!(result, Err(AWAY), "{call} {path}");
        }
    }
    // Its neighbours are not affected.
    h.files.mkdirat(CWD, b"/w/share/space/other", 0o777).unwrap();
    assert_eq!(read(&h.files, "/w/mine").unwrap(), "mine");
    assert_eq!(read(&h.files, "/w/share/space/store/../../../mine").unwrap(), "mine");
}

#[test]
fn links_climbing_and_descriptors_lead_no_further() {
    let h = home();
    let host = h.host.path();
    symlink("share/space/store", host.join("soft")).unwrap();
    symlink("/w/share/space/store/segments", host.join("absolute")).unwrap();
    symlink("soft/segments/seg", host.join("far")).unwrap();
    for path in ["/w/soft", "/w/soft/segments/seg", "/w/absolute/seg", "/w/far", "/w/soft/../store"]
    {
        assert_eq!(read(&h.files, path), Err(AWAY), "{path}");
    }
    // The link itself is the user's.
    assert_eq!(h.files.readlinkat(CWD, b"/w/soft", 99).unwrap(), b"share/space/store");
    let dir = open(&h.files, "/w/share/space", libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
    for path in ["store", "store/segments/seg", "./store/live"] {
        let result = h.files.openat(dir, path.as_bytes(), libc::O_RDONLY, 0);
        assert_eq!(result, Err(AWAY), "{path}");
    }
    h.files.fchdir(dir).unwrap();
    assert_eq!(read(&h.files, "store/format"), Err(AWAY));
}

#[test]
fn a_second_name_of_a_file_is_the_file() {
    let h = home();
    let (host, store) = (h.host.path(), store_in(h.host.path()));
    let versions = std::fs::read_dir(store.join("versions")).unwrap().next().unwrap().unwrap();
    let home = format!("versions/{}/home", versions.file_name().to_string_lossy());
    let files = ["segments/seg", "live", "lock", "format", "vas/space/manifest", &home];
    for (number, file) in files.iter().enumerate() {
        let link = host.join(format!("hard{number}"));
        std::fs::hard_link(store.join(file), &link).unwrap();
        let path = format!("/w/hard{number}");
        for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_PATH] {
            assert_eq!(open(&h.files, &path, flags), Err(AWAY), "{file}");
        }
        assert_eq!(h.files.renameat2(CWD, path.as_bytes(), CWD, b"/w/x", 0), Err(AWAY), "{file}");
    }
    // Hard links among the user's own files are allowed.
    std::fs::write(host.join("a"), "own").unwrap();
    std::fs::hard_link(host.join("a"), host.join("b")).unwrap();
    assert_eq!(read(&h.files, "/w/b").unwrap(), "own");
}

#[test]
fn the_way_to_the_store_can_neither_be_moved_nor_replaced() {
    let h = home();
    let host = h.host.path();
    std::fs::create_dir_all(host.join("evil/space/store")).unwrap();
    let moves: [(&[u8], &[u8], u32); 5] = [
        (b"/w/share", b"/w/away", 0),
        (b"/w/share/space", b"/w/away", 0),
        (b"/w/evil", b"/w/share", 2),
        (b"/w/share", b"/w/evil", 2),
        (b"/w/evil/space", b"/w/share/space", 0),
    ];
    for (from, to, flags) in moves {
        assert_eq!(h.files.renameat2(CWD, from, CWD, to, flags), Err(AWAY));
    }
    assert!(store_in(host).join("format").exists());
    h.files.renameat2(CWD, b"/w/evil", CWD, b"/w/good", 0).unwrap();
}

#[test]
fn a_link_on_the_way_to_the_store_stays_as_it_is() {
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(host.path().join("disk/space")).unwrap();
    symlink("disk", host.path().join("share")).unwrap();
    let files = files_of(host.path());
    assert_eq!(files.unlinkat(CWD, b"/w/share", 0), Err(AWAY));
    assert_eq!(files.renameat2(CWD, b"/w/disk", CWD, b"/w/x", 0), Err(AWAY));
    assert_eq!(files.mkdirat(CWD, b"/w/disk/space/store", 0o777), Err(AWAY));
    Store::open_or_create(&store_in(host.path())).unwrap();
    assert_eq!(read(&files, "/w/disk/space/store/format"), Err(AWAY));
}

#[test]
fn a_store_that_is_not_there_yet_cannot_be_planted() {
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(host.path().join("fake/space/store/segments")).unwrap();
    let files = files_of(host.path());
    // The first missing directory may be created, but nothing else may take its place.
    assert_eq!(files.symlinkat(b"fake", CWD, b"/w/share"), Err(AWAY));
    assert_eq!(files.renameat2(CWD, b"/w/fake", CWD, b"/w/share", 0), Err(AWAY));
    assert_eq!(open(&files, "/w/share", libc::O_CREAT | libc::O_RDWR), Err(AWAY));
    files.mkdirat(CWD, b"/w/share", 0o777).unwrap();
    assert_eq!(files.unlinkat(CWD, b"/w/share", libc::AT_REMOVEDIR as u32), Err(AWAY));
    assert_eq!(files.renameat2(CWD, b"/w/fake/space", CWD, b"/w/share/space", 0), Err(AWAY));
    files.mkdirat(CWD, b"/w/share/space", 0o777).unwrap();
    assert_eq!(files.mkdirat(CWD, b"/w/share/space/store", 0o777), Err(AWAY));
    assert_eq!(files.symlinkat(b"/w/fake", CWD, b"/w/share/space/store"), Err(AWAY));
    let dir = open(&files, "/w/share/space", libc::O_RDONLY).unwrap();
    assert_eq!(files.mkdirat(dir, b"store", 0o777), Err(AWAY));
    // Now it is created, and is as inaccessible as if it had existed before.
    Store::open_or_create(&store_in(host.path())).unwrap();
    for path in ["store", "store/format", "store/segments/.."] {
        assert_eq!(files.openat(dir, path.as_bytes(), libc::O_RDONLY, 0), Err(AWAY), "{path}");
    }
    assert_eq!(files.renameat2(CWD, b"/w/share", CWD, b"/w/x", 0), Err(AWAY));
}

#[test]
fn a_store_that_is_made_anew_is_out_of_reach_too() {
    let h = home();
    std::fs::remove_dir_all(store_in(h.host.path())).unwrap();
    assert_eq!(read(&h.files, "/w/share/space/store/format"), Err(Errno::ENOENT));
    assert_eq!(h.files.mkdirat(CWD, b"/w/share/space/store", 0o777), Err(AWAY));
    Store::open_or_create(&store_in(h.host.path())).unwrap();
    assert_eq!(read(&h.files, "/w/share/space/store/format"), Err(AWAY));
}

#[test]
fn a_grant_that_is_the_store_or_in_it_is_refused_by_any_name() {
    let h = home();
    let host = h.host.path();
    symlink("share/space/store", host.join("soft")).unwrap();
    std::fs::create_dir(store_in(host).join("vas/space/deep")).unwrap();
    let store = store_in(host);
    for dir in [
        store.clone(),
        store.join("segments"),
        store.join("vas/space/deep"),
        host.join("soft"),
        host.join("soft/vms"),
    ] {
        for access in [GrantAccess::ReadOnly, GrantAccess::ReadWrite] {
            let off_limits = OffLimits::stores([store_in(host)], &FOLDERS);
            let result =
                Namespace::new(&[grant(&dir, "/s", access)], off_limits, super::TEXTS.to_vec());
            assert!(matches!(result, Err(NamespaceError::Store { .. })), "{}", dir.display());
        }
    }
}

#[test]
fn a_standard_stream_is_no_way_into_the_store() {
    let h = home();
    let path = store_in(h.host.path()).join("segments/seg");
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let off_limits = OffLimits::stores([store_in(h.host.path())], &FOLDERS);
    let namespace = Namespace::new(&[], off_limits, super::TEXTS.to_vec()).unwrap();
    let result = Files::new(namespace, [null(), file.into(), null()], Path::new("/"), 0);
    assert!(matches!(result, Err(FilesError::Store { fd: 1, .. })));
}

#[test]
fn content_of_volatile_segments_is_off_limits_where_the_host_keeps_it() {
    let Ok(folder) = tempfile::Builder::new().prefix("other-").tempdir_in("/dev/shm") else {
        return;
    };
    let file = tempfile::Builder::new().prefix("spacejmp-").tempfile_in("/dev/shm").unwrap();
    let link = folder.path().join("link");
    std::fs::hard_link(file.path(), &link).unwrap();
    let off_limits = OffLimits::stores([folder.path().join("no-store")], &FOLDERS);
    let files = files_without(
        &[grant("/dev/shm".as_ref(), "/s", GrantAccess::ReadWrite)],
        "/s",
        off_limits,
    );
    for path in [file.path(), &link] {
        let path = Path::new("/s").join(path.strip_prefix("/dev/shm").unwrap());
        assert_eq!(read(&files, path.to_str().unwrap()), Err(AWAY), "{}", path.display());
    }
}

#[test]
fn a_copy_of_the_process_keeps_the_descriptor_by_which_a_store_is_watched_for() {
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir(host.path().join("share")).unwrap();
    let files = files_of(host.path());
    let watches = || {
        let kept = files.base_descriptors().into_iter();
        let named = kept.map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap());
        named.filter(|path| *path == host.path().canonicalize().unwrap().join("share")).count()
    };
    files.newfstatat(CWD, b"share", 0).unwrap();
    assert_eq!(watches(), 1, "what is missing is watched for from there");
    Store::open_or_create(&store_in(host.path())).unwrap();
    files.newfstatat(CWD, b"share", 0).unwrap();
    assert_eq!(watches(), 0);
}
