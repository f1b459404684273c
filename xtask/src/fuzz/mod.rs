//! `cargo xtask fuzz`: fuzz targets for a given time, and the record of all runs with the book's page of it.
//!
//! Under libFuzzer, guided by coverage ([`guided`]), or on random inputs (`tests::fuzz_random`), for which no C++ compiler is
//! needed.

mod corpus;
mod guided;
mod model;
mod record;

use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::workspace::{Workspace, succeed};
use guided::Guided;
use record::{Known, Record, Sum};

/// What to run
#[derive(clap::Args)]
pub(crate) struct FuzzArgs {
    /// Time for each target
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Only this target; repeatable
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// So many targets at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    jobs: u64,
    /// Random inputs that nothing guides, for so much processor time: needs no C++ compiler
    #[arg(long)]
    random: bool,
    /// Where the random choices begin: a run is repeated by its seed. Default: how many inputs the target has had
    #[arg(long, value_name = "S", requires = "random")]
    seed: Option<u64>,
    /// Instead, N random sequences of calls against a model, by VMs: other ones each time
    #[arg(long, value_name = "N", conflicts_with_all = ["target", "random", "seconds", "jobs"])]
    model: Option<u64>,
    /// Add to the record, and make the book's page of it
    #[arg(long)]
    record: bool,
}

/// How the targets are run.
enum Way<'a> {
    Guided(Guided<'a>),
    Random { workspace: &'a Workspace, seed: Option<u64> },
}

impl Way<'_> {
    /// Runs a target, and adds what it came to. Returns what to print; nothing if this host cannot run it.
    fn run(&self, name: &str, seconds: u64, known: &mut Known) -> Result<Option<String>> {
        match self {
            Way::Guided(_) if name == "calls" && !has_kvm() => Ok(None),
            Way::Guided(guided) => {
                let ran = guided.run(name, seconds)?;
                known.guided.add(ran.sum);
                (known.kept, known.edges) = (ran.kept, ran.edges);
                Ok(Some(format!("{}, {} kept, {} edges", said(ran.sum), ran.kept, ran.edges)))
            }
            Way::Random { .. } if name == "kv_requests" => Ok(None),
            Way::Random { workspace, seed } => {
                let seed = seed.unwrap_or(known.random.inputs);
                let Some(sum) = random(workspace, name, seconds, seed)? else { return Ok(None) };
                known.random.add(sum);
                Ok(Some(said(sum)))
            }
        }
    }
}

fn said(sum: Sum) -> String {
    format!("{:>10} inputs in {:.1} s", sum.inputs, sum.milliseconds as f64 / 1e3)
}

fn has_kvm() -> bool {
    std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// A target on random inputs.
fn random(workspace: &Workspace, name: &str, seconds: u64, seed: u64) -> Result<Option<Sum>> {
    let mut driver = Command::new(workspace.debug("fuzz_random"));
    driver.args([name, &seconds.to_string(), &seed.to_string()]).stderr(Stdio::inherit());
    let output = driver.output().context("cannot start fuzz_random")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<u64> = said.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    Ok(match (output.status.success(), &numbers[..]) {
        (true, [inputs, nanos]) => {
            Some(Sum { inputs: *inputs, milliseconds: nanos / 1_000_000, failures: 0 })
        }
        (true, _) => None,
        (false, _) => Some(Sum { failures: 1, ..Sum::default() }),
    })
}

/// Runs what was asked for.
///
/// # Errors
/// An input by which a target fails, once all have run; what keeps one from running.
pub(crate) fn run(workspace: &Workspace, args: &FuzzArgs) -> Result<()> {
    let record = record::load(workspace)?;
    if let Some(count) = args.model {
        model::run(workspace, count, args.record)?;
        return if args.record { record::store(workspace, &record) } else { Ok(()) };
    }
    let unknown = args.target.iter().find(|name| !record.contains_key(*name));
    ensure!(unknown.is_none(), "no fuzz target is called {}", unknown.map_or("", |name| name));
    let way = if args.random {
        let driver = ["build", "--quiet", "--package", "tests", "--bin", "fuzz_random"];
        succeed(&mut workspace.cargo(&driver))?;
        Way::Random { workspace, seed: args.seed }
    } else {
        Way::Guided(Guided::build(workspace)?)
    };
    let mut names: Vec<String> = record.keys().cloned().collect();
    names.retain(|name| args.target.is_empty() || args.target.contains(name));
    // Taken from the end.
    names.reverse();
    let (names, record, failed) = (Mutex::new(names), Mutex::new(record), Mutex::new(Vec::new()));
    let next = || locked(&names).pop();
    thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                while let Some(name) = next() {
                    if let Err(error) = one(workspace, args, &way, &name, &record) {
                        println!("{name:<18} {error:#}");
                        locked(&failed).push(name);
                    }
                }
            });
        }
    });
    let failed = locked(&failed);
    ensure!(failed.is_empty(), "not all is well with {}", failed.join(", "));
    Ok(())
}

/// Runs one target and records it.
fn one(
    workspace: &Workspace,
    args: &FuzzArgs,
    way: &Way<'_>,
    name: &str,
    record: &Mutex<Record>,
) -> Result<()> {
    let mut known = locked(record).get(name).copied().unwrap_or_default();
    let failures = |known: Known| known.guided.failures + known.random.failures;
    let before = failures(known);
    let Some(said) = way.run(name, args.seconds, &mut known)? else {
        println!("{name:<18} SKIPPED: it cannot be run here in this way");
        return Ok(());
    };
    println!("{name:<18} {said}");
    let mut record = locked(record);
    record.insert(name.to_owned(), known);
    // At once: what was run is recorded, also if the next run is interrupted.
    if args.record {
        record::store(workspace, &record)?;
    }
    ensure!(failures(known) == before, "an input fails");
    Ok(())
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
