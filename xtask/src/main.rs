//! `cargo xtask`: one entry point for contributors. Here: the command line and exit statuses; the
//! implementation of the commands is in the modules, so that `check` and the commands share it.

mod check;
mod copy;
mod counts;
mod crashtest;
mod defects;
mod dist;
mod e2e;
mod fuzz;
mod layers;
mod machine;
mod packages;
mod peers;
mod processor_time;
mod ratchet;
mod results;
mod revisions;
mod suites;
mod versions;
mod workspace;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::machine::{MachineArgs, Outcome};
use crate::workspace::Workspace;

/// Status of `machine` when time runs out, as for timeout(1).
const STATUS_TIMED_OUT: u8 = 124;
/// Status of `machine` when there is no machine to run the command in, as for env(1).
const STATUS_NO_MACHINE: u8 = 125;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What contributors to spacejmp need")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run what CI runs: all jobs, or those named
    Check {
        /// Jobs to run; all when none is named
        jobs: Vec<String>,
        /// Print the names of the jobs and exit
        #[arg(long)]
        list: bool,
    },
    /// Compare what each path costs, in instructions and exits, with resources/counts.toml
    Counts {
        /// Write what was measured into the file; tables of other kinds of host are kept
        #[arg(long)]
        update: bool,
    },
    /// Measure everything on this machine, store run and plots, make the book's page of results
    ///
    /// Takes long, and needs an otherwise idle machine.
    Results {
        /// Use the run in this folder of `spacejmp bench all --out` instead of measuring
        #[arg(long)]
        from: Option<std::path::PathBuf>,
    },
    /// Build two revisions, measure both on this machine, print them side by side
    ///
    /// Status 1 when a count of instructions or exits has grown.
    Compare(revisions::CompareArgs),
    /// Boot an emulated machine, run a command in it, exit with the command's status
    ///
    /// Status 124: the time was up. Status 125: the machine could not be set up or booted.
    Machine(MachineArgs),
    /// Kill writing VMs and cut the power under them, simulated and for real, and open what is left
    Crashtest(crashtest::CrashtestArgs),
    /// Run the fuzz targets for a given time, guided by coverage
    ///
    /// What leads to new code is kept in fuzz/corpora. More in fuzz/README.md.
    Fuzz(fuzz::FuzzArgs),
    /// Plant known defects, one at a time, in a copy of the last commit: a test must catch each
    Defects {
        /// Defects to plant; all when none is named
        names: Vec<String>,
        /// Print the defects and exit
        #[arg(long)]
        list: bool,
    },
    /// Build the files of a release into a new folder: archives and checksums
    Dist {
        /// The folder
        #[arg(long)]
        out: std::path::PathBuf,
        /// The release's tag, which has to be that of the version
        #[arg(long)]
        tag: Option<String>,
    },
    /// Build the databases that `spacejmp bench store` compares with, beside its other programs
    ///
    /// LMDB, redb and SQLite, in a program of their own that is linked into nothing: some minutes.
    Peers,
    /// Install and download what the emulated machines need (as `machine` does when needed)
    MachineSetup,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let workspace = Workspace::here();
    match cli.command {
        Command::Check { list: true, .. } => report(Ok(check::list()), 1),
        Command::Check { jobs, list: false } => report(check::run(&workspace, &jobs), 1),
        Command::Crashtest(args) => report(crashtest::run(&workspace, args).map(|()| true), 1),
        Command::Fuzz(args) => report(fuzz::run(&workspace, &args).map(|()| true), 1),
        Command::Defects { names, list } => report(defects::run(&workspace, &names, list), 1),
        Command::Counts { update } => report(counts::run(&workspace, update).map(|()| true), 1),
        Command::Results { from } => report(results::run(&workspace, from).map(|()| true), 1),
        Command::Compare(args) => report(revisions::run(&workspace, &args).map(|()| true), 1),
        Command::Dist { out, tag } => {
            report(dist::run(&workspace, &out, tag.as_deref()).map(|()| true), 1)
        }
        Command::Peers => report(
            peers::build(&workspace).map(|path| {
                println!("{}", path.display());
                true
            }),
            1,
        ),
        Command::MachineSetup => {
            report(machine::setup::all(&workspace).map(|()| true), STATUS_NO_MACHINE)
        }
        Command::Machine(args) => match args.run(&workspace, &mut io::stdout().lock()) {
            Ok(Outcome::Exited { status, .. }) => ExitCode::from(status),
            Ok(timed_out @ Outcome::TimedOut { .. }) => {
                eprintln!("xtask: {timed_out}");
                ExitCode::from(STATUS_TIMED_OUT)
            }
            Err(error) => report(Err(error), STATUS_NO_MACHINE),
        },
    }
}

fn report(result: anyhow::Result<bool>, failure: u8) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(failure),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(failure)
        }
    }
}
