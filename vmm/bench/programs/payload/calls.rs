//! The cost of a system call and of reading the clock.

use std::hint::black_box;
use std::os::unix::process::parent_id;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::json::Object;

/// Makes the cheapest call there is, `getppid` (no library caches its answer), `count`
/// times.
pub(crate) fn syscalls(count: u64) -> Object {
    let parent = parent_id();
    let mut same = true;
    let start = Instant::now();
    for _ in 0..count {
        same &= black_box(parent_id()) == parent;
    }
    let ns = start.elapsed().as_nanos() as u64;
    Object::new("syscalls")
        .number("count", count)
        .truth("same_answer", same)
        .number("ns_per_call", ns / count.max(1))
        .number("ns", ns)
}

/// Reads the clock `count` times in one thread, then `count` times in each of `threads`
/// threads that show each other the latest time they saw: `backwards` counts readings
/// earlier than one that another thread had finished before.
pub(crate) fn clock(count: u64, threads: usize) -> Object {
    let base = Instant::now();
    for _ in 0..count {
        black_box(Instant::now());
    }
    let ns = base.elapsed().as_nanos() as u64;

    let latest = AtomicU64::new(0);
    let ready = Barrier::new(threads);
    let backwards: u64 = std::thread::scope(|scope| {
        let watch = || {
            ready.wait();
            let mut backwards = 0;
            for _ in 0..count {
                // Acquire and the AcqRel below: the reading that was published had ended
                // before ours begins.
                let seen = latest.load(Ordering::Acquire);
                let now = base.elapsed().as_nanos() as u64;
                backwards += u64::from(now < seen);
                latest.fetch_max(now, Ordering::AcqRel);
            }
            backwards
        };
        let watchers: Vec<_> = (0..threads).map(|_| scope.spawn(watch)).collect();
        watchers.into_iter().map(|watcher| watcher.join().expect("no watcher panics")).sum()
    });
    Object::new("clock")
        .number("count", count)
        .number("threads", threads as u64)
        .number("backwards", backwards)
        .number("ns_per_reading", ns / count.max(1))
        .number("ns", ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_does_not_change() {
        assert!(syscalls(10).to_string().contains("\"same_answer\":true"));
    }

    #[test]
    fn the_clock_does_not_go_back() {
        assert!(clock(1000, 2).to_string().contains("\"backwards\":0"));
    }
}
