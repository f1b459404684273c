//! The number of this process's mappings, compared with the host's limit (`vm.max_map_count`).
//!
//! A file mapped over some pages, pages moved elsewhere and advice for a part each split a memory
//! region into more mappings. At the host's limit, any further mapping in this process fails, the
//! allocator's included. So operations that a program can repeat without bound fail with `ENOMEM`
//! at three quarters of it.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Linux's default.
const USUAL_MAXIMUM: u64 = 65_530;
/// Maximum number of mappings that one operation on part of a mapping adds.
const PER_OPERATION: u64 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct HostMaps {
    limit: u64,
    /// An upper bound, except for mappings made elsewhere in this process since the last count.
    estimate: AtomicU64,
}

impl HostMaps {
    pub(super) fn of_this_host() -> HostMaps {
        let maximum = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
        let maximum = maximum.and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL_MAXIMUM);
        HostMaps { limit: maximum / 4 * 3, estimate: AtomicU64::new(0) }
    }

    /// Whether there is room for an operation that may split mappings; if so, the estimate assumes
    /// that it does. Counting is slow and done only when the estimate reaches the limit.
    pub(super) fn has_room(&self) -> bool {
        if self.estimate.fetch_add(PER_OPERATION, Relaxed) + PER_OPERATION <= self.limit {
            return true;
        }
        let Some(now) = count() else { return false };
        self.estimate.store(now + PER_OPERATION, Relaxed);
        now + PER_OPERATION <= self.limit
    }
}

/// One line per mapping.
fn count() -> Option<u64> {
    let maps = std::fs::read("/proc/self/maps").ok()?;
    Some(maps.iter().filter(|&&byte| byte == b'\n').count() as u64)
}

#[cfg(test)]
mod tests {
    use super::{HostMaps, PER_OPERATION, count};
    use std::sync::atomic::AtomicU64;

    #[test]
    fn an_estimate_at_the_limit_is_replaced_by_a_count() {
        let now = count().unwrap();
        assert!(now > 0);
        let maps = HostMaps { limit: now * 2 + 1000, estimate: AtomicU64::new(now * 2 + 1000) };
        assert!(maps.has_room());
        assert!(maps.estimate.into_inner() < now * 2 + 1000);
        let full = HostMaps { limit: PER_OPERATION, estimate: AtomicU64::new(0) };
        assert!(full.has_room());
        assert!(!full.has_room() && !full.has_room());
    }
}
