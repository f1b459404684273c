//! Files of the host.

use std::fs::File as StdFile;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Advice, AtFlags, CWD, FallocateFlags, Mode, OFlags, RawDir, SeekFrom, Stat};
use rustix::io::{Errno, ReadWriteFlags};

use super::{About, File, Folder, fill};

/// The files whose permission bits new files get: the first that is there.
const PATTERNS: [&str; 2] = ["root", "home"];

/// Whose a segment is, as its file says, which lies elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnerOf {
    /// This user's.
    User(u32),
    /// There is no such segment.
    Nobody,
    /// Not all files can be read.
    Unknown,
}

/// Looks for the owner of a segment.
#[derive(Clone)]
struct Owners(Arc<dyn Fn(u64) -> OwnerOf + Send + Sync>);

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owners")
    }
}

/// Who counts what files of the host grow by.
pub trait Growth: std::fmt::Debug + Send + Sync {
    /// Makes a file by `make`.
    ///
    /// # Errors
    /// The host's; EDQUOT where nothing more may be added.
    fn create(&self, make: &mut dyn FnMut() -> io::Result<OwnedFd>) -> io::Result<OwnedFd>;

    /// Runs `call`, after which `file` has nothing behind `end` that it had not.
    ///
    /// # Errors
    /// Likewise.
    fn grow(
        &self,
        file: BorrowedFd<'_>,
        end: u64,
        call: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()>;
}

/// A folder of the host.
#[derive(Debug)]
pub struct HostFolder {
    fd: OwnedFd,
    growth: Option<Arc<dyn Growth>>,
    access: OFlags,
    owners: Option<Owners>,
    /// Locked while it is listed: the descriptor has one place where listing goes on. Whether that may be
    /// another one than the beginning.
    listing: Mutex<bool>,
}

impl HostFolder {
    /// Opens a folder.
    ///
    /// # Errors
    /// The host's.
    pub fn open(path: &std::path::Path) -> io::Result<HostFolder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(HostFolder::from_fd(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// A folder that is open already.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> HostFolder {
        // Somebody else may have listed it.
        let (growth, owners, listing) = (None, None, Mutex::new(true));
        HostFolder { fd, growth, access: OFlags::RDWR, owners, listing }
    }

    /// A folder that was just opened.
    #[must_use]
    pub fn from_new_fd(fd: OwnedFd) -> HostFolder {
        HostFolder { listing: Mutex::new(false), ..HostFolder::from_fd(fd) }
    }

    /// The same folder, where other segments may have other owners, as `owner_of` says. Without it a folder
    /// beside this one that belongs to somebody else is not looked into.
    #[must_use]
    pub fn beside(self, owner_of: impl Fn(u64) -> OwnerOf + Send + Sync + 'static) -> HostFolder {
        HostFolder { owners: Some(Owners(Arc::new(owner_of))), ..self }
    }

    /// Whether the folder beside this one is the segment's: in a store that many users share, everybody can
    /// make one with the number of a segment that was deleted.
    fn is_of(&self, folder: &OwnedFd, segment: u64) -> io::Result<bool> {
        let owner = rustix::fs::fstat(folder)?.st_uid;
        if owner == 0 || owner == rustix::fs::fstat(&self.fd)?.st_uid {
            return Ok(true);
        }
        match self.owners.as_ref().map_or(OwnerOf::Unknown, |owners| owners.0(segment)) {
            OwnerOf::User(user) if user == owner => Ok(true),
            OwnerOf::Nobody => Ok(false),
            OwnerOf::User(_) | OwnerOf::Unknown => Err(Errno::ACCESS.into()),
        }
    }

    /// What the host says of the file with this name, `None` if there is none.
    ///
    /// # Errors
    /// The host's.
    pub fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The same folder, whose files are opened to read only: writing to them fails with EBADF, and
    /// making or removing one with EROFS.
    #[must_use]
    pub fn read_only(self) -> HostFolder {
        HostFolder { access: OFlags::RDONLY, ..self }
    }

    /// The same folder, with what its files grow by counted.
    #[must_use]
    pub fn counted_by(self, growth: Option<Arc<dyn Growth>>) -> HostFolder {
        HostFolder { growth, ..self }
    }

    fn file(&self, fd: OwnedFd) -> HostFile {
        HostFile { file: fd.into(), growth: self.growth.clone() }
    }

    /// Whether its files are opened to be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.access == OFlags::RDWR
    }

    fn may_change(&self) -> io::Result<()> {
        if self.is_writable() { Ok(()) } else { Err(Errno::ROFS.into()) }
    }
}

/// A file of the host.
#[derive(Debug)]
pub struct HostFile {
    file: StdFile,
    growth: Option<Arc<dyn Growth>>,
}

impl HostFile {
    /// Runs `call`, after which nothing lies behind `end` that was not there.
    fn growing(&self, end: u64, mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        match &self.growth {
            Some(growth) => growth.grow(self.file.as_fd(), end, &mut call),
            None => call(),
        }
    }

    fn write_all(&self, pieces: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let mut pieces = pieces.to_vec();
        let mut rest = &mut pieces[..];
        // So that an empty piece in front does not look like a device that takes nothing.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            // The host takes no more than IOV_MAX pieces at once.
            let batch = &rest[..rest.len().min(1024)];
            match rustix::io::pwritev(&self.file, batch, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut rest, written);
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_all_durably(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        // In one call. Where the host has none such, or has not written all, in two.
        match rustix::io::pwritev2(&self.file, pieces, offset, ReadWriteFlags::DSYNC) {
            Ok(written) if written == bytes_of(pieces) => return Ok(()),
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.write_all(pieces, offset)?;
        self.file.sync_data()
    }
}

fn bytes_of(pieces: &[IoSlice<'_>]) -> usize {
    pieces.iter().map(|piece| piece.len()).sum()
}

impl AsFd for HostFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Bytes of names that the host tells at once.
const LIST_BYTES: usize = 16 << 10;

/// O_NONBLOCK: nobody waits for a pipe that somebody has put in a file's place.
const OPEN: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

impl Folder for HostFolder {
    type File = HostFile;

    /// It lies beside this one, under the segment's number.
    fn companion(&self, segment: u64) -> io::Result<Option<HostFolder>> {
        let flags = OPEN | OFlags::RDONLY | OFlags::DIRECTORY;
        match rustix::fs::openat(&self.fd, format!("../{segment:016x}"), flags, Mode::empty()) {
            Ok(fd) => {
                let is_its = self.is_of(&fd, segment)?;
                let folder = HostFolder::from_fd(fd).counted_by(self.growth.clone());
                Ok(Some(folder.read_only()).filter(|_| is_its))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn companion_to_repair(&self, segment: u64) -> io::Result<Option<HostFolder>> {
        let companion = self.companion(segment)?;
        Ok(companion
            .map(|it| HostFolder { access: self.access, ..it })
            .filter(|it| it.may_change().is_ok()))
    }

    fn create(&self, name: &str) -> io::Result<HostFile> {
        self.may_change()?;
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OPEN | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mut make = || Ok(rustix::fs::openat(&self.fd, name, flags, mode)?);
        let file = match &self.growth {
            Some(growth) => growth.create(&mut make)?,
            None => make()?,
        };
        // Who may use the segment may use its next log.
        let stat = |name| rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        if let Some(pattern) = PATTERNS.into_iter().filter(|other| *other != name).find_map(stat) {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(pattern.st_mode & 0o777))?;
        }
        Ok(self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<HostFile> {
        let file = rustix::fs::openat(&self.fd, name, OPEN | self.access, Mode::empty())?;
        Ok(self.file(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.may_change()?;
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    fn link(&self, name: &str, to: &HostFolder, as_name: &str) -> io::Result<()> {
        to.may_change()?;
        Ok(rustix::fs::linkat(&self.fd, name, &to.fd, as_name, AtFlags::empty())?)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut is_listed = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        // Not opened anew: each opening to write lists it.
        if std::mem::replace(&mut *is_listed, true) {
            rustix::fs::seek(&self.fd, SeekFrom::Start(0))?;
        }
        let mut buffer = Vec::with_capacity(LIST_BYTES);
        let mut entries = RawDir::new(&self.fd, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }
}

impl File for HostFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let end = offset.saturating_add(bytes_of(pieces) as u64);
        self.growing(end, || self.write_all(pieces, offset))
    }

    fn links(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.nlink())
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    fn about(&self) -> io::Result<About> {
        let metadata = self.file.metadata()?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(About { bytes: metadata.len(), identity, stored_bytes: metadata.blocks() * 512 })
    }

    fn write_durably(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let end = offset.saturating_add(bytes_of(pieces) as u64);
        self.growing(end, || self.write_all_durably(pieces, offset))
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let bytes = self.bytes()?;
        if offset >= bytes {
            return Ok(None);
        }
        match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => {
                let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start)).unwrap_or(bytes);
                Ok(Some(start..end.max(start)).filter(|range| !range.is_empty()))
            }
            Err(Errno::NXIO) => Ok(None),
            // A file system that does not tell.
            Err(_) => Ok(Some(offset..bytes)),
        }
    }

    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        if self.bytes()? < range.end {
            self.growing(range.end, || self.file.set_len(range.end))?;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            let bytes = range.end.saturating_sub(range.start);
            match rustix::fs::fallocate(&self.file, flags, range.start, bytes) {
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    return fill(self, range, usize::MAX);
                }
                done => return Ok(done?),
            }
        }
    }

    fn uncache(&self, offset: u64) {
        // Advice: where it is not followed, more is written.
        let _ = rustix::fs::fadvise(&self.file, offset, None, Advice::DontNeed);
    }

    fn release(&self, offset: u64) {
        let bytes = self.bytes().unwrap_or(0).saturating_sub(offset);
        if bytes > 0 {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // It is zeros, with blocks or without.
            let _ = rustix::fs::fallocate(&self.file, flags, offset, bytes);
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
