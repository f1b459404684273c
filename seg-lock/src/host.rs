//! What the lock needs from its host: sleeping, waking, a clock, and which VMs are alive.

use abi::LeaseId;

/// What the lock needs from its host.
pub trait Waiting {
    /// Sleeps while the low half of the page's word `index` is `expected`, at most
    /// `timeout_ns`. May return early for any reason.
    fn wait(&self, index: usize, expected: u32, timeout_ns: u64);
    /// Wakes up to `count` threads, of any VM, that sleep on word `index`.
    fn wake(&self, index: usize, count: u32);
    /// Sleeps `timeout_ns`, or less if [`Waiting::should_stop`] becomes true.
    fn pause(&self, timeout_ns: u64);
    /// Whether the VM is still alive. Once false it stays false, and then nothing of that VM runs.
    fn is_alive(&self, lease: LeaseId) -> bool;
    /// Whether the calling thread has to give up whatever it waits for.
    fn should_stop(&self) -> bool;
    /// A monotonic clock.
    fn now_ns(&self) -> u64;
    /// How often to poll before sleeping.
    fn spins(&self) -> u32 {
        64
    }
}
