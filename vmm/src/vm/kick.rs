//! Getting a vCPU out of the guest from another thread.
//!
//! ```text
//!  kicker                         vCPU's thread
//!  K1  set the reason (atomic)
//!  K2  tgkill(tid, SIGRTMIN)      handler: kvm_run.immediate_exit = 1
//!                                 K3  KVM_RUN returns EINTR (immediately if not yet entered)
//!                                 K4  clear immediate_exit, then read the reason
//! ```
//!
//! A signal between K4 and the next KVM_RUN sets the flag again: no kick is lost. A signal while
//! the thread is in some other host call interrupts it with EINTR; a kicker that needs a response
//! repeats K2 until the thread acknowledges it, because a signal just before a blocking call would
//! otherwise be lost.

use std::cell::Cell;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};

thread_local! {
    /// `immediate_exit` of the vCPU this thread runs, or null.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// The signal used for kicks.
#[must_use]
pub fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let _ = IMMEDIATE_EXIT.try_with(|flag| {
        let flag = flag.get();
        if !flag.is_null() {
            // SAFETY: set by `Armed::new` to the flag in this thread's kvm_run mapping and cleared
            // before that mapping is removed; an atomic store is async-signal-safe.
            unsafe { (*flag).store(1, Ordering::Relaxed) };
        }
    });
}

/// Installs the handler, once per process, and unblocks the signal for the calling thread and those
/// it starts: our parent process may have blocked it, and masks are inherited.
pub fn install() {
    // The signal number is valid; there is no other cause of failure.
    let _ = vmm_sys_util::signal::unblock_signal(kick_signal());
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The signal number is valid, so this fails only when the kernel is out of memory
        // for signal actions, which it never allocates.
        let _ = vmm_sys_util::signal::register_signal_handler(kick_signal(), on_kick);
    });
}

/// While this exists, a kick of this thread reaches the vCPU whose flag it was given.
#[derive(Debug)]
pub struct Armed(());

impl Armed {
    /// Arms this thread.
    ///
    /// # Safety
    /// `flag` must stay valid until the value is dropped, on this thread.
    pub unsafe fn new(flag: *const AtomicU8) -> Armed {
        IMMEDIATE_EXIT.set(flag);
        Armed(())
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null());
    }
}

/// A host thread's number. That of the program's thread that it runs is another one in a copy of a process
/// (`linux::snapshot`), so the two have different types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostTid(i32);

impl HostTid {
    /// The calling host thread's.
    #[must_use]
    pub fn own() -> HostTid {
        HostTid(rustix::thread::gettid().as_raw_nonzero().get())
    }

    /// As the host takes it.
    #[must_use]
    pub fn raw(self) -> i32 {
        self.0
    }
}

/// Kicks a host thread of this process. One that has exited is not an error.
pub fn kick(thread: HostTid) {
    let (pid, tid) = (std::process::id(), thread.raw());
    // SAFETY: a plain system call; the signal has a handler (`install`).
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, kick_signal()) };
}
