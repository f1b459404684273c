//! Extended attributes of files: those of the `user` name space, and of it alone.
//!
//! The other name spaces are the host's own: labels of its security modules, access lists,
//! capabilities. A program sees a file system that has none and supports none, which tools that
//! copy attributes skip silently.

use std::os::fd::AsFd;
use std::sync::Arc;

use abi::{Errno, PAGE_SIZE};
use rustix::fs::XattrFlags;

use super::attr::by_number;
use super::files::{Files, Subject};
use super::host;
use super::inspect::NOFOLLOW;
use super::open::pin;
use super::open_file::OpenFile;
use super::resolve::Found;

/// The longest name that Linux accepts, the NUL not counted (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;
/// The largest value and the longest list (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
pub const XATTR_MAX: usize = 64 << 10;

/// Whose attributes a call is about.
#[derive(Clone, Copy, Debug)]
pub enum XattrOf<'a> {
    /// The file at a path, a link at its end followed.
    Path(&'a [u8]),
    /// The file at a path, or the link itself.
    Link(&'a [u8]),
    /// An open file.
    Descriptor(i32),
}

/// What a program may do with attributes of this name.
enum Name<'n> {
    /// `user.*`: the host's.
    User(&'n [u8]),
    /// A name space that belongs to the host's administration: there is nothing in it.
    Privileged,
    /// Anything else: the file system does not support it.
    Unsupported,
}

fn judge(name: &[u8]) -> Result<Name<'_>, Errno> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Errno::ERANGE);
    }
    Ok(match name {
        [b'u', b's', b'e', b'r', b'.', _, ..] => Name::User(name),
        _ if name.starts_with(b"security.") || name.starts_with(b"trusted.") => Name::Privileged,
        _ => Name::Unsupported,
    })
}

/// An object of the host, by the host's own name for our descriptor of it.
enum Object {
    Host(Handle),
    Synthetic,
}

/// Keeps the descriptor open while its name is used.
enum Handle {
    Open(Arc<OpenFile>),
    Pinned(std::os::fd::OwnedFd),
}

impl Handle {
    fn name(&self) -> String {
        match self {
            Handle::Open(file) => by_number(file.host_fd()),
            Handle::Pinned(fd) => by_number(fd.as_fd()),
        }
    }
}

impl Files {
    fn object(&self, of: XattrOf<'_>, changes: bool) -> Result<Object, Errno> {
        let (path, flags) = match of {
            XattrOf::Descriptor(fd) => {
                let file = self.get(fd)?;
                file.check_not_path()?;
                return open_object(file, changes);
            }
            XattrOf::Path(path) => (path, 0),
            XattrOf::Link(path) => (path, NOFOLLOW),
        };
        let (base, path) = match self.subject(libc::AT_FDCWD, path, flags)? {
            Subject::Open(file) => return open_object(file, changes),
            Subject::Path(base, path) => (base, path),
        };
        let found = self.lookup(&base, path, flags == 0, |at, follow| {
            pin(at, follow)?.try_map(|fd| match changes {
                true => at.grant.check_writable().map(|()| fd),
                false => Ok(fd),
            })
        })?;
        match found {
            Found::Host(fd) => Ok(Object::Host(Handle::Pinned(fd))),
            Found::Node(_) | Found::Leaf(_) if changes => Err(Errno::EROFS),
            Found::Node(_) | Found::Leaf(_) => Ok(Object::Synthetic),
            Found::Absent => Err(Errno::ENOENT),
        }
    }

    /// `getxattr` and its kin: the value, which has at most `capacity` bytes.
    ///
    /// # Errors
    /// `ENODATA` if there is none of that name, `EOPNOTSUPP` outside the `user` name space,
    /// `ERANGE` for a longer value or a bad name; those of path resolution.
    pub fn getxattr(
        &self,
        of: XattrOf<'_>,
        name: &[u8],
        capacity: usize,
    ) -> Result<Vec<u8>, Errno> {
        let (handle, name) = self.users(of, name, false)?;
        let mut value = vec![0; capacity.min(XATTR_MAX)];
        let got = rustix::fs::getxattr(handle.name(), name, value.as_mut_slice());
        let got = match got {
            // With a capacity of 0 the host returns the length alone.
            Err(rustix::io::Errno::RANGE) if capacity >= XATTR_MAX => return Err(Errno::E2BIG),
            other => other.map_err(host)?,
        };
        value.truncate(got);
        Ok(value)
    }

    /// The length of a value, as `getxattr` with a capacity of 0 returns it.
    ///
    /// # Errors
    /// As [`Files::getxattr`].
    pub fn xattr_len(&self, of: XattrOf<'_>, name: &[u8]) -> Result<usize, Errno> {
        self.getxattr(of, name, XATTR_MAX).map(|value| value.len())
    }

    /// `setxattr` and its kin.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags, `E2BIG`, `EEXIST` and `ENODATA` as the flags ask,
    /// `EOPNOTSUPP` or `EPERM` outside the `user` name space, `EROFS`, `EPERM` for a file in
    /// no grant and for what is neither file nor directory.
    pub fn setxattr(
        &self,
        of: XattrOf<'_>,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE).cast_unsigned() != 0 {
            return Err(Errno::EINVAL);
        }
        if value.len() > XATTR_MAX {
            return Err(Errno::E2BIG);
        }
        let (handle, name) = self.users(of, name, true)?;
        let flags = XattrFlags::from_bits_retain(flags);
        let path = handle.name();
        let none: &mut [u8] = &mut [];
        let before = rustix::fs::getxattr(&path, name, none).unwrap_or(0);
        let [before, now] = [before, value.len()].map(|len| (len as u64).div_ceil(PAGE_SIZE));
        let more = now.saturating_sub(before).saturating_mul(PAGE_SIZE);
        self.naming(more, || rustix::fs::setxattr(&path, name, value, flags).map_err(host))
    }

    /// `removexattr` and its kin.
    ///
    /// # Errors
    /// `ENODATA`, and as [`Files::setxattr`].
    pub fn removexattr(&self, of: XattrOf<'_>, name: &[u8]) -> Result<(), Errno> {
        let (handle, name) = self.users(of, name, true)?;
        rustix::fs::removexattr(handle.name(), name).map_err(host)
    }

    /// The object and the name of one of the user's attributes. What is synthetic can only be read.
    fn users<'n>(
        &self,
        of: XattrOf<'_>,
        name: &'n [u8],
        changes: bool,
    ) -> Result<(Handle, &'n [u8]), Errno> {
        let name = judge(name)?;
        match (self.object(of, changes)?, name) {
            (Object::Synthetic, _) | (_, Name::Unsupported) => Err(Errno::EOPNOTSUPP),
            (_, Name::Privileged) => Err(if changes { Errno::EPERM } else { Errno::ENODATA }),
            (Object::Host(handle), Name::User(name)) => Ok((handle, name)),
        }
    }

    /// `listxattr` and its kin: the names, each with its NUL.
    ///
    /// # Errors
    /// `E2BIG` for more than Linux lists; those of path resolution.
    pub fn listxattr(&self, of: XattrOf<'_>) -> Result<Vec<u8>, Errno> {
        let Object::Host(handle) = self.object(of, false)? else { return Ok(Vec::new()) };
        let mut list = vec![0; XATTR_MAX];
        let len = match rustix::fs::listxattr(handle.name(), list.as_mut_slice()) {
            Ok(len) => len,
            Err(rustix::io::Errno::OPNOTSUPP) => 0,
            Err(error) => return Err(host(error)),
        };
        list.truncate(len);
        let names = list.split_inclusive(|byte| *byte == 0);
        Ok(names.filter(|name| name.starts_with(b"user.")).flatten().copied().collect())
    }
}

fn open_object(file: Arc<OpenFile>, changes: bool) -> Result<Object, Errno> {
    if changes {
        file.check_attributes()?;
    }
    let synthetic = file.is_synthetic();
    Ok(if synthetic { Object::Synthetic } else { Object::Host(Handle::Open(file)) })
}
