//! The lock page: places and bits of its words, how they are reached, and the VMs named in them.
//!
//! Nothing here changes a page. Uncontended acquire and release are in `uncontended`, all else in
//! `waiter` and `members`.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

/// Words of the lock page.
pub const WORDS: usize = 512;
/// VMs that can have one segment attached at the same time.
pub const MAX_MEMBERS: usize = 64;

/// Places of the words in a lock page. Part of the store's format.
pub mod word {
    /// Owner and flags, see [`super::state`].
    pub const STATE: usize = 0;
    /// One more than the highest number of a member since the last reset.
    pub const MEMBERS_USED: usize = 1;
    /// The mutex of the queue: 0, or its holder's lease times 2, plus 1 if a thread sleeps.
    pub const MUTEX: usize = 2;
    /// Number of the next one to queue.
    pub const TICKET: usize = 3;
    /// 1 after an exclusive grant: readers that wait go next.
    pub const READERS_TURN: usize = 4;
    /// One past the last word of the queue that may be in use, counted from its first.
    pub const QUEUE_USED: usize = 5;
    /// Writers that have scanned for readers since [`super::state::READERS`] was set, on the fast
    /// path. Written by the exclusive holder only.
    pub const SCANS: usize = 6;
    /// Threads inside as readers, by member.
    pub const READER_COUNTS: usize = 8;
    /// Leases of the VMs, by member.
    pub const LEASES: usize = 72;
    /// The queue: one word for each waiting thread.
    pub const QUEUE: usize = 136;
    /// One past the queue.
    pub const QUEUE_END: usize = super::WORDS;
}

/// Bits of [`word::STATE`].
pub mod state {
    /// The exclusive holder's number plus 1, or 0.
    pub const OWNER: u64 = 0xff;
    /// The owner has yet to see that no reader is inside.
    pub const CLAIM: u64 = 1 << 8;
    /// The queue may hold a thread: no other may pass it. The highest bit of the lowest 16: one
    /// subtraction releases the lock and shows in the sign flag whether a thread waits.
    pub const WAITERS: u64 = 1 << 15;
    /// An exclusive holder died inside, and the content has not been recovered.
    pub const INCONSISTENT: u64 = 1 << 10;
    /// Readers may enter on their own: writers must scan for them. While it is clear no reader
    /// is inside, and a free lock is 0.
    pub const READERS: u64 = 1 << 11;
    /// What a reader checks. It may enter on its own if of these only [`READERS`] is set.
    pub const READER_MASK: u64 = OWNER | CLAIM | WAITERS | INCONSISTENT | READERS;
}

const _: () = {
    assert!(WORDS * 8 == abi::PAGE_SIZE as usize);
    assert!(word::READER_COUNTS.is_multiple_of(8), "counts share no cache line with the state");
    assert!(word::LEASES == word::READER_COUNTS + MAX_MEMBERS);
    assert!(word::QUEUE == word::LEASES + MAX_MEMBERS);
    assert!(MAX_MEMBERS < 0xff);
};

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

/// A VM's number in one lock page, below [`MAX_MEMBERS`]: it has a count of readers and a lease
/// there, and its number is in the state while it owns the lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Member(u32);

impl Member {
    /// `None` from [`MAX_MEMBERS`] on.
    #[must_use]
    pub const fn new(raw: u32) -> Option<Member> {
        if raw < MAX_MEMBERS as u32 { Some(Member(raw)) } else { None }
    }

    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Member> {
        (0..MAX_MEMBERS as u32).map(Member)
    }

    /// The low six bits.
    pub(crate) const fn wrapping(raw: u32) -> Member {
        Member(raw & (MAX_MEMBERS as u32 - 1))
    }

    /// That of an [`abi::switch::LockRef`], which is trusted as its page's address is.
    #[inline(always)]
    pub(crate) const fn of(lock: &abi::switch::LockRef) -> Member {
        Member(lock.slot)
    }

    /// The number.
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// It as [`state::OWNER`].
    #[inline(always)]
    pub(crate) const fn owner(self) -> u64 {
        self.0 as u64 + 1
    }

    /// Which word counts its readers.
    #[inline(always)]
    pub(crate) const fn reader_count(self) -> usize {
        word::READER_COUNTS + self.0 as usize
    }

    /// Which word holds its lease.
    pub(crate) const fn lease(self) -> usize {
        word::LEASES + self.0 as usize
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
