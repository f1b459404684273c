//! Page faults on segments, and eviction of the extents mapped longest ago when there is no room
//! for one that is touched.

use abi::{PAGE_SIZE, PAGE_SIZE_1G, Right, SegId};

use crate::access::{FaultCause, FaultOutcome, MemoryAccess};
use crate::vas::VasError;
use crate::vas::state::{State, Vases};
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
        let outcome = match self.touch(&mut guard, vh, gva, cause) {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!("cannot map {gva:#x}: {}", crate::error::chain(&error));
                match error {
                    VasError::Memory(_) => FaultOutcome::OutOfMemory,
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
        if !state.has_address(sid, gva)? {
            return Ok(FaultOutcome::Unmapped);
        }
        state.make_present(vh, sid, gva / PAGE_SIZE_1G)?;
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
        let segment = self.residency.of_member_mut(sid);
        if gva < segment.end.next_multiple_of(PAGE_SIZE) {
            return Ok(true);
        }
        opened.store.refresh(&mut segment.file)?;
        segment.set_size(segment.file.header().size_bytes)?;
        Ok(gva < segment.end.next_multiple_of(PAGE_SIZE))
    }

    /// Maps the extent of a gigabyte, builds its tables and links them into the instance.
    fn make_present(&mut self, vh: u32, sid: SegId, gib: u64) -> Result<(), VasError> {
        let right = self.instances.known(vh).members.known(sid).right;
        self.build(sid, right, gib)?;
        let instance = self.instances.known_mut(vh);
        Ok(instance.link_gib(sid, gib, &self.residency, &mut self.tables)?)
    }

    /// Builds everything of an instance that is not yet linked.
    pub(crate) fn populate(&mut self, vh: u32) -> Result<(), VasError> {
        let members = self.instances.known(vh).members.iter();
        let members: Vec<_> = members.map(|(sid, member)| (sid, member.right)).collect();
        for (sid, right) in members {
            let segment = self.residency.of_member(sid);
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
