//! Memory in the VAS region for the VMM's own use, on behalf of system calls.
//!
//! A pointer from a register is looked up in the instance the calling thread is in. Which one
//! that is, is noted at each exit, in the thread's [`Vcpu`], from a word that the guest can
//! write: it may name another instance than the thread is in, or none. It is looked up in the
//! VMM's own list, so a lie makes the program's pointers mean what they mean in some instance the
//! process really has, and nothing more.
//!
//! Memory handed to the host kernel is pinned by value: [`Pins`] keeps it mapped, and keeps the
//! instance it was found in from being detached, until it is dropped. It takes no lock to drop.

use abi::{Errno, PAGE_SIZE_1G, Right, SegId};

use crate::access::MemoryAccess;
use crate::vas::VasError;
use crate::vas::residency::fault::{allows, has_address};
use crate::vas::state::{State, Vases};
use crate::vas::tables::instance::Hold;
use crate::vm::Vcpu;
use crate::vm::windows::PinnedRange;

/// Memory of segments that a system call uses, in the order of its addresses.
#[derive(Debug, Default)]
pub struct Pins {
    ranges: Vec<PinnedRange>,
    _instance: Option<Hold>,
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
    /// Notes where the thread that runs `vcpu` is, and brings the vCPU's root up to date. To be
    /// called when it has left the guest, before its exit is served.
    pub fn note_exit(&self, vcpu: &mut Vcpu) {
        if !self.is_active() {
            return;
        }
        let vh = self.switch.current_instance(vcpu.index()).unwrap_or(crate::vas::HOME);
        vcpu.set_instance(vh);
        if self.wants_reload(vcpu.index()) {
            let mut state = self.lock();
            self.follow_root(&mut state, vcpu, vh);
        }
    }

    /// The instances that have a segment at an address, and which.
    #[must_use]
    pub fn instances_at(&self, gva: u64) -> Vec<(u32, SegId)> {
        let state = self.lock();
        let at = |(&vh, instance): (&u32, &crate::vas::tables::instance::Instance)| {
            instance.member_at(gva).map(|(sid, _)| (vh, sid))
        };
        state.instances.iter().filter_map(at).collect()
    }

    /// The segment that has an address of instance `vh`.
    fn segment_at(
        &self,
        state: &mut State,
        vh: u32,
        gva: u64,
    ) -> Result<Option<(SegId, Right)>, VasError> {
        let found = state.instances.get(&vh).and_then(|i| i.member_at(gva));
        let Some((sid, right)) = found.map(|(sid, m)| (sid, m.right)) else { return Ok(None) };
        Ok(has_address(state, sid, gva)?.then_some((sid, right)))
    }

    fn look_again(&self, state: &mut State, vh: u32) -> Result<(), VasError> {
        match state.opened() {
            Some(store) => self.catch_up(state, &store, vh),
            None => Ok(()),
        }
    }

    /// Pins what lies at `len` bytes from `gva` in instance `vh`, as far as a thread in it could
    /// access them: up to the first byte it could not.
    ///
    /// # Errors
    /// `EFAULT` for a range beyond the addresses there are; `ENOMEM` when something cannot be
    /// mapped.
    pub fn pin(&self, vh: u32, gva: u64, len: u64, access: MemoryAccess) -> Result<Pins, Errno> {
        let end = gva.checked_add(len).ok_or(Errno::EFAULT)?;
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut pins = Pins::default();
        let mut at = gva;
        while at < end {
            let found = match self.segment_at(state, vh, at).map_err(|e| e.errno())? {
                Some(found) => Some(found),
                // The first touch of a segment that somebody has just attached to the VAS.
                None => {
                    self.look_again(state, vh).map_err(|e| e.errno())?;
                    self.segment_at(state, vh, at).map_err(|e| e.errno())?
                }
            };
            let Some((sid, right)) = found else { break };
            if !allows(right, access) {
                break;
            }
            self.map_extent(state, sid, at / PAGE_SIZE_1G).map_err(|e| e.errno())?;
            let pinned = state.segments.get(&sid).and_then(|s| s.pin(at, end - at));
            let Some(range) = pinned.filter(|range| !range.is_empty()) else { break };
            if pins.ranges.is_empty() {
                pins._instance =
                    state.instances.get(&vh).map(crate::vas::tables::instance::Instance::hold);
            }
            at += range.len() as u64;
            pins.ranges.push(range);
        }
        Ok(pins)
    }
}
