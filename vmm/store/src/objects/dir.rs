//! Files of a folder, opened so that a name cannot lead to anything unexpected.
//!
//! A folder is opened once and used by descriptor. Names in it are single components, links are
//! never followed, and only regular files are opened: a FIFO or a device in the store must not
//! block or be operated.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{
    self as rfs, Access, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawDir, RenameFlags,
    ResolveFlags, SeekFrom, Stat,
};
use rustix::io::Errno;

use crate::format::error::{StoreError, bad_field};
use crate::objects::durable;

#[derive(Debug)]
pub(crate) struct Dir {
    fd: OnceLock<OwnedFd>,
    /// Where it is opened when it is first used.
    within: Option<(Arc<Dir>, &'static str)>,
    path: PathBuf,
    /// Locked while it is listed: the descriptor has one place where listing goes on. Whether that is
    /// still its beginning.
    listing: Mutex<Listed>,
}

/// Whether a descriptor was listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Listed {
    #[default]
    Never,
    Before,
}

/// Bytes of names that the host tells at once.
const LIST_BYTES: usize = 16 << 10;

const SAFE: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);

impl Dir {
    /// A folder anywhere; links in the path are followed, since the user chose it.
    pub(crate) fn open(path: &Path) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rfs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Dir::of(fd, path.to_owned()))
    }

    fn of(fd: OwnedFd, path: PathBuf) -> Dir {
        Dir { fd: OnceLock::from(fd), within: None, path, listing: Mutex::default() }
    }

    /// A folder in `parent` that is not opened before it is used.
    pub(crate) fn when_used(parent: &Arc<Dir>, name: &'static str) -> Dir {
        let (path, within) = (parent.path.join(name), Some((Arc::clone(parent), name)));
        Dir { fd: OnceLock::new(), within, path, listing: Mutex::default() }
    }

    fn fd(&self) -> Result<&OwnedFd, Errno> {
        if let (None, Some((parent, name))) = (self.fd.get(), &self.within) {
            let flags = SAFE | OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = rfs::openat(parent.fd()?, *name, flags, Mode::empty())?;
            // Another thread may have been quicker.
            let _ = self.fd.set(fd);
        }
        self.fd.get().ok_or(Errno::BADF)
    }

    /// That it is there, and a folder: for who finds nothing in one that is opened when it is used.
    pub(crate) fn ensure(&self) -> Result<(), StoreError> {
        match self.fd() {
            Ok(_) => Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(bad_field(&self.path, "type", "a file or link", "a folder"))
            }
            Err(source) => {
                let path = self.path.clone();
                Err(StoreError::Io { doing: "open", path, source: source.into() })
            }
        }
    }

    /// Opens what lies below, by one call of the host that follows no link on the way. `None` where the host
    /// cannot, and for every error: whoever goes there step by step learns what is wrong at which.
    fn open_at_once(&self, path: &str, flags: OFlags, mode: Mode) -> Option<OwnedFd> {
        let (dir, path) = match (self.fd.get(), &self.within) {
            (Some(fd), _) => (fd, path.to_owned()),
            (None, Some((parent, name))) => (parent.fd().ok()?, format!("{name}/{path}")),
            (None, None) => return None,
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rfs::openat2(dir, path, flags | SAFE, mode, resolve).ok()
    }

    /// Opens a name in this folder, which is not opened itself for that alone.
    fn open_name(&self, name: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let at_once = match self.fd.get() {
            Some(_) => None,
            None => self.open_at_once(name, flags, mode),
        };
        at_once.map_or_else(|| rfs::openat(self.fd()?, name, flags | SAFE, mode), Ok)
    }

    /// A folder in this one.
    pub(crate) fn sub(&self, name: &str) -> Result<Dir, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.open_name(name, flags, Mode::empty()) {
            Ok(fd) => Ok(Dir::of(fd, self.path.join(name))),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                self.ensure()?;
                Err(self.bad_type(name, "a file or link", "a folder"))
            }
            Err(error) => Err(self.error("open", name, error)),
        }
    }

    /// The same folder, open once more.
    pub(crate) fn again(&self) -> Result<Dir, StoreError> {
        self.sub(".")
    }

    pub(crate) fn into_fd(self) -> Result<OwnedFd, StoreError> {
        self.fd().map_err(|e| self.error("open", "", e))?;
        let closed =
            || StoreError::Io { doing: "open", path: self.path, source: Errno::BADF.into() };
        self.fd.into_inner().ok_or_else(closed)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn error(
        &self,
        doing: &'static str,
        name: &str,
        source: impl Into<io::Error>,
    ) -> StoreError {
        StoreError::Io { doing, path: self.path_of(name), source: source.into() }
    }

    fn bad_type(&self, name: &str, found: &str, expected: &str) -> StoreError {
        bad_field(&self.path_of(name), "type", found, expected)
    }

    /// Opens an existing regular file.
    pub(crate) fn open_file(&self, name: &str, flags: OFlags) -> Result<File, StoreError> {
        Ok(self.open_file_stat(name, flags)?.0)
    }

    /// The same, with its status.
    pub(crate) fn open_file_stat(
        &self,
        name: &str,
        flags: OFlags,
    ) -> Result<(File, Stat), StoreError> {
        // O_NONBLOCK: a FIFO without a writer must not block before its type is known.
        const EXPECTED: &str = "a regular file";
        let fd = match self.open_name(name, flags | OFlags::NONBLOCK, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ISDIR) => return Err(self.bad_type(name, "a folder", EXPECTED)),
            Err(Errno::LOOP) => return Err(self.bad_type(name, "a link", EXPECTED)),
            Err(error @ Errno::NOTDIR) => {
                self.ensure()?;
                return Err(self.error("open", name, error));
            }
            Err(error) => return Err(self.error("open", name, error)),
        };
        let stat = rfs::fstat(&fd).map_err(|e| self.error("open", name, e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            return Err(self.bad_type(name, &format!("{kind:?}"), EXPECTED));
        }
        Ok((File::from(fd), stat))
    }

    /// As [`Dir::open_file_stat`] with a file in a folder in this one, `None` unless it is there and regular:
    /// why not, whoever opens the folder learns.
    pub(crate) fn open_file_below(
        &self,
        folder: &str,
        name: &str,
        flags: OFlags,
    ) -> Option<(File, Stat)> {
        let path = format!("{folder}/{name}");
        let fd = self.open_at_once(&path, flags | OFlags::NONBLOCK, Mode::empty())?;
        let stat = rfs::fstat(&fd).ok()?;
        let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        is_regular.then(|| (File::from(fd), stat))
    }

    /// Opens a file that is not read or written: one that this process has just made, or that is there to be
    /// locked. What kind of file it is does not matter.
    pub(crate) fn open_any(&self, name: &str, flags: OFlags) -> Result<File, StoreError> {
        let opened = self.open_name(name, flags | OFlags::NONBLOCK, Mode::empty());
        Ok(File::from(opened.map_err(|e| self.error("open", name, e))?))
    }

    /// As [`Dir::open_file`], `None` if there is none.
    pub(crate) fn find_file(&self, name: &str, flags: OFlags) -> Result<Option<File>, StoreError> {
        Ok(self.find_file_stat(name, flags)?.map(|(file, _)| file))
    }

    /// As [`Dir::open_file_stat`], `None` if there is none.
    pub(crate) fn find_file_stat(
        &self,
        name: &str,
        flags: OFlags,
    ) -> Result<Option<(File, Stat)>, StoreError> {
        match self.open_file_stat(name, flags) {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.ensure().map(|()| None)
            }
            Err(error) => Err(error),
        }
    }

    /// What a file of less than `most_bytes` has, `None` if there is none. What kind of file it is shows when
    /// it is read: a pipe or a folder has no place to read at. Of a longer one, its beginning.
    pub(crate) fn find_small(
        &self,
        name: &str,
        most_bytes: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let file = match self.open_name(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(fd) => File::from(fd),
            // What is wrong is for the other way to say.
            Err(_) => return Ok(self.find_file(name, OFlags::RDONLY)?.map(|_| Vec::new())),
        };
        let mut bytes = vec![0; most_bytes];
        match file.read_at(&mut bytes, 0) {
            Ok(count) => {
                bytes.truncate(count);
                Ok(Some(bytes))
            }
            Err(error) => {
                self.open_file(name, OFlags::RDONLY)?;
                Err(self.error("read", name, error))
            }
        }
    }

    /// Creates a file that must not exist yet, for reading and writing by this user only.
    pub(crate) fn new_file(&self, name: &str) -> Result<File, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::from_raw_mode(0o600);
        let fd = self.open_name(name, flags, mode).map_err(|e| self.error("create", name, e))?;
        Ok(File::from(fd))
    }

    /// Opens or creates a file for all users of the store, as far as the process's own umask
    /// and this one permit.
    pub(crate) fn shared_file(&self, name: &str, umask: u32) -> Result<File, StoreError> {
        let flags = SAFE | OFlags::RDWR | OFlags::CREATE;
        let mode = Mode::from_raw_mode(0o666 & !umask);
        let fd = self
            .fd()
            .and_then(|dir| rfs::openat(dir, name, flags, mode))
            .map_err(|e| self.error("create", name, e))?;
        Ok(File::from(fd))
    }

    pub(crate) fn new_folder(&self, name: &str, mode: u32) -> Result<(), StoreError> {
        self.fd()
            .and_then(|dir| rfs::mkdirat(dir, name, Mode::from_raw_mode(mode)))
            .map_err(|e| self.error("create", name, e))
    }

    /// Status of the named file, without following a link; `None` if there is none.
    pub(crate) fn stat(&self, name: &str) -> Result<Option<Stat>, StoreError> {
        let stat = |dir: &OwnedFd| rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        match self.fd().and_then(stat) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.error("look at", name, error)),
        }
    }

    /// Status of a file below this folder, to be compared with that of an open one: links on the way are
    /// followed.
    pub(crate) fn stat_at(&self, path: &str) -> Option<Stat> {
        let (dir, path) = self.at(path).ok()?;
        rfs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// A path below this folder, from an open one: this one, or the one that it is in.
    fn at<'a>(&'a self, path: &'a str) -> Result<(&'a OwnedFd, Cow<'a, str>), Errno> {
        match (self.fd.get(), &self.within) {
            (None, Some((parent, name))) => Ok((parent.fd()?, format!("{name}/{path}").into())),
            _ => Ok((self.fd()?, path.into())),
        }
    }

    pub(crate) fn stat_self(&self) -> Result<Stat, StoreError> {
        self.fd().and_then(rfs::fstat).map_err(|e| self.error("look at", "", e))
    }

    /// Whether the host would permit us to write it.
    pub(crate) fn writable(&self, name: &str) -> bool {
        let access = |dir: &OwnedFd| rfs::accessat(dir, name, Access::WRITE_OK, AtFlags::empty());
        self.fd().and_then(access).is_ok()
    }

    /// Changes permission bits without following a link.
    pub(crate) fn chmod(&self, name: &str, mode: u32) -> Result<(), StoreError> {
        let failed = |e: Errno| self.error("change the mode of", name, e);
        let open = |dir: &OwnedFd| rfs::openat(dir, name, SAFE | OFlags::PATH, Mode::empty());
        let fd = self.fd().and_then(open).map_err(failed)?;
        let stat = rfs::fstat(&fd).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Err(failed(Errno::LOOP));
        }
        // An O_PATH descriptor can be changed only through its name in /proc.
        rfs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(mode))
            .map_err(failed)
    }

    /// Names in the folder, sorted, without `.` and `..`.
    pub(crate) fn names(&self) -> Result<Vec<OsString>, StoreError> {
        let failed = |e: Errno| self.error("list", "", e);
        let fd = self.fd().map_err(failed)?;
        let mut listed = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *listed, Listed::Before) == Listed::Before {
            rfs::seek(fd, SeekFrom::Start(0)).map_err(failed)?;
        }
        let mut buffer = Vec::with_capacity(LIST_BYTES);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Moves a finished thing to its place; `false` if the name is taken.
    pub(crate) fn move_new(&self, from: &str, to: &Dir, name: &str) -> Result<bool, StoreError> {
        // What was just made in a folder that was not opened for it is not looked for elsewhere: nobody
        // else knows its name.
        let rename = || {
            let (dir, from) = self.at(from)?;
            rfs::renameat_with(dir, &*from, to.fd()?, name, RenameFlags::NOREPLACE)
        };
        match rename() {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => return Ok(false),
            // Some file systems cannot; the caller's exclusive lock makes checking first safe.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(to.error("create", name, error)),
        }
        if to.stat(name)?.is_some() {
            return Ok(false);
        }
        self.move_over(from, to, name)?;
        Ok(true)
    }

    /// Gives a file a second name in another folder; `Taken` if that is taken, `Unable` where
    /// the file system has no such thing.
    pub(crate) fn link_new(&self, from: &str, to: &Dir, name: &str) -> Result<Linked, StoreError> {
        let link =
            |(dir, to): (&OwnedFd, &OwnedFd)| rfs::linkat(dir, from, to, name, AtFlags::empty());
        match self.both(to).and_then(link) {
            Ok(()) => Ok(Linked::Done),
            Err(Errno::EXIST) => Ok(Linked::Taken),
            Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::MLINK) => Ok(Linked::Unable),
            Err(error) => Err(to.error("create", name, error)),
        }
    }

    /// Moves a finished file to its place, over what is there.
    pub(crate) fn move_over(&self, from: &str, to: &Dir, name: &str) -> Result<(), StoreError> {
        self.both(to)
            .and_then(|(dir, to)| rfs::renameat(dir, from, to, name))
            .map_err(|e| to.error("replace", name, e))
    }

    fn both<'a>(&'a self, to: &'a Dir) -> Result<(&'a OwnedFd, &'a OwnedFd), Errno> {
        Ok((self.fd()?, to.fd()?))
    }

    pub(crate) fn remove_file(&self, name: &str) -> Result<(), StoreError> {
        let failed = |e| self.error("remove", name, e);
        rfs::unlinkat(self.fd().map_err(failed)?, name, AtFlags::empty()).map_err(failed)
    }

    /// Removes a folder and the files in it, but no folders below: the store makes none.
    pub(crate) fn remove_folder(&self, name: &str) -> Result<(), StoreError> {
        let folder = self.sub(name)?;
        let mut names = folder.names()?;
        // A versioned segment without it is gone for others, and not damaged, if this ends halfway.
        names.sort_by_key(|name| name.as_encoded_bytes() != b"root");
        for inner in names {
            folder
                .fd()
                .and_then(|dir| rfs::unlinkat(dir, &inner, AtFlags::empty()))
                .map_err(|e| folder.error("remove", &inner.to_string_lossy(), e))?;
        }
        self.fd()
            .and_then(|dir| rfs::unlinkat(dir, name, AtFlags::REMOVEDIR))
            .map_err(|e| self.error("remove", name, e))
    }

    /// Makes created, moved and removed names durable across a power failure.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        match self.fd().and_then(|fd| durable::sync_folder(fd, &self.path)) {
            // Some file systems cannot sync a folder; then their names are as safe as can be.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(error) => Err(self.error("sync", "", error)),
        }
    }
}

/// The outcome of [`Dir::link_new`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Linked {
    Done,
    Taken,
    Unable,
}

/// Reads a whole small file whose length is known; longer ones are `None`.
pub(crate) fn read_bounded(
    (file, stat): &(File, Stat),
    most_bytes: u64,
) -> io::Result<Option<Vec<u8>>> {
    let len_bytes = u64::try_from(stat.st_size).unwrap_or_default();
    if len_bytes > most_bytes {
        return Ok(None);
    }
    read_up_to(file, 0, len_bytes).map(Some)
}

/// Reads `len_bytes` at `offset`, or as many as there are.
pub(crate) fn read_up_to(file: &File, offset: u64, len_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len_bytes).map_err(io::Error::other)?];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Whether another process holds an flock on the file: its creator is alive.
pub(crate) fn held_by_another(file: impl AsFd) -> bool {
    // Shared, so that two processes that check at the same time do not take each other for the
    // holder.
    match rfs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            let _ = rfs::flock(&file, FlockOperation::Unlock);
            false
        }
        // Also when the host cannot tell: taking a live VM for dead would be the worse mistake.
        Err(_) => true,
    }
}

/// Whether the host refused it.
pub(crate) fn denied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

/// `error`, or `refusal` where the host denied the access.
pub(crate) fn or_denied(error: StoreError, refusal: impl FnOnce() -> StoreError) -> StoreError {
    match error {
        StoreError::Io { source, .. } if denied(&source) => refusal(),
        other => other,
    }
}
