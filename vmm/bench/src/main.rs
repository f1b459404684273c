//! `spacejmp-bench`: measurements on this machine, reports of them, comparisons. Started by
//! `spacejmp bench`, with the arguments of that: `spacejmp-bench bench switch`.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process;

use clap::Parser;
use spacejmp_bench::Size;
use spacejmp_bench::experiments::{self, Bench, Experiment};
use spacejmp_bench::programs::Programs;
use spacejmp_bench::report::compare::compare;
use spacejmp_bench::report::document::{Document, Outcome, VERSION};
use spacejmp_bench::report::{Report, markdown, output};
use spacejmp_bench::sample::Runner;
use vmm::cli::bench::{ALL, Args, Command, SPACEJMP};
use vmm::cli::errors::{self, Failure};
use vmm::cli::log::{self, LogArgs};
use vmm::cli::subjects::{self, Subject};
use vmm::exit_code::ExitCode;
use vmm::host;

/// The same as in `spacejmp`, of which this is a part.
#[derive(Debug, Parser)]
#[command(name = "spacejmp", bin_name = "spacejmp", version)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: OnlyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum OnlyCommand {
    Bench(Args),
}

fn main() -> process::ExitCode {
    let Cli { log, command: OnlyCommand::Bench(args) } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return errors::usage(&error).into(),
    };
    match log::install(&log).and_then(|()| run(&args)) {
        Ok(code) => code,
        Err(failure) => {
            errors::print(&failure);
            failure.exit_code()
        }
    }
    .into()
}

fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Some(Command::Compare { runs, json, allow_growth, counts }) => {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            for pair in runs.chunks(2) {
                let [a, b] = pair else {
                    let failure = Failure::new("compare", NoPairs(runs.len()));
                    let remedy = "name one of the first side, one of the second, and so on";
                    return Err(failure.help(Some(remedy.to_owned())));
                };
                first.push(read(a)?);
                second.push(read(b)?);
            }
            let compared = compare(&first, &second);
            let compared = if *counts { compared.counts() } else { compared };
            let written = errors::output(*json, &compared, |_| compared.table())?;
            let has_grown = compared.grown().next().is_some() && !allow_growth;
            Ok(if has_grown { ExitCode::Program(1) } else { written })
        }
        Some(Command::Report { file, more, out: None }) => errors::write_all(
            &mut io::stdout(),
            markdown::report(&read_all(file, more)?).as_bytes(),
        ),
        Some(Command::Report { file, more, out: Some(dir) }) => {
            let files = output::write(dir, &read_all(file, more)?).map_err(cannot_write)?;
            told(&files)
        }
        None if args.names.is_empty() => list(),
        None => measure(args),
    }
}

fn read(path: &Path) -> Result<Document, Failure> {
    Document::read(path).map_err(|error| Failure::new("read the results", error))
}

/// Several results of one machine, as one.
fn read_all(first: &Path, more: &[PathBuf]) -> Result<Document, Failure> {
    let mut all = read(first)?;
    for path in more {
        let added = all.add(read(path)?, path);
        added.map_err(|error| Failure::new("put the results together", error))?;
    }
    Ok(all)
}

fn cannot_write(error: output::WriteError) -> Failure {
    Failure::new("write the results", error)
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
    text += &format!("{ALL:<8} All of these\n");
    for Subject { name, about, .. } in experiments::ON_REQUEST.iter().map(|one| one.subject) {
        text += &format!("{name:<8} {about} (only when named)\n");
    }
    errors::write_all(&mut io::stdout(), text.as_bytes())
}

/// One line on the terminal that shows the progress; nothing if stderr is not a terminal.
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
    let cannot = |error| Failure::with_remedy("measure", error);
    if let Some(dir) = &args.out {
        output::prepare(dir).map_err(cannot_write)?;
    }
    let is_all = args.names.iter().any(|name| name == ALL);
    let is_named = |e: &&Experiment| args.names.iter().any(|name| name == e.subject.name);
    let chosen = experiments::ALL.iter().filter(|e| is_all || is_named(e));
    let chosen: Vec<&Experiment> =
        chosen.chain(experiments::ON_REQUEST.iter().filter(is_named)).collect();
    let own =
        std::env::current_exe().map_err(|error| Failure::new("find its own binary", error))?;
    let spacejmp =
        std::env::var_os(SPACEJMP).map_or_else(|| own.with_file_name("spacejmp"), PathBuf::from);
    if args.store.is_given() && !chosen.iter().any(|e| e.subject.name == subjects::STORE.name) {
        let remedy = "leave them out, or name `store`".to_owned();
        return Err(Failure::new("measure", OnlyForStore).help(Some(remedy)));
    }
    let lie_in = own.parent().unwrap_or(Path::new("/"));
    let programs = Programs::find(lie_in, args.dir.as_deref()).map_err(cannot)?;
    let runner = Runner { spacejmp, dir: programs.dir().to_owned() };
    let size = if args.quick { Size::Quick } else { Size::Full };
    let host = host::probe();
    let has_tags = host.guest_cpu.as_ref().map(|cpu| cpu.pcid);
    let store = &args.store;
    let bench =
        Bench { runner: &runner, programs: &programs, size, is_huge: args.full, has_tags, store };
    let mut bar = Bar { is_watched: io::stderr().is_terminal(), all: chosen.len(), begun: 0 };
    let mut reports: Vec<(&Experiment, Report)> = Vec::new();
    let mut failed = BTreeMap::new();
    let is_alone = chosen.len() == 1;
    for experiment in chosen {
        bar.begun += 1;
        // Experiments must not see what others have left.
        let _ = std::fs::remove_dir_all(runner.dir.join("store"));
        let report =
            (experiment.measure)(&bench, &mut |what| bar.say(experiment.subject.name, what));
        bar.wipe();
        match report {
            Ok(report) => reports.push((experiment, report)),
            Err(error) if is_alone => return Err(cannot(error)),
            // The results of the others are worth keeping.
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
    Err(Failure::new("measure everything", SomeFailed(failed)))
}

/// An error and its causes, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Options that nothing of what is to be measured has.
#[derive(Debug, thiserror::Error)]
#[error("--entries, --batch and --only are options of `bench store`")]
struct OnlyForStore;

/// A run without its counterpart.
#[derive(Debug, thiserror::Error)]
#[error("{0} runs are not pairs")]
struct NoPairs(usize);

/// Experiments that could not be run, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("; "))]
struct SomeFailed(BTreeMap<String, String>);

/// Prints and writes; status 1 when a check failed that must pass with these sizes.
fn finish(
    args: &Args,
    host: &serde_json::Value,
    reports: &[(&Experiment, Report)],
    failed: &BTreeMap<String, String>,
) -> Result<ExitCode, Failure> {
    let outcome = |(experiment, report): &(&Experiment, Report), host: &serde_json::Value| {
        report.outcome(experiment.subject.name, args.quick, host.clone())
    };
    let of_all = reports.iter().map(|one| outcome(one, &serde_json::Value::Null));
    let experiments: Vec<Outcome> = of_all.collect();
    let failed = failed.clone();
    let is_several = experiments.len() + failed.len() > 1;
    let document = Document { version: VERSION, host: host.clone(), experiments, failed };
    let text = match (args.json, reports) {
        (true, [one]) if !is_several => errors::json("print the figures", &outcome(one, host))?,
        (true, _) => errors::json("print the figures", &document)?,
        (false, _) => tables(reports),
    };
    if let Some(dir) = &args.out {
        output::write(dir, &document).map_err(cannot_write)?;
    }
    let written = errors::write_all(&mut io::stdout(), text.as_bytes())?;
    let mut is_sound = true;
    for (bench, check) in document.broken() {
        // With small sizes only correct results are expected.
        is_sound &= args.quick && check.needs_quiet;
        // The figures are written, and a reader of the figures alone must not miss it.
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
