//! Calls on the contents of an open file, except `read` and `write`, which need guest memory:
//! offsets, space, flushing, copies between descriptors, whole-file locks.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;

use abi::Errno;
use rustix::fs::{Advice, FallocateFlags, FlockOperation, SeekFrom};

use super::charge::PendingWrite;
use super::disk::Stored;
use super::files::Files;
use super::host;
use super::open_file::{FileKind, OpenFile};
use super::size_limit::WriteAt;

impl Files {
    /// `lseek`: the new offset.
    ///
    /// # Errors
    /// `EBADF`, also for `O_PATH`; `ESPIPE`, `EINVAL`, `ENXIO`.
    pub fn lseek(&self, fd: i32, offset: i64, whence: i32) -> Result<u64, Errno> {
        let file = self.for_io(fd)?;
        if file.node().is_some() {
            return seek_synthetic(&file, offset, whence);
        }
        let unsigned = u64::try_from(offset);
        let negative = |errno| move |_| errno;
        let to = match whence {
            libc::SEEK_SET => SeekFrom::Start(unsigned.map_err(negative(Errno::EINVAL))?),
            libc::SEEK_CUR => SeekFrom::Current(offset),
            libc::SEEK_END => SeekFrom::End(offset),
            libc::SEEK_DATA => SeekFrom::Data(unsigned.map_err(negative(Errno::ENXIO))?),
            libc::SEEK_HOLE => SeekFrom::Hole(unsigned.map_err(negative(Errno::ENXIO))?),
            _ => return Err(Errno::EINVAL),
        };
        if (offset, whence) == (0, libc::SEEK_SET) {
            self.tell_anew(&file)?;
        }
        self.moving(&file, || rustix::fs::seek(file.host_fd(), to).map_err(host))
    }

    /// `fallocate`.
    ///
    /// # Errors
    /// `EBADF` if not open for writing, `EINVAL`, `EOPNOTSUPP`, `ENOSPC`.
    pub fn fallocate(&self, fd: i32, mode: u32, offset: i64, len: i64) -> Result<(), Errno> {
        let file = self.get(fd)?;
        let (Ok(offset), Ok(len @ 1..)) = (u64::try_from(offset), u64::try_from(len)) else {
            return Err(Errno::EINVAL);
        };
        file.can_write()?;
        let mode = FallocateFlags::from_bits_retain(mode);
        if mode.contains(FallocateFlags::KEEP_SIZE)
            && !mode.contains(FallocateFlags::PUNCH_HOLE)
            && file.memory().is_some()
        {
            // Storage beyond a mapped file's end could not be charged by its length.
            return Err(Errno::EOPNOTSUPP);
        }
        if !mode.contains(FallocateFlags::KEEP_SIZE) {
            let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
            self.check_new_size_of(&file, end)?;
        }
        let stored = if mode.contains(FallocateFlags::PUNCH_HOLE) { 0 } else { len };
        let end = |size: u64| match mode {
            _ if mode.contains(FallocateFlags::PUNCH_HOLE) => size,
            _ if mode.contains(FallocateFlags::INSERT_RANGE) => size.saturating_add(len),
            _ => offset.saturating_add(len),
        };
        let allocate = || rustix::fs::fallocate(file.host_fd(), mode, offset, len).map_err(host);
        self.growing(&file, end, Stored::AsAskedFor, || file.grow_within(stored, allocate))
    }

    /// `fsync`.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL` for something without storage, `EIO`, `ENOSPC`.
    pub fn fsync(&self, fd: i32) -> Result<(), Errno> {
        self.host_sync(fd, |file| rustix::fs::fsync(file.host_fd()))
    }

    /// A synthetic directory has nothing to sync.
    fn host_sync(
        &self,
        fd: i32,
        sync: impl FnOnce(&OpenFile) -> rustix::io::Result<()>,
    ) -> Result<(), Errno> {
        let file = self.for_io(fd)?;
        file.node().map_or_else(|| sync(&file).map_err(host), |_| Ok(()))
    }

    /// `fdatasync`.
    ///
    /// # Errors
    /// As [`Files::fsync`].
    pub fn fdatasync(&self, fd: i32) -> Result<(), Errno> {
        self.host_sync(fd, |file| rustix::fs::fdatasync(file.host_fd()))
    }

    /// `sync_file_range`, served as `fdatasync`, which does all of it and more.
    ///
    /// # Errors
    /// `ESPIPE` for a pipe, `EINVAL` for a range or flags out of bounds.
    pub fn sync_file_range(&self, fd: i32, offset: i64, len: i64, flags: u32) -> Result<(), Errno> {
        let file = self.for_io(fd)?;
        let valid = offset.checked_add(len).is_some_and(|end| end >= offset);
        if flags & !7 != 0 || offset < 0 || !valid {
            return Err(Errno::EINVAL);
        }
        match file.kind() {
            FileKind::Regular | FileKind::Directory => self.fdatasync(fd),
            _ => Err(Errno::ESPIPE),
        }
    }

    /// `syncfs`.
    ///
    /// # Errors
    /// `EBADF`, `EIO`.
    pub fn syncfs(&self, fd: i32) -> Result<(), Errno> {
        self.host_sync(fd, |file| rustix::fs::syncfs(file.host_fd()))
    }

    /// `sync`: every file system that the program may write to. Errors are not reported,
    /// as on Linux.
    pub fn sync(&self) {
        for grant in self.namespace.tree.grants().filter(|grant| !grant.read_only) {
            // The grant is open without access, which `syncfs` does not accept.
            if let Ok(dir) = grant.dir.open_dir(".") {
                let _ = rustix::fs::syncfs(dir);
            }
        }
    }

    /// Free blocks and inodes of the file system with a device number, in the encoding of the old
    /// calls: of a granted one, or of the guest's own, where nothing is free.
    #[must_use]
    pub fn space_on(&self, device: u32) -> Option<(u64, u64)> {
        if device == old_device(super::pseudo::SYNTHETIC_DEV) {
            return Some((0, 0));
        }
        let grants = self.namespace.tree.grants();
        let on = |grant: &&std::sync::Arc<super::tree::GrantRoot>| {
            rustix::fs::fstat(&*grant.dir).is_ok_and(|stat| old_device(stat.st_dev) == device)
        };
        let statfs = rustix::fs::fstatfs(&*grants.into_iter().find(on)?.dir).ok()?;
        Some((statfs.f_bfree, statfs.f_ffree))
    }

    /// `fadvise64`.
    ///
    /// # Errors
    /// `EBADF`, `ESPIPE` for a pipe, `EINVAL` for unknown advice or a negative length.
    pub fn fadvise64(&self, fd: i32, offset: i64, len: i64, advice: i32) -> Result<(), Errno> {
        let file = self.for_io(fd)?;
        if file.kind() == FileKind::Pipe {
            return Err(Errno::ESPIPE);
        }
        let len = u64::try_from(len).map_err(|_| Errno::EINVAL)?;
        let advice = match advice {
            libc::POSIX_FADV_NORMAL => Advice::Normal,
            libc::POSIX_FADV_RANDOM => Advice::Random,
            libc::POSIX_FADV_SEQUENTIAL => Advice::Sequential,
            libc::POSIX_FADV_WILLNEED => Advice::WillNeed,
            libc::POSIX_FADV_DONTNEED => Advice::DontNeed,
            libc::POSIX_FADV_NOREUSE => Advice::NoReuse,
            _ => return Err(Errno::EINVAL),
        };
        if file.node().is_some() {
            return Ok(());
        }
        let len = NonZeroU64::new(len);
        rustix::fs::fadvise(file.host_fd(), offset.cast_unsigned(), len, advice).map_err(host)
    }

    /// `readahead`: the host is asked to read.
    ///
    /// # Errors
    /// `EBADF` if not open for reading, `EINVAL` for something without a page cache.
    pub fn readahead(&self, fd: i32, offset: i64, len: u64) -> Result<(), Errno> {
        let file = self.get(fd)?;
        match file.can_read() {
            Ok(()) | Err(Errno::EISDIR) => {}
            Err(errno) => return Err(errno),
        }
        let len = i64::try_from(len).map_err(|_| Errno::EINVAL)?;
        if file.kind() != FileKind::Regular {
            return Err(Errno::EINVAL);
        }
        self.fadvise64(fd, offset, len, libc::POSIX_FADV_WILLNEED)
    }

    /// `copy_file_range`: bytes copied. Offsets given are advanced in place.
    ///
    /// # Errors
    /// `EBADF`, `EISDIR`, `EINVAL`, `EXDEV` and the host's others.
    pub fn copy_file_range(
        &self,
        from: i32,
        from_offset: Option<&mut u64>,
        to: i32,
        to_offset: Option<&mut u64>,
        len: usize,
        flags: u32,
    ) -> Result<usize, Errno> {
        let (from, to) = (self.get(from)?, self.get(to)?);
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        from.check_not_path()?;
        to.check_not_path()?;
        let at = to_offset.as_deref().map_or(WriteAt::Current, |at| WriteAt::Offset(*at));
        let len = self.writable_bytes(&to, at, len as u64)? as usize;
        if self.counts_on_disk(&to) {
            let len = self.left_in(&from, from_offset.as_deref().copied(), &to, len);
            let write = PendingWrite { offset: to_offset.as_deref().copied(), bytes: len as u64 };
            let copied = self.write_on_disk(&to, write, None, |at| {
                let mut at = at;
                let (from, to) = (from.host_fd(), to.host_fd());
                let copied = rustix::fs::copy_file_range(from, from_offset, to, at.as_mut(), len);
                copied.map(|copied| copied as u64).map_err(host)
            })?;
            if let Some(at) = to_offset {
                *at = at.saturating_add(copied);
            }
            return Ok(copied as usize);
        }
        // Rights, kinds and lengths are checked by the host: its descriptors are the program's.
        to.grow_within(from.at_most(len), || {
            rustix::fs::copy_file_range(from.host_fd(), from_offset, to.host_fd(), to_offset, len)
                .map_err(host)
        })
    }

    /// `sendfile`: bytes sent. An offset given is advanced in place. May wait as long as
    /// `to` does.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`, `EAGAIN` and the host's others.
    pub fn sendfile(
        &self,
        to: i32,
        from: i32,
        offset: Option<&mut u64>,
        len: usize,
    ) -> Result<usize, Errno> {
        let (to, from) = (self.get(to)?, self.get(from)?);
        from.check_not_path()?;
        to.check_not_path()?;
        if to.kind() == FileKind::Netlink {
            return Err(Errno::EINVAL);
        }
        let len = self.writable_bytes(&to, WriteAt::Current, len as u64)? as usize;
        let len = self.left_in(&from, offset.as_deref().copied(), &to, len);
        // To where the file's own offset is, which a read can move as far as the end meanwhile.
        let end = |size: u64| {
            let own = rustix::fs::tell(to.host_fd()).unwrap_or(u64::MAX);
            own.max(size).saturating_add(len as u64)
        };
        let send = || rustix::fs::sendfile(to.host_fd(), from.host_fd(), offset, len).map_err(host);
        self.growing(&to, end, Stored::ToItsEnd, || to.grow_within(from.at_most(len), send))
    }

    /// `flock`. Waiting ends with `EINTR` at a signal.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`, `EAGAIN` with `LOCK_NB`.
    pub fn flock(&self, fd: i32, operation: i32) -> Result<(), Errno> {
        let file = self.get(fd)?;
        let wait = operation & libc::LOCK_NB == 0;
        let operation = match (operation & !libc::LOCK_NB, wait) {
            (libc::LOCK_SH, true) => FlockOperation::LockShared,
            (libc::LOCK_SH, false) => FlockOperation::NonBlockingLockShared,
            (libc::LOCK_EX, true) => FlockOperation::LockExclusive,
            (libc::LOCK_EX, false) => FlockOperation::NonBlockingLockExclusive,
            (libc::LOCK_UN, _) => FlockOperation::Unlock,
            _ => return Err(Errno::EINVAL),
        };
        file.check_not_path()?;
        if file.node().is_some() {
            return Ok(());
        }
        rustix::fs::flock(file.host_fd(), operation).map_err(host)
    }
}

/// A device number as 32 bits (`new_encode_dev`).
fn old_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// A synthetic directory's offset counts its entries; it has no end to seek from.
fn seek_synthetic(file: &OpenFile, offset: i64, whence: i32) -> Result<u64, Errno> {
    let now = file.position.load(Ordering::Relaxed).cast_signed();
    let to = match whence {
        libc::SEEK_SET => Some(offset),
        libc::SEEK_CUR => now.checked_add(offset),
        _ => None,
    };
    let to = to.and_then(|to| u64::try_from(to).ok()).ok_or(Errno::EINVAL)?;
    file.position.store(to, Ordering::Relaxed);
    Ok(to)
}
