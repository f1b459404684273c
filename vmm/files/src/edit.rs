//! Calls that remove or change a name: `unlink`, `rmdir`, `rename`.

use abi::Errno;
use rustix::fs::{AtFlags, FileType, RenameFlags};

use super::create::same_grant;
use super::disk::NAME_BYTES;
use super::files::Files;
use super::host;
use super::off_limits::Change;
use super::resolve::{HostAt, Last, Target};

impl Files {
    /// `unlinkat`; `rmdir` with `AT_REMOVEDIR`, `unlink` without.
    ///
    /// # Errors
    /// `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EBUSY` for the root of a grant, `EROFS`.
    pub fn unlinkat(&self, dirfd: i32, path: &[u8], flags: u32) -> Result<(), Errno> {
        let removedir = libc::AT_REMOVEDIR.cast_unsigned();
        if flags & !removedir != 0 {
            return Err(Errno::EINVAL);
        }
        let directory = flags & removedir != 0;
        let base = self.base(dirfd, path)?;
        let at = match self.resolve(&base, path)? {
            Target::Host(at) => at,
            Target::Memory(_) if directory => return Err(Errno::ENOTDIR),
            Target::Memory(at) => return at.unlink(),
            Target::Node(_) | Target::Leaf(_) => return Err(Errno::EROFS),
            Target::Absent => return Err(Errno::ENOENT),
        };
        match at.last {
            Last::Name { .. } => {}
            _ if !directory => return Err(Errno::EISDIR),
            Last::Dot => return Err(Errno::EINVAL),
            Last::DotDot => return Err(Errno::ENOTEMPTY),
            Last::Root => return Err(Errno::EBUSY),
        }
        at.grant.check_writable()?;
        self.namespace.off_limits.check_change(&at, Change::Other)?;
        if at.slash() && !directory {
            return Err(if is_directory(&at)? { Errno::EISDIR } else { Errno::ENOTDIR });
        }
        let at_flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(at.dir(), at.name(), at_flags).map_err(host)
    }

    /// `renameat2`; `rename` and `renameat` without flags.
    ///
    /// # Errors
    /// `EXDEV` between two grants, `EBUSY` for the root of a grant, `EINVAL` for
    /// `RENAME_WHITEOUT` and unknown flags, `EROFS`, and Linux's others.
    pub fn renameat2(
        &self,
        old_dirfd: i32,
        old: &[u8],
        new_dirfd: i32,
        new: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let flags = RenameFlags::from_bits_retain(flags);
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let keep = flags.contains(RenameFlags::NOREPLACE);
        let known = RenameFlags::EXCHANGE | RenameFlags::NOREPLACE;
        if !known.contains(flags) || (exchange && keep) {
            return Err(Errno::EINVAL);
        }
        let old = self.resolve(&self.base(old_dirfd, old)?, old)?;
        let new = self.resolve(&self.base(new_dirfd, new)?, new)?;
        let (old, new) = match (old, new) {
            (Target::Host(old), Target::Host(new)) => (old, new),
            (Target::Memory(old), Target::Memory(new)) => return old.rename(&new, flags),
            (Target::Absent, Target::Memory(_)) => return Err(Errno::ENOENT),
            (Target::Memory(_), _) | (_, Target::Memory(_)) => return Err(Errno::EXDEV),
            (Target::Host(_), _) | (_, Target::Host(_)) => return Err(Errno::EXDEV),
            (Target::Absent, _) => return Err(Errno::ENOENT),
            _ => return Err(Errno::EROFS),
        };
        same_grant(&old.grant, &new.grant)?;
        if !matches!(old.last, Last::Name { .. }) {
            return Err(Errno::EBUSY);
        }
        if !matches!(new.last, Last::Name { .. }) {
            return Err(if keep { Errno::EEXIST } else { Errno::EBUSY });
        }
        old.grant.check_writable()?;
        for at in [&old, &new] {
            self.namespace.off_limits.check_change(at, Change::Other)?;
        }
        // We check the slashes, in the host kernel's order: it gets the bare names.
        if old.slash() || new.slash() {
            let old_is_directory = is_directory(&old)?;
            if keep && new.stat().is_ok() {
                return Err(Errno::EEXIST);
            }
            if exchange && !is_directory(&new)? && new.slash() {
                return Err(Errno::ENOTDIR);
            }
            if !old_is_directory && (old.slash() || !exchange) {
                return Err(Errno::ENOTDIR);
            }
        }
        let rename =
            || rustix::fs::renameat_with(old.dir(), old.name(), new.dir(), new.name(), flags);
        if Files::is_same_directory(&old, &new)? {
            return rename().map_err(host);
        }
        // A name more in another directory, which may need a block for it.
        self.naming(NAME_BYTES, || rename().map_err(host))
    }
}

fn is_directory(at: &HostAt) -> Result<bool, Errno> {
    let stat = at.stat()?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
