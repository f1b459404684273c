//! The steps of the SDK's `VOnce` under loom: setters of several programs, one of which may end in the middle, and a reader.
//!
//! The code is the SDK's own; values are cells that loom watches, so that a slot that is read while it is written, or
//! written twice, is found. That the models see a fault is shown by a setter that chooses before it writes.

#[path = "../../guest-sdk/src/shared/claims.rs"]
#[allow(unreachable_pub, reason = "the file is the SDK's")]
mod claims;

use claims::{Claimed, Word, choose, chosen, claim};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

const SLOTS: usize = 2;

struct Watched(AtomicU32);

impl Word for Watched {
    fn get(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    fn replace(&self, old: u32, new: u32) -> bool {
        self.0.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

struct Once {
    chosen: Watched,
    taken: Watched,
    slots: [UnsafeCell<u32>; SLOTS],
}

impl Once {
    fn new() -> Arc<Once> {
        Arc::new(Once {
            chosen: Watched(AtomicU32::new(0)),
            taken: Watched(AtomicU32::new(0)),
            slots: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    fn write(&self, slot: &Claimed, value: u32) {
        // SAFETY: loom watches the cell, and fails the model where it is in use elsewhere.
        self.slots[slot.slot()].with_mut(|place| unsafe { *place = value });
    }

    fn get(&self) -> Option<u32> {
        // SAFETY: as in `write`.
        chosen(&self.chosen).map(|slot| self.slots[slot].with(|place| unsafe { *place }))
    }

    fn set(&self, value: u32) -> bool {
        let Ok(slot) = claim(&self.chosen, &self.taken, SLOTS as u32) else { return false };
        self.write(&slot, value);
        choose(&self.chosen, &slot)
    }
}

#[test]
fn of_two_setters_one_wins_and_everyone_sees_its_value_whole() {
    loom::model(|| {
        let once = Once::new();
        let setters: Vec<_> = [7, 8]
            .map(|value| {
                let once = Arc::clone(&once);
                thread::spawn(move || once.set(value).then_some(value))
            })
            .into();
        let reader = {
            let once = Arc::clone(&once);
            thread::spawn(move || once.get())
        };
        let seen = reader.join().unwrap();
        assert!([None, Some(7), Some(8)].contains(&seen), "{seen:?}");
        let won: Vec<u32> =
            setters.into_iter().filter_map(|setter| setter.join().unwrap()).collect();
        assert_eq!(won.len(), 1);
        assert_eq!(once.get(), Some(won[0]));
        assert!(seen.is_none_or(|seen| seen == won[0]));
    });
}

#[test]
fn a_setter_that_ends_before_or_after_it_has_written_stops_nobody() {
    for writes in [false, true] {
        loom::model(move || {
            let once = Once::new();
            let ended = {
                let once = Arc::clone(&once);
                thread::spawn(move || {
                    if let Ok(slot) = claim(&once.chosen, &once.taken, SLOTS as u32)
                        && writes
                    {
                        once.write(&slot, 7);
                    }
                })
            };
            let other = {
                let once = Arc::clone(&once);
                thread::spawn(move || (once.set(8), once.get()))
            };
            assert_eq!(other.join().unwrap(), (true, Some(8)));
            ended.join().unwrap();
            assert_eq!(once.get(), Some(8));
        });
    }
}

/// That a model can fail: loom sees the value read while it is written.
#[test]
#[should_panic]
fn a_setter_that_chooses_before_it_writes_is_found() {
    loom::model(|| {
        let once = Once::new();
        let setter = {
            let once = Arc::clone(&once);
            thread::spawn(move || {
                let slot = claim(&once.chosen, &once.taken, SLOTS as u32).expect("a slot");
                choose(&once.chosen, &slot);
                // loom lets others go first at operations on atomics only.
                thread::yield_now();
                once.write(&slot, 7);
            })
        };
        let reader = {
            let once = Arc::clone(&once);
            thread::spawn(move || once.get())
        };
        setter.join().unwrap();
        let seen = reader.join().unwrap();
        assert!([None, Some(7)].contains(&seen));
    });
}
