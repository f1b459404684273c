//! Files without a place in a grant: synthetic directories, devices, `/dev/fd`, and what a
//! program makes for itself (pipes, event counters, memory files).

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::Errno;
use rustix::event::EventfdFlags;
use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags};
use rustix::pipe::PipeFlags;

use super::encode::LinuxStat;
use super::files::Files;
use super::host;
use super::namespace::Tty;
use super::open_file::{OpenFile, Origin};
use super::tree::{Device, Leaf, NodeId};

/// Device number of the synthetic directories: an unnamed device (major 0) far above those
/// the host kernel gives out, which start at 1.
const SYNTHETIC_DEV: u64 = 0xfff0_00ff;

impl Files {
    pub(super) fn open_node(&self, id: NodeId, flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
        let path_only = flags.contains(OFlags::PATH);
        if flags.contains(OFlags::TMPFILE) {
            return Err(Errno::EROFS);
        }
        if flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return Err(Errno::EEXIST);
        }
        let writes = flags & OFlags::RWMODE != OFlags::RDONLY;
        if !path_only && (writes || flags.intersects(OFlags::CREATE | OFlags::TRUNC)) {
            return Err(Errno::EISDIR);
        }
        Ok(Arc::new(OpenFile::synthetic(id, path_only)?))
    }

    /// Opens a device, or shares the open file that an entry of `/dev/fd` stands for: unlike
    /// on Linux, such an entry is the same description, offset included, as `dup` gives it.
    pub(super) fn open_leaf(&self, leaf: Leaf, flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
        if flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return Err(Errno::EEXIST);
        }
        if flags.contains(OFlags::DIRECTORY) {
            return Err(Errno::ENOTDIR);
        }
        match leaf {
            Leaf::Device(Device::Tty) if self.namespace.tty == Tty::Withheld => Err(Errno::ENXIO),
            Leaf::Device(device) => {
                let keep = OFlags::RWMODE | OFlags::NONBLOCK | OFlags::PATH | OFlags::APPEND;
                let safe = (flags & keep) | OFlags::CLOEXEC | OFlags::NOCTTY;
                let fd = rustix::fs::open(device.host_path(), safe, Mode::empty()).map_err(host)?;
                Ok(Arc::new(OpenFile::new(fd, Origin::Shared)?))
            }
            Leaf::Descriptor(fd) => {
                let fd = i32::try_from(fd).map_err(|_| Errno::ENOENT)?;
                let file = self.get(fd).map_err(|_| Errno::ENOENT)?;
                let mode = flags & OFlags::RWMODE;
                let reads = mode != OFlags::WRONLY;
                let writes = mode != OFlags::RDONLY;
                if (reads && file.can_read() == Err(Errno::EBADF))
                    || (writes && file.can_write().is_err())
                {
                    return Err(Errno::EACCES);
                }
                Ok(file)
            }
            // Only reached when it is not to be followed.
            Leaf::Exe => Err(Errno::ELOOP),
        }
    }

    /// The attributes of a synthetic directory: owned by root, never changing.
    pub(super) fn node_stat(&self, id: NodeId) -> LinuxStat {
        LinuxStat {
            dev: SYNTHETIC_DEV,
            ino: id.ino(),
            nlink: 2,
            mode: 0o040_555,
            blksize: 4096,
            ..LinuxStat::default()
        }
    }

    pub(super) fn leaf_stat(&self, leaf: Leaf) -> Result<LinuxStat, Errno> {
        match leaf {
            Leaf::Device(device) => {
                let stat = rustix::fs::statat(CWD, device.host_path(), AtFlags::empty());
                Ok(stat.map_err(host)?.into())
            }
            Leaf::Descriptor(fd) => {
                let fd = i32::try_from(fd).map_err(|_| Errno::ENOENT)?;
                self.fstat(fd).map_err(|_| Errno::ENOENT)
            }
            Leaf::Exe => Ok(LinuxStat {
                dev: SYNTHETIC_DEV,
                ino: leaf_ino(leaf),
                nlink: 1,
                mode: 0o120_777,
                blksize: 4096,
                ..LinuxStat::default()
            }),
        }
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
    /// `EINVAL` for a name that is too long or flags the host does not know; `EMFILE`.
    pub fn memfd_create(&self, name: &[u8], flags: u32) -> Result<i32, Errno> {
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        let host_flags = MemfdFlags::from_bits_retain(flags) | MemfdFlags::CLOEXEC;
        let fd = rustix::fs::memfd_create(&name, host_flags).map_err(host)?;
        self.own(fd, flags & libc::MFD_CLOEXEC != 0)
    }

    /// Gives the program a host descriptor made for it. It becomes wholly the program's:
    /// its flags and attributes are the program's to change.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn own(&self, fd: OwnedFd, cloexec: bool) -> Result<i32, Errno> {
        let file = OpenFile::new(fd, Origin::Own)?;
        self.table.insert(Arc::new(file), cloexec, 0)
    }
}

/// The inode number a leaf is listed with. Above all of the tree's directories.
pub(super) fn leaf_ino(leaf: Leaf) -> u64 {
    match leaf {
        Leaf::Exe => 1 << 40,
        Leaf::Device(device) => (1 << 40) + 1 + device as u64,
        Leaf::Descriptor(fd) => (1 << 41) + u64::from(fd),
    }
}
