//! Locks of a thread: those it holds, those an instance needs, and the exchange of one set for
//! another.

use std::collections::BTreeMap;

use abi::{LeaseId, Right, SegId};
use seg_lock::{LockNeed, LockOps, LockOutcome, Mode, Patience, Switched, switch_locks};

use crate::store::Store;
use crate::vas::VasError;
use crate::vas::residency::lock_page::{LockPage, LockUser};
use crate::vas::state::{State, Vases};
use crate::vm::Vcpu;

/// Locks by segment, each with the mode in which it is or is to be held.
#[derive(Clone, Default)]
pub(crate) struct LockSet(BTreeMap<SegId, (Mode, LockPage)>);

impl LockSet {
    pub(crate) fn insert(&mut self, sid: SegId, mode: Mode, lock: LockPage) {
        self.0.insert(sid, (mode, lock));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the locks is exclusive.
    pub(crate) fn writes(&self) -> bool {
        self.0.values().any(|(mode, _)| *mode == Mode::Exclusive)
    }

    /// Whether a thread that has these keeps itself from getting the others.
    pub(crate) fn excludes(&self, others: &LockSet) -> bool {
        self.0.iter().any(|(sid, (mode, _))| {
            let other = others.0.get(sid).map(|(other, _)| *other);
            other.is_some_and(|other| *mode == Mode::Exclusive || other == Mode::Exclusive)
        })
    }

    pub(crate) fn into_locks(self) -> impl Iterator<Item = (SegId, Mode, LockPage)> {
        self.0.into_iter().map(|(sid, (mode, lock))| (sid, mode, lock))
    }

    /// Whether the content of any is inconsistent.
    pub(crate) fn is_inconsistent(&self) -> bool {
        self.0.values().any(|(_, lock)| lock.is_inconsistent())
    }

    fn needs(&self) -> Vec<LockNeed> {
        self.0.iter().map(|(&sid, &(mode, _))| LockNeed { sid, mode }).collect()
    }
}

/// The calling thread's access to the locks of two sets.
struct Ops<'a> {
    pages: BTreeMap<SegId, &'a LockPage>,
    store: &'a Store,
    stopping: &'a dyn Fn() -> bool,
}

impl Ops<'_> {
    fn user(&self, sid: SegId) -> Option<LockUser<'_>> {
        self.pages.get(&sid).map(|page| page.user(self.store, self.stopping))
    }
}

impl LockOps for Ops<'_> {
    fn acquire(&self, need: LockNeed, patience: Patience) -> LockOutcome {
        self.user(need.sid)
            .map_or(LockOutcome::WouldBlock, |user| user.acquire(need.mode, patience))
    }
    fn release(&self, need: LockNeed) {
        if let Some(user) = self.user(need.sid) {
            user.release(need.mode);
        }
    }
    fn upgrade(&self, sid: SegId, patience: Patience) -> LockOutcome {
        self.user(sid).map_or(LockOutcome::WouldBlock, |user| user.upgrade(patience))
    }
    fn downgrade(&self, sid: SegId) {
        if let Some(user) = self.user(sid) {
            user.downgrade();
        }
    }
}

impl Vases {
    /// Wakes threads that waited for locks that the kernel has released for this vCPU.
    pub(crate) fn wake_waiters(
        &self,
        state: &State,
        vcpu: &Vcpu,
        store: &Store,
        stopping: &dyn Fn() -> bool,
    ) -> Result<(), VasError> {
        let Some((first, count)) = self.switch.take_waited_for(vcpu.index())? else {
            return Ok(());
        };
        for reference in self.switch.lock_refs(first, count)? {
            if let Some((_, lock)) = state.residency.locked_by(&reference) {
                lock.user(store, stopping).wake_waiters();
            }
        }
        Ok(())
    }

    /// What the thread that runs `vcpu` holds, as the kernel has noted it, or we have where versioned
    /// segments are.
    pub(crate) fn held(&self, state: &State, vcpu: &Vcpu) -> Result<LockSet, VasError> {
        if let Some(visit) = state.visits.of(vcpu.index()) {
            return Ok(visit.locks.clone());
        }
        let (first, count) = self.switch.held_locks(vcpu.index())?;
        let mut held = LockSet::default();
        for reference in self.switch.lock_refs(first, count)? {
            let mode = if reference.exclusive == 0 { Mode::Shared } else { Mode::Exclusive };
            if let Some((sid, lock)) = state.residency.locked_by(&reference) {
                held.insert(sid, mode, lock.clone());
            }
        }
        Ok(held)
    }

    /// The VM's lease, and the segments whose locks the thread that runs `vcpu` holds, in
    /// suspended visits, too.
    pub(crate) fn lease_and_locks(
        &self,
        vcpu: &Vcpu,
    ) -> Result<(Option<LeaseId>, Vec<SegId>), VasError> {
        let state = self.lock();
        let Some(opened) = state.opened() else { return Ok((None, Vec::new())) };
        let held = self.held(&state, vcpu)?;
        let suspended = state.visits.suspended(vcpu.index()).iter();
        let suspended = suspended.flat_map(|visit| visit.locks.0.keys().copied());
        let mut held: Vec<SegId> = held.0.into_keys().chain(suspended).collect();
        held.sort_unstable();
        held.dedup();
        Ok((Some(opened.lease.id()), held))
    }

    /// Declares a segment's content consistent again.
    ///
    /// # Errors
    /// [`VasError::NotLocked`] unless the calling thread holds the lock exclusively.
    pub fn recover(&self, vcpu: &Vcpu, sid: SegId) -> Result<(), VasError> {
        let recovered = self.exclusive(vcpu, sid)?.recover();
        if recovered { Ok(()) } else { Err(VasError::NotLocked { sid }) }
    }

    /// Declares a segment's content inconsistent: the calling thread leaves in the middle of a
    /// change.
    ///
    /// # Errors
    /// [`VasError::NotLocked`] unless the calling thread holds the lock exclusively.
    pub fn mark_inconsistent(&self, vcpu: &Vcpu, sid: SegId) -> Result<(), VasError> {
        self.exclusive(vcpu, sid)?.mark_inconsistent();
        Ok(())
    }

    /// The lock of a segment that the calling thread holds exclusively.
    fn exclusive(&self, vcpu: &Vcpu, sid: SegId) -> Result<LockPage, VasError> {
        let state = self.lock();
        let held = if self.is_active() { self.held(&state, vcpu)? } else { LockSet::default() };
        match held.0.get(&sid) {
            Some((Mode::Exclusive, lock)) => Ok(lock.clone()),
            _ => Err(VasError::NotLocked { sid }),
        }
    }
}

/// How a segment that is mapped with a right is locked.
pub(crate) fn lock_mode(right: Right) -> Mode {
    if right == Right::Write { Mode::Exclusive } else { Mode::Shared }
}

/// What a thread in `vh` must hold; nothing at home.
pub(crate) fn locks_of(state: &State, vh: u32) -> LockSet {
    let mut set = LockSet::default();
    if let Some(instance) = state.instances.get(vh) {
        for (sid, member) in instance.members.iter() {
            let segment = state.residency.of_member(sid);
            // Readers of versions wait for nobody.
            let is_free = segment.is_versioned() && member.right == Right::Read;
            if let Some(lock) = segment.lock.as_ref().filter(|_| !is_free) {
                set.insert(sid, lock_mode(member.right), lock.clone());
            }
        }
    }
    set
}

/// Exchanges the locks of one set for those of another.
pub(crate) fn exchange(
    old: &LockSet,
    new: &LockSet,
    patience: Patience,
    store: &Store,
    stopping: &dyn Fn() -> bool,
) -> Switched {
    let pages = old.0.iter().chain(&new.0).map(|(&sid, (_, page))| (sid, page)).collect();
    let ops = Ops { pages, store, stopping };
    switch_locks(&old.needs(), &new.needs(), &ops, patience)
}
