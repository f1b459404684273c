//! A store for one run, of which nothing is kept.
//!
//! It lies in memory (`/dev/shm`) where the host has that, in a folder that only this user can
//! enter, and is removed with the value. If the process is killed it stays behind, and the next one
//! that creates a private store removes it: a folder whose flock is free belongs to no process.
//! Other users cannot hold that flock: they cannot open the folder.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::format::error::{StoreError, io_error};
use crate::objects::fresh::random_id;
use crate::objects::store::{PRIVATE_PREFIX, Store};

/// The folder; dropping it removes it and all in it.
#[derive(Debug)]
pub struct PrivateStore {
    path: PathBuf,
    /// Holds the flock that says that the store is in use.
    _folder: File,
}

impl PrivateStore {
    /// Creates an empty one, and removes those that killed processes of this user have left.
    ///
    /// # Errors
    /// If the host has no folder for it.
    pub fn create() -> Result<PrivateStore, StoreError> {
        let shm = Path::new("/dev/shm");
        if !shm.is_dir() {
            return PrivateStore::create_in(&std::env::temp_dir());
        }
        PrivateStore::create_in(shm).or_else(|_| PrivateStore::create_in(&std::env::temp_dir()))
    }

    fn create_in(place: &Path) -> Result<PrivateStore, StoreError> {
        collect(place);
        loop {
            let path = place.join(format!("{}{:016x}", PRIVATE_PREFIX, random_id()?));
            let failed = |e| io_error("create", &path, e);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed(error)),
            }
            let Ok(folder) = File::open(&path) else { continue };
            let locked = rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive);
            // Another run may have taken it for a dead one's before it had the flock.
            if locked.is_ok() && is_still(&path, &folder) {
                Store::open_or_create(&path)?;
                return Ok(PrivateStore { path, _folder: folder });
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateStore {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn is_still(path: &Path, folder: &File) -> bool {
    let (Ok(there), Ok(ours)) = (std::fs::symlink_metadata(path), folder.metadata()) else {
        return false;
    };
    (there.dev(), there.ino()) == (ours.dev(), ours.ino())
}

/// Removes what killed runs of this user have left.
fn collect(place: &Path) {
    let user = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours = Store::is_private(&path)
            && entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == user);
        let Some(folder) = is_ours.then(|| File::open(&path).ok()).flatten() else { continue };
        if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok()
            && is_still(&path, &folder)
        {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::objects::Lifetime;

    use super::{PRIVATE_PREFIX, PrivateStore};
    use crate::testing::name;
    use crate::{SegmentSpec, Store};

    #[test]
    fn nothing_is_left_of_it_volatile_content_included() {
        let place = tempfile::tempdir().unwrap();
        let private = PrivateStore::create_in(place.path()).unwrap();
        let store = Store::open_or_create(private.path()).unwrap();
        let spec = SegmentSpec { lifetime: Lifetime::Volatile, ..SegmentSpec::new(4096) };
        store.create_segment(&name("v"), &spec).unwrap();
        store.create_segment(&name("p"), &SegmentSpec::new(4096)).unwrap();
        let ours = format!("spacejmp-{:016x}-", store.id());
        let in_shm = || {
            let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
            entries.filter(|e| e.file_name().to_string_lossy().starts_with(&ours)).count()
        };
        assert_eq!(in_shm(), 0);
        assert_ne!(std::fs::read_dir(private.path().join("parts")).unwrap().count(), 0);
        drop(private);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_next_one_collects_what_the_killed_left_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let alive = PrivateStore::create_in(place.path()).unwrap();
        let dead = place.path().join(format!("{PRIVATE_PREFIX}dead"));
        Store::open_or_create(&dead).unwrap();
        let other = place.path().join("spacejmp-else");
        std::fs::create_dir(&other).unwrap();
        let next = PrivateStore::create_in(place.path()).unwrap();
        assert!(!dead.exists() && other.exists() && alive.path().exists());
        assert_ne!(next.path(), alive.path());
    }
}
