//! A run in one object: how the program ended and what it did.
#![forbid(unsafe_code)]

use serde::Serialize;

use crate::exit_code::ExitCode;
use crate::linux::task::Outcome;
use crate::stats::StatsReport;

/// What `--stats` prints. The keys of its JSON are documented in `docs/src/stats.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunReport {
    /// Version of this object: raised when a key changes its meaning or is removed.
    pub format: u32,
    /// How the program ended: `exited`, `killed`, `interrupted`, `timed-out`, `out-of-memory`
    /// or `host-failed`.
    pub outcome: &'static str,
    /// The exit status of the command.
    pub status: u8,
    /// The host's monotonic clock when the counting ended; it began `wall_ns` earlier.
    pub ended_at_ns: u64,
    /// What it did.
    #[serde(flatten)]
    pub stats: StatsReport,
}

/// The host's monotonic clock.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

impl RunReport {
    /// Combines the parts.
    #[must_use]
    pub fn new(outcome: &Outcome, code: ExitCode, stats: StatsReport) -> RunReport {
        let outcome = match outcome {
            Outcome::Exited(_) => "exited",
            Outcome::Killed { .. } => "killed",
            Outcome::Interrupted { .. } => "interrupted",
            Outcome::TimedOut => "timed-out",
            Outcome::OutOfMemory { .. } => "out-of-memory",
            Outcome::HostFailed(_) => "host-failed",
        };
        RunReport { format: 1, outcome, status: code.status(), ended_at_ns: monotonic_ns(), stats }
    }

    /// As a human-readable table.
    #[must_use]
    pub fn table(&self) -> String {
        format!("{:<20} {:>12}  status {}\n{}", "end", self.outcome, self.status, self.stats)
    }
}
