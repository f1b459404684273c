//! Tests of all file calls together, against real directories on the host.
//!
//! They run with any user, root included: nothing here relies on permission being denied.

mod deep;
mod descriptors;
mod directories;
mod escapes;
mod memory;
mod off_limits;
mod parity;
mod proc;
mod random;
mod read_only;
mod set_id;
mod tree;
mod xattr;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Once};

use abi::Errno;
use tempfile::TempDir;

use super::{Files, Grant, GrantAccess, Namespace, OffLimits, TextFile, take_over_umask};

const CWD: i32 = libc::AT_FDCWD;

/// Files like those of a process: on itself and its threads, on the machine, and one that can be
/// written.
const TEXTS: &[TextFile] = &[
    TextFile { path: "/proc/#/comm", mode: 0o644, of_others: true },
    TextFile { path: "/proc/#/status", mode: 0o444, of_others: false },
    TextFile { path: "/proc/cpuinfo", mode: 0o444, of_others: false },
    TextFile { path: "/proc/sys/kernel/ostype", mode: 0o444, of_others: false },
    TextFile { path: "/proc/uptime", mode: 0o444, of_others: false },
    TextFile { path: "/sys/devices/system/cpu/online", mode: 0o444, of_others: false },
];

/// A host directory, and a program's files with it granted at `/w`, its current directory.
struct World {
    host: TempDir,
    files: Files,
}

fn grant(host: &Path, guest: &str, access: GrantAccess) -> Grant {
    Grant { host: host.to_owned(), guest: guest.into(), access }
}

fn null() -> OwnedFd {
    std::fs::File::options().read(true).write(true).open("/dev/null").unwrap().into()
}

fn namespace(grants: &[Grant]) -> Namespace {
    Namespace::new(grants, OffLimits::none(), TEXTS.to_vec()).unwrap()
}

/// What `/proc/self/exe` is a link to.
fn program() -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"the program").unwrap();
    file
}

fn files(grants: &[Grant], cwd: &str) -> Files {
    files_with(namespace(grants), cwd)
}

/// With a program that is being executed.
fn running(grants: &[Grant], cwd: &str) -> Files {
    let mut files = files(grants, cwd);
    files.set_executable(b"/w/program", Arc::new(program()));
    files
}

fn files_without(grants: &[Grant], cwd: &str, off_limits: OffLimits) -> Files {
    files_with(Namespace::new(grants, off_limits, TEXTS.to_vec()).unwrap(), cwd)
}

fn files_with(namespace: Namespace, cwd: &str) -> Files {
    // Once for the whole process; every test wants it zero.
    static UMASK: Once = Once::new();
    UMASK.call_once(|| {
        take_over_umask();
    });
    Files::new(namespace, [null(), null(), null()], Path::new(cwd), 0o022).unwrap()
}

impl World {
    fn with(access: GrantAccess) -> World {
        let host = tempfile::tempdir().unwrap();
        let grants = [grant(host.path(), "/w", access)];
        let files = running(&grants, "/w");
        World { host, files }
    }

    fn new() -> World {
        World::with(GrantAccess::ReadWrite)
    }

    fn open(&self, path: &str, flags: i32) -> Result<i32, Errno> {
        open(&self.files, path, flags)
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.host.path().join(path), text).unwrap();
    }
}

fn open(files: &Files, path: &str, flags: i32) -> Result<i32, Errno> {
    files.openat(CWD, path.as_bytes(), flags, 0o666)
}

/// The complete text of a file, read as the program would.
fn read(files: &Files, path: &str) -> Result<String, Errno> {
    let fd = open(files, path, libc::O_RDONLY)?;
    let file = files.get(fd)?;
    file.can_read()?;
    let mut text = vec![0; 4096];
    let len = rustix::io::pread(file.host_fd(), &mut text, 0).map_err(super::host)?;
    files.close(fd)?;
    text.truncate(len);
    Ok(String::from_utf8(text).unwrap())
}
