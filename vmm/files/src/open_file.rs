//! An open file description: one host descriptor and what Linux keeps besides it.
//!
//! Each description of the guest is exactly one of the host, so that offsets, `O_APPEND`
//! and locks are left to the host kernel; descriptors made by `dup` share it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use abi::Errno;
use cap_std::fs::Dir;
use rustix::fs::{FileType, OFlags, Stat};

use super::attr::by_number;
use super::epoll::{Registrations, Watched};
use super::host;
use super::memory_dir::MemoryFile;
use super::owner::Owner;
use super::resolve::Base;
use super::socket::Peers;
use super::tree::{GrantRoot, NodeId, Text};

/// Host descriptors that mappings leave to the VMM, to the store and to `open`.
const SPARE_DESCRIPTORS: u64 = 64;

/// What kind of file a description refers to, as far as serving calls depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file, a memory file included.
    Regular,
    /// A directory of a grant.
    Directory,
    /// A directory that exists only in the guest's tree.
    SyntheticDirectory,
    /// A pipe or FIFO.
    Pipe,
    /// A terminal.
    Terminal,
    /// A character device that never blocks: `null`, `zero`, `full`, `random`.
    Memory,
    /// Any other device.
    Device,
    /// A socket.
    Socket,
    /// A socket to the host kernel's tables, which only answers questions.
    Netlink,
    /// Signals, to be read.
    SignalFd,
    /// A process.
    PidFd,
    /// An event counter.
    EventFd,
    /// A timer.
    TimerFd,
    /// A set of descriptors to wait for.
    Epoll,
    /// A symbolic link itself, opened with `O_PATH`.
    Link,
    /// A file whose content is generated when it is opened: most of `/proc`.
    Pseudo,
    /// Something without a file type.
    Other,
}

/// Where a description comes from: decides what may be done to the file behind it.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// Opened in a grant.
    Grant(Arc<GrantRoot>),
    /// Made by the program: pipes, event counters, memory files.
    Own,
    /// Passed to the program or shared with the host: the program may not change its flags and
    /// mode.
    Shared,
}

#[derive(Debug)]
enum Handle {
    Fd(OwnedFd),
    Dir(Arc<Dir>),
    /// The descriptor is a placeholder opened with `O_PATH`, without any use.
    Node(NodeId, OwnedFd),
    /// A memory file with the content, which only our own functions change.
    Text(Text, OwnedFd),
}

/// An open file description.
#[derive(Debug)]
pub struct OpenFile {
    handle: Handle,
    kind: FileKind,
    pub(super) origin: Origin,
    read: bool,
    write: bool,
    path_only: bool,
    nonblocking: AtomicBool,
    /// A pipe on which the host has not been seen to refuse `RWF_NOWAIT`.
    knows_nowait: AtomicBool,
    /// Of a file that only memory holds.
    memory: Option<Arc<MemoryFile>>,
    /// The descriptor that mappings of the file share.
    mapped: OnceLock<Arc<File>>,
    /// Where a synthetic directory is read next.
    pub(super) position: AtomicU64,
    /// `O_NOFOLLOW`, `O_DIRECTORY` and `O_ASYNC` as the program passed them: those on the host are
    /// set by us.
    given: OFlags,
    pub(super) owner: Owner,
    /// Made when they are first needed: few files are waited for by `epoll`.
    registrations: OnceLock<Box<Registrations>>,
    watched: OnceLock<Box<Watched>>,
    peers: OnceLock<Box<Peers>>,
    /// Of a `signalfd`: which signals it is for.
    signals: AtomicU64,
    /// Whether this process has set record locks by it.
    locked: AtomicBool,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // What the program has opened the host forgets by itself, as Linux does: not before other processes
        // that share the file and the `epoll` have closed it, too.
        if let Some(mut watched) = self.watched.take()
            && matches!(self.origin, Origin::Shared)
        {
            watched.end(self.host_fd());
        }
    }
}

/// Flags of the host that say how we opened a path, not how the program did.
const OURS: OFlags = OFlags::NOFOLLOW.union(OFlags::DIRECTORY).union(O_ASYNC);
pub(super) const O_ASYNC: OFlags = OFlags::from_bits_retain(libc::O_ASYNC as u32);

impl OpenFile {
    /// Wraps a host descriptor. Its access mode and flags are read from the host.
    pub(super) fn new(fd: OwnedFd, origin: Origin) -> Result<OpenFile, Errno> {
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(host)?;
        let stat = rustix::fs::fstat(&fd).map_err(host)?;
        Ok(OpenFile::of(fd, origin, flags, &stat))
    }

    /// Wraps a host descriptor whose flags and `fstat` result are known.
    pub(super) fn of(fd: OwnedFd, origin: Origin, flags: OFlags, stat: &Stat) -> OpenFile {
        let kind = kind_of(fd.as_fd(), stat);
        let handle = match (kind, &origin) {
            (FileKind::Directory, Origin::Grant(_)) => {
                Handle::Dir(Arc::new(Dir::from_std_file(std::fs::File::from(fd))))
            }
            _ => Handle::Fd(fd),
        };
        OpenFile::opened(handle, kind, origin, flags)
    }

    /// One that was opened with `flags`.
    fn opened(handle: Handle, kind: FileKind, origin: Origin, flags: OFlags) -> OpenFile {
        let mode = flags & OFlags::RWMODE;
        let path_only = flags.contains(OFlags::PATH);
        OpenFile {
            handle,
            kind,
            origin,
            read: !path_only && (mode == OFlags::RDONLY || mode == OFlags::RDWR),
            write: !path_only && (mode == OFlags::WRONLY || mode == OFlags::RDWR),
            path_only,
            nonblocking: AtomicBool::new(flags.contains(OFlags::NONBLOCK)),
            knows_nowait: AtomicBool::new(kind == FileKind::Pipe),
            memory: None,
            mapped: OnceLock::new(),
            position: AtomicU64::new(0),
            given: OFlags::empty(),
            owner: Owner::default(),
            registrations: OnceLock::new(),
            watched: OnceLock::new(),
            peers: OnceLock::new(),
            signals: AtomicU64::new(0),
            locked: AtomicBool::new(false),
        }
    }

    /// An open synthetic directory.
    pub(super) fn synthetic(id: NodeId, path_only: bool) -> Result<OpenFile, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).map_err(host)?;
        let flags = if path_only { OFlags::PATH } else { OFlags::RDONLY };
        let (handle, kind) = (Handle::Node(id, fd), FileKind::SyntheticDirectory);
        Ok(OpenFile::opened(handle, kind, Origin::Shared, flags))
    }

    /// An open file with generated content. `fd` is a memory file that holds it.
    pub(super) fn pseudo(text: Text, fd: OwnedFd, flags: OFlags) -> OpenFile {
        OpenFile::opened(Handle::Text(text, fd), FileKind::Pseudo, Origin::Shared, flags)
    }

    /// The generated file that this is, if it is one.
    pub(super) fn text(&self) -> Option<Text> {
        match self.handle {
            Handle::Text(text, _) => Some(text),
            Handle::Fd(_) | Handle::Dir(_) | Handle::Node(..) => None,
        }
    }

    /// Whether it is in our own tree, and so not backed by anything on the host.
    pub(super) fn is_synthetic(&self) -> bool {
        matches!(self.handle, Handle::Node(..) | Handle::Text(..))
    }

    /// The access mode it was opened with.
    pub(super) fn mode(&self) -> OFlags {
        match (self.read, self.write) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        }
    }

    /// The same, marked as a file that only memory holds.
    pub(super) fn in_memory(mut self, memory: Arc<MemoryFile>) -> OpenFile {
        self.memory = Some(memory);
        self
    }

    /// The same, of another kind than the host's file shows.
    pub(super) fn of_kind(mut self, kind: FileKind) -> OpenFile {
        self.kind = kind;
        // What is said to the host kernel is looked at first: by the calls of sockets alone.
        self.write &= kind != FileKind::Netlink;
        self
    }

    /// Who has sent to this socket.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        self.peers.get_or_init(Box::default)
    }

    /// Makes a file whose host descriptor does not block block to the program: who serves it waits.
    pub fn pretend_blocking(&self) {
        self.mark_nonblocking(false);
    }

    /// The signals that a `signalfd` is for.
    #[must_use]
    pub fn signals(&self) -> u64 {
        self.signals.load(Ordering::Acquire)
    }

    /// Changes which signals a `signalfd` is for.
    pub fn set_signals(&self, set: u64) {
        self.signals.store(set, Ordering::Release);
    }

    /// What is registered in this `epoll`.
    pub(super) fn registrations(&self) -> &Registrations {
        self.registrations.get_or_init(Box::default)
    }

    /// Where this file is registered.
    pub(super) fn watched(&self) -> &Watched {
        self.watched.get_or_init(Box::default)
    }

    /// The flags noted by [`OpenFile::note_flags`].
    pub(super) fn noted_flags(&self) -> OFlags {
        self.given
    }

    /// What is kept of a file that only memory holds.
    pub fn memory(&self) -> Option<&Arc<MemoryFile>> {
        self.memory.as_ref()
    }

    /// The file for a mapping. All mappings made through this description share one host
    /// descriptor, which stays open when the program closes its own.
    ///
    /// # Errors
    /// `ENOMEM` when so few descriptors are left that the VMM may need them itself.
    pub fn for_mapping(&self) -> Result<Arc<File>, Errno> {
        if let Some(file) = self.mapped.get() {
            return Ok(file.clone());
        }
        let own = self.host_fd().try_clone_to_owned().map_err(|_| Errno::ENOMEM)?;
        // The host assigns the lowest free number, so it shows how many are in use.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let used = u64::from(own.as_raw_fd().unsigned_abs());
        if limit.is_some_and(|limit| used.saturating_add(SPARE_DESCRIPTORS) > limit) {
            return Err(Errno::ENOMEM);
        }
        Ok(self.mapped.get_or_init(|| Arc::new(File::from(own))).clone())
    }

    /// Runs `call`, which may store that many more bytes in the file.
    ///
    /// # Errors
    /// `ENOSPC` at the run's memory limit, and those of the call.
    pub(super) fn grow_within<R>(
        &self,
        bytes: u64,
        call: impl FnOnce() -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let Some(memory) = &self.memory else { return call() };
        memory.charge.grow(self.host_fd(), bytes, call).map_err(|_| Errno::ENOSPC)?
    }

    /// Runs `call`, which sets the file's length to `len`.
    ///
    /// # Errors
    /// As [`OpenFile::grow_within`].
    pub(super) fn resize_within<R>(
        &self,
        len: u64,
        call: impl FnOnce() -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let Some(memory) = &self.memory else { return call() };
        memory.charge.resize(self.host_fd(), len, call).map_err(|_| Errno::ENOSPC)?
    }

    /// How much of `len` bytes can come from here: not more than a regular file has.
    pub(super) fn at_most(&self, len: usize) -> u64 {
        let size = match self.kind {
            FileKind::Regular => rustix::fs::fstat(self.host_fd()).map_or(0, |s| s.st_size),
            _ => i64::MAX,
        };
        (len as u64).min(size.cast_unsigned())
    }

    /// The host descriptor, for data transfer, `poll` and `mmap`. For a synthetic directory
    /// it is a placeholder on which every such call fails with `EBADF`.
    #[must_use]
    pub fn host_fd(&self) -> BorrowedFd<'_> {
        match &self.handle {
            Handle::Fd(fd) | Handle::Node(_, fd) | Handle::Text(_, fd) => fd.as_fd(),
            Handle::Dir(dir) => dir.as_fd(),
        }
    }

    /// Whether `read` is allowed.
    ///
    /// # Errors
    /// `EBADF` if not opened for reading, `EISDIR` for a directory.
    pub fn can_read(&self) -> Result<(), Errno> {
        match self.kind {
            _ if !self.read => Err(Errno::EBADF),
            FileKind::Directory | FileKind::SyntheticDirectory => Err(Errno::EISDIR),
            _ => Ok(()),
        }
    }

    /// Whether `write` is allowed.
    ///
    /// # Errors
    /// `EBADF` if not opened for writing.
    pub fn can_write(&self) -> Result<(), Errno> {
        if self.write { Ok(()) } else { Err(Errno::EBADF) }
    }

    /// Whether the program has made it.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self.origin, Origin::Own)
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Whether it is `/dev/zero`, which is anonymous memory to a process that maps it.
    #[must_use]
    pub fn is_zero_device(&self) -> bool {
        let zero = |stat: rustix::fs::Stat| {
            (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (1, 5)
        };
        self.kind == FileKind::Memory && rustix::fs::fstat(self.host_fd()).is_ok_and(zero)
    }

    /// Whether a read or write may have to wait for another process, for however long: the caller
    /// should wait in a way that can be interrupted. Independent of [`OpenFile::nonblocking`].
    #[must_use]
    pub fn may_block(&self) -> bool {
        match self.kind {
            FileKind::Pipe
            | FileKind::Terminal
            | FileKind::Device
            | FileKind::Socket
            | FileKind::Netlink
            | FileKind::SignalFd
            | FileKind::EventFd
            | FileKind::TimerFd
            | FileKind::Other => true,
            FileKind::Regular
            | FileKind::Directory
            | FileKind::SyntheticDirectory
            | FileKind::Memory
            | FileKind::Epoll
            // Reading from it is an error.
            | FileKind::PidFd
            | FileKind::Pseudo
            | FileKind::Link => false,
        }
    }

    /// Whether the program asked for `O_NONBLOCK`.
    ///
    /// For descriptors shared with the host (standard input and the like) the host's flag is not
    /// changed, because the user's shell would see it: the caller must then poll before it reads or
    /// writes.
    #[must_use]
    pub fn nonblocking(&self) -> bool {
        self.nonblocking.load(Ordering::Relaxed)
    }

    /// Whether a transfer on it may be tried with `RWF_NOWAIT`: a pipe, unless the host has
    /// reported that it does not support the flag there (kernels before 6.4).
    pub fn answers_without_waiting(&self) -> bool {
        self.knows_nowait.load(Ordering::Relaxed)
    }

    /// Records that the host refused the flag.
    pub fn note_no_answer_without_waiting(&self) {
        self.knows_nowait.store(false, Ordering::Relaxed);
    }

    /// Whether the description was opened with `O_PATH`.
    #[must_use]
    pub fn path_only(&self) -> bool {
        self.path_only
    }

    /// The host flags, with `O_NONBLOCK` as the program set it.
    pub(super) fn flags(&self) -> Result<OFlags, Errno> {
        let path = if self.path_only { OFlags::PATH } else { OFlags::empty() };
        let mut flags = match self.handle {
            Handle::Node(..) => return Ok(path | OFlags::DIRECTORY),
            Handle::Text(..) => path | self.mode(),
            Handle::Fd(_) | Handle::Dir(_) => {
                rustix::fs::fcntl_getfl(self.host_fd()).map_err(host)?
            }
        };
        flags.set(OFlags::NONBLOCK, self.nonblocking());
        if let Origin::Grant(_) = self.origin {
            flags = (flags - OURS) | self.given;
        }
        Ok(flags)
    }

    /// What [`OpenFile::note_flags`] has recorded.
    pub(super) fn given(&self) -> OFlags {
        self.given
    }

    /// Records the flags that the program opened it with.
    pub(super) fn note_flags(&mut self, given: OFlags) {
        self.given = given & OURS;
    }

    /// Sets `O_NONBLOCK`, `O_APPEND`, `O_DIRECT` and `O_NOATIME`, as `F_SETFL` does, and `O_ASYNC`
    /// where the host may send its signal.
    pub(super) fn set_flags(&self, wanted: OFlags) -> Result<(), Errno> {
        let mut settable = OFlags::APPEND | OFlags::DIRECT | OFlags::NOATIME;
        settable.set(O_ASYNC, self.can_signal());
        let flags = match self.origin {
            // Its host descriptor never blocks.
            _ if self.kind == FileKind::SignalFd => OFlags::NONBLOCK,
            Origin::Grant(_) | Origin::Own => wanted & (settable | OFlags::NONBLOCK),
            Origin::Shared => {
                let now = rustix::fs::fcntl_getfl(self.host_fd()).map_err(host)?;
                (wanted & settable) | (now & OFlags::NONBLOCK)
            }
        };
        if !self.is_synthetic() {
            rustix::fs::fcntl_setfl(self.host_fd(), flags).map_err(host)?;
        }
        self.mark_nonblocking(wanted.contains(OFlags::NONBLOCK));
        Ok(())
    }

    /// This process sets record locks.
    pub(super) fn note_locks(&self) {
        self.locked.store(true, Ordering::Relaxed);
    }

    /// Whether it has set some, which it may have dropped since.
    pub(super) fn has_locks(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    pub(super) fn mark_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    /// The directory as a place to start a relative path from.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub(super) fn base(&self) -> Result<Base, Errno> {
        match (&self.handle, &self.origin) {
            (Handle::Dir(dir), Origin::Grant(grant)) => Ok(Base::Host(grant.clone(), dir.clone())),
            (Handle::Node(id, _), _) => Ok(Base::Node(*id)),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn node(&self) -> Option<NodeId> {
        match self.handle {
            Handle::Node(id, _) => Some(id),
            Handle::Fd(_) | Handle::Dir(_) | Handle::Text(..) => None,
        }
    }

    /// # Errors
    /// `EBADF` for an `O_PATH` description.
    pub fn check_not_path(&self) -> Result<(), Errno> {
        if self.path_only { Err(Errno::EBADF) } else { Ok(()) }
    }

    /// Whether the program may change the attributes of the underlying file.
    ///
    /// # Errors
    /// `EROFS` in a read-only grant or a synthetic directory, `EPERM` for a file that is not
    /// in a grant at all.
    pub(super) fn check_attributes(&self) -> Result<(), Errno> {
        match (&self.handle, &self.origin) {
            (Handle::Node(..), _) => Err(Errno::EROFS),
            (_, Origin::Grant(grant)) => grant.check_writable(),
            (_, Origin::Own) => Ok(()),
            (_, Origin::Shared) => Err(Errno::EPERM),
        }
    }
}

fn kind_of(fd: BorrowedFd<'_>, stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        FileType::Fifo => FileKind::Pipe,
        FileType::Socket => FileKind::Socket,
        FileType::BlockDevice => FileKind::Device,
        FileType::CharacterDevice => {
            let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            match (major, minor) {
                // null, zero, full, random, urandom: Documentation/admin-guide/devices.txt.
                (1, 3 | 5 | 7 | 8 | 9) => FileKind::Memory,
                _ if rustix::termios::isatty(fd) => FileKind::Terminal,
                _ => FileKind::Device,
            }
        }
        _ => anonymous(fd),
    }
}

/// The kind of a descriptor without a file type, which only its name reveals.
fn anonymous(fd: BorrowedFd<'_>) -> FileKind {
    match std::fs::read_link(by_number(fd)) {
        Ok(name) => match name.as_os_str().as_bytes() {
            b"anon_inode:[eventfd]" => FileKind::EventFd,
            b"anon_inode:[timerfd]" => FileKind::TimerFd,
            b"anon_inode:[eventpoll]" => FileKind::Epoll,
            _ => FileKind::Other,
        },
        Err(_) => FileKind::Other,
    }
}
