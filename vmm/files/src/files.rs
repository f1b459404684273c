//! One program's files: its name space, its descriptors, its current directory and its umask. The
//! calls are in the modules beside this one, by subject.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use abi::Errno;
use rustix::fs::Mode;
use thiserror::Error;

use super::charge::{DescriptorCount, FilesOnly, MemoryAccount};
use super::disk::DiskAccount;
use super::grant::Grant;
use super::memory_dir::MemoryAt;
use super::namespace::{Mount, Namespace};
use super::open_file::{OpenFile, Origin};
use super::passed::PassedFiles;
use super::resolve::{Base, Found, Target, check};
use super::socket::SocketNames;
use super::table::Table;
use super::tree::{Leaf, Link, NodeId};
use super::view::View;

/// Why a program's files cannot be set up.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The current directory does not exist in the program's tree, or is not a directory.
    #[error("cannot start the program in {}", cwd.display())]
    Cwd {
        /// The guest path.
        cwd: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Errno,
    },
    /// A descriptor to be passed on cannot be used.
    #[error("cannot give the program descriptor {fd}")]
    Inherited {
        /// Its number.
        fd: i32,
        /// What is wrong with it.
        #[source]
        source: Errno,
    },
    /// A descriptor to be passed on is a file of a store.
    #[error("descriptor {fd} is a file of the store {}, which programs reach by its own calls", store.display())]
    Store {
        /// Its number.
        fd: u32,
        /// The store.
        store: PathBuf,
    },
    /// A standard descriptor cannot be used.
    #[error("cannot use standard descriptor {fd}")]
    Standard {
        /// 0, 1 or 2.
        fd: u32,
        /// The host's error.
        #[source]
        source: Errno,
    },
}

/// A program's files. Shared by all its threads; every method may be called from any.
///
/// Calls on regular files run to their end. Calls that may wait for others (`flock`,
/// `fcntl` locks, transfers from pipes) block the calling host thread until a signal
/// handler interrupts it, and then return `EINTR`.
#[derive(Debug)]
pub struct Files {
    pub(super) namespace: Arc<Namespace>,
    /// The name space without what belongs to this program alone, for the next one.
    pub(super) base: Option<Arc<Namespace>>,
    pub(super) table: Table,
    pub(super) cwd: RwLock<Base>,
    pub(super) umask: AtomicU32,
    pub(super) max_size: AtomicU64,
    pub(super) account: OnceLock<Arc<dyn MemoryAccount>>,
    pub(super) disk: OnceLock<Arc<dyn DiskAccount>>,
    pub(super) socket_names: SocketNames,
    pub(super) passed: PassedFiles,
    /// Whether this host process is the program's, not that of its parent (`vfork`).
    pub(super) is_of_host_process: bool,
    /// Whether a SIGIO that the host sends to this process reaches the program.
    pub(super) passes_sigio: AtomicBool,
}

/// What a directory descriptor and a path, or an empty one, designate.
pub(super) enum Subject<'p> {
    Open(Arc<OpenFile>),
    Path(Base, &'p [u8]),
}

impl Files {
    /// Sets up a program's files: `standard` become descriptors 0, 1 and 2.
    ///
    /// # Errors
    /// If `cwd`, a guest path, is not a directory of the name space, or a descriptor cannot
    /// be examined.
    pub fn new(
        namespace: Namespace,
        standard: [OwnedFd; 3],
        cwd: &Path,
        umask: u32,
    ) -> Result<Files, FilesError> {
        let mut files = Vec::new();
        for (fd, owned) in (0..).zip(standard) {
            let cannot = |source| FilesError::Standard { fd, source };
            if let Some(store) = namespace.off_limits.store_of(&owned).map_err(cannot)? {
                return Err(FilesError::Store { fd, store });
            }
            let file = OpenFile::new(owned, Origin::Shared).map_err(cannot)?;
            files.push(file);
        }
        let files = Files {
            namespace: Arc::new(namespace),
            base: None,
            table: Table::new(files),
            cwd: RwLock::new(Base::Node(NodeId::ROOT)),
            max_size: AtomicU64::new(u64::MAX),
            umask: AtomicU32::new(umask & 0o777),
            account: OnceLock::new(),
            disk: OnceLock::new(),
            socket_names: SocketNames::default(),
            passed: PassedFiles::default(),
            is_of_host_process: true,
            passes_sigio: AtomicBool::new(false),
        };
        let path = cwd.as_os_str().as_bytes();
        match files.chdir(path) {
            Ok(()) => Ok(files),
            Err(source) => Err(FilesError::Cwd { cwd: cwd.to_owned(), source }),
        }
    }

    /// Passes one of our descriptors, an inherited one, to the program under a number.
    ///
    /// # Errors
    /// For a number that a program cannot have, a file of a store, and a descriptor that cannot
    /// be examined.
    pub fn give(&self, fd: i32, owned: OwnedFd) -> Result<(), FilesError> {
        let cannot = |source| FilesError::Inherited { fd, source };
        if let Some(store) = self.namespace.off_limits.store_of(&owned).map_err(cannot)? {
            return Err(FilesError::Store { fd: fd.unsigned_abs(), store });
        }
        let file = OpenFile::new(owned, Origin::Shared).map_err(cannot)?;
        self.table.replace(fd, Arc::new(file), false).map_err(cannot)?;
        Ok(())
    }

    /// The open file of a descriptor.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.table.get(fd)
    }

    /// The open file behind a descriptor that is to be used for more than its path.
    ///
    /// # Errors
    /// `EBADF`; also for one opened with `O_PATH`.
    pub fn for_io(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let file = self.get(fd)?;
        file.check_not_path()?;
        Ok(file)
    }

    /// Whether there is a number left for another descriptor.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn check_room(&self) -> Result<(), Errno> {
        self.table.check_room()
    }

    /// `chdir`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR` and those of path resolution.
    pub fn chdir(&self, path: &[u8]) -> Result<(), Errno> {
        let base = self.directory(&self.base(libc::AT_FDCWD, path)?, path)?;
        *self.cwd.write().unwrap_or_else(PoisonError::into_inner) = base;
        Ok(())
    }

    /// Whether a path leads to a directory that the program may search.
    ///
    /// # Errors
    /// As [`Files::chdir`].
    pub fn check_directory(&self, path: &[u8]) -> Result<(), Errno> {
        self.directory(&self.base(libc::AT_FDCWD, path)?, path).map(drop)
    }

    /// `fchdir`.
    ///
    /// # Errors
    /// `EBADF`, `ENOTDIR`, `EACCES` without the right to search it.
    pub fn fchdir(&self, fd: i32) -> Result<(), Errno> {
        let base = self.get(fd)?.base()?;
        let base = self.directory(&base, b".")?;
        *self.cwd.write().unwrap_or_else(PoisonError::into_inner) = base;
        Ok(())
    }

    /// The path of what the program runs.
    #[must_use]
    pub fn program_path(&self) -> Vec<u8> {
        self.namespace.exe.as_ref().map(|exe| exe.path.clone()).unwrap_or_default()
    }

    /// The current directory's guest path, without NUL.
    ///
    /// # Errors
    /// `ENOENT` if it was removed or moved out of its grant, `ENAMETOOLONG` if the path is longer than a call takes.
    pub fn getcwd(&self) -> Result<Vec<u8>, Errno> {
        let path = match self.cwd() {
            Base::Node(NodeId::ROOT) => b"/".to_vec(),
            Base::Node(id) => self.namespace.path(id),
            Base::Host(grant, dir) => self.namespace.path_of(&grant, &dir)?,
        };
        if path.len() > super::PATH_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(path) }
    }

    /// Sets what the synthetic files describe. Called once; before that they cannot be opened.
    pub fn set_view(&self, view: Weak<dyn View>) {
        self.namespace.set_view(view);
    }

    /// The highest descriptor in use.
    #[must_use]
    pub fn highest_descriptor(&self) -> Option<u32> {
        self.table.open().last().copied()
    }

    /// The name space as a list of mounts: the tree's own, and the grants by path.
    #[must_use]
    pub fn mounts(&self) -> Vec<Mount> {
        self.namespace.mounts()
    }

    /// `umask`: sets the new mask and returns the old.
    pub fn umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Ordering::Relaxed)
    }

    /// From now on the descriptors count against `count`, too. Called once, before the program runs.
    pub fn count_descriptors(&self, count: Arc<dyn DescriptorCount>) {
        self.table.count_against(count);
    }

    /// How many descriptors are open.
    #[must_use]
    pub fn open_count(&self) -> u64 {
        self.table.open().len() as u64
    }

    /// How many descriptors the program may have (`RLIMIT_NOFILE`).
    pub fn nofile(&self) -> u32 {
        self.table.limit()
    }

    /// Changes the number of descriptors the program may have. Descriptors above the limit stay
    /// open.
    pub fn set_nofile(&self, limit: u32) {
        self.table.set_limit(limit);
    }

    pub(super) fn cwd(&self) -> Base {
        let cwd = self.cwd.read().unwrap_or_else(PoisonError::into_inner);
        cwd.clone()
    }

    /// Permission bits of something new, the umask applied.
    #[must_use]
    pub fn masked(&self, mode: u32) -> u32 {
        mode & !self.umask.load(Ordering::Relaxed)
    }

    /// The mode of a new file, likewise.
    pub(super) fn mode(&self, mode: u32) -> Mode {
        Mode::from_raw_mode(self.masked(mode & 0o7777))
    }

    /// Where a path starts.
    ///
    /// # Errors
    /// `ENOENT` for an empty path; `EBADF` and `ENOTDIR` for a relative path and a
    /// descriptor that is no directory.
    pub(super) fn base(&self, dirfd: i32, path: &[u8]) -> Result<Base, Errno> {
        match path {
            [] => Err(Errno::ENOENT),
            [b'/', ..] => Ok(Base::Node(NodeId::ROOT)),
            _ if dirfd == libc::AT_FDCWD => Ok(self.cwd()),
            _ => self.get(dirfd)?.base(),
        }
    }

    /// What a call acts on that has `AT_EMPTY_PATH` among its `flags`, or a path that ends at an
    /// entry of `/proc/self/fd` and follows it, as it does without `AT_SYMLINK_NOFOLLOW`: the file
    /// of a descriptor need not have any other name.
    pub(super) fn subject<'p>(
        &self,
        dirfd: i32,
        path: &'p [u8],
        flags: u32,
    ) -> Result<Subject<'p>, Errno> {
        if let Some(at) = self.memory(dirfd, path)? {
            return Ok(Subject::Open(Arc::new(at.pin()?)));
        }
        if !path.is_empty() || flags & libc::AT_EMPTY_PATH.cast_unsigned() == 0 {
            let base = self.base(dirfd, path)?;
            let follow = flags & libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() == 0;
            let ours = path.starts_with(b"/proc/") || path.starts_with(b"/dev/");
            if follow
                && ours
                && let Some(file) = self.named_descriptor(&base, path)
            {
                return Ok(Subject::Open(file));
            }
            return Ok(Subject::Path(base, path));
        }
        if dirfd == libc::AT_FDCWD {
            return Ok(Subject::Path(self.cwd(), b"."));
        }
        Ok(Subject::Open(self.get(dirfd)?))
    }

    /// The open file that a path into our own tree names, except directories: those have a place.
    fn named_descriptor(&self, base: &Base, path: &[u8]) -> Option<Arc<OpenFile>> {
        // Beyond the tree nothing is looked up.
        let found = self.lookup::<()>(base, path, true, |_, _| Err(Errno::ENOENT)).ok()?;
        match found {
            Found::Leaf(Leaf::Link(Link::Descriptor(fd))) => self.descriptor(fd).ok(),
            _ => None,
        }
    }

    /// The open file of an entry of `/proc/self/fd`.
    ///
    /// # Errors
    /// `ENOENT`.
    pub(super) fn descriptor(&self, fd: u32) -> Result<Arc<OpenFile>, Errno> {
        let fd = i32::try_from(fd).map_err(|_| Errno::ENOENT)?;
        self.get(fd).map_err(|_| Errno::ENOENT)
    }

    /// The place in a directory in memory that a path names, if it names one.
    ///
    /// # Errors
    /// Those of path resolution.
    pub(super) fn memory(&self, dirfd: i32, path: &[u8]) -> Result<Option<MemoryAt>, Errno> {
        if path.is_empty() {
            return Ok(None);
        }
        match self.base(dirfd, path)? {
            base @ Base::Node(_) => self.memory_at(&base, path),
            Base::Host(..) => Ok(None),
        }
    }

    /// What files in memory are charged to.
    pub(super) fn account(&self) -> &Arc<dyn MemoryAccount> {
        self.account.get_or_init(|| Arc::new(FilesOnly::limited_to(u64::MAX)))
    }

    /// From now on files in memory are charged to `account`. Called once, before the program runs.
    pub fn charge_to(&self, account: Arc<dyn MemoryAccount>) {
        let _ = self.account.set(account);
    }

    /// Resolves a directory that a relative path can start from.
    fn directory(&self, base: &Base, path: &[u8]) -> Result<Base, Errno> {
        check(path)?;
        // With a dot after it, it is a directory, links followed, or an error.
        let path = [path, b"/."].concat();
        match self.resolve_text(base, &path)? {
            Target::Host(at) => {
                // The entry is the directory itself; searching it needs permission.
                at.stat()?;
                Ok(Base::Host(at.grant, at.dir))
            }
            Target::Node(id) => Ok(Base::Node(id)),
            Target::Leaf(_) => Err(Errno::ENOTDIR),
            Target::Memory(_) | Target::Absent => Err(Errno::ENOENT),
        }
    }
}

impl<T> Found<T> {
    /// For a call that needs something existing and writable in a grant: everywhere else in the
    /// tree nothing can be changed.
    pub(super) fn host_or_read_only(self) -> Result<T, Errno> {
        match self {
            Found::Host(found) => Ok(found),
            Found::Node(_) | Found::Leaf(_) => Err(Errno::EROFS),
            Found::Absent => Err(Errno::ENOENT),
        }
    }
}

/// The directory a program starts in unless told otherwise: the host's current directory
/// if a grant shows it, else the first grant, else `/`.
#[must_use]
pub fn default_cwd(grants: &[Grant], host_cwd: &Path) -> PathBuf {
    let shown = grants.iter().filter_map(|grant| {
        let host = std::fs::canonicalize(&grant.host).ok()?;
        let rest = host_cwd.strip_prefix(&host).ok()?;
        // The longest host path is the innermost grant.
        Some((host.as_os_str().len(), grant.guest.join(rest)))
    });
    let innermost = shown.max_by_key(|(len, _)| *len).map(|(_, path)| path);
    let path = innermost.or_else(|| grants.first().map(|grant| grant.guest.clone()));
    // `join` with an empty rest leaves a slash at the end.
    path.map_or_else(|| PathBuf::from("/"), |path| path.components().collect())
}

/// Sets the process's own umask to zero and returns what it was, so that only the
/// program's umask decides about files it creates.
///
/// Process-wide. Call it once, at the start of a command that runs a program, and give
/// files of our own explicit modes.
pub fn take_over_umask() -> u32 {
    rustix::process::umask(Mode::empty()).as_raw_mode()
}
