//! All threads of a process come to a stand, so that a snapshot can be made of it.
//!
//! - here: who asks, who stands, until when; not what is made of it (`super`)
//!
//! A thread comes here where its registers are all that there is of it, and leaves what it is. The last one that comes
//! makes the snapshot while the others stand; or the one that asked for it itself (`ready`). But one may be in a call that it cannot be found in, as while it waits
//! for a lock that another one has, which stands: so they do not wait for long, go on, and try again, for longer.
//! The event loop looks after that: it kicks the threads that do not stand, since one may have looked for
//! signals where it could not stand.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Refusal;
use super::head::KeptThread;
use crate::linux::task::{Process, ThreadCtx};
use crate::vas::attach::kept::Seen;

/// How long a question stands. Who has asked has given up by then.
pub(super) const STANDS: Duration = Duration::from_secs(10);
/// How long threads wait for the others the first time; twice as long each further time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// And at most.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// How long they go on between two times.
const GO_ON: Duration = Duration::from_millis(30);
/// How often threads that do not stand are kicked.
const KICK_EVERY: Duration = Duration::from_millis(10);

/// Who wants a snapshot.
#[derive(Debug)]
pub(super) enum By {
    /// Somebody outside, who is answered on this connection: whichever thread comes last makes it.
    Outside(UnixStream),
    /// The thread with this number, which makes it itself.
    Thread(i32),
}

/// A thread that stands.
#[derive(Debug)]
pub(super) struct Stands {
    /// What it is.
    pub(super) thread: KeptThread,
    /// What it sees, if it is inside an address space.
    pub(super) inside: Option<Seen>,
}

/// What a thread leaves when it comes to a stand.
pub(super) type Left = Result<Stands, Refusal>;

/// Where questions wait for the threads, and threads for each other.
#[derive(Debug, Default)]
pub(crate) struct SnapshotDesk {
    wanted: AtomicBool,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    asked: Option<(By, Instant)>,
    /// Those that stand; what they left, until it is taken.
    standing: BTreeMap<i32, Option<Left>>,
    /// Until when they wait for the others.
    until: Option<Instant>,
    /// When they may come again, after not all came.
    again: Option<Instant>,
    /// How often not all came.
    tries: u32,
    /// The snapshot is being made: all stand until it is.
    is_making: bool,
    kicked: Option<Instant>,
}

impl Inner {
    /// Whether a thread that comes is to stand.
    fn is_open(&self, now: Instant) -> bool {
        let stands = |(_, since): &(By, Instant)| now.duration_since(*since) < STANDS;
        self.asked.as_ref().is_some_and(stands)
            && !self.is_making
            && self.again.is_none_or(|again| again <= now)
    }

    /// Whether the thread with this number makes the snapshot once all stand.
    fn is_makers(&self, tid: i32) -> bool {
        match &self.asked {
            Some((By::Outside(_), _)) => true,
            Some((By::Thread(by), _)) => *by == tid,
            None => false,
        }
    }

    /// Whether all of these stand.
    fn is_complete(&self, all: impl IntoIterator<Item = i32>) -> bool {
        all.into_iter().all(|tid| self.standing.contains_key(&tid))
    }

    /// How long they wait for each other this time.
    fn wait(&self) -> Duration {
        FIRST_WAIT.saturating_mul(1 << self.tries.min(8)).min(LAST_WAIT)
    }

    /// Those that stand go on, since not all came.
    fn give_up(&mut self, now: Instant) {
        self.standing.clear();
        self.until = None;
        self.again = Some(now + GO_ON);
        self.tries += 1;
    }
}

impl SnapshotDesk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether threads have something to do. One that misses it is kicked after it was set, and looks again.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Somebody asks. Returns whether nobody else does.
    pub(super) fn ask(&self, by: By) -> bool {
        let mut inner = self.lock();
        let is_taken = inner.asked.as_ref().is_some_and(|(_, since)| since.elapsed() < STANDS);
        if is_taken || inner.is_making {
            return false;
        }
        *inner = Inner { asked: Some((by, Instant::now())), ..Inner::default() };
        drop(inner);
        self.changed.notify_all();
        self.wanted.store(true, Ordering::SeqCst);
        true
    }

    /// Whether the calling thread is to stand.
    pub(super) fn is_open(&self) -> bool {
        self.is_wanted() && self.lock().is_open(Instant::now())
    }

    /// Whether a thread's question still stands.
    pub(super) fn is_asked_by(&self, tid: i32) -> bool {
        let inner = self.lock();
        let is_that = |(by, since): &(By, Instant)| {
            matches!(by, By::Thread(by) if *by == tid) && since.elapsed() < STANDS
        };
        inner.asked.as_ref().is_some_and(is_that)
    }

    /// A thread asks no more, if it is still the one that does.
    pub(super) fn withdraw(&self, tid: i32) {
        let mut inner = self.lock();
        if matches!(inner.asked, Some((By::Thread(by), _)) if by == tid) && !inner.is_making {
            self.wanted.store(false, Ordering::SeqCst);
            *inner = Inner::default();
            self.changed.notify_all();
        }
    }

    /// Waits until threads may come again, after not all came.
    pub(super) fn pause(&self) {
        let inner = self.lock();
        let again = inner.again.map_or(GO_ON, |at| at.saturating_duration_since(Instant::now()));
        if !again.is_zero() {
            drop(self.changed.wait_timeout(inner, again.min(GO_ON)));
        }
    }

    /// The calling thread stands, until it may go on; or all do, and it is given what makes the snapshot, as the last one or
    /// the one that asked: who asked, and what all have left. The others stand until [`SnapshotDesk::done`].
    pub(super) fn stand(
        &self,
        ctx: &ThreadCtx<'_>,
        left: Left,
    ) -> Option<(By, BTreeMap<i32, Left>)> {
        let (process, tid) = (ctx.process, ctx.thread.tid);
        let all = || process.threads.all().into_iter().map(|thread| thread.tid);
        let mut inner = self.lock();
        let now = Instant::now();
        if !inner.is_open(now) {
            return None;
        }
        let until = inner.until.unwrap_or(now + inner.wait());
        inner.until = Some(until);
        inner.standing.insert(tid, Some(left));
        if !inner.is_makers(tid) && inner.standing.len() >= process.threads.counts().0 {
            // It may be the last one that is waited for.
            self.changed.notify_all();
        }
        // For who sends it a signal: it looks when it goes on.
        ctx.thread.signals.set_standing(true);
        let made = loop {
            // An end must wait, too: what a thread does at its end would be half in the snapshot.
            if !inner.standing.contains_key(&tid) || process.is_stopping() && !inner.is_making {
                break None;
            }
            if inner.is_making {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            // Of many threads, each is woken often: most times their number says enough.
            let may_be_all = inner.standing.len() >= process.threads.counts().0;
            if may_be_all && inner.is_makers(tid) && inner.is_complete(all()) {
                let asked = inner.asked.take();
                inner.is_making = true;
                let taken = |(tid, left): (&i32, &mut Option<Left>)| Some((*tid, left.take()?));
                let left = inner.standing.iter_mut().filter_map(taken).collect();
                break asked.map(|(asked, _)| (asked, left));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                inner.give_up(Instant::now());
                self.changed.notify_all();
                break None;
            }
            inner =
                self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        if made.is_none() {
            inner.standing.remove(&tid);
        }
        drop(inner);
        ctx.thread.signals.set_standing(false);
        made
    }

    /// The snapshot is made, or not: all go on.
    pub(super) fn done(&self) {
        self.wanted.store(false, Ordering::SeqCst);
        *self.lock() = Inner::default();
        self.changed.notify_all();
    }
}

impl Process {
    /// Kicks the threads that do not stand for a snapshot that is wanted, and has those look that do. Returns whether
    /// one is wanted: the event loop calls this then again soon.
    pub(crate) fn look_for_snapshot(&self) -> bool {
        let desk = &self.snapshots;
        if !desk.is_wanted() {
            return false;
        }
        let now = Instant::now();
        let mut inner = desk.lock();
        if inner.asked.as_ref().is_none_or(|(_, since)| now.duration_since(*since) >= STANDS) {
            if !inner.is_making {
                desk.wanted.store(false, Ordering::SeqCst);
                *inner = Inner::default();
                desk.changed.notify_all();
            }
            return inner.is_making;
        }
        // A thread that they waited for may have ended, or the process may be ending.
        desk.changed.notify_all();
        let is_due = inner.kicked.is_none_or(|at| now.duration_since(at) >= KICK_EVERY);
        if !is_due || !inner.is_open(now) {
            return true;
        }
        inner.kicked = Some(now);
        let all = self.threads.all().into_iter();
        let missing: Vec<_> = all.filter(|it| !inner.standing.contains_key(&it.tid)).collect();
        drop(inner);
        missing.iter().for_each(|thread| self.threads.kick_until_acknowledged(thread));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::{By, FIRST_WAIT, GO_ON, Inner, LAST_WAIT, STANDS, SnapshotDesk};

    fn asked() -> Inner {
        let (by, _) = UnixStream::pair().unwrap();
        Inner { asked: Some((By::Outside(by), Instant::now())), ..Inner::default() }
    }

    #[test]
    fn threads_stand_only_while_somebody_asks() {
        let now = Instant::now();
        assert!(!Inner::default().is_open(now));
        assert!(asked().is_open(Instant::now()));
        assert!(!asked().is_open(Instant::now() + STANDS), "it was asked long ago");
        let making = Inner { is_making: true, ..asked() };
        assert!(!making.is_open(Instant::now()), "a snapshot is being made");
    }

    #[test]
    fn all_that_there_are_have_to_stand() {
        let mut inner = asked();
        inner.standing.insert(4, None);
        inner.standing.insert(5, None);
        assert!(inner.is_complete([4, 5]) && inner.is_complete([4]));
        assert!(!inner.is_complete([4, 5, 6]));
    }

    #[test]
    fn those_that_have_waited_go_on_and_wait_longer_the_next_time() {
        let mut inner = asked();
        assert_eq!(inner.wait(), FIRST_WAIT);
        inner.standing.insert(4, None);
        let now = Instant::now();
        inner.give_up(now);
        assert!(inner.standing.is_empty() && !inner.is_open(now) && inner.is_open(now + GO_ON));
        assert_eq!(inner.wait(), 2 * FIRST_WAIT);
        (0..100).for_each(|_| inner.give_up(now));
        assert_eq!(inner.wait(), LAST_WAIT);
    }

    #[test]
    fn one_asks_at_a_time() {
        let desk = SnapshotDesk::default();
        let outside = || By::Outside(UnixStream::pair().unwrap().0);
        let [first, second, third] = [(); 3].map(|()| outside());
        assert!(desk.ask(first) && desk.is_wanted() && desk.is_open());
        assert!(!desk.ask(second));
        desk.done();
        assert!(!desk.is_wanted() && !desk.is_open());
        assert!(desk.ask(third));
        assert!(STANDS > Duration::from_secs(1));
    }

    #[test]
    fn a_thread_that_asks_makes_it_itself_and_nobody_else_withdraws_its_question() {
        let desk = SnapshotDesk::default();
        assert!(desk.ask(By::Thread(7)) && !desk.ask(By::Thread(8)));
        assert!(desk.is_asked_by(7) && !desk.is_asked_by(8));
        let makes = |tid| desk.lock().is_makers(tid);
        assert!(makes(7) && !makes(8));
        desk.withdraw(8);
        assert!(desk.is_asked_by(7) && desk.is_wanted());
        desk.withdraw(7);
        assert!(!desk.is_asked_by(7) && !desk.is_wanted());
        assert!(asked().is_makers(7) && asked().is_makers(8), "of others whoever comes last");
    }
}
