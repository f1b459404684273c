//! Page faults on segments, and eviction of the extents mapped longest ago when there is no room
//! for one that is touched.

use abi::{PAGE_SIZE, PAGE_SIZE_1G, Right, SegId};

use crate::access::{FaultCause, FaultOutcome, MemoryAccess};
use crate::vas::VasError;
use crate::vas::state::{State, Vases};
use crate::vas::versioned::view::Trigger;
use crate::vm::{MemoryError, Vcpu};

/// Extents evicted together: each eviction costs every vCPU its translations.
const EVICT_MOST: usize = 64;

impl Vases {
    /// Resolves a page fault of `vcpu` in instance `vh` at `gva`, which lies in the VAS region,
    /// or says why not.
    pub fn fault(
        &self,
        vcpu: &mut Vcpu,
        vh: u32,
        gva: u64,
        cause: FaultCause,
        stopping: &dyn Fn() -> bool,
    ) -> FaultOutcome {
        let outcome = self.try_fault(vcpu, vh, gva, cause);
        if outcome != FaultOutcome::Unmapped || !self.is_active() {
            return outcome;
        }
        match self.attach_late(vcpu, vh, stopping) {
            Ok(true) => self.try_fault(vcpu, vh, gva, cause),
            Ok(false) => outcome,
            Err(error) => {
                tracing::warn!("cannot look at a VAS: {}", crate::error::chain(&error));
                outcome
            }
        }
    }

    fn try_fault(&self, vcpu: &mut Vcpu, vh: u32, gva: u64, cause: FaultCause) -> FaultOutcome {
        if vh == crate::vas::HOME || !self.is_active() {
            return FaultOutcome::Unmapped;
        }
        let mut guard = self.lock();
        let outcome = match self.touch(&mut guard, vcpu.index(), vh, gva, cause) {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!("cannot map {gva:#x}: {}", crate::error::chain(&error));
                match error {
                    VasError::Memory(_) => FaultOutcome::OutOfMemory,
                    VasError::NoRoom { .. } => FaultOutcome::NoRoom,
                    _ => FaultOutcome::BeyondFile,
                }
            }
        };
        // The fault may be due to a root that was replaced.
        self.follow_root(&mut guard, vcpu, vh);
        outcome
    }

    fn touch(
        &self,
        state: &mut State,
        vcpu: u32,
        vh: u32,
        gva: u64,
        cause: FaultCause,
    ) -> Result<FaultOutcome, VasError> {
        // The location of a thread is a value the guest controls: it may name no instance.
        if state.instances.get(vh).is_none() {
            return Ok(FaultOutcome::Unmapped);
        }
        self.reconcile(state, vh)?;
        let Some((sid, right)) = state.member_at(vh, gva) else {
            return Ok(FaultOutcome::Unmapped);
        };
        let allowed = match cause {
            FaultCause::Data(access) => allows(right, access),
            // Segments hold data only.
            FaultCause::Fetch => false,
        };
        if !allowed {
            return Ok(FaultOutcome::Forbidden);
        }
        if state.residency.of_member(sid).is_versioned() {
            let write = cause == FaultCause::Data(MemoryAccess::Write);
            let touched = state.touch_versioned(vcpu, vh, sid, gva, write, Trigger::OwnFault)?;
            return Ok(if touched { FaultOutcome::Resolved } else { FaultOutcome::Unmapped });
        }
        if !state.has_address(sid, gva)? {
            return Ok(FaultOutcome::Unmapped);
        }
        state.make_present(vcpu, vh, sid, gva / PAGE_SIZE_1G)?;
        Ok(FaultOutcome::Resolved)
    }
}

/// Whether a segment that is mapped with a right can be accessed that way.
pub(crate) fn allows(right: Right, access: MemoryAccess) -> bool {
    access == MemoryAccess::Read || right == Right::Write
}

impl State {
    /// The member of an instance in whose reserve `gva` lies, and the instance's right.
    fn member_at(&self, vh: u32, gva: u64) -> Option<(SegId, Right)> {
        let (sid, member) = self.instances.known(vh).members.at(gva)?;
        Some((sid, member.right))
    }

    /// The member of an instance that has `gva` now, and the instance's right.
    pub(crate) fn segment_at(
        &mut self,
        vh: u32,
        gva: u64,
    ) -> Result<Option<(SegId, Right)>, VasError> {
        let Some((sid, right)) = self.member_at(vh, gva) else { return Ok(None) };
        Ok(self.has_address(sid, gva)?.then_some((sid, right)))
    }

    /// Whether a member's segment has `gva` now; another VM may have grown it.
    fn has_address(&mut self, sid: SegId, gva: u64) -> Result<bool, VasError> {
        let opened = self.attached();
        let disk = self.residency.disk();
        let segment = self.residency.of_member_mut(sid);
        if gva < segment.end.next_multiple_of(PAGE_SIZE) {
            return Ok(true);
        }
        opened.store.refresh(&mut segment.file)?;
        if let (Some(Right::Write), Some(disk)) = (segment.highest_right(), disk) {
            disk.cover_segment(&segment.file)?;
        }
        segment.set_size(segment.file.header().size_bytes)?;
        Ok(gva < segment.end.next_multiple_of(PAGE_SIZE))
    }

    /// Maps the extent of a gigabyte, builds its tables and links them into the instance.
    fn make_present(&mut self, vcpu: u32, vh: u32, sid: SegId, gib: u64) -> Result<(), VasError> {
        let right = self.instances.known(vh).members.known(sid).right;
        self.build(sid, right, gib)?;
        let instance = self.instances.known_mut(vh);
        instance.link_gib(sid, gib, &self.residency, &mut self.tables)?;
        let Some((visit, _)) = self.visits.tables_of_mut(vcpu) else { return Ok(()) };
        let (members, subtree) = (&instance.members, self.residency.of_member(sid).subtree(right));
        Ok(visit.tables.link_gib(members, members.known(sid), subtree, gib, &mut self.tables)?)
    }

    /// Makes the page of a versioned member present in the tables of the visit that the thread on
    /// `vcpu` makes, and its own if it is to be written. `false` if the version does not have it, or
    /// the thread makes no visit there.
    pub(crate) fn touch_versioned(
        &mut self,
        vcpu: u32,
        vh: u32,
        sid: SegId,
        gva: u64,
        write: bool,
        trigger: Trigger,
    ) -> Result<bool, VasError> {
        let room = if write { self.make_room(vcpu) } else { Ok(()) };
        let State { instances, residency, visits, tables, .. } = self;
        let Some((visit, copies)) = visits.tables_of_mut(vcpu) else { return Ok(false) };
        let Some(view) = visit.views.get_mut(&sid) else { return Ok(false) };
        if visit.vh != vh || !view.has(gva) {
            return Ok(false);
        }
        let segment = residency.of_member_mut(sid).versioned_mut();
        let touched = view.touch(gva, write, trigger, segment, copies, tables);
        // Without room it is what there was none that matters.
        touched.map_err(|error| match room {
            Err(room) if matches!(error, VasError::Memory(MemoryError::OverLimit(_))) => room,
            _ => error,
        })?;
        let members = &instances.known(vh).members;
        let gib = gva / PAGE_SIZE_1G;
        visit.tables.link_gib(members, members.known(sid), view, gib, tables)?;
        Ok(true)
    }

    /// Builds everything of an instance that is not yet linked.
    pub(crate) fn populate(&mut self, vh: u32) -> Result<(), VasError> {
        let members = self.instances.known(vh).members.iter();
        let members: Vec<_> = members.map(|(sid, member)| (sid, member.right)).collect();
        for (sid, right) in members {
            let segment = self.residency.of_member(sid);
            if segment.is_versioned() {
                continue;
            }
            let used = segment.reserve.start..segment.end;
            for gib in used.start / PAGE_SIZE_1G..used.end.div_ceil(PAGE_SIZE_1G) {
                self.build(sid, right, gib)?;
            }
        }
        Ok(())
    }

    /// Maps the extent of a gigabyte of a member, and builds its tables for a right.
    fn build(&mut self, sid: SegId, right: Right, gib: u64) -> Result<(), VasError> {
        self.map_extent(sid, gib)?;
        Ok(self.residency.of_member_mut(sid).fill(gib, right, &mut self.tables)?)
    }

    /// Maps the extent of a gigabyte of a member, making room if there is none.
    pub(crate) fn map_extent(&mut self, sid: SegId, gib: u64) -> Result<(), VasError> {
        loop {
            let now = self.residency.tick();
            let segment = self.residency.of_member_mut(sid);
            match segment.map_extent(gib, now, self.tables.machine()) {
                Err(VasError::Memory(
                    MemoryError::Exhausted { .. } | MemoryError::Reserve { .. },
                )) if self.evict()? > 0 => {}
                done => return done,
            }
        }
    }

    /// Evicts the extents that were mapped longest ago. What the program wrote is in the files; a
    /// thread that touches one again faults.
    fn evict(&mut self) -> Result<usize, VasError> {
        let segments = self.residency.iter();
        let mut oldest: Vec<(u64, SegId, u64)> = segments
            .flat_map(|(sid, segment)| segment.evictable().map(move |(at, gib)| (at, sid, gib)))
            .collect();
        oldest.sort_unstable();
        oldest.truncate(oldest.len().div_ceil(4).min(EVICT_MOST));
        let mut windows = Vec::new();
        for &(_, sid, gib) in &oldest {
            for visit in self.visits.iter_mut() {
                visit.tables.unlink_gib(gib, &mut self.tables)?;
            }
            for (_, instance) in self.instances.iter_mut() {
                if instance.members.contains(sid) {
                    instance.tables.unlink_gib(gib, &mut self.tables)?;
                }
            }
            // Unused ones have extents, too.
            let segment = self.residency.of_member_mut(sid);
            windows.extend(segment.unmap_extent(gib, &mut self.tables)?);
        }
        let count = windows.len();
        if count > 0 {
            self.tables.machine().windows.unmap(windows);
            self.tables.all_is_forgotten();
        }
        Ok(count)
    }
}
