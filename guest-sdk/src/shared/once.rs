//! A value that is set once, by whichever program comes first.

use std::cell::UnsafeCell;
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::claims::{self, Claimed, NoClaim, Word};
use super::concurrent::Concurrent;
use super::{Inert, Layouts};
use crate::storable::Storable;

/// How long a setter waits for others that are between claiming a slot and choosing it, a matter of nanoseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A value that is set once and only read from then on, by any number of programs at the same time, in place of a
/// [`OnceLock`](std::sync::OnceLock).
///
/// Nobody waits for who is making a value: several programs may make one each, and the first that has is the one that
/// all see. A program that is killed in the middle costs one of the `SLOTS` places and stops nobody.
///
/// `T` is `Copy`, and so owns nothing: a [`Shared`](super::Shared) value has no heap.
///
/// ```
/// use spacejmp::{Shared, VOnce};
///
/// let started = Shared::<VOnce<u64>>::in_memory();
/// let first = started.visit(|it| it.get_or_init(|| 1975).copied())?;
/// let second = started.visit(|it| it.get_or_init(|| 2016).copied())?;
/// assert_eq!((first, second), (Ok(1975), Ok(1975)));
/// # Ok::<_, spacejmp::Error>(())
/// ```
#[repr(C)]
pub struct VOnce<T, const SLOTS: usize = 8> {
    /// 0: none; otherwise one more than the slot that has the value.
    chosen: AtomicU32,
    /// How many slots have been claimed.
    taken: AtomicU32,
    slots: [UnsafeCell<MaybeUninit<T>>; SLOTS],
}

/// Why a value was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSet {
    /// There is one already.
    #[error("there is a value already")]
    IsSet,
    /// As many setters as there are slots have ended in the middle, or have not gone on for ten seconds.
    #[error(
        "each of its slots was claimed by a program that did not come to the end of setting it: \
         take another segment, or more slots"
    )]
    NoSlot,
}

impl Word for AtomicU32 {
    fn get(&self) -> u32 {
        self.load(Ordering::Acquire)
    }

    fn replace(&self, old: u32, new: u32) -> bool {
        self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

// SAFETY: the value is written by the one who claimed its slot, before it is chosen, and from then on only read
// (`claims`); it is `Send`, since another thread may have made it, and `Sync`.
unsafe impl<T: Send + Sync, const SLOTS: usize> Sync for VOnce<T, SLOTS> {}

// SAFETY: zeros are a value, which has no slot chosen. What programs do at the same time is what `Sync` says, and slots
// that are chosen hold a `T` that means the same to all, as `Storable` demands; the brand has no values, so that it
// has no addresses. The value is `Copy`: nothing is to be dropped.
unsafe impl<T, const SLOTS: usize> Concurrent for VOnce<T, SLOTS>
where
    T: Copy + Storable<Inert> + 'static,
{
    fn layout(layouts: &mut Layouts<'_>) {
        layouts.once::<Self, T>(SLOTS);
    }
}

impl<T, const SLOTS: usize> VOnce<T, SLOTS>
where
    T: Copy + Storable<Inert> + 'static,
{
    /// The value, if it is set.
    #[must_use]
    pub fn get(&self) -> Option<&T> {
        let slot = self.slots.get(claims::chosen(&self.chosen)?)?;
        // SAFETY: a slot is chosen when its value is complete, and is not written to any more; `Acquire` goes with
        // the `Release` of choosing it.
        Some(unsafe { &*slot.get().cast::<T>() })
    }

    /// Sets the value, unless there is one.
    ///
    /// # Errors
    /// [`NotSet`].
    pub fn set(&self, value: T) -> Result<(), NotSet> {
        let claimed = self.claim()?;
        // SAFETY: whoever has claimed a slot is the only one who uses it until it is chosen.
        unsafe { self.slots[claimed.slot()].get().cast::<T>().write(value) };
        if claims::choose(&self.chosen, &claimed) { Ok(()) } else { Err(NotSet::IsSet) }
    }

    /// The value; if there is none, what `make` gives becomes it, unless another one comes first.
    ///
    /// # Errors
    /// [`NotSet::NoSlot`].
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> Result<&T, NotSet> {
        if let Some(value) = self.get() {
            return Ok(value);
        }
        match self.set(make()) {
            Ok(()) | Err(NotSet::IsSet) => self.get().ok_or(NotSet::NoSlot),
            Err(NotSet::NoSlot) => Err(NotSet::NoSlot),
        }
    }

    fn claim(&self) -> Result<Claimed, NotSet> {
        let mut since = None;
        loop {
            match claims::claim(&self.chosen, &self.taken, SLOTS as u32) {
                Ok(claimed) => return Ok(claimed),
                Err(NoClaim::IsSet) => return Err(NotSet::IsSet),
                Err(NoClaim::NoneFree) => {
                    let since = *since.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        return Err(NotSet::NoSlot);
                    }
                    std::thread::yield_now();
                }
            }
        }
    }
}

impl<T: fmt::Debug, const SLOTS: usize> fmt::Debug for VOnce<T, SLOTS>
where
    T: Copy + Storable<Inert> + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VOnce").field(&self.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shared;

    #[test]
    fn the_first_value_is_the_one_that_all_see() {
        let once = Shared::<VOnce<u64>>::in_memory();
        once.visit(|it| {
            assert_eq!(it.get(), None);
            assert_eq!(it.set(7), Ok(()));
            assert_eq!(it.set(8), Err(NotSet::IsSet));
            assert_eq!(it.get_or_init(|| unreachable!("there is one")), Ok(&7));
        })
        .unwrap();
    }

    #[test]
    fn threads_that_set_it_at_the_same_time_agree() {
        for _ in 0..200 {
            let once = Shared::<VOnce<[u64; 16], 2>>::in_memory();
            let seen: Vec<[u64; 16]> = std::thread::scope(|scope| {
                let (once, threads) = (&once, 1..=6);
                let threads = threads.map(|n| {
                    let set = move |it: &VOnce<[u64; 16], 2>| *it.get_or_init(|| [n; 16]).unwrap();
                    scope.spawn(move || once.visit(set).unwrap())
                });
                // All are there before one is waited for.
                #[expect(clippy::needless_collect)]
                let threads: Vec<_> = threads.collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(seen.iter().all(|value| *value == [seen[0][0]; 16]), "{seen:?}");
        }
    }

    #[test]
    fn a_setter_that_ends_in_the_middle_costs_one_slot() {
        let once = Shared::<VOnce<u8, 2>>::in_memory();
        once.visit(|it| {
            let _ended: Claimed = it.claim().unwrap();
            assert_eq!(it.get(), None);
            assert_eq!(it.set(1), Ok(()));
            assert_eq!(it.get(), Some(&1));
        })
        .unwrap();
    }

    #[test]
    fn without_a_slot_it_is_an_error_and_no_wait_without_end() {
        let once = Shared::<VOnce<u8, 0>>::in_memory();
        let set = once.visit(|it| it.set(1)).unwrap();
        assert_eq!(set, Err(NotSet::NoSlot));
    }
}
