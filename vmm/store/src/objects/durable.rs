//! What is on stable storage before what: headers before content that makes them dirty, content
//! before headers that call it clean, lengths before headers that promise them.
//!
//! A header is synced without its segment's content, of which live programs may have written
//! gigabytes that are not stored yet.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use crate::format::error::{StoreError, io_error};
use crate::format::header::HEADER_BYTES;

/// Stores the first page of a segment's own file, and the file's length; the file is open for
/// writing.
///
/// `RWF_SYNC` syncs the range that it writes, and there is no `fsync` of a range: what is written is
/// a zero behind the header, where nothing else is. So no lock is needed.
pub(crate) fn sync_start(file: &File, path: &Path) -> Result<(), StoreError> {
    let zero = [IoSlice::new(&[0])];
    let written = match pwritev2(file, &zero, HEADER_BYTES as u64, ReadWriteFlags::SYNC) {
        Ok(_) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.sync_all(),
        Err(error) => Err(io::Error::from(error)),
    };
    synced(written, path, "start")
}

/// Stores all of a file.
pub(crate) fn sync_all(file: &File, path: &Path) -> Result<(), StoreError> {
    synced(file.sync_all(), path, "all")
}

fn synced(result: io::Result<()>, path: &Path, what: &'static str) -> Result<(), StoreError> {
    step(path, what);
    result.map_err(|e| io_error("sync", path, e))
}

/// Stores the names in a folder.
pub(crate) fn sync_folder(fd: impl AsFd, path: &Path) -> Result<(), Errno> {
    if is_to_fail(path) { Err(Errno::IO) } else { rustix::fs::fsync(fd) }
}

#[cfg(not(test))]
fn is_to_fail(_: &Path) -> bool {
    false
}

#[cfg(test)]
pub(crate) use failing::fail_sync_of;
#[cfg(test)]
use failing::is_to_fail;

#[cfg(test)]
mod failing {
    use std::cell::Cell;
    use std::path::Path;

    thread_local! {
        static FOLDER: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Has this thread's next sync of a folder with that name fail.
    pub(crate) fn fail_sync_of(folder: &'static str) {
        FOLDER.set(Some(folder));
    }

    pub(super) fn is_to_fail(path: &Path) -> bool {
        let meant = FOLDER.get().is_some_and(|folder| path.ends_with(folder));
        if meant {
            FOLDER.set(None);
        }
        meant
    }
}

/// Tests ask in which order things were done.
#[cfg(not(test))]
pub(crate) fn step(_: &Path, _: &'static str) {}

#[cfg(test)]
pub(crate) use recorded::{step, steps};

#[cfg(test)]
mod recorded {
    use std::cell::RefCell;
    use std::path::Path;

    thread_local! {
        static STEPS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Records what this thread has done to a file.
    pub(crate) fn step(path: &Path, what: &'static str) {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        // Of a part, without the segment's id, which is random.
        let file = file.rsplit_once('.').map_or(&*file, |(_, part)| part).to_owned();
        STEPS.with_borrow_mut(|steps| steps.push(format!("{what} {file}")));
    }

    /// What this thread has done since it was asked last.
    pub(crate) fn steps() -> Vec<String> {
        STEPS.take()
    }
}
