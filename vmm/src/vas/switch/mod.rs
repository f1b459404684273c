//! `vas_switch` when the kernel leaves it to the VMM: the first switch after a change of the
//! VAS, locks that are not free, handles that are not attached, and every switch that is asked
//! for as a hypercall.
//!
//! The shape is the kernel's: announce, look at everything, take the locks, load the root. A
//! thread that waits for a lock does so without any lock of the VMM's own; the instance it may
//! fall back to and the one it is going to are kept from being detached meanwhile.

mod drain;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use abi::{LeaseId, Right, SegId};
use seg_lock::{
    AcquireError, Acquired, Held, LockNeed, LockOps, Mode, Patience, SwitchError, switch_locks,
};

use crate::kernel::switch_tables::loadable;
use crate::store::{Lease, Store};
use crate::vas::HOME;
use crate::vas::VasError;
use crate::vas::reconcile::NewMember;
use crate::vas::residency::lock_page::{LockPage, LockUser};
use crate::vas::state::{State, Vases, warn_if_failed};
use crate::vas::tables::instance::{Hold, Instance};
use crate::vm::Vcpu;

/// How long a switch in the kernel that fails can take, and how often that is waited for: a
/// vCPU can be kept from running in the middle.
const IN_PASSING: Duration = Duration::from_micros(100);
const IN_PASSING_TRIES: u32 = 20;

/// How long a touch may wait for the lock of a segment that was attached meanwhile.
const CATCH_UP_WAIT: Duration = Duration::from_secs(10);

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

/// Locks by segment, each with how it is or is to be held.
#[derive(Default)]
pub(crate) struct LockSet(pub(crate) BTreeMap<SegId, (Mode, LockPage)>);

impl LockSet {
    fn needs(&self) -> Vec<LockNeed> {
        self.0.iter().map(|(&sid, &(mode, _))| LockNeed { sid, mode }).collect()
    }
}

/// The calling thread's way to the locks of two sets.
struct Ops<'a> {
    pages: BTreeMap<SegId, &'a LockPage>,
    store: &'a Store,
    stopping: &'a dyn Fn() -> bool,
    began: Instant,
}

impl Ops<'_> {
    fn user(&self, sid: SegId) -> Option<LockUser<'_>> {
        self.pages.get(&sid).map(|page| page.user(self.store, self.stopping, self.began))
    }
}

impl LockOps for Ops<'_> {
    fn acquire(&self, need: LockNeed, patience: Patience) -> Result<Acquired, AcquireError> {
        self.user(need.sid)
            .map_or(Err(AcquireError::WouldBlock), |u| u.acquire(need.mode, patience))
    }
    fn release(&self, need: LockNeed) {
        if let Some(user) = self.user(need.sid) {
            user.release(need.mode);
        }
    }
    fn upgrade(&self, sid: SegId, patience: Patience) -> Result<Acquired, AcquireError> {
        self.user(sid).map_or(Err(AcquireError::WouldBlock), |user| user.upgrade(patience))
    }
    fn downgrade(&self, sid: SegId) {
        if let Some(user) = self.user(sid) {
            user.downgrade();
        }
    }
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
            let Some(store) = state.opened() else { return Err(VasError::NoInstance { vh }) };
            self.serve_nudges(state, vcpu, &store, stopping)?;
            if vh == u64::from(here) {
                return Ok(Entered::Consistent);
            }
            let target = self.look_up(state, &store, vh)?;
            self.switch.announce_instance(vcpu.index(), target)?;
            let old = self.held(state, vcpu)?;
            let new = locks_of(state, target);
            if old.0.is_empty() && new.0.is_empty() {
                self.arrive(state, vcpu, target)?;
                return Ok(Entered::Consistent);
            }
            if self.is_kept_out(&old, &new) {
                self.switch.set_current_instance(vcpu.index(), here)?;
                drop(guard);
                return Err(self.park(stopping));
            }
            let both = [here, target].into_iter().filter_map(|vh| state.instances.get(&vh));
            let held: Vec<Hold> = both.map(Instance::hold).collect();
            (target, old, new, store, held)
        };
        // Who waits without limit gives locks back on the way, and could not have them again
        // without waiting: for a signal he waits on.
        let stops = match wait {
            Wait::Forever if !old.0.is_empty() => stopping,
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
                if held == Held::Nothing && !old.0.is_empty() {
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

    /// A lockable segment that was attached to the VAS while the thread was inside appears only
    /// when its lock is taken. If the thread is alone inside, this is done now, in addition to
    /// the locks it has: it keeps those, and so gives up after a while. Returns whether
    /// something has changed.
    pub(crate) fn catch_up_inside(
        &self,
        vcpu: &mut Vcpu,
        vh: u32,
        stopping: &dyn Fn() -> bool,
    ) -> Result<bool, VasError> {
        let began = Instant::now();
        let newcomers = {
            let mut guard = self.lock();
            let state = &mut *guard;
            let changes = self.switch.changes()?;
            let behind = state.instances.get(&vh).is_some_and(|i| i.checked_at != changes);
            let Some(store) = state.opened().filter(|_| behind) else { return Ok(false) };
            if self.is_occupied_but_for(vh, Some(vcpu.index()))? {
                return Ok(false);
            }
            self.lockable_newcomers(state, &store, vh)?
        };
        let mut has_changed = false;
        for newcomer in newcomers {
            has_changed |= self.bring_in(vcpu, vh, newcomer, began, stopping)?;
        }
        Ok(has_changed)
    }

    /// Takes a newcomer's lock for the thread inside, then lets the newcomer join: in this
    /// order, so that at no time there is a segment without its lock. Returns whether it has.
    fn bring_in(
        &self,
        vcpu: &mut Vcpu,
        vh: u32,
        newcomer: NewMember,
        began: Instant,
        stopping: &dyn Fn() -> bool,
    ) -> Result<bool, VasError> {
        let NewMember { sid, right, .. } = newcomer;
        let (old, new, store, held) = {
            let mut guard = self.lock();
            let state = &mut *guard;
            let Some(store) = state.opened() else { return Ok(false) };
            let old = self.held(state, vcpu)?;
            // To be able to reach the lock. Not for writing yet: leaving would call clean
            // what a dead writer has left.
            state.use_segment(sid, Right::Read, &store, &self.switch)?;
            let lock = state.segments.get(&sid).and_then(|segment| segment.lock.clone());
            let (Some(lock), Some(instance)) = (lock, state.instances.get(&vh)) else {
                state.unuse_segment(sid, Right::Read, true, &self.machine);
                return Ok(false);
            };
            let held = instance.hold();
            let mut new = LockSet(old.0.clone());
            new.0.insert(sid, (lock_mode(right), lock));
            (old, new, store, held)
        };
        let wait = began.checked_add(CATCH_UP_WAIT).map_or(Wait::Never, Wait::Until);
        let taken = exchange(&old, &new, wait, &store, stopping, began);
        let mut guard = self.lock();
        let state = &mut *guard;
        drop(held);
        let joined = match taken {
            Ok(Acquired::Clean) => {
                self.join(state, &store, vh, newcomer, Some(vcpu.index())).is_ok()
            }
            // Of a dead holder only a switch can tell: until then the segment stays away.
            Ok(Acquired::OwnerDied) | Err(_) => false,
        };
        if joined {
            self.arrive(state, vcpu, vh)?;
        } else if taken.is_ok() {
            // Nothing is taken, so nothing is waited for. It fails only if the kernel's words
            // of what is held were lies; then what is held is the kernel's business.
            let _ = exchange(&new, &old, Wait::Never, &store, stopping, began);
        }
        state.unuse_segment(sid, Right::Read, true, &self.machine);
        Ok(joined)
    }

    /// Makes `vh` the instance `vcpu` is in; its locks are held.
    fn arrive(&self, state: &mut State, vcpu: &mut Vcpu, vh: u32) -> Result<(), VasError> {
        let locks = state.instances.get(&vh).map_or(0..0, |instance| instance.locks.clone());
        let root = self.root_of(state, vh);
        // In the middle of the kernel it is a thread of a process that ends, and that enters
        // the guest no more.
        if !vcpu.is_in_kernel() {
            self.switch.switch_root(vcpu, root)?;
        }
        self.switch.set_held_locks(vcpu.index(), locks.start, locks.len() as u32)?;
        self.switch.set_current_instance(vcpu.index(), vh)?;
        state.reloaded(vcpu.index());
        vcpu.set_instance(vh);
        Ok(())
    }

    /// Wakes those who waited for locks that the kernel has given back for this vCPU.
    fn serve_nudges(
        &self,
        state: &State,
        vcpu: &Vcpu,
        store: &Store,
        stopping: &dyn Fn() -> bool,
    ) -> Result<(), VasError> {
        let Some((first, count)) = self.switch.take_waited_for(vcpu.index())? else {
            return Ok(());
        };
        let began = Instant::now();
        for page in self.pages(state, first, count)? {
            page.user(store, stopping, began).nudge();
        }
        Ok(())
    }

    /// The lock pages that references `first` and following name.
    fn pages(&self, state: &State, first: u32, count: u32) -> Result<Vec<LockPage>, VasError> {
        let refs = self.switch.lock_refs(first, count)?;
        Ok(refs
            .iter()
            .filter_map(|reference| {
                let sid = state.locked_by_page.get(&LockPage::index_of(reference.page))?;
                state.segments.get(sid)?.lock.clone()
            })
            .collect())
    }

    /// What the thread that runs `vcpu` holds.
    fn held(&self, state: &State, vcpu: &Vcpu) -> Result<LockSet, VasError> {
        let (first, count) = self.switch.held_locks(vcpu.index())?;
        let mut held = LockSet::default();
        for reference in self.switch.lock_refs(first, count)? {
            let index = LockPage::index_of(reference.page);
            let Some(&sid) = state.locked_by_page.get(&index) else { continue };
            let Some(lock) = state.segments.get(&sid).and_then(|s| s.lock.clone()) else {
                continue;
            };
            let mode = if reference.exclusive == 0 { Mode::Shared } else { Mode::Exclusive };
            held.0.insert(sid, (mode, lock));
        }
        Ok(held)
    }

    /// The VM's lease, and the segments whose locks the thread that runs `vcpu` holds.
    pub(crate) fn lease_and_locks(
        &self,
        vcpu: &Vcpu,
    ) -> Result<(Option<LeaseId>, Vec<SegId>), VasError> {
        let state = self.lock();
        let lease = state.lease.as_ref().map(Lease::id);
        let held = if self.is_active() { self.held(&state, vcpu)? } else { LockSet::default() };
        Ok((lease, held.0.into_keys().collect()))
    }

    /// Whether a thread of this process is inside instance `vh`. To be asked when the kernel
    /// has been kept from serving switches there: one that has just tried in vain may count as
    /// inside for some instructions more, and is waited for.
    pub(crate) fn is_occupied(&self, vh: u32) -> Result<bool, VasError> {
        self.is_occupied_but_for(vh, None)
    }

    /// The same, not counting one vCPU.
    pub(crate) fn is_occupied_but_for(&self, vh: u32, vcpu: Option<u32>) -> Result<bool, VasError> {
        for _ in 0..IN_PASSING_TRIES {
            let mut vcpus = self.switch.vcpus_in(vh)?;
            vcpus.retain(|&inside| Some(inside) != vcpu);
            if vcpus.is_empty() {
                return Ok(false);
            }
            for vcpu in vcpus {
                if self.switch.current_instance(vcpu)? == vh {
                    return Ok(true);
                }
            }
            std::thread::sleep(IN_PASSING);
        }
        Ok(true)
    }

    /// The instance behind a handle, home included, brought up to the store.
    fn look_up(&self, state: &mut State, store: &Store, vh: u64) -> Result<u32, VasError> {
        if vh == 0 {
            return Ok(0);
        }
        let (index, _) = state.instance(vh)?;
        self.catch_up(state, store, index)?;
        match state.instances.get(&index) {
            Some(instance) if instance.stale => Err(VasError::Changed { vh: index }),
            _ => Ok(index),
        }
    }

    /// What an instance's entry says for CR3.
    fn root_of(&self, state: &State, vh: u32) -> u64 {
        match state.instances.get(&vh) {
            Some(instance) => instance.cr3,
            None => self.switch.home_cr3(),
        }
    }

    /// Puts the vCPU on the root its instance has now.
    pub(crate) fn follow_root(&self, state: &mut State, vcpu: &mut Vcpu, vh: u32) {
        // The kernel may be loading a root itself; the vCPU stays on the list for later.
        if vcpu.is_in_kernel() {
            return;
        }
        let root = self.root_of(state, vh);
        if loadable(root) != vcpu.cr3() && self.switch.switch_root(vcpu, root).is_err() {
            return;
        }
        state.reloaded(vcpu.index());
    }

    /// Whether the vCPU must load its root anew.
    pub(crate) fn wants_reload(&self, vcpu: u32) -> bool {
        self.reload_waits.load(Ordering::Acquire) && self.lock().reload.contains(&vcpu)
    }

    /// vCPUs that run on tables which were replaced.
    #[must_use]
    pub fn stale_vcpus(&self) -> Vec<u32> {
        self.lock().reload.clone()
    }

    /// The thread that runs `vcpu` ends: its locks are given back and it goes home. What it held
    /// exclusively may be half changed, and is marked so, whatever ended it: a program that
    /// returns from `main` while one of its threads writes has asked that thread no more than one
    /// that is killed.
    pub fn leave(&self, vcpu: &mut Vcpu) {
        if !self.is_active() {
            return;
        }
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(store) = state.opened() else { return };
        let went =
            self.give_back(state, vcpu, &store).and_then(|()| self.arrive(state, vcpu, HOME));
        warn_if_failed("bring a thread home", went);
        // Whatever failed: the next thread on this vCPU begins at home.
        vcpu.set_instance(HOME);
    }

    fn give_back(&self, state: &State, vcpu: &Vcpu, store: &Arc<Store>) -> Result<(), VasError> {
        let stopping = || false;
        self.serve_nudges(state, vcpu, store, &stopping)?;
        // In the middle of a switch the vCPU's page may name locks that are not yet or no
        // longer held, and giving one of those back would take it from another thread. What it
        // does hold is wiped with the VM's slot (`close`), as after a kill.
        if vcpu.is_in_kernel() {
            return Ok(());
        }
        for (mode, lock) in self.held(state, vcpu)?.0.into_values() {
            if mode == Mode::Exclusive {
                lock.mark_inconsistent();
            }
            lock.user(store, &stopping, Instant::now()).release(mode);
        }
        Ok(())
    }

    /// Declares a segment's content consistent again.
    ///
    /// # Errors
    /// [`VasError::NotLocked`] unless the calling thread holds the lock exclusively.
    pub fn recover(&self, vcpu: &Vcpu, sid: SegId) -> Result<(), VasError> {
        if !self.is_active() {
            return Err(VasError::NotLocked { sid });
        }
        let state = self.lock();
        match self.held(&state, vcpu)?.0.get(&sid) {
            Some((Mode::Exclusive, lock)) if lock.recover() => Ok(()),
            _ => Err(VasError::NotLocked { sid }),
        }
    }
}

impl Vases {
    /// Declares a segment's content inconsistent: the calling thread leaves in the middle of a
    /// change.
    ///
    /// # Errors
    /// [`VasError::NotLocked`] unless the calling thread holds the lock exclusively.
    pub fn mark_inconsistent(&self, vcpu: &Vcpu, sid: SegId) -> Result<(), VasError> {
        if !self.is_active() {
            return Err(VasError::NotLocked { sid });
        }
        let state = self.lock();
        match self.held(&state, vcpu)?.0.get(&sid) {
            Some((Mode::Exclusive, lock)) => {
                lock.mark_inconsistent();
                Ok(())
            }
            _ => Err(VasError::NotLocked { sid }),
        }
    }
}

/// How a segment that is mapped with a right is locked.
fn lock_mode(right: Right) -> Mode {
    if right == Right::Write { Mode::Exclusive } else { Mode::Shared }
}

/// What a thread in `vh` must hold.
fn locks_of(state: &State, vh: u32) -> LockSet {
    let mut set = LockSet::default();
    let Some(instance) = state.instances.get(&vh) else { return set };
    for (&sid, member) in &instance.members {
        let Some(lock) = state.segments.get(&sid).and_then(|s| s.lock.clone()) else { continue };
        set.0.insert(sid, (lock_mode(member.right), lock));
    }
    set
}

/// Exchanges the locks of one set for those of another.
fn exchange(
    old: &LockSet,
    new: &LockSet,
    wait: Wait,
    store: &Store,
    stopping: &dyn Fn() -> bool,
    began: Instant,
) -> Result<Acquired, SwitchError> {
    let patience = match wait {
        Wait::Never => Patience::Try,
        Wait::Forever => Patience::Forever,
        Wait::Until(deadline) => {
            Patience::Until(deadline.saturating_duration_since(began).as_nanos() as u64)
        }
    };
    let pages = old.0.iter().chain(&new.0).map(|(&sid, (_, page))| (sid, page)).collect();
    let ops = Ops { pages, store, stopping, began };
    switch_locks(&old.needs(), &new.needs(), &ops, patience)
}
