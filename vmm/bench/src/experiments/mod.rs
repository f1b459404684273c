//! The experiments. What a report says about each is in `vmm::cli::subjects`, from which the
//! help of `spacejmp bench` is made, too.
//!
//! - [`gups`]: random updates in windows of which one is reachable at a time
//! - [`map`]: attaching and detaching, against `mmap`
//! - [`rpc`]: getting bytes that another party has, against channels and sockets
//! - [`run`]: the foundation: computing, starting, memory, reading files
//! - [`scale`]: switching as the number of something grows
//! - [`sdk`]: heap and collections of the guest SDK, against those at home
//! - [`start`]: starting an empty program, against other ways to isolate one
//! - [`switch`]: switching between address spaces, handing over a lock
//! - [`tlb`]: reaching random pages, with and without a switch before each access

mod counter;
pub mod gups;
pub mod map;
mod map_sizes;
mod paths;
pub mod rpc;
pub mod run;
pub mod scale;
pub mod sdk;
pub mod start;
pub mod switch;
pub mod tlb;

use crate::programs::Programs;
use crate::report::Report;
use crate::sample::Runner;
use crate::{BenchError, Size};
use vmm::cli::subjects::{self, Subject};

/// What every experiment is given.
#[derive(Debug, Clone, Copy)]
pub struct Bench<'a> {
    /// How programs are run.
    pub runner: &'a Runner,
    /// The programs.
    pub programs: &'a Programs,
    /// How much is measured.
    pub size: Size,
    /// Whether the host offers its guests TLB tags; `None` if that could not be
    /// determined.
    pub has_tags: Option<bool>,
}

/// Called with what is being done.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// One experiment.
#[derive(Debug)]
pub struct Experiment {
    /// Its name, and what it is about.
    pub subject: &'static Subject,
    /// Runs it.
    pub measure: fn(&Bench<'_>, Progress<'_>) -> Result<Report, BenchError>,
}

/// All, in the order of the report.
pub const ALL: &[Experiment] = &[
    Experiment {
        subject: &subjects::RUN,
        measure: |b, progress| run::measure(b.runner, b.programs, b.size, progress),
    },
    Experiment {
        subject: &subjects::SWITCH,
        measure: |b, progress| switch::measure(b.runner, b.programs, b.size, b.has_tags, progress),
    },
    Experiment {
        subject: &subjects::MAP,
        measure: |b, progress| map::measure(b.runner, b.programs, b.size, progress),
    },
    Experiment {
        subject: &subjects::TLB,
        measure: |b, progress| tlb::measure(b.runner, b.programs, b.size, b.has_tags, progress),
    },
    Experiment {
        subject: &subjects::RPC,
        measure: |b, progress| rpc::measure(b.runner, b.programs, b.size, progress),
    },
    Experiment {
        subject: &subjects::GUPS,
        measure: |b, progress| gups::measure(b.runner, b.programs, b.size, progress),
    },
    Experiment { subject: &subjects::SCALE, measure: scale::measure },
    Experiment {
        subject: &subjects::SDK,
        measure: |b, progress| sdk::measure(b.runner, b.programs, b.size, progress),
    },
    Experiment { subject: &subjects::START, measure: start::measure },
];

/// The experiment with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Experiment> {
    ALL.iter().find(|experiment| experiment.subject.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_for_each_name_that_the_command_line_knows_in_the_same_order() {
        let names: Vec<_> = ALL.iter().map(|one| one.subject.name).collect();
        assert_eq!(names, subjects::ALL.map(|subject| subject.name));
    }

    #[test]
    fn names_are_words_and_different() {
        for (index, experiment) in ALL.iter().enumerate() {
            assert!(
                experiment.subject.name.bytes().all(|b| b.is_ascii_lowercase()),
                "{experiment:?}"
            );
            // Words with their own meaning on the command line.
            assert!(!["all", "compare", "report"].contains(&experiment.subject.name));
            assert!(ALL[..index].iter().all(|other| other.subject.name != experiment.subject.name));
            assert!(find(experiment.subject.name).is_some());
        }
    }
}
