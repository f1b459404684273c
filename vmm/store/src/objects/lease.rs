//! The lease of a live VM: a file it holds a write lock on (`liveness`).
//!
//! ```text
//! 0x00_0000  text: who it is                                4088 bytes, zero-filled
//! 0x00_0ff8  1: alive as long as there is a write lock; 0: an flock
//! 0x01_0000  abi::switch::VcpuLine by vCPU                  64 KiB  written by the guest kernel
//! 0x20_0000  abi::switch::InstanceEntry by handle           2 MiB   written by the VMM
//! 0x40_0000  attached segments: sid u64, right u64 (1, 3)   1 MiB   written here; sid 0: free
//! ```
//!
//! The file is sparse. It comes into `vms/` by a rename with the locks already held, so that
//! nobody ever sees a live VM's lease without; a dead VM's lease stays until `gc` removes it,
//! and is nobody's from the moment the kernel drops the locks.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use abi::layout::{INSTANCES, LOCK_REFS, MAX_VCPUS};
use abi::objects::{LeaseId, Right, SegId};
use abi::switch::VcpuLine;
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};

use crate::format::error::StoreError;
use crate::format::text::{Reader, Writer, escape, parse_id, unescape};
use crate::objects::create::now_ns;
use crate::objects::dir::Dir;
use crate::objects::liveness;
use crate::objects::open::{Store, random_id};
use crate::objects::segment::io_error;

/// Where the lines of vCPUs begin.
pub const VCPU_LINES_OFFSET: u64 = 0x1_0000;
/// Bytes of all lines.
pub(crate) const VCPU_LINES_BYTES: u64 = MAX_VCPUS as u64 * size_of::<VcpuLine>() as u64;
/// Where the table of instances begins.
pub const INSTANCES_OFFSET: u64 = 0x20_0000;
/// Bytes of the table of instances.
pub(crate) const INSTANCES_BYTES: u64 = LOCK_REFS.raw() - INSTANCES.raw();
/// Where the table of attached segments begins.
pub const SEGMENTS_OFFSET: u64 = 0x40_0000;
/// Entries of the table of attached segments.
pub(crate) const MAX_SEGMENTS: u32 = 65536;
/// Bytes of one entry: id and right.
pub(crate) const SEGMENT_BYTES: u64 = 16;
/// Bytes of the file.
pub(crate) const LEASE_BYTES: u64 = SEGMENTS_OFFSET + MAX_SEGMENTS as u64 * SEGMENT_BYTES;
/// Bytes of the text.
pub(crate) const TEXT_BYTES: usize = 4096;
/// Longest program name kept: three times that still fits the text.
const PROGRAM_BYTES: usize = 1024;

const _: () = {
    // The format on disk: change it only with a new version, and docs/src/store.md with it.
    assert!(VCPU_LINES_OFFSET + VCPU_LINES_BYTES <= INSTANCES_OFFSET);
    assert!(INSTANCES_OFFSET + INSTANCES_BYTES == SEGMENTS_OFFSET);
    assert!(LEASE_BYTES == 0x50_0000);
};

/// What others see of a VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseInfo {
    /// What it runs; the first 1024 bytes are kept.
    pub program: String,
    /// Its process.
    pub pid: u32,
}

/// The lease of this VM. Dropping it ends the VM as far as the store is concerned.
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    file: File,
    /// Opened once more: a mapping keeps its open file description, and with it a lock on it, as
    /// long as any process has the memory. The survivor of a killed VMM has it for a moment more
    /// (`process::survivor`), and must not make a dead VM count as alive.
    to_map: File,
    vms: Arc<Dir>,
    name: String,
}

impl Lease {
    /// Makes a lease and holds it.
    ///
    /// # Errors
    /// If the host does not permit it or has no space for the part that guests write.
    pub fn create(store: &Store, info: &LeaseInfo) -> Result<Lease, StoreError> {
        // `gc` holds the exclusive lock and would take a file not yet locked for garbage.
        let _lock = store.lock_shared()?;
        let id = loop {
            if let Some(id) = LeaseId::new(random_id()?) {
                break id;
            }
        };
        let (tmp_name, name) = (format!("{id}.lease"), id.to_string());
        let file = store.tmp.new_file(&tmp_name)?;
        let to_map = store.tmp.open_file(&tmp_name, OFlags::RDWR)?;
        let lease = Lease { id, file, to_map, vms: Arc::clone(&store.vms), name };
        let made = lease.fill(info, &store.tmp.path_of(&tmp_name)).and_then(|()| {
            match store.tmp.move_new(&tmp_name, &store.vms, &lease.name)? {
                true => Ok(()),
                false => Err(store.vms.error("create", &lease.name, rustix::io::Errno::EXIST)),
            }
        });
        if let Err(error) = made {
            let _ = store.tmp.remove_file(&tmp_name);
            return Err(error);
        }
        Ok(lease)
    }

    /// Its id, new at every start.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The file, for mapping lines and instances.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.to_map.as_fd()
    }

    /// Reserves disk space for `len_bytes` from `offset` on, which are going to be written
    /// through a mapping: there a full disk would be a signal instead of an error.
    ///
    /// # Errors
    /// `ENOSPC` and the like; a file system that cannot reserve is no error.
    pub fn reserve(&self, offset: u64, len_bytes: u64) -> Result<(), StoreError> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len_bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(io_error("reserve space for", &self.path(), error.into())),
        }
    }

    /// Says that this VM has a segment attached, or at `index` no longer has.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for an index beyond 65535; what the host says.
    pub fn set_segment(
        &self,
        index: u32,
        segment: Option<(SegId, Right)>,
    ) -> Result<(), StoreError> {
        if index >= MAX_SEGMENTS {
            return Err(StoreError::Invalid {
                what: "the index of an attached segment",
                found: index.to_string(),
                expected: format!("less than {MAX_SEGMENTS}"),
            });
        }
        let (sid, right) = segment.map_or((0, 0), |(sid, right)| (sid.raw(), right.raw()));
        let entry = (u128::from(right) << 64 | u128::from(sid)).to_le_bytes();
        self.file
            .write_all_at(&entry, SEGMENTS_OFFSET + u64::from(index) * SEGMENT_BYTES)
            .map_err(|e| io_error("write", &self.path(), e))
    }

    /// What [`Lease::set_segment`] last said for an index.
    pub(crate) fn segment(&self, index: u32) -> Result<Option<(SegId, Right)>, StoreError> {
        let mut entry = [0; SEGMENT_BYTES as usize];
        self.file
            .read_exact_at(&mut entry, SEGMENTS_OFFSET + u64::from(index) * SEGMENT_BYTES)
            .map_err(|e| io_error("read", &self.path(), e))?;
        let entry = u128::from_le_bytes(entry);
        Ok(SegId::new(entry as u64).zip(Right::from_raw((entry >> 64) as u64)))
    }

    /// Where the file is, if somebody has made it shorter.
    #[must_use]
    pub fn path_if_cut(&self) -> Option<PathBuf> {
        let len_bytes = self.file.metadata().ok()?.len();
        (len_bytes < LEASE_BYTES).then(|| self.path())
    }

    fn path(&self) -> PathBuf {
        self.vms.path_of(&self.name)
    }

    fn fill(&self, info: &LeaseInfo, path: &std::path::Path) -> Result<(), StoreError> {
        rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| io_error("lock", path, e.into()))?;
        self.file
            .set_len(LEASE_BYTES)
            .and_then(|()| self.file.write_all_at(encode(self.id, info).as_bytes(), 0))
            .and_then(|()| liveness::begin(&self.file))
            .map_err(|e| io_error("write", path, e))?;
        // Whoever may use the store must be able to see who is alive, but nobody else may have
        // a lock on it that counts: until here nobody could.
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(0o644))
            .map_err(|e| io_error("change the mode of", path, e.into()))?;
        self.reserve(0, VCPU_LINES_OFFSET + VCPU_LINES_BYTES)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // If it fails, the lease is dead all the same once the file is closed.
        let _ = self.vms.remove_file(&self.name);
    }
}

fn encode(id: LeaseId, info: &LeaseInfo) -> String {
    let mut text = Writer::new("vm");
    text.line("id", id);
    text.line("pid", info.pid);
    text.line("started", now_ns());
    let mut end = info.program.len().min(PROGRAM_BYTES);
    while !info.program.is_char_boundary(end) {
        end -= 1;
    }
    text.line("program", escape(info.program.get(..end).unwrap_or_default()));
    text.finish()
}

/// Reads what `encode` wrote: who it is, and since when (nanoseconds since 1970).
pub(crate) fn decode(
    bytes: &[u8],
    id: LeaseId,
    path: &std::path::Path,
) -> Result<(LeaseInfo, u64), StoreError> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let mut text = Reader::new(path, bytes.get(..end).unwrap_or_default(), "vm")?;
    let found = text.value("id")?;
    if parse_id(found) != Some(id.raw()) {
        return Err(text.bad("id", found, "the file's name"));
    }
    let pid = text.value("pid")?;
    let pid = pid.parse().map_err(|_| text.bad("pid", pid, "a number"))?;
    let started = text.value("started")?;
    let started_ns = started.parse().map_err(|_| text.bad("started", started, "a number"))?;
    let program = text.value("program")?;
    let program = unescape(program)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| text.bad("program", program, "escaped text"))?;
    text.end()?;
    Ok((LeaseInfo { program, pid }, started_ns))
}
