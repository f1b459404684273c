//! Which space a thread may enter: threads of this process are never inside two spaces at the same
//! addresses at the same time.
//!
//! A token stays with its thread, but a plain `&T` that was borrowed with it may be given to a
//! scoped thread, and no type can forbid that as long as it is a plain reference. Where nothing else
//! has the address, using it there faults. Where another space has, it would be a second kind of
//! reference to other data. So threads go into such spaces one after another, as if by a lock: while
//! references into the first may exist, a thread is inside it.
//!
//! Nearly all spaces have addresses that no other has, and pay two atomic additions a visit. This
//! is not part of the segment's lock, which belongs to another file and is shared by all processes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use abi::{Errno, SegId};

use crate::location::wait::Wait;

/// How long a visit that waits as long as it takes waits for threads inside another space at the
/// same addresses: one of them may be waiting for this thread.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Addresses of one segment of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentRange {
    pub(crate) sid: u64,
    pub(crate) addresses: Range<u64>,
}

impl SegmentRange {
    /// Two segments, at the same addresses.
    fn clashes(&self, other: &SegmentRange) -> bool {
        self.sid != other.sid
            && self.addresses.start < other.addresses.end
            && other.addresses.start < self.addresses.end
    }
}

/// The addresses of an instance, and how many threads are inside.
#[derive(Debug)]
pub(crate) struct Occupancy {
    ranges: Vec<SegmentRange>,
    inside: AtomicUsize,
    /// Another space has some of the addresses, or had.
    is_shared: AtomicBool,
}

/// Those of all instances of the process; its lock is needed to enter a shared one.
static ALL: Mutex<Vec<Weak<Occupancy>>> = Mutex::new(Vec::new());
static LEFT: Condvar = Condvar::new();

fn all() -> MutexGuard<'static, Vec<Weak<Occupancy>>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Occupancy {
    /// Notes an instance's addresses.
    pub(crate) fn new(ranges: Vec<SegmentRange>) -> Arc<Occupancy> {
        let new =
            Occupancy { ranges, inside: AtomicUsize::new(0), is_shared: AtomicBool::new(false) };
        let new = Arc::new(new);
        let mut all = all();
        all.retain(|occupancy| occupancy.strong_count() > 0);
        for other in all.iter().filter_map(Weak::upgrade) {
            if new.clashes(&other) {
                // Sequentially consistent, as all in this file: a thread that enters adds and then
                // reads this, one that enters the other reads the sum after this.
                other.is_shared.store(true, Ordering::SeqCst);
                new.is_shared.store(true, Ordering::SeqCst);
            }
        }
        all.push(Arc::downgrade(&new));
        new
    }

    /// Whether the instance has the segment.
    pub(crate) fn has(&self, segment: SegId) -> bool {
        self.ranges.iter().any(|range| range.sid == segment.raw())
    }

    fn clashes(&self, other: &Occupancy) -> bool {
        self.ranges.iter().any(|range| other.ranges.iter().any(|its| range.clashes(its)))
    }

    /// The calling thread goes inside, once no thread is inside another space at the same addresses.
    ///
    /// # Errors
    /// `EAGAIN`, `ETIMEDOUT` as `wait` says, and `EDEADLK` after [`PATIENCE`].
    #[inline]
    pub(crate) fn enter(&self, wait: Wait) -> Result<(), Errno> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        if self.is_shared.load(Ordering::SeqCst) { self.enter_shared(wait) } else { Ok(()) }
    }

    #[cold]
    fn enter_shared(&self, wait: Wait) -> Result<(), Errno> {
        let mut all = all();
        self.inside.fetch_sub(1, Ordering::SeqCst);
        // Others may have counted this thread just now.
        LEFT.notify_all();
        let began = Instant::now();
        loop {
            let is_in_the_way = |other: Arc<Occupancy>| {
                other.inside.load(Ordering::SeqCst) > 0 && self.clashes(&other)
            };
            if !all.iter().filter_map(Weak::upgrade).any(is_in_the_way) {
                self.inside.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            let (limit, error) = match wait {
                Wait::Never => return Err(Errno::EAGAIN),
                Wait::Until(end) => {
                    (end.saturating_duration_since(Instant::now()), Errno::ETIMEDOUT)
                }
                Wait::Forever => (PATIENCE.saturating_sub(began.elapsed()), Errno::EDEADLK),
                Wait::Return => (PATIENCE, Errno::EDEADLK),
            };
            if limit.is_zero() {
                return Err(error);
            }
            let waited = LEFT.wait_timeout(all, limit);
            all = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The calling thread has left, or is about to and no longer uses anything of it.
    #[inline]
    pub(crate) fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
        if self.is_shared.load(Ordering::SeqCst) {
            // With the mutex: a thread that has checked already is waiting by now.
            let _all = all();
            LEFT.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupancy(sid: u64, addresses: Range<u64>) -> Arc<Occupancy> {
        Occupancy::new(vec![SegmentRange { sid, addresses }])
    }

    fn tried(occupancy: &Occupancy) -> Result<(), Errno> {
        occupancy.enter(Wait::Never).inspect(|()| occupancy.leave())
    }

    #[test]
    fn threads_are_not_inside_two_segments_at_the_same_addresses() {
        let one = occupancy(1, 0x1000..0x3000);
        // Inside before there was another.
        one.enter(Wait::Never).unwrap();
        let (same, other) = (occupancy(1, 0x1000..0x3000), occupancy(2, 0x2000..0x4000));
        let beside = occupancy(3, 0x4000..0x5000);
        assert_eq!(tried(&other), Err(Errno::EAGAIN));
        assert_eq!([tried(&same), tried(&beside), tried(&one)], [Ok(()); 3]);
        let limit = Instant::now() + Duration::from_millis(1);
        assert_eq!(other.enter(Wait::Until(limit)), Err(Errno::ETIMEDOUT));
        one.leave();
        assert_eq!(other.enter(Wait::Never), Ok(()));
        assert_eq!([tried(&same), tried(&one)], [Err(Errno::EAGAIN); 2]);
        assert_eq!([tried(&other), tried(&beside)], [Ok(()); 2]);
        other.leave();
        assert_eq!([tried(&one), tried(&other)], [Ok(()); 2]);
    }

    #[test]
    fn who_waits_goes_in_when_the_last_of_the_others_has_left() {
        let (one, two) = (occupancy(11, 0x10_000..0x20_000), occupancy(12, 0x10_000..0x20_000));
        one.enter(Wait::Never).unwrap();
        one.enter(Wait::Never).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| two.enter(Wait::Return));
            one.leave();
            assert!(!waiting.is_finished(), "one thread is inside still");
            one.leave();
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        assert_eq!(tried(&one), Err(Errno::EAGAIN));
    }

    #[test]
    fn never_are_two_inside_whatever_the_order() {
        let both = [occupancy(21, 0x30_000..0x40_000), occupancy(22, 0x30_000..0x40_000)];
        let inside = [AtomicUsize::new(0), AtomicUsize::new(0)];
        let rounds = if cfg!(miri) { 20 } else { 2000 };
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let (both, inside) = (&both, &inside);
                scope.spawn(move || {
                    for round in 0..rounds {
                        let which = (thread + round / 7) % 2;
                        both[which].enter(Wait::Return).unwrap();
                        inside[which].fetch_add(1, Ordering::SeqCst);
                        assert_eq!(inside[1 - which].load(Ordering::SeqCst), 0);
                        inside[which].fetch_sub(1, Ordering::SeqCst);
                        both[which].leave();
                    }
                });
            }
        });
    }
}
