//! Calls that create a new name: `mkdir`, `mknod`, `symlink`, `link`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use abi::Errno;
use rustix::fs::{AtFlags, CWD, FileType};

use super::attr::{by_number, permissions};
use super::disk::NAME_BYTES;
use super::files::{Files, Subject};
use super::host;
use super::inspect::{EMPTY_PATH, NOFOLLOW};
use super::off_limits::Change;
use super::open_file::Origin;
use super::resolve::{Found, HostAt, Last, Target};
use super::tree::GrantRoot;

impl Files {
    /// The place for a new entry. A slash after the name is for directories only.
    ///
    /// # Errors
    /// `EEXIST`, `EROFS`, `ENOENT` for a slash after the name of something else.
    pub(super) fn new_entry(
        &self,
        dirfd: i32,
        path: &[u8],
        directory: bool,
    ) -> Result<HostAt, Errno> {
        let base = self.base(dirfd, path)?;
        let at = match self.resolve(&base, path)? {
            Target::Host(at) => at,
            Target::Node(_) | Target::Leaf(_) => return Err(Errno::EEXIST),
            // Only regular files are created there, and only by `open`.
            Target::Memory(at) if at.exists() => return Err(Errno::EEXIST),
            Target::Memory(_) => return Err(Errno::EPERM),
            Target::Absent => return Err(Errno::EROFS),
        };
        match at.last {
            Last::Name { slash, .. } => {
                let misnamed = slash && !directory;
                if (misnamed || at.grant.read_only) && at.stat().is_ok() {
                    return Err(Errno::EEXIST);
                }
                if misnamed {
                    return Err(Errno::ENOENT);
                }
                at.grant.check_writable()?;
                let change = if directory { Change::MakeDirectory } else { Change::Other };
                self.namespace.off_limits.check_change(&at, change)?;
                Ok(at)
            }
            Last::Dot | Last::DotDot | Last::Root => Err(Errno::EEXIST),
        }
    }

    /// `mkdirat`; `mkdir` with `AT_FDCWD`.
    ///
    /// # Errors
    /// `EEXIST`, `EROFS` and those of path resolution; `EPERM` for set-ID bits.
    pub fn mkdirat(&self, dirfd: i32, path: &[u8], mode: u32) -> Result<(), Errno> {
        let at = self.new_entry(dirfd, path, true)?;
        let mode = self.mode(permissions(mode)?);
        let make = || rustix::fs::mkdirat(at.dir(), at.name(), mode).map_err(host);
        self.naming(NAME_BYTES, make)
    }

    /// `mknodat` for FIFOs, sockets' names and regular files.
    ///
    /// # Errors
    /// `EPERM` for a device and for set-ID bits, `EINVAL` for another type, `EEXIST`, `EROFS`.
    pub fn mknodat(&self, dirfd: i32, path: &[u8], mode: u32) -> Result<(), Errno> {
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => FileType::RegularFile,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFCHR | libc::S_IFBLK | libc::S_IFDIR => return Err(Errno::EPERM),
            _ => return Err(Errno::EINVAL),
        };
        let at = self.new_entry(dirfd, path, false)?;
        let mode = self.mode(permissions(mode)?);
        let make = || rustix::fs::mknodat(at.dir(), at.name(), kind, mode, 0).map_err(host);
        self.naming(NAME_BYTES, make)
    }

    /// `symlinkat`. The target may be anything: it is checked when the link is followed.
    ///
    /// # Errors
    /// `ENOENT` for an empty target, `EEXIST`, `EROFS`.
    pub fn symlinkat(&self, text: &[u8], dirfd: i32, path: &[u8]) -> Result<(), Errno> {
        super::resolve::check(text)?;
        let at = self.new_entry(dirfd, path, false)?;
        let text = OsStr::from_bytes(text);
        let make = || rustix::fs::symlinkat(text, at.dir(), at.name()).map_err(host);
        // Its text may need a block of its own.
        self.naming(2 * NAME_BYTES, make)
    }

    /// `linkat`; `link` with `AT_FDCWD` twice and no flags.
    ///
    /// # Errors
    /// `EXDEV` between two grants, `EPERM` for a directory, `EEXIST`, `EROFS`.
    pub fn linkat(
        &self,
        old_dirfd: i32,
        old: &[u8],
        new_dirfd: i32,
        new: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let follow = libc::AT_SYMLINK_FOLLOW.cast_unsigned();
        if flags & !(EMPTY_PATH | follow) != 0 {
            return Err(Errno::EINVAL);
        }
        match (self.memory(old_dirfd, old)?, self.memory(new_dirfd, new)?) {
            (Some(old), Some(new)) => return old.link(&new),
            (Some(_), None) | (None, Some(_)) => return Err(Errno::EXDEV),
            (None, None) => {}
        }
        // `linkat` alone follows only when told to.
        let empty = flags & EMPTY_PATH;
        let of = if flags & follow != 0 { empty } else { empty | NOFOLLOW };
        let (base, old) = match self.subject(old_dirfd, old, of)? {
            Subject::Open(file) => {
                let at = self.new_entry(new_dirfd, new, false)?;
                let Origin::Grant(grant) = &file.origin else {
                    return Err(Errno::EXDEV);
                };
                same_grant(grant, &at.grant)?;
                // With an empty path the host requires a capability; its own name for the
                // descriptor leads to the same file, one made with O_TMPFILE included.
                let name = by_number(file.host_fd());
                let follow = AtFlags::SYMLINK_FOLLOW;
                let make = || rustix::fs::linkat(CWD, name, at.dir(), at.name(), follow);
                return self.naming(NAME_BYTES, || make().map_err(host));
            }
            Subject::Path(base, old) => (base, old),
        };
        let found = self.lookup(&base, old, flags & follow != 0, |at, follow| {
            at.stat_step(follow)?.try_map(|_| Ok(at.clone()))
        })?;
        let old = match found {
            Found::Host(at) => at,
            Found::Absent => return Err(Errno::ENOENT),
            _ => {
                self.new_entry(new_dirfd, new, false)?;
                return Err(Errno::EXDEV);
            }
        };
        let new = self.new_entry(new_dirfd, new, false)?;
        same_grant(&old.grant, &new.grant)?;
        let none = AtFlags::empty();
        let make = || rustix::fs::linkat(old.dir(), old.name(), new.dir(), new.name(), none);
        self.naming(NAME_BYTES, || make().map_err(host))
    }
}

/// Two grants are two file systems, even where the host has them on one.
pub(super) fn same_grant(a: &GrantRoot, b: &GrantRoot) -> Result<(), Errno> {
    if a.node == b.node { Ok(()) } else { Err(Errno::EXDEV) }
}
