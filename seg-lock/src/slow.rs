//! Taking a lock that has to be waited for, and giving it back to those who wait.
//!
//! What may go when is decided in `queue`; which locks a switch takes in `switching`.

use crate::queue::{
    Desk, Entry, FIRST_LOOK_NS, GRACE_NS, LOOK_NS, NoMutex, RESTLESS_ROUNDS, Waiting, Want,
};
use crate::{LockWords, Mode, Slot, release_fast, state, try_acquire_fast, word};
use abi::LeaseId;

/// How long to wait for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Not at all (but a few milliseconds for the queue's mutex).
    Try,
    /// Until [`Waiting::now_ns`] says so.
    Until(u64),
    /// For ever.
    Forever,
}

/// A lock was taken. What is known of the content it guards?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Acquired {
    /// Nothing to say.
    Clean,
    /// An exclusive holder died inside and nobody has recovered the content since.
    OwnerDied,
}

/// Why a lock was not taken. The thread holds of it what it held before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcquireError {
    /// It would have to be waited for ([`Patience::Try`]).
    WouldBlock,
    /// The time is up.
    TimedOut,
    /// [`Waiting::should_stop`].
    Stopped,
}

impl core::fmt::Display for AcquireError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            AcquireError::WouldBlock => "the lock is held, or others wait for it",
            AcquireError::TimedOut => "the lock was not free in time",
            AcquireError::Stopped => "the thread was stopped while it waited for the lock",
        })
    }
}

impl core::error::Error for AcquireError {}

/// Takes the lock, waiting in order of arrival. `slot` is what [`crate::claim_slot`] gave the
/// VM, whose lease is `me`. Locks have no memory of threads: one that takes a lock it holds
/// waits for itself.
///
/// # Errors
/// As `patience` allows; see [`AcquireError`].
pub fn acquire<W: LockWords, H: Waiting>(
    words: &W,
    host: &H,
    slot: Slot,
    me: LeaseId,
    mode: Mode,
    patience: Patience,
) -> Result<Acquired, AcquireError> {
    if try_acquire_fast(words, slot, mode) {
        return Ok(Acquired::Clean);
    }
    let want = match mode {
        Mode::Shared => Want::Shared,
        Mode::Exclusive => Want::Exclusive,
    };
    Applicant { desk: Desk { words, host, me }, slot, want, patience }.acquire()
}

/// Makes the caller's shared hold an exclusive one without letting go of it. Two threads that
/// try this at the same time wait for each other: never with [`Patience::Forever`] while
/// somebody else may do the same.
///
/// # Errors
/// As [`acquire`]; the shared hold remains.
pub fn upgrade<W: LockWords, H: Waiting>(
    words: &W,
    host: &H,
    slot: Slot,
    me: LeaseId,
    patience: Patience,
) -> Result<Acquired, AcquireError> {
    Applicant { desk: Desk { words, host, me }, slot, want: Want::Upgrade, patience }.acquire()
}

/// Makes the caller's exclusive hold a shared one; nobody gets in between.
pub fn downgrade<W: LockWords, H: Waiting>(words: &W, host: &H, slot: Slot, me: LeaseId) {
    words.fetch_or(word::STATE, state::READERS);
    words.fetch_add(slot.lane(), 1);
    if !release_fast(words, slot, Mode::Exclusive) {
        nudge(words, host, me);
    }
}

/// Gives the lock back and lets those go who wait for it.
pub fn release<W: LockWords, H: Waiting>(words: &W, host: &H, slot: Slot, me: LeaseId, mode: Mode) {
    if !release_fast(words, slot, mode) {
        nudge(words, host, me);
    }
}

/// Lets those go who may, after a release or a failed try by the fast functions. Costs one
/// load if nobody waits. Does nothing if the queue's mutex is not free in a tenth of a second
/// or the thread is stopped; the waiters then look for themselves.
pub fn nudge<W: LockWords, H: Waiting>(words: &W, host: &H, me: LeaseId) {
    if words.load(word::STATE) & state::WAITERS != 0 {
        let limit = host.now_ns().saturating_add(LOOK_NS);
        let _ = Desk { words, host, me }.with_mutex(Some(limit), |desk| desk.dispatch(false));
    }
}

/// Goes on waiting in the queue.
#[cfg(test)]
pub(super) fn resume<W: LockWords, H: Waiting>(
    desk: Desk<'_, W, H>,
    slot: Slot,
    want: Want,
    index: usize,
    entry: Entry,
) -> Result<Acquired, AcquireError> {
    let applicant = Applicant { desk, slot, want, patience: Patience::Forever };
    match applicant.wait(index, entry)? {
        Outcome::MayGo(index, entry) => {
            Ok(applicant.enter(index, entry).expect("the page is well"))
        }
        Outcome::Waits(..) | Outcome::Again => unreachable!("nobody took it from the queue"),
    }
}

/// A thread that wants the lock.
struct Applicant<'a, W, H> {
    desk: Desk<'a, W, H>,
    slot: Slot,
    want: Want,
    patience: Patience,
}

/// Where the application stands.
enum Outcome {
    /// It may go: its place and word in the queue.
    MayGo(usize, Entry),
    /// It waits.
    Waits(usize, Entry),
    /// Its word is gone, or the queue is full.
    Again,
}

impl<W: LockWords, H: Waiting> Applicant<'_, W, H> {
    fn acquire(&self) -> Result<Acquired, AcquireError> {
        loop {
            let outcome = match self.apply()? {
                Outcome::Waits(index, entry) => self.wait(index, entry)?,
                outcome => outcome,
            };
            if let Outcome::MayGo(index, entry) = outcome
                && let Some(acquired) = self.enter(index, entry)
            {
                return Ok(acquired);
            }
            // More threads wait than the queue has words, or somebody scribbled on it.
            if let Some(error) = self.spent() {
                return Err(error);
            }
            self.desk.host.pause(FIRST_LOOK_NS);
        }
    }

    /// Why it is time to give up, if it is.
    fn spent(&self) -> Option<AcquireError> {
        if self.desk.host.should_stop() {
            return Some(AcquireError::Stopped);
        }
        match self.patience {
            Patience::Try => Some(AcquireError::WouldBlock),
            Patience::Until(deadline) => {
                (self.desk.host.now_ns() >= deadline).then_some(AcquireError::TimedOut)
            }
            Patience::Forever => None,
        }
    }

    fn mutex_limit(&self) -> Option<u64> {
        let soon = self.desk.host.now_ns().saturating_add(GRACE_NS);
        match self.patience {
            Patience::Try => Some(soon),
            Patience::Until(deadline) => Some(deadline.max(soon)),
            Patience::Forever => None,
        }
    }

    fn no_mutex(&self, why: NoMutex) -> AcquireError {
        match (why, self.patience) {
            (NoMutex::Stopped, _) => AcquireError::Stopped,
            (NoMutex::Late, Patience::Try) => AcquireError::WouldBlock,
            (NoMutex::Late, _) => AcquireError::TimedOut,
        }
    }

    /// Joins the queue and lets go who may, perhaps this thread.
    fn apply(&self) -> Result<Outcome, AcquireError> {
        // Finding out who lives is dear; those who will sleep anyway do it then.
        let look = match self.patience {
            Patience::Try => true,
            Patience::Until(deadline) => {
                deadline <= self.desk.host.now_ns().saturating_add(FIRST_LOOK_NS)
            }
            Patience::Forever => false,
        };
        let applied = self.desk.with_mutex(self.mutex_limit(), |desk| {
            let place = desk.enqueue(self.want, self.slot);
            desk.dispatch(look);
            let (index, entry) = place?;
            // A try leaves no trace.
            if self.patience == Patience::Try
                && desk.words.compare_exchange(index, entry.raw(), Entry::FREE).is_ok()
            {
                desk.dispatch(false);
                return None;
            }
            Some((index, entry))
        });
        let place = applied.map_err(|why| self.no_mutex(why))?;
        Ok(place.map_or(Outcome::Again, |(index, entry)| self.look_up(index, entry)))
    }

    fn look_up(&self, index: usize, entry: Entry) -> Outcome {
        let now = self.desk.words.load(index);
        if now == entry.raw() {
            Outcome::Waits(index, entry)
        } else if now == entry.allowed().raw() {
            Outcome::MayGo(index, entry.allowed())
        } else {
            Outcome::Again
        }
    }

    fn wait(&self, index: usize, entry: Entry) -> Result<Outcome, AcquireError> {
        let host = self.desk.host;
        for _ in 0..host.spins() {
            if self.desk.words.load(index) != entry.raw() {
                break;
            }
            core::hint::spin_loop();
        }
        let mut patience = FIRST_LOOK_NS;
        let mut looked = host.now_ns();
        let mut rounds = 0;
        loop {
            rounds += 1;
            if rounds % RESTLESS_ROUNDS == 0 {
                host.pause(FIRST_LOOK_NS);
            }
            match self.look_up(index, entry) {
                Outcome::Waits(..) => {}
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
            // Nobody woke this thread for long: does everybody live whom it waits for?
            match self.desk.with_mutex(self.mutex_limit(), |desk| desk.dispatch(true)) {
                Ok(()) | Err(NoMutex::Late) => {}
                Err(NoMutex::Stopped) => return self.give_up(index, entry, AcquireError::Stopped),
            }
            patience = (patience * 2).min(LOOK_NS);
            looked = host.now_ns();
        }
    }

    /// Leaves the queue, unless it was just let go.
    fn give_up(
        &self,
        index: usize,
        entry: Entry,
        error: AcquireError,
    ) -> Result<Outcome, AcquireError> {
        match self.desk.words.compare_exchange(index, entry.raw(), Entry::FREE) {
            Err(now) if now == entry.allowed().raw() && error != AcquireError::Stopped => {
                return Ok(Outcome::MayGo(index, entry.allowed()));
            }
            Err(now) if now == entry.allowed().raw() => {
                // A permission not yet used is given back by leaving.
                let _ = self.desk.words.compare_exchange(index, now, Entry::FREE);
            }
            _ => {}
        }
        // Others may have waited behind this one only.
        let limit = self.desk.host.now_ns().saturating_add(GRACE_NS);
        let _ = self.desk.with_mutex(Some(limit), |desk| desk.dispatch(false));
        Err(error)
    }

    /// Uses a permission. `None` if the page is in a state in which there can be none.
    fn enter(&self, index: usize, entry: Entry) -> Option<Acquired> {
        let words = self.desk.words;
        let entered = match self.want {
            Want::Shared => {
                words.fetch_add(self.slot.lane(), 1);
                true
            }
            Want::Exclusive | Want::Upgrade => {
                let alone = words.fetch_add(word::STATE, self.slot.owner()) & state::OWNER == 0;
                if !alone {
                    words.fetch_sub(word::STATE, self.slot.owner());
                }
                alone
            }
        };
        if entered && self.want == Want::Upgrade {
            words.fetch_sub(self.slot.lane(), 1);
        }
        let _ = words.compare_exchange(index, entry.raw(), Entry::FREE);
        // So that the last one in line reopens the short way. If the mutex is taken, its holder
        // or the next one who comes will.
        self.desk.try_with_mutex(|desk| desk.dispatch(false));
        let seen = words.load(word::STATE);
        entered.then_some(if seen & state::INCONSISTENT == 0 {
            Acquired::Clean
        } else {
            Acquired::OwnerDied
        })
    }
}
