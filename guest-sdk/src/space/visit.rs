//! One visit: going in, running a closure with a witness, and leaving again however it ends.

use std::ptr::NonNull;

use abi::Errno;

use super::switch::{Way, go};
use crate::brand::Brand;
use crate::location::Location;
use crate::location::wait::{EntryOutcome, LockMode, Wait};
use crate::space_heap::SpaceHeap;
use crate::sys::{SegId, seg_mark_inconsistent};
use crate::thread_state::{self, Scope, ThreadState};
use crate::token::{At, Mode};
use crate::type_id;

/// Where a visit goes.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) location: Location,
    /// `None` where nothing is allocated; a visit to write has one.
    pub(crate) heap: Option<NonNull<dyn SpaceHeap>>,
    /// The segment that holds the content; `None` in plain memory.
    pub(crate) sid: Option<SegId>,
    /// Whether that is versioned.
    pub(crate) is_versioned: bool,
}

impl Target {
    /// Marks the content, which the thread holds exclusively, as inconsistent: a change was
    /// interrupted. What was changed in a versioned segment is thrown away when the thread leaves.
    /// Called by the guard only, which leaves next.
    #[cold]
    fn mark_inconsistent(&self) {
        if let Some((lock, LockMode::Exclusive)) = self.location.plain {
            // SAFETY: it outlives the visit.
            unsafe { lock.as_ref() }.set_inconsistent(true);
        }
        // SAFETY: the token of the visit is gone, and if the content is versioned, all handles with it, as
        // `visit` demands; the thread leaves before there is another one.
        let mark = |sid| unsafe { seg_mark_inconsistent(sid) };
        if let Err(errno) = self.sid.map_or(Ok(()), mark) {
            // The end of the process inside marks it, too.
            eprintln!("spacejmp: a broken change cannot be marked: {errno}; the process ends");
            std::process::abort()
        }
    }
}

/// What to do if a holder of the lock died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnOwnerDeath {
    /// Leave at once.
    Refuse,
    /// Go on: the caller knows.
    Accept,
}

/// Why a visit did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The switch failed.
    Switch(Errno),
    /// A visit that goes on has the lock, or had others while this one was waited for.
    OwnLock,
    /// A holder of the lock died.
    OwnerDead,
    /// It was made, but what it changed cannot be committed, and is thrown away.
    NotCommitted(Errno),
}

/// What becomes of what a visit has changed, when its closure returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It stays.
    Keep,
    /// It is thrown away where that is possible, in a versioned segment; elsewhere it stays.
    ThrowAway,
}

impl Ending {
    /// As a result says.
    pub(crate) fn of<T, E>(result: &Result<T, E>) -> Ending {
        if result.is_ok() { Ending::Keep } else { Ending::ThrowAway }
    }
}

/// The state in which a visit has left the content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// As the writer wants it to be, or as it was.
    Whole,
    /// In the middle of a change.
    Changing,
}

/// Goes back when it is dropped.
struct Guard {
    before: ThreadState,
    target: Target,
    way: Way,
    content: Content,
}

impl Guard {
    /// Goes back. The token of the visit is gone.
    fn leave(self) -> Result<(), Refused> {
        let guard = std::mem::ManuallyDrop::new(self);
        match guard.go_back() {
            // The thread is where it was: a versioned segment's changes cannot be stored.
            Err(Refused::Switch(errno)) if guard.target.is_versioned => {
                guard.target.mark_inconsistent();
                guard.go_back_or_end();
                Err(Refused::NotCommitted(errno))
            }
            Ok(EntryOutcome::Clean) => Ok(()),
            back => lost(guard.before, back),
        }
    }

    fn go_back(&self) -> Result<EntryOutcome, Refused> {
        thread_state::set(self.before);
        // SAFETY: the token of the visit is gone, and with it every borrow of what is left.
        unsafe { go(self.target.location, self.before.location, self.way.back(), Wait::Return) }
    }

    fn go_back_or_end(&self) {
        let back = self.go_back();
        if back != Ok(EntryOutcome::Clean) {
            lost(self.before, back);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        thread_state::set(self.before);
        if self.content == Content::Changing {
            self.target.mark_inconsistent();
        }
        self.go_back_or_end();
    }
}

/// The thread cannot go back to where a token claims it is, or the content there is broken.
/// Unwinding would not help: code on the way could catch it and use the token.
#[cold]
fn lost(before: ThreadState, back: Result<EntryOutcome, Refused>) -> ! {
    let reason = match back {
        Err(Refused::Switch(errno)) => errno.to_string(),
        Err(refused) => format!("{refused:?}"),
        Ok(_) => "another holder of its lock died meanwhile".to_owned(),
    };
    eprintln!("spacejmp: cannot go back to {}: {reason}; the process ends", before.name);
    std::process::abort()
}

/// Goes to `target`, calls `f` with a witness, and goes back. If `f` panics in a visit to write, the
/// content is inconsistent afterwards; if it is versioned, it is what it was before, as after an ending that
/// throws away.
///
/// # Safety
/// Whatever token the thread has is borrowed mutably until this returns. The target is
/// one of `V`, its heap valid for a thread that is inside as `M` says, and both outlive the visit. If
/// it is versioned, `f` lets no handle out.
pub(crate) unsafe fn visit<V: Brand, M: Mode, R>(
    target: Target,
    wait: Wait,
    on_death: OnOwnerDeath,
    f: impl FnOnce(At<V, M>) -> (R, Ending),
) -> Result<R, Refused> {
    let before = thread_state::current();
    let way = if before.nests { Way::Nest } else { Way::Switch };
    // SAFETY: no reference into where the thread is can be used while the token is borrowed.
    let outcome = unsafe { go(before.location, target.location, way, wait) }?;
    let mut guard = Guard { before, target, way, content: Content::Whole };
    if outcome == EntryOutcome::OwnerDied && on_death == OnOwnerDeath::Refuse {
        return Err(Refused::OwnerDead);
    }
    thread_state::set(ThreadState {
        brand: Some(type_id::of::<V>()),
        name: V::NAME,
        writable: M::WRITABLE,
        heap: target.heap.filter(|_| M::WRITABLE),
        scope: Scope::Outside,
        nests: target.is_versioned || before.nests,
        location: target.location,
    });
    // Until `f` returns normally: code that unwinds through here has not finished what it began.
    guard.content = if M::WRITABLE { Content::Changing } else { Content::Whole };
    // SAFETY: the thread is inside until the guard is dropped, when `f` is done with it.
    let (result, ending) = f(unsafe { At::new() });
    if ending == Ending::Keep || !target.is_versioned {
        guard.content = Content::Whole;
        guard.leave()?;
    }
    Ok(result)
}

/// How a mode locks.
pub(crate) const fn access<M: Mode>() -> LockMode {
    if M::WRITABLE { LockMode::Exclusive } else { LockMode::Shared }
}
