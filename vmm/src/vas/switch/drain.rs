//! The end of a process that is told to end while its threads write: visits that are open may
//! end first, and none begins.
//!
//! Looking which threads are inside is not enough: a program that goes in and out all the time is
//! nearly always inside, and between a check that finds no thread and the end it is inside again.
//! So the kernel is kept from serving switches, by a value of `seen` that the change counter never
//! has, and the VMM lets no thread begin to write. How long that may take, and what ends it early,
//! is `process::supervise`'s.

use std::sync::atomic::Ordering;
use std::time::Duration;

use seg_lock::LockOutcome;

use super::locks::LockSet;

use crate::vas::VasError;
use crate::vas::state::Vases;

/// The value of `seen` then: the change counter counts changes of VASes and never gets that far.
const NEVER: u64 = !0;

/// How often a thread that may not go in checks whether the process has ended.
const PARKED: Duration = Duration::from_millis(1);

impl Vases {
    /// From now on no thread of the process begins to write to lockable segments. Those that do
    /// may end their visits, and go to other instances from there.
    pub fn drain(&self) {
        if !self.is_active() {
            return;
        }
        let guard = self.lock();
        self.draining.store(true, Ordering::SeqCst);
        crate::vas::error::warn_if_failed(
            "keep the kernel from switching",
            self.switch.set_seen(NEVER),
        );
        drop(guard);
    }

    /// Whether [`Vases::drain`] was called.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Whether no thread writes, nor may just be about to; after [`Vases::drain`] it stays so.
    ///
    /// A switch of the kernel's announces itself before it reads `seen`, notes the locks before it
    /// acquires them, and records its location last. So a vCPU whose status entry shows no switch
    /// under way has noted what it holds, or will find that the VMM has to switch.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        if !self.is_active() {
            return true;
        }
        if self.writing.load(Ordering::SeqCst) > 0 {
            return false;
        }
        let vcpus: Vec<u32> = {
            let threads = self.threads.lock().unwrap_or_else(|poison| poison.into_inner());
            threads.keys().copied().collect()
        };
        // What cannot be read is not waited for.
        !vcpus.into_iter().any(|vcpu| self.may_write(vcpu).unwrap_or(false))
    }

    fn may_write(&self, vcpu: u32) -> Result<bool, VasError> {
        if self.switch.is_switching(vcpu)? {
            return Ok(true);
        }
        // Or one that the kernel has let in to write a versioned segment, and that has not left the guest
        // since; of others `writing` says so.
        if self.switch.is_writing_view(vcpu)? {
            return Ok(true);
        }
        let (first, count) = self.switch.held_locks(vcpu)?;
        Ok(self.switch.lock_refs(first, count)?.iter().any(|lock| lock.exclusive != 0))
    }

    /// Whether a thread that `writes`, or not, may not go to where it needs `new`.
    pub(crate) fn is_kept_out(&self, writes: bool, new: &LockSet) -> bool {
        self.is_draining() && !writes && new.writes()
    }

    /// Keeps the calling thread until the process has ended.
    pub(crate) fn park(&self, stopping: &dyn Fn() -> bool) -> LockOutcome {
        while !stopping() {
            std::thread::sleep(PARKED);
        }
        LockOutcome::Interrupted
    }
}
