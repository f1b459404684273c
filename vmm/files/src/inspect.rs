//! Calls that only read: `stat` and its kin, `statfs`, `access`, `readlink`.

use std::os::fd::AsFd;

use abi::Errno;
use rustix::fs::{Access, AtFlags, FileType, StatxFlags};

use super::attr::by_number;
use super::encode::{self, LinuxStat};
use super::files::{Files, Subject};
use super::host;
use super::open::pin;
use super::open_file::OpenFile;
use super::resolve::{Found, Step};
use super::tree::{Leaf, Link, NodeId, Text};

pub(super) const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();
pub(super) const NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();

/// File system types shown for our own tree (`include/uapi/linux/magic.h`).
pub(super) const TMPFS_MAGIC: u64 = 0x0102_1994;
pub(super) const PROC_MAGIC: u64 = 0x9fa0;
pub(super) const SYSFS_MAGIC: u64 = 0x6265_6572;
/// `ST_RDONLY | ST_VALID` of `statfs`.
const READ_ONLY_FLAGS: u64 = 0x21;

impl Files {
    /// `fstat`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn fstat(&self, fd: i32) -> Result<LinuxStat, Errno> {
        self.stat_open(&*self.get(fd)?)
    }

    /// The attributes of an open file.
    pub(super) fn stat_open(&self, file: &OpenFile) -> Result<LinuxStat, Errno> {
        match (file.node(), file.text()) {
            (Some(id), _) => Ok(self.node_stat(id)),
            (_, Some(text)) => Ok(self.text_stat(text)),
            (None, None) => {
                let mut stat: LinuxStat = rustix::fs::fstat(file.host_fd()).map_err(host)?.into();
                if let Some(links) = file.memory().and_then(|memory| memory.links()) {
                    stat.nlink = links;
                }
                Ok(stat)
            }
        }
    }

    /// `newfstatat`; `stat` with `AT_FDCWD`, `lstat` with `AT_SYMLINK_NOFOLLOW` as well.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags; those of path resolution.
    pub fn newfstatat(&self, dirfd: i32, path: &[u8], flags: u32) -> Result<LinuxStat, Errno> {
        let sync = libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC;
        let known = EMPTY_PATH | NOFOLLOW | (libc::AT_NO_AUTOMOUNT | sync).cast_unsigned();
        if flags & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let (base, path) = match self.subject(dirfd, path, flags)? {
            Subject::Open(file) => return self.stat_open(&file),
            Subject::Path(base, path) => (base, path),
        };
        let follow = flags & NOFOLLOW == 0;
        let found = self.lookup(&base, path, follow, |at, follow| at.stat_step(follow))?;
        match found {
            Found::Host(stat) => Ok(stat.into()),
            Found::Node(id) => Ok(self.node_stat(id)),
            Found::Leaf(leaf) => self.leaf_stat(leaf, follow),
            Found::Absent => Err(Errno::ENOENT),
        }
    }

    /// `statx`: the structure's bytes.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags or the reserved bit of the mask; those of path resolution.
    pub fn statx(
        &self,
        dirfd: i32,
        path: &[u8],
        flags: u32,
        mask: u32,
    ) -> Result<[u8; 256], Errno> {
        let sync = libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC;
        let known = EMPTY_PATH | NOFOLLOW | (libc::AT_NO_AUTOMOUNT | sync).cast_unsigned();
        let both = flags & sync.cast_unsigned() == sync.cast_unsigned();
        if flags & !known != 0 || both || mask & libc::STATX__RESERVED.cast_unsigned() != 0 {
            return Err(Errno::EINVAL);
        }
        let mask = StatxFlags::from_bits_retain(mask);
        let (base, path) = match self.subject(dirfd, path, flags)? {
            Subject::Open(file) => {
                if file.is_synthetic() {
                    return Ok(self.stat_open(&file)?.encode_statx());
                }
                let x = rustix::fs::statx(file.host_fd(), "", AtFlags::EMPTY_PATH, mask);
                let mut x = x.map_err(host)?;
                if let Some(links) = file.memory().and_then(|memory| memory.links()) {
                    x.stx_nlink = links as u32;
                }
                return Ok(encode::statx(&x));
            }
            Subject::Path(base, path) => (base, path),
        };
        let at_flags = AtFlags::from_bits_retain(flags & !EMPTY_PATH | NOFOLLOW);
        let found = self.lookup(&base, path, flags & NOFOLLOW == 0, |at, follow| {
            // Whether to follow depends on the type, which the caller may not want.
            let mask = mask | StatxFlags::TYPE;
            let x = rustix::fs::statx(at.dir(), at.name(), at_flags, mask).map_err(host)?;
            let kind = FileType::from_raw_mode(u32::from(x.stx_mode));
            if follow && kind == FileType::Symlink {
                return Ok(Step::Link);
            }
            if at.slash() && kind != FileType::Directory {
                return Err(Errno::ENOTDIR);
            }
            Ok(Step::Done(encode::statx(&x)))
        })?;
        match found {
            Found::Host(bytes) => Ok(bytes),
            Found::Node(id) => Ok(self.node_stat(id).encode_statx()),
            Found::Leaf(leaf) => Ok(self.leaf_stat(leaf, flags & NOFOLLOW == 0)?.encode_statx()),
            Found::Absent => Err(Errno::ENOENT),
        }
    }

    /// `statfs`: the structure's bytes.
    ///
    /// # Errors
    /// Those of path resolution.
    pub fn statfs(&self, path: &[u8]) -> Result<[u8; 120], Errno> {
        if let Some(at) = self.memory(libc::AT_FDCWD, path)? {
            at.pin()?;
            return Ok(self.memory_statfs());
        }
        let base = self.base(libc::AT_FDCWD, path)?;
        match self.lookup(&base, path, true, pin)? {
            Found::Host(fd) => Ok(encode::statfs(&rustix::fs::fstatfs(fd).map_err(host)?)),
            Found::Node(id) => Ok(self.synthetic_statfs(id)),
            Found::Leaf(Leaf::Link(Link::Descriptor(fd))) => {
                self.statfs_open(&*self.descriptor(fd)?)
            }
            Found::Leaf(leaf @ (Leaf::Link(Link::Exe) | Leaf::Shown(_))) => {
                let file = self.namespace.shown_file(leaf)?;
                Ok(encode::statfs(&rustix::fs::fstatfs(file).map_err(host)?))
            }
            Found::Leaf(Leaf::Text(text)) => Ok(self.own_statfs(self.text_magic(text))),
            Found::Leaf(Leaf::Link(_) | Leaf::Device(_) | Leaf::Terminal(_)) => {
                Ok(self.own_statfs(TMPFS_MAGIC))
            }
            Found::Absent => Err(Errno::ENOENT),
        }
    }

    /// `fstatfs`: the structure's bytes.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn fstatfs(&self, fd: i32) -> Result<[u8; 120], Errno> {
        self.statfs_open(&*self.get(fd)?)
    }

    fn statfs_open(&self, file: &OpenFile) -> Result<[u8; 120], Errno> {
        match (file.node(), file.text()) {
            (Some(id), _) => Ok(self.synthetic_statfs(id)),
            (_, Some(text)) => Ok(self.own_statfs(self.text_magic(text))),
            (None, None) => Ok(encode::statfs(&rustix::fs::fstatfs(file.host_fd()).map_err(host)?)),
        }
    }

    fn synthetic_statfs(&self, id: NodeId) -> [u8; 120] {
        if self.namespace.tree.memory(id).is_some() {
            return self.memory_statfs();
        }
        self.own_statfs(magic_at(&self.namespace.path(id)))
    }

    /// Our own files: without blocks, like procfs and sysfs; elsewhere full to the last block, one
    /// for each directory, like read-only images. Programs divide by the number of blocks.
    fn own_statfs(&self, magic: u64) -> [u8; 120] {
        let (used, flags) = match magic {
            TMPFS_MAGIC => (self.namespace.tree.directories(), READ_ONLY_FLAGS),
            _ => (0, READ_ONLY_FLAGS & !1),
        };
        encode::statfs_of([magic, 4096, used, 0, 0, used, 0, 0, 255, 4096, flags])
    }

    /// A file system in memory, as large as the run's memory.
    fn memory_statfs(&self) -> [u8; 120] {
        let total = self.account().limit_bytes() / 4096;
        let free = total.saturating_sub(self.account().used_bytes() / 4096);
        encode::statfs_of([TMPFS_MAGIC, 4096, total, free, free, 0, 0, 0, 255, 4096, 0])
    }

    /// `faccessat2`; `access` with `AT_FDCWD` and no flags.
    ///
    /// # Errors
    /// `EACCES`, `EROFS` for writing in a read-only grant, `EINVAL` for unknown bits.
    pub fn faccessat2(&self, dirfd: i32, path: &[u8], mode: u32, flags: u32) -> Result<(), Errno> {
        let effective = libc::AT_EACCESS.cast_unsigned();
        if mode & !7 != 0 || flags & !(EMPTY_PATH | NOFOLLOW | effective) != 0 {
            return Err(Errno::EINVAL);
        }
        let wanted = Access::from_bits_retain(mode);
        let (base, path) = match self.subject(dirfd, path, flags)? {
            Subject::Open(file) => {
                return match (file.node(), file.text()) {
                    (Some(id), _) if self.namespace.tree.memory(id).is_some() => Ok(()),
                    (Some(_), _) if wanted.contains(Access::WRITE_OK) => Err(Errno::EROFS),
                    (Some(_), _) => Ok(()),
                    (_, Some(text)) => self.text_access(text, wanted),
                    (None, None) => {
                        if wanted.contains(Access::WRITE_OK)
                            && let super::open_file::Origin::Grant(grant) = &file.origin
                        {
                            grant.check_writable()?;
                        }
                        let name = by_number(file.host_fd());
                        rustix::fs::access(name, wanted).map_err(host)
                    }
                };
            }
            Subject::Path(base, path) => (base, path),
        };
        // Never followed by the host: since the type was checked, something else may have taken its
        // place, and a link's own permissions say nothing about its target.
        let at_flags = AtFlags::from_bits_retain(flags & effective | NOFOLLOW);
        let follow = flags & NOFOLLOW == 0;
        let found = self.lookup(&base, path, follow, |at, follow| {
            at.stat_step(follow)?.try_map(|stat| {
                rustix::fs::accessat(at.dir(), at.name(), wanted, at_flags).map_err(host)?;
                let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
                if wanted.contains(Access::WRITE_OK) && !link {
                    at.grant.check_writable()?;
                }
                Ok(())
            })
        })?;
        match found {
            Found::Host(()) => Ok(()),
            Found::Node(id) if self.namespace.tree.memory(id).is_some() => Ok(()),
            Found::Node(_) if wanted.contains(Access::WRITE_OK) => Err(Errno::EROFS),
            Found::Node(_) => Ok(()),
            Found::Leaf(Leaf::Device(device)) => {
                rustix::fs::access(device.host_path(), wanted).map_err(host)
            }
            Found::Leaf(Leaf::Text(text)) => self.text_access(text, wanted),
            Found::Leaf(leaf @ (Leaf::Shown(_) | Leaf::Link(Link::Exe))) if follow => {
                let file = self.namespace.shown_file(leaf)?;
                if wanted.contains(Access::WRITE_OK) {
                    return Err(self.namespace.refuse_change(file));
                }
                rustix::fs::access(by_number(file.as_fd()), wanted).map_err(host)
            }
            Found::Leaf(leaf) => self.leaf_stat(leaf, follow).map(|_| ()),
            Found::Absent => Err(Errno::ENOENT),
        }
    }

    /// `readlinkat`: at most `capacity` bytes of the link's target.
    ///
    /// # Errors
    /// `EINVAL` for something that is not a link or a capacity of 0; those of path resolution.
    pub fn readlinkat(&self, dirfd: i32, path: &[u8], capacity: usize) -> Result<Vec<u8>, Errno> {
        if capacity == 0 {
            return Err(Errno::EINVAL);
        }
        if path.is_empty() && dirfd == libc::AT_FDCWD {
            return Err(Errno::ENOENT);
        }
        // An empty path means the descriptor itself, without a flag saying so.
        let mut text = match self.subject(dirfd, path, EMPTY_PATH | NOFOLLOW)? {
            Subject::Open(file) if file.kind() == super::FileKind::Link => {
                let text = rustix::fs::readlinkat(file.host_fd(), "", Vec::new());
                text.map_err(host)?.into_bytes()
            }
            Subject::Open(_) if path.is_empty() => return Err(Errno::ENOENT),
            // A file in memory.
            Subject::Open(_) => return Err(Errno::EINVAL),
            Subject::Path(base, path) => {
                let found = self.lookup(&base, path, false, |at, follow| {
                    if follow && let Step::Link = at.stat_step(true)? {
                        return Ok(Step::Link);
                    }
                    let text = rustix::fs::readlinkat(at.dir(), at.name(), Vec::new());
                    Ok(Step::Done(text.map_err(host)?.into_bytes()))
                })?;
                match found {
                    Found::Host(text) => text,
                    Found::Leaf(Leaf::Link(link)) => self.link_text(link)?,
                    Found::Node(_) | Found::Leaf(_) => return Err(Errno::EINVAL),
                    Found::Absent => return Err(Errno::ENOENT),
                }
            }
        };
        text.truncate(capacity);
        Ok(text)
    }

    fn text_magic(&self, text: Text) -> u64 {
        match text {
            Text::Row(row, _) => magic_at(self.namespace.text_file(row).path.as_bytes()),
            Text::DescriptorInfo(_) => PROC_MAGIC,
        }
    }

    /// Whether the access is allowed on a file of our own, which depends on its mode alone: the
    /// user running the VMM owns it.
    fn text_access(&self, text: Text, wanted: Access) -> Result<(), Errno> {
        let mode = self.text_stat(text).mode;
        let refused = (wanted.contains(Access::WRITE_OK) && mode & 0o200 == 0)
            || wanted.contains(Access::EXEC_OK);
        if refused { Err(Errno::EACCES) } else { Ok(()) }
    }
}

/// The file system that programs expect at a place of our tree.
fn magic_at(path: &[u8]) -> u64 {
    match path {
        _ if path.starts_with(b"/proc") => PROC_MAGIC,
        _ if path.starts_with(b"/sys") => SYSFS_MAGIC,
        _ => TMPFS_MAGIC,
    }
}
