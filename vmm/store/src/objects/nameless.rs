//! Readers without a lease that others could find: those of a store whose disk was full when they came, or that
//! they reach through a mount that is read-only (`Lease::create_to_read`).
//!
//! Such a VM has a lock for *reading* (`F_OFD_SETLK`) on one byte of the file of each segment that it has
//! attached, and of the folder of each VAS. A descriptor that is open for reading is enough for it, on any mount, and the
//! host's kernel releases it when the VM ends, however that happens. Whoever would change what such a reader looks at asks
//! whether a lock for *writing* would be refused (`F_OFD_GETLK`), and takes none: so readers keep nobody out
//! but those who ask, and nobody keeps readers out. The byte lies far behind all content, where nobody else
//! locks anything.
//!
//! A reader announces itself, and looks for what it is to read afterwards: which version is published, and up to
//! which one files have been overwritten. A writer makes a version known, or says what it is going to overwrite, and
//! asks afterwards. One of the two sees the other if neither goes ahead of its own first step: that is what the full fences
//! here are for, behind the lock and before the question. The host's kernel asks its list of locks without
//! a lock of its own where that is empty, so its calls alone do not promise it. `seg-lock/tests/readers.rs` has the steps under loom.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{Ordering, fence};

use abi::objects::VasId;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::OFlags;

use crate::format::error::{Busy, Object, StoreError, io_error};
use crate::objects::segment::{SegmentFile, status};
use crate::objects::store::Store;

/// The byte that is locked.
const BYTE: i64 = 1 << 62;

fn lock_of(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: BYTE,
        l_len: 1,
        l_pid: 0,
    }
}

/// Says that somebody reads the file or folder, as long as this descriptor is open. What is looked at afterwards was
/// changed by nobody who has asked before, or is as they have left it.
fn announce(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of(libc::F_RDLCK)))?;
    fence(Ordering::SeqCst);
    Ok(())
}

/// Whether somebody reads the file or folder who has no lease. If it cannot be told, somebody may.
fn is_read(file: impl AsFd) -> bool {
    fence(Ordering::SeqCst);
    let mut lock = lock_of(libc::F_WRLCK);
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => i32::from(lock.l_type) != libc::F_UNLCK,
        Err(_) => true,
    }
}

impl SegmentFile {
    /// Whether a program without a lease reads it.
    pub(crate) fn is_read_without_lease(&self) -> bool {
        is_read(self.file())
    }

    /// The error about such a program.
    pub(crate) fn is_being_read(&self) -> StoreError {
        let (object, path) = (Object::Segment(self.sid()), self.path().to_owned());
        StoreError::Busy { object, why: Busy::WithoutLease(path) }
    }
}

impl Store {
    /// Announces a reader of a segment. By a descriptor of its own, which is never mapped: the host keeps an open file, and
    /// its lock, as long as any process has its memory (`Lease`).
    pub(crate) fn announce_reader(&self, segment: &SegmentFile) -> Result<File, StoreError> {
        let name = segment.name().as_str();
        let file = self.segments.open_file(name, OFlags::RDONLY)?;
        announce(&file).map_err(|e| io_error("lock", segment.path(), e))?;
        let stat = status(&file, segment.path())?;
        if (stat.st_dev, stat.st_ino) != segment.identity() {
            return Err(StoreError::NotFound(Object::Segment(segment.sid())));
        }
        Ok(file)
    }

    /// Announces a reader of a VAS.
    pub(crate) fn announce_reader_of_vas(&self, vid: VasId) -> Result<File, StoreError> {
        let lock = self.lock_shared()?;
        let (name, _) = self.manifest_by_id(vid, &lock)?;
        let folder = File::from(self.vas.sub(name.as_str())?.into_fd()?);
        announce(&folder).map_err(|e| self.vas.error("lock", name.as_str(), e))?;
        Ok(folder)
    }

    /// Checks that no program without a lease has a VAS attached. Where its threads are cannot be told.
    pub(crate) fn check_not_read(&self, vas: &crate::Name) -> Result<(), StoreError> {
        let folder = self.vas.sub(vas.as_str())?;
        let path = folder.path().to_owned();
        if !is_read(folder.into_fd()?) {
            return Ok(());
        }
        let object = Object::VasName(vas.clone());
        Err(StoreError::Busy { object, why: Busy::WithoutLease(path) })
    }
}
