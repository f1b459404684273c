//! Acquiring a lock that has to be waited for, and releasing it to the threads that wait.
//!
//! Whose turn it is is decided in `queue`; which locks a switch acquires, in `switch`.

use crate::entry::{Entry, Want};
use crate::host::Waiting;
use crate::outcome::LockOutcome;
use crate::page::{LockWords, Member, Mode, state, word};
use crate::queue::{
    BUSY_ROUNDS, CHECK_NS, FIRST_CHECK_NS, GRACE_NS, MutexError, QueueGuard, QueueMutex,
};
use crate::reap::reap_dead;
use crate::uncontended::{release_fast, try_acquire_fast};
use abi::LeaseId;

/// How long to wait for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Not at all (but a few milliseconds for the queue's mutex).
    Try,
    /// Until [`Waiting::now_ns`] says so.
    Until(u64),
    /// Forever.
    Forever,
}

/// Acquires the lock, waiting in order of arrival. `member` is what [`crate::join`] gave the VM,
/// whose lease is `me`. Locks do not record threads: one that acquires a lock it holds waits for
/// itself. Gives up as `patience` says.
pub fn acquire<W: LockWords, H: Waiting>(
    words: &W,
    host: &H,
    member: Member,
    me: LeaseId,
    mode: Mode,
    patience: Patience,
) -> LockOutcome {
    if try_acquire_fast(words, member, mode) {
        return LockOutcome::Acquired;
    }
    let want = match mode {
        Mode::Shared => Want::Shared,
        Mode::Exclusive => Want::Exclusive,
    };
    Waiter { queue: QueueMutex { words, host, me }, member, want, patience }.acquire()
}

/// Makes the caller's shared hold an exclusive one without releasing it. Two threads that
/// try this at the same time wait for each other: never with [`Patience::Forever`] while
/// another thread may do the same. If it is not acquired, the shared hold remains.
pub fn upgrade<W: LockWords, H: Waiting>(
    words: &W,
    host: &H,
    member: Member,
    me: LeaseId,
    patience: Patience,
) -> LockOutcome {
    Waiter { queue: QueueMutex { words, host, me }, member, want: Want::Upgrade, patience }
        .acquire()
}

/// Makes the caller's exclusive hold a shared one; no thread gets in between.
pub fn downgrade<W: LockWords, H: Waiting>(words: &W, host: &H, member: Member, me: LeaseId) {
    words.fetch_or(word::STATE, state::READERS);
    words.fetch_add(member.reader_count(), 1);
    if !release_fast(words, member, Mode::Exclusive) {
        wake_waiters(words, host, me);
    }
}

/// Releases the lock, and grants it to the threads that wait for it.
pub fn release<W: LockWords, H: Waiting>(
    words: &W,
    host: &H,
    member: Member,
    me: LeaseId,
    mode: Mode,
) {
    if !release_fast(words, member, mode) {
        wake_waiters(words, host, me);
    }
}

/// Grants the lock to the threads whose turn it is, after a release or a failed try by the fast
/// functions. Costs one load if no thread waits. Does nothing if the queue's mutex is not free in a
/// tenth of a second or the thread is stopped; the waiters then check for themselves.
pub fn wake_waiters<W: LockWords, H: Waiting>(words: &W, host: &H, me: LeaseId) {
    if words.load(word::STATE) & state::WAITERS != 0 {
        let limit = host.now_ns().saturating_add(CHECK_NS);
        let _ = QueueMutex { words, host, me }.with(Some(limit), |guard| guard.dispatch());
    }
}

/// Reaps the dead, then grants the lock: a dead VM must not keep it.
pub(crate) fn reap_and_dispatch<W: LockWords, H: Waiting>(guard: &QueueGuard<'_, W, H>) {
    reap_dead(guard);
    guard.dispatch();
}

/// Goes on waiting in the queue.
#[cfg(test)]
pub(crate) fn resume<W: LockWords, H: Waiting>(
    queue: QueueMutex<'_, W, H>,
    member: Member,
    want: Want,
    index: usize,
    entry: Entry,
) -> LockOutcome {
    let waiter = Waiter { queue, member, want, patience: Patience::Forever };
    match waiter.wait(index, entry) {
        Ok(Progress::Granted(index, entry)) => {
            waiter.enter(index, entry).expect("the page is undamaged")
        }
        Ok(Progress::Waits(..) | Progress::Again) => unreachable!("nothing took it from the queue"),
        Err(gave_up) => gave_up,
    }
}

/// A thread that wants the lock.
struct Waiter<'a, W, H> {
    queue: QueueMutex<'a, W, H>,
    member: Member,
    want: Want,
    patience: Patience,
}

/// The progress of a waiter.
enum Progress {
    /// The lock is granted to it: its place and word in the queue.
    Granted(usize, Entry),
    /// It waits.
    Waits(usize, Entry),
    /// Its word is gone, or the queue is full.
    Again,
}

impl<W: LockWords, H: Waiting> Waiter<'_, W, H> {
    fn acquire(&self) -> LockOutcome {
        self.wait_in_queue().unwrap_or_else(|gave_up| gave_up)
    }

    /// The outcome, as an error if the lock is not held.
    fn wait_in_queue(&self) -> Result<LockOutcome, LockOutcome> {
        loop {
            let progress = match self.enqueue()? {
                Progress::Waits(index, entry) => self.wait(index, entry)?,
                progress => progress,
            };
            if let Progress::Granted(index, entry) = progress
                && let Some(acquired) = self.enter(index, entry)
            {
                return Ok(acquired);
            }
            // More threads wait than the queue has words, or the page is damaged.
            if let Some(error) = self.spent() {
                return Err(error);
            }
            self.queue.host.pause(FIRST_CHECK_NS);
        }
    }

    /// Why it is time to give up, if it is.
    fn spent(&self) -> Option<LockOutcome> {
        if self.queue.host.should_stop() {
            return Some(LockOutcome::Interrupted);
        }
        match self.patience {
            Patience::Try => Some(LockOutcome::WouldBlock),
            Patience::Until(deadline) => {
                (self.queue.host.now_ns() >= deadline).then_some(LockOutcome::TimedOut)
            }
            Patience::Forever => None,
        }
    }

    fn mutex_limit(&self) -> Option<u64> {
        let soon = self.queue.host.now_ns().saturating_add(GRACE_NS);
        match self.patience {
            Patience::Try => Some(soon),
            Patience::Until(deadline) => Some(deadline.max(soon)),
            Patience::Forever => None,
        }
    }

    fn mutex_error(&self, why: MutexError) -> LockOutcome {
        match (why, self.patience) {
            (MutexError::Stopped, _) => LockOutcome::Interrupted,
            (MutexError::TimedOut, Patience::Try) => LockOutcome::WouldBlock,
            (MutexError::TimedOut, _) => LockOutcome::TimedOut,
        }
    }

    /// Joins the queue and grants the lock to the threads whose turn it is, perhaps this one.
    fn enqueue(&self) -> Result<Progress, LockOutcome> {
        // Finding out which VMs are alive is expensive; a thread that will sleep anyway does it then.
        let reaps = match self.patience {
            Patience::Try => true,
            Patience::Until(deadline) => {
                deadline <= self.queue.host.now_ns().saturating_add(FIRST_CHECK_NS)
            }
            Patience::Forever => false,
        };
        let queued = self.queue.with(self.mutex_limit(), |guard| {
            let place = guard.enqueue(self.want, self.member);
            if reaps {
                reap_dead(guard);
            }
            guard.dispatch();
            let (index, entry) = place?;
            // A try leaves no trace.
            if self.patience == Patience::Try
                && guard.words().compare_exchange(index, entry.raw(), Entry::FREE).is_ok()
            {
                guard.dispatch();
                return None;
            }
            Some((index, entry))
        });
        let place = queued.map_err(|why| self.mutex_error(why))?;
        Ok(place.map_or(Progress::Again, |(index, entry)| self.poll(index, entry)))
    }

    fn poll(&self, index: usize, entry: Entry) -> Progress {
        let now = self.queue.words.load(index);
        if now == entry.raw() {
            Progress::Waits(index, entry)
        } else if now == entry.granted().raw() {
            Progress::Granted(index, entry.granted())
        } else {
            Progress::Again
        }
    }

    fn wait(&self, index: usize, entry: Entry) -> Result<Progress, LockOutcome> {
        let host = self.queue.host;
        for _ in 0..host.spins() {
            if self.queue.words.load(index) != entry.raw() {
                break;
            }
            core::hint::spin_loop();
        }
        let mut patience = FIRST_CHECK_NS;
        let mut looked = host.now_ns();
        let mut rounds = 0;
        loop {
            rounds += 1;
            if rounds % BUSY_ROUNDS == 0 {
                host.pause(FIRST_CHECK_NS);
            }
            match self.poll(index, entry) {
                Progress::Waits(..) => {}
                other => return Ok(other),
            }
            if let Some(error) = self.spent() {
                return self.give_up(index, entry, error);
            }
            let now = host.now_ns();
            let left = match self.patience {
                Patience::Until(deadline) => deadline.saturating_sub(now),
                Patience::Try | Patience::Forever => u64::MAX,
            };
            let since = now.saturating_sub(looked);
            if since < patience {
                host.wait(index, entry.raw() as u32, left.min(patience - since));
                continue;
            }
            // Not woken for a long time: are the VMs that it waits for alive?
            match self.queue.with(self.mutex_limit(), reap_and_dispatch) {
                Ok(()) | Err(MutexError::TimedOut) => {}
                Err(MutexError::Stopped) => {
                    return self.give_up(index, entry, LockOutcome::Interrupted);
                }
            }
            patience = (patience * 2).min(CHECK_NS);
            looked = host.now_ns();
        }
    }

    /// Leaves the queue, unless the lock was just granted.
    fn give_up(
        &self,
        index: usize,
        entry: Entry,
        outcome: LockOutcome,
    ) -> Result<Progress, LockOutcome> {
        match self.queue.words.compare_exchange(index, entry.raw(), Entry::FREE) {
            Err(now) if now == entry.granted().raw() && outcome != LockOutcome::Interrupted => {
                return Ok(Progress::Granted(index, entry.granted()));
            }
            Err(now) if now == entry.granted().raw() => {
                // Leaving releases a grant not yet used.
                let _ = self.queue.words.compare_exchange(index, now, Entry::FREE);
            }
            _ => {}
        }
        // Others may have waited only because of this one.
        let limit = self.queue.host.now_ns().saturating_add(GRACE_NS);
        let _ = self.queue.with(Some(limit), |guard| guard.dispatch());
        Err(outcome)
    }

    /// Uses a grant. `None` if the page is in a state in which there can be none.
    fn enter(&self, index: usize, entry: Entry) -> Option<LockOutcome> {
        let words = self.queue.words;
        let entered = match self.want {
            Want::Shared => {
                words.fetch_add(self.member.reader_count(), 1);
                true
            }
            Want::Exclusive | Want::Upgrade => {
                let alone = words.fetch_add(word::STATE, self.member.owner()) & state::OWNER == 0;
                if !alone {
                    words.fetch_sub(word::STATE, self.member.owner());
                }
                alone
            }
        };
        if entered && self.want == Want::Upgrade {
            words.fetch_sub(self.member.reader_count(), 1);
        }
        let _ = words.compare_exchange(index, entry.raw(), Entry::FREE);
        // So that the last one in the queue reopens the fast path. If the mutex is held, its holder
        // or the next thread that comes will.
        self.queue.try_with(|guard| guard.dispatch());
        let seen = words.load(word::STATE);
        entered.then_some(if seen & state::INCONSISTENT == 0 {
            LockOutcome::Acquired
        } else {
            LockOutcome::OwnerDied
        })
    }
}
