//! Residency: segments that this VM has, because an instance has them or had them lately.
//!
//! A segment is acquired by its first instance: the lease and the mark in the segment record it,
//! and a lockable one's lock is mapped. When the last instance releases it, tables and windows are
//! kept for the next time.
//!
//! - here: acquiring and releasing; [`segment`]: one segment, its file and extents
//! - [`lock_page`], [`lock_numbers`]: the words of its lock
//! - `fault`: page faults, and eviction under pressure; [`pins`]: memory that system calls use

mod fault;
pub(crate) mod lock_numbers;
pub(crate) mod lock_page;
pub(crate) mod pins;
pub(crate) mod segment;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::switch::LockRef;
use abi::{Right, SegId};

use self::lock_numbers::LockNumbers;
use self::lock_page::LockPage;
use self::segment::VmSegment;
use crate::kernel::SwitchTables;
use crate::process_tree::disk_use::DiskUse;
use crate::store::{SegmentFile, Store, StoreError};
use crate::vas::VasError;
use crate::vas::error::warn_if_failed;
use crate::vas::granted::grants::Grants;
use crate::vas::opened::Opened;
use crate::vas::range_allocator::RangeAllocator;
use crate::vas::tables::TableFrames;

/// Segments kept with their tables after the last instance has released them.
const UNUSED_MAX: usize = 256;
/// Segments a process can have attached: rows of its lease's table.
const LEASE_SEGMENTS: u32 = 65536;

/// What has to be known of a segment before it is acquired.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// Addresses it may ever have.
    pub(crate) range: Range<u64>,
    pub(crate) lockable: bool,
    /// It, open.
    file: SegmentFile,
}

/// How a segment is released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// By a program that is done with it.
    Orderly,
    /// By a process that was terminated: what it was writing stays marked dirty.
    Abandoned,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Residency {
    segments: BTreeMap<SegId, VmSegment>,
    /// Segments that no instance has, those released first in front.
    unused: VecDeque<SegId>,
    /// Counts mapped extents.
    clock: u64,
    lease_rows: RangeAllocator,
    locks: LockNumbers,
    /// Set whenever a segment is acquired that other processes change in place.
    shares: Arc<AtomicBool>,
    /// Who counts what the store's disk has to hold.
    disk: Option<Arc<DiskUse>>,
}

impl Residency {
    /// No segments.
    pub(crate) fn new(switch: Arc<SwitchTables>, disk: Option<Arc<DiskUse>>) -> Residency {
        Residency {
            segments: BTreeMap::new(),
            unused: VecDeque::new(),
            clock: 0,
            lease_rows: RangeAllocator::default(),
            locks: LockNumbers::new(switch),
            shares: Arc::default(),
            disk,
        }
    }

    /// See the field.
    pub(super) fn disk(&self) -> Option<Arc<DiskUse>> {
        self.disk.clone()
    }

    /// See the field.
    pub(crate) fn shares(&self) -> Arc<AtomicBool> {
        self.shares.clone()
    }

    /// A segment, if this VM has it.
    pub(crate) fn get(&self, sid: SegId) -> Option<&VmSegment> {
        self.segments.get(&sid)
    }

    /// A segment that an instance has.
    pub(crate) fn of_member(&self, sid: SegId) -> &VmSegment {
        self.segments.get(&sid).expect("what an instance has is resident")
    }

    /// A segment that an instance has, or that is being acquired.
    pub(crate) fn of_member_mut(&mut self, sid: SegId) -> &mut VmSegment {
        self.segments.get_mut(&sid).expect("what an instance has is resident")
    }

    /// All of them, unused ones too.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SegId, &VmSegment)> {
        self.segments.iter().map(|(&sid, segment)| (sid, segment))
    }

    /// The next tick of the clock that tells which extent was mapped first.
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The segment and lock that a reference of the kernel's names. The guest controls its value:
    /// it may name none.
    pub(crate) fn locked_by(&self, reference: &LockRef) -> Option<(SegId, &LockPage)> {
        let sid = self.locks.segment_of(reference)?;
        Some((sid, self.of_member(sid).lock.as_ref()?))
    }

    /// Whether the segment is only kept for the next time.
    pub(crate) fn is_unused(&self, sid: SegId) -> bool {
        self.get(sid).is_some_and(|segment| segment.highest_right().is_none())
    }

    /// Checks a segment as a new instance would: whether it exists, and whether the user may have
    /// it with this right *now*. It changes nothing, while acquiring marks a segment in ways that
    /// cannot all be undone.
    pub(crate) fn probe(
        &mut self,
        sid: SegId,
        right: Right,
        grants: &Grants,
        store: &Store,
        frames: &mut TableFrames,
    ) -> Result<Probe, VasError> {
        let file = store.open_to_attach(sid)?;
        grants.check_segment(store, sid, right)?;
        let header = file.header();
        if right == Right::Write && header.kept.is_some() {
            file.check_writable()?;
        }
        // Taking a lock is a write, also to share it; readers of versions take none.
        let shares_lock = header.lockable && !file.is_versioned();
        if file.right() < right.max(if shares_lock { Right::Write } else { Right::Read }) {
            return Err(VasError::ReadOnly { sid });
        }
        // What was kept from an earlier attachment may be open with a right that the user no longer
        // has, or with less than the user has now.
        if self.is_unused(sid) && self.of_member(sid).file.right() != file.right() {
            self.forget(sid, frames);
        }
        let (range, lockable) = (header.base..header.reserve_end(), header.lockable);
        Ok(Probe { range, lockable, file })
    }

    /// Notes that an instance has a segment: at the first one in the VM, and at the first writable
    /// one, the lease and the segment record it, and a lockable segment's lock is mapped.
    pub(crate) fn acquire(
        &mut self,
        sid: SegId,
        right: Right,
        probe: Probe,
        opened: &Opened,
        frames: &mut TableFrames,
    ) -> Result<(), VasError> {
        let was_kept = self.is_unused(sid);
        match self.try_acquire(sid, right, &probe, opened, frames) {
            // What was kept from an earlier attachment may be a deleted segment's.
            Err(VasError::Store(StoreError::NotFound(_))) if was_kept => {
                self.forget(sid, frames);
                self.try_acquire(sid, right, &probe, opened, frames)
            }
            done => done,
        }
    }

    fn try_acquire(
        &mut self,
        sid: SegId,
        right: Right,
        probe: &Probe,
        opened: &Opened,
        frames: &mut TableFrames,
    ) -> Result<(), VasError> {
        if let Entry::Vacant(vacant) = self.segments.entry(sid) {
            vacant.insert(VmSegment::new(probe.file.clone(), frames.machine().mem.ledger())?);
        }
        let acquired = self.add_user(sid, right, opened);
        if acquired.is_err() && self.is_unused(sid) && !self.unused.contains(&sid) {
            self.keep_unused(sid, frames);
        }
        acquired
    }

    fn add_user(&mut self, sid: SegId, right: Right, opened: &Opened) -> Result<(), VasError> {
        let segment = self.of_member(sid);
        if right == Right::Write && segment.file.right() == Right::Read {
            return Err(VasError::ReadOnly { sid });
        }
        let had = segment.highest_right();
        if had < Some(right) {
            self.join_lease(sid, right, opened)?;
        }
        if let Err(error) = self.prepare(sid, right, opened) {
            if had.is_none() {
                self.leave_lease(sid, opened);
            }
            return Err(error);
        }
        let segment = self.of_member_mut(sid);
        segment.add_user(right);
        if !segment.is_versioned() {
            self.shares.store(true, Ordering::Release);
        }
        self.unused.retain(|&unused| unused != sid);
        Ok(())
    }

    /// Size and lock of a segment that the lease names.
    fn prepare(&mut self, sid: SegId, right: Right, opened: &Opened) -> Result<(), VasError> {
        let segment = self.segments.get_mut(&sid).expect("the caller has it");
        let is_locked = if segment.is_versioned() {
            // Readers take no lock.
            right == Right::Write
        } else {
            if let (Right::Write, Some(disk)) = (right, &self.disk) {
                disk.cover_segment(&segment.file)?;
            }
            segment.set_size(segment.file.header().size_bytes)?;
            segment.is_lockable()
        };
        if is_locked && segment.lock.is_none() {
            // Taking a lock is a write, also to share it.
            if segment.file.right() == Right::Read {
                return Err(VasError::ReadOnly { sid });
            }
            segment.lock = Some(self.locks.map(&segment.file, opened)?);
        }
        Ok(())
    }

    /// Tells the store that this VM has a segment with a right.
    fn join_lease(&mut self, sid: SegId, right: Right, opened: &Opened) -> Result<(), VasError> {
        opened.check(right)?;
        let segment = self.segments.get_mut(&sid).expect("the caller has it");
        let full = VasError::Full { what: "segments in a process" };
        let row = match segment.lease_row {
            Some(row) => row,
            None => self.lease_rows.allocate(1, LEASE_SEGMENTS).ok_or(full)?,
        };
        let joined = if segment.is_versioned() {
            segment.join_versions(opened, row, right)
        } else {
            opened.store.join(&mut segment.file, &opened.lease, row, right).map_err(VasError::from)
        };
        if let Err(error) = joined {
            if segment.lease_row.is_none() {
                self.lease_rows.free(row);
            }
            return Err(error);
        }
        segment.lease_row = Some(row);
        Ok(())
    }

    /// Tells the store that this VM no longer has a segment.
    fn leave_lease(&mut self, sid: SegId, opened: &Opened) {
        let segment = self.segments.get_mut(&sid).expect("the caller has it");
        if let Some(row) = segment.lease_row.take() {
            let left = opened.store.leave(&segment.file, &opened.lease, row);
            warn_if_failed("leave a segment", left);
            self.lease_rows.free(row);
        }
    }

    /// Undoes [`Residency::acquire`]. When no instance of the VM has the segment any more, its
    /// tables and windows are kept for the next attach, until there is pressure.
    pub(crate) fn release(
        &mut self,
        sid: SegId,
        right: Right,
        how: Release,
        opened: &Opened,
        frames: &mut TableFrames,
    ) {
        let Opened { store, lease } = opened;
        let segment = self.of_member_mut(sid);
        segment.remove_user(right);
        match segment.highest_right() {
            Some(Right::Read) if right == Right::Write => {
                segment.sync_versions();
                let row = segment.lease_row.expect("a segment in use is in the lease");
                let stopped = store.stop_writing(&segment.file, lease, row);
                warn_if_failed("mark a segment clean", stopped);
            }
            Some(_) => {}
            None => self.release_last(sid, right, how, opened, frames),
        }
    }

    fn release_last(
        &mut self,
        sid: SegId,
        right: Right,
        how: Release,
        opened: &Opened,
        frames: &mut TableFrames,
    ) {
        let segment = self.of_member_mut(sid);
        let is_volatile = segment.is_volatile();
        segment.close_versions(right, opened);
        if let Some(lock) = segment.lock.take() {
            warn_if_failed("give up a lock", self.locks.unmap(lock, &opened.store));
        }
        if how == Release::Orderly || is_volatile {
            self.leave_lease(sid, opened);
        }
        self.keep_unused(sid, frames);
    }

    /// Keeps a segment that no instance has, unless it is volatile: it is charged as long as the
    /// VM has it. A versioned one is opened anew: others may have it meanwhile.
    fn keep_unused(&mut self, sid: SegId, frames: &mut TableFrames) {
        if self.of_member(sid).is_volatile() || self.of_member(sid).is_versioned() {
            return self.forget(sid, frames);
        }
        self.unused.push_back(sid);
        if self.unused.len() > UNUSED_MAX
            && let Some(oldest) = self.unused.pop_front()
        {
            self.forget(oldest, frames);
        }
    }

    /// Drops everything the VM has of a segment that no instance has.
    pub(crate) fn forget(&mut self, sid: SegId, frames: &mut TableFrames) {
        self.unused.retain(|&unused| unused != sid);
        if let Some(segment) = self.segments.remove(&sid) {
            let windows = segment.dissolve(frames);
            if !windows.is_empty() {
                frames.machine().windows.unmap(windows);
                frames.all_is_forgotten();
            }
        }
    }

    /// Drops all of them, at the end of the process.
    pub(crate) fn forget_all(&mut self, frames: &mut TableFrames) {
        while let Some((&sid, _)) = self.segments.first_key_value() {
            self.forget(sid, frames);
        }
    }
}
