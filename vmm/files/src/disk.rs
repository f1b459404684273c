//! What a program adds to the host's disks, against the run's limit (`--disk`).
//!
//! What is charged, and how it is kept, is the account's business ([`DiskAccount`]); here is which calls
//! add something, and how much at most. Each call that may make a file grow runs while no other one of
//! the run does: otherwise the place of a write, or the size that a growth is counted from, could be
//! another one by the time the host acts. So do the calls that change such a place from outside,
//! `lseek` and `F_SETFL`.
//!
//! Files in memory are not on a disk: they are `charge`'s.

use std::cell::Cell;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use abi::{Errno, PAGE_SIZE};
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};

use super::charge::PendingWrite;
use super::files::Files;
use super::host;
use super::open_file::{FileKind, OpenFile};
use super::resolve::HostAt;

/// What a name and the inode behind it may take.
pub const NAME_BYTES: u64 = PAGE_SIZE;
/// How often a file that others make and remove meanwhile is tried to be opened or made.
const TRIES: u32 = 16;

/// What is known of a file's storage after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Nothing lies behind its end.
    ToItsEnd,
    /// There may be storage as far as was asked for, whatever its size is.
    AsAskedFor,
}

/// The run's account of what it adds to disks.
pub trait DiskAccount: fmt::Debug + Send + Sync {
    /// Charges bytes that belong to no file.
    ///
    /// # Errors
    /// [`OverDisk`]: nothing is charged.
    fn take(&self, bytes: u64) -> Result<(), OverDisk>;

    /// Releases bytes that turned out not to be needed.
    fn give_back(&self, bytes: u64);

    /// Runs `call`, after which `file` has storage as far as `end` says at most, which is told its size now.
    /// No other call of the run changes a file meanwhile. If the file is shorter afterwards, what it was charged with is released.
    ///
    /// # Errors
    /// [`OverDisk`]: `call` was not run.
    fn grow(
        &self,
        file: BorrowedFd<'_>,
        end: &mut dyn FnMut(u64) -> u64,
        stored: Stored,
        call: &mut dyn FnMut(),
    ) -> Result<(), OverDisk>;

    /// The run has just made this file, which is empty, and for which [`NAME_BYTES`] were taken.
    fn made(&self, file: BorrowedFd<'_>);

    /// Runs `call` while no call of the run makes a file grow.
    fn alone(&self, call: &mut dyn FnMut());
}

/// The run would add more to its disks than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run would add more to its disks than --disk allows")]
pub struct OverDisk;

impl From<OverDisk> for Errno {
    /// As under a quota of the host's: what is full is not the disk.
    fn from(_: OverDisk) -> Errno {
        Errno::EDQUOT
    }
}

impl Files {
    /// From now on what is added to disks counts against `account`. Called once, before the program runs.
    pub fn count_disk(&self, account: Arc<dyn DiskAccount>) {
        let _ = self.disk.set(account);
    }

    /// The account for a file whose growth counts.
    fn disk_of(&self, file: &OpenFile) -> Option<&Arc<dyn DiskAccount>> {
        let is_on_disk = file.kind() == FileKind::Regular && file.memory().is_none();
        self.disk.get().filter(|_| is_on_disk)
    }

    /// Whether growth of this file counts.
    #[must_use]
    pub fn counts_on_disk(&self, file: &OpenFile) -> bool {
        self.disk_of(file).is_some()
    }

    /// Runs `call`, after which `file` has storage as far as `end` says at most, which is told its size.
    ///
    /// # Errors
    /// `EDQUOT`, and those of the call.
    pub fn growing<R>(
        &self,
        file: &OpenFile,
        end: impl FnMut(u64) -> u64,
        stored: Stored,
        call: impl FnOnce() -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        match self.disk_of(file) {
            Some(disk) => grow(&**disk, file.host_fd(), end, stored, call),
            None => call(),
        }
    }

    /// Runs `call`, which sets the length of a file of a grant, open or only named.
    ///
    /// # Errors
    /// Likewise.
    pub(super) fn resizing<R>(
        &self,
        file: BorrowedFd<'_>,
        len: u64,
        call: impl FnOnce() -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        match self.disk.get() {
            Some(disk) => grow(&**disk, file, |_| len, Stored::ToItsEnd, call),
            None => call(),
        }
    }

    /// Runs `call`, which makes a name, and takes `bytes` for it.
    ///
    /// # Errors
    /// Likewise; then nothing is charged.
    pub(super) fn naming<R>(
        &self,
        bytes: u64,
        call: impl FnOnce() -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let Some(disk) = self.disk.get() else { return call() };
        disk.take(bytes)?;
        call().inspect_err(|_| disk.give_back(bytes))
    }

    /// Runs `call`, which changes where the next write goes.
    pub(super) fn moving<R>(
        &self,
        file: &OpenFile,
        call: impl FnOnce() -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let Some(disk) = self.disk_of(file) else { return call() };
        let (mut call, mut done) = (Some(call), None);
        disk.alone(&mut || done = call.take().map(|call| call()));
        done.unwrap_or(Err(Errno::EIO))
    }

    /// Runs `call`, which writes to a file whose growth counts: at the offset that it is told, or at the
    /// end if it is told none. `appends`: whether at the end whatever the offset is; `None` if the file's flag says.
    /// It returns how much it wrote.
    ///
    /// # Errors
    /// `EDQUOT`, and those of the call.
    pub fn write_on_disk(
        &self,
        file: &OpenFile,
        write: PendingWrite,
        appends: Option<bool>,
        call: impl FnOnce(Option<u64>) -> Result<u64, Errno>,
    ) -> Result<u64, Errno> {
        let fd = file.host_fd();
        let at = Cell::new(None);
        let end = |size: u64| {
            let by_flag =
                || rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::APPEND));
            let appends = appends.unwrap_or_else(by_flag);
            let own = || rustix::fs::tell(fd).unwrap_or(u64::MAX);
            at.set((!appends).then(|| write.offset.unwrap_or_else(own)));
            at.get().unwrap_or(size).saturating_add(write.bytes)
        };
        let written = || {
            // The own offset is the one that was checked: a read moves it at any time.
            let written = call(at.get())?;
            if let (Some(at), None) = (at.get(), write.offset) {
                // Cannot fail: the file is a regular one and has just been written there.
                let _ = rustix::fs::seek(fd, SeekFrom::Start(at.saturating_add(written)));
            }
            Ok(written)
        };
        self.growing(file, end, Stored::ToItsEnd, written)
    }

    /// How much of `len` bytes can come from `offset` of a file, or from its own: what is copied to a file
    /// whose growth counts.
    pub(super) fn left_in(
        &self,
        from: &OpenFile,
        offset: Option<u64>,
        to: &OpenFile,
        len: usize,
    ) -> usize {
        if !self.counts_on_disk(to) || !matches!(from.kind(), FileKind::Regular | FileKind::Pseudo)
        {
            return len;
        }
        let fd = from.host_fd();
        let size = rustix::fs::fstat(fd).map_or(0, |stat| stat.st_size.cast_unsigned());
        let at = offset.unwrap_or_else(|| rustix::fs::tell(fd).unwrap_or(0));
        (len as u64).min(size.saturating_sub(at)) as usize
    }

    /// Opens or makes a file of a grant; what is made counts.
    pub(super) fn open_on_disk(
        &self,
        at: &HostAt,
        flags: OFlags,
        mode: Mode,
    ) -> rustix::io::Result<OwnedFd> {
        let open = |flags: OFlags| rustix::fs::openat(at.dir(), at.name(), flags, mode);
        let Some(disk) = self.disk.get() else { return open(flags) };
        let make = |flags: OFlags| {
            disk.take(NAME_BYTES).map_err(|_| rustix::io::Errno::DQUOT)?;
            let made = open(flags).inspect_err(|_| disk.give_back(NAME_BYTES))?;
            disk.made(std::os::fd::AsFd::as_fd(&made));
            Ok(made)
        };
        let is_nameless = flags.contains(OFlags::TMPFILE);
        if is_nameless || flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return make(flags);
        }
        if !flags.contains(OFlags::CREATE) {
            return open_cut(&**disk, flags, open);
        }
        // One that is there, or one that is made now: which of them has to be known.
        for _ in 0..TRIES {
            match open_cut(&**disk, flags - OFlags::CREATE, open) {
                Err(rustix::io::Errno::NOENT) => {}
                Ok(found) if is_directory(&found) => return Err(rustix::io::Errno::ISDIR),
                opened => return opened,
            }
            match make(flags | OFlags::EXCL) {
                Err(rustix::io::Errno::EXIST) => {}
                made => return made,
            }
        }
        Err(rustix::io::Errno::NOENT)
    }
}

fn is_directory(fd: &OwnedFd) -> bool {
    let stat = rustix::fs::fstat(fd);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Opens a file that is there. It is cut when it is open, so that what it gives up is known.
fn open_cut(
    disk: &dyn DiskAccount,
    flags: OFlags,
    open: impl FnOnce(OFlags) -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    let cuts = flags.contains(OFlags::TRUNC)
        && flags & OFlags::RWMODE != OFlags::RDONLY
        && !flags.contains(OFlags::PATH);
    if !cuts {
        return open(flags);
    }
    let opened = open(flags - OFlags::TRUNC)?;
    let fd = std::os::fd::AsFd::as_fd(&opened);
    if FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::RegularFile {
        let mut cut = Ok(());
        let cutting = &mut || cut = rustix::fs::ftruncate(fd, 0);
        disk.grow(fd, &mut |_| 0, Stored::ToItsEnd, cutting)
            .map_err(|_| rustix::io::Errno::DQUOT)?;
        cut?;
    }
    Ok(opened)
}

fn grow<R>(
    disk: &dyn DiskAccount,
    file: BorrowedFd<'_>,
    mut end: impl FnMut(u64) -> u64,
    stored: Stored,
    call: impl FnOnce() -> Result<R, Errno>,
) -> Result<R, Errno> {
    let (mut call, mut done) = (Some(call), None);
    disk.grow(file, &mut end, stored, &mut || done = call.take().map(|call| call()))?;
    done.unwrap_or(Err(Errno::EIO))
}

impl Files {
    /// Two directories that are the same one.
    pub(super) fn is_same_directory(a: &HostAt, b: &HostAt) -> Result<bool, Errno> {
        let [a, b] = [a, b].map(|at| rustix::fs::fstat(at.dir()).map_err(host));
        let (a, b) = (a?, b?);
        Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }
}
