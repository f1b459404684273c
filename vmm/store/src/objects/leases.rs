//! The leases of live VMs: which VMs are alive, what they have attached, which threads are inside.
//!
//! Status entries and instances change while we read; each word is read individually and used only
//! if it is plausible.

use std::collections::BTreeSet;
use std::fs::File;
use std::mem::offset_of;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use abi::objects::MAX_INSTANCES;
use abi::objects::{LeaseId, Right, SegId, VasId};
use abi::switch::{InstanceEntry, SUSPENDED_BITS, VcpuStatus};
use rustix::fs::{OFlags, SeekFrom};

use crate::format::error::{Holder, StoreError, io_error};
use crate::format::escape::parse_id;
use crate::format::lease::{
    INSTANCES_BYTES, INSTANCES_OFFSET, LEASE_BYTES, SEGMENT_BYTES, SEGMENTS_OFFSET, TEXT_BYTES,
    VCPU_STATUSES_BYTES, VCPU_STATUSES_OFFSET, decode,
};
use crate::objects::dir::{Dir, read_up_to};
use crate::objects::liveness;
use crate::objects::store::Store;

/// A thread inside a VAS, or on its way in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inside {
    /// The VAS.
    pub vid: VasId,
    /// The program's number of the thread, 0 if not known.
    pub thread: u64,
    /// It has announced itself and is not inside yet: it may be waiting for a lock.
    pub entering: bool,
}

/// A live VM's lease. Not held open: there may be more VMs than a process may have descriptors.
#[derive(Debug)]
pub(crate) struct LiveLease {
    id: LeaseId,
    vms: Arc<Dir>,
    name: String,
    segments: Vec<(SegId, Right)>,
}

impl Store {
    /// Whether the VM with this lease is alive. Takes no lock of the store, and may be called
    /// often.
    #[must_use]
    pub fn is_alive(&self, lease: LeaseId) -> bool {
        match self.vms.find_file(&lease.to_string(), OFlags::RDONLY) {
            Ok(Some(file)) => liveness::is_alive(&file),
            Ok(None) => false,
            // Taking a live VM for dead would be the worse mistake.
            Err(_) => true,
        }
    }

    pub(crate) fn live_leases(&self) -> Result<Vec<LiveLease>, StoreError> {
        self.live_leases_but(None)
    }

    /// The leases of live VMs except `own`, the caller's.
    pub(crate) fn live_leases_but(
        &self,
        own: Option<LeaseId>,
    ) -> Result<Vec<LiveLease>, StoreError> {
        let mut leases = Vec::new();
        // Whatever the caller has done before is seen by who is not found (`nameless`).
        fence(Ordering::SeqCst);
        for name in self.vms.names()? {
            let Some((name, id)) = lease_id(&name) else { continue };
            if Some(id) == own {
                continue;
            }
            // Gone since it was listed, or not created by a VM.
            let Ok(Some(file)) = self.vms.find_file(name, OFlags::RDONLY) else { continue };
            if !liveness::is_alive(&file) {
                continue;
            }
            let segments = read_segments(&LeaseFile { file, path: self.vms.path_of(name) })?;
            let (vms, name) = (Arc::clone(&self.vms), name.to_owned());
            leases.push(LiveLease { id, vms, name, segments });
        }
        Ok(leases)
    }
}

/// The id whose lease a file in `vms/` is.
pub(crate) fn lease_id(name: &std::ffi::OsStr) -> Option<(&str, LeaseId)> {
    let name = name.to_str()?;
    Some((name, LeaseId::new(parse_id(name)?)?))
}

impl LiveLease {
    pub(crate) fn id(&self) -> LeaseId {
        self.id
    }

    /// What the VM may do with a segment, if it has it attached.
    pub(crate) fn right_of(&self, sid: SegId) -> Option<Right> {
        self.segments.iter().filter(|(other, _)| *other == sid).map(|(_, right)| *right).max()
    }

    /// Segments the VM has attached.
    pub(crate) fn segments(&self) -> &[(SegId, Right)] {
        &self.segments
    }

    pub(crate) fn holder(&self) -> Holder {
        self.info().0
    }

    /// A VM with a damaged text is alive all the same.
    pub(crate) fn info(&self) -> (Holder, u64) {
        let read = |file: LeaseFile| {
            let bytes = file.read(0, TEXT_BYTES as u64).ok()?;
            decode(&bytes, self.id, &file.path).ok()
        };
        let (program, pid, started_ns) = match self.open().ok().flatten().and_then(read) {
            Some((info, started_ns)) => (info.program, info.pid, started_ns),
            None => ("unknown".into(), 0, 0),
        };
        (Holder { lease: self.id, pid, program }, started_ns)
    }

    /// VASes the VM has instances of.
    pub(crate) fn vases(&self) -> Result<BTreeSet<VasId>, StoreError> {
        let mut vases = BTreeSet::new();
        let Some(file) = self.open()? else { return Ok(vases) };
        let table = file.read_data(INSTANCES_OFFSET, INSTANCES_BYTES)?;
        for entry in table.iter().flat_map(|run| run.as_chunks::<64>().0) {
            vases.extend(word(entry, offset_of!(InstanceEntry, vid)).and_then(VasId::new));
        }
        Ok(vases)
    }

    /// Threads that are inside a VAS, or have announced that they go there: those count, too, for a
    /// caller that wants to detach something from it.
    pub(crate) fn inside(&self) -> Result<Vec<Inside>, StoreError> {
        let mut inside = Vec::new();
        let Some(file) = self.open()? else { return Ok(inside) };
        for line in file.read(VCPU_STATUSES_OFFSET, VCPU_STATUSES_BYTES)?.as_chunks::<64>().0 {
            let thread = word(line, offset_of!(VcpuStatus, thread)).unwrap_or_default();
            let [announced, current] =
                [offset_of!(VcpuStatus, announced), offset_of!(VcpuStatus, inside)]
                    .map(|at| word(line, at).unwrap_or_default());
            for (vh, entering) in [(current, false), (announced, true)] {
                let is_second = entering && announced == current;
                if vh == 0 || vh >= u64::from(MAX_INSTANCES) || is_second {
                    continue;
                }
                let entry = file.read(INSTANCES_OFFSET + vh * 64, 64)?;
                let vid = word(&entry, offset_of!(InstanceEntry, vid)).and_then(VasId::new);
                inside.extend(vid.map(|vid| Inside { vid, thread, entering }));
            }
        }
        Ok(inside)
    }

    /// Whether a thread is inside a VAS, or has announced that it goes there, or has suspended a visit there.
    pub(crate) fn is_used(&self, vid: VasId) -> Result<bool, StoreError> {
        let before = self.suspended(vid)?;
        if self.inside()?.iter().any(|inside| inside.vid == vid) {
            return Ok(true);
        }
        // A thread that was there while this was looked at, and had a visit there suspended before or after,
        // has changed the word.
        let after = self.suspended(vid)?;
        let is_any = |word: &u64| word & ((1 << SUSPENDED_BITS) - 1) != 0;
        Ok(before != after || after.iter().any(is_any))
    }

    /// What the VM says of suspended visits to its instances of a VAS.
    fn suspended(&self, vid: VasId) -> Result<Vec<u64>, StoreError> {
        let Some(file) = self.open()? else { return Ok(Vec::new()) };
        let table = file.read_data(INSTANCES_OFFSET, INSTANCES_BYTES)?;
        let entries = table.iter().flat_map(|run| run.as_chunks::<64>().0);
        let is_of =
            |entry: &&[u8; 64]| word(*entry, offset_of!(InstanceEntry, vid)) == Some(vid.raw());
        let of = entries.filter(is_of);
        Ok(of.filter_map(|entry| word(entry, offset_of!(InstanceEntry, suspended))).collect())
    }

    /// The file; `None` if the VM has ended since.
    fn open(&self) -> Result<Option<LeaseFile>, StoreError> {
        let file = self.vms.find_file(&self.name, OFlags::RDONLY)?;
        Ok(file.map(|file| LeaseFile { file, path: self.vms.path_of(&self.name) }))
    }
}

/// A lease's file, open.
#[derive(Debug)]
struct LeaseFile {
    file: File,
    path: PathBuf,
}

fn read_segments(lease: &LeaseFile) -> Result<Vec<(SegId, Right)>, StoreError> {
    let mut segments = Vec::new();
    let table = lease.read_data(SEGMENTS_OFFSET, LEASE_BYTES - SEGMENTS_OFFSET)?;
    for entry in table.iter().flat_map(|run| run.as_chunks::<{ SEGMENT_BYTES as usize }>().0) {
        let sid = word(entry, 0).and_then(SegId::new);
        let right = word(entry, 8).and_then(Right::from_raw);
        segments.extend(sid.zip(right));
    }
    Ok(segments)
}

impl LeaseFile {
    /// A range, shorter where the file ends.
    fn read(&self, offset: u64, len_bytes: u64) -> Result<Vec<u8>, StoreError> {
        read_up_to(&self.file, offset, len_bytes).map_err(|e| io_error("read", &self.path, e))
    }

    /// The runs of a range that are not holes, each from a multiple of 4096 on.
    fn read_data(&self, offset: u64, len_bytes: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        let end = offset + len_bytes;
        let mut runs = Vec::new();
        let mut at = offset;
        while at < end {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start & !4095,
                Err(rustix::io::Errno::NXIO) => break,
                // A file system without support for holes has none.
                Err(_) => at,
            };
            let start = start.max(at);
            if start >= end {
                break;
            }
            let stop = rustix::fs::seek(&self.file, SeekFrom::Hole(start)).unwrap_or(end);
            let stop = stop.next_multiple_of(4096).clamp(start + 4096, end);
            runs.push(self.read(start, stop - start)?);
            at = stop;
        }
        Ok(runs)
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}
