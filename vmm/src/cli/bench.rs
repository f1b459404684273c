//! The command line of `spacejmp bench`. Another program, [`PROGRAM`], carries it out. It is beside
//! `spacejmp` and gets the arguments unchanged: a user who only runs programs needs neither the
//! benchmarks nor what they are compared with.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};

use super::subjects::{self, Subject};

/// The program, and the package that it is in.
pub const PROGRAM: &str = "spacejmp-bench";
/// The environment variable with the `spacejmp` to measure; without it, the one beside the
/// benchmark program.
pub const SPACEJMP: &str = "SPACEJMP_BENCH_COMMAND";

/// Measure on this machine, ours beside the alternative
///
/// Figures are ratios from one run wherever possible; what this machine cannot show is
/// `not available`, in JSON null, with the reason.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(override_usage = "spacejmp bench [OPTIONS] NAME...|all\n       \
    spacejmp bench compare A B [A B]...\n       spacejmp bench report FILE...")]
pub struct Args {
    /// What to do with existing results; `None` to measure
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to measure, or `all`; without a name, lists the experiments
    #[arg(value_name = "NAME", value_parser = names())]
    pub names: Vec<String>,
    /// Smaller sizes: seconds instead of minutes, for a first look
    #[arg(long)]
    pub quick: bool,
    /// Also sizes that take many minutes and many gigabytes: of `kv`, 10 million keys and 10 GiB; of `sam`, 10 million reads
    #[arg(long, conflicts_with = "quick")]
    pub full: bool,
    /// Print one JSON object, figures under `results`
    #[arg(long)]
    pub json: bool,
    /// Write JSON, CSV, a report in Markdown and plots in SVG into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Make the folder for what the programs read and write in DIR, instead of in the system's
    /// folder for temporary files
    ///
    /// It is removed at the end. For `store` it should be on the disk that is of interest.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// What only `store` needs
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Options of `bench store`.
#[derive(Debug, Default, Clone, clap::Args)]
#[command(next_help_heading = "Only for `store`")]
pub struct StoreArgs {
    /// How many numbers a map has; a million, or ten thousand with --quick
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    pub entries: Option<u64>,
    /// Only these parts of it
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub only: Vec<StorePart>,
    /// How many of them our maps take in one transaction when they are loaded; 0 for all
    ///
    /// The peers are always loaded in one.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub batch: u64,
    /// The program with LMDB, redb and SQLite, instead of the one beside spacejmp-bench; for `kv`, too
    ///
    /// `cargo xtask peers` builds it. Without it what needs it is `not available`.
    #[arg(long, value_name = "PATH")]
    pub peers: Option<PathBuf>,
}

impl StoreArgs {
    /// Whether one was given that nothing else has.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.entries.is_some() || self.batch != 0 || !self.only.is_empty()
    }
}

/// A part of `bench store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StorePart {
    /// Durable commits
    Commits,
    /// Switches into a versioned space
    Entering,
    /// Maps: loaded, read, changed, read beside a writer
    Maps,
    /// Beside raw spaces
    Raw,
    /// Finding a space again
    Opening,
    /// Tags, clones, rollbacks
    Copies,
    /// Many copies and many layers at once
    Sharing,
    /// Space on the disk beside a visit to read that lasts
    Lasting,
}

/// What to do with existing results.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Two results side by side, with change and noise
    ///
    /// A single run of each can show the noise of some figures only, and of no ratio. With several
    /// pairs of runs, best measured alternately, figures are the median of their side's runs, and
    /// noise is the spread of these. Status 1 when a count of instructions or exits has grown.
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare {
        /// What `--json` or `--out` gave, a file or a folder: one of the first side, one of the
        /// second, and so on
        #[arg(value_name = "RUN", required = true, num_args = 2..)]
        runs: Vec<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// A count may have grown
        #[arg(long)]
        allow_growth: bool,
        /// Only what is counted, instructions and exits, and no times
        #[arg(long)]
        counts: bool,
    },
    /// The report, in Markdown, of existing results
    #[command(after_help = REPORT_EXAMPLES)]
    Report {
        /// What `--json` or `--out` gave: a file or a folder
        file: PathBuf,
        /// Others of the same machine; of an experiment that is in several, the last counts
        more: Vec<PathBuf>,
        /// Write all files of `--out` into this folder instead
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// The name for all experiments.
pub const ALL: &str = "all";

const COMPARE_EXAMPLES: &str = "\
Examples:
  spacejmp bench compare before after                two folders of --out
  spacejmp bench compare before.json after.json --json
  spacejmp bench compare old1 new1 old2 new2 old3 new3    three runs of each";

const REPORT_EXAMPLES: &str = "\
Examples:
  spacejmp bench report results.json > report.md
  spacejmp bench report results.json --out results   with plots and tables
  spacejmp bench report results store.json --out both    what was measured separately, in one report";

const EXAMPLES: &str = "\
Examples:
  spacejmp bench                            what there is
  spacejmp bench run --quick
  spacejmp bench switch map --json > results.json
  spacejmp bench store --only maps,opening --quick --entries 10000000
  spacejmp bench store --dir /var/tmp       against LMDB, redb and SQLite, on that disk; first
                                            build these: cargo xtask peers
  spacejmp bench store --quick --entries 5000
  spacejmp bench all --out results          a quarter of an hour; then open results/report.md
  spacejmp bench compare results newer

Exit status: 0 if all was measured and the checks were kept; 1 if a check was broken (the figures
are not to be used) or, for compare, a count has grown; 125 if something could not be measured.";

fn names() -> PossibleValuesParser {
    let all = PossibleValue::new(ALL).help("All of them but store, one after another");
    let each = |subject: &Subject| PossibleValue::new(subject.name).help(subject.about);
    subjects::named().map(each).chain([all]).collect::<Vec<_>>().into()
}
