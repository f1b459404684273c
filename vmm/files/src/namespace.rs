//! The guest's name space: the tree with the granted directories opened and mounted in it.
//!
//! How a path is resolved in it is in `resolve` and `walk`.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use nix::unistd::Pid;
use rustix::fs::{FileType, Stat};
use thiserror::Error;

use super::grant::Grant;
use super::inspect::{PROC_MAGIC, SYSFS_MAGIC, TMPFS_MAGIC};
use super::off_limits::OffLimits;
use super::pseudo::SYNTHETIC_DEV;
use super::tree::{self, Child, GrantRoot, Leaf, Link, NodeId, Text, Tree, number};
use super::view::{TextFile, View};
use super::way::host_path;

/// The host's procfs shows this process itself (its memory, its descriptors): no grant may lead
/// into it.
pub(super) const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Everything a program can name.
#[derive(Debug)]
pub struct Namespace {
    pub(super) tree: Tree,
    /// What `/proc/self/exe` leads to.
    pub(super) exe: Option<Executable>,
    /// Files that are shown by themselves; a leaf has the number.
    pub(super) shown: Vec<Shown>,
    texts: Vec<TextFile>,
    view: OnceLock<Weak<dyn View>>,
    pub(super) off_limits: Arc<OffLimits>,
    pub(super) tty: Tty,
    /// The session that the run was started in: its terminal is the user's. That of any other session
    /// was made one by a program of the run. 0 is one outside of this PID namespace, which `rustix` has no
    /// value for.
    pub(super) session: Option<Pid>,
}

/// A file that is shown by itself.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// Its guest path.
    pub(super) path: Vec<u8>,
    pub(super) file: Arc<File>,
}

/// The file that the program runs.
#[derive(Debug)]
pub(super) struct Executable {
    /// Its guest path.
    pub(super) path: Vec<u8>,
    pub(super) file: Arc<File>,
}

/// Part of the name space, as a program would find it in `/proc/mounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub path: Vec<u8>,
    /// Its type, as in `statfs`.
    pub magic: u64,
    /// Its device: major and minor number.
    pub device: (u32, u32),
    /// Whether nothing in it can be changed.
    pub read_only: bool,
    /// Whether it belongs to the host.
    pub granted: bool,
}

/// Whether a program can open its user's terminal as `/dev/tty`. Standard streams that are
/// terminals are granted separately and are not affected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tty {
    /// Opening it gives `ENXIO`, as to a process without a controlling terminal.
    #[default]
    Withheld,
    /// It is the host's.
    Granted,
}

/// Why a name space cannot be built from the grants.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// A granted directory cannot be opened.
    #[error("cannot open granted directory {}", host.display())]
    Open {
        /// The directory.
        host: PathBuf,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
    /// A granted directory is on the host's procfs.
    #[error("cannot grant {}: it is part of procfs and would open the monitor's own memory", host.display())]
    Procfs {
        /// The directory.
        host: PathBuf,
    },
    /// A granted directory is a store or is inside one.
    #[error("cannot grant {}: it belongs to the store {}, which programs reach by its own calls", host.display(), store.display())]
    Store {
        /// The directory.
        host: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// Two grants claim one guest path, or one is at or below something built in.
    #[error("guest path {} is already taken", guest.display())]
    Taken {
        /// The path.
        guest: PathBuf,
    },
}

impl Namespace {
    /// Opens the granted directories and builds the tree. `texts` are the files whose content a
    /// [`View`] generates. Until [`Namespace::set_executable`], `/proc/self/exe` gives `ENOENT`.
    ///
    /// A grant may be inside another one: as with a mount, it hides what the outer one has
    /// there, but it is listed by the outer directory only if that has an entry of its name.
    /// Later renames of the host directories do not matter: they stay open.
    ///
    /// # Errors
    /// Names the grant that cannot be opened or mounted.
    pub fn new(
        grants: &[Grant],
        off_limits: OffLimits,
        texts: Vec<TextFile>,
    ) -> Result<Namespace, NamespaceError> {
        let mut tree = Tree::new(texts.iter().map(|text| (text.path, text.of_others)));
        // Outer ones first: what is between an outer and an inner one depends on this.
        let mut ordered: Vec<&Grant> = grants.iter().collect();
        ordered.sort_by_key(|grant| grant.guest.components().count());
        for grant in ordered {
            let taken = || NamespaceError::Taken { guest: grant.guest.clone() };
            let open = |source| NamespaceError::Open { host: grant.host.clone(), source };
            let dir = Dir::open_ambient_dir(&grant.host, ambient_authority()).map_err(open)?;
            let statfs = rustix::fs::fstatfs(&dir).map_err(|e| open(e.into()))?;
            if statfs.f_type as i64 == PROC_SUPER_MAGIC {
                return Err(NamespaceError::Procfs { host: grant.host.clone() });
            }
            let store = off_limits.store_around(&dir);
            let store =
                store.map_err(|errno| open(std::io::Error::from_raw_os_error(errno.raw())))?;
            if let Some(store) = store {
                return Err(NamespaceError::Store { host: grant.host.clone(), store });
            }
            let node = tree.make(grant.guest.as_os_str().as_bytes()).ok_or_else(taken)?;
            let root = Arc::new(GrantRoot::new(node, dir, grant.access));
            if !tree.mount(root) {
                return Err(taken());
            }
        }
        let (exe, shown, view) = (None, Vec::new(), OnceLock::new());
        let off_limits = Arc::new(off_limits);
        let (tty, session) = (Tty::default(), nix::unistd::getsid(None).ok());
        Ok(Namespace { tree, exe, shown, texts, view, off_limits, tty, session })
    }

    /// The same for another program: what is mounted, and the files shown so far, but not which
    /// file it runs and what its synthetic files describe. Directories in memory are shared.
    #[must_use]
    pub(super) fn copy(&self) -> Namespace {
        Namespace {
            tree: self.tree.clone(),
            exe: None,
            shown: self.shown.clone(),
            texts: self.texts.clone(),
            view: OnceLock::new(),
            off_limits: self.off_limits.clone(),
            tty: self.tty,
            session: self.session,
        }
    }

    /// The same with another choice for `/dev/tty`.
    #[must_use]
    pub fn with_tty(self, tty: Tty) -> Namespace {
        Namespace { tty, ..self }
    }

    /// Sets the file that the program runs, which it can always read: as `/proc/self/exe`, and at
    /// its own path as [`Namespace::show`] says. Run-time libraries read it for the names in a
    /// backtrace.
    pub fn set_executable(&mut self, path: &[u8], file: Arc<File>) {
        self.show(path, file.clone());
        self.exe = Some(Executable { path: path.to_vec(), file });
    }

    /// Shows one file of the host, to be read, at a path of its own, unless a grant or something
    /// built in decides what is there.
    pub fn show(&mut self, path: &[u8], file: Arc<File>) {
        // A handful: the program, a script, the loader's list of libraries.
        if let Ok(number) = u16::try_from(self.shown.len()) {
            self.tree.add_shown(path, number);
            self.shown.push(Shown { path: path.to_vec(), file });
        }
    }

    /// The file of a leaf that is one of the host's, or of `/proc/self/exe`.
    ///
    /// # Errors
    /// `ENOENT`.
    pub(super) fn shown_file(&self, leaf: Leaf) -> Result<&Arc<File>, Errno> {
        let file = match leaf {
            Leaf::Shown(number) => self.shown.get(usize::from(number)).map(|shown| &shown.file),
            _ => self.exe.as_ref().map(|exe| &exe.file),
        };
        file.ok_or(Errno::ENOENT)
    }

    /// Why such a file cannot be written: the program is being executed, the others are only shown.
    pub(super) fn refuse_change(&self, file: &Arc<File>) -> Errno {
        match &self.exe {
            Some(exe) if Arc::ptr_eq(&exe.file, file) => Errno::ETXTBSY,
            _ => Errno::EROFS,
        }
    }

    /// Refuses to write a file that a process of the run runs: a regular one with a right to be executed.
    ///
    /// # Errors
    /// `ETXTBSY`.
    pub(super) fn check_not_run(&self, stat: &Stat) -> Result<(), Errno> {
        const ANYBODY_MAY_RUN: u32 = 0o111;
        let program = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_mode & ANYBODY_MAY_RUN != 0;
        match self.view() {
            Some(view) if program && view.runs(stat.st_dev, stat.st_ino) => Err(Errno::ETXTBSY),
            _ => Ok(()),
        }
    }

    /// Puts a directory in memory at a path, as `/dev/shm` is one, unless a grant is mounted there.
    pub fn add_memory(&mut self, path: &[u8]) {
        self.tree.add_memory(path);
    }

    /// Sets what the synthetic files describe. Called once; before that they cannot be opened.
    pub fn set_view(&self, view: Weak<dyn View>) {
        // A second one is never set: a process is started once.
        let _ = self.view.set(view);
    }

    /// A row of the table of such files; for a row that does not exist, a file that cannot be
    /// opened.
    pub(super) fn text_file(&self, row: u16) -> TextFile {
        self.texts.get(usize::from(row)).copied().unwrap_or_default()
    }

    pub(super) fn view(&self) -> Option<Arc<dyn View>> {
        self.view.get()?.upgrade()
    }

    /// The process's number, as `/proc` lists it.
    pub(super) fn pid(&self) -> i32 {
        self.view().map_or_else(|| std::process::id().cast_signed(), |view| view.pid())
    }

    /// The threads that have a directory now.
    pub(super) fn tids(&self) -> Vec<i32> {
        self.view().map_or_else(Vec::new, |view| view.tids())
    }

    /// The threads of another process that have a directory now.
    pub(super) fn threads_of(&self, pid: i32) -> Vec<i32> {
        self.view().map_or_else(Vec::new, |view| view.threads_of(pid))
    }

    /// What a name gives that a directory of the tree does not have.
    pub(super) fn without(&self, id: NodeId) -> Errno {
        match self.tree.node(id).mount {
            tree::Mount::Withheld => Errno::EACCES,
            _ => Errno::ENOENT,
        }
    }

    /// The other processes that have a directory now.
    pub(super) fn others(&self) -> Vec<i32> {
        self.view().map_or_else(Vec::new, |view| view.others())
    }

    /// The child of that name, `.` and `..` excepted.
    pub(super) fn child(&self, id: NodeId, name: &[u8]) -> Option<Child> {
        if let Some(child) = self.tree.child(id, name) {
            return Some(child);
        }
        match self.tree.node(id).mount {
            tree::Mount::Descriptors => {
                number(name).map(|fd| Child::Leaf(Leaf::Link(Link::Descriptor(fd))))
            }
            tree::Mount::DescriptorsOf => {
                number(name).map(|fd| Child::Leaf(Leaf::Link(Link::DescriptorOf(id.process(), fd))))
            }
            tree::Mount::DescriptorInfo => {
                number(name).map(|fd| Child::Leaf(Leaf::Text(Text::DescriptorInfo(fd))))
            }
            tree::Mount::Terminals => number(name).map(|n| Child::Leaf(Leaf::Terminal(n))),
            tree::Mount::Processes => {
                let pid = i32::try_from(number(name)?).ok()?;
                match pid == self.pid() {
                    true => Some(Child::Dir(NodeId::PROCESS)),
                    false => self.others().contains(&pid).then(|| Child::Dir(NodeId::other(pid))),
                }
            }
            tree::Mount::Tasks => {
                let tid = i32::try_from(number(name)?).ok()?;
                self.tids().contains(&tid).then(|| Child::Dir(NodeId::task(tid)))
            }
            tree::Mount::TasksOf => {
                let (pid, tid) = (id.process(), i32::try_from(number(name)?).ok()?);
                let there = self.threads_of(pid).contains(&tid);
                there.then(|| Child::Dir(NodeId::other_task(pid, tid)))
            }
            tree::Mount::Synthetic
            | tree::Mount::Withheld
            | tree::Mount::Through
            | tree::Mount::Grant(_)
            | tree::Mount::Memory(_) => None,
        }
    }

    /// The absolute path of a directory of the tree; empty for the root.
    pub(super) fn path(&self, id: NodeId) -> Vec<u8> {
        if id == NodeId::ROOT {
            return Vec::new();
        }
        // Recurses as deep as the tree: the paths of grants and of our own files.
        let mut path = self.path(self.tree.parent(id));
        path.push(b'/');
        match id.number() {
            _ if id == NodeId::PROCESS => path.extend(self.pid().to_string().bytes()),
            Some(number) => path.extend(number.to_string().bytes()),
            None => path.extend(&self.tree.node(id).name),
        }
        path
    }

    pub(super) fn mounts(&self) -> Vec<Mount> {
        let device = |dev| (rustix::fs::major(dev), rustix::fs::minor(dev));
        let writable: &[&[u8]] = &[b"/dev/shm", b"/proc", b"/sys"];
        let own = [
            (b"/".as_slice(), TMPFS_MAGIC),
            (b"/dev", TMPFS_MAGIC),
            (b"/dev/shm", TMPFS_MAGIC),
            (b"/proc", PROC_MAGIC),
            (b"/sys", SYSFS_MAGIC),
        ];
        let own = own.map(|(path, magic)| Mount {
            path: path.to_vec(),
            magic,
            device: device(SYNTHETIC_DEV),
            read_only: !writable.contains(&path),
            granted: false,
        });
        let granted = self.tree.grants().filter_map(|grant| {
            let mut path = self.path(grant.node);
            if path.is_empty() {
                path.push(b'/');
            }
            Some(Mount {
                path,
                magic: rustix::fs::fstatfs(&*grant.dir).ok()?.f_type as u64,
                device: device(rustix::fs::fstat(&*grant.dir).ok()?.st_dev),
                read_only: grant.read_only,
                granted: true,
            })
        });
        // A grant of the root, or of `/sys`, replaces ours.
        let granted: Vec<Mount> = granted.collect();
        let hidden = |own: &Mount| granted.iter().any(|mount| mount.path == own.path);
        let mut mounts: Vec<Mount> = own.into_iter().filter(|own| !hidden(own)).collect();
        mounts.extend(granted);
        mounts.sort_by(|a, b| a.path.cmp(&b.path));
        mounts
    }

    /// What the program may know of a host path, as the host kernel wrote it: the path inside if a
    /// grant shows the file, the name of something that has no path, otherwise nothing.
    pub(super) fn inside(&self, host: &[u8]) -> Vec<u8> {
        const OPEN_TO_ALL: [&[u8]; 8] = [
            b"/dev/null",
            b"/dev/zero",
            b"/dev/full",
            b"/dev/random",
            b"/dev/urandom",
            b"/dev/tty",
            b"/dev/ptmx",
            b"/memfd:",
        ];
        let known = !host.starts_with(b"/")
            || self.exe.as_ref().is_some_and(|exe| exe.path == host)
            || host.starts_with(b"/dev/pts/")
            || OPEN_TO_ALL.iter().any(|name| host.starts_with(name));
        if known {
            return host.to_vec();
        }
        let shown = self.tree.grants().filter_map(|grant| {
            let root = host_path(&grant.dir).ok()?;
            let rest = host.strip_prefix(root.strip_suffix(b"/").unwrap_or(&root))?;
            // The longest host path is the innermost grant.
            rest.starts_with(b"/").then(|| (root.len(), [&self.path(grant.node), rest].concat()))
        });
        let innermost = shown.max_by_key(|(len, _)| *len).map(|(_, path)| path);
        innermost.unwrap_or_else(|| b"(unreachable)".to_vec())
    }
}
