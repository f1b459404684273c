//! How long a thread waits for locks, how it holds them, and how entering went.

use std::time::{Duration, Instant};

/// How long to wait for locks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    Forever,
    Never,
    Until(Instant),
    /// Forever, to where the thread must go back to.
    Return,
}

impl Wait {
    /// What is left of it; `None` for no limit.
    pub(crate) fn remaining(self) -> Option<Duration> {
        match self {
            Wait::Forever | Wait::Return => None,
            Wait::Never => Some(Duration::ZERO),
            Wait::Until(end) => Some(end.saturating_duration_since(Instant::now())),
        }
    }
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockMode {
    Shared,
    Exclusive,
}

/// How entering a space went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryOutcome {
    /// Inside, and the content is consistent.
    Clean,
    /// Inside, but a holder of a lock died.
    OwnerDied,
}
