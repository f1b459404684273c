//! `open`: every way to get a descriptor for a path.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use abi::Errno;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, Stat};

use super::attr::{by_number, permissions};
use super::files::Files;
use super::host;
use super::memory_dir::HowToOpen;
use super::namespace::{Namespace, PROC_SUPER_MAGIC};
use super::off_limits::Change;
use super::open_file::{FileKind, OpenFile, Origin};
use super::resolve::{Found, HostAt, Step};

/// The flags of the program that reach the host. Not among them: `O_ASYNC`, whose signal
/// would go to the monitor, and `O_CLOEXEC` and `O_NOCTTY`, which are always set.
const PASSED: OFlags = OFlags::RWMODE
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::TRUNC)
    .union(OFlags::APPEND)
    .union(OFlags::NONBLOCK)
    .union(OFlags::SYNC)
    .union(OFlags::DIRECT)
    .union(OFlags::NOATIME)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::PATH)
    .union(OFlags::TMPFILE)
    .union(OFlags::DIRECTORY);

/// What `O_PATH` leaves of the other flags.
const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

impl Files {
    /// `openat`, and `open` with `AT_FDCWD`: the new descriptor.
    ///
    /// A FIFO waits for its other end, unless it is opened with `O_NONBLOCK`; nothing else does. A
    /// terminal never becomes the controlling one. In a read-only grant, opening anything for writing, truncating and
    /// creating return `EROFS`, devices and FIFOs included.
    ///
    /// # Errors
    /// Linux's own, `EINTR` among them; `EACCES` for a file on a procfs that happens to be inside a grant; `EPERM`
    /// for a new file with set-ID bits.
    pub fn openat(&self, dirfd: i32, path: &[u8], flags: i32, mode: u32) -> Result<i32, Errno> {
        let cloexec = flags & libc::O_CLOEXEC != 0;
        let given = OFlags::from_bits_retain(flags.cast_unsigned());
        let mut flags = given & PASSED;
        if flags.contains(OFlags::PATH) {
            flags &= PATH_ONLY;
        }
        check_flags(flags)?;
        let base = self.base(dirfd, path)?;
        self.table.check_room()?;
        let creates = flags.contains(OFlags::CREATE) || flags.contains(OFlags::TMPFILE);
        let mode = if creates { self.mode(mode) } else { Mode::empty() };
        let exclusive = flags.contains(OFlags::CREATE | OFlags::EXCL);
        let follow = !flags.contains(OFlags::NOFOLLOW) && !exclusive;
        if let Some(at) = self.memory(dirfd, path)? {
            let file = at.open(&HowToOpen { flags, mode }, self.account())?;
            return self.table.insert(Arc::new(file), cloexec, 0);
        }
        let found = self.lookup(&base, path, follow, |at, follow| {
            if flags.contains(OFlags::CREATE) && !flags.contains(OFlags::TMPFILE) {
                self.namespace.off_limits.check_change(at, Change::Other)?;
            }
            open_entry(at, follow, flags, mode, self)
        })?;
        let file = match found {
            Found::Host(mut file) => {
                // O_ASYNC does nothing when a file is opened, on Linux too, but is remembered.
                let kept = if flags.contains(OFlags::PATH) { flags } else { given };
                file.note_flags(kept);
                Arc::new(file)
            }
            Found::Node(id) => self.open_node(id, flags)?,
            Found::Leaf(leaf) => self.open_leaf(leaf, flags)?,
            Found::Absent if flags.contains(OFlags::CREATE) => return Err(Errno::EROFS),
            Found::Absent => return Err(Errno::ENOENT),
        };
        self.table.insert(file, cloexec, 0)
    }
}

/// Refuses what Linux refuses before it resolves the path. Kernels before 6.4 let
/// `O_CREAT | O_DIRECTORY` pass; its meaning there was an accident.
fn check_flags(flags: OFlags) -> Result<(), Errno> {
    let creates_directory = flags.contains(OFlags::CREATE | OFlags::DIRECTORY);
    // `O_TMPFILE` is a separate bit plus `O_DIRECTORY`, and makes sense only for writing.
    let temporary = flags.intersects(OFlags::TMPFILE - OFlags::DIRECTORY);
    let complete = flags.contains(OFlags::DIRECTORY) && flags & OFlags::RWMODE != OFlags::RDONLY;
    if creates_directory || (temporary && !complete) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn open_entry(
    at: &HostAt,
    follow: bool,
    flags: OFlags,
    mode: Mode,
    files: &Files,
) -> Result<Step<OpenFile>, Errno> {
    let namespace = &*files.namespace;
    let mut flags = flags;
    if at.slash() {
        if flags.contains(OFlags::CREATE) {
            return Err(Errno::EISDIR);
        }
        flags |= OFlags::DIRECTORY;
    }
    if at.grant.read_only
        && let Some(step) = refuse_changes(at, follow, &mut flags)?
    {
        return Ok(step);
    }
    if permissions(mode.as_raw_mode()).is_err() {
        refuse_set_id(at, &mut flags)?;
    }
    check_not_run(at, flags, namespace)?;
    let mut safe = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if !flags.contains(OFlags::PATH) {
        safe |= OFlags::NOCTTY | OFlags::NONBLOCK;
    }
    let fd = match files.open_on_disk(at, safe, mode) {
        Ok(fd) => fd,
        // A FIFO without a reader, or a device that is not there.
        Err(rustix::io::Errno::NXIO) if !flags.contains(OFlags::NONBLOCK) => {
            let Step::Done(pinned) = pin(at, follow)? else { return Ok(Step::Link) };
            let stat = rustix::fs::fstat(&pinned).map_err(host)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
                return Err(Errno::ENXIO);
            }
            open_fifo(pinned.as_fd(), flags)?
        }
        // The kernel returns ELOOP for a link, ENOTDIR if a directory is also required.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) if follow && at.is_link() => {
            return Ok(Step::Link);
        }
        // It is being executed: that is seen to by a lease, for a moment (`process::text_busy`).
        Err(rustix::io::Errno::AGAIN) if writes(flags) && !flags.contains(OFlags::NONBLOCK) => {
            return Err(Errno::ETXTBSY);
        }
        Err(error) => return Err(host(error)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(host)?;
    namespace.off_limits.check_opened_by_name(&stat)?;
    let waits = !flags.intersects(OFlags::PATH | OFlags::NONBLOCK);
    let reads = flags & OFlags::RWMODE == OFlags::RDONLY;
    let fd = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo if waits && reads && !has_writer(&fd) => open_fifo(fd.as_fd(), flags)?,
        _ => fd,
    };
    let file = OpenFile::of(fd, Origin::Grant(at.grant.clone()), safe, &stat);
    if follow && file.kind() == FileKind::Link {
        return Ok(Step::Link);
    }
    settle(&file, flags, &stat)?;
    Ok(Step::Done(file))
}

fn writes(flags: OFlags) -> bool {
    !flags.contains(OFlags::PATH)
        && (flags & OFlags::RWMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC))
}

/// Refuses to write a program that runs. Looked at before it is opened, since opening may truncate it.
///
/// # Errors
/// `ETXTBSY`; `EACCES` for a file that the user may not write anyway.
fn check_not_run(at: &HostAt, flags: OFlags, namespace: &Namespace) -> Result<(), Errno> {
    let refused = OFlags::DIRECTORY | OFlags::TMPFILE;
    if !writes(flags) || flags.intersects(refused) || flags.contains(OFlags::CREATE | OFlags::EXCL)
    {
        return Ok(());
    }
    let Ok(stat) = at.seen_or_stat() else { return Ok(()) };
    namespace.check_not_run(&stat).or_else(|busy| {
        let may = rustix::fs::accessat(at.dir(), at.name(), Access::WRITE_OK, AtFlags::empty());
        may.map_err(host)?;
        Err(busy)
    })
}

/// Opens a FIFO again, waiting for its other end.
fn open_fifo(fifo: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = (flags & (OFlags::RWMODE | KEPT_BY_SETFL)) | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(by_number(fifo), flags, Mode::empty()).map_err(host)
}

/// Whether somebody writes to a FIFO that was opened for reading, or has done so since.
fn has_writer(fifo: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fifo, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// What is opened with set-ID bits must be there already: then they mean nothing.
fn refuse_set_id(at: &HostAt, flags: &mut OFlags) -> Result<(), Errno> {
    match at.stat() {
        _ if flags.contains(OFlags::TMPFILE) => Err(Errno::EPERM),
        Ok(_) if flags.contains(OFlags::EXCL) => Err(Errno::EEXIST),
        Ok(_) => {
            // Without the flag the host cannot create it even if it was just removed.
            flags.remove(OFlags::CREATE);
            Ok(())
        }
        Err(Errno::ENOENT) => Err(Errno::EPERM),
        Err(errno) => Err(errno),
    }
}

/// In a read-only grant, removes the flags that would change nothing there, and refuses the others.
fn refuse_changes(
    at: &HostAt,
    follow: bool,
    flags: &mut OFlags,
) -> Result<Option<Step<OpenFile>>, Errno> {
    let writes = *flags & OFlags::RWMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
    let creates = flags.contains(OFlags::CREATE);
    if flags.contains(OFlags::TMPFILE) {
        return Err(Errno::EROFS);
    }
    if !writes && !creates {
        return Ok(None);
    }
    let kind = match at.stat() {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::ENOENT) if creates => return Err(Errno::EROFS),
        Err(errno) => return Err(errno),
    };
    match kind {
        _ if creates && flags.contains(OFlags::EXCL) => Err(Errno::EEXIST),
        FileType::Symlink if follow => Ok(Some(Step::Link)),
        FileType::Symlink => Err(Errno::ELOOP),
        FileType::Directory => Err(Errno::EISDIR),
        _ if flags.contains(OFlags::DIRECTORY) => Err(Errno::ENOTDIR),
        _ if writes => Err(Errno::EROFS),
        _ => {
            // It exists: without the flag the host cannot create it even if it was just removed.
            flags.remove(OFlags::CREATE);
            Ok(None)
        }
    }
}

/// What `F_SETFL` sets, and clears where it is not given. Not `O_ASYNC`, which our files never
/// have.
const KEPT_BY_SETFL: OFlags = OFlags::APPEND.union(OFlags::DIRECT).union(OFlags::NOATIME);

/// What is left to do once a file of a grant is open with `flags` and `O_NONBLOCK`.
pub(super) fn settle(file: &OpenFile, flags: OFlags, stat: &Stat) -> Result<(), Errno> {
    if file.path_only() {
        return Ok(());
    }
    // Only file systems without a device, whose number Linux generates, have the major number 0:
    // procfs is one of them.
    let has_device = rustix::fs::major(stat.st_dev) != 0;
    if !has_device
        && matches!(file.kind(), FileKind::Regular | FileKind::Directory | FileKind::Other)
    {
        let statfs = rustix::fs::fstatfs(file.host_fd()).map_err(host)?;
        if statfs.f_type as i64 == PROC_SUPER_MAGIC {
            return Err(Errno::EACCES);
        }
    }
    if !flags.contains(OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(file.host_fd(), flags & KEPT_BY_SETFL).map_err(host)?;
        file.mark_nonblocking(false);
    }
    Ok(())
}

/// Opens a link, file or directory with `O_PATH`, for a call that the host offers only on a
/// name that it would follow. The result is never a link that the caller wants followed.
pub(super) fn pin(at: &HostAt, follow: bool) -> Result<Step<OwnedFd>, Errno> {
    let mut flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    flags.set(OFlags::DIRECTORY, at.slash());
    let fd = match rustix::fs::openat(at.dir(), at.name(), flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOTDIR) if follow && at.is_link() => return Ok(Step::Link),
        Err(error) => return Err(host(error)),
    };
    let stat = rustix::fs::fstat(fd.as_fd()).map_err(host)?;
    if follow && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Ok(Step::Link);
    }
    Ok(Step::Done(fd))
}
