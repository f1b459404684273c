//! The processor's own count of dTLB misses, where the host permits reading it.
//!
//! Counted from outside, for a complete command with all its threads, so the guest needs no
//! counter. A command is run with two numbers of accesses, and the difference belongs to the
//! accesses.

use std::io;

use perf_event::events::{Cache, CacheOp, CacheResult, WhichCache};
use perf_event::{Builder, Counter};

/// Counts from its creation; processes that this thread starts meanwhile are added when they
/// end.
pub(super) struct Misses(Counter);

impl Misses {
    /// Starts counting loads in user mode, of the host or a guest, that missed the first-level TLB
    /// for data.
    ///
    /// # Errors
    /// The host has no such counter, or does not permit its use.
    pub(super) fn start() -> io::Result<Misses> {
        let event =
            Cache { which: WhichCache::DTLB, operation: CacheOp::READ, result: CacheResult::MISS };
        let mut builder = Builder::new().kind(event);
        builder.inherit(true);
        let mut counter = builder.build()?;
        counter.enable()?;
        Ok(Misses(counter))
    }

    /// Ends the count and returns it.
    ///
    /// # Errors
    /// Errors of the host; also when the counter was shared with others, so that a part is
    /// missing.
    pub(super) fn end(mut self) -> io::Result<u64> {
        self.0.disable()?;
        let counted = self.0.read_count_and_time()?;
        if counted.time_running < counted.time_enabled {
            return Err(io::Error::other("the counter was shared with others"));
        }
        Ok(counted.count)
    }
}
