//! Attaching late: a lockable segment that was attached to the VAS while a thread was inside
//! appears only once its lock is acquired.
//!
//! If the thread that touches it is alone inside, its lock is acquired now, in addition to those it
//! has: it keeps those, and so gives up after a while.

use std::time::Duration;

use abi::{Right, SegId};
use seg_lock::{LockOutcome, Patience};

use super::NewMember;
use crate::vas::VasError;
use crate::vas::opened::Opened;
use crate::vas::residency::Release;
use crate::vas::residency::lock_page::at_most;
use crate::vas::state::{State, Vases};
use crate::vas::switch::locks::{exchange, lock_mode};
use crate::vm::Vcpu;

/// How long a touch may wait for the lock of a segment that was attached meanwhile.
const LATE_WAIT: Duration = Duration::from_secs(10);

impl Vases {
    /// Attaches, for the thread inside, what the VAS of instance `vh` has and the instance lacks.
    /// Returns whether something has changed.
    pub(crate) fn attach_late(
        &self,
        vcpu: &mut Vcpu,
        vh: u32,
        stopping: &dyn Fn() -> bool,
    ) -> Result<bool, VasError> {
        let patience = at_most(LATE_WAIT);
        let newcomers = {
            let mut guard = self.lock();
            let state = &mut *guard;
            let changes = self.switch.changes()?;
            let instance = state.instances.get(vh);
            if instance.is_none_or(|instance| instance.freshness.is_current(changes))
                // What a thread inside sees does not change.
                || state.is_versioned(vh)
                || self.is_occupied(vh, Some(vcpu.index()))?
            {
                return Ok(false);
            }
            state.lockable_newcomers(vh)?
        };
        let mut has_changed = false;
        for newcomer in newcomers {
            has_changed |= self.attach_one_late(vcpu, vh, newcomer, patience, stopping)?;
        }
        Ok(has_changed)
    }

    /// Acquires a new segment's lock for the thread inside, then adds the segment: in this order,
    /// so that there is never a segment without its lock. Returns whether it was added.
    fn attach_one_late(
        &self,
        vcpu: &mut Vcpu,
        vh: u32,
        newcomer: NewMember,
        patience: Patience,
        stopping: &dyn Fn() -> bool,
    ) -> Result<bool, VasError> {
        let NewMember { sid, right, .. } = newcomer;
        let (old, new, store, hold) = {
            let mut guard = self.lock();
            let state = &mut *guard;
            let Some(instance) = state.instances.get(vh) else { return Ok(false) };
            let hold = instance.hold();
            let opened = state.attached();
            let old = self.held(state, vcpu)?;
            // To be able to reach the lock. Not for writing yet: leaving would mark clean what a
            // dead writer has left.
            let probe = state.probe(sid, Right::Read, &opened.store)?;
            state.residency.acquire(sid, Right::Read, probe, &opened, &mut state.tables)?;
            let Some(lock) = state.residency.of_member(sid).lock.clone() else {
                state.release_reader(sid, &opened);
                return Ok(false);
            };
            let mut new = old.clone();
            new.insert(sid, lock_mode(right), lock);
            (old, new, opened.store.clone(), hold)
        };
        let taken = exchange(&old, &new, patience, &store, stopping).outcome;
        let mut guard = self.lock();
        let state = &mut *guard;
        let opened = state.attached();
        // With it, the instance could not be hidden from others.
        drop(hold);
        let has_joined = match taken {
            LockOutcome::Acquired => {
                self.add_member(state, &opened, vh, newcomer, Some(vcpu.index())).is_ok()
            }
            // Only a switch can report a dead holder: until then the segment is left out.
            _ => false,
        };
        if has_joined {
            self.arrive(state, vcpu, vh)?;
        } else if taken.is_held() {
            // Nothing is acquired, so nothing is waited for. It fails only if the kernel's record
            // of the held locks was false; then what is held is the kernel's business.
            let _ = exchange(&new, &old, Patience::Try, &store, stopping);
        }
        state.release_reader(sid, &opened);
        Ok(has_joined)
    }
}

impl State {
    fn release_reader(&mut self, sid: SegId, opened: &Opened) {
        self.residency.release(sid, Right::Read, Release::Orderly, opened, &mut self.tables);
    }

    /// Lockable segments that an instance's VAS has and the instance lacks.
    fn lockable_newcomers(&mut self, vh: u32) -> Result<Vec<NewMember>, VasError> {
        let instance = self.instances.known(vh);
        let traits = instance.traits;
        if traits.pinned {
            return Ok(Vec::new());
        }
        let store = self.attached().store.clone();
        let record = store.vas(instance.vid)?;
        let mut newcomers = Vec::new();
        for wanted in &record.segments {
            let right = traits.right_on(wanted);
            // What cannot be attached is left out, as when the VAS is entered.
            let Ok(probe) = self.probe(wanted.sid, right, &store) else { continue };
            let members = &self.instances.known(vh).members;
            if probe.lockable && members.overlapping(&probe.range).is_none() {
                newcomers.push(NewMember { sid: wanted.sid, right, local: false });
            }
        }
        Ok(newcomers)
    }
}
