//! Calls that change a file's attributes or length: mode, owner, times, `truncate`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use abi::Errno;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};

use super::disk::Stored;
use super::encode::Times;
use super::files::{Files, Subject};
use super::host;
use super::inspect::{EMPTY_PATH, NOFOLLOW};
use super::open::pin;
use super::open_file::FileKind;

/// The host's name for one of our descriptors. For calls that exist only with a name and would
/// follow a link there: this one leads to exactly the file that is open.
pub(super) fn by_number(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// An owner in the form of `chown`; all ones means "leave it".
fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    ((uid != u32::MAX).then(|| Uid::from_raw(uid)), (gid != u32::MAX).then(|| Gid::from_raw(gid)))
}

/// Permission bits as a program may set them. A set-user-ID or set-group-ID file runs with the
/// rights of the user who granted the directory, for every user of the host: no program in a VM
/// creates one. Refused, not masked: the program would believe that it got what it asked for.
///
/// # Errors
/// `EPERM`.
pub(super) fn permissions(mode: u32) -> Result<u32, Errno> {
    match mode & 0o7777 {
        mode if mode & (libc::S_ISUID | libc::S_ISGID) != 0 => Err(Errno::EPERM),
        mode => Ok(mode),
    }
}

impl Files {
    /// `fchmod`.
    ///
    /// # Errors
    /// `EBADF`, also for `O_PATH`; `EROFS`; `EPERM` for a file that is in no grant, and for
    /// set-ID bits.
    pub fn fchmod(&self, fd: i32, mode: u32) -> Result<(), Errno> {
        let file = self.for_io(fd)?;
        file.check_attributes()?;
        rustix::fs::fchmod(file.host_fd(), Mode::from_raw_mode(permissions(mode)?)).map_err(host)
    }

    /// `fchmodat2`; `chmod` and `fchmodat` without flags.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a link itself, `EROFS`, `EINVAL` for unknown flags, `EPERM` for set-ID
    /// bits.
    pub fn fchmodat2(&self, dirfd: i32, path: &[u8], mode: u32, flags: u32) -> Result<(), Errno> {
        if flags & !(EMPTY_PATH | NOFOLLOW) != 0 {
            return Err(Errno::EINVAL);
        }
        let bits = permissions(mode);
        let change = |fd: BorrowedFd<'_>| {
            rustix::fs::chmod(by_number(fd), Mode::from_raw_mode(bits?)).map_err(host)
        };
        let (base, path) = match self.subject(dirfd, path, flags)? {
            Subject::Open(file) => {
                file.check_attributes()?;
                if file.kind() == FileKind::Link {
                    return Err(Errno::EOPNOTSUPP);
                }
                return change(file.host_fd());
            }
            Subject::Path(base, path) => (base, path),
        };
        self.lookup(&base, path, flags & NOFOLLOW == 0, |at, follow| {
            pin(at, follow)?.try_map(|fd| {
                at.grant.check_writable()?;
                let stat = rustix::fs::fstat(&fd).map_err(host)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                    return Err(Errno::EOPNOTSUPP);
                }
                change(fd.as_fd())
            })
        })?
        .host_or_read_only()
    }

    /// Makes a host call that changes an object, which it is given as a directory and a name, or
    /// as a descriptor without a name.
    fn change(
        &self,
        subject: Subject<'_>,
        flags: u32,
        call: impl Fn(BorrowedFd<'_>, &OsStr, AtFlags) -> rustix::io::Result<()>,
    ) -> Result<(), Errno> {
        let (base, path) = match subject {
            Subject::Open(file) => {
                file.check_attributes()?;
                return call(file.host_fd(), OsStr::new(""), AtFlags::EMPTY_PATH).map_err(host);
            }
            Subject::Path(base, path) => (base, path),
        };
        self.lookup(&base, path, flags & NOFOLLOW == 0, |at, follow| {
            at.stat_step(follow)?.try_map(|_| {
                at.grant.check_writable()?;
                call(at.dir(), at.name(), AtFlags::SYMLINK_NOFOLLOW).map_err(host)
            })
        })?
        .host_or_read_only()
    }

    /// `fchown`; all ones leaves an id as it is.
    ///
    /// # Errors
    /// As [`Files::fchmod`], and the host's `EPERM`.
    pub fn fchown(&self, fd: i32, uid: u32, gid: u32) -> Result<(), Errno> {
        let file = self.for_io(fd)?;
        file.check_attributes()?;
        let (uid, gid) = owner(uid, gid);
        rustix::fs::fchown(file.host_fd(), uid, gid).map_err(host)
    }

    /// `fchownat`; `chown` without flags, `lchown` with `AT_SYMLINK_NOFOLLOW`.
    ///
    /// # Errors
    /// `EROFS`, `EINVAL` for unknown flags, the host's `EPERM`.
    pub fn fchownat(
        &self,
        dirfd: i32,
        path: &[u8],
        uid: u32,
        gid: u32,
        flags: u32,
    ) -> Result<(), Errno> {
        if flags & !(EMPTY_PATH | NOFOLLOW) != 0 {
            return Err(Errno::EINVAL);
        }
        let (uid, gid) = owner(uid, gid);
        self.change(self.subject(dirfd, path, flags)?, flags, |fd, name, at_flags| {
            rustix::fs::chownat(fd, name, uid, gid, at_flags)
        })
    }

    /// `utimensat`. Without a path, the descriptor's own times; without `times`, now.
    ///
    /// # Errors
    /// `EROFS`, `EINVAL` for unknown flags or nanoseconds out of range.
    pub fn utimensat(
        &self,
        dirfd: i32,
        path: Option<&[u8]>,
        times: Option<Times>,
        flags: u32,
    ) -> Result<(), Errno> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = times.unwrap_or(Timestamps { last_access: now, last_modification: now });
        if times.last_access.tv_nsec == UTIME_OMIT && times.last_modification.tv_nsec == UTIME_OMIT
        {
            // As on Linux, nothing is looked up.
            return Ok(());
        }
        if flags & !(EMPTY_PATH | NOFOLLOW) != 0 || (path.is_none() && flags != 0) {
            return Err(Errno::EINVAL);
        }
        let Some(path) = path else {
            let file = self.for_io(dirfd)?;
            file.check_attributes()?;
            return rustix::fs::futimens(file.host_fd(), &times).map_err(host);
        };
        self.change(self.subject(dirfd, path, flags)?, flags, |fd, name, at_flags| {
            rustix::fs::utimensat(fd, name, &times, at_flags)
        })
    }

    /// `truncate`.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL` for a negative length or something without a length, `EROFS`.
    pub fn truncate(&self, path: &[u8], len: i64) -> Result<(), Errno> {
        if len < 0 {
            return Err(Errno::EINVAL);
        }
        if let Some(at) = self.memory(libc::AT_FDCWD, path)? {
            self.check_new_size(at.size()?, len.cast_unsigned())?;
            return at.truncate(len.cast_unsigned());
        }
        let cut = |fd: BorrowedFd<'_>| {
            let cut = nix::unistd::truncate(by_number(fd).as_str(), len);
            cut.map_err(|error| Errno::from_raw(error as i32))
        };
        let (base, path) = match self.subject(libc::AT_FDCWD, path, 0)? {
            Subject::Open(file) => {
                file.check_attributes()?;
                if file.kind() != FileKind::Regular {
                    return Err(Errno::EINVAL);
                }
                self.check_new_size_of(&file, len.cast_unsigned())?;
                self.namespace.check_not_run(&rustix::fs::fstat(file.host_fd()).map_err(host)?)?;
                let len = len.cast_unsigned();
                let cut = || file.resize_within(len, || cut(file.host_fd()));
                return self.growing(&file, |_| len, Stored::ToItsEnd, cut);
            }
            Subject::Path(base, path) => (base, path),
        };
        self.lookup(&base, path, true, |at, follow| {
            pin(at, follow)?.try_map(|fd| {
                let stat = rustix::fs::fstat(&fd).map_err(host)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => {}
                    FileType::Directory => return Err(Errno::EISDIR),
                    _ => return Err(Errno::EINVAL),
                }
                at.grant.check_writable()?;
                self.check_new_size(stat.st_size.cast_unsigned(), len.cast_unsigned())?;
                self.namespace.check_not_run(&stat)?;
                self.resizing(fd.as_fd(), len.cast_unsigned(), || cut(fd.as_fd()))
            })
        })?
        .host_or_read_only()
    }

    /// `ftruncate`.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL` if not open for writing or without a length.
    pub fn ftruncate(&self, fd: i32, len: i64) -> Result<(), Errno> {
        let file = self.get(fd)?;
        let len = u64::try_from(len).map_err(|_| Errno::EINVAL)?;
        file.check_not_path()?;
        file.can_write().map_err(|_| Errno::EINVAL)?;
        self.check_new_size_of(&file, len)?;
        let cut = || rustix::fs::ftruncate(file.host_fd(), len).map_err(host);
        self.growing(&file, |_| len, Stored::ToItsEnd, || file.resize_within(len, cut))
    }
}
