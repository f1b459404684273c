//! The experiments. What a report says about each is in `vmm::cli::subjects`, from which the
//! help of `spacejmp bench` is made, too.
//!
//! - [`gups`]: random updates in windows of which one is reachable at a time
//! - [`kv`]: a key-value store without a server, against Redis and LMDB; only when named
//! - [`map`]: attaching and detaching, against `mmap`
//! - [`rpc`]: getting bytes that another party has, against channels and sockets
//! - [`run`]: the foundation: computing, starting, memory, reading files
//! - [`sam`]: reads of genomes, against samtools; only when named
//! - [`scale`]: switching as the number of something grows
//! - [`sdk`]: heap and collections of the guest SDK, against those at home
//! - [`start`]: starting an empty program, against other ways to isolate one
//! - [`store`]: versioned spaces, against databases; only when named
//! - [`switch`]: switching between address spaces, handing over a lock
//! - [`tlb`]: reaching random pages, with and without a switch before each access

mod counter;
pub mod gups;
pub mod kv;
pub mod map;
mod map_sizes;
mod paths;
pub mod rpc;
pub mod run;
pub mod sam;
pub mod scale;
pub mod sdk;
pub mod start;
pub mod store;
pub mod switch;
pub mod tlb;

use crate::programs::Programs;
use crate::report::Report;
use crate::sample::{Environment, Runner, Sample};
use crate::{BenchError, Size};
use vmm::cli::bench::StoreArgs;
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
    /// Whether sizes that take many gigabytes are measured, too.
    pub is_huge: bool,
    /// Whether the host offers its guests TLB tags; `None` if that could not be
    /// determined.
    pub has_tags: Option<bool>,
    /// What only `store` needs.
    pub store: &'a StoreArgs,
}

/// Called with what is being done.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

impl Bench<'_> {
    /// The smaller size for a first look, otherwise the full one.
    fn sized<T>(&self, quick: T, full: T) -> T {
        match self.size {
            Size::Quick => quick,
            Size::Full => full,
        }
    }

    /// Runs the payload, with the store that earlier runs left.
    fn run(&self, place: Environment, args: &[&str]) -> Result<Sample, BenchError> {
        self.runner.run(place, &self.programs.payload(), args, false)
    }

    /// Runs the payload with a new store: the objects of different runs must not conflict.
    fn run_fresh(&self, place: Environment, args: &[&str]) -> Result<Sample, BenchError> {
        self.remove_store();
        self.run(place, args)
    }

    /// The same with the statistics of the VM.
    fn run_counted(&self, place: Environment, args: &[&str]) -> Result<Sample, BenchError> {
        self.remove_store();
        self.runner.run(place, &self.programs.payload(), args, true)
    }

    fn remove_store(&self) {
        let _ = std::fs::remove_dir_all(self.runner.dir.join("store"));
    }
}

/// Why there are no figures with TLB tags; `None` if there are.
fn no_tags(has_tags: Option<bool>) -> Option<&'static str> {
    match has_tags {
        Some(true) => None,
        Some(false) => Some("this host offers its guests no PCID, so there are no tags"),
        None => Some("it could not be determined whether this host offers its guests PCID"),
    }
}

/// One experiment.
#[derive(Debug)]
pub struct Experiment {
    /// Its name, and what it is about.
    pub subject: &'static Subject,
    /// Runs it, and says what is being done. Nothing is reported that was not measured.
    pub measure: fn(&Bench<'_>, Progress<'_>) -> Result<Report, BenchError>,
}

/// All, in the order of the report.
pub const ALL: &[Experiment] = &[
    Experiment { subject: &subjects::RUN, measure: run::measure },
    Experiment { subject: &subjects::SWITCH, measure: switch::measure },
    Experiment { subject: &subjects::MAP, measure: map::measure },
    Experiment { subject: &subjects::TLB, measure: tlb::measure },
    Experiment { subject: &subjects::RPC, measure: rpc::measure },
    Experiment { subject: &subjects::GUPS, measure: gups::measure },
    Experiment { subject: &subjects::KV, measure: kv::measure },
    Experiment { subject: &subjects::SAM, measure: sam::measure },
    Experiment { subject: &subjects::SCALE, measure: scale::measure },
    Experiment { subject: &subjects::SDK, measure: sdk::measure },
    Experiment { subject: &subjects::START, measure: start::measure },
];

/// Those that are no part of `all`.
pub const ON_REQUEST: &[Experiment] =
    &[Experiment { subject: &subjects::STORE, measure: store::measure }];

/// The experiment with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Experiment> {
    ALL.iter().chain(ON_REQUEST).find(|experiment| experiment.subject.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_for_each_name_that_the_command_line_knows_in_the_same_order() {
        let names: Vec<_> = ALL.iter().map(|one| one.subject.name).collect();
        assert_eq!(names, subjects::ALL.map(|subject| subject.name));
        let names: Vec<_> = ON_REQUEST.iter().map(|one| one.subject.name).collect();
        assert_eq!(names, subjects::ON_REQUEST.map(|subject| subject.name));
    }

    #[test]
    fn names_are_words_and_different() {
        for (index, experiment) in ALL.iter().chain(ON_REQUEST).enumerate() {
            assert!(
                experiment.subject.name.bytes().all(|b| b.is_ascii_lowercase()),
                "{experiment:?}"
            );
            // Words with their own meaning on the command line.
            assert!(!["all", "compare", "report"].contains(&experiment.subject.name));
            assert!(
                ALL.iter().take(index).all(|other| other.subject.name != experiment.subject.name)
            );
            assert!(find(experiment.subject.name).is_some());
        }
    }
}
