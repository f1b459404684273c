//! What becomes of an attempt to acquire a lock: one enum from the lock page to the program.

use abi::Errno;

/// What became of an attempt to acquire a lock, or all locks of an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum LockOutcome {
    /// The thread holds it.
    Acquired,
    /// The thread holds it, but an exclusive holder died inside, and the content has not been
    /// recovered since.
    OwnerDied,
    /// The lock would have to be waited for ([`crate::Patience::Try`]).
    WouldBlock,
    /// The time is up.
    TimedOut,
    /// The thread was told to stop waiting ([`crate::Waiting::should_stop`]).
    Interrupted,
}

impl LockOutcome {
    /// Whether the thread holds what it asked for. Otherwise it holds what it held before.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, LockOutcome::Acquired | LockOutcome::OwnerDied)
    }

    /// What the program is told, as for POSIX robust mutexes; nothing about a lock that was simply
    /// acquired.
    #[must_use]
    pub const fn errno(self) -> Option<Errno> {
        match self {
            LockOutcome::Acquired => None,
            LockOutcome::OwnerDied => Some(Errno::EOWNERDEAD),
            LockOutcome::WouldBlock => Some(Errno::EAGAIN),
            LockOutcome::TimedOut => Some(Errno::ETIMEDOUT),
            LockOutcome::Interrupted => Some(Errno::EINTR),
        }
    }
}

impl core::fmt::Display for LockOutcome {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            LockOutcome::Acquired => "the lock was acquired",
            LockOutcome::OwnerDied => "a holder of the lock died inside",
            LockOutcome::WouldBlock => "the lock is held, or others wait for it",
            LockOutcome::TimedOut => "the lock did not become free in time",
            LockOutcome::Interrupted => "the thread was interrupted while it waited for a lock",
        })
    }
}
