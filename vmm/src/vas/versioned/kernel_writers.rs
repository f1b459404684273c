//! Writers that the guest kernel lets in by itself; leaving is committing, and the VMM's.
//!
//! When a writer leaves, and the kernel can enter its instance ([`super::kernel_views`]), the kernel is shown
//! the tables that it leaves: they show what was committed last, with its own copies of pages. The kernel
//! acquires the segment's lock, by raw segments' algorithm, and compares how often versions have been
//! published, and syncs have failed. If that is what it was, nobody else has written, and it loads the
//! root. So a transaction of the last writer's takes one exit, its end.
//!
//! - **The record is the lock's.** It is written, and taken back, by whoever has the segment's lock; the kernel
//!   looks at it once it has the lock. So no vCPU can be on tables that the VMM begins a visit with, or that an
//!   aborted visit has spoilt. What is taken back without the lock (a checkpoint by another instance, the
//!   event loop) goes as for views that are only read: the VMM looks where vCPUs are.
//! - **At its first exit the visit is the VMM's** ([`State::adopt`]), as if it had begun it. What the
//!   guest says is believed only if this VM has the lock, and nobody else has the tables.
//! - **What the VMM does when it lets a writer in itself** (it looks for another VM's root record, and for
//!   syncs that failed elsewhere) is done before the first commit. If the tables turn out not to show what was committed last,
//!   somebody has lied about the count: the commit fails, and nothing is overwritten.
#![forbid(unsafe_code)]

use abi::{Right, SegId};

use super::enter::{is_gone, still_there};
use super::sync;
use super::visits::TablesId;
use crate::vas::VasError;
use crate::vas::state::State;
use crate::vas::switch::locks::locks_of;

impl State {
    /// Which tables the thread on `vcpu` writes with, if the kernel could let others in with them. Not those
    /// that it was let in with by the kernel, if it has committed nothing: nobody has checked them.
    pub(crate) fn writers_tables(&self, vcpu: u32) -> Option<(u32, TablesId)> {
        let visit = self.visits.of(vcpu).filter(|visit| visit.is_checked)?;
        self.kernels_segment(visit.vh)?;
        Some((visit.vh, visit.tables))
    }

    /// Lets the kernel enter instance `vh` with tables that a writer has just left, who still has the lock,
    /// and has committed.
    pub(crate) fn offer_to_kernel(&mut self, (vh, id): (u32, TablesId)) {
        if let Err(error) = self.offer(vh, id) {
            let why = crate::error::chain(&error);
            tracing::debug!("the kernel lets no writer into instance {vh}: {why}");
        }
    }

    fn offer(&mut self, vh: u32, id: TablesId) -> Result<(), VasError> {
        let Some(sid) = self.kernels_segment(vh) else { return Ok(()) };
        let segment = self.residency.of_member(sid);
        let Some(lock) = segment.lock.as_ref().map(|lock| lock.reference(true)) else {
            return Ok(());
        };
        self.kernel_views.prepare(vh, &[&segment.file])?;
        // Nobody publishes while we have the lock. A sync may fail at any time: what fails behind this look
        // the kernel sees.
        let count = self.kernel_views.writers_count(vh)?.unwrap_or_default();
        let has_failed = {
            let mut log = segment.versioned().log();
            sync::take_note(&mut log, segment.file.failed_log()?);
            log.has_failed()
        };
        let Some(cr3) = self.visits.give_to_kernel(id).filter(|_| !has_failed) else {
            self.take_from_kernel(vh, None);
            return Ok(());
        };
        let offered = self.kernel_views.offer(vh, &lock, (count, cr3));
        let offered = offered.and_then(|()| self.publish_view(vh));
        self.take_from_kernel(vh, None);
        offered
    }

    /// A thread that has the lock is about to write instance `vh`, by the VMM: the kernel lets nobody in with
    /// the tables that it may get.
    pub(super) fn hide_writers(&mut self, vh: u32) {
        self.kernel_views.hide(vh);
        // Who is on them has the lock.
        self.visits.take_from_kernel(vh, |_| false, &mut self.tables);
    }

    /// Notes where the thread on `vcpu` is, which has left the guest in instance `vh` with this root: the
    /// kernel may have let it in or out.
    pub(crate) fn adopt(&mut self, vcpu: u32, vh: u32, root: u64) {
        let Some((id, sid)) = self.visits.kernels_writer(vh, root) else {
            return self.visits.adopt(vcpu, vh, root);
        };
        if self.visits.of(vcpu).is_some_and(|visit| !visit.is_kernels) {
            return;
        }
        let segment = self.residency.get(sid);
        let is_ours = segment.and_then(|it| it.lock.as_ref()).is_some_and(|lock| lock.is_ours());
        if !is_ours {
            return self.visits.forget(vcpu);
        }
        self.kernel_views.hide(vh);
        self.visits.reclaim(id);
        let locks = locks_of(self, vh);
        self.visits.begin(vcpu, id, locks);
        self.visits.set_checked(vcpu, false);
    }

    /// Checks that a writer whom the kernel has let in builds on what was committed last, as the VMM does
    /// when it lets one in. Returns the segment, if it was not known yet.
    ///
    /// # Errors
    /// [`VasError::Lost`] if not; the host's.
    pub(super) fn check_writer(&mut self, vcpu: u32) -> Result<Option<SegId>, VasError> {
        let Some(visit) = self.visits.of(vcpu).filter(|visit| !visit.is_checked) else {
            return Ok(None);
        };
        let Some(sid) = self.kernels_segment(visit.vh) else { return Ok(None) };
        let tables = self.visits.tables_of(vcpu).and_then(|tables| tables.views.get(&sid));
        let base = tables.map(|view| view.version);
        let newest =
            still_there(is_gone, || self.residency.of_member_mut(sid).newest(Right::Write))?;
        if base != Some(newest) {
            return Err(VasError::Lost { sid });
        }
        self.visits.set_checked(vcpu, true);
        Ok(Some(sid))
    }
}
