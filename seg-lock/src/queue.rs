//! The queue of a lock page, and the mutex around it, which outlives its holders.
//!
//! [`QueueGuard::dispatch`] reads the page and grants the lock to the threads whose turn it is. Any
//! VM can run it at any time, and it writes single words, each of which is correct on its own, so a
//! VM that dies half-way leaves nothing to undo. What a thread waits for, and how long, is
//! `waiter`'s; what dead VMs left, `reap`'s.

use crate::entry::{Entry, Want};
use crate::host::Waiting;
use crate::page::{LockWords, Member, state, word};
use abi::LeaseId;

/// Longest sleep before checking which VMs are alive.
pub(crate) const CHECK_NS: u64 = 100_000_000;
/// First sleep before checking which VMs are alive, and whether the mutex's holder is.
pub(crate) const FIRST_CHECK_NS: u64 = 2_000_000;
/// How long a thread that must not wait for the lock waits for the mutex.
pub(crate) const GRACE_NS: u64 = 10_000_000;
/// Rounds without sleep that a damaged page can cost before a pause.
pub(crate) const BUSY_ROUNDS: u32 = 64;

/// The mutex could not be acquired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MutexError {
    TimedOut,
    Stopped,
}

/// The mutex of a page's queue, and the VM that acquires it.
///
/// It is acquired and released around closures, not by a guard that `Drop` releases: a VM that dies
/// runs no destructor, and the tests that let one die at every access must not run any either.
pub(crate) struct QueueMutex<'a, W, H> {
    pub(crate) words: &'a W,
    pub(crate) host: &'a H,
    pub(crate) me: LeaseId,
}

/// The queue, its mutex held.
pub(crate) struct QueueGuard<'a, W, H>(&'a QueueMutex<'a, W, H>);

impl<W: LockWords, H: Waiting> QueueMutex<'_, W, H> {
    /// Runs `work` with the mutex held. Waits for it until `limit`, and tries at least once.
    pub(crate) fn with<R>(
        &self,
        limit: Option<u64>,
        work: impl FnOnce(&QueueGuard<'_, W, H>) -> R,
    ) -> Result<R, MutexError> {
        self.lock(limit)?;
        let result = work(&QueueGuard(self));
        self.unlock();
        Ok(result)
    }

    /// Runs `work` if the mutex is free.
    pub(crate) fn try_with(&self, work: impl FnOnce(&QueueGuard<'_, W, H>)) {
        if self.words.compare_exchange(word::MUTEX, 0, self.me.raw() << 1).is_ok() {
            work(&QueueGuard(self));
            self.unlock();
        }
    }

    fn unlock(&self) {
        if self.words.swap(word::MUTEX, 0) & 1 != 0 {
            self.host.wake(word::MUTEX, 1);
        }
    }

    fn lock(&self, limit: Option<u64>) -> Result<(), MutexError> {
        // A thread that slept cannot know whether others still sleep: it assumes that they do.
        let mut mine = self.me.raw() << 1;
        let mut rounds = 0;
        loop {
            let Err(holder) = self.words.compare_exchange(word::MUTEX, 0, mine) else {
                return Ok(());
            };
            rounds += 1;
            if rounds <= self.host.spins() {
                core::hint::spin_loop();
                continue;
            }
            if self.host.should_stop() {
                return Err(MutexError::Stopped);
            }
            let now = self.host.now_ns();
            if limit.is_some_and(|limit| now >= limit) {
                return Err(MutexError::TimedOut);
            }
            if rounds > self.host.spins() + BUSY_ROUNDS {
                self.host.pause(FIRST_CHECK_NS);
            }
            let held = holder | 1;
            if holder != held && self.words.compare_exchange(word::MUTEX, holder, held).is_err() {
                continue;
            }
            mine |= 1;
            let nap = limit.map_or(FIRST_CHECK_NS, |limit| FIRST_CHECK_NS.min(limit - now));
            self.host.wait(word::MUTEX, held as u32, nap);
            // The lease, and not the member number, is in the word: the number may have been given
            // to another VM by now.
            if self.words.load(word::MUTEX) == held
                && !self.is_alive(held >> 1)
                && self.words.compare_exchange(word::MUTEX, held, mine).is_ok()
            {
                return Ok(());
            }
        }
    }

    /// Whether the VM with this lease is alive; a number that cannot be a lease is not.
    fn is_alive(&self, lease: u64) -> bool {
        LeaseId::new(lease).is_some_and(|lease| lease == self.me || self.host.is_alive(lease))
    }
}

impl<W: LockWords, H: Waiting> QueueGuard<'_, W, H> {
    /// The words of the page.
    pub(crate) fn words(&self) -> &W {
        self.0.words
    }

    /// Whether the VM with this lease is alive; a number that cannot be a lease is not.
    pub(crate) fn is_alive(&self, lease: u64) -> bool {
        self.0.is_alive(lease)
    }

    /// The words of the queue in use, with their places.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, Entry)> {
        let used = self.words().load(word::QUEUE_USED).min((word::QUEUE_END - word::QUEUE) as u64)
            as usize;
        (word::QUEUE..word::QUEUE + used)
            .filter_map(|index| Entry::read(self.words().load(index)).map(|entry| (index, entry)))
    }

    /// Queues a thread; `None` if the queue is full.
    pub(crate) fn enqueue(&self, want: Want, member: Member) -> Option<(usize, Entry)> {
        let index = (word::QUEUE..word::QUEUE_END)
            .find(|&index| Entry::read(self.words().load(index)).is_none())?;
        let used = (index - word::QUEUE + 1) as u64;
        if self.words().load(word::QUEUE_USED) < used {
            self.words().store(word::QUEUE_USED, used);
        }
        let entry = Entry::new(want, member, self.words().fetch_add(word::TICKET, 1));
        self.words().store(index, entry.raw());
        Some((index, entry))
    }

    /// Grants the lock to every thread whose turn it is.
    pub(crate) fn dispatch(&self) {
        // The order of the reads matters: queue, then state, then counts of readers. A thread that
        // was granted the lock makes its ownership known, or is counted, before it leaves the
        // queue, so it is seen in one place.
        let mut queue = Survey::default();
        self.entries().for_each(|(index, entry)| queue.note(index, entry));
        if !queue.any {
            self.words().store(word::QUEUE_USED, 0);
            self.words().fetch_and(word::STATE, !state::WAITERS);
            return;
        }
        // From here until the flag is cleared no thread gets past the queue.
        let seen = self.words().fetch_or(word::STATE, state::WAITERS);
        if seen & state::OWNER != 0 || queue.exclusive_granted {
            return;
        }
        let (mut inside, mut inside_by) = (0u64, None);
        for member in Member::all() {
            let readers = self.words().load(member.reader_count());
            if readers != 0 {
                inside = inside.saturating_add(readers);
                inside_by = Some(member);
            }
        }
        if inside == 1 && !queue.shared_granted {
            let upgrade =
                |entry: &Entry| entry.want() == Want::Upgrade && Some(entry.member()) == inside_by;
            if let Some((index, entry)) = self.entries().find(|(_, entry)| upgrade(entry)) {
                return self.grant_exclusive(index, entry);
            }
        }
        match (queue.reader, queue.writer) {
            (Some(reader), writer) if self.readers_next(reader, writer.map(|(_, entry)| entry)) => {
                if seen & state::READERS == 0 {
                    self.words().fetch_or(word::STATE, state::READERS);
                }
                self.words().store(word::READERS_TURN, 0);
                for (index, entry) in self.entries() {
                    if entry.want() == Want::Shared && !entry.is_granted() {
                        self.grant(index, entry);
                    }
                }
            }
            (_, Some((index, entry)))
                if inside == 0 && !queue.shared_granted && entry.want() == Want::Exclusive =>
            {
                self.grant_exclusive(index, entry);
            }
            _ => {}
        }
    }

    /// Readers enter in their order of arrival, or all together after a writer that others wait
    /// behind: so they wait for two writers at most, and writers wait for those before them and one
    /// batch of readers each.
    fn readers_next(&self, reader: Entry, writer: Option<Entry>) -> bool {
        writer.is_none_or(|writer| reader.ticket() < writer.ticket())
            || self.words().load(word::READERS_TURN) != 0
    }

    fn grant_exclusive(&self, index: usize, entry: Entry) {
        self.words().store(word::READERS_TURN, 1);
        self.grant(index, entry);
    }

    fn grant(&self, index: usize, entry: Entry) {
        // Fails if the thread gave up meanwhile; that thread then dispatches again.
        if self.words().compare_exchange(index, entry.raw(), entry.granted().raw()).is_ok() {
            self.0.host.wake(index, 1);
        }
    }
}

/// What a scan of the queue found.
#[derive(Default)]
struct Survey {
    any: bool,
    exclusive_granted: bool,
    shared_granted: bool,
    /// The first waiting reader, in order of arrival.
    reader: Option<Entry>,
    /// Of the others.
    writer: Option<(usize, Entry)>,
}

impl Survey {
    fn note(&mut self, index: usize, entry: Entry) {
        self.any = true;
        let shared = entry.want() == Want::Shared;
        if entry.is_granted() {
            self.shared_granted |= shared;
            self.exclusive_granted |= !shared;
        } else if shared {
            if self.reader.is_none_or(|first| entry.ticket() < first.ticket()) {
                self.reader = Some(entry);
            }
        } else if self.writer.is_none_or(|(_, first)| entry.ticket() < first.ticket()) {
            self.writer = Some((index, entry));
        }
    }
}
