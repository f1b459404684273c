//! Measurements a user can repeat: `spacejmp bench`. A separate crate, so that a user who
//! only runs programs need not build the libraries to compare with.
//!
//! Each experiment runs ours and the alternative in one run, alternately, and reports ratios:
//! absolute times depend on the machine, ratios on us. A figure that is not available on this
//! host is `null` with the reason next to it, never a substitute.
//!
//! - [`experiments`]: what is measured, a file each
//! - [`report`]: their results, and everything made from these: files, plots, pages,
//!   comparisons
//! - [`programs`]: the programs that are timed; their sources are in `programs/`
//! - [`sample`]: running one and reading its answer
//! - [`worker`]: a program that goes on while others run
//! - [`stats`]: medians and ratios

#![forbid(unsafe_code)]

pub mod experiments;
pub mod programs;
pub mod report;
pub mod sample;
pub mod stats;
pub mod worker;

use vmm::cli::bench::PROGRAM;
use vmm::error::Remedy;

/// An experiment could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A program to be timed is not where it should be.
    #[error("{path} is missing, the program to be timed")]
    Missing {
        /// Where it should be.
        path: String,
    },
    /// The program with the peers of `bench store` was named, and is not there.
    #[error("there is no {path}, the program with the peers")]
    NoPeers {
        /// What was named.
        path: String,
    },
    /// The folder for what the programs read and write could not be made.
    #[error("cannot write to {dir}")]
    Folder {
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
        /// The end of its output.
        stderr: String,
    },
    /// A program's answer is invalid.
    #[error("{what} printed {text:?} where a JSON line was expected")]
    Answer {
        /// The command.
        what: String,
        /// What it printed.
        text: String,
    },
    /// A call of ours failed that is measured in this process.
    #[error("cannot {what}")]
    Library {
        /// What it was to do.
        what: &'static str,
        /// Why not.
        #[source]
        source: vmm::vas::VasError,
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

impl Remedy for BenchError {
    fn remedy(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => Some(format!(
                "build it: cargo build --release -p {PROGRAM}, or cargo install {PROGRAM}"
            )),
            Self::NoPeers { .. } => Some(
                "build it: cargo xtask peers; or leave --peers out, and measure without it".into(),
            ),
            Self::Folder { .. } => Some("name a folder that may be written to: --dir DIR".into()),
            _ => None,
        }
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Seconds: for a first look.
    Quick,
    /// Minutes: the sizes the figures are defined for.
    Full,
}
