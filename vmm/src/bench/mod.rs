//! Measurements a user can repeat: `spacejmp bench`.
//!
//! Each experiment runs ours and the alternative in one go, alternating, and reports ratios:
//! absolute times belong to a machine, ratios to us. A figure that cannot be had on this host
//! is `null` with the reason beside it, never a stand-in.
//!
//! - [`payload`]: the programs that are timed, carried inside this binary
//! - [`registry`]: which experiments there are
//! - [`report`]: what an experiment gives: figures, plots, checks
//! - [`document`]: the same as it is kept in files; [`written`], [`markdown`], [`plot`]: the files;
//!   [`page`]: the book's; [`compare`]: two of them side by side, each perhaps of several
//!   ([`merged`]); [`paper`]: the original's numbers
//! - [`rpc`]: getting bytes another party has, against channels and sockets
//! - [`run`]: the foundation: computing, starting, memory, reading files
//! - [`scale`]: switching with ever more of something
//! - [`sdk`]: heap and collections of the guest SDK, against those at home
//! - [`start`]: starting an empty program, beside other ways to isolate one
//! - [`switch`]: switching between address spaces, handing over a lock
//! - [`gups`]: random updates in windows of which one is reachable at a time
//! - [`map`]: attaching and detaching, beside `mmap`
//! - [`tlb`]: reaching random pages, with and without a switch before

#![forbid(unsafe_code)]

pub mod compare;
mod counter;
pub mod document;
pub mod gups;
pub mod map;
mod map_sizes;
pub mod markdown;
pub mod merged;
pub mod page;
pub mod paper;
mod paths;
pub mod payload;
pub mod plot;
pub mod registry;
pub mod report;
pub mod rpc;
pub mod run;
pub mod sample;
pub mod scale;
pub mod sdk;
pub mod start;
pub mod switch;
pub mod tlb;
pub mod written;

pub use report::{Axis, Check, Figure, Origin, Plot, Report, Series};

/// An experiment could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The programs could not be put where they can be run.
    #[error("cannot unpack the programs to be timed into {dir}")]
    Unpack {
        /// The directory.
        dir: String,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {what}")]
    Start {
        /// The command.
        what: String,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{what} ended with {status}: {stderr}")]
    Failed {
        /// The command.
        what: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        stderr: String,
    },
    /// A program's answer makes no sense.
    #[error("{what} printed {text:?} where a JSON line was expected")]
    Answer {
        /// The command.
        what: String,
        /// What it printed.
        text: String,
    },
    /// Ours and the alternative did not compute the same thing.
    #[error("{what} differs: {ours} in the VM, {native} natively")]
    Differs {
        /// What was compared.
        what: &'static str,
        /// In the VM.
        ours: String,
        /// Outside.
        native: String,
    },
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Seconds: for a first look.
    Quick,
    /// Minutes: the sizes the figures are defined for.
    Full,
}

/// The middle of some samples.
#[must_use]
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0)
    } else {
        sorted.get(middle).copied()
    }
}

/// `a / b` where both are there and `b` is not zero.
#[must_use]
pub fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    let b = b.filter(|&b| b != 0.0)?;
    Some(a? / b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
