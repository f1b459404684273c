//! Memory in the VAS region for the VMM's own use, on behalf of system calls.
//!
//! A pointer from a register is looked up in the instance the calling thread is in. Which one that
//! is, is noted at each exit, in the thread's [`Vcpu`], from a word that the guest can write: it
//! may name an instance other than the one the thread is in, or none. It is looked up in the VMM's
//! own list, so a false value makes the program's pointers mean what they mean in some instance the
//! process really has, and nothing more.
//!
//! Memory handed to the host kernel is pinned by value: [`Pins`] keeps it mapped, and keeps the
//! instance it was found in from being detached, until it is dropped. Dropping it takes no lock.

use std::ops::Range;

use abi::{Errno, PAGE_SIZE, PAGE_SIZE_1G, SegId};

use crate::access::MemoryAccess;
use crate::vas::VasError;
use crate::vas::residency::fault::allows;
use crate::vas::state::instances::{Hold, Instance};
use crate::vas::state::{State, Vases};
use crate::vas::versioned::view::Trigger;
use crate::vm::windows::PinnedRange;

/// So much a system call stores in versioned segments before it may stop early for want of memory.
const MOVED_AT_LEAST_BYTES: u64 = 1 << 20;

/// Memory of segments that a system call uses, in the order of its addresses.
#[derive(Debug, Default)]
pub struct Pins {
    ranges: Vec<PinnedRange>,
    instance: Option<Hold>,
}

impl Pins {
    /// The pieces.
    #[must_use]
    pub fn ranges(&self) -> &[PinnedRange] {
        &self.ranges
    }

    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.len() as u64).sum()
    }
}

impl Vases {
    /// The instances that have a segment at an address, and which.
    #[must_use]
    pub fn instances_at(&self, gva: u64) -> Vec<(u32, SegId)> {
        let state = self.lock();
        let at =
            |(vh, instance): (u32, &Instance)| instance.members.at(gva).map(|(sid, _)| (vh, sid));
        state.instances.iter().filter_map(at).collect()
    }

    /// Pins what lies at `len` bytes from `gva` in instance `vh`, as far as a thread in it could
    /// access them: up to the first byte it could not. Of versioned segments it pins what the thread
    /// on `vcpu` sees, page by page.
    ///
    /// # Errors
    /// `EFAULT` for a range beyond the addresses there are; `ENOMEM` when something cannot be
    /// mapped.
    pub fn pin(
        &self,
        vcpu: Option<u32>,
        vh: u32,
        gva: u64,
        len: u64,
        access: MemoryAccess,
    ) -> Result<Pins, Errno> {
        let end = gva.checked_add(len).ok_or(Errno::EFAULT)?;
        let mut state = self.lock();
        self.pin_locked(&mut state, vcpu, vh, gva..end, access).map_err(|error| error.errno())
    }

    fn pin_locked(
        &self,
        state: &mut State,
        vcpu: Option<u32>,
        vh: u32,
        range: Range<u64>,
        access: MemoryAccess,
    ) -> Result<Pins, VasError> {
        let mut pins = Pins::default();
        // The guest controls which instance this names: there may be none.
        if state.instances.get(vh).is_none() {
            return Ok(pins);
        }
        let mut at = range.start;
        while at < range.end {
            let mut found = state.segment_at(vh, at)?;
            if found.is_none() {
                // The first touch of a segment that was just attached to the VAS.
                self.reconcile(state, vh)?;
                found = state.segment_at(vh, at)?;
            }
            let Some((sid, right)) = found else { break };
            if !allows(right, access) {
                break;
            }
            let pinned = if state.residency.of_member(sid).is_versioned() {
                let Some(vcpu) = vcpu else { break };
                // What is pinned cannot be written out: the call moves less at once.
                if access == MemoryAccess::Write
                    && at - range.start >= MOVED_AT_LEAST_BYTES
                    && !state.finds_room(vcpu)
                {
                    break;
                }
                state.pin_versioned(vcpu, vh, sid, at..range.end, access)?
            } else {
                state.map_extent(sid, at / PAGE_SIZE_1G)?;
                state.residency.of_member(sid).pin(at, range.end - at)
            };
            let Some(range) = pinned.filter(|range| !range.is_empty()) else { break };
            pins.instance.get_or_insert_with(|| state.instances.known(vh).hold());
            at += range.len() as u64;
            let apart = match pins.ranges.last_mut() {
                Some(last) => last.join(range),
                None => Some(range),
            };
            pins.ranges.extend(apart);
        }
        Ok(pins)
    }
}

impl State {
    /// The page of a versioned segment at the start of `range`, as the thread on `vcpu` sees it.
    fn pin_versioned(
        &mut self,
        vcpu: u32,
        vh: u32,
        sid: SegId,
        range: Range<u64>,
        access: MemoryAccess,
    ) -> Result<Option<PinnedRange>, VasError> {
        let write = access == MemoryAccess::Write;
        if !self.touch_versioned(vcpu, vh, sid, range.start, write, Trigger::SystemCall)? {
            return Ok(None);
        }
        let State { residency, visits, tables, .. } = self;
        let Some((visit, copies)) = visits.tables_of_mut(vcpu) else { return Ok(None) };
        let Some(view) = visit.views.get_mut(&sid) else { return Ok(None) };
        let segment = residency.of_member_mut(sid).versioned_mut();
        let page = view.pin(range.start, segment, copies, tables)?;
        Ok(Some(page.part(range.start % PAGE_SIZE, range.end - range.start)))
    }
}
