//! Errors: the same numbers as the host kernel returns for the same call on a twin directory.

use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{CWD, World};

fn furnish(root: &Path) {
    std::fs::write(root.join("f"), "text").unwrap();
    std::fs::create_dir_all(root.join("d/full")).unwrap();
    std::fs::create_dir(root.join("empty")).unwrap();
    symlink("f", root.join("to-file")).unwrap();
    symlink("d", root.join("to-dir")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("loop-b", root.join("loop-a")).unwrap();
    symlink("loop-a", root.join("loop-b")).unwrap();
    symlink("self", root.join("self")).unwrap();
    symlink("c0", root.join("c-end")).unwrap();
    for n in 0..60 {
        symlink(format!("c{}", n + 1), root.join(format!("c{n}"))).unwrap();
    }
    std::fs::write(root.join("c60"), "").unwrap();
    symlink("c22", root.join("within")).unwrap();
}

fn paths() -> Vec<String> {
    let mut paths: Vec<String> = [
        "",
        ".",
        "..",
        "./",
        "/",
        "//",
        "f",
        "f/",
        "f/.",
        "f/x",
        "f/..",
        "d",
        "d/",
        "d/.",
        "d/..",
        "d/x",
        "d/x/y",
        "d/full/",
        "empty",
        "empty/",
        "empty/.",
        "empty/..",
        "to-file",
        "to-file/",
        "to-file/x",
        "to-dir",
        "to-dir/",
        "to-dir/.",
        "to-dir/x",
        "dangling",
        "dangling/",
        "dangling/x",
        "loop-a",
        "loop-a/",
        "loop-a/x",
        "self",
        "c-end",
        "c19",
        "c20",
        "c21",
        "c22",
        "c19/x",
        "within",
        "new",
        "new/",
        "new/.",
        "./d/../f",
        "d//full///",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.push("n".repeat(255));
    paths.push("n".repeat(256));
    paths.push(format!("{}/x", "n".repeat(256)));
    paths.push("./".repeat(2046) + "f");
    paths.push("./".repeat(2047) + "f");
    paths.push("./".repeat(2048) + "f");
    paths
}

/// Every path with every call, on fresh twins after each that succeeded and may have changed them.
#[test]
fn errors_are_the_host_kernels_own() {
    let flags = [
        libc::O_RDONLY,
        libc::O_WRONLY,
        libc::O_RDONLY | libc::O_DIRECTORY,
        libc::O_RDONLY | libc::O_NOFOLLOW,
        libc::O_DIRECTORY | libc::O_NOFOLLOW,
        libc::O_RDWR | libc::O_CREAT,
        libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
        libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW,
        libc::O_RDONLY | libc::O_CREAT,
        libc::O_WRONLY | libc::O_TRUNC,
        libc::O_CREAT | libc::O_DIRECTORY,
        libc::O_PATH,
        libc::O_PATH | libc::O_NOFOLLOW,
        libc::O_PATH | libc::O_DIRECTORY,
        libc::O_RDWR | libc::O_TMPFILE,
    ];
    let mut checked = 0;
    let mut pair = twins();
    for path in paths() {
        // The twins' roots differ: another test covers what is above them.
        if path.starts_with('/') || path.starts_with("..") {
            continue;
        }
        for flags in flags {
            let (w, twin) = &pair;
            let ours = w.open(&path, flags).map(|_| ());
            let native_flags = OFlags::from_bits_retain(flags as u32);
            let theirs = rustix::fs::openat(&twin.1, path.as_str(), native_flags, 0o644.into());
            let theirs = theirs.map(|_| ()).map_err(super::super::host);
            assert_eq!(ours, theirs, "open {path:.40} {flags:o}");
            checked += 1;
            if ours.is_ok() {
                pair = twins();
            }
        }
        let calls: [(&str, Ours, Theirs); 9] = [
            (
                "mkdir",
                |f, p| f.mkdirat(CWD, p, 0o777),
                |d, p| rustix::fs::mkdirat(d, p, 0o755.into()),
            ),
            (
                "unlink",
                |f, p| f.unlinkat(CWD, p, 0),
                |d, p| rustix::fs::unlinkat(d, p, AtFlags::empty()),
            ),
            (
                "rmdir",
                |f, p| f.unlinkat(CWD, p, libc::AT_REMOVEDIR as u32),
                |d, p| rustix::fs::unlinkat(d, p, AtFlags::REMOVEDIR),
            ),
            (
                "symlink",
                |f, p| f.symlinkat(b"text", CWD, p),
                |d, p| rustix::fs::symlinkat("text", d, p),
            ),
            (
                "link to",
                |f, p| f.linkat(CWD, b"f", CWD, p, 0),
                |d, p| rustix::fs::linkat(d, "f", d, p, AtFlags::empty()),
            ),
            (
                "link from",
                |f, p| f.linkat(CWD, p, CWD, b"fresh", 0),
                |d, p| rustix::fs::linkat(d, p, d, "fresh", AtFlags::empty()),
            ),
            (
                "rename to",
                |f, p| f.renameat2(CWD, b"f", CWD, p, 0),
                |d, p| rustix::fs::renameat(d, "f", d, p),
            ),
            (
                "rename directory to",
                |f, p| f.renameat2(CWD, b"d", CWD, p, 0),
                |d, p| rustix::fs::renameat(d, "d", d, p),
            ),
            (
                "rename from",
                |f, p| f.renameat2(CWD, p, CWD, b"fresh", 0),
                |d, p| rustix::fs::renameat(d, p, d, "fresh"),
            ),
        ];
        for (name, ours, theirs) in calls {
            let (w, twin) = &pair;
            let ours = ours(&w.files, path.as_bytes());
            let theirs = theirs(&twin.1, &path).map_err(super::super::host);
            assert_eq!(ours, theirs, "{name} {path:.40}");
            checked += 1;
            if ours.is_ok() {
                pair = twins();
            }
        }
    }
    assert!(checked > 1000, "{checked}");
}

type Ours = fn(&super::Files, &[u8]) -> Result<(), abi::Errno>;
type Theirs = fn(&std::os::fd::OwnedFd, &str) -> rustix::io::Result<()>;

fn twins() -> (World, (tempfile::TempDir, std::os::fd::OwnedFd)) {
    let w = World::new();
    furnish(w.host.path());
    let twin = tempfile::tempdir().unwrap();
    furnish(twin.path());
    let fd = rustix::fs::open(twin.path(), OFlags::PATH, Mode::empty()).unwrap();
    (w, (twin, fd))
}
