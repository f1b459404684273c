//! A program's files in another VMM: for a process that starts with those of another one.
//!
//! The other VMM has the same name space, by a fork before the program ran. What is handed over is
//! what the program has made of it since: open files, the current directory, the umask. Open file
//! descriptions are the host's, so offsets, locks and flags stay shared, with one exception:
//! `O_NONBLOCK` is kept by each VMM for itself.
//!
//! What is known of a file beyond its descriptor decides what may be done with it. The receiver
//! takes it from the sender, which is a VMM too, but indexes nothing by it without a check.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use abi::Errno;
use rustix::fs::{Mode, OFlags};

use super::attr::by_number;
use super::charge::{FileCharge, MemoryAccount};
use super::files::Files;
use super::host;
use super::memory_dir::MemoryFile;
use super::namespace::Namespace;
use super::open_file::{FileKind, OpenFile, Origin};
use super::passed::PassedFiles;
use super::resolve::Base;
use super::socket::SocketNames;
use super::table::Table;
use super::tree::{GrantRoot, NodeId};

/// A program's files, as they arrive from another VMM.
#[derive(Debug, Default)]
pub struct HandedOver {
    /// What is known of them.
    pub bytes: Vec<u8>,
    /// Their descriptors.
    pub fds: Vec<OwnedFd>,
}

/// A program's files on the way to another VMM.
#[derive(Debug, Default)]
pub struct Leaving {
    /// What is known of them.
    pub bytes: Vec<u8>,
    /// Their descriptors.
    pub fds: Vec<Sent>,
}

/// A descriptor to be sent: the one that is there, no duplicate. When any descriptor of a file is
/// closed, the host releases all record locks that this process has on the file.
#[derive(Debug)]
pub enum Sent {
    /// An open file's.
    Open(Arc<OpenFile>),
    /// A directory's.
    Dir(Arc<cap_std::fs::Dir>),
    /// Another file's.
    File(Arc<File>),
    /// One made to be sent.
    Made(OwnedFd),
}

impl AsFd for Sent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Sent::Open(file) => file.host_fd(),
            Sent::Dir(dir) => dir.as_fd(),
            Sent::File(file) => file.as_fd(),
            Sent::Made(fd) => fd.as_fd(),
        }
    }
}

const SHARED: u64 = 0;
const OWN: u64 = 1;
const IN_MEMORY: u64 = 2;
const IN_GRANT: u64 = 3;
const OF_TREE: u64 = 4;
const EPOLL: u64 = 5;
const SIGNALS: u64 = 6;
const PROCESS: u64 = 7;
const NETLINK: u64 = 8;
/// Of the current directory: in a grant, or of the tree.
const NONE: u64 = u64::MAX;

#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn words(&mut self, words: &[u64]) {
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.words(&[bytes.len() as u64]);
        self.0.extend(bytes);
    }
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn words<const N: usize>(&mut self) -> Option<[u64; N]> {
        let (words, rest) = self.0.split_at_checked(N * 8)?;
        self.0 = rest;
        Some(words.as_chunks().0.first_chunk::<N>()?.map(u64::from_le_bytes))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let [len] = self.words()?;
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }
}

impl Files {
    /// Keeps the name space as it is now for programs that this one will start. To be called before
    /// what belongs to this program alone is shown.
    pub fn keep_base(&mut self) {
        self.base = Some(Arc::new(self.namespace.copy()));
    }

    /// The host descriptors that the name space needs.
    #[must_use]
    pub fn base_descriptors(&self) -> Vec<i32> {
        use std::os::fd::AsRawFd;
        let namespace = self.base.as_ref().unwrap_or(&self.namespace);
        let grants = namespace.tree.grants().map(|grant| grant.dir.as_raw_fd());
        let shown = namespace.shown.iter().map(|shown| shown.file.as_raw_fd());
        grants.chain(shown).chain(namespace.off_limits.descriptors()).collect()
    }

    /// The directories granted, with whether they are for writing, and the files that are shown by themselves.
    #[must_use]
    pub fn granted(&self) -> Vec<(std::os::fd::BorrowedFd<'_>, bool)> {
        use std::os::fd::AsFd;
        let grants =
            self.namespace.tree.grants().map(|grant| (grant.dir.as_fd(), !grant.read_only));
        grants.chain(self.namespace.shown.iter().map(|shown| (shown.file.as_fd(), false))).collect()
    }

    fn with_table(&self, namespace: Arc<Namespace>, table: Table) -> Files {
        Files {
            namespace,
            base: self.base.clone(),
            table,
            cwd: RwLock::new(self.cwd()),
            umask: AtomicU32::new(self.umask.load(Ordering::Relaxed)),
            max_size: AtomicU64::new(self.max_size.load(Ordering::Relaxed)),
            account: OnceLock::new(),
            disk: OnceLock::new(),
            socket_names: SocketNames::default(),
            passed: PassedFiles::default(),
            is_of_host_process: true,
            passes_sigio: AtomicBool::new(false),
        }
    }

    /// The same files for a process that runs in this one's memory until it starts a program
    /// (`vfork`): what it opens, closes and changes is its own. Memory counts as this one's.
    #[must_use]
    pub fn for_child(&self) -> Files {
        let mut child = self.with_table(self.namespace.clone(), self.table.copy(false));
        child.is_of_host_process = false;
        child.charge_to(self.account().clone());
        child.disk = self.disk.clone();
        child
    }

    /// The same files for the program that takes this one's place: those that are kept over
    /// `execve`. It has to be charged, and given what it runs.
    ///
    /// # Errors
    /// `ENOSYS` if no name space was kept for it.
    pub fn for_exec(&self) -> Result<Files, Errno> {
        let base = self.base.as_ref().ok_or(Errno::ENOSYS)?;
        Ok(self.with_table(Arc::new(base.copy()), self.table.copy(true)))
    }

    /// Everything that another VMM needs to have these files, be it for another program or for a copy of
    /// this one (`fork`).
    ///
    /// # Errors
    /// The host's: a descriptor cannot be made.
    pub fn hand_over(&self) -> Result<Leaving, Errno> {
        let mut out = Writer::default();
        let mut fds = Vec::new();
        let cwd = match self.cwd() {
            Base::Node(id) => [NONE, u64::from(id.numbers().0), id.numbers().1],
            Base::Host(grant, dir) => {
                fds.push(Sent::Dir(dir.clone()));
                [self.number_of(&grant)?, 0, 0]
            }
        };
        let umask = self.umask.load(Ordering::Relaxed);
        let max_size = self.max_size.load(Ordering::Relaxed);
        out.words(&cwd);
        out.words(&[u64::from(umask), max_size, u64::from(self.nofile())]);

        let numbers = self.table.open();
        out.words(&[numbers.len() as u64]);
        // Where the same open file came before.
        let mut before = HashMap::new();
        for (index, fd) in (0_u64..).zip(numbers) {
            let file = self.get(fd.cast_signed())?;
            let cloexec = self.table.cloexec(fd.cast_signed())?;
            let cloexec = u64::from(cloexec);
            if let Some(same) = before.get(&Arc::as_ptr(&file)) {
                out.words(&[u64::from(fd), *same, 0, 0, 0, cloexec << 2, 0, 0]);
                continue;
            }
            before.insert(Arc::as_ptr(&file), index);
            let (origin, a, b) = self.record(&file)?;
            let given = u64::from(file.given().bits());
            let position = file.position.load(Ordering::Relaxed);
            let nonblocking = u64::from(file.nonblocking());
            let path_only = u64::from(file.path_only());
            let flags = nonblocking | path_only << 1 | cloexec << 2;
            out.words(&[u64::from(fd), NONE, origin, a, b, flags, given, position]);
            if origin != OF_TREE {
                fds.push(match file.text() {
                    // Whoever has it may read it, and no more.
                    Some(_) => Sent::Made(again_read_only(&file)?),
                    None => Sent::Open(file),
                });
            }
        }

        let known = self.base.as_ref().map_or(0, |base| base.shown.len());
        let exe = self.namespace.exe.as_ref();
        let is_exe = |file: &Arc<File>| exe.is_some_and(|exe| Arc::ptr_eq(&exe.file, file));
        let shown = self.namespace.shown.iter().skip(known);
        let shown: Vec<_> = shown.filter(|shown| !is_exe(&shown.file)).collect();
        out.words(&[shown.len() as u64, u64::from(exe.is_some())]);
        for (path, file) in shown
            .iter()
            .map(|shown| (&shown.path, &shown.file))
            .chain(exe.map(|exe| (&exe.path, &exe.file)))
        {
            out.bytes(path);
            fds.push(Sent::File(file.clone()));
        }
        Ok(Leaving { bytes: out.0, fds })
    }

    fn record(&self, file: &OpenFile) -> Result<(u64, u64, u64), Errno> {
        if let Some(id) = file.node() {
            let (index, whose) = id.numbers();
            return Ok((OF_TREE, u64::from(index), whose));
        }
        match file.kind() {
            FileKind::Epoll => return Ok((EPOLL, 0, 0)),
            FileKind::SignalFd => return Ok((SIGNALS, file.signals(), 0)),
            FileKind::PidFd => return Ok((PROCESS, 0, 0)),
            // As any other socket it would do more than answer questions.
            FileKind::Netlink => return Ok((NETLINK, 0, 0)),
            _ => {}
        }
        Ok(match &file.origin {
            _ if file.memory().is_some() => (IN_MEMORY, 0, 0),
            Origin::Grant(grant) => (IN_GRANT, self.number_of(grant)?, 0),
            Origin::Own => (OWN, 0, 0),
            Origin::Shared => (SHARED, 0, 0),
        })
    }

    fn number_of(&self, grant: &Arc<GrantRoot>) -> Result<u64, Errno> {
        let mut grants = self.namespace.tree.grants();
        let number = grants.position(|other| Arc::ptr_eq(other, grant));
        // All open files come from this name space.
        number.map(|number| number as u64).ok_or(Errno::EXDEV)
    }

    /// The files of a program that another VMM has handed over, in this one's name space. Those in
    /// memory are charged to `account`; what is made later is not.
    ///
    /// # Errors
    /// `EPROTO` for what no VMM sends, and the host's.
    pub fn taken_over(
        &self,
        from: HandedOver,
        account: Arc<dyn MemoryAccount>,
    ) -> Result<Files, Errno> {
        const BAD: Errno = Errno::from_raw(libc::EPROTO);
        let mut input = Reader(&from.bytes);
        let mut fds = from.fds.into_iter();
        let base = self.base.as_ref().ok_or(Errno::ENOSYS)?;
        let mut namespace = base.copy();
        let grants: Vec<Arc<GrantRoot>> = namespace.tree.grants().cloned().collect();
        let grant = |number: u64| grants.get(number as usize).cloned().ok_or(BAD);
        let node = |tree: &super::tree::Tree, index: u64, whose: u64| {
            let index = u32::try_from(index).ok();
            index.and_then(|index| tree.known(index, whose)).ok_or(BAD)
        };
        let [of, index, whose] = input.words().ok_or(BAD)?;
        let cwd = match of {
            NONE => Base::Node(node(&namespace.tree, index, whose)?),
            of => {
                let dir = cap_std::fs::Dir::from_std_file(File::from(fds.next().ok_or(BAD)?));
                Base::Host(grant(of)?, Arc::new(dir))
            }
        };
        let [umask, max_size, nofile] = input.words().ok_or(BAD)?;
        let table = Table::empty(nofile as u32);
        let [count] = input.words().ok_or(BAD)?;
        let mut all: Vec<Arc<OpenFile>> = Vec::new();
        for _ in 0..count {
            let [fd, same, origin, a, b, flags, given, position] = input.words().ok_or(BAD)?;
            let fd = u32::try_from(fd).ok().filter(|fd| *fd < super::NOFILE_MAX).ok_or(BAD)?;
            let file = match same {
                NONE if origin == OF_TREE => {
                    let id: NodeId = node(&namespace.tree, a, b)?;
                    Arc::new(OpenFile::synthetic(id, flags & 2 != 0)?)
                }
                NONE => {
                    let owned = fds.next().ok_or(BAD)?;
                    let mut file = match origin {
                        IN_GRANT => OpenFile::new(owned, Origin::Grant(grant(a)?))?,
                        OWN => OpenFile::new(owned, Origin::Own)?,
                        SHARED => OpenFile::new(owned, Origin::Shared)?,
                        EPOLL => OpenFile::new(owned, Origin::Own)?.of_kind(FileKind::Epoll),
                        SIGNALS => signals(a)?,
                        PROCESS => OpenFile::new(owned, Origin::Own)?.of_kind(FileKind::PidFd),
                        NETLINK => OpenFile::new(owned, Origin::Own)?.of_kind(FileKind::Netlink),
                        IN_MEMORY => {
                            let file = OpenFile::new(owned, Origin::Own)?;
                            let charge = FileCharge::new(account.clone(), file.host_fd());
                            file.in_memory(Arc::new(MemoryFile::nameless(charge)))
                        }
                        _ => return Err(BAD),
                    };
                    file.note_flags(OFlags::from_bits_retain(given as u32));
                    Arc::new(file)
                }
                same => all.get(same as usize).cloned().ok_or(BAD)?,
            };
            if same == NONE {
                file.position.store(position, Ordering::Relaxed);
                file.mark_nonblocking(flags & 1 != 0);
            }
            table.place(fd, file.clone(), flags & 4 != 0);
            all.push(file);
        }
        let [shown, exe] = input.words().ok_or(BAD)?;
        for number in 0..shown.saturating_add(exe) {
            let path = input.bytes().ok_or(BAD)?;
            let file = Arc::new(File::from(fds.next().ok_or(BAD)?));
            match number < shown {
                true => namespace.show(path, file),
                false => namespace.set_executable(path, file),
            }
        }
        Ok(Files {
            namespace: Arc::new(namespace),
            base: self.base.clone(),
            table,
            cwd: RwLock::new(cwd),
            umask: AtomicU32::new(umask as u32 & 0o777),
            max_size: AtomicU64::new(max_size),
            account: OnceLock::new(),
            disk: OnceLock::new(),
            socket_names: SocketNames::default(),
            passed: PassedFiles::default(),
            is_of_host_process: true,
            passes_sigio: AtomicBool::new(false),
        })
    }
}

/// The content of a generated file, without the right to write it that we have.
fn again_read_only(file: &OpenFile) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(by_number(file.host_fd()), flags, Mode::empty()).map_err(host)?;
    // A descriptor of its own begins at the start.
    let at = rustix::fs::tell(file.host_fd()).map_err(host)?;
    rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(at)).map_err(host)?;
    Ok(fd)
}

/// A `signalfd` for the same signals, of which this process's own are read: what the host polls is a
/// counter of each VMM's.
fn signals(set: u64) -> Result<OpenFile, Errno> {
    use rustix::event::{EventfdFlags, eventfd};
    let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(host)?;
    let file = OpenFile::new(counter, Origin::Own)?.of_kind(FileKind::SignalFd);
    file.set_signals(set);
    Ok(file)
}
