//! Which tables each vCPU runs on that is inside an instance with versioned segments.
//!
//! Threads in views that the kernel enters and leaves by itself (`kernel_views`) are known here as of their
//! last exit. Of the others all is in the VMM's memory: what the guest and the lease say of where a
//! thread is has no part in it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::{Right, SegId};
use spacejmp_versions::log::header::LogId;
use spacejmp_versions::{LayerId, VersionNumber};

use super::copies::Copies;
use super::suspended::Suspended;
use super::view::View;
use crate::vas::switch::locks::LockSet;
use crate::vas::tables::{InstanceTables, TableFrames};
use crate::vm::MemoryLedger;

/// Most copies that are kept for a writer's next visit: each is compared at every commit.
pub(super) const KEPT_COPIES_MAX: usize = 1024;

/// Names tables within [`Visits`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct TablesId(u64);

/// A thread inside.
pub(crate) struct Visit {
    pub(crate) vh: u32,
    pub(crate) tables: TablesId,
    /// What it holds.
    pub(crate) locks: LockSet,
    /// The kernel may have ended it since the last exit.
    pub(crate) is_kernels: bool,
    /// What it sees is known to be the newest version, as far as it writes.
    pub(crate) is_checked: bool,
}

/// Tables of an instance with versioned segments, as threads that see the same versions have them.
pub(crate) struct VisitTables {
    pub(crate) vh: u32,
    pub(crate) tables: InstanceTables,
    pub(crate) views: BTreeMap<SegId, View>,
    /// Threads inside that the kernel does not let out, and suspended visits.
    pub(super) users: u32,
    /// The kernel may let threads in and out.
    is_kernels: bool,
    /// What the visit has changed must not be committed; it ends without.
    pub(crate) is_spoilt: bool,
    /// What its next version is for.
    pub(super) message: String,
}

impl VisitTables {
    pub(crate) fn new(vh: u32, tables: InstanceTables, views: BTreeMap<SegId, View>) -> Self {
        let message = String::new();
        VisitTables { vh, tables, views, users: 0, is_kernels: false, is_spoilt: false, message }
    }

    /// Whether a thread with these tables may write versioned segments; then it is alone.
    pub(crate) fn writes(&self) -> bool {
        self.views.values().any(|view| view.right == Right::Write)
    }

    fn shows(&self, versions: &BTreeMap<SegId, VersionNumber>) -> bool {
        self.views.iter().map(|(sid, view)| (sid, &view.version)).eq(versions)
    }

    fn is_idle(&self) -> bool {
        self.users == 0 && !self.is_kernels
    }

    fn copied(&self) -> usize {
        self.views.values().map(View::copied).sum()
    }
}

/// See the module.
pub(crate) struct Visits {
    pub(super) by_vcpu: BTreeMap<u32, Visit>,
    pub(super) suspended: BTreeMap<u32, Vec<Suspended>>,
    /// How often that was told.
    pub(super) suspensions: u64,
    pub(super) tables: BTreeMap<TablesId, VisitTables>,
    next: u64,
    pub(crate) copies: Copies,
    /// Visits that may write; read without the state locked.
    pub(super) writing: Arc<AtomicU32>,
}

impl std::fmt::Debug for Visits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inside: Vec<_> = self.by_vcpu.iter().map(|(vcpu, visit)| (vcpu, visit.vh)).collect();
        f.debug_struct("Visits").field("inside", &inside).finish_non_exhaustive()
    }
}

impl Visits {
    /// No thread inside.
    pub(crate) fn new(ledger: Arc<MemoryLedger>) -> Visits {
        let (by_vcpu, suspended, tables, writing) = Default::default();
        let copies = Copies::new(ledger);
        Visits { by_vcpu, suspended, suspensions: 0, tables, next: 0, copies, writing }
    }

    /// The visit of a vCPU's thread, if it is in an instance with versioned segments.
    pub(crate) fn of(&self, vcpu: u32) -> Option<&Visit> {
        self.by_vcpu.get(&vcpu)
    }

    /// The tables of that visit.
    pub(crate) fn tables_of(&self, vcpu: u32) -> Option<&VisitTables> {
        self.tables.get(&self.of(vcpu)?.tables)
    }

    /// The same, to be changed, and the memory of copies.
    pub(crate) fn tables_of_mut(&mut self, vcpu: u32) -> Option<(&mut VisitTables, &mut Copies)> {
        let tables = self.by_vcpu.get(&vcpu)?.tables;
        Some((self.tables.get_mut(&tables)?, &mut self.copies))
    }

    /// Some tables, to be changed, and the memory of copies.
    pub(super) fn with_copies(&mut self, id: TablesId) -> Option<(&mut VisitTables, &mut Copies)> {
        Some((self.tables.get_mut(&id)?, &mut self.copies))
    }

    /// Whether a thread is inside instance `vh` that the kernel does not let out: where others are, the
    /// status entries say.
    pub(crate) fn is_inside(&self, vh: u32) -> bool {
        self.by_vcpu.values().any(|visit| visit.vh == vh && !visit.is_kernels)
    }

    /// How many threads may write.
    pub(crate) fn writing(&self) -> Arc<AtomicU32> {
        self.writing.clone()
    }

    /// All tables, used now or kept.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut VisitTables> {
        self.tables.values_mut()
    }

    /// How many pages of a segment visits have copies of.
    pub(crate) fn copied_pages(&self, sid: SegId) -> usize {
        self.tables.values().filter_map(|tables| tables.views.get(&sid)).map(View::copied).sum()
    }

    /// The oldest version of a segment that any tables show.
    pub(crate) fn oldest(&self, sid: SegId) -> Option<VersionNumber> {
        self.tables.values().filter_map(|tables| Some(tables.views.get(&sid)?.version)).min()
    }

    /// The versions of a segment that any tables show.
    pub(crate) fn versions(&self, sid: SegId) -> BTreeSet<VersionNumber> {
        let views = self.tables.values().filter_map(|tables| tables.views.get(&sid));
        views.map(|view| view.version).collect()
    }

    /// The logs of a segment that any tables show pages of.
    pub(crate) fn logs(&self, sid: SegId) -> BTreeSet<LogId> {
        self.tables
            .values()
            .filter_map(|tables| tables.views.get(&sid))
            .flat_map(View::logs)
            .collect()
    }

    /// The layers of a segment that any tables show pages of.
    pub(crate) fn layers(&self, sid: SegId) -> BTreeSet<LayerId> {
        let views = self.tables.values().filter_map(|tables| tables.views.get(&sid));
        views.flat_map(View::layers).collect()
    }

    /// The newest tables of instance `vh` with which threads only read.
    pub(super) fn newest_to_read(&self, vh: u32) -> Option<TablesId> {
        let mut of_instance = self.tables.iter().rev().filter(|(_, tables)| tables.vh == vh);
        of_instance.find(|(_, tables)| !tables.writes()).map(|(&id, _)| id)
    }

    /// Tables by their name.
    pub(super) fn get(&self, id: TablesId) -> Option<&VisitTables> {
        self.tables.get(&id)
    }

    /// Tables that no thread is in, and that the kernel lets none into; to be changed. And the memory of copies.
    pub(super) fn idle(&mut self, id: TablesId) -> Option<(&mut VisitTables, &mut Copies)> {
        let tables = self.tables.get_mut(&id).filter(|tables| tables.is_idle())?;
        Some((tables, &mut self.copies))
    }

    /// Drops tables that no thread is in.
    pub(super) fn drop_tables(&mut self, id: TablesId, frames: &mut TableFrames) {
        let dropped = self.tables.remove(&id);
        self.drop_all(dropped.into_iter().collect(), frames);
    }

    /// What threads that only read saw last of a segment in instance `vh`.
    pub(crate) fn newest_read(&self, vh: u32, sid: SegId) -> Option<&View> {
        let of_instance = self.tables.values().rev().filter(|tables| tables.vh == vh);
        let mut views = of_instance.filter_map(|tables| tables.views.get(&sid));
        views.find(|view| view.right == Right::Read)
    }

    /// Tables that a new visit of `vh` with these versions can use.
    pub(crate) fn fitting(
        &self,
        vh: u32,
        writes: bool,
        versions: &BTreeMap<SegId, VersionNumber>,
    ) -> Option<TablesId> {
        let fits = |tables: &VisitTables| {
            let is_free = !writes || tables.is_idle();
            tables.vh == vh && tables.writes() == writes && is_free && tables.shows(versions)
        };
        self.tables.iter().find(|(_, tables)| fits(tables)).map(|(&id, _)| id)
    }

    /// Takes tables in.
    pub(crate) fn insert(&mut self, tables: VisitTables) -> TablesId {
        self.next += 1;
        let id = TablesId(self.next);
        self.tables.insert(id, tables);
        id
    }

    /// A vCPU's thread is inside from now on.
    pub(crate) fn begin(&mut self, vcpu: u32, id: TablesId, locks: LockSet) {
        let tables = self.tables.get_mut(&id).expect("the caller has just found or made it");
        let is_kernels = tables.is_kernels;
        if !is_kernels {
            tables.users += 1;
        }
        if tables.writes() {
            self.writing.fetch_add(1, Ordering::SeqCst);
        }
        let (vh, is_checked) = (tables.vh, true);
        self.by_vcpu.insert(vcpu, Visit { vh, tables: id, locks, is_kernels, is_checked });
    }

    /// Lets the kernel have tables in which no thread is that it must not let out; returns their root.
    pub(crate) fn give_to_kernel(&mut self, id: TablesId) -> Option<u64> {
        let tables = self.tables.get_mut(&id).filter(|it| it.users == 0 && !it.is_spoilt)?;
        tables.is_kernels = true;
        Some(tables.tables.root().raw())
    }

    /// Takes tables of instance `vh` from the kernel whose root it does not use, and drops what no visit
    /// can use.
    pub(crate) fn take_from_kernel(
        &mut self,
        vh: u32,
        is_used: impl Fn(u64) -> bool,
        frames: &mut TableFrames,
    ) {
        let of_instance = self.tables.values_mut().filter(|it| it.vh == vh && it.is_kernels);
        for tables in of_instance {
            tables.is_kernels = is_used(tables.tables.root().raw());
        }
        self.sweep(vh, frames);
    }

    /// The version of a segment that tables show which the kernel may load.
    pub(crate) fn kernels_version(&self, vh: u32, root: u64, sid: SegId) -> Option<VersionNumber> {
        let (_, tables) = self.kernels(vh, root)?;
        Some(tables.views.get(&sid)?.version)
    }

    fn kernels(&self, vh: u32, root: u64) -> Option<(TablesId, &VisitTables)> {
        let is_that = |tables: &VisitTables| {
            tables.is_kernels && tables.vh == vh && tables.tables.root().raw() == root
        };
        self.tables.iter().find(|(_, tables)| is_that(tables)).map(|(&id, tables)| (id, tables))
    }

    /// The tables with this root, and the segment that they write, if the kernel may let a writer in with
    /// them.
    pub(crate) fn kernels_writer(&self, vh: u32, root: u64) -> Option<(TablesId, SegId)> {
        let (id, tables) = self.kernels(vh, root)?;
        let mut views = tables.views.values();
        Some((id, views.find(|view| view.right == Right::Write)?.sid))
    }

    /// Tables that the kernel could let a writer in with are the VMM's again: it has let one in, whose
    /// visit begins.
    pub(crate) fn reclaim(&mut self, id: TablesId) {
        if let Some(tables) = self.tables.get_mut(&id) {
            tables.is_kernels = false;
        }
    }

    /// Notes whether a writer is known to see the newest version.
    pub(crate) fn set_checked(&mut self, vcpu: u32, is_checked: bool) {
        if let Some(visit) = self.by_vcpu.get_mut(&vcpu) {
            visit.is_checked = is_checked;
        }
    }

    /// A vCPU's thread makes no visit that is known here, whatever the guest says.
    pub(crate) fn forget(&mut self, vcpu: u32) {
        if self.of(vcpu).is_some_and(|visit| visit.is_kernels) {
            self.by_vcpu.remove(&vcpu);
        }
    }

    /// Notes where a vCPU's thread is, which has left the guest in instance `vh` with this root:
    /// the kernel may have let it in or out, to read. What the guest says may be false: then it makes no
    /// visit.
    pub(crate) fn adopt(&mut self, vcpu: u32, vh: u32, root: u64) {
        if self.of(vcpu).is_some_and(|visit| !visit.is_kernels) {
            return;
        }
        match self.kernels(vh, root) {
            Some((id, tables)) if !tables.writes() => self.begin(vcpu, id, LockSet::default()),
            _ => self.forget(vcpu),
        }
    }

    /// The thread is no longer inside, and its vCPU has another root. What it changed and did not
    /// commit is gone.
    pub(crate) fn end(&mut self, vcpu: u32, is_settled: bool, frames: &mut TableFrames) {
        if let Some(visit) = self.by_vcpu.remove(&vcpu)
            && !visit.is_kernels
        {
            self.end_of(&visit, is_settled, frames);
        }
    }

    /// A visit that the kernel has not ended is over.
    pub(super) fn end_of(&mut self, visit: &Visit, is_settled: bool, frames: &mut TableFrames) {
        let Some(tables) = self.tables.get_mut(&visit.tables) else { return };
        tables.users -= 1;
        if tables.writes() {
            self.writing.fetch_sub(1, Ordering::SeqCst);
            tables.message.clear();
            let is_left = tables.views.values().any(|view| view.spill.is_some());
            tables.is_spoilt |= !is_settled || is_left || tables.copied() > KEPT_COPIES_MAX;
        }
        self.sweep(visit.vh, frames);
    }

    /// Drops tables of instance `vh` that no thread uses and no later visit can: of each kind the
    /// newest are kept.
    fn sweep(&mut self, vh: u32, frames: &mut TableFrames) {
        let newest = |writes: bool| {
            let same = |tables: &VisitTables| tables.vh == vh && tables.writes() == writes;
            self.tables.iter().rev().find(|(_, tables)| same(tables)).map(|(&id, _)| id)
        };
        let newest = [newest(false), newest(true)];
        let is_idle = |id: &TablesId, tables: &mut VisitTables| {
            let is_kept = newest.contains(&Some(*id)) && !tables.is_spoilt;
            tables.vh == vh && tables.is_idle() && !is_kept
        };
        let idle: Vec<VisitTables> = self.tables.extract_if(.., is_idle).map(|(_, t)| t).collect();
        self.drop_all(idle, frames);
    }

    /// Drops tables that no thread uses: of an instance, or those that show a segment.
    pub(crate) fn drop_idle(
        &mut self,
        frames: &mut TableFrames,
        which: impl Fn(&VisitTables) -> bool,
    ) {
        let is_idle = |_: &TablesId, tables: &mut VisitTables| tables.is_idle() && which(tables);
        let idle: Vec<VisitTables> = self.tables.extract_if(.., is_idle).map(|(_, t)| t).collect();
        self.drop_all(idle, frames);
    }

    fn drop_all(&mut self, idle: Vec<VisitTables>, frames: &mut TableFrames) {
        for tables in idle {
            frames.park(tables.tables.into_frames());
            for view in tables.views.into_values() {
                let (own, copies, spill) = view.into_parts();
                frames.park(own);
                self.copies.give_back(copies);
                if let Some(spill) = spill {
                    spill.discard(frames);
                }
            }
        }
    }

    /// Ends all visits of an instance that is dropped at the end of the process.
    pub(crate) fn drop_instance(&mut self, vh: u32, frames: &mut TableFrames) {
        let inside: Vec<u32> = self
            .by_vcpu
            .iter()
            .filter(|(_, visit)| visit.vh == vh)
            .map(|(&vcpu, _)| vcpu)
            .collect();
        for vcpu in inside {
            self.end(vcpu, false, frames);
        }
        let suspended = self.suspended.iter().filter(|(_, all)| all.iter().any(|it| it.vh == vh));
        for vcpu in suspended.map(|(&vcpu, _)| vcpu).collect::<Vec<_>>() {
            self.abandon(vcpu, frames);
        }
        self.drop_idle(frames, |tables| tables.vh == vh);
    }

    /// Frees what cannot be linked for want of memory.
    pub(crate) fn discard(
        tables: InstanceTables,
        views: BTreeMap<SegId, View>,
        frames: &mut TableFrames,
    ) {
        frames.park(tables.into_frames());
        for view in views.into_values() {
            frames.park(view.into_parts().0);
        }
    }
}
