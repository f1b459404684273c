//! Views that the guest kernel enters by itself: of an instance whose segments are all versioned and only read.
//! It leaves them by itself, too; how it enters to write, where there is one segment, is in `kernel_writers`.
//!
//! The kernel is shown a root, what the store's word of published versions said when that was the newest
//! view, and how often versions of each segment had been published then. If the store's word is the same,
//! nothing has been published of any segment; otherwise the kernel compares the counts with those in the
//! segments' files, and hands the switch to the VMM if one differs. So the VMM does not know which threads are inside, and asks when it matters: before tables
//! go. Tables that the kernel may load are marked (`VisitTables::is_kernels`) and stay. To free them the
//! VMM shows the kernel something else, or nothing, and then looks at all vCPUs' words
//! (`abi::switch::may_be_on`); what one may be on stays until a later look.
//!
//! A thread that leaves the guest inside is known by its root from then on (`Visits::adopt`).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::layout::MAX_VIEWS;
use abi::switch::{LockRef, NO_STAMP, WriteRecord};
use abi::{Right, SegId};
use spacejmp_versions::VersionNumber;

use super::visits::TablesId;
use crate::kernel::SwitchTables;
use crate::kernel::views::ViewPages;
use crate::store::{SegmentFile, StoreError, StoreWord};
use crate::vas::VasError;
use crate::vas::error::warn_if_failed;
use crate::vas::range_allocator::RangeAllocator;
use crate::vas::state::State;
use crate::vm::MemoryError;

/// An instance with more segments is the VMM's: each has a page in the guest's memory.
const SEGMENTS_MAX: usize = 16;

/// What the kernel may enter of an instance.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    /// The newest versions, as far as had been published by then.
    Read {
        /// The root.
        cr3: u64,
        by: Published,
    },
    /// Its record is in the guest's memory already: it is written by whoever has the segment's lock.
    Write {
        /// The root.
        cr3: u64,
    },
}

impl KernelView {
    fn has(&self, sid: SegId) -> bool {
        self.segments.iter().any(|(its, _)| *its == sid)
    }
}

impl Shown {
    fn cr3(&self) -> u64 {
        match self {
            Shown::Read { cr3, .. } | Shown::Write { cr3 } => *cr3,
        }
    }
}

/// What had been published at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Published {
    /// What the store's word said.
    stamp: u64,
    /// How often, of each segment of an instance, in the order of their ids.
    counts: Vec<u64>,
}

/// What the kernel has of an instance.
#[derive(Debug)]
struct KernelView {
    /// The number of the first segment's pages; the others' follow.
    number: u32,
    /// Of each segment.
    segments: Vec<(SegId, ViewPages)>,
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

/// The store's word in the page of change counters that the kernel looks at.
struct MappedWord(Arc<SwitchTables>);

fn not_mapped(doing: &'static str) -> impl FnOnce(MemoryError) -> StoreError {
    move |error| StoreError::Io { doing, path: "live".into(), source: io::Error::other(error) }
}

impl StoreWord for MappedWord {
    fn read(&self) -> Result<u64, StoreError> {
        self.0.published().map_err(not_mapped("read"))
    }

    fn write(&self, value: u64) -> Result<(), StoreError> {
        self.0.set_published(value).map_err(not_mapped("write"))
    }
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
    pub(super) fn prepare(&mut self, vh: u32, files: &[&SegmentFile]) -> Result<(), VasError> {
        if self.by_handle.contains_key(&vh) {
            return Ok(());
        }
        let full = || VasError::Full { what: "views of versioned segments" };
        let count = files.len() as u32;
        let number = self.numbers.allocate(count, MAX_VIEWS).ok_or_else(full)?;
        let mut view = KernelView { number, segments: Vec::new(), shown: None };
        let mapped = (number..).zip(files).try_for_each(|(number, file)| {
            let pages = self.pages_of(number)?;
            self.switch.map_words(&pages, file.words_page())?;
            view.segments.push((file.sid(), pages));
            Ok(())
        });
        match mapped {
            Ok(()) => {
                self.by_handle.insert(vh, view);
                self.is_any.store(true, Ordering::SeqCst);
            }
            Err(_) => self.free(&view),
        }
        mapped
    }

    fn free(&mut self, view: &KernelView) {
        for (_, pages) in &view.segments {
            warn_if_failed("unmap a segment's words", self.switch.unmap_words(pages));
        }
        self.numbers.free(view.number);
    }

    fn pages_of(&mut self, number: u32) -> Result<ViewPages, VasError> {
        if let Some(&pages) = self.memory.get(&number) {
            return Ok(pages);
        }
        let pages = self.switch.map_view(number)?;
        self.memory.insert(number, pages);
        Ok(pages)
    }

    /// The store's word, as this VM has it mapped: something is attached.
    pub(super) fn store_word(&self) -> impl StoreWord + use<> {
        MappedWord(self.switch.clone())
    }

    /// What has been published by now.
    fn published(&self, files: &[&SegmentFile]) -> Result<Published, VasError> {
        let stamp = self.switch.published()?;
        // Never written, or not whole: then the kernel compares with what nobody writes.
        let counts = files.iter().map(|file| Ok(file.words_count()?.unwrap_or(0)));
        Ok(Published { stamp, counts: counts.collect::<Result<_, VasError>>()? })
    }

    /// The root that the kernel is shown of an instance, if any.
    fn root(&self, vh: u32) -> Option<u64> {
        Some(self.by_handle.get(&vh)?.shown.as_ref()?.cr3())
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
        let Some((_, pages)) = view.segments.first() else { return Ok(()) };
        self.switch.set_writer(pages, &record)?;
        view.shown = Some(Shown::Write { cr3 });
        Ok(())
    }

    /// [`WriteRecord::count`] for tables of an instance that was prepared.
    pub(super) fn writers_count(&self, vh: u32) -> Result<Option<u64>, VasError> {
        let view = self.by_handle.get(&vh).and_then(|view| view.segments.first());
        Ok(view.map(|(_, pages)| self.switch.writers_count(pages)).transpose()?)
    }

    /// The kernel is shown nothing of an instance any more.
    pub(super) fn hide(&mut self, vh: u32) {
        let Some(view) = self.by_handle.get_mut(&vh) else { return };
        let hidden = match view.shown.take() {
            None => return,
            Some(Shown::Write { .. }) if let Some((_, pages)) = view.segments.first() => {
                self.switch.hide_writer(vh, pages)
            }
            Some(_) => self.switch.clear_instance(vh),
        };
        warn_if_failed("withdraw a view", hidden);
    }
}

impl State {
    /// The segment of an instance that the kernel may let a writer into by itself: it has no other. Leaving
    /// several is a commit of all, and a raw segment's extents come and go.
    pub(super) fn kernels_segment(&self, vh: u32) -> Option<SegId> {
        let mut members = self.instances.get(vh)?.members.iter();
        let (sid, member) = members.next()?;
        let is_alone = members.next().is_none() && member.right == Right::Write;
        (is_alone && self.residency.of_member(sid).is_versioned()).then_some(sid)
    }

    /// The files of an instance's segments that the kernel may enter by itself to read. Others keep the VMM
    /// busy: a raw segment's extents come and go.
    fn read_by_kernel(&self, vh: u32) -> Option<Vec<&SegmentFile>> {
        let members = self.instances.get(vh)?.members.iter();
        let files = members.map(|(sid, member)| {
            let segment = self.residency.of_member(sid);
            let is_read = segment.is_versioned() && member.right == Right::Read;
            is_read.then_some(&segment.file)
        });
        let files = files.collect::<Option<Vec<_>>>();
        files.filter(|files| (1..=SEGMENTS_MAX).contains(&files.len()))
    }

    /// What has been published by now, if the kernel may be shown a view of instance `vh`. To be
    /// asked before the newest versions are looked for: what comes meanwhile is news then.
    pub(super) fn published_for_kernel(&mut self, vh: u32) -> Option<Published> {
        let files = self.read_by_kernel(vh)?;
        let files: Vec<SegmentFile> = files.into_iter().cloned().collect();
        let files: Vec<&SegmentFile> = files.iter().collect();
        let views = &mut self.kernel_views;
        match views.prepare(vh, &files).and_then(|()| views.published(&files)) {
            Ok(published) => Some(published),
            Err(error) => {
                let why = crate::error::chain(&error);
                tracing::debug!("the kernel does not enter instance {vh}: {why}");
                None
            }
        }
    }

    /// Versions were published in the store, and none of the segments of some views: their stamps are the
    /// store's word again, so that the kernel need not look at each segment.
    pub(super) fn renew_views(&mut self) {
        let handles: Vec<u32> = self.kernel_views.by_handle.keys().copied().collect();
        for vh in handles {
            let Some(files) = self.read_by_kernel(vh) else { continue };
            let Ok(now) = self.kernel_views.published(&files) else { continue };
            let Some(view) = self.kernel_views.by_handle.get_mut(&vh) else { continue };
            if let Some(Shown::Read { by, .. }) = &mut view.shown
                && by.counts == now.counts
                && by.stamp != now.stamp
            {
                let renewed = self.kernel_views.switch.renew_view(vh, now.stamp);
                warn_if_failed("renew a view", renewed);
                by.stamp = now.stamp;
            }
        }
    }

    /// The kernel looks at the words of each segment when it enters a view that shows this one.
    pub(super) fn distrust_stamps(&mut self, sid: SegId) {
        let KernelViews { by_handle, switch, .. } = &mut self.kernel_views;
        for (&vh, view) in by_handle.iter_mut().filter(|(_, view)| view.has(sid)) {
            if let Some(Shown::Read { by, .. }) = &mut view.shown {
                by.stamp = NO_STAMP;
                warn_if_failed("change a view's stamp", switch.renew_view(vh, NO_STAMP));
            }
        }
    }

    /// Shows the kernel the tables that the thread on `vcpu` is about to get, which were the newest
    /// by what had been published. Those that it was shown before go as soon as no thread is inside.
    pub(super) fn show_to_kernel(&mut self, vcpu: u32, vh: u32, id: TablesId, by: Published) {
        let Some(cr3) = self.visits.give_to_kernel(id) else { return };
        if let Some(view) = self.kernel_views.by_handle.get_mut(&vh) {
            view.shown = Some(Shown::Read { cr3, by });
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
        let pages = view.into_iter().flat_map(|view| view.segments.iter().map(|(_, pages)| *pages));
        match view.and_then(|view| view.shown.as_ref()) {
            Some(Shown::Read { cr3, by }) => {
                let segments: Vec<(ViewPages, u64)> =
                    pages.zip(by.counts.iter().copied()).collect();
                views.switch.show_view(vh, &segments, (*cr3, by.stamp))?;
            }
            Some(Shown::Write { .. }) => {
                pages.take(1).try_for_each(|pages| views.switch.show_writer(vh, &pages))?;
            }
            None => views.switch.clear_instance(vh)?,
        }
        Ok(())
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
        let of_segment = views.by_handle.iter().filter(|(_, view)| view.has(sid));
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

    /// The kernel is shown nothing of instance `vh` before the next visit that the VMM begins.
    pub(super) fn hide_view(&mut self, vh: u32) {
        self.kernel_views.hide(vh);
    }

    /// The kernel enters instance `vh` no more, and no thread is inside: its tables are the VMM's
    /// again.
    pub(crate) fn drop_views(&mut self, vh: u32) {
        let views = &mut self.kernel_views;
        views.hide(vh);
        if let Some(view) = views.by_handle.remove(&vh) {
            warn_if_failed("withdraw a view", views.switch.clear_instance(vh));
            views.free(&view);
        }
        self.visits.take_from_kernel(vh, |_| false, &mut self.tables);
    }
}
