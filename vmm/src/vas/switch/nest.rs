//! Nested visits: `vas_nest` begins one from where the thread is, and `vas_return` ends it.
//!
//! The visit that the thread is in is suspended: nothing of it is given up, committed or shown anew, and
//! going back needs no lock that might not be free. Since it keeps locks, a thread with one waits for
//! others a limited time only, and never for one that it has itself.

use std::time::Duration;

use seg_lock::{Held, LockOutcome, Patience};

use super::locks::{LockSet, exchange, locks_of};
use super::{Stops, told};
use crate::vas::state::instances::{Hold, Instance};
use crate::vas::state::{State, Vases};
use crate::vas::{HOME, VasError, at_most};
use crate::vm::Vcpu;

/// How long a thread waits for locks that holds others: one that has those may be waiting for these.
const PATIENCE: Duration = Duration::from_secs(10);

impl Vases {
    /// Brings the thread that runs `vcpu` into instance `vh`, from where [`Vases::end_nested`] takes it back to
    /// where it is now. If a lock could not be acquired, it is where it was.
    ///
    /// # Errors
    /// As [`Vases::switch`]; [`VasError::Suspended`] for a lock that it has itself, or that was not free in
    /// time while it has others; [`VasError::TooDeep`].
    pub fn nest(
        &self,
        vcpu: &mut Vcpu,
        vh: u64,
        patience: Patience,
        stops: Stops<'_>,
    ) -> Result<LockOutcome, VasError> {
        let (here, index) = (vcpu.instance(), vcpu.index());
        if !self.is_active() {
            // At home there is nothing to go back to.
            return Err(VasError::NoInstance { vh });
        }
        let (target, old, new, store, held) = {
            let mut guard = self.lock();
            let state = &mut *guard;
            let store = state.attached().store.clone();
            self.wake_waiters(state, vcpu, &store, stops.stopping)?;
            state.visits.check_depth(index)?;
            let target = self.look_up(state, vh)?;
            self.switch.announce_instance(index, target)?;
            let (old, new) = (self.held(state, vcpu)?, locks_of(state, target));
            let checked = match old.excludes(&new) {
                true => Err(VasError::Suspended { limit: PATIENCE }),
                false => state.check_suspended(index, &new),
            };
            if let Err(error) = checked {
                self.switch.set_current_instance(index, here)?;
                return Err(error);
            }
            let both = [here, target].map(|vh| state.instances.get(vh).map(Instance::hold));
            (target, old, new, store, both)
        };
        let writes = old.writes() || self.lock().suspended_write(index);
        let limited = self.patience(vcpu, &old, patience);
        let stop = || (stops.interrupted)() || self.is_kept_out(writes, &new);
        let wait = || exchange(&LockSet::default(), &new, limited.patience, &store, &stop);
        let switched = self.waiting_for(index, target, wait);
        let mut guard = self.lock();
        let state = &mut *guard;
        let [hold, _target] = held;
        if switched.held != Held::New {
            self.switch.set_current_instance(index, here)?;
            drop(guard);
            if switched.outcome == LockOutcome::Interrupted && self.is_kept_out(writes, &new) {
                return Ok(self.park(stops.stopping));
            }
            return limited.outcome(switched.outcome);
        }
        if let Err(error) = self.begin_nested(state, vcpu, target, old, &new, hold) {
            // Nothing is acquired, so nothing is waited for.
            let _ = exchange(&new, &LockSet::default(), Patience::Try, &store, &|| false);
            return Err(error);
        }
        Ok(told(switched.outcome, &new))
    }

    /// The thread has the locks `new` of instance `target`. After an error it is where it was, and still has
    /// them.
    fn begin_nested(
        &self,
        state: &mut State,
        vcpu: &mut Vcpu,
        target: u32,
        old: LockSet,
        new: &LockSet,
        hold: Option<Hold>,
    ) -> Result<(), VasError> {
        let (here, index) = (vcpu.instance(), vcpu.index());
        if let Err(error) = state.check_upgrade(index, target) {
            self.switch.set_current_instance(index, here)?;
            return Err(error);
        }
        state.visits.suspend(index, here, old, hold);
        // Before the thread's status says that it is elsewhere.
        let begun =
            self.tell_suspended(state, here).and_then(|()| match state.is_versioned(target) {
                true => state.begin_visit(index, target, new.clone()),
                false => Ok(()),
            });
        if let Err(error) = begun {
            state.visits.resume(index);
            self.settle_in(state, vcpu, here)?;
            self.tell_suspended(state, here)?;
            return Err(error);
        }
        self.settle_in(state, vcpu, target)
    }

    /// Ends the visit of the thread that runs `vcpu` and brings it back into the one that was suspended for it,
    /// which is as it was. What it has changed in versioned segments is committed. Returns where it is then.
    ///
    /// # Errors
    /// [`VasError::NoneSuspended`]; those of [`Vases::commit`], with the thread where it was.
    pub fn end_nested(&self, vcpu: &mut Vcpu, stops: Stops<'_>) -> Result<u32, VasError> {
        let index = vcpu.index();
        if !self.is_active() || self.lock().visits.suspended(index).is_empty() {
            return Err(VasError::NoneSuspended);
        }
        self.settle(vcpu)?;
        let mut guard = self.lock();
        let state = &mut *guard;
        let store = state.attached().store.clone();
        self.wake_waiters(state, vcpu, &store, stops.stopping)?;
        let old = self.held(state, vcpu)?;
        let tables = state.writers_tables(index);
        state.end_visit(index, true);
        let Some((vh, _)) = state.visits.resume(index) else {
            return Err(VasError::NoneSuspended);
        };
        self.switch.announce_instance(index, vh)?;
        let settled = self.settle_in(state, vcpu, vh);
        // After the thread's status says that it is there again.
        let settled = settled.and(self.tell_suspended(state, vh));
        // As in `switch`: as long as the lock is held.
        if let Some(tables) = tables {
            state.offer_to_kernel(tables);
        }
        drop(guard);
        let _ = exchange(&old, &LockSet::default(), Patience::Try, &store, &|| false);
        settled.map(|()| vh)
    }

    /// Tells other VMs how many visits to an instance are suspended, so that none takes a segment from it.
    pub(super) fn tell_suspended(&self, state: &mut State, vh: u32) -> Result<(), VasError> {
        if vh == HOME {
            return Ok(());
        }
        Ok(self.switch.set_suspended(vh, state.visits.suspended_in(vh))?)
    }

    /// How long the thread waits that holds `old`, and locks in suspended visits.
    pub(super) fn patience(&self, vcpu: &Vcpu, old: &LockSet, wanted: Patience) -> Limited {
        let state = self.lock();
        let mut suspended = state.visits.suspended(vcpu.index()).iter();
        let is_limited = !old.is_empty() || suspended.any(|visit| !visit.locks.is_empty());
        match wanted {
            Patience::Forever if is_limited => {
                Limited { patience: at_most(PATIENCE), is_less: true }
            }
            wanted => Limited::not(wanted),
        }
    }
}

/// How long a thread waits.
#[derive(Clone, Copy)]
pub(super) struct Limited {
    pub(super) patience: Patience,
    /// It would wait longer if it held no locks.
    is_less: bool,
}

impl Limited {
    /// As long as it wants.
    pub(super) fn not(patience: Patience) -> Limited {
        Limited { patience, is_less: false }
    }

    /// What the thread is told when it has waited.
    ///
    /// # Errors
    /// [`VasError::Suspended`].
    pub(super) fn outcome(self, outcome: LockOutcome) -> Result<LockOutcome, VasError> {
        match outcome {
            LockOutcome::TimedOut if self.is_less => Err(VasError::Suspended { limit: PATIENCE }),
            outcome => Ok(outcome),
        }
    }
}

impl State {
    /// Checks that the thread on `vcpu` keeps itself from none of the locks by a suspended visit.
    ///
    /// # Errors
    /// [`VasError::Suspended`].
    pub(super) fn check_suspended(&self, vcpu: u32, new: &LockSet) -> Result<(), VasError> {
        match self.visits.suspended(vcpu).iter().any(|visit| visit.locks.excludes(new)) {
            true => Err(VasError::Suspended { limit: PATIENCE }),
            false => Ok(()),
        }
    }

    /// Whether the thread is in the middle of writing in a suspended visit.
    pub(super) fn suspended_write(&self, vcpu: u32) -> bool {
        self.visits.suspended(vcpu).iter().any(|visit| visit.locks.writes())
    }
}
