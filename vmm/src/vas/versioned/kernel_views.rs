//! Views that the guest kernel enters by itself: of an instance whose only segment is versioned. Those that
//! are only read it leaves by itself, too; how it enters to write is in `kernel_writers`.
//!
//! The kernel is shown a root, and how often versions had been published when that was the newest
//! view. It compares this with the word in the segment's file, and hands the switch to the VMM if they
//! differ. So the VMM does not know which threads are inside, and asks when it matters: before tables
//! go. Tables that the kernel may load are marked (`VisitTables::is_kernels`) and stay. To free them the
//! VMM shows the kernel something else, or nothing, and then looks at all vCPUs' words
//! (`abi::switch::may_be_on`); what one may be on stays until a later look.
//!
//! A thread that leaves the guest inside is known by its root from then on (`Visits::adopt`).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::layout::MAX_VIEWS;
use abi::switch::{LockRef, ViewRecord, WriteRecord};
use abi::{Right, SegId};
use spacejmp_versions::VersionNumber;

use super::visits::TablesId;
use crate::kernel::SwitchTables;
use crate::kernel::views::ViewPages;
use crate::store::SegmentFile;
use crate::vas::VasError;
use crate::vas::error::warn_if_failed;
use crate::vas::range_allocator::RangeAllocator;
use crate::vas::state::State;

/// What the kernel may enter of an instance.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown {
    Read(ViewRecord),
    /// Its record is in the guest's memory already: it is written by whoever has the segment's lock.
    Write {
        /// The root.
        cr3: u64,
    },
}

impl Shown {
    fn cr3(self) -> u64 {
        match self {
            Shown::Read(record) => record.cr3,
            Shown::Write { cr3 } => cr3,
        }
    }
}

/// What the kernel has of an instance.
#[derive(Debug)]
struct KernelView {
    number: u32,
    pages: ViewPages,
    sid: SegId,
    /// What it may enter; nothing between a withdrawal and the next visit that the VMM begins, or ends.
    shown: Option<Shown>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct KernelViews {
    switch: Arc<SwitchTables>,
    numbers: RangeAllocator,
    /// Guest memory, by number: it stays, whichever instance has the number.
    memory: BTreeMap<u32, ViewPages>,
    by_handle: BTreeMap<u32, KernelView>,
    /// Whether there was ever one: read at each exit, without the state locked.
    is_any: Arc<AtomicBool>,
}

impl KernelViews {
    /// None.
    pub(crate) fn new(switch: Arc<SwitchTables>) -> KernelViews {
        let (numbers, memory, by_handle, is_any) = Default::default();
        KernelViews { switch, numbers, memory, by_handle, is_any }
    }

    /// See the field.
    pub(crate) fn is_any(&self) -> Arc<AtomicBool> {
        self.is_any.clone()
    }

    /// Makes an instance one that the kernel may be shown views of.
    pub(super) fn prepare(&mut self, vh: u32, file: &SegmentFile) -> Result<(), VasError> {
        if self.by_handle.contains_key(&vh) {
            return Ok(());
        }
        let full = VasError::Full { what: "views of versioned segments" };
        let number = self.numbers.allocate(1, MAX_VIEWS).ok_or(full)?;
        let mapped = self.pages_of(number).and_then(|pages| {
            self.switch.map_words(&pages, file.words_page())?;
            Ok(pages)
        });
        match mapped {
            Ok(pages) => {
                let view = KernelView { number, pages, sid: file.sid(), shown: None };
                self.by_handle.insert(vh, view);
                self.is_any.store(true, Ordering::SeqCst);
                Ok(())
            }
            Err(error) => {
                self.numbers.free(number);
                Err(error)
            }
        }
    }

    fn pages_of(&mut self, number: u32) -> Result<ViewPages, VasError> {
        if let Some(&pages) = self.memory.get(&number) {
            return Ok(pages);
        }
        let pages = self.switch.map_view(number)?;
        self.memory.insert(number, pages);
        Ok(pages)
    }

    /// The root that the kernel is shown of an instance, if any.
    fn root(&self, vh: u32) -> Option<u64> {
        Some(self.by_handle.get(&vh)?.shown?.cr3())
    }

    /// Describes to the kernel tables that it may enter to write, with this root and lock, of an instance that
    /// was prepared, as long as the count is this. The caller has the lock, and the tables show what was
    /// committed last.
    pub(super) fn offer(
        &mut self,
        vh: u32,
        lock: &LockRef,
        (count, cr3): (u64, u64),
    ) -> Result<(), VasError> {
        let Some(view) = self.by_handle.get_mut(&vh) else { return Ok(()) };
        let owner = u64::from(lock.slot) + 1;
        let no_view = WriteRecord::NO_VIEW;
        let record = WriteRecord { no_view, cr3, count, lock: lock.page, owner };
        self.switch.set_writer(&view.pages, &record)?;
        view.shown = Some(Shown::Write { cr3 });
        Ok(())
    }

    /// [`WriteRecord::count`] for tables of an instance that was prepared.
    pub(super) fn writers_count(&self, vh: u32) -> Result<Option<u64>, VasError> {
        let view = self.by_handle.get(&vh);
        Ok(view.map(|view| self.switch.writers_count(&view.pages)).transpose()?)
    }

    /// The kernel is shown nothing of an instance any more.
    pub(super) fn hide(&mut self, vh: u32) {
        let Some(view) = self.by_handle.get_mut(&vh) else { return };
        let hidden = match view.shown.take() {
            None => return,
            Some(Shown::Read(_)) => self.switch.clear_instance(vh),
            Some(Shown::Write { .. }) => self.switch.hide_writer(vh, &view.pages),
        };
        warn_if_failed("withdraw a view", hidden);
    }
}

impl State {
    /// The segment of an instance that the kernel may enter by itself, with this right. Others keep the VMM
    /// busy: a raw segment's extents come and go, and of several versioned ones a thread must see versions
    /// that belong together.
    pub(super) fn kernels_segment(&self, vh: u32, right: Right) -> Option<SegId> {
        let mut members = self.instances.get(vh)?.members.iter();
        let (sid, member) = members.next()?;
        let is_alone = members.next().is_none() && member.right == right;
        (is_alone && self.residency.of_member(sid).is_versioned()).then_some(sid)
    }

    /// How often versions have been published, if the kernel may be shown a view of instance `vh`. To be
    /// asked before the newest version is looked for: what comes meanwhile is news then.
    pub(super) fn count_for_kernel(&mut self, vh: u32) -> Option<u64> {
        let file = &self.residency.of_member(self.kernels_segment(vh, Right::Read)?).file;
        let count = file.words_count().map_err(VasError::from);
        match self.kernel_views.prepare(vh, file).and(count) {
            // Never written, or not whole: then the kernel compares with what nobody writes.
            Ok(count) => Some(count.unwrap_or(0)),
            Err(error) => {
                let why = crate::error::chain(&error);
                tracing::debug!("the kernel does not enter instance {vh}: {why}");
                None
            }
        }
    }

    /// Shows the kernel the tables that the thread on `vcpu` is about to get, which were the newest
    /// when versions had been published `count` times. Those that it was shown before go as soon as
    /// no thread is inside.
    pub(super) fn show_to_kernel(&mut self, vcpu: u32, vh: u32, id: TablesId, count: u64) {
        let Some(cr3) = self.visits.give_to_kernel(id) else { return };
        if let Some(view) = self.kernel_views.by_handle.get_mut(&vh) {
            view.shown = Some(Shown::Read(ViewRecord { count, cr3 }));
        }
        warn_if_failed("show the kernel a view", self.publish_view(vh));
        self.take_from_kernel(vh, Some(vcpu));
    }

    /// Shows the kernel what it may enter of an instance with versioned segments, if that is up to date
    /// with the store.
    pub(crate) fn publish_view(&mut self, vh: u32) -> Result<(), VasError> {
        let instance = self.instances.known_mut(vh);
        instance.shown.open = instance.freshness.is_as_new_as(self.seen);
        let views = &self.kernel_views;
        let view = views.by_handle.get(&vh).filter(|_| instance.shown.open);
        match view.and_then(|view| Some((view.pages, view.shown?))) {
            Some((pages, Shown::Read(record))) => {
                Ok(views.switch.show_view(vh, &pages, &record)?)
            }
            Some((pages, Shown::Write { .. })) => Ok(views.switch.show_writer(vh, &pages)?),
            None => Ok(views.switch.clear_instance(vh)?),
        }
    }

    /// Takes tables of an instance back that the kernel is no longer shown, unless a thread may be on them;
    /// that on `but_for` is not.
    pub(super) fn take_from_kernel(&mut self, vh: u32, but_for: Option<u32>) {
        let shown = self.kernel_views.root(vh);
        let switch = &self.kernel_views.switch;
        let is_used = |cr3| Some(cr3) == shown || switch.is_view_used(vh, cr3, but_for);
        self.visits.take_from_kernel(vh, is_used, &mut self.tables);
    }

    /// Withdraws the views of a segment that show certain versions. Their tables are the VMM's again, those
    /// excepted that a thread may be on.
    pub(super) fn withdraw_views(&mut self, sid: SegId, which: impl Fn(VersionNumber) -> bool) {
        let views = &mut self.kernel_views;
        let of_segment = views.by_handle.iter().filter(|(_, view)| view.sid == sid);
        let handles: Vec<u32> = of_segment.map(|(&vh, _)| vh).collect();
        for &vh in &handles {
            let Some(root) = views.root(vh) else { continue };
            let version = self.visits.kernels_version(vh, root, sid);
            if version.is_none_or(&which) {
                views.hide(vh);
            }
        }
        for vh in handles {
            self.take_from_kernel(vh, None);
        }
    }

    /// The kernel enters instance `vh` no more, and no thread is inside: its tables are the VMM's
    /// again.
    pub(crate) fn drop_views(&mut self, vh: u32) {
        let views = &mut self.kernel_views;
        views.hide(vh);
        if let Some(view) = views.by_handle.remove(&vh) {
            let dropped = views.switch.clear_instance(vh);
            let dropped = dropped.and_then(|()| views.switch.unmap_words(&view.pages));
            warn_if_failed("withdraw a view", dropped);
            views.numbers.free(view.number);
        }
        self.visits.take_from_kernel(vh, |_| false, &mut self.tables);
    }
}
