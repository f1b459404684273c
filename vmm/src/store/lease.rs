//! One live VM: what it has attached, and who is inside what.
//!
//! A lease is a file that its VM holds locked (`flock`); when the VM ends, in whatever way, the
//! host kernel lets go of the lock, and everybody can see that the lease is dead. Parts of the
//! file are mapped into the VM, where its guest kernel writes to them while it switches
//! (`abi::switch`), so that others learn who is inside a VAS without asking anybody.
//!
//! ```text
//!  0          header: magic, process, program
//!  0x200      how many instances and segments the tables hold at most
//!  0x1_0000   a line for each vCPU
//!  0x20_0000  the table of instances
//!  0x40_0000  attached segments: id and right, 16 bytes each
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use abi::layout::MAX_VCPUS;
use abi::objects::MAX_INSTANCES;
use abi::{LeaseId, Right, SegId, VasId};

use super::dir::{Store, open_plain, random_id};
use super::{StoreError, segment::warn};

/// Where the vCPUs' lines lie in the file.
pub const LEASE_LINES: u64 = 0x1_0000;
/// Where the table of instances lies.
pub const LEASE_INSTANCES: u64 = 0x20_0000;
/// Where the table of segments lies.
const LEASE_TABLE: u64 = 0x40_0000;
/// Segments a process can have attached.
pub const LEASE_SEGMENTS: u32 = 65536;
/// Where the tables' lengths stand: instances, then segments.
const LEASE_LENGTHS: u64 = 0x200;
const LEASE_BYTES: u64 = LEASE_TABLE + LEASE_SEGMENTS as u64 * 16;
const LINE_BYTES: u64 = 64;
const ENTRY_BYTES: u64 = 64;
const VID_OFFSET: u64 = std::mem::offset_of!(abi::switch::InstanceEntry, vid) as u64;
const MAGIC: u64 = u64::from_le_bytes(*b"SJlease1");
const PROGRAM_MAX: usize = 256;

/// What a lease tells about its process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseInfo {
    /// Its program.
    pub program: String,
    /// Its number on the host.
    pub pid: u32,
}

/// This VM's lease; dropped, the VM is gone for everybody.
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    path: PathBuf,
    file: File,
    lengths: [u64; 2],
}

impl Lease {
    /// Makes a lease and holds it.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn create(store: &Store, info: &LeaseInfo) -> Result<Lease, StoreError> {
        // Nobody may take the file for a dead VM's before it is locked.
        let _locked = store.exclusive()?;
        let id = LeaseId::new(random_id()).unwrap_or(LeaseId::new(1).expect("1 is an id"));
        let path = store.folder("vms").join(id.to_string());
        let failed =
            |source| StoreError::Io { action: "make the lease", path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed)?;
        let prepared = file.lock().and_then(|()| {
            file.set_len(LEASE_BYTES)?;
            // What the guest kernel writes must not meet a full disk; the tables' first pages
            // are what nearly every program stays in.
            let keep = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, keep, 0, LEASE_LINES + 0x1_0000)?;
            rustix::fs::fallocate(&file, keep, LEASE_INSTANCES, 0x1000)?;
            let mut head = Vec::new();
            let program: Vec<u8> = info.program.bytes().take(PROGRAM_MAX).collect();
            for word in [MAGIC, u64::from(info.pid), program.len() as u64] {
                head.extend_from_slice(&word.to_le_bytes());
            }
            head.extend_from_slice(&program);
            file.write_all_at(&head, 0)
        });
        if let Err(error) = prepared {
            let _ = std::fs::remove_file(&path);
            return Err(failed(error));
        }
        Ok(Lease { id, path, file, lengths: [0; 2] })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The file, to be mapped.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Says that handles up to `vh` may be in use.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn cover_handle(&mut self, vh: u32) -> Result<(), StoreError> {
        self.cover(0, u64::from(vh) + 1)
    }

    fn cover(&mut self, table: usize, length: u64) -> Result<(), StoreError> {
        let Some(known) = self.lengths.get_mut(table) else { return Ok(()) };
        if *known >= length {
            return Ok(());
        }
        *known = length;
        let at = LEASE_LENGTHS + table as u64 * 8;
        self.file.write_all_at(&length.to_le_bytes(), at).map_err(|source| StoreError::Io {
            action: "write the lease",
            path: self.path.clone(),
            source,
        })
    }

    /// Says in row `index` that the process has a segment, or nothing.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_segment(
        &mut self,
        index: u32,
        segment: Option<(SegId, Right)>,
    ) -> Result<(), StoreError> {
        self.cover(1, u64::from(index) + 1)?;
        let (sid, right) = segment.map_or((0, 0), |(sid, right)| (sid.raw(), right.raw()));
        let mut row = [0; 16];
        row.iter_mut()
            .zip(sid.to_le_bytes().into_iter().chain(right.to_le_bytes()))
            .for_each(|(to, from)| *to = from);
        let at = LEASE_TABLE + u64::from(index.min(LEASE_SEGMENTS - 1)) * 16;
        self.file.write_all_at(&row, at).map_err(|source| StoreError::Io {
            action: "write the lease",
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A live VM as its lease tells it. Its owner can write anything there: it is believed only in
/// questions that concern nobody else's safety.
#[derive(Clone, Debug)]
pub struct LeaseView {
    /// The lease.
    pub id: LeaseId,
    /// The process.
    pub info: LeaseInfo,
    /// VASes it has attached, once for each instance.
    pub vases: Vec<VasId>,
    /// Segments it has attached.
    pub segments: Vec<(SegId, Right)>,
    /// VASes threads are inside, and the threads.
    pub inside: Vec<(VasId, u64)>,
}

impl LeaseView {
    /// Whether it has the VAS attached.
    #[must_use]
    pub fn has_vas(&self, vid: VasId) -> bool {
        self.vases.contains(&vid)
    }

    /// With which right it has a segment attached.
    #[must_use]
    pub fn right_on(&self, sid: SegId) -> Option<Right> {
        self.segments.iter().find(|(id, _)| *id == sid).map(|(_, right)| *right)
    }

    /// For messages.
    #[must_use]
    pub fn who(&self) -> String {
        format!("{} (process {})", self.info.program.escape_debug(), self.info.pid)
    }
}

impl Store {
    /// Whether the VM with this lease lives.
    #[must_use]
    pub fn is_alive(&self, lease: LeaseId) -> bool {
        let path = self.folder("vms").join(lease.to_string());
        open_plain(&path, false).is_ok_and(|file| is_held(&file))
    }

    /// All live VMs of the store.
    ///
    /// # Errors
    /// The folder cannot be read. A lease that cannot be read is left out, with a warning.
    pub fn leases(&self) -> Result<Vec<LeaseView>, StoreError> {
        let folder = self.folder("vms");
        let failed = |source| StoreError::Io { action: "list", path: folder.clone(), source };
        let mut views = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
            let Some(id) = id.and_then(LeaseId::new) else { continue };
            match view(id, &entry.path()) {
                Ok(Some(view)) => views.push(view),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let path = entry.path();
                    warn(&StoreError::Io { action: "read the lease", path, source });
                }
            }
        }
        views.sort_by_key(|view| view.id);
        Ok(views)
    }

    /// Removes the leases of VMs that are gone. Returns how many there were.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn remove_dead_leases(&self) -> Result<u32, StoreError> {
        let _locked = self.exclusive()?;
        let folder = self.folder("vms");
        let failed = |source| StoreError::Io { action: "list", path: folder.clone(), source };
        let mut removed = 0;
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let dead = open_plain(&path, false).is_ok_and(|file| !is_held(&file));
            removed += u32::from(dead && std::fs::remove_file(&path).is_ok());
        }
        Ok(removed)
    }
}

/// Whether somebody holds the lock. Trying takes it for a moment, shared, which a creator does
/// not see: it works under the store's own lock.
fn is_held(file: &File) -> bool {
    match file.try_lock_shared() {
        Ok(()) => {
            let _ = file.unlock();
            false
        }
        Err(_) => true,
    }
}

fn view(id: LeaseId, path: &std::path::Path) -> io::Result<Option<LeaseView>> {
    let file = open_plain(path, false)?;
    if !is_held(&file) {
        return Ok(None);
    }
    let head = words(&file, 0, 24 + PROGRAM_MAX as u64)?;
    let [Some(&MAGIC), Some(&pid), Some(&len)] = [head.first(), head.get(1), head.get(2)] else {
        return Err(io::Error::other("it is no lease"));
    };
    let program: Vec<u8> = head.iter().skip(3).flat_map(|word| word.to_le_bytes()).collect();
    let program = program.get(..(len as usize).min(PROGRAM_MAX)).unwrap_or_default();
    let lengths = words(&file, LEASE_LENGTHS, 16)?;
    let length = |table: usize, most: u32| lengths.get(table).map_or(0, |&n| n.min(most.into()));
    let table = words(&file, LEASE_INSTANCES, length(0, MAX_INSTANCES) * ENTRY_BYTES)?;
    let entry = |index: usize| {
        let at = index.checked_mul(8)?.checked_add(VID_OFFSET as usize / 8)?;
        table.get(at).copied()
    };
    let vases = (1..table.len() / 8).filter_map(|i| VasId::new(entry(i)?)).collect();
    let rows = words(&file, LEASE_TABLE, length(1, LEASE_SEGMENTS) * 16)?;
    let segments = rows
        .chunks_exact(2)
        .filter_map(|row| match row {
            [sid, right] => Some((SegId::new(*sid)?, Right::from_raw(*right)?)),
            _ => None,
        })
        .collect();
    let lines = words(&file, LEASE_LINES, u64::from(MAX_VCPUS) * LINE_BYTES)?;
    let mut inside = Vec::new();
    for line in lines.chunks_exact(8) {
        let (announced, current) = (line.first(), line.get(1));
        let thread = line.get(2).copied().unwrap_or(0);
        for vh in [announced, current.filter(|word| Some(*word) != announced)] {
            let vid = vh.and_then(|&vh| entry(usize::try_from(vh).ok()?));
            inside.extend(vid.and_then(VasId::new).map(|vid| (vid, thread)));
        }
    }
    let program = String::from_utf8_lossy(program).into_owned();
    let info = LeaseInfo { program, pid: pid as u32 };
    Ok(Some(LeaseView { id, info, vases, segments, inside }))
}

/// Little-endian words of the file, as many as are there.
fn words(file: &File, at: u64, bytes: u64) -> io::Result<Vec<u64>> {
    let mut buffer = vec![0; bytes as usize];
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + done as u64)? {
            0 => break,
            more => done += more,
        }
    }
    Ok(buffer
        .chunks_exact(8)
        .map(|word| word.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word)))
        .collect())
}
