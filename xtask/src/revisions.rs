//! `cargo xtask compare`: two revisions, each built and measured on this machine, side by side.
//! `spacejmp bench compare` compares; this file makes the two runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::copy::{Checkout, commit_id};
use crate::workspace::{Workspace, succeed};

/// What to compare.
#[derive(clap::Args)]
pub(crate) struct CompareArgs {
    /// The older revision: anything git accepts as a commit
    old: String,
    /// The newer one; the checkout as it is, if not given
    new: Option<String>,
    /// Experiments to run, as `spacejmp bench` names them
    #[arg(long = "bench", value_name = "NAME", default_value = "all")]
    benches: Vec<String>,
    /// The sizes the figures are defined for, instead of small ones
    #[arg(long)]
    full: bool,
    /// How often each is measured, alternately; a single run does not show the noise of ratios
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
}

/// One of the two, built.
struct Revision {
    /// A name for messages.
    name: String,
    spacejmp: PathBuf,
    /// Where its runs are stored.
    folder: PathBuf,
}

/// Builds both, measures them alternately and prints them side by side.
///
/// # Errors
/// When there is no such revision, something cannot be built or measured, or a count of
/// instructions or exits has grown.
pub(crate) fn run(workspace: &Workspace, args: &CompareArgs) -> Result<()> {
    let copy = Checkout::named(workspace, "revisions")?;
    // Nothing is measured before both are built, since compiling heats the processor.
    let old = commit(workspace, &copy, &args.old)?;
    let new = args.new.as_ref().map(|revision| commit(workspace, &copy, revision)).transpose()?;
    // The checkout's own `spacejmp` always does the comparison: it supports several runs.
    let own = build(workspace, &copy.folder, "the checkout as it is", "checkout")?;
    let mut compare = Command::new(&own.spacejmp);
    let new = new.unwrap_or(own);
    compare.args(["bench", "compare"]);
    // Alternately: a machine that gets slower gets slower for both.
    for round in 1..=args.rounds {
        for revision in [&old, &new] {
            println!("measuring {}, {round} of {}", revision.name, args.rounds);
            let results = revision.folder.join(format!("results-{round}"));
            let mut bench = Command::new(&revision.spacejmp);
            bench.arg("bench").args(&args.benches).arg("--out").arg(&results);
            if !args.full {
                bench.arg("--quick");
            }
            succeed(bench.stdout(std::process::Stdio::null()))?;
            compare.arg(results);
        }
    }
    println!("first: {}; second: {}", old.name, new.name);
    succeed(&mut compare)
}

/// A commit, built in the shared folder, so that common dependencies are built once.
fn commit(workspace: &Workspace, copy: &Checkout, revision: &str) -> Result<Revision> {
    let id = commit_id(workspace, revision)?;
    copy.move_to(&id)?;
    build(&copy.workspace, &copy.folder, revision, &id)
}

fn build(source: &Workspace, folder: &Path, name: &str, id: &str) -> Result<Revision> {
    println!("building {name}");
    source.build_bench()?;
    // Named by its commit, since the next one is built in the same place.
    let own = folder.join(id);
    fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
    for built in source.bench_programs() {
        let copy = own.join(built.file_name().context("a program has a name")?);
        fs::copy(&built, &copy).with_context(|| format!("cannot copy {}", built.display()))?;
    }
    Ok(Revision { name: name.to_owned(), spacejmp: own.join("spacejmp"), folder: own })
}
