//! `spacejmp bench`: measurements on this machine, reports of them, comparisons.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use vmm::bench::Size;
use vmm::bench::experiments::{self, Bench, Experiment};
use vmm::bench::payload::Unpacked;
use vmm::bench::report::compare::compare;
use vmm::bench::report::document::{Document, Outcome, VERSION};
use vmm::bench::report::subjects::Subject;
use vmm::bench::report::{Report, markdown, output};
use vmm::bench::sample::Runner;
use vmm::exit_code::ExitCode;
use vmm::host;

use crate::errors::{self, Failure};

/// Measure on this machine, ours beside the alternative
///
/// Figures are ratios from one run wherever possible; what this machine cannot show is
/// `not available`, in JSON null, with the reason.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(override_usage = "spacejmp bench [OPTIONS] NAME...|all\n       \
    spacejmp bench compare A B [A B]...\n       spacejmp bench report FILE")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// What to measure, or `all`; without a name, lists what there is
    #[arg(value_name = "NAME", value_parser = names())]
    names: Vec<String>,
    /// Smaller sizes: seconds instead of minutes, for a first look
    #[arg(long)]
    quick: bool,
    /// Print one JSON object, figures under `results`
    #[arg(long)]
    json: bool,
    /// Write JSON, CSV, a report in Markdown and plots in SVG into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Two results side by side, with change and noise
    ///
    /// A single run of each knows the noise of some figures only, and of no ratio. With several
    /// pairs of runs, best taken in turns, figures are the middle of their side's runs, and noise is
    /// what those differ by. Status 1 when a count of instructions or exits has grown.
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
    /// The report, in Markdown, of results that are there already
    #[command(after_help = REPORT_EXAMPLES)]
    Report {
        /// What `--json` or `--out` gave: a file or a folder
        file: PathBuf,
        /// Write all files of `--out` into this folder instead
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

const ALL: &str = "all";

const COMPARE_EXAMPLES: &str = "\
Examples:
  spacejmp bench compare before after                two folders of --out
  spacejmp bench compare before.json after.json --json
  spacejmp bench compare old1 new1 old2 new2 old3 new3    three runs of each";

const REPORT_EXAMPLES: &str = "\
Examples:
  spacejmp bench report results.json > report.md
  spacejmp bench report results.json --out results   with plots and tables";

const EXAMPLES: &str = "\
Examples:
  spacejmp bench                            what there is
  spacejmp bench run --quick
  spacejmp bench switch map --json > results.json
  spacejmp bench all --out results          ten minutes; then open results/report.md
  spacejmp bench compare results newer

Exit status: 0 if all was measured and the checks were kept; 1 if a check was broken (the figures
are not to be used) or, for compare, a count has grown; 125 if something could not be measured.";

fn names() -> clap::builder::PossibleValuesParser {
    let all = clap::builder::PossibleValue::new(ALL).help("All of them, one after another");
    let each = |experiment: &Experiment| {
        clap::builder::PossibleValue::new(experiment.subject.name).help(experiment.subject.about)
    };
    experiments::ALL.iter().map(each).chain([all]).collect::<Vec<_>>().into()
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Some(Command::Compare { runs, json, allow_growth, counts }) => {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            for pair in runs.chunks(2) {
                let [a, b] = pair else {
                    let failure =
                        Failure::new("compare", NoPairs(runs.len()), ExitCode::OwnFailure);
                    let remedy = "name one of the first side, one of the second, and so on";
                    return Err(failure.help(Some(remedy.to_owned())));
                };
                first.push(read(a)?);
                second.push(read(b)?);
            }
            let compared = compare(&first, &second);
            let compared = if *counts { compared.counts() } else { compared };
            let text = match json {
                true => errors::json("print the comparison", &compared)?,
                false => compared.table(),
            };
            let written = errors::write_all(&mut io::stdout(), text.as_bytes())?;
            let has_grown = compared.grown().next().is_some() && !allow_growth;
            Ok(if has_grown { ExitCode::Program(1) } else { written })
        }
        Some(Command::Report { file, out: None }) => {
            errors::write_all(&mut io::stdout(), markdown::report(&read(file)?).as_bytes())
        }
        Some(Command::Report { file, out: Some(dir) }) => {
            let files = output::write(dir, &read(file)?).map_err(cannot_write)?;
            told(&files)
        }
        None if args.names.is_empty() => list(),
        None => measure(args),
    }
}

fn read(path: &std::path::Path) -> Result<Document, Failure> {
    Document::read(path)
        .map_err(|error| Failure::new("read the results", error, ExitCode::OwnFailure))
}

fn cannot_write(error: output::WriteError) -> Failure {
    Failure::new("write the results", error, ExitCode::OwnFailure)
}

fn told(files: &[PathBuf]) -> Result<ExitCode, Failure> {
    let lines: String = files.iter().map(|path| format!("{}\n", path.display())).collect();
    errors::write_all(&mut io::stdout(), lines.as_bytes())
}

fn list() -> Result<ExitCode, Failure> {
    let mut text = String::new();
    for Subject { name, about, paper } in experiments::ALL.iter().map(|one| one.subject) {
        let paper = if paper.is_empty() { String::new() } else { format!(" ({paper})") };
        text += &format!("{name:<8} {about}{paper}\n");
    }
    text += &format!("{ALL:<8} All of them\n");
    errors::write_all(&mut io::stdout(), text.as_bytes())
}

/// One line on the terminal that says how far it is; nothing where nobody watches.
struct Bar {
    is_watched: bool,
    all: usize,
    begun: usize,
}

impl Bar {
    fn say(&self, name: &str, what: &str) {
        const WIDTH: usize = 20;
        if self.is_watched {
            let full = WIDTH * (self.begun - 1) / self.all.max(1);
            let bar = format!("{}{}", "#".repeat(full), ".".repeat(WIDTH - full));
            let (begun, all) = (self.begun, self.all);
            // Progress is a courtesy: a closed stderr is no reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[K[{bar}] {begun}/{all} {name}: {what} ...");
        }
    }

    fn wipe(&self) {
        if self.is_watched {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn measure(args: &Args) -> Result<ExitCode, Failure> {
    let cannot = |error| Failure::new("measure", error, ExitCode::OwnFailure);
    if let Some(dir) = &args.out {
        output::prepare(dir).map_err(cannot_write)?;
    }
    let is_all = args.names.iter().any(|name| name == ALL);
    let is_named = |e: &&Experiment| is_all || args.names.iter().any(|name| name == e.subject.name);
    let chosen: Vec<&Experiment> = experiments::ALL.iter().filter(is_named).collect();
    let spacejmp = std::env::current_exe()
        .map_err(|error| Failure::new("find its own binary", error, ExitCode::OwnFailure))?;
    let programs = Unpacked::new().map_err(cannot)?;
    let runner = Runner { spacejmp, dir: programs.dir().to_owned() };
    let size = if args.quick { Size::Quick } else { Size::Full };
    let host = host::probe();
    let has_tags = host.guest_cpu.as_ref().map(|cpu| cpu.pcid);
    let bench = Bench { runner: &runner, programs: &programs, size, has_tags };
    let mut bar = Bar { is_watched: io::stderr().is_terminal(), all: chosen.len(), begun: 0 };
    let mut reports: Vec<(&Experiment, Report)> = Vec::new();
    let mut failed = BTreeMap::new();
    let is_alone = chosen.len() == 1;
    for experiment in chosen {
        bar.begun += 1;
        // Experiments must not meet what others have left.
        let _ = std::fs::remove_dir_all(runner.dir.join("store"));
        let report =
            (experiment.measure)(&bench, &mut |what| bar.say(experiment.subject.name, what));
        bar.wipe();
        match report {
            Ok(report) => reports.push((experiment, report)),
            Err(error) if is_alone => return Err(cannot(error)),
            // What the others give is worth keeping.
            Err(error) => {
                failed.insert(experiment.subject.name.to_owned(), causes(&error));
            }
        }
    }
    let host = serde_json::to_value(host).unwrap_or_default();
    let ended = finish(args, &host, &reports, &failed)?;
    if failed.is_empty() {
        return Ok(ended);
    }
    Err(Failure::new("measure everything", SomeFailed(failed), ExitCode::OwnFailure))
}

/// An error and what led to it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A run without its counterpart.
#[derive(Debug, thiserror::Error)]
#[error("{0} runs are not pairs")]
struct NoPairs(usize);

/// Experiments that could not be carried out, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("; "))]
struct SomeFailed(BTreeMap<String, String>);

/// Prints and writes; status 1 when a check was broken that these sizes must keep.
fn finish(
    args: &Args,
    host: &serde_json::Value,
    reports: &[(&Experiment, Report)],
    failed: &BTreeMap<String, String>,
) -> Result<ExitCode, Failure> {
    let json = |(experiment, report): &(&Experiment, Report), host: &serde_json::Value| {
        report.json(experiment.subject.name, args.quick, host.clone())
    };
    // As if read back: what is written is what was printed.
    let outcome = |one: &(&Experiment, Report)| -> Result<Outcome, Failure> {
        serde_json::from_value(json(one, &serde_json::Value::Null))
            .map_err(|error| Failure::new("print the figures", error, ExitCode::OwnFailure))
    };
    let experiments: Vec<Outcome> = reports.iter().map(outcome).collect::<Result<_, _>>()?;
    let failed = failed.clone();
    let is_several = experiments.len() + failed.len() > 1;
    let document = Document { version: VERSION, host: host.clone(), experiments, failed };
    let text = match (args.json, reports) {
        (true, [one]) if !is_several => errors::json("print the figures", &json(one, host))?,
        (true, _) => errors::json("print the figures", &document)?,
        (false, _) => tables(reports),
    };
    if let Some(dir) = &args.out {
        output::write(dir, &document).map_err(cannot_write)?;
    }
    let written = errors::write_all(&mut io::stdout(), text.as_bytes())?;
    let mut is_sound = true;
    for (bench, check) in document.broken() {
        // Of small sizes nothing is expected but right results.
        is_sound &= args.quick && check.needs_quiet;
        // The figures are there, and whoever reads only those must not miss it.
        let _ = writeln!(
            io::stderr(),
            "spacejmp: {bench}: check {} is broken: {}; found: {}; do not use these figures",
            check.name,
            check.rule,
            check.found
        );
    }
    Ok(if is_sound { written } else { ExitCode::Program(1) })
}

fn tables(reports: &[(&Experiment, Report)]) -> String {
    match reports {
        [(_, report)] => report.table(),
        many => {
            let table = |(e, report): &(&Experiment, Report)| {
                format!("{}:\n{}\n", e.subject.name, report.table())
            };
            many.iter().map(table).collect()
        }
    }
}
