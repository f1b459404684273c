//! Read-only means read-only: every call that would change something.

use std::os::unix::fs::symlink;

use abi::Errno;

use super::super::{Files, GrantAccess};
use super::{CWD, World, read};

type Call = fn(&Files) -> Result<(), Errno>;

fn opened(files: &Files, path: &[u8], flags: i32) -> Result<(), Errno> {
    let fd = files.openat(CWD, path, flags, 0o666)?;
    files.close(fd)
}

/// Runs a call on a descriptor of `f` opened for reading.
fn on_fd(files: &Files, call: impl Fn(i32) -> Result<(), Errno>) -> Result<(), Errno> {
    let fd = files.openat(CWD, b"f", libc::O_RDONLY, 0)?;
    let result = call(fd);
    files.close(fd)?;
    result
}

const CALLS: &[(&str, Call)] = &[
    ("open for writing", |f| opened(f, b"f", libc::O_WRONLY)),
    ("open for both", |f| opened(f, b"f", libc::O_RDWR)),
    ("open through a link", |f| opened(f, b"l", libc::O_RDWR)),
    ("open to append", |f| opened(f, b"f", libc::O_WRONLY | libc::O_APPEND)),
    ("truncate on open", |f| opened(f, b"f", libc::O_TRUNC)),
    ("create", |f| opened(f, b"new", libc::O_CREAT)),
    ("create to write", |f| opened(f, b"new", libc::O_CREAT | libc::O_WRONLY)),
    ("create through a link", |f| opened(f, b"dangling", libc::O_CREAT)),
    ("temporary file", |f| opened(f, b".", libc::O_TMPFILE | libc::O_RDWR)),
    ("fifo for writing", |f| opened(f, b"fifo", libc::O_RDWR)),
    ("mkdir", |f| f.mkdirat(CWD, b"new", 0o777)),
    ("mknod", |f| f.mknodat(CWD, b"new", libc::S_IFREG | 0o600)),
    ("mkfifo", |f| f.mknodat(CWD, b"new", libc::S_IFIFO | 0o600)),
    ("symlink", |f| f.symlinkat(b"f", CWD, b"new")),
    ("link", |f| f.linkat(CWD, b"f", CWD, b"new", 0)),
    ("link a descriptor", |f| {
        on_fd(f, |fd| f.linkat(fd, b"", CWD, b"new", libc::AT_EMPTY_PATH as u32))
    }),
    ("unlink", |f| f.unlinkat(CWD, b"f", 0)),
    ("rmdir", |f| f.unlinkat(CWD, b"d", libc::AT_REMOVEDIR as u32)),
    ("rename", |f| f.renameat2(CWD, b"f", CWD, b"new", 0)),
    ("exchange", |f| f.renameat2(CWD, b"f", CWD, b"d", libc::RENAME_EXCHANGE)),
    ("truncate", |f| f.truncate(b"f", 0)),
    ("chmod", |f| f.fchmodat2(CWD, b"f", 0o777, 0)),
    ("fchmod", |f| on_fd(f, |fd| f.fchmod(fd, 0o777))),
    ("chmod of a descriptor", |f| {
        on_fd(f, |fd| f.fchmodat2(fd, b"", 0o777, libc::AT_EMPTY_PATH as u32))
    }),
    ("chown", |f| f.fchownat(CWD, b"f", 7, 7, 0)),
    ("lchown", |f| f.fchownat(CWD, b"l", 7, 7, libc::AT_SYMLINK_NOFOLLOW as u32)),
    ("fchown", |f| on_fd(f, |fd| f.fchown(fd, 7, 7))),
    ("chown of a descriptor", |f| {
        on_fd(f, |fd| f.fchownat(fd, b"", 7, 7, libc::AT_EMPTY_PATH as u32))
    }),
    ("utimensat", |f| f.utimensat(CWD, Some(b"f"), None, 0)),
    ("futimens", |f| on_fd(f, |fd| f.utimensat(fd, None, None, 0))),
    ("utimensat of a descriptor", |f| {
        on_fd(f, |fd| f.utimensat(fd, Some(b""), None, libc::AT_EMPTY_PATH as u32))
    }),
    ("access for writing", |f| f.faccessat2(CWD, b"f", 2, 0)),
];

#[test]
fn every_changing_call_gives_erofs_and_changes_nothing() {
    let w = World::with(GrantAccess::ReadOnly);
    let host = w.host.path();
    w.write("f", "text");
    std::fs::create_dir(host.join("d")).unwrap();
    symlink("f", host.join("l")).unwrap();
    symlink("nowhere", host.join("dangling")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        host.join("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let before = super::random::tree(host);
    let times = std::fs::metadata(host.join("f")).unwrap().modified().unwrap();
    for (name, call) in CALLS {
        assert_eq!(call(&w.files), Err(Errno::EROFS), "{name}");
    }
    // Descriptors opened for reading cannot be written through either.
    let fd = w.open("f", libc::O_RDONLY).unwrap();
    assert_eq!(w.files.ftruncate(fd, 0), Err(Errno::EINVAL));
    assert_eq!(w.files.fallocate(fd, 0, 0, 10), Err(Errno::EBADF));
    assert_eq!(w.files.get(fd).unwrap().can_write(), Err(Errno::EBADF));
    assert_eq!(super::random::tree(host), before);
    assert_eq!(std::fs::metadata(host.join("f")).unwrap().modified().unwrap(), times);
}

/// The table above would prove nothing if its calls failed everywhere.
#[test]
fn the_same_calls_succeed_in_a_writable_grant() {
    for (name, call) in CALLS {
        let w = World::new();
        w.write("f", "text");
        std::fs::create_dir(w.host.path().join("d")).unwrap();
        symlink("f", w.host.path().join("l")).unwrap();
        symlink("nowhere", w.host.path().join("dangling")).unwrap();
        w.files.mknodat(CWD, b"fifo", libc::S_IFIFO | 0o600).unwrap();
        let result = call(&w.files);
        // Changing the owner needs a privilege that the tests may lack.
        let privileged = name.contains("chown") && !rustix::process::geteuid().is_root();
        assert!(result.is_ok() || privileged, "{name}: {result:?}");
    }
}

#[test]
fn reading_works_and_existing_files_may_be_opened_with_create() {
    let w = World::with(GrantAccess::ReadOnly);
    w.write("f", "text");
    assert_eq!(read(&w.files, "f").unwrap(), "text");
    w.open("f", libc::O_RDONLY | libc::O_CREAT).unwrap();
    assert_eq!(w.open("f", libc::O_CREAT | libc::O_EXCL), Err(Errno::EEXIST));
    assert_eq!(w.files.mkdirat(CWD, b"f", 0o777), Err(Errno::EEXIST));
    assert_eq!(w.open(".", libc::O_WRONLY), Err(Errno::EISDIR));
}
