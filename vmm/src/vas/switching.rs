//! `vas_switch` when the kernel leaves it to the VMM: the first switch after a change of the
//! VAS, locks that are not free, handles that are not attached, and every switch that is asked
//! for as a hypercall.
//!
//! The shape is the kernel's: announce, look at everything, take the locks, load the root. A
//! thread that waits for a lock does so without any lock of the VMM's own; the instance it may
//! fall back to and the one it is going to are kept from being detached meanwhile.

use std::time::Instant;

use abi::SegId;

use super::VasError;
use super::access::{current, set_current};
use super::state::{State, Vases};
use crate::vm::Vcpu;

/// How long a switch may wait for locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Not at all.
    Never,
    /// Up to a moment.
    Until(Instant),
    /// As long as it takes.
    Forever,
}

/// What a thread found on entering.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entered {
    /// Nothing to remark.
    Consistent,
    /// A holder of one of the locks died, and nobody has recovered the content.
    OwnerDied,
}

impl Vases {
    /// Brings the thread that runs `vcpu` into instance `vh`.
    ///
    /// # Errors
    /// [`VasError::NoInstance`], [`VasError::WouldBlock`], [`VasError::TimedOut`],
    /// [`VasError::Stopping`]; the thread is where it was, with the locks it had.
    pub fn switch(
        &self,
        vcpu: &mut Vcpu,
        vh: u64,
        _wait: Wait,
        _stopping: &dyn Fn() -> bool,
    ) -> Result<Entered, VasError> {
        let here = current();
        if vh == u64::from(here) {
            return Ok(Entered::Consistent);
        }
        if !self.is_active() {
            return Err(VasError::NoInstance { vh });
        }
        let mut guard = self.lock();
        let state = &mut *guard;
        let target = self.look_up(state, vh)?;
        self.machine.announce_instance(vcpu.index(), target)?;
        let root = self.root_of(state, target);
        vcpu.switch_root(root)?;
        self.machine.set_current_instance(vcpu.index(), target)?;
        state.reloaded(vcpu.index());
        set_current(target);
        Ok(Entered::Consistent)
    }

    /// The instance behind a handle, home included, brought up to the store.
    fn look_up(&self, state: &mut State, vh: u64) -> Result<u32, VasError> {
        if vh == 0 {
            return Ok(0);
        }
        let (index, _) = state.instance(vh)?;
        if let Some(store) = state.opened() {
            self.catch_up(state, &store, index)?;
        }
        Ok(index)
    }

    /// What an instance's entry says for CR3.
    fn root_of(&self, state: &State, vh: u32) -> u64 {
        match state.instances.get(&vh) {
            Some(instance) => instance.cr3,
            None => self.machine.home_cr3(),
        }
    }

    /// Puts the vCPU on the root its instance has now.
    pub(super) fn follow_root(&self, state: &mut State, vcpu: &mut Vcpu, vh: u32) {
        let root = self.root_of(state, vh);
        if crate::vm::switching::loadable(root) != vcpu.cr3() && vcpu.switch_root(root).is_err() {
            return;
        }
        state.reloaded(vcpu.index());
    }

    /// Whether the vCPU must load its root anew.
    pub(super) fn wants_reload(&self, vcpu: u32) -> bool {
        self.lock().reload.contains(&vcpu)
    }

    /// vCPUs that run on tables which were replaced.
    #[must_use]
    pub fn stale_vcpus(&self) -> Vec<u32> {
        self.lock().reload.clone()
    }

    /// The thread that runs `vcpu` ends; `died` is whether it was ended by something else than
    /// itself.
    pub fn leave(&self, vcpu: &mut Vcpu, _died: bool) {
        if !self.is_active() {
            return;
        }
        let mut state = self.lock();
        let root = self.machine.home_cr3();
        let home = vcpu
            .switch_root(root)
            .and_then(|()| self.machine.set_current_instance(vcpu.index(), 0));
        super::state::warn_if_failed("bring a thread home", home);
        state.reloaded(vcpu.index());
        set_current(0);
    }

    /// Declares a segment's content consistent again.
    ///
    /// # Errors
    /// [`VasError::NotLocked`] unless the calling thread holds the lock exclusively.
    pub fn recover(&self, _vcpu: &Vcpu, sid: SegId) -> Result<(), VasError> {
        Err(VasError::NotLocked { sid })
    }
}
