//! The names that lead from a grant down to an open directory below it, however long they are together.
//!
//! The host's kernel is asked, because a directory may have been renamed since it was opened. It tells a
//! path of at most 4,095 bytes. Of a longer one it tells what an upper part is called, and the names below that
//! part are looked up in the directories that have them, as the C library's `getcwd` does.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use abi::Errno;
use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use super::attr::by_number;
use super::resolve::components;
use super::tree::GrantRoot;
use super::{PATH_MAX, confined, host};

/// So many directories may be above each other, beyond those whose path the kernel tells: more are some that another
/// process moves meanwhile.
const DEEPEST: usize = 1 << 16;

/// How the directory above another one is opened.
pub(super) const UP: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const LIST: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The names on the way from a grant's directory to one below it, as of now.
///
/// # Errors
/// `ENOENT` if it was removed or is no longer below its grant; `EACCES` for a long path through a directory
/// that the user may not read.
pub(super) fn names_below(grant: &GrantRoot, dir: &Dir) -> Result<Vec<Vec<u8>>, Errno> {
    let root = host_path(&grant.dir)?;
    // From the lowest.
    let mut lower: Vec<Vec<u8>> = Vec::new();
    let mut climbed: Option<OwnedFd> = None;
    let path = loop {
        let at = climbed.as_ref().map_or_else(|| dir.as_fd(), AsFd::as_fd);
        match host_path(at) {
            Err(Errno::ENAMETOOLONG) if lower.len() < DEEPEST => {
                let above = rustix::fs::openat(at, "..", UP, Mode::empty()).map_err(host)?;
                lower.push(name_in(above.as_fd(), at)?);
                climbed = Some(above);
            }
            path => break path?,
        }
    };
    let rest = path.strip_prefix(root.as_slice()).ok_or(Errno::ENOENT)?;
    let inside = root == b"/" || rest.is_empty() || rest.starts_with(b"/");
    if !inside {
        return Err(Errno::ENOENT);
    }
    let upper = components(rest).0.into_iter().map(<[u8]>::to_vec);
    let names: Vec<Vec<u8>> = upper.chain(lower.into_iter().rev()).collect();
    // A removed directory's name ends in " (deleted)": it does not resolve.
    match names.is_empty() || same(&*down(&grant.dir, &names)?, dir)? {
        true => Ok(names),
        false => Err(Errno::ENOENT),
    }
}

/// Opens what names lead to, as many at a time as fit into a path.
fn down(from: &Arc<Dir>, names: &[Vec<u8>]) -> Result<Arc<Dir>, Errno> {
    let open = |from: &Dir, part: &[u8]| {
        from.open_dir(OsStr::from_bytes(part)).map(Arc::new).map_err(|error| confined(&error))
    };
    let (mut at, mut part) = (from.clone(), Vec::new());
    for name in names {
        if part.len() + 1 + name.len() > PATH_MAX {
            at = open(&at, &part)?;
            part.clear();
        }
        if !part.is_empty() {
            part.push(b'/');
        }
        part.extend_from_slice(name);
    }
    open(&at, &part)
}

/// What a directory is called in the one above it.
fn name_in(above: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let wanted = rustix::fs::fstat(dir).map_err(host)?;
    let list = rustix::fs::openat(above, ".", LIST, Mode::empty()).map_err(host)?;
    let mut mounted = Vec::new();
    let is_it = |name: &OsStr| {
        let stat = rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| is_same(&stat, &wanted))
    };
    for entry in rustix::fs::Dir::new(list).map_err(host)? {
        let entry = entry.map_err(host)?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if entry.ino() != wanted.st_ino {
            // Of a directory where something is mounted this is another number.
            mounted.push(name.to_vec());
        } else if is_it(OsStr::from_bytes(name)) {
            return Ok(name.to_vec());
        }
    }
    mounted.into_iter().find(|name| is_it(OsStr::from_bytes(name))).ok_or(Errno::ENOENT)
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

/// Whether two open directories are the same one.
pub(super) fn same(a: impl AsFd, b: impl AsFd) -> Result<bool, Errno> {
    let a = rustix::fs::fstat(a).map_err(host)?;
    Ok(is_same(&a, &rustix::fs::fstat(b).map_err(host)?))
}

/// The host path of an open directory, as the host kernel names it now.
pub(super) fn host_path(dir: impl AsFd) -> Result<Vec<u8>, Errno> {
    let text = std::fs::read_link(by_number(dir.as_fd())).map_err(|error| confined(&error))?;
    Ok(text.into_os_string().into_vec())
}
