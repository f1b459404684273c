//! A directory of files in memory that only this program sees: `/dev/shm`.
//!
//! `shm_open` and `sem_open` of the C libraries are calls on files there. Each file is an
//! anonymous file of the host, held open as long as it has a name, so that nothing is left
//! behind however the run ends. What is stored counts against the run's memory limit. The
//! directory is flat: it has regular files with any number of names, and neither directories,
//! links nor FIFOs.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::Errno;
use rustix::fs::{MemfdFlags, Mode, OFlags, RenameFlags};

use super::attr::by_number;
use super::charge::{FileCharge, MemoryAccount};
use super::host;
use super::open_file::{OpenFile, Origin};

/// Most names in the directory: each may be a file, which costs the VMM a descriptor.
const NAMES_MAX: usize = 1024;

/// What is kept of a file in memory besides the host's descriptor.
#[derive(Debug)]
pub struct MemoryFile {
    /// What it is charged with.
    pub charge: Arc<FileCharge>,
    /// The file in a directory; none for one that never had a name.
    named: Option<Arc<OwnedFd>>,
    links: AtomicU64,
}

impl MemoryFile {
    /// A file without a name (`memfd_create`).
    pub(super) fn nameless(charge: FileCharge) -> MemoryFile {
        MemoryFile { charge: Arc::new(charge), named: None, links: AtomicU64::new(0) }
    }

    /// A file that has had a name in another process.
    fn received(fd: OwnedFd, account: &Arc<dyn MemoryAccount>) -> MemoryFile {
        let charge = Arc::new(FileCharge::new(account.clone(), fd.as_fd()));
        MemoryFile { charge, named: Some(Arc::new(fd)), links: AtomicU64::new(0) }
    }

    /// The file in a directory.
    pub(super) fn named(&self) -> Option<&Arc<OwnedFd>> {
        self.named.as_ref()
    }

    /// How many names it has; `None` for one that cannot have any.
    pub(super) fn links(&self) -> Option<u64> {
        self.named.as_ref().map(|_| self.links.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Entry {
    file: Arc<MemoryFile>,
    /// Position of the entry in listings; never used again.
    cookie: u64,
}

#[derive(Debug, Default)]
struct Entries {
    names: BTreeMap<Vec<u8>, Entry>,
    last_cookie: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MemoryDir(Mutex<Entries>);

/// A name in a directory in memory, whether or not there is a file of that name.
#[derive(Clone, Debug)]
pub(super) struct MemoryAt {
    pub(super) dir: Arc<MemoryDir>,
    pub(super) name: Vec<u8>,
}

/// A file of another process's directory.
pub(super) enum Received {
    /// Not seen before.
    New(OwnedFd),
    /// It has another name, too.
    Known(Arc<MemoryFile>),
}

/// How a file of the directory is opened.
pub(super) struct HowToOpen {
    pub(super) flags: OFlags,
    /// Of a new file, the umask applied.
    pub(super) mode: Mode,
}

/// One line of a listing.
pub(super) struct Listed {
    pub(super) cookie: u64,
    pub(super) ino: u64,
    pub(super) name: Vec<u8>,
}

/// The flags that reach the host when the file is opened anew by its number.
const PASSED: OFlags =
    OFlags::RWMODE.union(OFlags::APPEND).union(OFlags::SYNC).union(OFlags::NOATIME);

impl MemoryDir {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All names and files, in the order in which they got their names.
    pub(super) fn names(&self) -> Vec<(Vec<u8>, Arc<MemoryFile>)> {
        let entries = self.lock();
        let mut all: Vec<_> = entries.names.iter().collect();
        all.sort_by_key(|(_, entry)| entry.cookie);
        all.into_iter().map(|(name, entry)| (name.clone(), entry.file.clone())).collect()
    }

    /// Gives a file of another process a name that it has there; `None` if there can be none.
    pub(super) fn receive(
        &self,
        name: &[u8],
        file: Received,
        account: &Arc<dyn MemoryAccount>,
    ) -> Option<Arc<MemoryFile>> {
        let file = match file {
            Received::New(fd) => Arc::new(MemoryFile::received(fd, account)),
            Received::Known(file) => file,
        };
        let is_name = !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/');
        let mut entries = self.lock();
        if !is_name || name.len() > 255 || entries.names.contains_key(name) {
            return None;
        }
        entries.add(name.to_vec(), file.clone()).ok()?;
        Some(file)
    }

    /// All files, in the order in which they got their names.
    pub(super) fn list(&self) -> Vec<Listed> {
        let entries = self.lock();
        let listed = |(name, entry): (&Vec<u8>, &Entry)| {
            let stat = rustix::fs::fstat(entry.file.named.as_ref()?).ok()?;
            Some(Listed { cookie: entry.cookie, ino: stat.st_ino, name: name.clone() })
        };
        let mut all: Vec<Listed> = entries.names.iter().filter_map(listed).collect();
        all.sort_by_key(|one| one.cookie);
        all
    }
}

impl Entries {
    fn add(&mut self, name: Vec<u8>, file: Arc<MemoryFile>) -> Result<(), Errno> {
        if self.names.len() >= NAMES_MAX {
            return Err(Errno::ENOSPC);
        }
        file.links.fetch_add(1, Ordering::Relaxed);
        self.put(name, file);
        Ok(())
    }

    /// Enters the name of a file whose link count already includes it.
    fn put(&mut self, name: Vec<u8>, file: Arc<MemoryFile>) {
        self.last_cookie += 1;
        let entry = Entry { file, cookie: self.last_cookie };
        if let Some(old) = self.names.insert(name, entry) {
            old.file.links.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn get(&self, name: &[u8]) -> Result<Arc<MemoryFile>, Errno> {
        self.names.get(name).map(|entry| entry.file.clone()).ok_or(Errno::ENOENT)
    }
}

impl MemoryAt {
    /// Whether there is a file of that name.
    pub(super) fn exists(&self) -> bool {
        self.dir.lock().names.contains_key(&self.name)
    }

    /// Opens the file, creating it first where the flags say so.
    ///
    /// # Errors
    /// As `open`; `ENOSPC` when the directory is full.
    pub(super) fn open(
        &self,
        how: &HowToOpen,
        account: &Arc<dyn MemoryAccount>,
    ) -> Result<OpenFile, Errno> {
        let flags = how.flags;
        let mut entries = self.dir.lock();
        if let Ok(file) = entries.get(&self.name) {
            drop(entries);
            if flags.contains(OFlags::CREATE | OFlags::EXCL) {
                return Err(Errno::EEXIST);
            }
            if flags.contains(OFlags::DIRECTORY) {
                return Err(Errno::ENOTDIR);
            }
            return again(&file, flags);
        }
        if !flags.contains(OFlags::CREATE) {
            return Err(Errno::ENOENT);
        }
        let fd = rustix::fs::memfd_create("shm", MemfdFlags::CLOEXEC).map_err(host)?;
        let charge = Arc::new(FileCharge::new(account.clone(), fd.as_fd()));
        let file =
            Arc::new(MemoryFile { charge, named: Some(Arc::new(fd)), links: AtomicU64::new(0) });
        // Opened first: the mode may not allow even its creator to open it.
        let open = again(&file, flags)?;
        rustix::fs::fchmod(open.host_fd(), how.mode).map_err(host)?;
        entries.add(self.name.clone(), file)?;
        Ok(open)
    }

    /// An `O_PATH` descriptor of the file, for calls that take a path.
    ///
    /// # Errors
    /// `ENOENT`.
    pub(super) fn pin(&self) -> Result<OpenFile, Errno> {
        let file = self.dir.lock().get(&self.name)?;
        again(&file, OFlags::PATH)
    }

    /// Its size.
    ///
    /// # Errors
    /// `ENOENT`.
    pub(super) fn size(&self) -> Result<u64, Errno> {
        let file = self.dir.lock().get(&self.name)?;
        let open = again(&file, OFlags::RDONLY)?;
        Ok(rustix::fs::fstat(open.host_fd()).map_err(host)?.st_size.cast_unsigned())
    }

    /// `truncate`.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`, `ENOSPC`.
    pub(super) fn truncate(&self, len: u64) -> Result<(), Errno> {
        let file = self.dir.lock().get(&self.name)?;
        let open = again(&file, OFlags::WRONLY)?;
        let cut = || rustix::fs::ftruncate(open.host_fd(), len).map_err(host);
        file.charge.resize(open.host_fd(), len, cut).map_err(|_| Errno::ENOSPC)?
    }

    /// `unlink`.
    ///
    /// # Errors
    /// `ENOENT`.
    pub(super) fn unlink(&self) -> Result<(), Errno> {
        let gone = self.dir.lock().names.remove(&self.name).ok_or(Errno::ENOENT)?;
        gone.file.links.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// `link`: one more name for the file.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `EXDEV` for another directory.
    pub(super) fn link(&self, new: &MemoryAt) -> Result<(), Errno> {
        self.check_same(new)?;
        let mut entries = self.dir.lock();
        let file = entries.get(&self.name)?;
        if entries.names.contains_key(&new.name) {
            return Err(Errno::EEXIST);
        }
        entries.add(new.name.clone(), file)
    }

    /// `rename`, with flags already checked.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST` with `RENAME_NOREPLACE`, `EXDEV` for another directory.
    pub(super) fn rename(&self, new: &MemoryAt, flags: RenameFlags) -> Result<(), Errno> {
        self.check_same(new)?;
        let mut entries = self.dir.lock();
        let file = entries.get(&self.name)?;
        let there = entries.get(&new.name);
        if flags.contains(RenameFlags::EXCHANGE) {
            let there = there?;
            for (name, file) in [(&self.name, &there), (&new.name, &file)] {
                if let Some(entry) = entries.names.get_mut(name) {
                    entry.file = file.clone();
                }
            }
            return Ok(());
        }
        match there {
            Ok(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EEXIST),
            // Two names of one file: as on Linux, nothing happens.
            Ok(there) if Arc::ptr_eq(&there, &file) => return Ok(()),
            _ => {}
        }
        entries.names.remove(&self.name);
        entries.put(new.name.clone(), file);
        Ok(())
    }

    fn check_same(&self, other: &MemoryAt) -> Result<(), Errno> {
        if Arc::ptr_eq(&self.dir, &other.dir) { Ok(()) } else { Err(Errno::EXDEV) }
    }
}

/// Another open description of the file, subject to its mode, which the host checks.
fn again(file: &Arc<MemoryFile>, flags: OFlags) -> Result<OpenFile, Errno> {
    let fd = file.named.as_ref().ok_or(Errno::ENOENT)?;
    let passed = if flags.contains(OFlags::PATH) { OFlags::PATH } else { flags & PASSED };
    let fd = rustix::fs::open(by_number(fd.as_fd()), passed | OFlags::CLOEXEC, Mode::empty());
    let open = OpenFile::new(fd.map_err(host)?, Origin::Own)?.in_memory(file.clone());
    // Opened read-only, the host refuses with EINVAL: Linux leaves this to the file system.
    if flags.contains(OFlags::TRUNC) && open.can_write().is_ok() {
        let cut = || rustix::fs::ftruncate(open.host_fd(), 0).map_err(host);
        file.charge.resize(open.host_fd(), 0, cut).map_err(|_| Errno::ENOSPC)??;
    }
    Ok(open)
}
