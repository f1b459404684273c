//! Stores are outside every grant: a program reaches them only by calls on VASes and segments.
//!
//! A directory granted for other reasons (`--dir ~`) may contain a store. A program that can write
//! a lease, a lock page or a manifest behind the VMM's back can break what relies on them, so these
//! files give `EACCES` by whatever path a program names them. They are recognised by device and
//! inode, not by name: links, bind mounts and renamed directories lead to the same numbers.
//!
//! - The store's folders and their contents, two levels down, which is as deep as a store gets.
//! - Files of the store that have another name elsewhere (hard links).
//! - The name of the store itself, even while there is none: a program that created the folder
//!   first could keep descriptors of files that the VMM is going to trust.
//! - The entries on the way there, as far as removing, renaming or replacing them would move the
//!   store away or lead the VMM to another one.
//! - Files `spacejmp-*` in the host's `/dev/shm`: content of volatile segments.
//!
//! The caller says which stores these are. A store that is not named is not known here.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::DirEntry;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::Errno;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};

use super::resolve::{HostAt, Last, MAX_LINKS};

/// Where the content of volatile segments is, and how its files' names begin.
const SHM: &str = "/dev/shm";
const SHM_PREFIX: &[u8] = b"spacejmp-";

/// The folders of a store that have folders in them.
const WITH_FOLDERS: [&str; 2] = ["vas", "versions"];

/// What identifies a file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileId {
    dev: u64,
    ino: u64,
}

impl From<&Stat> for FileId {
    fn from(stat: &Stat) -> FileId {
        FileId { dev: stat.st_dev, ino: stat.st_ino }
    }
}

/// A directory and the two above it, as far as the user may search there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    own: FileId,
    above: [Option<FileId>; 2],
}

impl Around {
    pub(super) fn of(dir: BorrowedFd<'_>) -> Result<Around, Errno> {
        let own = FileId::from(&rustix::fs::fstat(dir).map_err(super::host)?);
        // Where the user may not search, the call itself is going to fail.
        let above = |name| {
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
            stat.ok().map(|stat| FileId::from(&stat))
        };
        Ok(Around { own, above: ["..", "../.."].map(above) })
    }
}

/// The change that a call makes to the entry it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Makes a directory.
    MakeDirectory,
    /// Creates something else, renames, replaces or removes.
    Other,
}

/// The stores a program must not reach through its grants.
#[derive(Debug, Default)]
pub struct OffLimits {
    stores: Mutex<Vec<StoreLocation>>,
    shm: Option<FileId>,
    none: bool,
}

impl OffLimits {
    /// Nothing is off limits: for name spaces without a store.
    #[must_use]
    pub fn none() -> OffLimits {
        OffLimits { none: true, ..OffLimits::default() }
    }

    /// The stores at these paths, whether they exist yet or not, and the names of the folders that
    /// a store has.
    #[must_use]
    pub fn stores(
        paths: impl IntoIterator<Item = PathBuf>,
        folder_names: &'static [&'static str],
    ) -> OffLimits {
        let mut stores: Vec<StoreLocation> = Vec::new();
        for path in paths {
            let path = std::path::absolute(&path).unwrap_or(path);
            if !stores.iter().any(|store| store.path == path) {
                stores.push(StoreLocation::new(path, folder_names));
            }
        }
        let shm = rustix::fs::stat(SHM).ok().map(|stat| FileId::from(&stat));
        OffLimits { none: false, stores: Mutex::new(stores), shm }
    }

    /// The descriptors of directories by which stores that are not there yet are watched for. A copy of this process that
    /// closes what it does not know has to keep them: otherwise their numbers, which are closed here when a store has
    /// come, would be those of something else.
    pub(super) fn descriptors(&self) -> Vec<i32> {
        let stores = self.last_seen();
        stores.iter().filter_map(|store| Some(store.missing.as_ref()?.0.as_raw_fd())).collect()
    }

    /// Whether nothing is off limits.
    pub(super) fn is_none(&self) -> bool {
        self.none
    }

    /// The stores as they are now.
    ///
    /// # Errors
    /// If the host cannot tell for lack of descriptors or memory: then nothing is let through.
    fn look(&self) -> Result<MutexGuard<'_, Vec<StoreLocation>>, Errno> {
        let mut stores = self.last_seen();
        stores.iter_mut().try_for_each(StoreLocation::refresh)?;
        Ok(stores)
    }

    /// The stores as they were found last.
    fn last_seen(&self) -> MutexGuard<'_, Vec<StoreLocation>> {
        // After a panic elsewhere at worst one store is half examined, and is examined again.
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses an entry that belongs to a store, and everything in a store's folders. Returns what
    /// it found out about the entry, for the call to use.
    ///
    /// # Errors
    /// `EACCES`; `EMFILE` and the like when the host cannot tell whether it does.
    pub(super) fn check(&self, at: &HostAt) -> Result<Option<Result<Stat, Errno>>, Errno> {
        if self.none {
            return Ok(None);
        }
        let stores = self.look()?;
        let dir = check_directory(at, &stores)?;
        let Last::Name { name, .. } = &at.last else { return Ok(None) };
        if stores.iter().any(|store| store.is_own_entry(dir, name))
            || (Some(dir) == self.shm && name.starts_with(SHM_PREFIX))
        {
            return Err(Errno::EACCES);
        }
        let seen = at.stat();
        if let Ok(stat) = &seen {
            self.check_file(stat, &stores)?;
        }
        Ok(Some(seen))
    }

    fn check_file(&self, stat: &Stat, stores: &[StoreLocation]) -> Result<(), Errno> {
        let id = FileId::from(stat);
        let forbidden = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => stores.iter().any(|store| store.folders.contains(&id)),
            // With one name only, the check of its directory was enough.
            FileType::RegularFile if stat.st_nlink > 1 => self.has_file(id, stores)?,
            _ => false,
        };
        if forbidden { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Whether a regular file has a name in a store.
    fn has_file(&self, id: FileId, stores: &[StoreLocation]) -> Result<bool, Errno> {
        let in_shm = self.shm.is_some_and(|shm| shm.dev == id.dev);
        if in_shm && folder_has(SHM.as_ref(), id, |name| name.starts_with(SHM_PREFIX))? {
            return Ok(true);
        }
        any(stores, |store| store.has_file(id))
    }

    /// Refuses an opened file that belongs to a store.
    ///
    /// # Errors
    /// `EACCES`; `EMFILE` and the like when the host cannot tell whether it does.
    pub(super) fn check_opened(&self, stat: &Stat) -> Result<(), Errno> {
        if self.none {
            return Ok(());
        }
        self.check_file(stat, &self.look()?)
    }

    /// The same immediately after [`OffLimits::check`], since when the name may have come to denote
    /// another file. The stores are not looked up again: what has since become part of a store was
    /// not when the call began.
    ///
    /// # Errors
    /// `EACCES`; `EMFILE` and the like when the host cannot tell whether it does.
    pub(super) fn check_opened_by_name(&self, stat: &Stat) -> Result<(), Errno> {
        if self.none {
            return Ok(());
        }
        self.check_file(stat, &self.last_seen())
    }

    /// Refuses a change of an entry on the way to a store.
    ///
    /// # Errors
    /// `EACCES`; `EMFILE` and the like when the host cannot tell whether it is.
    pub(super) fn check_change(&self, at: &HostAt, change: Change) -> Result<(), Errno> {
        let Last::Name { name, .. } = &at.last else { return Ok(()) };
        // The way there consists of directories: creating one never diverts it.
        if self.none || change == Change::MakeDirectory {
            return Ok(());
        }
        let stores = self.look()?;
        let dir = at.around()?.own;
        match stores.iter().any(|store| store.has_entry(dir, name)) {
            true => Err(Errno::EACCES),
            false => Ok(()),
        }
    }

    /// The store that a directory is, or is in.
    ///
    /// # Errors
    /// The host's error when this could not be determined.
    pub(super) fn store_around(&self, dir: impl AsFd) -> Result<Option<PathBuf>, Errno> {
        if self.none {
            return Ok(None);
        }
        let stores = self.look()?;
        let mut at = rustix::fs::openat(&dir, ".", WAY, Mode::empty()).map_err(super::host)?;
        loop {
            let id = FileId::from(&rustix::fs::fstat(&at).map_err(super::host)?);
            if let Some(store) = stores.iter().find(|store| store.folders.contains(&id)) {
                return Ok(Some(store.path.clone()));
            }
            let above = match rustix::fs::openat(&at, "..", WAY, Mode::empty()) {
                Ok(above) => above,
                Err(error) if is_shortage(error) => return Err(super::host(error)),
                // What the user may not search cannot be the user's store.
                Err(_) => return Ok(None),
            };
            if FileId::from(&rustix::fs::fstat(&above).map_err(super::host)?) == id {
                return Ok(None);
            }
            at = above;
        }
    }

    /// The store that contains an open file or directory, whatever its number of names.
    ///
    /// # Errors
    /// The host's error when this could not be determined.
    pub(super) fn store_of(&self, fd: impl AsFd) -> Result<Option<PathBuf>, Errno> {
        if self.none {
            return Ok(None);
        }
        let id = FileId::from(&rustix::fs::fstat(fd).map_err(super::host)?);
        let stores = self.look()?;
        for store in stores.iter() {
            if store.folders.contains(&id) || store.has_file(id)? {
                return Ok(Some(store.path.clone()));
            }
        }
        Ok(None)
    }
}

/// Whether the directory that has the entry is in a store; which one it is.
fn check_directory(at: &HostAt, stores: &[StoreLocation]) -> Result<FileId, Errno> {
    let Around { own, above } = at.around()?;
    let forbidden = |id: &FileId| stores.iter().any(|store| store.folders.contains(id));
    match forbidden(&own) || above.iter().flatten().any(forbidden) {
        true => Err(Errno::EACCES),
        false => Ok(own),
    }
}

/// The flags with which the directories on the way are opened.
const WAY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// One entry of the way to a store.
#[derive(Debug)]
struct Entry {
    dir: FileId,
    name: Vec<u8>,
}

/// One store, as last found.
#[derive(Debug)]
struct StoreLocation {
    path: PathBuf,
    /// The names of the folders in every store.
    folder_names: &'static [&'static str],
    /// The store's folder, if it is there.
    root: Option<FileId>,
    /// The store's folder and the folders in it.
    folders: HashSet<FileId>,
    /// Entries on the way there, links and what they lead through included; the last is the
    /// store's own if `is_whole`, else the first that is missing.
    way: Vec<Entry>,
    is_whole: bool,
    missing: Option<(OwnedFd, OsString)>,
}

impl StoreLocation {
    fn new(path: PathBuf, folder_names: &'static [&'static str]) -> StoreLocation {
        StoreLocation {
            path,
            folder_names,
            root: None,
            folders: HashSet::new(),
            way: Vec::new(),
            is_whole: false,
            missing: None,
        }
    }

    /// Looks again if anything has changed. What once was part of a store stays off limits.
    ///
    /// # Errors
    /// As [`OffLimits::look`]; the next time looks again.
    fn refresh(&mut self) -> Result<(), Errno> {
        let now = rustix::fs::stat(&self.path).ok().map(|stat| FileId::from(&stat));
        let is_complete = self.folders.len() > self.folder_names.len();
        let changed = match (now, &self.missing) {
            (Some(_), _) => now != self.root || !is_complete,
            (None, Some((dir, name))) => {
                rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
            }
            (None, None) => true,
        };
        if !changed {
            return Ok(());
        }
        self.root = None;
        self.trace()?;
        self.root = now;
        let Some(root) = now else { return Ok(()) };
        self.folders.insert(root);
        for folder in self.folder_names {
            let stat = rustix::fs::statat(CWD, self.path.join(folder), AtFlags::SYMLINK_NOFOLLOW);
            self.folders.extend(stat.ok().map(|stat| FileId::from(&stat)));
        }
        Ok(())
    }

    /// Walks to the store as the host kernel would, noting each entry. Where the user gets no
    /// further, no store can be reached either.
    fn trace(&mut self) -> Result<(), Errno> {
        (self.way, self.is_whole, self.missing) = (Vec::new(), false, None);
        let root = || rustix::fs::openat(CWD, "/", WAY, Mode::empty()).map_err(super::host);
        let mut at = root()?;
        let mut todo = parts(self.path.as_os_str().as_bytes());
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            let stat = rustix::fs::fstat(&at).map_err(super::host)?;
            if name != ".." {
                let name = name.as_bytes().to_vec();
                self.way.push(Entry { dir: FileId::from(&stat), name });
            }
            match rustix::fs::openat(&at, &name, WAY, Mode::empty()) {
                Ok(next) => at = next,
                Err(rustix::io::Errno::NOENT) => {
                    self.is_whole = todo.is_empty();
                    self.missing = Some((at, name));
                    return Ok(());
                }
                Err(error) if is_shortage(error) => return Err(super::host(error)),
                Err(_) => {
                    let text = rustix::fs::readlinkat(&at, &name, Vec::new());
                    links += 1;
                    let Ok(text) = text.map(|text| text.into_bytes()) else { return Ok(()) };
                    if links > MAX_LINKS {
                        return Ok(());
                    }
                    if text.starts_with(b"/") {
                        at = root()?;
                    }
                    parts(&text).into_iter().rev().for_each(|part| todo.push_front(part));
                }
            }
        }
        self.is_whole = true;
        Ok(())
    }

    fn has_entry(&self, dir: FileId, name: &[u8]) -> bool {
        self.way.iter().any(|entry| entry.dir == dir && entry.name == name)
    }

    /// Whether an entry is the store's own, whether or not it exists.
    fn is_own_entry(&self, dir: FileId, name: &[u8]) -> bool {
        let own = self.way.last().filter(|_| self.is_whole);
        own.is_some_and(|entry| entry.dir == dir && entry.name == name)
    }

    fn has_file(&self, id: FileId) -> Result<bool, Errno> {
        if !self.folders.iter().any(|folder| folder.dev == id.dev) {
            return Ok(false);
        }
        let has = |path: &Path| folder_has(path, id, |_| true);
        Ok(has(&self.path)?
            || any(self.folder_names, |folder| has(&self.path.join(folder)))?
            || any(WITH_FOLDERS, |folder| {
                any(list(&self.path.join(folder))?, |inner| has(&inner.path()))
            })?)
    }
}

fn parts(path: &[u8]) -> VecDeque<OsString> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.map(|part| OsString::from_vec(part.to_vec())).collect()
}

/// Whether a folder has a name for a file, among the names that count.
fn folder_has(folder: &Path, id: FileId, counts: impl Fn(&[u8]) -> bool) -> Result<bool, Errno> {
    let is_it = |name: &OsStr| {
        let stat = rustix::fs::statat(CWD, folder.join(name), AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| FileId::from(&stat) == id)
    };
    Ok(list(folder)?.any(|entry| counts(entry.file_name().as_bytes()) && is_it(&entry.file_name())))
}

/// The entries of a folder; none if it does not exist or the user may not read it.
fn list(folder: &Path) -> Result<impl Iterator<Item = DirEntry>, Errno> {
    match std::fs::read_dir(folder) {
        Err(error) => match rustix::io::Errno::from_io_error(&error) {
            Some(error) if is_shortage(error) => Err(super::host(error)),
            _ => Ok(None.into_iter().flatten().flatten()),
        },
        Ok(entries) => Ok(Some(entries).into_iter().flatten().flatten()),
    }
}

/// Whether the host lacked a resource, which says nothing about the file.
fn is_shortage(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno as Host;
    matches!(error, Host::MFILE | Host::NFILE | Host::NOMEM)
}

/// [`Iterator::any`] with a question that may fail.
fn any<T>(
    items: impl IntoIterator<Item = T>,
    question: impl Fn(T) -> Result<bool, Errno>,
) -> Result<bool, Errno> {
    for item in items {
        if question(item)? {
            return Ok(true);
        }
    }
    Ok(false)
}
