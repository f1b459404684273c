//! Counters; stub until merged.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
/// Counters.
#[derive(Debug, Default)]
pub struct Stats {
    calls: AtomicU64,
}
impl Stats {
    /// x
    pub fn call_begins(&self) -> Option<Instant> {
        None
    }
    /// x
    pub fn call_ends(&self, _number: u64, _began: Option<Instant>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
    /// x
    pub fn unserved(&self, _number: u64) -> bool {
        true
    }
    /// x
    pub fn fault(&self, _signo: i32) {}
}
