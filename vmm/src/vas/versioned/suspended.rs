//! Visits that others were begun from inside of: each keeps its locks, tables and changes until the
//! thread is back.
//!
//! A thread's suspended visits are a stack. What happens to them in between is nothing: tables that a
//! suspended visit has are in use like those of a thread inside, and its instance is held. Only the
//! innermost visit, which `Visits` knows by vCPU, can be changed, committed or left.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use abi::SegId;
use abi::switch::SUSPENDED_BITS;

use super::view::View;
use super::visits::{TablesId, Visit, VisitTables, Visits};
use crate::vas::VasError;
use crate::vas::state::instances::Hold;
use crate::vas::switch::locks::LockSet;
use crate::vas::tables::TableFrames;

/// Most visits that a thread can have suspended.
pub(crate) const SUSPENDED_MAX: usize = 16;

/// A visit in which the thread is again once it has ended those it has begun since.
pub(crate) struct Suspended {
    /// Where: home, too.
    pub(crate) vh: u32,
    /// What it holds.
    pub(crate) locks: LockSet,
    /// What it sees, in an instance with versioned segments.
    visit: Option<Visit>,
    /// It was not counted among those who may write before.
    is_counted: bool,
    _hold: Option<Hold>,
}

impl Suspended {
    /// Its tables, in an instance with versioned segments.
    pub(super) fn tables(&self) -> Option<TablesId> {
        self.visit.as_ref().map(|visit| visit.tables)
    }
}

impl Visits {
    /// The suspended visits of a vCPU's thread, the innermost one last.
    pub(crate) fn suspended(&self, vcpu: u32) -> &[Suspended] {
        self.suspended.get(&vcpu).map_or(&[], Vec::as_slice)
    }

    /// What other VMs are told of the suspended visits to an instance (`abi::switch::InstanceEntry`).
    pub(crate) fn suspended_in(&mut self, vh: u32) -> u64 {
        self.suspensions += 1;
        let count = self.suspended.values().flatten().filter(|it| it.vh == vh).count() as u64;
        self.suspensions << SUSPENDED_BITS | count
    }

    /// Checks that a thread can suspend another visit.
    ///
    /// # Errors
    /// [`VasError::TooDeep`].
    pub(crate) fn check_depth(&self, vcpu: u32) -> Result<(), VasError> {
        match self.suspended(vcpu).len() < SUSPENDED_MAX {
            true => Ok(()),
            false => Err(VasError::TooDeep { limit: SUSPENDED_MAX }),
        }
    }

    /// The visit of the thread in `vh`, which holds `locks` and `hold`, is suspended.
    pub(crate) fn suspend(&mut self, vcpu: u32, vh: u32, locks: LockSet, hold: Option<Hold>) {
        let mut visit = self.by_vcpu.remove(&vcpu);
        let mut may_write = false;
        if let Some(visit) = &mut visit
            && let Some(tables) = self.tables.get_mut(&visit.tables)
        {
            may_write = tables.writes();
            if visit.is_kernels {
                // The kernel neither knows nor ends it any more.
                visit.is_kernels = false;
                tables.users += 1;
            }
        }
        // The kernel has noted raw segments' locks so far, and notes those of the next visit.
        let is_counted = !may_write && locks.writes();
        if is_counted {
            self.writing.fetch_add(1, Ordering::SeqCst);
        }
        let suspended = Suspended { vh, locks, visit, is_counted, _hold: hold };
        self.suspended.entry(vcpu).or_default().push(suspended);
    }

    /// The thread, which makes no visit, is in the one again that was suspended last. Returns where, and what
    /// it holds.
    pub(crate) fn resume(&mut self, vcpu: u32) -> Option<(u32, LockSet)> {
        let all = self.suspended.get_mut(&vcpu)?;
        let Suspended { vh, locks, visit, is_counted, _hold } = all.pop()?;
        if all.is_empty() {
            self.suspended.remove(&vcpu);
        }
        if is_counted {
            self.writing.fetch_sub(1, Ordering::SeqCst);
        }
        if let Some(visit) = visit {
            self.by_vcpu.insert(vcpu, visit);
        }
        Some((vh, locks))
    }

    /// The thread ends, and with it its suspended visits, the innermost first: what they have not committed
    /// is gone. Returns what they held.
    pub(crate) fn abandon(&mut self, vcpu: u32, frames: &mut TableFrames) -> Vec<LockSet> {
        let all = self.suspended.remove(&vcpu).unwrap_or_default();
        let ended = all.into_iter().rev().map(|suspended| {
            if suspended.is_counted {
                self.writing.fetch_sub(1, Ordering::SeqCst);
            }
            if let Some(visit) = suspended.visit {
                self.end_of(&visit, false, frames);
            }
            suspended.locks
        });
        ended.collect()
    }

    /// What the thread sees of segments, in its visit and in suspended ones.
    pub(crate) fn views_of(&self, vcpu: u32, sid: SegId) -> impl Iterator<Item = &View> {
        self.all_tables_of(vcpu).filter_map(move |tables| tables.views.get(&sid))
    }

    /// Whether the thread may write versioned segments, now or when it is back.
    pub(crate) fn writes_anywhere(&self, vcpu: u32) -> bool {
        self.all_tables_of(vcpu).any(VisitTables::writes)
    }

    /// The tables of the thread's visit and of suspended ones.
    pub(super) fn all_tables_of(&self, vcpu: u32) -> impl Iterator<Item = &VisitTables> {
        let suspended = self.suspended(vcpu).iter().filter_map(|it| it.visit.as_ref());
        let visits = suspended.chain(self.of(vcpu));
        visits.filter_map(|visit| self.tables.get(&visit.tables))
    }
}
