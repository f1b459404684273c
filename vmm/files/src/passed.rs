//! Descriptors that go through sockets (`SCM_RIGHTS`).
//!
//! The host carries its own descriptors, so a file arrives without what is kept of it here: where it
//! comes from, and what it is charged to. That is noted when a file is sent, by the host's identity of the
//! file, and found again when it is received. A file that was not sent by this program is treated as one
//! that the program was started with: its flags and attributes cannot be changed, and no path begins there.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use abi::Errno;
use rustix::fs::{OFlags, Stat};

use super::files::Files;
use super::host;
use super::memory_dir::MemoryFile;
use super::open_file::{FileKind, OpenFile, Origin};

/// Files that are remembered, the newest: many more than can be on their way at a time.
const REMEMBERED: usize = 4096;

/// Device, inode, and the flags that say how it was opened.
type Identity = (u64, u64, u32);

/// What has been sent and may arrive.
#[derive(Debug, Default)]
pub(super) struct PassedFiles(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    files: HashMap<Identity, Kept>,
    order: VecDeque<Identity>,
}

#[derive(Clone, Debug)]
struct Kept {
    origin: Origin,
    memory: Option<Arc<MemoryFile>>,
    flags: OFlags,
}

fn identity(stat: &Stat, flags: OFlags) -> Identity {
    (stat.st_dev, stat.st_ino, (flags & (OFlags::RWMODE | OFlags::PATH)).bits())
}

impl Files {
    /// The open file of a descriptor that is about to be sent.
    ///
    /// # Errors
    /// `EBADF`; `EINVAL` for what exists only inside: files of `/proc`, directories of the tree, `epoll`,
    /// `signalfd`, `pidfd`.
    pub fn to_pass(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let file = self.get(fd)?;
        let inside = matches!(
            file.kind(),
            FileKind::Epoll | FileKind::SignalFd | FileKind::PidFd | FileKind::Netlink
        );
        if inside || file.is_synthetic() {
            return Err(Errno::EINVAL);
        }
        let stat = rustix::fs::fstat(file.host_fd()).map_err(host)?;
        let flags = rustix::fs::fcntl_getfl(file.host_fd()).map_err(host)?;
        let kept = Kept {
            origin: file.origin.clone(),
            memory: file.memory().cloned(),
            flags: file.noted_flags(),
        };
        self.passed.remember(identity(&stat, flags), kept);
        Ok(file)
    }

    /// Gives the program a descriptor that arrived.
    ///
    /// # Errors
    /// `EMFILE`; `EACCES` for a file of a store.
    pub fn receive(&self, fd: OwnedFd, cloexec: bool) -> Result<i32, Errno> {
        let stat = rustix::fs::fstat(&fd).map_err(host)?;
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(host)?;
        let file = match self.passed.find(&identity(&stat, flags)) {
            Some(kept) => {
                let mut file = OpenFile::of(fd, kept.origin, flags, &stat);
                file.note_flags(kept.flags);
                match kept.memory {
                    Some(memory) => file.in_memory(memory),
                    None => file,
                }
            }
            None if self.namespace.off_limits.store_of(&fd)?.is_some() => {
                return Err(Errno::EACCES);
            }
            None => OpenFile::of(fd, Origin::Shared, flags, &stat),
        };
        self.table.insert(Arc::new(file), cloexec, 0)
    }
}

impl PassedFiles {
    fn remember(&self, of: Identity, kept: Kept) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.files.insert(of, kept).is_none() {
            all.order.push_back(of);
        }
        if all.order.len() > REMEMBERED
            && let Some(oldest) = all.order.pop_front()
        {
            all.files.remove(&oldest);
        }
    }

    fn find(&self, of: &Identity) -> Option<Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).files.get(of).cloned()
    }
}
