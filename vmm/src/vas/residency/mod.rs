//! Segments come into use in the VM and go out of it again: the lease, the mark in the segment,
//! its lock, and what is kept for the next time.

mod fault;
pub(crate) mod lock_page;
pub(crate) mod pins;
pub(crate) mod segment;

use std::collections::btree_map::Entry;
use std::ops::Range;

use abi::layout::MAX_LOCK_PAGES;
use abi::{Right, SegId};

use crate::kernel::SwitchTables;
use crate::store::{Store, StoreError};
use crate::vas::VasError;
use crate::vas::residency::lock_page::LockPage;
use crate::vas::residency::segment::VmSegment;
use crate::vas::state::{State, warn_if_failed};
use crate::vm::Machine;

/// Segments kept with their tables after the last instance has given them up.
const UNUSED_MAX: usize = 256;
/// Segments a process can have attached: rows of its lease's table.
const LEASE_SEGMENTS: u32 = 65536;

/// What has to be known of a segment before it comes into use.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// Addresses it may ever have.
    pub(crate) range: Range<u64>,
    pub(crate) lockable: bool,
}

impl State {
    /// Looks at a segment as a newcomer would: whether it is there, and whether the user may
    /// have it with this right *now*. Nothing is changed by it, while coming into use marks a
    /// segment in ways that cannot all be undone.
    pub(crate) fn look_at(
        &mut self,
        sid: SegId,
        right: Right,
        store: &Store,
        machine: &Machine,
    ) -> Result<Look, VasError> {
        let file = store.open_segment(sid)?;
        self.grants.check_segment(store, sid, right)?;
        let header = file.header();
        // Taking a lock is a write, also to share it.
        if file.right() < right.max(if header.lockable { Right::Write } else { Right::Read }) {
            return Err(VasError::ReadOnly { sid });
        }
        // What was kept from an earlier attachment may be open with a right that is no longer
        // the user's, or with less than is the user's now.
        let is_outdated = |kept: &VmSegment| kept.file.right() != file.right();
        if self.is_unused(sid) && self.segments.get(&sid).is_some_and(is_outdated) {
            self.forget_segment(sid, machine);
        }
        let range = header.base..header.reserve_end();
        Ok(Look { range, lockable: header.lockable })
    }

    /// Notes that an instance has a segment: at the first one in the VM, and at the first
    /// writable one, the lease and the segment say so, and a lockable segment's lock comes
    /// into reach.
    pub(crate) fn use_segment(
        &mut self,
        sid: SegId,
        right: Right,
        store: &Store,
        switch: &SwitchTables,
    ) -> Result<(), VasError> {
        let kept = self.segments.contains_key(&sid);
        match self.join(sid, right, store, switch) {
            // What was kept from an earlier attachment may be a deleted segment's.
            Err(VasError::Store(StoreError::NotFound(_))) if kept && self.is_unused(sid) => {
                self.forget_segment(sid, switch.machine());
                self.join(sid, right, store, switch)
            }
            joined => joined,
        }
    }

    /// Whether the segment is only kept for the next time.
    pub(crate) fn is_unused(&self, sid: SegId) -> bool {
        self.segments.get(&sid).is_some_and(|segment| segment.user_count() == 0)
    }

    fn join(
        &mut self,
        sid: SegId,
        right: Right,
        store: &Store,
        switch: &SwitchTables,
    ) -> Result<(), VasError> {
        if let Entry::Vacant(place) = self.segments.entry(sid) {
            place.insert(VmSegment::new(store.open_segment(sid)?, switch.machine().mem.ledger())?);
        }
        let joined = self.join_open(sid, right, store, switch);
        if joined.is_err() && self.is_unused(sid) && !self.unused.contains(&sid) {
            // A volatile one is charged as long as the VM has it.
            if self.segments.get(&sid).is_some_and(VmSegment::is_volatile) {
                self.forget_segment(sid, switch.machine());
            } else {
                self.unused.push_back(sid);
            }
        }
        joined
    }

    fn join_open(
        &mut self,
        sid: SegId,
        right: Right,
        store: &Store,
        switch: &SwitchTables,
    ) -> Result<(), VasError> {
        let (Some(segment), Some(lease)) = (self.segments.get_mut(&sid), self.lease.as_ref())
        else {
            return Ok(());
        };
        if right == Right::Write && segment.file.right() == Right::Read {
            return Err(VasError::ReadOnly { sid });
        }
        let had = segment.users.keys().next_back().copied();
        if had.is_none_or(|had| had < right) {
            let row = match segment.lease_index {
                Some(row) => row,
                None => self
                    .lease_rows
                    .allocate(1, LEASE_SEGMENTS)
                    .ok_or(VasError::Full { what: "segments in a process" })?,
            };
            if let Err(error) = store.join(&mut segment.file, lease, row, right) {
                if segment.lease_index.is_none() {
                    self.lease_rows.free(row);
                }
                return Err(error.into());
            }
            segment.lease_index = Some(row);
            if let Err(error) = segment.set_size(segment.file.header().size_bytes) {
                if had.is_none() {
                    self.leave_segment(sid);
                }
                return Err(error.into());
            }
        }
        if segment.is_lockable() && segment.lock.is_none() {
            let locked = self.map_lock(sid, store, switch);
            if locked.is_err() && had.is_none() {
                self.leave_segment(sid);
            }
            locked?;
        }
        if let Some(segment) = self.segments.get_mut(&sid) {
            *segment.users.entry(right).or_insert(0) += 1;
        }
        self.unused.retain(|&unused| unused != sid);
        Ok(())
    }

    fn map_lock(
        &mut self,
        sid: SegId,
        store: &Store,
        switch: &SwitchTables,
    ) -> Result<(), VasError> {
        let (Some(segment), Some(lease)) = (self.segments.get_mut(&sid), self.lease.as_ref())
        else {
            return Ok(());
        };
        // Taking a lock is a write, also to share it.
        if segment.file.right() == Right::Read {
            return Err(VasError::ReadOnly { sid });
        }
        let index = self
            .lock_pages
            .allocate(1, MAX_LOCK_PAGES)
            .ok_or(VasError::Full { what: "lock pages" })?;
        let memory = match self.lock_memory.get(&index) {
            Some(&gpa) => Ok(gpa),
            None => switch.map_lock_page(index).map_err(VasError::from),
        };
        let mapped = memory.and_then(|gpa| {
            self.lock_memory.insert(index, gpa);
            LockPage::map(index, gpa, &segment.file, lease.id(), store, switch.machine())
        });
        match mapped {
            Ok(lock) => {
                self.locked_by_page.insert(index, sid);
                segment.lock = Some(lock);
                Ok(())
            }
            Err(error) => {
                self.lock_pages.free(index);
                Err(error)
            }
        }
    }

    /// Tells the store that the VM no longer has a segment.
    fn leave_segment(&mut self, sid: SegId) {
        let Some(segment) = self.segments.get_mut(&sid) else { return };
        let Some(row) = segment.lease_index.take() else { return };
        if let (Some(store), Some(lease)) = (&self.store, &self.lease) {
            warn_if_failed("leave a segment", store.leave(&segment.file, lease, row));
        }
        self.lease_rows.free(row);
    }

    /// Undoes [`State::use_segment`]. Of a segment that nobody in the VM has any more, tables
    /// and windows are kept for the next attach, until there is pressure. Unless `orderly`,
    /// what was being written stays marked dirty.
    pub(crate) fn unuse_segment(
        &mut self,
        sid: SegId,
        right: Right,
        orderly: bool,
        machine: &Machine,
    ) {
        let store = self.store.clone();
        let Some(segment) = self.segments.get_mut(&sid) else { return };
        if let Some(count) = segment.users.get_mut(&right) {
            *count -= 1;
            if *count == 0 {
                segment.users.remove(&right);
            }
        }
        let still = segment.users.keys().next_back().copied();
        let (Some(store), Some(lease)) = (store, &self.lease) else { return };
        if still == Some(Right::Read)
            && right == Right::Write
            && let Some(row) = segment.lease_index
        {
            let reads = lease.set_segment(row, Some((sid, Right::Read)));
            let clean = reads.and_then(|()| store.mark_clean(&segment.file, lease.id()));
            warn_if_failed("mark a segment clean", clean);
        }
        if still.is_some() {
            return;
        }
        if let Some(lock) = segment.lock.take() {
            let index = lock.index();
            self.lock_pages.free(index);
            self.locked_by_page.remove(&index);
            warn_if_failed("give up a lock", lock.give_up(&store, machine));
        }
        let volatile = segment.is_volatile();
        if orderly || volatile {
            self.leave_segment(sid);
        }
        if volatile {
            self.forget_segment(sid, machine);
            return;
        }
        self.unused.push_back(sid);
        if self.unused.len() > UNUSED_MAX
            && let Some(oldest) = self.unused.pop_front()
        {
            self.forget_segment(oldest, machine);
        }
    }

    /// Drops all the VM has of a segment that no instance has.
    pub(crate) fn forget_segment(&mut self, sid: SegId, machine: &Machine) {
        self.unused.retain(|&unused| unused != sid);
        let Some(segment) = self.segments.remove(&sid) else { return };
        let (_, windows) = segment.dissolve(&mut self.frames);
        if !windows.is_empty() {
            machine.windows.unmap(windows);
            self.frames.all_is_forgotten();
        }
    }
}
