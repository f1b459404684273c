//! A thread ends: it goes home, and its locks are released.

use seg_lock::Mode;

use super::locks::LockSet;
use crate::store::Store;
use crate::vas::error::warn_if_failed;
use crate::vas::state::{State, Vases};
use crate::vas::{HOME, VasError};
use crate::vm::Vcpu;

impl Vases {
    /// The thread that runs `vcpu` ends: its locks are released and it goes home. What it held
    /// exclusively may be half changed, and is marked so, whatever ended it: a program that returns
    /// from `main` while one of its threads writes has asked that thread no more than one that is
    /// killed.
    pub fn leave(&self, vcpu: &mut Vcpu) {
        if !self.is_active() {
            return;
        }
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(opened) = state.opened() else { return };
        // It may have been in the kernel at its last exit that was noted.
        let vh = self.switch.current_instance(vcpu.index()).unwrap_or(HOME);
        self.adopt(state, vcpu, vh);
        let went = self
            .give_back(state, vcpu, &opened.store)
            .inspect(|()| state.end_visit(vcpu.index(), false))
            .and_then(|()| self.arrive(state, vcpu, HOME));
        warn_if_failed("bring a thread home", went);
        // Whatever failed: the next thread on this vCPU begins at home.
        vcpu.set_instance(HOME);
    }

    fn give_back(&self, state: &mut State, vcpu: &Vcpu, store: &Store) -> Result<(), VasError> {
        let stopping = || false;
        let left: Vec<u32> = state.visits.suspended(vcpu.index()).iter().map(|it| it.vh).collect();
        let suspended = state.visits.abandon(vcpu.index(), &mut state.tables);
        left.into_iter().try_for_each(|vh| self.tell_suspended(state, vh))?;
        self.wake_waiters(state, vcpu, store, &stopping)?;
        // In the middle of a switch the vCPU's page may name locks that are not yet or no longer
        // held, and releasing one of those would take it from another thread. What it does hold is
        // wiped with the VM's slot (`close`), as after a kill.
        let held = match vcpu.is_in_kernel() {
            true => LockSet::default(),
            false => self.held(state, vcpu)?,
        };
        let all = std::iter::once(held).chain(suspended);
        for (sid, mode, lock) in all.flat_map(LockSet::into_locks) {
            // What was not committed is gone.
            let is_raw = !state.residency.get(sid).is_some_and(|segment| segment.is_versioned());
            if mode == Mode::Exclusive && is_raw {
                lock.mark_inconsistent();
            }
            lock.user(store, &stopping).release(mode);
        }
        Ok(())
    }
}
