//! `vas_switch` when the kernel leaves it to the VMM: the first switch after a change of the VAS,
//! locks that are not free, handles that are not attached, and every switch requested by hypercall.
//!
//! The steps are the kernel's: announce, check everything, acquire the locks, load the root. A
//! thread that waits for a lock does so without any lock of the VMM's own; the instance it may fall
//! back to and the one it is going to are kept from being detached meanwhile.

mod drain;
mod inside;
mod leave;
pub(crate) mod locks;
mod nest;

use seg_lock::{Held, LockOutcome, Patience};

use self::locks::{LockSet, exchange, locks_of};
use self::nest::Limited;
use crate::store::Store;
use crate::vas::state::instances::{Freshness, Hold, Instance};
use crate::vas::state::{State, Vases};
use crate::vas::{HOME, VasError};
use crate::vm::Vcpu;

/// What makes a thread give up waiting.
#[derive(Clone, Copy)]
pub struct Stops<'a> {
    /// The process is ending.
    pub stopping: &'a dyn Fn() -> bool,
    /// That, or the thread has a signal to handle.
    pub interrupted: &'a dyn Fn() -> bool,
}

impl Vases {
    /// Brings the thread that runs `vcpu` into instance `vh`, as far as `patience` goes. If a lock
    /// could not be acquired, the thread is where it was, with the locks it had; only if the process
    /// is ending, it may be at home.
    ///
    /// A thread that has changed versioned segments commits before it leaves.
    ///
    /// # Errors
    /// [`VasError::NoInstance`], [`VasError::Changed`]: likewise, the thread is where it was. So it is
    /// when it cannot commit ([`Vases::commit`]), and when it reads what it would write, and there is a newer
    /// version ([`VasError::Newer`]). When a version cannot be read, it is at home.
    pub fn switch(
        &self,
        vcpu: &mut Vcpu,
        vh: u64,
        patience: Patience,
        Stops { stopping, interrupted }: Stops<'_>,
    ) -> Result<LockOutcome, VasError> {
        let here = vcpu.instance();
        if !self.is_active() {
            let nowhere = VasError::NoInstance { vh };
            return if vh == 0 { Ok(LockOutcome::Acquired) } else { Err(nowhere) };
        }
        self.settle_before(vcpu, vh)?;
        let (target, old, new, writes, store, held) = {
            let mut guard = self.lock();
            let state = &mut *guard;
            let store = state.attached().store.clone();
            self.wake_waiters(state, vcpu, &store, stopping)?;
            if vh == u64::from(here) || state.stood_for(here).is_some_and(|it| vh == u64::from(it))
            {
                return Ok(LockOutcome::Acquired);
            }
            let target = self.look_up(state, vh)?;
            self.switch.announce_instance(vcpu.index(), target)?;
            let old = self.held(state, vcpu)?;
            let new = locks_of(state, target);
            if let Err(error) = state.check_suspended(vcpu.index(), &new) {
                self.switch.set_current_instance(vcpu.index(), here)?;
                return Err(error);
            }
            if old.is_empty() && new.is_empty() {
                self.arrive_or_go_home(state, vcpu, target, &new, &store)?;
                return Ok(LockOutcome::Acquired);
            }
            let writes = old.writes() || state.suspended_write(vcpu.index());
            if self.is_kept_out(writes, &new) {
                self.switch.set_current_instance(vcpu.index(), here)?;
                drop(guard);
                return Ok(self.park(stopping));
            }
            if new.is_empty() && state.visits.of(vcpu.index()).is_some() {
                let tables = state.writers_tables(vcpu.index());
                let arrived = self.arrive_or_go_home(state, vcpu, target, &new, &store);
                // As long as the lock is held: what the kernel finds is the newest version, and no visit has
                // it yet.
                if let Some(tables) = tables {
                    state.offer_to_kernel(tables);
                }
                drop(guard);
                // Nothing is acquired, so nothing is waited for.
                let _ = exchange(&old, &new, Patience::Try, &store, &|| false);
                return arrived.map(|()| LockOutcome::Acquired);
            }
            let both = [here, target].into_iter().filter_map(|vh| state.instances.get(vh));
            let held: Vec<Hold> = both.map(Instance::hold).collect();
            (target, old, new, writes, store, held)
        };
        let is_nested = !self.lock().visits.suspended(vcpu.index()).is_empty();
        let limited = match is_nested {
            true => self.patience(vcpu, &old, patience),
            false => Limited::not(patience),
        };
        let patience = limited.patience;
        // A thread that waits without limit releases locks on the way, and could not reacquire them
        // without waiting: on a signal it keeps waiting.
        let stops = match patience {
            Patience::Forever if !old.is_empty() => stopping,
            _ => interrupted,
        };
        let stops = || stops() || self.is_kept_out(writes, &new);
        let wait = || exchange(&old, &new, patience, &store, &stops);
        let switched = self.waiting_for(vcpu.index(), target, wait);
        let mut guard = self.lock();
        let state = &mut *guard;
        drop(held);
        match switched.held {
            Held::New if stopping() && !writes => {
                // The locks came free because the process is ending: a thread that waited for them
                // no longer begins, and has changed nothing. (One that came from writing has.)
                // Nothing is acquired, so nothing is waited for.
                let _ = exchange(&new, &LockSet::default(), Patience::Try, &store, &|| false);
                self.arrive(state, vcpu, HOME)?;
                return Ok(LockOutcome::Interrupted);
            }
            Held::New => match state.check_upgrade(vcpu.index(), target) {
                Ok(()) => self.arrive_or_go_home(state, vcpu, target, &new, &store)?,
                Err(error) => {
                    self.go_back(state, vcpu, &old, &new, &store)?;
                    return Err(error);
                }
            },
            Held::Nothing if !old.is_empty() => self.arrive(state, vcpu, HOME)?,
            Held::Nothing | Held::Old => {
                self.switch.set_current_instance(vcpu.index(), here)?;
            }
        }
        drop(guard);
        if switched.outcome == LockOutcome::Interrupted && self.is_kept_out(writes, &new) {
            return Ok(self.park(stopping));
        }
        limited.outcome(told(switched.outcome, &new))
    }

    /// The thread has the locks `new` and stays where it is, with those it had, `old`; if one of these is
    /// no longer free, it is at home.
    fn go_back(
        &self,
        state: &mut State,
        vcpu: &mut Vcpu,
        old: &LockSet,
        new: &LockSet,
        store: &Store,
    ) -> Result<(), VasError> {
        match exchange(new, old, Patience::Try, store, &|| false).held {
            Held::New => Ok(self.switch.set_current_instance(vcpu.index(), vcpu.instance())?),
            Held::Old => {
                let _ = exchange(new, &LockSet::default(), Patience::Try, store, &|| false);
                self.arrive(state, vcpu, HOME)
            }
            Held::Nothing => self.arrive(state, vcpu, HOME),
        }
    }

    /// Makes `target` the instance `vcpu` is in; its locks, `new`, are held. If versioned segments
    /// cannot be read, they are released, and the thread is at home.
    fn arrive_or_go_home(
        &self,
        state: &mut State,
        vcpu: &mut Vcpu,
        target: u32,
        new: &LockSet,
        store: &Store,
    ) -> Result<(), VasError> {
        let Err(error) = self.arrive(state, vcpu, target) else { return Ok(()) };
        // Nothing is acquired, so nothing is waited for.
        let _ = exchange(new, &LockSet::default(), Patience::Try, store, &|| false);
        self.arrive(state, vcpu, HOME)?;
        Err(error)
    }

    /// Commits what a thread has changed in versioned segments before it leaves them for `vh`.
    fn settle_before(&self, vcpu: &Vcpu, vh: u64) -> Result<(), VasError> {
        {
            let mut state = self.lock();
            let Some(visit) = state.visits.of(vcpu.index()) else { return Ok(()) };
            let stood_for = state.stood_for(visit.vh);
            if vh == u64::from(visit.vh) || stood_for.is_some_and(|it| vh == u64::from(it)) {
                return Ok(());
            }
            // It stays where it is, with nothing committed, if it cannot go there.
            self.look_up(&mut state, vh)?;
        }
        self.settle(vcpu)
    }

    /// Makes `vh` the instance `vcpu` is in; its locks are held. A thread that was in another one
    /// with versioned segments has committed, or its changes are gone.
    pub(crate) fn arrive(
        &self,
        state: &mut State,
        vcpu: &mut Vcpu,
        vh: u32,
    ) -> Result<(), VasError> {
        let index = vcpu.index();
        state.end_visit(index, true);
        if state.is_versioned(vh) {
            let locks = locks_of(state, vh);
            state.begin_visit(index, vh, locks)?;
        }
        self.settle_in(state, vcpu, vh)
    }

    /// Puts the vCPU on the tables of `vh`, where its thread is from now on: in a visit that has begun, or
    /// was suspended.
    fn settle_in(&self, state: &mut State, vcpu: &mut Vcpu, vh: u32) -> Result<(), VasError> {
        let index = vcpu.index();
        let locks = state.instances.get(vh).map_or(0..0, |instance| instance.shown.locks.clone());
        let root = self.root_of(state, index, vh);
        // In the middle of the kernel it is a thread of a process that ends, and that enters
        // the guest no more.
        if !vcpu.is_in_kernel() {
            self.switch.switch_root(vcpu, root)?;
        }
        let is_kernels = state.visits.of(index).map(|visit| visit.is_kernels);
        vcpu.set_visiting(is_kernels.is_some());
        self.switch.set_view(index, if is_kernels == Some(true) { root } else { 0 })?;
        if is_kernels == Some(false) {
            self.switch.leave_switches_to_vmm(index)?;
        } else {
            self.switch.set_held_locks(index, locks.start, locks.len() as u32)?;
        }
        self.switch.set_current_instance(index, vh)?;
        state.tables.reloaded(index);
        vcpu.set_instance(vh);
        Ok(())
    }

    /// The instance behind a handle, home included, brought up to date with the store.
    fn look_up(&self, state: &mut State, vh: u64) -> Result<u32, VasError> {
        if vh == 0 {
            return Ok(HOME);
        }
        let (vh, _) = state.instances.named(vh)?;
        self.reconcile(state, vh)?;
        match state.instances.known(vh).freshness {
            Freshness::Stale => Err(VasError::Changed { vh }),
            Freshness::Current { .. } | Freshness::Incomplete => Ok(vh),
        }
    }
}

/// What a thread is told that has the locks `new`, if a holder of one died: a versioned segment was put right
/// on the way.
fn told(outcome: LockOutcome, new: &LockSet) -> LockOutcome {
    let is_right = outcome == LockOutcome::OwnerDied && !new.is_inconsistent();
    if is_right { LockOutcome::Acquired } else { outcome }
}
