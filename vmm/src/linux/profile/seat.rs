//! How a thread is asked where it is.
//!
//! ```text
//!  sampler                        thread
//!  P1  ticks += n
//!  P2  INSIDE -> KICKING          stays inside, or waits at P5
//!  P3  kick
//!  P4  KICKING -> KICKED
//!                                 P5  leaves: waits while KICKING; the kick is pending or taken
//!                                 P6  one call of the host's, at whose end a pending kick is taken
//!                                 P7  OUTSIDE
//! ```
//!
//! A kick interrupts a call of the host's that waits, and some of those, as a write to a full pipe, then return
//! less than the program asked for. So a thread is kicked only inside the guest, and one that comes out at that moment goes on when the
//! kick is behind it: between P2 and P7 it makes no call that waits.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::thread::yield_now;

const OUTSIDE: u8 = 0;
const INSIDE: u8 = 1;
const KICKING: u8 = 2;
const KICKED: u8 = 3;

/// What the sampler and a thread tell each other.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    place: AtomicU8,
    ticks: AtomicU32,
}

impl Seat {
    /// The calling thread begins: what has passed before is not its own.
    pub(crate) fn begins(&self) {
        self.take_ticks();
    }

    /// It is about to enter the guest.
    pub(crate) fn enters(&self) {
        // Nothing else is published by it.
        self.place.store(INSIDE, Ordering::Relaxed);
    }

    /// It has left the guest.
    pub(crate) fn leaves(&self) {
        // Acquire pairs with P4: the kick was sent before that.
        let (took, missed) = (Ordering::Acquire, Ordering::Acquire);
        if self.place.compare_exchange(INSIDE, OUTSIDE, took, missed).is_ok() {
            return;
        }
        while self.place.load(Ordering::Acquire) == KICKING {
            yield_now();
        }
        yield_now();
        self.place.store(OUTSIDE, Ordering::Relaxed);
    }

    /// So many periods have passed; `kick` is called if the thread is inside and not kicked yet.
    pub(super) fn ask(&self, ticks: u32, kick: impl FnOnce()) {
        // Wraps only if the thread is not served for a month.
        self.ticks.fetch_add(ticks, Ordering::Relaxed);
        let (took, missed) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.place.compare_exchange(INSIDE, KICKING, took, missed).is_ok() {
            kick();
            // Release: see `leaves`.
            self.place.store(KICKED, Ordering::Release);
        }
    }

    /// The periods that have passed since this was called last.
    pub(super) fn take_ticks(&self) -> u32 {
        match self.ticks.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.ticks.swap(0, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::Seat;

    #[test]
    fn a_thread_is_kicked_inside_only_and_once_until_it_has_left() {
        let seat = Seat::default();
        let kicks = Cell::new(0);
        let ask = || seat.ask(2, || kicks.set(kicks.get() + 1));
        ask();
        assert_eq!(kicks.get(), 0, "it is outside");
        seat.begins();
        seat.enters();
        ask();
        ask();
        assert_eq!(kicks.get(), 1);
        seat.leaves();
        ask();
        assert_eq!((kicks.get(), seat.take_ticks(), seat.take_ticks()), (1, 6, 0));
        seat.enters();
        ask();
        assert_eq!(kicks.get(), 2);
    }

    #[test]
    fn no_kick_is_on_its_way_to_a_thread_that_has_left() {
        let (seat, under_way) = (Seat::default(), AtomicBool::new(false));
        let (done, kicks) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    seat.ask(1, || {
                        under_way.store(true, Ordering::SeqCst);
                        std::hint::spin_loop();
                        kicks.fetch_add(1, Ordering::Relaxed);
                        under_way.store(false, Ordering::SeqCst);
                    });
                }
            });
            let mut rounds = 0;
            while rounds < 20_000 || kicks.load(Ordering::Relaxed) == 0 {
                seat.enters();
                std::hint::spin_loop();
                seat.leaves();
                assert!(!under_way.load(Ordering::SeqCst));
                rounds += 1;
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
