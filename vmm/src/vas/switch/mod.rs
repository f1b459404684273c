//! `vas_switch` when the kernel leaves it to the VMM: the first switch after a change of the
//! VAS, locks that are not free, handles that are not attached, and every switch that is asked
//! for as a hypercall.
//!
//! The shape is the kernel's: announce, look at everything, take the locks, load the root. A
//! thread that waits for a lock does so without any lock of the VMM's own; the instance it may
//! fall back to and the one it is going to are kept from being detached meanwhile.

mod drain;
mod inside;
mod leave;
pub(crate) mod locks;

use std::time::Instant;

use seg_lock::{AcquireError, Acquired, Held, SwitchError};

use self::locks::{LockSet, exchange, locks_of};
use crate::store::Store;
use crate::vas::state::instances::{Freshness, Hold, Instance};
use crate::vas::state::{State, Vases};
use crate::vas::{HOME, VasError};
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

/// What makes a thread give up waiting.
#[derive(Clone, Copy)]
pub struct Stops<'a> {
    /// The process is ending.
    pub stopping: &'a dyn Fn() -> bool,
    /// That, or the thread has a signal to handle.
    pub interrupted: &'a dyn Fn() -> bool,
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
    /// [`VasError::NoInstance`], [`VasError::Changed`], [`VasError::WouldBlock`], [`VasError::TimedOut`]: the thread is
    /// where it was, with the locks it had. [`VasError::Stopping`]: likewise, if it was a signal;
    /// if the process is ending, it may be at home.
    pub fn switch(
        &self,
        vcpu: &mut Vcpu,
        vh: u64,
        wait: Wait,
        Stops { stopping, interrupted }: Stops<'_>,
    ) -> Result<Entered, VasError> {
        let here = vcpu.instance();
        if !self.is_active() {
            return if vh == 0 {
                Ok(Entered::Consistent)
            } else {
                Err(VasError::NoInstance { vh })
            };
        }
        let began = Instant::now();
        let (target, old, new, store, held) = {
            let mut guard = self.lock();
            let state = &mut *guard;
            let store = state.attached().store.clone();
            self.serve_nudges(state, vcpu, &store, stopping)?;
            if vh == u64::from(here) {
                return Ok(Entered::Consistent);
            }
            let target = self.look_up(state, vh)?;
            self.switch.announce_instance(vcpu.index(), target)?;
            let old = self.held(state, vcpu)?;
            let new = locks_of(state, target);
            if old.is_empty() && new.is_empty() {
                self.arrive(state, vcpu, target)?;
                return Ok(Entered::Consistent);
            }
            if self.is_kept_out(&old, &new) {
                self.switch.set_current_instance(vcpu.index(), here)?;
                drop(guard);
                return Err(self.park(stopping));
            }
            let both = [here, target].into_iter().filter_map(|vh| state.instances.get(vh));
            let held: Vec<Hold> = both.map(Instance::hold).collect();
            (target, old, new, store, held)
        };
        // Who waits without limit gives locks back on the way, and could not have them again
        // without waiting: for a signal he waits on.
        let stops = match wait {
            Wait::Forever if !old.is_empty() => stopping,
            _ => interrupted,
        };
        let stops = || stops() || self.is_kept_out(&old, &new);
        let taken = exchange(&old, &new, wait, &store, &stops, began);
        let mut guard = self.lock();
        let state = &mut *guard;
        drop(held);
        match taken {
            Ok(_) if stopping() && !old.writes() => Err(self.turn_back(state, vcpu, &new, &store)?),
            Ok(verdict) => {
                self.arrive(state, vcpu, target)?;
                Ok(match verdict {
                    Acquired::Clean => Entered::Consistent,
                    Acquired::OwnerDied => Entered::OwnerDied,
                })
            }
            Err(SwitchError { cause, held, .. }) => {
                if held == Held::Nothing && !old.is_empty() {
                    self.arrive(state, vcpu, 0)?;
                } else {
                    self.switch.set_current_instance(vcpu.index(), here)?;
                }
                drop(guard);
                if cause == AcquireError::Stopped && self.is_kept_out(&old, &new) {
                    return Err(self.park(stopping));
                }
                Err(match cause {
                    AcquireError::WouldBlock => VasError::WouldBlock,
                    AcquireError::TimedOut => VasError::TimedOut,
                    AcquireError::Stopped => VasError::Stopping,
                })
            }
        }
    }

    /// The locks came free because the process ends: a thread that waited for them does not begin
    /// any more, and has changed nothing. (One that came from writing has.) It goes home.
    fn turn_back(
        &self,
        state: &mut State,
        vcpu: &mut Vcpu,
        taken: &LockSet,
        store: &Store,
    ) -> Result<VasError, VasError> {
        let none = LockSet::default();
        // Nothing is taken, so nothing is waited for.
        let _ = exchange(taken, &none, Wait::Never, store, &|| false, Instant::now());
        self.arrive(state, vcpu, HOME)?;
        Ok(VasError::Stopping)
    }

    /// The instance behind a handle, home included, brought up to the store.
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
