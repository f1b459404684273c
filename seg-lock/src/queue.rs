//! The queue of a lock page, and the mutex around it, which outlives its holders.
//!
//! A queued thread has one word: what it wants, who it is, when it came, and whether it may go.
//! [`Desk::dispatch`] looks at the page and lets go who may. It can be run by anybody at any
//! time, and what it writes are single words that are right on their own, so a VM that dies in
//! the middle leaves nothing to undo. Who waits for what, and how long, is `slow`'s.

use crate::{LockWords, SLOTS, Slot, slots, state, word};
use abi::LeaseId;

/// What the lock needs from its host.
pub trait Waiting {
    /// Sleeps while the low half of the page's word `index` is `expected`, at most
    /// `timeout_ns`. May return early for any reason.
    fn wait(&self, index: usize, expected: u32, timeout_ns: u64);
    /// Wakes up to `count` threads, of any VM, that sleep on word `index`.
    fn wake(&self, index: usize, count: u32);
    /// Sleeps `timeout_ns`, or less if [`Waiting::should_stop`] becomes true.
    fn pause(&self, timeout_ns: u64);
    /// Whether the VM still lives. Once false it stays so, and then nothing of that VM runs.
    fn is_alive(&self, lease: LeaseId) -> bool;
    /// Whether the calling thread has to give up whatever it waits for.
    fn should_stop(&self) -> bool;
    /// A clock that does not go back.
    fn now_ns(&self) -> u64;
    /// How often to look before sleeping.
    fn spins(&self) -> u32 {
        64
    }
}

/// Longest sleep before looking who is alive.
pub(super) const LOOK_NS: u64 = 100_000_000;
/// First sleep before looking who is alive, and before doubting the mutex's holder.
pub(super) const FIRST_LOOK_NS: u64 = 2_000_000;
/// How long those wait for the mutex who must not wait.
pub(super) const GRACE_NS: u64 = 10_000_000;
/// Rounds without sleep that an unwell page can cost before a pause.
pub(super) const RESTLESS_ROUNDS: u32 = 64;

/// The mutex was not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoMutex {
    Late,
    Stopped,
}

/// What a queued thread wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    Shared,
    Exclusive,
    /// Exclusive, in exchange for the shared hold it has.
    Upgrade,
}

/// A word of the queue: bits 1..0 stage (1 waits, 2 may go), 3..2 what it wants, 9..4 slot,
/// 63..10 ticket. Stage and slot lie in the low half, on which the thread sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry(u64);

impl Entry {
    const STAGE: u64 = 3;
    const WAITS: u64 = 1;
    const MAY_GO: u64 = 2;
    pub(super) const FREE: u64 = 0;

    pub(super) fn new(want: Want, slot: Slot, ticket: u64) -> Entry {
        let want = match want {
            Want::Shared => 0,
            Want::Exclusive => 1,
            Want::Upgrade => 2,
        };
        Entry(Self::WAITS | want << 2 | u64::from(slot.raw()) << 4 | ticket << 10)
    }

    /// `None` for a free word; nonsense counts as free.
    pub(super) fn read(raw: u64) -> Option<Entry> {
        let stage = raw & Self::STAGE;
        (stage == Self::WAITS || stage == Self::MAY_GO).then_some(Entry(raw))
    }

    pub(super) fn raw(self) -> u64 {
        self.0
    }

    pub(super) fn want(self) -> Want {
        match self.0 >> 2 & 3 {
            0 => Want::Shared,
            2 => Want::Upgrade,
            _ => Want::Exclusive,
        }
    }

    pub(super) fn slot(self) -> Slot {
        Slot::wrapping((self.0 >> 4) as u32)
    }

    fn ticket(self) -> u64 {
        self.0 >> 10
    }

    pub(super) fn may_go(self) -> bool {
        self.0 & Self::STAGE == Self::MAY_GO
    }

    pub(super) fn allowed(self) -> Entry {
        Entry(self.0 & !Self::STAGE | Self::MAY_GO)
    }
}

/// A lock page and who works on it.
pub(super) struct Desk<'a, W, H> {
    pub(super) words: &'a W,
    pub(super) host: &'a H,
    pub(super) me: LeaseId,
}

impl<W: LockWords, H: Waiting> Desk<'_, W, H> {
    /// Runs `work` with the mutex held. Waits for it until `limit`, and at least looks once.
    pub(super) fn with_mutex<R>(
        &self,
        limit: Option<u64>,
        work: impl FnOnce(&Self) -> R,
    ) -> Result<R, NoMutex> {
        self.lock(limit)?;
        let result = work(self);
        self.unlock();
        Ok(result)
    }

    /// Runs `work` if the mutex is free.
    pub(super) fn try_with_mutex(&self, work: impl FnOnce(&Self)) {
        if self.words.compare_exchange(word::MUTEX, 0, self.me.raw() << 1).is_ok() {
            work(self);
            self.unlock();
        }
    }

    fn unlock(&self) {
        if self.words.swap(word::MUTEX, 0) & 1 != 0 {
            self.host.wake(word::MUTEX, 1);
        }
    }

    fn lock(&self, limit: Option<u64>) -> Result<(), NoMutex> {
        // Whoever slept cannot know whether others still sleep, and says they do.
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
                return Err(NoMutex::Stopped);
            }
            let now = self.host.now_ns();
            if limit.is_some_and(|limit| now >= limit) {
                return Err(NoMutex::Late);
            }
            if rounds > self.host.spins() + RESTLESS_ROUNDS {
                self.host.pause(FIRST_LOOK_NS);
            }
            let held = holder | 1;
            if holder != held && self.words.compare_exchange(word::MUTEX, holder, held).is_err() {
                continue;
            }
            mine |= 1;
            let nap = limit.map_or(FIRST_LOOK_NS, |limit| FIRST_LOOK_NS.min(limit - now));
            self.host.wait(word::MUTEX, held as u32, nap);
            // The lease, and not the slot, is in the word: a slot may have a new owner by now.
            if self.words.load(word::MUTEX) == held
                && !self.alive(held >> 1)
                && self.words.compare_exchange(word::MUTEX, held, mine).is_ok()
            {
                return Ok(());
            }
        }
    }

    /// Whether the VM with this lease lives; what cannot be a lease does not.
    pub(super) fn alive(&self, lease: u64) -> bool {
        LeaseId::new(lease).is_some_and(|lease| lease == self.me || self.host.is_alive(lease))
    }

    /// The words of the queue in use, with their places.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, Entry)> {
        let used =
            self.words.load(word::QUEUE_USED).min((word::QUEUE_END - word::QUEUE) as u64) as usize;
        (word::QUEUE..word::QUEUE + used)
            .filter_map(|index| Entry::read(self.words.load(index)).map(|entry| (index, entry)))
    }

    /// Queues a thread; `None` if the queue is full. With the mutex held.
    pub(super) fn enqueue(&self, want: Want, slot: Slot) -> Option<(usize, Entry)> {
        let index = (word::QUEUE..word::QUEUE_END)
            .find(|&index| Entry::read(self.words.load(index)).is_none())?;
        let used = (index - word::QUEUE + 1) as u64;
        if self.words.load(word::QUEUE_USED) < used {
            self.words.store(word::QUEUE_USED, used);
        }
        let entry = Entry::new(want, slot, self.words.fetch_add(word::TICKET, 1));
        self.words.store(index, entry.raw());
        Some((index, entry))
    }

    /// Lets those go who may. With the mutex held; `look`: wipes dead VMs first.
    pub(super) fn dispatch(&self, look: bool) {
        if look {
            slots::bury_the_dead(self);
        }
        // The order of looking matters: queue, then state, then lanes. Who was let go makes
        // its ownership or lane known before it leaves the queue, so it is seen in one place.
        let mut queue = Queue::default();
        self.entries().for_each(|(index, entry)| queue.note(index, entry));
        if queue.empty {
            self.words.store(word::QUEUE_USED, 0);
            self.words.fetch_and(word::STATE, !state::WAITERS);
            return;
        }
        // From here to the moment the flag goes nobody gets past the queue.
        let seen = self.words.fetch_or(word::STATE, state::WAITERS);
        if seen & state::OWNER != 0 || queue.exclusive_going {
            return;
        }
        let (mut inside, mut inside_by) = (0u64, None);
        for slot in (0..SLOTS as u32).map(Slot::wrapping) {
            let lane = self.words.load(slot.lane());
            if lane != 0 {
                inside = inside.saturating_add(lane);
                inside_by = Some(slot);
            }
        }
        if inside == 1 && !queue.shared_going {
            let upgrade =
                |entry: &Entry| entry.want() == Want::Upgrade && Some(entry.slot()) == inside_by;
            if let Some((index, entry)) = self.entries().find(|(_, entry)| upgrade(entry)) {
                return self.let_go_alone(index, entry);
            }
        }
        match (queue.reader, queue.writer) {
            (Some(reader), writer) if self.readers_next(reader, writer.map(|(_, entry)| entry)) => {
                if seen & state::READERS == 0 {
                    self.words.fetch_or(word::STATE, state::READERS);
                }
                self.words.store(word::READERS_TURN, 0);
                for (index, entry) in self.entries() {
                    if entry.want() == Want::Shared && !entry.may_go() {
                        self.let_go(index, entry);
                    }
                }
            }
            (_, Some((index, entry)))
                if inside == 0 && !queue.shared_going && entry.want() == Want::Exclusive =>
            {
                self.let_go_alone(index, entry);
            }
            _ => {}
        }
    }

    /// Readers go in their order of arrival, or all at once after a writer that others wait
    /// behind: so they wait for two writers at most, and writers for those before them and one
    /// batch of readers each.
    fn readers_next(&self, reader: Entry, writer: Option<Entry>) -> bool {
        writer.is_none_or(|writer| reader.ticket() < writer.ticket())
            || self.words.load(word::READERS_TURN) != 0
    }

    fn let_go_alone(&self, index: usize, entry: Entry) {
        self.words.store(word::READERS_TURN, 1);
        self.let_go(index, entry);
    }

    fn let_go(&self, index: usize, entry: Entry) {
        // Fails if the thread gave up meanwhile; then it dispatches anew.
        if self.words.compare_exchange(index, entry.raw(), entry.allowed().raw()).is_ok() {
            self.host.wake(index, 1);
        }
    }
}

/// What a look at the queue tells.
struct Queue {
    empty: bool,
    exclusive_going: bool,
    shared_going: bool,
    /// First in order of arrival of the readers that wait.
    reader: Option<Entry>,
    /// Of the others.
    writer: Option<(usize, Entry)>,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            empty: true,
            exclusive_going: false,
            shared_going: false,
            reader: None,
            writer: None,
        }
    }
}

impl Queue {
    fn note(&mut self, index: usize, entry: Entry) {
        self.empty = false;
        let shared = entry.want() == Want::Shared;
        if entry.may_go() {
            self.shared_going |= shared;
            self.exclusive_going |= !shared;
        } else if shared {
            if self.reader.is_none_or(|first| entry.ticket() < first.ticket()) {
                self.reader = Some(entry);
            }
        } else if self.writer.is_none_or(|(_, first)| entry.ticket() < first.ticket()) {
            self.writer = Some((index, entry));
        }
    }
}
