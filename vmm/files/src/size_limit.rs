//! `RLIMIT_FSIZE`: the size to which a program's calls may grow a file.
//!
//! The host has such a limit, too, but for the process as a unit: the VMM writes the store under
//! it. So the program's limit is enforced here, for each call, before the host is asked.

use std::sync::atomic::Ordering;

use abi::Errno;
use rustix::fs::{OFlags, SeekFrom};

use super::files::Files;
use super::host;
use super::open_file::{FileKind, OpenFile};

/// Where in a file something is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteAt {
    /// At the description's offset, or at its end with `O_APPEND`.
    Current,
    /// There, or at the end with `O_APPEND`, as on Linux.
    Offset(u64),
    /// At the end.
    End,
}

impl Files {
    /// Changes the size up to which the program may make files grow; `u64::MAX` is no limit.
    pub fn set_max_size(&self, bytes: u64) {
        self.max_size.store(bytes, Ordering::Relaxed);
    }

    /// How many of `len` bytes may be written to `file`.
    ///
    /// # Errors
    /// `EFBIG` when not even one.
    pub fn writable_bytes(&self, file: &OpenFile, at: WriteAt, len: u64) -> Result<u64, Errno> {
        let limit = self.max_size.load(Ordering::Relaxed);
        if limit == u64::MAX || file.kind() != FileKind::Regular || len == 0 {
            return Ok(len);
        }
        let appends = at == WriteAt::End || file.flags()?.contains(OFlags::APPEND);
        let from = match at {
            _ if appends => size(file)?,
            WriteAt::Offset(at) => at,
            _ => rustix::fs::seek(file.host_fd(), SeekFrom::Current(0)).map_err(host)?,
        };
        match limit.saturating_sub(from) {
            0 => Err(Errno::EFBIG),
            left => Ok(len.min(left)),
        }
    }

    /// Whether a file that has `now` bytes may be made to have `new`.
    ///
    /// # Errors
    /// `EFBIG`.
    pub(super) fn check_new_size(&self, now: u64, new: u64) -> Result<(), Errno> {
        let limit = self.max_size.load(Ordering::Relaxed);
        if new > now && new > limit { Err(Errno::EFBIG) } else { Ok(()) }
    }

    /// The same for an open file.
    ///
    /// # Errors
    /// `EFBIG`.
    pub(super) fn check_new_size_of(&self, file: &OpenFile, new: u64) -> Result<(), Errno> {
        if self.max_size.load(Ordering::Relaxed) == u64::MAX || file.kind() != FileKind::Regular {
            return Ok(());
        }
        self.check_new_size(size(file)?, new)
    }
}

fn size(file: &OpenFile) -> Result<u64, Errno> {
    Ok(rustix::fs::fstat(file.host_fd()).map_err(host)?.st_size.cast_unsigned())
}
