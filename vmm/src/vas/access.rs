//! The VMM's own way to memory in the VAS region, for system calls.
//!
//! A pointer from a register is looked up in the instance the calling thread is in. Which one
//! that is, is noted once per exit, for the thread ([`Vases::note_exit`]): `Space`'s functions, which
//! every system call goes through, need not be told.
//!
//! Memory handed to the host kernel as raw ranges is pinned until the thread enters the guest
//! again: eviction must not put something else there meanwhile.

use std::cell::{Cell, RefCell};

use abi::{Errno, PAGE_SIZE_1G, Right, SegId};

use super::VasError;
use super::fault::has_address;
use super::state::{State, Vases};
use crate::space::Access;
use crate::vm::Vcpu;
use crate::vm::memory::HostRange;

thread_local! {
    static CURRENT: Cell<u32> = const { Cell::new(0) };
    static PINS: RefCell<Vec<(SegId, u64)>> = const { RefCell::new(Vec::new()) };
}

/// The instance the calling thread was in when it left the guest.
#[must_use]
pub fn current() -> u32 {
    CURRENT.get()
}

/// Changes it, for a switch served by the VMM.
pub(super) fn set_current(vh: u32) {
    CURRENT.set(vh);
}

impl Vases {
    /// Notes where the thread that runs `vcpu` is, and brings the vCPU's root up to date. To be
    /// called when it has left the guest, before its exit is served.
    pub fn note_exit(&self, vcpu: &mut Vcpu) {
        if !self.is_active() {
            return;
        }
        let vh = self.machine.current_instance(vcpu.index()).unwrap_or(0);
        CURRENT.set(vh);
        if self.wants_reload(vcpu.index()) {
            let mut state = self.lock();
            self.follow_root(&mut state, vcpu, vh);
        }
    }

    /// Runs `f` as if the calling thread were in instance `vh`.
    pub fn as_if_in<T>(&self, vh: u32, f: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(vh);
        let done = f();
        CURRENT.set(before);
        done
    }

    /// The instances that have a segment at an address, and which.
    #[must_use]
    pub fn instances_at(&self, gva: u64) -> Vec<(u32, SegId)> {
        let state = self.lock();
        let at = |(&vh, instance): (&u32, &super::instance::Instance)| {
            instance.member_at(gva).map(|(sid, _)| (vh, sid))
        };
        state.instances.iter().filter_map(at).collect()
    }

    /// Lets go of what system calls of this thread have pinned. To be called before it enters
    /// the guest.
    pub fn release_pins(&self) {
        PINS.with_borrow_mut(|pins| {
            if pins.is_empty() {
                return;
            }
            let mut state = self.lock();
            for (sid, gib) in pins.drain(..) {
                if let Some(segment) = state.segments.get_mut(&sid) {
                    segment.unpin(gib);
                }
            }
        });
    }

    /// The segment that has an address of the instance the calling thread is in.
    fn segment_at(&self, state: &mut State, gva: u64) -> Result<Option<(SegId, Right)>, VasError> {
        let found = state.instances.get(&current()).and_then(|i| i.member_at(gva));
        let Some((sid, right)) = found.map(|(sid, m)| (sid, m.right)) else { return Ok(None) };
        Ok(has_address(state, sid, gva)?.then_some((sid, right)))
    }

    fn look_again(&self, state: &mut State) -> Result<(), VasError> {
        match state.opened() {
            Some(store) => self.catch_up(state, &store, current()),
            None => Ok(()),
        }
    }

    /// Calls `f` with the host memory of each piece of `len` bytes at `gva`, as far as the
    /// calling thread could access them; returns how many bytes that is. All of it stays
    /// pinned.
    ///
    /// # Errors
    /// `ENOMEM` when something cannot be mapped, and whatever `f` returns.
    pub fn pieces(
        &self,
        gva: u64,
        len: u64,
        access: Access,
        mut f: impl FnMut(HostRange) -> Result<(), Errno>,
    ) -> Result<u64, Errno> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut at = gva;
        let end = gva.checked_add(len).ok_or(Errno::EFAULT)?;
        while at < end {
            let found = match self.segment_at(state, at).map_err(|e| e.errno())? {
                Some(found) => Some(found),
                // The first touch of a segment that somebody has just attached to the VAS.
                None => {
                    self.look_again(state).map_err(|e| e.errno())?;
                    self.segment_at(state, at).map_err(|e| e.errno())?
                }
            };
            let Some((sid, right)) = found else { break };
            if access == Access::Write && right == Right::Read {
                break;
            }
            self.map_extent(state, sid, at / PAGE_SIZE_1G).map_err(|e| e.errno())?;
            let pinned = state.segments.get_mut(&sid).and_then(|s| s.pin(at, end - at));
            let Some((range, gib)) = pinned else { break };
            PINS.with_borrow_mut(|pins| pins.push((sid, gib)));
            if range.len == 0 {
                break;
            }
            at += range.len as u64;
            f(range)?;
        }
        Ok(at - gva)
    }
}
