//! The files that the VMM may still open: by Landlock, where the host has it. What is open already is not
//! affected.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::{Confine, Policy};

/// What may be done to a file, or in a directory and all below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRight {
    /// To read files and list directories.
    Read,
    /// And to write, make, move and remove them.
    All,
    /// To remove directories: the one above what is removed at the end.
    RemoveIn,
    /// To remove files: the directory of a socket that is removed at the end.
    RemoveFileIn,
    /// To make files, write them, move and remove them in it: the directory of core files.
    MakeIn,
}

const READ: u64 = READ_FILE | READ_DIR;
// linux/landlock.h.
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_FILE: u64 = 1 << 8;
/// All that the first version knows; with `EXECUTE`, which nothing is allowed.
const FIRST: u64 = (1 << 13) - 1;
const EXECUTE: u64 = 1;
/// From versions 2 and 3 on.
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
/// What a file has that is no directory.
const OF_FILES: u64 = WRITE_FILE | READ_FILE | TRUNCATE;
/// From versions 4 and 6 on: by TCP, to bind and connect; out of the domain, abstract UNIX names and
/// signals.
const TCP: u64 = 3;
const ABSTRACT: u64 = 1;
const SIGNALS: u64 = 2;

/// The oldest version that is used: before it, no file could be moved to another directory.
const OLDEST: i64 = 2;

/// What may be opened.
#[derive(Debug, Default)]
pub struct Paths(Vec<(OwnedFd, PathRight)>);

impl Paths {
    /// Allows what is at `path`, if something is.
    pub fn allow(&mut self, path: &Path, right: PathRight) {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        if let Ok(opened) = rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            self.0.push((opened, right));
        }
    }

    /// Allows to open again what is open already.
    pub fn allow_open(&mut self, opened: BorrowedFd<'_>, right: PathRight) {
        if let Ok(opened) = opened.try_clone_to_owned() {
            self.0.push((opened, right));
        }
    }

    /// Allows to open again what the program was given open: of a directory, only to read.
    pub fn allow_given(&mut self, opened: BorrowedFd<'_>) {
        let stat = rustix::fs::fstat(opened);
        let is_directory = |mode| FileType::from_raw_mode(mode) == FileType::Directory;
        match stat.is_ok_and(|stat| is_directory(stat.st_mode)) {
            true => self.allow_open(opened, PathRight::Read),
            false => self.allow_open(opened, PathRight::All),
        }
    }

    /// Confines the calling thread, and what it starts, to these paths for good. Where the host cannot, or
    /// violations are only told, nothing happens.
    ///
    /// # Errors
    /// The host's.
    pub fn restrict(self, policy: &Policy) -> io::Result<()> {
        let is_used = |version: &i64| *version >= OLDEST && policy.mode == Confine::On;
        let Some(version) = crate::host::landlock_version().filter(is_used) else {
            return Ok(());
        };
        let files =
            FIRST | if version >= 2 { REFER } else { 0 } | if version >= 3 { TRUNCATE } else { 0 };
        let tcp = if policy.network { 0 } else { TCP };
        let scoped = SIGNALS | if policy.network { 0 } else { ABSTRACT };
        let rules = [files, tcp, scoped];
        let bytes = match version {
            ..4 => 8,
            4..6 => 16,
            _ => 24,
        };
        // SAFETY: reads so many bytes, which are there.
        let made =
            unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, rules.as_ptr(), bytes, 0) };
        let Some(made @ 0..) = i32::try_from(made).ok() else {
            return Err(io::Error::last_os_error());
        };
        // SAFETY: just made, with no other owner.
        let rules = unsafe { OwnedFd::from_raw_fd(made) };
        for (opened, right) in &self.0 {
            add(&rules, opened.as_fd(), *right, files)?;
        }
        super::install::gain_no_privileges()?;
        // SAFETY: takes numbers.
        let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn add(rules: &OwnedFd, opened: BorrowedFd<'_>, right: PathRight, known: u64) -> io::Result<()> {
    const PATH_BENEATH: libc::c_int = 1;
    /// Pipes, sockets and files in memory have no path, and need none.
    const NO_PATH: [i32; 2] = [libc::EBADFD, libc::EBADF];
    #[repr(C, packed)]
    struct Rule {
        allowed: u64,
        beneath: i32,
    }
    let mode = rustix::fs::fstat(opened)?.st_mode;
    let of_kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => known,
        _ => known & OF_FILES,
    };
    let allowed = of_kind
        & match right {
            PathRight::Read => READ,
            PathRight::All => !EXECUTE,
            PathRight::RemoveIn => REMOVE_DIR,
            PathRight::RemoveFileIn => REMOVE_FILE,
            PathRight::MakeIn => MAKE_FILE | WRITE_FILE | TRUNCATE | REMOVE_FILE,
        };
    let rule = Rule { allowed, beneath: opened.as_raw_fd() };
    if allowed == 0 {
        return Ok(());
    }
    // SAFETY: reads the rule.
    let done = unsafe {
        let number = libc::SYS_landlock_add_rule;
        libc::syscall(number, rules.as_raw_fd(), PATH_BENEATH, &raw const rule, 0)
    };
    let error = io::Error::last_os_error();
    match done {
        0 => Ok(()),
        _ if error.raw_os_error().is_some_and(|errno| NO_PATH.contains(&errno)) => Ok(()),
        _ => Err(error),
    }
}

impl Paths {
    /// Allows what any VMM, or a program with its grants, opens late.
    pub fn allow_usual(&mut self) {
        let devices = ["kvm", "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts"];
        // Memory by a name, in which volatile segments are.
        for name in devices.into_iter().chain(["shm"]) {
            self.allow(&Path::new("/dev").join(name), PathRight::All);
        }
        // Of this process and the run's; processors, clocks, control groups. And what a panic looks names up
        // in.
        for path in ["/proc", "/sys", "/proc/self/exe"] {
            self.allow(Path::new(path), PathRight::Read);
        }
    }

    /// Allows a directory that need not be there yet: then all of the one in which it will be made.
    pub fn allow_to_be_made(&mut self, path: &Path) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let existing = path.ancestors().find(|path| path.exists());
        self.allow(existing.unwrap_or(Path::new("/")), PathRight::All);
    }
}
