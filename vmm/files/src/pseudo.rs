//! Files without a place in a grant: synthetic directories, devices, the files and links of
//! `/proc`, and what a program makes for itself (pipes, event counters, memory files).

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use abi::Errno;
use rustix::event::EventfdFlags;
use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags};
use rustix::pipe::PipeFlags;

use super::attr::by_number;
use super::charge::FileCharge;
use super::encode::LinuxStat;
use super::files::Files;
use super::host;
use super::memory_dir::MemoryFile;
use super::namespace::Tty;
use super::open::settle;
use super::open_file::{FileKind, OpenFile, Origin};
use super::terminal::own_device;
use super::tree::{Device, Leaf, Link, Mount, NodeId, Text};
use super::view::Whose;

/// Device number of the synthetic directories: an unnamed device (major 0) far above those
/// the host kernel assigns, which start at 1.
pub(super) const SYNTHETIC_DEV: u64 = 0xfff0_00ff;

impl Files {
    pub(super) fn open_node(&self, id: NodeId, flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
        let path_only = flags.contains(OFlags::PATH);
        if flags.contains(OFlags::TMPFILE) {
            let memory = self.namespace.tree.memory(id).is_some();
            return Err(if memory { Errno::EOPNOTSUPP } else { Errno::EROFS });
        }
        if flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return Err(Errno::EEXIST);
        }
        let writes = flags & OFlags::RWMODE != OFlags::RDONLY;
        if !path_only && (writes || flags.intersects(OFlags::CREATE | OFlags::TRUNC)) {
            return Err(Errno::EISDIR);
        }
        if !path_only && matches!(self.namespace.tree.node(id).mount, Mount::Withheld) {
            return Err(Errno::EACCES);
        }
        Ok(Arc::new(OpenFile::synthetic(id, path_only)?))
    }

    /// Opens a leaf of our own tree. A link gets here only if it was to be followed
    /// and leads to something without a name, or if it was not to be followed.
    pub(super) fn open_leaf(&self, leaf: Leaf, flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
        if flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return Err(Errno::EEXIST);
        }
        if flags.contains(OFlags::DIRECTORY) {
            return Err(Errno::ENOTDIR);
        }
        match leaf {
            Leaf::Device(Device::Ptmx) => self.new_terminal(flags),
            Leaf::Device(Device::Tty) if self.has_own_session() => own_device(flags),
            Leaf::Device(Device::Tty) if self.namespace.tty == Tty::Withheld => Err(Errno::ENXIO),
            Leaf::Terminal(number) => self.open_terminal(number, flags),
            Leaf::Device(device) => {
                let keep = OFlags::RWMODE | OFlags::NONBLOCK | OFlags::PATH | OFlags::APPEND;
                let safe = (flags & keep) | OFlags::CLOEXEC | OFlags::NOCTTY;
                let fd = rustix::fs::open(device.host_path(), safe, Mode::empty()).map_err(host)?;
                Ok(Arc::new(OpenFile::new(fd, Origin::Shared)?))
            }
            Leaf::Text(text) => self.open_text(text, flags),
            Leaf::Link(_) if flags.contains(OFlags::NOFOLLOW) => Err(Errno::ELOOP),
            Leaf::Shown(_) | Leaf::Link(Link::Exe) => self.open_shown(leaf, flags),
            Leaf::Link(Link::Descriptor(fd)) => self.reopen(fd, flags),
            // The others lead to a path, and were followed.
            Leaf::Link(_) => Err(Errno::ELOOP),
        }
    }

    /// Opens the program's own file, or another that is shown by itself: for reading only.
    fn open_shown(&self, leaf: Leaf, flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
        let file = self.namespace.shown_file(leaf)?;
        let path_only = flags.contains(OFlags::PATH);
        let writes = flags & OFlags::RWMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        if writes && !path_only {
            return Err(self.namespace.refuse_change(file));
        }
        let safe = (flags & OFlags::PATH) | OFlags::CLOEXEC;
        let fd = rustix::fs::open(by_number(file.as_fd()), safe, Mode::empty()).map_err(host)?;
        Ok(Arc::new(OpenFile::new(fd, Origin::Shared)?))
    }

    /// Opens the file of a descriptor once more: a separate description, as on Linux. In a grant,
    /// the grant and the file's own permissions decide about the access. A descriptor passed in
    /// from outside is opened for no more access than it was passed with: the user chose to pass a
    /// file for reading, not the right to write it.
    pub(super) fn reopen(&self, fd: u32, flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
        let file = self.descriptor(fd)?;
        let path_only = flags.contains(OFlags::PATH);
        match (file.node(), file.text(), file.kind()) {
            (Some(id), ..) => return self.open_node(id, flags),
            (_, Some(text), _) => return self.open_text(text, flags),
            (
                ..,
                FileKind::Socket
                | FileKind::EventFd
                | FileKind::TimerFd
                | FileKind::Epoll
                | FileKind::Other,
            ) if !path_only => {
                return Err(Errno::ENXIO);
            }
            _ => {}
        }
        let mode = flags & OFlags::RWMODE;
        let reads = mode != OFlags::WRONLY;
        let writes = mode != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        match &file.origin {
            Origin::Grant(grant) if writes && !path_only => {
                grant.check_writable()?;
                let stat = rustix::fs::fstat(file.host_fd()).map_err(host)?;
                self.namespace.check_not_run(&stat)?;
            }
            // A pipe is the same channel at either end: what matters is which process may open it,
            // which its own permissions decide, as on Linux.
            Origin::Shared if !path_only && file.kind() != FileKind::Pipe => {
                let short = (reads && file.can_read() == Err(Errno::EBADF))
                    || (writes && file.can_write().is_err());
                if short {
                    return Err(Errno::EACCES);
                }
            }
            Origin::Grant(_) | Origin::Own | Origin::Shared => {}
        }
        let keep = OFlags::RWMODE
            | OFlags::APPEND
            | OFlags::TRUNC
            | OFlags::SYNC
            | OFlags::DIRECT
            | OFlags::NOATIME
            | OFlags::PATH;
        let mut safe = (flags & keep) | OFlags::CLOEXEC;
        if !path_only {
            // As in `open`: opening never blocks.
            safe |= OFlags::NOCTTY | OFlags::NONBLOCK;
        }
        let name = by_number(file.host_fd());
        let open = || rustix::fs::open(name, safe, Mode::empty()).map_err(host);
        let cut = flags.contains(OFlags::TRUNC) && !path_only;
        let fd = if cut { file.resize_within(0, open)? } else { open()? };
        let stat = rustix::fs::fstat(&fd).map_err(host)?;
        self.namespace.off_limits.check_opened(&stat)?;
        let mut again = OpenFile::of(fd, file.origin.clone(), safe, &stat);
        if let Some(memory) = file.memory() {
            again = again.in_memory(memory.clone());
        }
        again.note_flags(flags);
        settle(&again, flags, &stat)?;
        Ok(Arc::new(again))
    }

    /// Opens a generated file: a snapshot, taken now.
    fn open_text(&self, text: Text, flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
        let mode = self.text_stat(text).mode;
        let path_only = flags.contains(OFlags::PATH);
        let writes = flags & OFlags::RWMODE != OFlags::RDONLY;
        if writes && !path_only && mode & 0o200 == 0 {
            return Err(Errno::EACCES);
        }
        let memfd = rustix::fs::memfd_create("proc", MemfdFlags::CLOEXEC).map_err(host)?;
        let charge = FileCharge::new(self.account().clone(), memfd.as_fd());
        let memory = Arc::new(MemoryFile::nameless(charge));
        let file = OpenFile::pseudo(text, memfd, flags).in_memory(memory);
        if !path_only {
            self.fill(&file, text)?;
        }
        Ok(Arc::new(file))
    }

    /// Regenerates the content of a generated file: for a read at its beginning, which on Linux
    /// shows the current state each time.
    ///
    /// # Errors
    /// Those of opening it now.
    pub fn tell_anew(&self, file: &OpenFile) -> Result<(), Errno> {
        file.text().map_or(Ok(()), |text| self.fill(file, text))
    }

    /// Fills the memory file with the current content; its offset stays.
    ///
    /// # Errors
    /// `ENOMEM` at the run's memory limit; those of the file itself.
    fn fill(&self, file: &OpenFile, text: Text) -> Result<(), Errno> {
        let content = match text {
            Text::Row(row, whose) => {
                let view = self.namespace.view().ok_or(Errno::ENOENT)?;
                view.text(row.into(), whose)?
            }
            Text::DescriptorInfo(fd) => self.descriptor_info(fd)?,
        };
        let memfd = file.host_fd();
        let store = || {
            rustix::fs::ftruncate(memfd, content.len() as u64).map_err(host)?;
            let mut done = 0;
            while let Some(rest) = content.get(done..).filter(|rest| !rest.is_empty()) {
                done += rustix::io::pwrite(memfd, rest, done as u64).map_err(host)?;
            }
            Ok(())
        };
        // To the program it is not a file that stores anything.
        let full = |errno| if errno == Errno::ENOSPC { Errno::ENOMEM } else { errno };
        file.grow_within(content.len() as u64, store).map_err(full)
    }

    /// Processes the `len` bytes that the program has just written to a generated file, at `offset`
    /// or before the file's own. To be called after every such write.
    ///
    /// # Errors
    /// The file's errors for these bytes.
    pub fn take_written(
        &self,
        file: &OpenFile,
        offset: Option<i64>,
        len: usize,
    ) -> Result<(), Errno> {
        let Some(text) = file.text() else { return Ok(()) };
        let at = match offset {
            Some(at) => at.cast_unsigned(),
            None => rustix::fs::tell(file.host_fd()).map_err(host)?.saturating_sub(len as u64),
        };
        // More than a page is never read.
        let mut bytes = vec![0; len.min(4096)];
        let got = rustix::io::pread(file.host_fd(), bytes.as_mut_slice(), at).map_err(host)?;
        bytes.truncate(got);
        let taken = match text {
            Text::Row(row, whose) => {
                let view = self.namespace.view().ok_or(Errno::ESRCH)?;
                view.take(row.into(), whose, &bytes)
            }
            Text::DescriptorInfo(_) => Err(Errno::EINVAL),
        };
        self.fill(file, text)?;
        taken
    }

    /// `/proc/self/fdinfo/N`.
    fn descriptor_info(&self, fd: u32) -> Result<Vec<u8>, Errno> {
        let file = self.descriptor(fd)?;
        let cloexec = i32::try_from(fd).is_ok_and(|fd| self.table.cloexec(fd) == Ok(true));
        let mut flags = file.flags()?;
        flags.set(OFlags::CLOEXEC, cloexec);
        let position = match file.node() {
            Some(_) => file.position.load(std::sync::atomic::Ordering::Relaxed),
            None => rustix::fs::tell(file.host_fd()).unwrap_or(0),
        };
        let ino = self.stat_open(&file)?.ino;
        let flags = flags.bits();
        Ok(format!("pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t1\nino:\t{ino}\n").into())
    }

    /// Whether a descriptor is of the process's directory in `/proc`.
    #[must_use]
    pub fn is_process_directory(&self, fd: i32) -> bool {
        self.for_io(fd).is_ok_and(|file| file.node() == Some(NodeId::PROCESS))
    }

    /// The target of a link of ours.
    ///
    /// # Errors
    /// `ENOENT` for a descriptor that is not open, and without a program.
    pub(super) fn link_text(&self, link: Link) -> Result<Vec<u8>, Errno> {
        let namespace = &self.namespace;
        Ok(match link {
            Link::Exe => namespace.exe.as_ref().ok_or(Errno::ENOENT)?.path.clone(),
            Link::Cwd => self.getcwd()?,
            Link::ExeOf(pid) => namespace.view().ok_or(Errno::ENOENT)?.program_of(pid)?,
            Link::CwdOf(pid) => namespace.view().ok_or(Errno::ENOENT)?.directory_of(pid)?,
            Link::DescriptorOf(pid, fd) => {
                let view = namespace.view().ok_or(Errno::ENOENT)?;
                namespace.inside(&view.descriptor_of(pid, fd)?)
            }
            Link::Root => b"/".to_vec(),
            Link::Descriptor(fd) => self.name_of(&*self.descriptor(fd)?)?,
            Link::ProcSelf => namespace.pid().to_string().into_bytes(),
            Link::ThreadSelf => {
                let view = namespace.view().ok_or(Errno::ENOENT)?;
                format!("{}/task/{}", view.pid(), view.caller()).into_bytes()
            }
            Link::Mounts => b"self/mounts".to_vec(),
            Link::DevFd => b"/proc/self/fd".to_vec(),
            Link::Standard(fd) => format!("/proc/self/fd/{fd}").into_bytes(),
        })
    }

    /// What an open file is called inside.
    pub(super) fn name_of(&self, file: &OpenFile) -> Result<Vec<u8>, Errno> {
        match (file.node(), file.text()) {
            (Some(NodeId::ROOT), _) => Ok(b"/".to_vec()),
            (Some(id), _) => Ok(self.namespace.path(id)),
            (_, Some(Text::DescriptorInfo(fd))) => {
                Ok(format!("/proc/{}/fdinfo/{fd}", self.namespace.pid()).into_bytes())
            }
            (_, Some(Text::Row(row, whose))) => {
                let of = match whose {
                    Whose::Process => NodeId::PROCESS,
                    Whose::Thread(tid) => NodeId::task(tid),
                    Whose::Other(pid) => NodeId::other(pid),
                    Whose::ThreadOf(pid, tid) => NodeId::other_task(pid, tid),
                };
                let of = String::from_utf8_lossy(&self.namespace.path(of)).into_owned();
                Ok(self.namespace.text_file(row).path.replace("/proc/#", &of).into_bytes())
            }
            (None, None) => self.name_of_host(file.host_fd()),
        }
    }

    /// What the program may know of the name of a file of the host.
    ///
    /// # Errors
    /// The host's error when asked for the name.
    pub fn name_of_host(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let text = rustix::fs::readlink(by_number(fd), Vec::new()).map_err(host)?;
        Ok(self.namespace.inside(text.to_bytes()))
    }

    /// The attributes of a synthetic directory: owned by root, never changing.
    pub(super) fn node_stat(&self, id: NodeId) -> LinuxStat {
        LinuxStat {
            dev: SYNTHETIC_DEV,
            ino: id.ino(),
            nlink: 2,
            mode: match self.namespace.tree.node(id).mount {
                Mount::Memory(_) => 0o041_777,
                Mount::Withheld | Mount::DescriptorsOf => 0o040_500,
                _ => 0o040_555,
            },
            blksize: 4096,
            ..LinuxStat::default()
        }
    }

    /// The attributes of a leaf of our tree, or, with `follow`, of what a link of ours
    /// leads to.
    pub(super) fn leaf_stat(&self, leaf: Leaf, follow: bool) -> Result<LinuxStat, Errno> {
        match leaf {
            Leaf::Device(device) => {
                let stat = rustix::fs::statat(CWD, device.host_path(), AtFlags::empty());
                Ok(stat.map_err(host)?.into())
            }
            Leaf::Terminal(number) => self.terminal_stat(number),
            Leaf::Text(text) => {
                if let Text::DescriptorInfo(fd) = text {
                    self.descriptor(fd)?;
                }
                Ok(self.text_stat(text))
            }
            Leaf::Link(Link::Descriptor(fd)) => {
                let file = self.descriptor(fd)?;
                if follow {
                    return self.stat_open(&file);
                }
                let read = if file.mode() == OFlags::WRONLY { 0 } else { 0o500 };
                let write = if file.mode() == OFlags::RDONLY { 0 } else { 0o300 };
                let mode = if file.path_only() { 0o100 } else { read | write };
                Ok(LinuxStat { mode: 0o120_000 | mode, ..link_stat(leaf) })
            }
            Leaf::Shown(_) => self.shown_stat(leaf),
            Leaf::Link(Link::Exe) if follow => self.shown_stat(leaf),
            Leaf::Link(_) => Ok(link_stat(leaf)),
        }
    }

    /// The attributes of a generated file: without a length, as in Linux's `/proc`, because
    /// the content is generated later.
    pub(super) fn text_stat(&self, text: Text) -> LinuxStat {
        let mode = match text {
            Text::Row(row, _) => self.namespace.text_file(row).mode,
            Text::DescriptorInfo(_) => 0o400,
        };
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let now = (now.tv_sec, now.tv_nsec.unsigned_abs());
        LinuxStat {
            dev: SYNTHETIC_DEV,
            ino: leaf_ino(Leaf::Text(text)),
            nlink: 1,
            mode: 0o100_000 | mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            // What stdio reads at a time. Linux reports 1024; each read is an exit here.
            blksize: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            ..LinuxStat::default()
        }
    }

    fn shown_stat(&self, leaf: Leaf) -> Result<LinuxStat, Errno> {
        let file = self.namespace.shown_file(leaf)?;
        Ok(rustix::fs::fstat(file).map_err(host)?.into())
    }

    /// `pipe2`: the reading and the writing end.
    ///
    /// # Errors
    /// `EINVAL` for flags other than `O_CLOEXEC`, `O_NONBLOCK`, `O_DIRECT`; `EMFILE`.
    pub fn pipe2(&self, flags: i32) -> Result<[i32; 2], Errno> {
        if flags & !(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT) != 0 {
            return Err(Errno::EINVAL);
        }
        let cloexec = flags & libc::O_CLOEXEC != 0;
        let host_flags = PipeFlags::from_bits_retain(flags.cast_unsigned()) | PipeFlags::CLOEXEC;
        let (read, write) = rustix::pipe::pipe_with(host_flags).map_err(host)?;
        let read = self.own(read, cloexec)?;
        match self.own(write, cloexec) {
            Ok(write) => Ok([read, write]),
            Err(errno) => {
                self.table.remove(read)?;
                Err(errno)
            }
        }
    }

    /// `eventfd2`.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags; `EMFILE`.
    pub fn eventfd2(&self, initial: u32, flags: i32) -> Result<i32, Errno> {
        if flags & !(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE) != 0 {
            return Err(Errno::EINVAL);
        }
        let host_flags =
            EventfdFlags::from_bits_retain(flags.cast_unsigned()) | EventfdFlags::CLOEXEC;
        let fd = rustix::event::eventfd(initial, host_flags).map_err(host)?;
        self.own(fd, flags & libc::EFD_CLOEXEC != 0)
    }

    /// `memfd_create`.
    ///
    /// # Errors
    /// `EINVAL` for a name that is too long or flags the host does not know; `ENOSYS` for huge
    /// pages on request; `EMFILE`.
    pub fn memfd_create(&self, name: &[u8], flags: u32) -> Result<i32, Errno> {
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        let host_flags = MemfdFlags::from_bits_retain(flags) | MemfdFlags::CLOEXEC;
        if flags & libc::MFD_HUGETLB != 0 {
            // The run must not take from the host's pool of huge pages. A kernel without hugetlbfs
            // returns this.
            return Err(Errno::ENOSYS);
        }
        let fd = rustix::fs::memfd_create(&name, host_flags).map_err(host)?;
        self.own(fd, flags & libc::MFD_CLOEXEC != 0)
    }

    /// Passes the program a host descriptor made for it. It becomes the program's alone:
    /// the program may change its flags and attributes.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn own(&self, fd: OwnedFd, cloexec: bool) -> Result<i32, Errno> {
        let file = self.own_file(fd)?;
        self.table.insert(file, cloexec, 0)
    }

    /// The same of another kind than the host's file shows: with the open file.
    ///
    /// # Errors
    /// `EMFILE`, and those of examining it.
    pub fn own_of_kind(
        &self,
        fd: OwnedFd,
        kind: FileKind,
        cloexec: bool,
    ) -> Result<(i32, Arc<OpenFile>), Errno> {
        let file = Arc::new(OpenFile::new(fd, Origin::Own)?.of_kind(kind));
        Ok((self.table.insert(file.clone(), cloexec, 0)?, file))
    }

    /// The open files of a kind.
    #[must_use]
    pub fn of_kind(&self, kind: FileKind) -> Vec<Arc<OpenFile>> {
        let open = self.table.open().into_iter();
        let files = open.filter_map(|fd| self.get(fd.cast_signed()).ok());
        files.filter(|file| file.kind() == kind).collect()
    }

    fn own_file(&self, fd: OwnedFd) -> Result<Arc<OpenFile>, Errno> {
        let mut file = OpenFile::new(fd, Origin::Own)?;
        if file.kind() == FileKind::Regular {
            // It is in no directory: only memory holds it.
            let charge = FileCharge::new(self.account().clone(), file.host_fd());
            file = file.in_memory(Arc::new(MemoryFile::nameless(charge)));
        }
        Ok(Arc::new(file))
    }
}

fn link_stat(leaf: Leaf) -> LinuxStat {
    LinuxStat {
        dev: SYNTHETIC_DEV,
        ino: leaf_ino(leaf),
        nlink: 1,
        mode: 0o120_777,
        blksize: 4096,
        ..LinuxStat::default()
    }
}

/// The inode number a leaf is listed with. Above those of all the tree's directories.
pub(super) fn leaf_ino(leaf: Leaf) -> u64 {
    const FIRST: u64 = 1 << 50;
    let (kind, number) = match leaf {
        Leaf::Shown(number) => (0, u64::from(number)),
        Leaf::Device(device) => (1, device as u64),
        Leaf::Link(Link::Exe) => (2, 0),
        Leaf::Link(Link::Cwd) => (2, 1),
        Leaf::Link(Link::Root) => (2, 2),
        Leaf::Link(Link::ProcSelf) => (2, 3),
        Leaf::Link(Link::ThreadSelf) => (2, 4),
        Leaf::Link(Link::Mounts) => (2, 5),
        Leaf::Link(Link::DevFd) => (2, 6),
        Leaf::Link(Link::ExeOf(pid)) => (8, u64::from(pid.unsigned_abs())),
        Leaf::Link(Link::CwdOf(pid)) => (9, u64::from(pid.unsigned_abs())),
        // Numbers of descriptors are less than 2^20 (`NOFILE_MAX`).
        Leaf::Link(Link::DescriptorOf(pid, fd)) => {
            (11, u64::from(pid.unsigned_abs()) << 20 | u64::from(fd & 0xf_ffff))
        }
        Leaf::Link(Link::Standard(fd)) => (3, u64::from(fd)),
        Leaf::Link(Link::Descriptor(fd)) => (4, u64::from(fd)),
        Leaf::Text(Text::DescriptorInfo(fd)) => (5, u64::from(fd)),
        Leaf::Terminal(number) => (7, u64::from(number)),
        Leaf::Text(Text::Row(row, whose)) => {
            let (kind, number) = match whose {
                Whose::Process => (6, 0),
                Whose::Thread(number) | Whose::Other(number) => (6, number),
                Whose::ThreadOf(_, number) => (10, number),
            };
            (kind, u64::from(row) << 32 | u64::from(number.unsigned_abs()))
        }
    };
    FIRST | kind << 52 | number
}
