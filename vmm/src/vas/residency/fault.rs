//! Touching: a page fault in the VAS region, and room for what is touched.

use abi::{PAGE_SIZE, PAGE_SIZE_1G, Right, SegId};

use crate::access::{FaultCause, FaultOutcome, MemoryAccess};
use crate::vas::VasError;
use crate::vas::state::{State, Vases};
use crate::vm::{MemoryError, Vcpu};

/// Extents taken away at once: each time costs every vCPU its translations.
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
        match self.catch_up_inside(vcpu, vh, stopping) {
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
            Err(VasError::Memory(error)) => {
                tracing::warn!("cannot map {gva:#x}: {}", crate::error::chain(&error));
                FaultOutcome::OutOfMemory
            }
            Err(error) => {
                tracing::warn!("cannot map {gva:#x}: {}", crate::error::chain(&error));
                FaultOutcome::BeyondFile
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
        if let Some(store) = state.opened() {
            self.catch_up(state, &store, vh)?;
        }
        let found = state.instances.get(&vh).and_then(|i| i.member_at(gva));
        let Some((sid, right)) = found.map(|(sid, member)| (sid, member.right)) else {
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
        if !has_address(state, sid, gva)? {
            return Ok(FaultOutcome::Unmapped);
        }
        self.make_present(state, vh, sid, right, gva / PAGE_SIZE_1G)?;
        Ok(FaultOutcome::Resolved)
    }

    /// Maps the extent of a gigabyte, builds its tables and links them into the instance.
    fn make_present(
        &self,
        state: &mut State,
        vh: u32,
        sid: SegId,
        right: Right,
        gib: u64,
    ) -> Result<(), VasError> {
        let machine = &self.machine;
        self.map_extent(state, sid, gib)?;
        let Some(segment) = state.segments.get_mut(&sid) else { return Ok(()) };
        segment.fill(gib, right, &mut state.frames, machine)?;
        let Some(instance) = state.instances.get_mut(&vh) else { return Ok(()) };
        instance.link_gib(sid, right, gib, &state.segments, &mut state.frames, machine)?;
        Ok(())
    }

    /// Builds everything of an instance that is not yet linked.
    pub(crate) fn populate(&self, state: &mut State, vh: u32) -> Result<(), VasError> {
        let Some(instance) = state.instances.get(&vh) else { return Ok(()) };
        let members: Vec<(SegId, Right)> =
            instance.members.iter().map(|(&sid, m)| (sid, m.right)).collect();
        for (sid, right) in members {
            let Some(segment) = state.segments.get(&sid) else { continue };
            let used = segment.reserve.start..segment.end;
            for gib in used.start / PAGE_SIZE_1G..used.end.div_ceil(PAGE_SIZE_1G) {
                self.map_extent(state, sid, gib)?;
                if let Some(segment) = state.segments.get_mut(&sid) {
                    segment.fill(gib, right, &mut state.frames, &self.machine)?;
                }
            }
        }
        Ok(())
    }

    /// Maps the extent of a gigabyte, making room if there is none.
    pub(crate) fn map_extent(
        &self,
        state: &mut State,
        sid: SegId,
        gib: u64,
    ) -> Result<(), VasError> {
        loop {
            state.clock += 1;
            let clock = state.clock;
            let Some(segment) = state.segments.get_mut(&sid) else { return Ok(()) };
            match segment.map_extent(gib, clock, &self.machine) {
                Err(VasError::Memory(
                    MemoryError::Exhausted { .. } | MemoryError::Reserve { .. },
                )) if self.evict(state)? > 0 => {}
                done => return done,
            }
        }
    }

    /// Takes away the extents that were mapped longest ago. What the program wrote is in the
    /// files; a thread that touches one again faults.
    fn evict(&self, state: &mut State) -> Result<usize, VasError> {
        let machine = &self.machine;
        let mut oldest: Vec<(u64, SegId, u64)> = state
            .segments
            .iter()
            .flat_map(|(&sid, segment)| segment.evictable().map(move |(at, gib)| (at, sid, gib)))
            .collect();
        oldest.sort_unstable();
        oldest.truncate(oldest.len().div_ceil(4).min(EVICT_MOST));
        let mut windows = Vec::new();
        for &(_, sid, gib) in &oldest {
            for instance in state.instances.values_mut() {
                if instance.members.contains_key(&sid) {
                    instance.unlink_gib(gib, &mut state.frames, machine)?;
                }
            }
            if let Some(segment) = state.segments.get_mut(&sid) {
                windows.extend(segment.unmap_extent(gib, &mut state.frames, machine)?);
            }
        }
        let count = windows.len();
        if count > 0 {
            machine.windows.unmap(windows);
            state.frames.all_is_forgotten();
        }
        Ok(count)
    }
}

/// Whether a segment that is mapped with a right can be accessed that way.
pub(crate) fn allows(right: Right, access: MemoryAccess) -> bool {
    access == MemoryAccess::Read || right == Right::Write
}

/// Whether the segment has `gva` now; another VM may have grown it.
pub(crate) fn has_address(state: &mut State, sid: SegId, gva: u64) -> Result<bool, VasError> {
    let store = state.opened();
    let (Some(segment), Some(store)) = (state.segments.get_mut(&sid), store) else {
        return Ok(false);
    };
    if gva < segment.end.next_multiple_of(PAGE_SIZE) {
        return Ok(true);
    }
    store.refresh(&mut segment.file)?;
    segment.set_size(segment.file.header().size_bytes)?;
    Ok(gva < segment.end.next_multiple_of(PAGE_SIZE))
}
