//! A whole run in one object: how the program ended and what it did.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::stats::StatsReport;
use crate::exit_code::ExitCode;
use crate::process::Outcome;

/// What `--stats` prints. The keys of its JSON are documented in `docs/src/stats.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunReport {
    /// Version of this object: raised when a key changes its meaning or goes.
    pub format: u32,
    /// How the program ended: `exited`, `killed`, `interrupted`, `timed-out`, `out-of-memory`
    /// or `host-failed`.
    pub outcome: &'static str,
    /// The exit status of the command.
    pub status: u8,
    /// What it did.
    #[serde(flatten)]
    pub stats: StatsReport,
}

impl RunReport {
    /// Puts the parts together.
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
        RunReport { format: 1, outcome, status: code.status(), stats }
    }

    /// As a table for people.
    #[must_use]
    pub fn table(&self) -> String {
        format!("{:<20} {:>12}  status {}\n{}", "end", self.outcome, self.status, self.stats)
    }
}
