//! Breakpoints and watchpoints of the processor, which cost nothing until they are met, and are as precise: where the host
//! keeps to them, and as many as there are. What they cannot do, `points` and `watches` do.
//!
//! Every thread has them in its vCPU, from when it enters the guest next. They are changed only while all threads stand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::seats::Event;
use super::watches::Access;
use crate::linux::task::{Process, ThreadCtx};
use crate::vm::vcpu::points::{On, Point, Points};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Processor {
    /// Whether the host keeps to them, once that was tried.
    works: OnceLock<bool>,
    points: Mutex<Points>,
    /// Raised with each change.
    version: AtomicU64,
}

impl Processor {
    fn lock(&self) -> MutexGuard<'_, Points> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out whether the host keeps to them, if that is not known: by a vCPU that no thread runs.
    pub(super) fn try_out(&self, process: &Process) {
        if self.works.get().is_some() {
            return;
        }
        let vcpu = process.threads.idle_vcpu().ok_or(()).or_else(|()| process.kernel.new_vcpu());
        let mut vcpu = match vcpu {
            Ok(vcpu) => vcpu,
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::warn!(%error, "no vCPU to try the processor's breakpoints with");
                return;
            }
        };
        if let Some(works) = vcpu.probe_points() {
            tracing::debug!(works, "breakpoints of the processor");
            // Two threads would have found the same.
            let _ = self.works.set(works);
        }
        process.threads.keep_vcpu(vcpu);
    }

    /// Has one of them for a breakpoint, or gives it back. Returns whether it has one, or had.
    pub(super) fn set_point(&self, at: u64, is_set: bool) -> bool {
        self.set(Point::execution(at), is_set)
    }

    /// The same for a watchpoint: of reading alone the processor has none.
    pub(super) fn set_watch(&self, at: u64, len: u64, access: Access, is_set: bool) -> bool {
        let on = match access {
            Access::Write => On::Writing,
            Access::Any => On::Use,
            Access::Read => return false,
        };
        Point::memory(at, len, on).is_some_and(|point| self.set(point, is_set))
    }

    fn set(&self, point: Point, is_set: bool) -> bool {
        let mut points = self.lock();
        let is_done = match is_set {
            true => self.works.get() == Some(&true) && points.add(point),
            false => points.remove(point),
        };
        self.version.fetch_add(u64::from(is_done), Ordering::SeqCst);
        is_done
    }

    /// There are none any more.
    pub(super) fn clear(&self) {
        let mut points = self.lock();
        if *points != Points::default() {
            *points = Points::default();
            self.version.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Before a thread enters the guest: its vCPU has those that there are.
    pub(super) fn enters(&self, ctx: &mut ThreadCtx<'_>) {
        // A change comes while all threads stand: then they look.
        let version = self.version.load(Ordering::SeqCst);
        if ctx.debugged.points_version.replace(version) != version {
            let points = *self.lock();
            if let Err(error) = ctx.vcpu.set_points(&points) {
                let error = crate::error::chain(&error);
                tracing::warn!(%error, "a thread does not stop at the processor's breakpoints");
            }
        }
    }

    /// What has happened to the calling thread, if it is one of them that it was stopped by.
    pub(super) fn event(&self, ctx: &ThreadCtx<'_>) -> Option<Event> {
        let point = self.lock().hit(ctx.vcpu.hits())?;
        Some(match point.on {
            On::Execution => Event::ProcessorBreakpoint,
            On::Writing => Event::Watch(point.at, Access::Write),
            On::Use => Event::Watch(point.at, Access::Any),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Processor};

    #[test]
    fn what_the_processor_does_not_have_is_for_others() {
        let processor = Processor::default();
        assert!(!processor.set_point(0x1000, true), "it was not tried");
        processor.works.set(true).unwrap();
        let watch = |at, len, access| processor.set_watch(at, len, access, true);
        assert!(!watch(0x1000, 8, Access::Read));
        assert!(!watch(0x1001, 8, Access::Write) && !watch(0x1000, 24, Access::Any));
        assert!(watch(0x1000, 8, Access::Write) && watch(0x1000, 8, Access::Any));
        assert!(processor.set_point(0x1000, true) && processor.set_point(0x1001, true));
        assert!(!processor.set_point(0x1002, true), "there are four");
        assert!(!processor.set_point(0x1002, false), "it has none");
        assert!(processor.set_watch(0x1000, 8, Access::Any, false));
        assert!(processor.set_point(0x1002, true));
    }

    #[test]
    fn none_are_promised_where_the_host_does_not_keep_to_them() {
        let processor = Processor::default();
        processor.works.set(false).unwrap();
        assert!(!processor.set_point(0x1000, true));
        assert!(!processor.set_watch(0x1000, 8, Access::Write, true));
    }
}
