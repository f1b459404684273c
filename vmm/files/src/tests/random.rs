//! Random operations in a grant and natively in a twin directory: the same results, the
//! same errors, the same tree afterwards.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use abi::Errno;
use proptest::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps};

use super::super::Files;
use super::{CWD, World};

#[derive(Clone, Debug)]
enum Op {
    Open(String, i32),
    Mkdir(String),
    Mkfifo(String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, u32),
    Link(String, String, bool),
    Symlink(String, String),
    Stat(String, bool),
    Readlink(String),
    Chmod(String, u32),
    Truncate(String, i64),
    Times(String, bool),
    Access(String),
    Chdir(String),
}

/// What is in a directory: path to type and mode, size of files, links, text, times.
pub(super) fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let size = if meta.is_dir() { 0 } else { meta.size() };
            let nlink = if meta.is_dir() { 0 } else { meta.nlink() };
            // Only times set on purpose are comparable between twins.
            let mtime = meta.mtime().min(1_000_000);
            let text = std::fs::read_link(&path).unwrap_or_default();
            let line = format!("{:o} {size} {nlink} {mtime} {}", meta.mode(), text.display());
            let name = path.strip_prefix(root).unwrap();
            out.insert(name.display().to_string(), line);
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    out
}

/// The current directory is deep in the tree, so that the few `..` an operation has do not
/// climb out of it: above it the twins rightly differ.
const DEPTH: usize = 16;

fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "c", "d"]),
        1 => Just("."),
        1 => Just(".."),
    ];
    let parts = prop::collection::vec(part, 1..4);
    (parts, prop::bool::weighted(0.1)).prop_map(|(parts, slash)| {
        let climbs = parts.iter().filter(|part| **part == "..").count();
        let mut path = if climbs > 1 { "a".to_owned() } else { parts.join("/") };
        if slash {
            path.push('/');
        }
        path
    })
}

fn flags() -> impl Strategy<Value = i32> {
    let mode = prop::sample::select(vec![libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR]);
    let more = prop::sample::subsequence(
        vec![
            libc::O_CREAT,
            libc::O_EXCL,
            libc::O_TRUNC,
            libc::O_APPEND,
            libc::O_DIRECTORY,
            libc::O_NOFOLLOW,
            libc::O_PATH,
        ],
        0..3,
    );
    let often = prop::sample::select(vec![0, libc::O_CREAT]);
    (mode, more, often)
        .prop_map(|(mode, more, often)| more.into_iter().fold(mode | often, |a, b| a | b))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (path(), flags()).prop_map(|(p, f)| Op::Open(p, f)),
        4 => path().prop_map(Op::Mkdir),
        1 => path().prop_map(Op::Mkfifo),
        2 => path().prop_map(Op::Unlink),
        2 => path().prop_map(Op::Rmdir),
        3 => (path(), path(), 0u32..4).prop_map(|(a, b, f)| Op::Rename(a, b, f)),
        2 => (path(), path(), any::<bool>()).prop_map(|(a, b, f)| Op::Link(a, b, f)),
        4 => (path(), path()).prop_map(|(a, b)| Op::Symlink(a, b)),
        3 => (path(), any::<bool>()).prop_map(|(p, f)| Op::Stat(p, f)),
        1 => path().prop_map(Op::Readlink),
        1 => (path(), 0u32..0o1000).prop_map(|(p, m)| Op::Chmod(p, m)),
        1 => (path(), -1i64..100).prop_map(|(p, n)| Op::Truncate(p, n)),
        1 => (path(), any::<bool>()).prop_map(|(p, f)| Op::Times(p, f)),
        1 => path().prop_map(Op::Access),
        1 => path().prop_map(Op::Chdir),
    ]
}

const TIMES: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 1000, tv_nsec: 1 },
    last_modification: Timespec { tv_sec: 2000, tv_nsec: 2 },
};

fn nofollow(follow: bool) -> AtFlags {
    if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
}

/// Writes a byte if it can, and returns what was opened.
fn opened(fd: BorrowedFd<'_>) -> String {
    let stat = rustix::fs::fstat(fd).unwrap();
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        let _ = rustix::io::write(fd, b"x");
    }
    format!("{:o}", stat.st_mode)
}

fn guest(files: &Files, op: &Op) -> Result<String, Errno> {
    let done = |()| String::new();
    match op {
        Op::Open(path, flags) => {
            // Nobody is at a FIFO's other end.
            let fd = files.openat(CWD, path.as_bytes(), *flags | libc::O_NONBLOCK, 0o666)?;
            let file = files.get(fd)?;
            files.close(fd)?;
            Ok(opened(file.host_fd()))
        }
        Op::Mkdir(path) => files.mkdirat(CWD, path.as_bytes(), 0o777).map(done),
        Op::Mkfifo(path) => {
            let mode = libc::S_IFIFO | 0o666;
            files.mknodat(CWD, path.as_bytes(), mode).map(done)
        }
        Op::Unlink(path) => files.unlinkat(CWD, path.as_bytes(), 0).map(done),
        Op::Rmdir(path) => {
            let flags = libc::AT_REMOVEDIR as u32;
            files.unlinkat(CWD, path.as_bytes(), flags).map(done)
        }
        Op::Rename(a, b, flags) => {
            files.renameat2(CWD, a.as_bytes(), CWD, b.as_bytes(), *flags).map(done)
        }
        Op::Link(a, b, follow) => {
            let flags = if *follow { libc::AT_SYMLINK_FOLLOW as u32 } else { 0 };
            files.linkat(CWD, a.as_bytes(), CWD, b.as_bytes(), flags).map(done)
        }
        Op::Symlink(a, b) => files.symlinkat(a.as_bytes(), CWD, b.as_bytes()).map(done),
        Op::Stat(path, follow) => {
            let stat = files.newfstatat(CWD, path.as_bytes(), nofollow(*follow).bits())?;
            let x = files.statx(CWD, path.as_bytes(), nofollow(*follow).bits(), 0x7ff)?;
            assert_eq!(x[32..40], stat.ino.to_le_bytes());
            Ok(format!("{:o}", stat.mode))
        }
        Op::Readlink(path) => {
            let text = files.readlinkat(CWD, path.as_bytes(), 4096)?;
            Ok(String::from_utf8(text).unwrap())
        }
        Op::Chmod(path, mode) => files.fchmodat2(CWD, path.as_bytes(), *mode, 0).map(done),
        Op::Truncate(path, len) => files.truncate(path.as_bytes(), *len).map(done),
        Op::Times(path, follow) => {
            let flags = nofollow(*follow).bits();
            files.utimensat(CWD, Some(path.as_bytes()), Some(TIMES), flags).map(done)
        }
        Op::Access(path) => files.faccessat2(CWD, path.as_bytes(), 4, 0).map(done),
        Op::Chdir(path) => files.chdir(path.as_bytes()).map(done),
    }
}

fn native(cwd: &mut OwnedFd, op: &Op) -> Result<String, Errno> {
    let mask = 0o022;
    let dir = cwd.as_fd();
    let done = |()| String::new();
    let result = match op {
        Op::Open(path, flags) => {
            let flags = OFlags::from_bits_retain(*flags as u32) | OFlags::NONBLOCK;
            let mode = Mode::from_raw_mode(0o666 & !mask);
            rustix::fs::openat(dir, path.as_str(), flags, mode).map(|fd| opened(fd.as_fd()))
        }
        Op::Mkdir(path) => {
            rustix::fs::mkdirat(dir, path.as_str(), Mode::from_raw_mode(0o777 & !mask)).map(done)
        }
        Op::Mkfifo(path) => {
            let mode = Mode::from_raw_mode(0o666 & !mask);
            rustix::fs::mknodat(dir, path.as_str(), FileType::Fifo, mode, 0).map(done)
        }
        Op::Unlink(path) => rustix::fs::unlinkat(dir, path.as_str(), AtFlags::empty()).map(done),
        Op::Rmdir(path) => rustix::fs::unlinkat(dir, path.as_str(), AtFlags::REMOVEDIR).map(done),
        Op::Rename(a, b, flags) => {
            let flags = RenameFlags::from_bits_retain(*flags);
            rustix::fs::renameat_with(dir, a.as_str(), dir, b.as_str(), flags).map(done)
        }
        Op::Link(a, b, follow) => {
            let flags = if *follow { AtFlags::SYMLINK_FOLLOW } else { AtFlags::empty() };
            rustix::fs::linkat(dir, a.as_str(), dir, b.as_str(), flags).map(done)
        }
        Op::Symlink(a, b) => rustix::fs::symlinkat(a.as_str(), dir, b.as_str()).map(done),
        Op::Stat(path, follow) => rustix::fs::statat(dir, path.as_str(), nofollow(*follow))
            .map(|stat| format!("{:o}", stat.st_mode)),
        Op::Readlink(path) => rustix::fs::readlinkat(dir, path.as_str(), Vec::new())
            .map(|text| text.into_string().unwrap()),
        Op::Chmod(path, mode) => {
            let mode = Mode::from_raw_mode(*mode);
            rustix::fs::chmodat(dir, path.as_str(), mode, AtFlags::empty()).map(done)
        }
        Op::Truncate(path, len) => {
            use std::os::fd::AsRawFd;
            let path = format!("/proc/self/fd/{}/{path}", dir.as_raw_fd());
            return nix::unistd::truncate(path.as_str(), *len)
                .map(done)
                .map_err(|e| Errno::from_raw(e as i32));
        }
        Op::Times(path, follow) => {
            rustix::fs::utimensat(dir, path.as_str(), &TIMES, nofollow(*follow)).map(done)
        }
        Op::Access(path) => {
            let read = rustix::fs::Access::READ_OK;
            rustix::fs::accessat(dir, path.as_str(), read, AtFlags::empty()).map(done)
        }
        Op::Chdir(path) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            match rustix::fs::openat(dir, path.as_str(), flags, Mode::empty()) {
                Ok(fd) => {
                    *cwd = fd;
                    Ok(String::new())
                }
                Err(error) => Err(error),
            }
        }
    };
    result.map_err(super::super::host)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_grant_behaves_like_a_native_directory(ops in prop::collection::vec(op(), 1..40)) {
        let w = World::new();
        let twin = tempfile::tempdir().unwrap();
        let deep = ["p"; DEPTH].join("/");
        std::fs::create_dir_all(w.host.path().join(&deep)).unwrap();
        std::fs::create_dir_all(twin.path().join(&deep)).unwrap();
        w.files.chdir(deep.as_bytes()).unwrap();
        let mut cwd = rustix::fs::open(
            twin.path().join(&deep),
            OFlags::PATH | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap();
        for (at, op) in ops.iter().enumerate() {
            let (ours, theirs) = (guest(&w.files, op), native(&mut cwd, op));
            prop_assert_eq!(ours, theirs, "operation {} {:?}", at, op);
        }
        prop_assert_eq!(tree(w.host.path()), tree(twin.path()));
    }
}
