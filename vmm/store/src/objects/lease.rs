//! The lease of this VM: a file that it holds a write lock on (`liveness`).
//!
//! Until it has its locks, it counts as a dead VM's, which has no segment; `gc`, which removes those, waits for
//! the store's lock. A dead VM's lease stays until then, and counts as dead from the moment the kernel drops the locks. Its
//! bytes are in `format::lease`.
//!
//! A VM that only reads does without one where the store's disk takes no file: what it and its guest kernel write is in
//! memory then, and others see it as `nameless` says.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use abi::objects::{LeaseId, Lifetime, Right, SegId, VasId};
use rustix::fs::{FallocateFlags, FlockOperation, MemfdFlags, Mode, OFlags, memfd_create};

use crate::format::error::{StoreError, invalid, io_error};
use crate::format::lease::{
    INSTANCES_OFFSET, LEASE_BYTES, LeaseInfo, MAX_SEGMENTS, SEGMENT_BYTES, SEGMENTS_OFFSET,
    VCPU_STATUSES_BYTES, VCPU_STATUSES_OFFSET, encode,
};
use crate::objects::dir::Dir;
use crate::objects::fresh::{now_ns, scattered};
use crate::objects::liveness;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// The lease of this VM. Dropping it ends the VM as far as the store is concerned.
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    file: File,
    place: Place,
    /// What it says of segments.
    segments: Mutex<BTreeMap<u32, (SegId, Right)>>,
    /// What others see instead of an entry, by index (`nameless`).
    announced: Mutex<BTreeMap<u32, File>>,
    /// The same of VASes, by handle.
    vases: Mutex<BTreeMap<u32, File>>,
}

/// Where others find it.
#[derive(Debug)]
enum Place {
    /// A file of the store.
    Named {
        /// Opened once more: a mapping keeps its open file description, and with it a lock on it, as
        /// long as any process has the memory. The survivor of a killed VMM keeps it a moment longer
        /// (`process::survivor`), and must not make a dead VM count as alive.
        to_map: File,
        vms: Arc<Dir>,
        name: String,
    },
    /// Nowhere; why.
    Nameless(Refusal),
}

/// The host's error about a file of the store, to be given again.
#[derive(Debug)]
struct Refusal {
    doing: &'static str,
    path: PathBuf,
    errno: i32,
}

impl Refusal {
    /// If it is about the disk, and not about the user.
    fn of(error: &StoreError) -> Option<Refusal> {
        let StoreError::Io { doing, path, source } = error else { return None };
        let errno = source.raw_os_error()?;
        let is_meant = matches!(errno, libc::ENOSPC | libc::EDQUOT | libc::EROFS);
        is_meant.then(|| Refusal { doing, path: path.clone(), errno })
    }

    fn error(&self) -> StoreError {
        io_error(self.doing, &self.path, std::io::Error::from_raw_os_error(self.errno))
    }
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
        let place = Place::Named { to_map, vms, name };
        let lease = Lease::at(id, file, place);
        // Should this fail, it is removed again.
        lease.fill(info)?;
        Ok(lease)
    }

    /// The same for a VM that only reads for now, with disk space for `entries_bytes` of its table of instances. Where the
    /// store's disk is full or cannot be written, what it says is in memory: the VM can attach versioned segments to be
    /// read, and raw ones without a lock, and nothing to be written.
    ///
    /// # Errors
    /// As [`Lease::create`], but for a disk that takes no file; if the host has no memory.
    pub fn create_to_read(
        store: &Store,
        info: &LeaseInfo,
        entries_bytes: u64,
    ) -> Result<Lease, StoreError> {
        let created = Lease::create(store, info).and_then(|lease| {
            if entries_bytes != 0 {
                lease.reserve(INSTANCES_OFFSET, entries_bytes)?;
            }
            Ok(lease)
        });
        match created {
            Err(error) => Lease::in_memory(info, Refusal::of(&error).ok_or(error)?),
            created => created,
        }
    }

    fn in_memory(info: &LeaseInfo, refusal: Refusal) -> Result<Lease, StoreError> {
        let failed = |source| io_error("keep in memory, instead of in", &refusal.path, source);
        let file = memfd_create("spacejmp-lease", MemfdFlags::CLOEXEC);
        let file = File::from(file.map_err(|errno| failed(errno.into()))?);
        file.set_len(LEASE_BYTES).map_err(failed)?;
        let id = scattered(info.pid, LeaseId::new);
        Ok(Lease::at(id, file, Place::Nameless(refusal)))
    }

    fn at(id: LeaseId, file: File, place: Place) -> Lease {
        let (segments, announced, vases) = Default::default();
        Lease { id, file, place, segments, announced, vases }
    }

    /// As on a disk that is full, or, for the second, that is full by now.
    #[cfg(test)]
    pub(crate) fn refused(store: &Store) -> Lease {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let error = store.vms.error("write", "lease", full);
        let refusal = Refusal::of(&error).expect("it is about the disk");
        Lease::in_memory(&LeaseInfo { program: "p".into(), pid: 1 }, refusal).expect("made")
    }

    #[cfg(test)]
    pub(crate) fn named_and_full(store: &Store) -> Lease {
        let info = LeaseInfo { program: "p".into(), pid: 1 };
        let mut lease = Lease::create(store, &info).expect("made");
        let full = File::options().read(true).write(true).open("/dev/full").expect("opened");
        let locked = std::mem::replace(&mut lease.file, full);
        if let Place::Named { to_map, .. } = &mut lease.place {
            *to_map = locked;
        }
        lease
    }

    /// Its id, new at every start.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The file, for mapping status entries and instances.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.place {
            Place::Named { to_map, .. } => to_map.as_fd(),
            // Nobody looks for a lock on it.
            Place::Nameless(_) => self.file.as_fd(),
        }
    }

    /// Checks that others can find it, as they must be able to find whoever changes something.
    ///
    /// # Errors
    /// What the host said about the store's disk when it was made.
    pub fn check_named(&self) -> Result<(), StoreError> {
        match &self.place {
            Place::Named { .. } => Ok(()),
            Place::Nameless(refusal) => Err(refusal.error()),
        }
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
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        if announced.contains_key(&index) {
            if segment.is_none() {
                announced.remove(&index);
                known.remove(&index);
                return Ok(());
            }
            if segment == known.get(&index).copied() {
                return Ok(());
            }
        }
        self.check_named()?;
        let (sid, right) = segment.map_or((0, 0), |(sid, right)| (sid.raw(), right.raw()));
        let entry = (u128::from(right) << 64 | u128::from(sid)).to_le_bytes();
        self.file
            .write_all_at(&entry, SEGMENTS_OFFSET + u64::from(index) * SEGMENT_BYTES)
            .map_err(|e| io_error("write", &self.path(), e))?;
        // Announced before anything is looked at (`nameless`).
        fence(Ordering::SeqCst);
        announced.remove(&index);
        match segment {
            Some(segment) => known.insert(index, segment),
            None => known.remove(&index),
        };
        Ok(())
    }

    /// Records that this VM has an open segment attached. The caller holds the store's lock. Where the store's disk takes no
    /// entry, a reader is announced by a lock.
    ///
    /// # Errors
    /// As [`Lease::set_segment`], if the segment is to be written, or others count on finding its readers.
    pub(crate) fn note_segment(
        &self,
        index: u32,
        segment: &SegmentFile,
        right: Right,
        store: &Store,
    ) -> Result<(), StoreError> {
        let entry = (segment.sid(), right);
        let refused = match self.set_segment(index, Some(entry)) {
            Err(error) if Refusal::of(&error).is_some() => error,
            done => return done,
        };
        let header = segment.header();
        let is_plain = header.lifetime == Lifetime::Persistent && !header.lockable;
        if right == Right::Write || !(segment.is_versioned() || is_plain) {
            return Err(refused);
        }
        let file = store.announce_reader(segment)?;
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).insert(index, file);
        self.segments.lock().unwrap_or_else(PoisonError::into_inner).insert(index, entry);
        Ok(())
    }

    /// This VM is going to have an instance of a VAS, if others do not learn that from its table of instances: to be called
    /// before the VAS is read.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; if the host fails.
    pub fn note_vas(&self, vh: u32, vid: VasId, store: &Store) -> Result<(), StoreError> {
        if let Place::Nameless(_) = self.place {
            let announced = store.announce_reader_of_vas(vid)?;
            self.vases.lock().unwrap_or_else(PoisonError::into_inner).insert(vh, announced);
        }
        Ok(())
    }

    /// It has that instance no more.
    pub fn forget_vas(&self, vh: u32) {
        self.vases.lock().unwrap_or_else(PoisonError::into_inner).remove(&vh);
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
        // Nobody else can have one that is in memory.
        self.check_named().ok()?;
        let len_bytes = self.file.metadata().ok()?.len();
        (len_bytes < LEASE_BYTES).then(|| self.path())
    }

    /// Where it is, or would have been.
    fn path(&self) -> PathBuf {
        match &self.place {
            Place::Named { vms, name, .. } => vms.path_of(name),
            Place::Nameless(refusal) => refusal.path.clone(),
        }
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
        if let Place::Named { vms, name, .. } = &self.place {
            // If it fails, the lease is dead all the same once the file is closed.
            let _ = vms.remove_file(name);
        }
    }
}
