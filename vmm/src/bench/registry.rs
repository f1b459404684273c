//! Which experiments there are. Everything that names them (the command, its help, the report)
//! takes them from here, so that adding one is adding a line.

use super::payload::Unpacked;
use super::sample::Runner;
use super::{BenchError, Report, Size, gups, map, rpc, run, scale, sdk, start, switch, tlb};

/// What every experiment is given.
#[derive(Debug, Clone, Copy)]
pub struct Bench<'a> {
    /// How programs are run.
    pub runner: &'a Runner,
    /// The programs.
    pub programs: &'a Unpacked,
    /// How much is measured.
    pub size: Size,
    /// Whether the host offers its guests TLB tags; `None` if that could not be found out.
    pub has_tags: Option<bool>,
}

/// Is told what is being done.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// One experiment.
#[derive(Debug)]
pub struct Experiment {
    /// On the command line.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// Which table or figure of the paper it repeats; empty if none.
    pub paper: &'static str,
    /// Does it.
    pub measure: fn(&Bench<'_>, Progress<'_>) -> Result<Report, BenchError>,
}

/// All, in the order of the report.
pub const ALL: &[Experiment] = &[
    Experiment {
        name: "run",
        about: "Running an ordinary program in a VM, against running it natively",
        paper: "",
        measure: |b, progress| run::measure(b.runner, b.programs, b.size, progress),
    },
    Experiment {
        name: "switch",
        about: "Switching between address spaces, with and without locks",
        paper: "Table 2",
        measure: |b, progress| switch::measure(b.runner, b.programs, b.size, b.has_tags, progress),
    },
    Experiment {
        name: "map",
        about: "Attaching and detaching address spaces, against mapping files",
        paper: "Figure 1",
        measure: |b, progress| map::measure(b.runner, b.programs, b.size, progress),
    },
    Experiment {
        name: "tlb",
        about: "Reaching random pages, with and without a switch before each",
        paper: "Figure 6",
        measure: |b, progress| tlb::measure(b.runner, b.programs, b.size, b.has_tags, progress),
    },
    Experiment {
        name: "rpc",
        about: "Getting bytes another party has, against channels and sockets",
        paper: "Figure 7",
        measure: |b, progress| rpc::measure(b.runner, b.programs, b.size, progress),
    },
    Experiment {
        name: "gups",
        about: "Random updates of a table in windows, against remapping and messages",
        paper: "Figures 8 and 9",
        measure: |b, progress| gups::measure(b.runner, b.programs, b.size, progress),
    },
    Experiment {
        name: "scale",
        about: "Switching with ever more address spaces, segments and processors",
        paper: "",
        measure: scale::measure,
    },
    Experiment {
        name: "sdk",
        about: "Heap and collections in an address space, against those at home",
        paper: "",
        measure: |b, progress| sdk::measure(b.runner, b.programs, b.size, progress),
    },
    Experiment {
        name: "start",
        about: "Starting an empty program, against other ways to isolate one",
        paper: "",
        measure: start::measure,
    },
];

/// The experiment of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Experiment> {
    ALL.iter().find(|experiment| experiment.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_different() {
        for (index, experiment) in ALL.iter().enumerate() {
            assert!(experiment.name.bytes().all(|b| b.is_ascii_lowercase()), "{experiment:?}");
            // Words with a meaning of their own on the command line.
            assert!(!["all", "compare", "report"].contains(&experiment.name));
            assert!(ALL[..index].iter().all(|other| other.name != experiment.name));
            assert!(find(experiment.name).is_some());
        }
    }
}
