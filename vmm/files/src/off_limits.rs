//! Stores lie outside every grant: a program reaches them by calls on VASes and segments only.
//!
//! A directory granted for other reasons (`--dir ~`) may contain a store. Whoever can write a
//! lease, a lock page or a manifest behind the VMM's back can break what rests on them, so
//! these files give `EACCES` by whatever path a program names them. They are recognised by
//! device and inode, not by name: links, bind mounts and renamed directories lead to the same
//! numbers.
//!
//! - The store's folders, and what is in them up to two levels down, which is as deep as a
//!   store goes.
//! - Files of the store that have another name elsewhere (hard links).
//! - The name of the store itself, also while there is none: whoever made the folder first
//!   could keep descriptors on files that the VMM is going to trust.
//! - The entries on the way there, as far as removing, renaming or replacing them would carry
//!   the store away or lead the VMM to another one.
//! - Files `spacejmp-*` in the host's `/dev/shm`: content of volatile segments.
//!
//! Which stores these are the caller says. Of a store that nobody names nothing is known here.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::Errno;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};

use super::resolve::{HostAt, Last, MAX_LINKS};

/// Where the content of volatile segments is, and how its files' names begin.
const SHM: &str = "/dev/shm";
const SHM_PREFIX: &[u8] = b"spacejmp-";

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

/// What a call does to the entry it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Makes a directory.
    MakeDirectory,
    /// Makes something else, renames, replaces or removes.
    Other,
}

/// The stores a program must not reach through its grants.
#[derive(Debug, Default)]
pub struct OffLimits {
    stores: Mutex<Vec<Place>>,
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
        let mut stores: Vec<Place> = Vec::new();
        for path in paths {
            let path = std::path::absolute(&path).unwrap_or(path);
            if !stores.iter().any(|place| place.path == path) {
                stores.push(Place::new(path, folder_names));
            }
        }
        let shm = rustix::fs::stat(SHM).ok().map(|stat| FileId::from(&stat));
        OffLimits { none: false, stores: Mutex::new(stores), shm }
    }

    /// Whether there is nothing to look for.
    pub(super) fn is_none(&self) -> bool {
        self.none
    }

    /// The stores as they are now.
    fn look(&self) -> MutexGuard<'_, Vec<Place>> {
        let mut stores = self.last_seen();
        stores.iter_mut().for_each(Place::refresh);
        stores
    }

    /// The stores as they were when somebody looked last.
    fn last_seen(&self) -> MutexGuard<'_, Vec<Place>> {
        // Of a panic elsewhere at worst one place is half looked at, and is looked at again.
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses an entry that is a store's, and everything in a store's folders. What it has found
    /// out about the entry, for the call to use.
    ///
    /// # Errors
    /// `EACCES`.
    pub(super) fn check(&self, at: &HostAt) -> Result<Option<Result<Stat, Errno>>, Errno> {
        if self.none {
            return Ok(None);
        }
        let stores = self.look();
        let dir = check_directory(at, &stores)?;
        let Last::Name { name, .. } = &at.last else { return Ok(None) };
        if stores.iter().any(|place| place.is_own_entry(dir, name))
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

    fn check_file(&self, stat: &Stat, stores: &[Place]) -> Result<(), Errno> {
        let id = FileId::from(stat);
        let forbidden = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => stores.iter().any(|place| place.folders.contains(&id)),
            // With one name only, the directory it is in has told already.
            FileType::RegularFile if stat.st_nlink > 1 => self.has_file(id, stores),
            _ => false,
        };
        if forbidden { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Whether a regular file has a name in a store.
    fn has_file(&self, id: FileId, stores: &[Place]) -> bool {
        let in_shm = self.shm.is_some_and(|shm| shm.dev == id.dev);
        (in_shm && folder_has(SHM.as_ref(), id, |name| name.starts_with(SHM_PREFIX)))
            || stores.iter().any(|place| place.has_file(id))
    }

    /// Refuses what was opened although it is a store's.
    ///
    /// # Errors
    /// `EACCES`.
    pub(super) fn check_opened(&self, stat: &Stat) -> Result<(), Errno> {
        if self.none {
            return Ok(());
        }
        self.check_file(stat, &self.look())
    }

    /// The same right behind [`OffLimits::check`], since when the name may have come to mean
    /// another file. The stores are not looked for again: what has become a store's since was none
    /// when the call began.
    ///
    /// # Errors
    /// `EACCES`.
    pub(super) fn check_opened_by_name(&self, stat: &Stat) -> Result<(), Errno> {
        if self.none {
            return Ok(());
        }
        self.check_file(stat, &self.last_seen())
    }

    /// Refuses a change of an entry on the way to a store.
    ///
    /// # Errors
    /// `EACCES`.
    pub(super) fn check_change(&self, at: &HostAt, change: Change) -> Result<(), Errno> {
        let Last::Name { name, .. } = &at.last else { return Ok(()) };
        // The way there consists of directories: making one never leads astray.
        if self.none || change == Change::MakeDirectory {
            return Ok(());
        }
        let stores = self.look();
        let dir = at.around()?.own;
        match stores.iter().any(|place| place.has_entry(dir, name)) {
            true => Err(Errno::EACCES),
            false => Ok(()),
        }
    }

    /// The store that a directory is or lies in.
    pub(super) fn store_around(&self, dir: impl AsFd) -> Option<PathBuf> {
        if self.none {
            return None;
        }
        let stores = self.look();
        let mut at = rustix::fs::openat(&dir, ".", WAY, Mode::empty()).ok()?;
        loop {
            let id = FileId::from(&rustix::fs::fstat(&at).ok()?);
            if let Some(place) = stores.iter().find(|place| place.folders.contains(&id)) {
                return Some(place.path.clone());
            }
            let above = rustix::fs::openat(&at, "..", WAY, Mode::empty()).ok()?;
            if FileId::from(&rustix::fs::fstat(&above).ok()?) == id {
                return None;
            }
            at = above;
        }
    }

    /// The store that has an open file or directory, with however many names.
    pub(super) fn store_of(&self, fd: impl AsFd) -> Option<PathBuf> {
        if self.none {
            return None;
        }
        let id = FileId::from(&rustix::fs::fstat(fd).ok()?);
        let stores = self.look();
        let place = stores.iter().find(|p| p.folders.contains(&id) || p.has_file(id))?;
        Some(place.path.clone())
    }
}

/// Whether the directory that has the entry is in a store; which one it is.
fn check_directory(at: &HostAt, stores: &[Place]) -> Result<FileId, Errno> {
    let Around { own, above } = at.around()?;
    let forbidden = |id: &FileId| stores.iter().any(|place| place.folders.contains(id));
    match forbidden(&own) || above.iter().flatten().any(forbidden) {
        true => Err(Errno::EACCES),
        false => Ok(own),
    }
}

/// How the directories of a way are opened.
const WAY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// One entry of the way to a store.
#[derive(Debug)]
struct Entry {
    dir: FileId,
    name: Vec<u8>,
}

/// One store, as it was found last.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// The names of the folders in every store.
    folder_names: &'static [&'static str],
    /// The store's folder, if it is there.
    root: Option<FileId>,
    /// It and the folders in it.
    folders: HashSet<FileId>,
    /// Entries on the way there, links and what they lead through included; the last is the
    /// store's own if `is_whole`, else the first that is missing.
    way: Vec<Entry>,
    is_whole: bool,
    missing: Option<(OwnedFd, OsString)>,
}

impl Place {
    fn new(path: PathBuf, folder_names: &'static [&'static str]) -> Place {
        Place {
            path,
            folder_names,
            root: None,
            folders: HashSet::new(),
            way: Vec::new(),
            is_whole: false,
            missing: None,
        }
    }

    /// Looks again if anything is not as it was. What was a store's once stays off limits.
    fn refresh(&mut self) {
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
            return;
        }
        self.root = now;
        self.trace();
        let Some(root) = now else { return };
        self.folders.insert(root);
        for folder in self.folder_names {
            let stat = rustix::fs::statat(CWD, self.path.join(folder), AtFlags::SYMLINK_NOFOLLOW);
            self.folders.extend(stat.ok().map(|stat| FileId::from(&stat)));
        }
    }

    /// Walks to the store as the host kernel would, noting each entry.
    fn trace(&mut self) {
        (self.way, self.is_whole, self.missing) = (Vec::new(), false, None);
        let Ok(mut at) = rustix::fs::openat(CWD, "/", WAY, Mode::empty()) else { return };
        let mut todo = parts(self.path.as_os_str().as_bytes());
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            let Ok(stat) = rustix::fs::fstat(&at) else { return };
            if name != ".." {
                let name = name.as_bytes().to_vec();
                self.way.push(Entry { dir: FileId::from(&stat), name });
            }
            match rustix::fs::openat(&at, &name, WAY, Mode::empty()) {
                Ok(next) => at = next,
                Err(rustix::io::Errno::NOENT) => {
                    self.is_whole = todo.is_empty();
                    self.missing = Some((at, name));
                    return;
                }
                Err(_) => {
                    let text = rustix::fs::readlinkat(&at, &name, Vec::new());
                    links += 1;
                    let Ok(text) = text.map(|text| text.into_bytes()) else { return };
                    if links > MAX_LINKS {
                        return;
                    }
                    if text.starts_with(b"/") {
                        let root = rustix::fs::openat(CWD, "/", WAY, Mode::empty());
                        let Ok(root) = root else { return };
                        at = root;
                    }
                    parts(&text).into_iter().rev().for_each(|part| todo.push_front(part));
                }
            }
        }
        self.is_whole = true;
    }

    fn has_entry(&self, dir: FileId, name: &[u8]) -> bool {
        self.way.iter().any(|entry| entry.dir == dir && entry.name == name)
    }

    /// Whether an entry is the store's own, there or not.
    fn is_own_entry(&self, dir: FileId, name: &[u8]) -> bool {
        let own = self.way.last().filter(|_| self.is_whole);
        own.is_some_and(|entry| entry.dir == dir && entry.name == name)
    }

    fn has_file(&self, id: FileId) -> bool {
        if !self.folders.iter().any(|folder| folder.dev == id.dev) {
            return false;
        }
        let has = |path: &Path| folder_has(path, id, |_| true);
        has(&self.path)
            || self.folder_names.iter().any(|folder| has(&self.path.join(folder)))
            || std::fs::read_dir(self.path.join("vas"))
                .is_ok_and(|vases| vases.flatten().any(|vas| has(&vas.path())))
    }
}

fn parts(path: &[u8]) -> VecDeque<OsString> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.map(|part| OsString::from_vec(part.to_vec())).collect()
}

/// Whether a folder has a name for a file, among the names that count.
fn folder_has(folder: &Path, id: FileId, counts: impl Fn(&[u8]) -> bool) -> bool {
    let is_it = |name: &OsStr| {
        let stat = rustix::fs::statat(CWD, folder.join(name), AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| FileId::from(&stat) == id)
    };
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| counts(entry.file_name().as_bytes()) && is_it(&entry.file_name()))
    })
}
