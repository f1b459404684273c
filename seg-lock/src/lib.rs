//! The lock of a segment: its page, and the ways through it that need no help.
//!
//! A lock page lies in the segment's file and is mapped by every VM that attaches the segment.
//! The guest kernel takes and gives back uncontended locks with the functions here; the VMM
//! does the rest (`slow`, `queue`, `slots`), and `switching` says which locks a switch takes. All
//! of it works on [`LockWords`], so that kernel, VMM and tests run the same code. Mapping the
//! page, sleeping and finding out who is alive are the VMM's and not here.
//!
//! Two rules carry the design (docs/src/internals/locks.md has the argument):
//!
//! 1. A VM writes only its own facts: its lane, its ownership, its place in the queue. Others
//!    give it permissions, and wipe its facts once it is dead.
//! 2. Every single write leaves a page from which anybody can go on.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

mod queue;
mod slots;
mod slow;
mod switching;
mod switching_fast;

pub use queue::Waiting;
pub use slots::{
    ClaimError, LockView, claim_slot, free_slot, inspect, mark_inconsistent, recover, reset,
};
pub use slow::{AcquireError, Acquired, Patience, acquire, downgrade, nudge, release, upgrade};
pub use switching::{Held, LockNeed, LockOps, SwitchError, switch_locks};
pub use switching_fast::{Fast, switch_locks_fast};

/// Words of the lock page.
pub const WORDS: usize = 512;
/// VMs that can have one segment attached at the same time.
pub const SLOTS: usize = 64;

/// Places of the words in a lock page. Part of the store's format.
pub mod word {
    /// Owner and flags, see [`super::state`].
    pub const STATE: usize = 0;
    /// One more than the highest slot ever claimed since the last reset or tidying.
    pub const SLOTS_USED: usize = 1;
    /// The mutex of the queue: 0, or its holder's lease times 2, plus 1 if somebody sleeps.
    pub const MUTEX: usize = 2;
    /// Number of the next one to queue.
    pub const TICKET: usize = 3;
    /// 1 after an exclusive grant: readers that wait go next.
    pub const READERS_TURN: usize = 4;
    /// One past the last word of the queue that may be in use, counted from its first.
    pub const QUEUE_USED: usize = 5;
    /// Writers that have looked for readers since [`super::state::READERS`] was set, on the short
    /// way. Written by the exclusive holder only.
    pub const LOOKED: usize = 6;
    /// Readers inside, by slot.
    pub const LANES: usize = 8;
    /// Leases of the VMs that own the slots.
    pub const LEASES: usize = 72;
    /// The queue: one word for each waiting thread.
    pub const QUEUE: usize = 136;
    /// One past the queue.
    pub const QUEUE_END: usize = super::WORDS;
}

/// Bits of [`word::STATE`].
pub mod state {
    /// The exclusive holder's slot plus 1, or 0.
    pub const OWNER: u64 = 0xff;
    /// The owner has yet to see that no reader is inside.
    pub const CLAIM: u64 = 1 << 8;
    /// The queue may hold somebody: nobody may pass it by.
    /// The highest bit of the lowest 16: one subtraction gives the lock back and says in the sign
    /// flag whether somebody waits.
    pub const WAITERS: u64 = 1 << 15;
    /// An exclusive holder died inside, and nobody has recovered the content.
    pub const INCONSISTENT: u64 = 1 << 10;
    /// Readers may enter on their own: writers must look for them. While it is clear no reader
    /// is inside, and a lock that nobody holds is 0.
    pub const READERS: u64 = 1 << 11;
    /// What a reader looks at. It may enter on its own if of these only [`READERS`] is set.
    pub const READER_LOOKS_AT: u64 = OWNER | CLAIM | WAITERS | INCONSISTENT | READERS;
}

const _: () = {
    assert!(WORDS * 8 == abi::PAGE_SIZE as usize);
    assert!(word::LANES.is_multiple_of(8), "lanes share no cache line with the state");
    assert!(word::LEASES == word::LANES + SLOTS);
    assert!(word::QUEUE == word::LEASES + SLOTS);
    assert!(SLOTS < 0xff);
};

/// So many writers look for readers before one of them clears [`state::READERS`]. A writer that
/// looks costs some forty instructions more; a reader that finds the bit clear has to take the
/// long way, out of the guest, which is some ten times that. So where both take turns one reader
/// in so many does, and where readers have gone for good it is over after so many writers.
pub const LOOKS: u64 = 16;

/// Access to the 512 words of a lock page.
///
/// Every operation is sequentially consistent with every other one, on whatever word: the
/// algorithm rests on "I announce, then I look" on both sides. Indices are below [`WORDS`].
pub trait LockWords {
    /// The word's value.
    fn load(&self, index: usize) -> u64;
    /// Replaces the value.
    fn store(&self, index: usize, value: u64);
    /// Replaces `old` by `new`, or tells what is there instead.
    ///
    /// # Errors
    /// The value found, which is not `old`.
    fn compare_exchange(&self, index: usize, old: u64, new: u64) -> Result<u64, u64>;
    /// Adds, wrapping; returns the value before.
    fn fetch_add(&self, index: usize, delta: u64) -> u64;
    /// Subtracts, wrapping; returns the value before.
    fn fetch_sub(&self, index: usize, delta: u64) -> u64;
    /// Sets bits; returns the value before.
    fn fetch_or(&self, index: usize, bits: u64) -> u64;
    /// Keeps only `bits`; returns the value before.
    fn fetch_and(&self, index: usize, bits: u64) -> u64;
    /// Replaces the value; returns the one before.
    fn swap(&self, index: usize, value: u64) -> u64;
}

/// A lock page whose words are atomics in memory, wherever that is: all of [`LockWords`]
/// follows.
pub trait AtomicWords {
    /// A word of the page.
    fn word(&self, index: usize) -> &AtomicU64;
}

impl<P: AtomicWords + ?Sized> AtomicWords for &P {
    #[inline(always)]
    fn word(&self, index: usize) -> &AtomicU64 {
        (**self).word(index)
    }
}

impl<P: AtomicWords + ?Sized> LockWords for P {
    #[inline(always)]
    fn load(&self, index: usize) -> u64 {
        self.word(index).load(SeqCst)
    }
    #[inline(always)]
    fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, SeqCst);
    }
    #[inline(always)]
    fn compare_exchange(&self, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.word(index).compare_exchange(old, new, SeqCst, SeqCst)
    }
    #[inline(always)]
    fn fetch_add(&self, index: usize, delta: u64) -> u64 {
        self.word(index).fetch_add(delta, SeqCst)
    }
    #[inline(always)]
    fn fetch_sub(&self, index: usize, delta: u64) -> u64 {
        self.word(index).fetch_sub(delta, SeqCst)
    }
    #[inline(always)]
    fn fetch_or(&self, index: usize, bits: u64) -> u64 {
        self.word(index).fetch_or(bits, SeqCst)
    }
    #[inline(always)]
    fn fetch_and(&self, index: usize, bits: u64) -> u64 {
        self.word(index).fetch_and(bits, SeqCst)
    }
    #[inline(always)]
    fn swap(&self, index: usize, value: u64) -> u64 {
        self.word(index).swap(value, SeqCst)
    }
}

/// A VM's place in one lock page, below [`SLOTS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Slot(u32);

impl Slot {
    /// `None` from [`SLOTS`] on.
    #[must_use]
    pub const fn new(raw: u32) -> Option<Slot> {
        if raw < SLOTS as u32 { Some(Slot(raw)) } else { None }
    }

    /// The low six bits.
    pub(crate) const fn wrapping(raw: u32) -> Slot {
        Slot(raw & (SLOTS as u32 - 1))
    }

    /// The slot of a [`abi::switch::LockRef`], which is trusted as its page's address is.
    #[inline(always)]
    pub(crate) const fn of(lock: &abi::switch::LockRef) -> Slot {
        Slot(lock.slot)
    }

    /// The number.
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The slot as [`state::OWNER`].
    #[inline(always)]
    pub(crate) const fn owner(self) -> u64 {
        self.0 as u64 + 1
    }

    #[inline(always)]
    pub(crate) const fn lane(self) -> usize {
        word::LANES + self.0 as usize
    }
}

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mode {
    /// By any number of threads.
    Shared,
    /// By one thread alone.
    Exclusive,
}

/// Takes the lock if that needs no waiting, no queue and no verdict about a dead holder.
///
/// On `false` the lock is as it was, but somebody who looked meanwhile may have gone to wait:
/// the caller must see to it that the VMM calls [`nudge`] or [`acquire`].
#[inline(always)]
pub fn try_acquire_fast<W: LockWords>(words: &W, slot: Slot, mode: Mode) -> bool {
    try_acquire_short(words, slot, mode)
        || (mode == Mode::Exclusive && try_among_readers(words, slot))
}

/// As [`try_acquire_fast`], but gives up on an exclusive lock that readers use too.
#[inline(always)]
pub(crate) fn try_acquire_short<W: LockWords>(words: &W, slot: Slot, mode: Mode) -> bool {
    match mode {
        Mode::Shared => {
            words.fetch_add(slot.lane(), 1);
            let free = words.load(word::STATE) & state::READER_LOOKS_AT == state::READERS;
            if !free {
                words.fetch_sub(slot.lane(), 1);
            }
            free
        }
        Mode::Exclusive => words.compare_exchange(word::STATE, 0, slot.owner()).is_ok(),
    }
}

/// The exclusive way in where there may be readers: claim, look at the lanes, enter.
#[inline(never)]
fn try_among_readers<W: LockWords>(words: &W, slot: Slot) -> bool {
    let claim = slot.owner() | state::CLAIM;
    if words.compare_exchange(word::STATE, state::READERS, state::READERS | claim).is_err() {
        return false;
    }
    // Read after the claim: a VM raises it before its first reader can announce itself, and
    // that reader either comes to see the claim or is seen here.
    let used = words.load(word::SLOTS_USED).min(SLOTS as u64) as usize;
    let free = (0..used).all(|slot| words.load(word::LANES + slot) == 0);
    words.fetch_sub(word::STATE, if free { entered(words) } else { claim });
    free
}

/// Alone inside: what is to be taken from the state to be the owner only. At every [`LOOKS`]th time
/// [`state::READERS`], too: nobody else clears it while there is an owner.
fn entered<W: LockWords>(words: &W) -> u64 {
    let looked = words.load(word::LOOKED).wrapping_add(1);
    let is_last = looked >= LOOKS;
    words.store(word::LOOKED, if is_last { 0 } else { looked });
    if is_last { state::CLAIM | state::READERS } else { state::CLAIM }
}

/// Gives the lock back; it is given back whatever the answer. On `false` somebody waits: the
/// VMM must call [`nudge`], or the waiter finds out on its own only at its next look.
#[inline(always)]
pub fn release_fast<W: LockWords>(words: &W, slot: Slot, mode: Mode) -> bool {
    give_back(words, slot, mode) & state::WAITERS == 0
}

/// Gives the lock back, and returns a state in which waiters show.
#[inline(always)]
pub(crate) fn give_back<W: LockWords>(words: &W, slot: Slot, mode: Mode) -> u64 {
    match mode {
        Mode::Shared => {
            words.fetch_sub(slot.lane(), 1);
            words.load(word::STATE)
        }
        Mode::Exclusive => words.fetch_sub(word::STATE, slot.owner()),
    }
}

#[cfg(test)]
mod tests;
