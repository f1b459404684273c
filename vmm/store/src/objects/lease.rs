//! The lease of this VM: a file that it holds a write lock on (`liveness`).
//!
//! Until it has its locks, it counts as a dead VM's, which has no segment; `gc`, which removes those, waits for
//! the store's lock. A dead VM's lease stays until then, and counts as dead from the moment the kernel drops the locks. Its
//! bytes are in `format::lease`.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use abi::objects::{LeaseId, Right, SegId};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};

use crate::format::error::{StoreError, invalid, io_error};
use crate::format::lease::{
    LEASE_BYTES, LeaseInfo, MAX_SEGMENTS, SEGMENT_BYTES, SEGMENTS_OFFSET, VCPU_STATUSES_BYTES,
    VCPU_STATUSES_OFFSET, encode,
};
use crate::objects::dir::Dir;
use crate::objects::fresh::{now_ns, scattered};
use crate::objects::liveness;
use crate::objects::store::Store;

/// The lease of this VM. Dropping it ends the VM as far as the store is concerned.
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    file: File,
    /// Opened once more: a mapping keeps its open file description, and with it a lock on it, as
    /// long as any process has the memory. The survivor of a killed VMM keeps it a moment longer
    /// (`process::survivor`), and must not make a dead VM count as alive.
    to_map: File,
    vms: Arc<Dir>,
    name: String,
    /// What it says of segments.
    segments: Mutex<BTreeMap<u32, (SegId, Right)>>,
}

impl Lease {
    /// Creates a lease and holds it.
    ///
    /// # Errors
    /// If the host does not permit it or has no space for the part that guests write.
    pub fn create(store: &Store, info: &LeaseInfo) -> Result<Lease, StoreError> {
        // `gc` holds the exclusive lock and would treat a file that is not locked yet as garbage.
        let _lock = store.lock_shared()?;
        let id = scattered(info.pid, LeaseId::new);
        let (vms, name) = (Arc::clone(&store.vms), id.to_string());
        let file = vms.new_file(&name)?;
        let to_map = vms.open_any(&name, OFlags::RDWR).inspect_err(|_| {
            let _ = vms.remove_file(&name);
        })?;
        let lease = Lease { id, file, to_map, vms, name, segments: Mutex::default() };
        // Should this fail, it is removed again.
        lease.fill(info)?;
        Ok(lease)
    }

    /// Its id, new at every start.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The file, for mapping status entries and instances.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.to_map.as_fd()
    }

    /// Reserves disk space for `len_bytes` from `offset` on, which are going to be written through
    /// a mapping: there a full disk would cause a signal instead of an error.
    ///
    /// # Errors
    /// `ENOSPC` and the like; a file system that cannot reserve is no error.
    pub fn reserve(&self, offset: u64, len_bytes: u64) -> Result<(), StoreError> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len_bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(io_error("reserve space for", &self.path(), error.into())),
        }
    }

    /// Records that this VM has a segment attached, or, at `index`, no longer has.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for an index beyond 65535; the host's error.
    pub fn set_segment(
        &self,
        index: u32,
        segment: Option<(SegId, Right)>,
    ) -> Result<(), StoreError> {
        if index >= MAX_SEGMENTS {
            let expected = format!("less than {MAX_SEGMENTS}");
            return Err(invalid("the index of an attached segment", index, expected));
        }
        let mut known = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let (sid, right) = segment.map_or((0, 0), |(sid, right)| (sid.raw(), right.raw()));
        let entry = (u128::from(right) << 64 | u128::from(sid)).to_le_bytes();
        self.file
            .write_all_at(&entry, SEGMENTS_OFFSET + u64::from(index) * SEGMENT_BYTES)
            .map_err(|e| io_error("write", &self.path(), e))?;
        match segment {
            Some(segment) => known.insert(index, segment),
            None => known.remove(&index),
        };
        Ok(())
    }

    /// What [`Lease::set_segment`] recorded last for an index.
    pub(crate) fn segment(&self, index: u32) -> Option<(SegId, Right)> {
        let known = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&index).copied()
    }

    /// What others see of that.
    #[cfg(test)]
    pub(crate) fn segment_in_file(&self, index: u32) -> Option<(SegId, Right)> {
        let mut entry = [0; SEGMENT_BYTES as usize];
        let at = SEGMENTS_OFFSET + u64::from(index) * SEGMENT_BYTES;
        self.file.read_exact_at(&mut entry, at).expect("a lease has a place for each index");
        let entry = u128::from_le_bytes(entry);
        SegId::new(entry as u64).zip(Right::from_raw((entry >> 64) as u64))
    }

    /// Where the file is, if it was truncated.
    #[must_use]
    pub fn path_if_truncated(&self) -> Option<PathBuf> {
        let len_bytes = self.file.metadata().ok()?.len();
        (len_bytes < LEASE_BYTES).then(|| self.path())
    }

    fn path(&self) -> PathBuf {
        self.vms.path_of(&self.name)
    }

    fn fill(&self, info: &LeaseInfo) -> Result<(), StoreError> {
        let path = &self.path();
        rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| io_error("lock", path, e.into()))?;
        let mut start = encode(self.id, info, now_ns()).into_bytes();
        self.file
            .set_len(LEASE_BYTES)
            .and_then(|()| liveness::begin(&self.file, &mut start))
            .and_then(|()| {
                // With the status entries, which are written through a mapping: what was written once has its place on
                // the disk, on every file system.
                start.resize((VCPU_STATUSES_OFFSET + VCPU_STATUSES_BYTES) as usize, 0);
                self.file.write_all_at(&start, 0)
            })
            .map_err(|e| io_error("write", path, e))?;
        // Every user of the store must be able to see which VMs are alive, but no other process may have
        // a lock on it that counts: until here none could.
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(0o644))
            .map_err(|e| io_error("change the mode of", path, e.into()))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // If it fails, the lease is dead all the same once the file is closed.
        let _ = self.vms.remove_file(&self.name);
    }
}
