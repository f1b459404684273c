//! The `spacejmp` command: parse, call the library, print.
//!
//! Each subcommand has its own file with its arguments and a `run` that returns the exit status;
//! `ending` reports how a program ended. What `spacejmp-bench` needs too, errors, log and colours,
//! is in `vmm::cli`. No subcommand prints errors or exits itself.

// A subcommand returns how the process ends, and `main` returns it: an exit in the middle would leave a terminal
// in raw mode and statistics unwritten.
#![warn(clippy::exit)]

mod bench;
#[cfg(test)]
mod book;
mod completions;
mod demo;
mod doctor;
mod doctor_program;
mod ending;
mod inherited;
mod man;
mod network;
mod new;
mod profiles;
mod run;
mod run_args;
mod run_options;
mod run_tree;
mod search;
mod seg;
mod size;
mod snapshots;
mod start_error;
mod store;
mod store_list;
mod store_options;
mod store_show;
mod terminal;
mod vas;
mod vas_archive;
mod version;
mod versions;
mod vms;

use std::process;

use clap::{Parser, Subcommand};
use vmm::cli::bench::Args as BenchArgs;
use vmm::cli::{errors, log, style};
use vmm::exit_code::{self, ExitCode};

use errors::Failure;

/// Runs ordinary Linux programs in a light virtual machine that gives them
/// first-class address spaces.
#[derive(Debug, Parser)]
#[command(name = "spacejmp", version, after_help = EXAMPLES, after_long_help = long_help())]
struct Cli {
    #[command(flatten)]
    log: log::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    New(new::Args),
    Run(Box<run_args::Args>),
    Vas(vas::Args),
    Seg(seg::Args),
    Store(store::Args),
    Ps(vms::ps::Args),
    Top(vms::top::Args),
    Stats(vms::stats::Args),
    Stop(vms::signal::StopArgs),
    Kill(vms::signal::KillArgs),
    Trace(vms::trace::Args),
    Gdb(vms::gdb::Args),
    Snapshot(snapshots::Args),
    Demo(demo::Args),
    Bench(BenchArgs),
    Doctor(doctor::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(name = "__complete", hide = true)]
    Names(completions::Names),
    Version(version::Args),
}

const EXAMPLES: &str = "\
Examples:
  spacejmp new diary          a project to begin with
  spacejmp run ./hello        run a static program in a VM
  spacejmp vas ls             the address spaces in your store
  spacejmp doctor             can this machine run VMs, and how fast
  spacejmp doctor --json      the same for scripts
  spacejmp help doctor        what a command does, with examples";

fn long_help() -> String {
    format!("{EXAMPLES}\n\n{}", exit_code::HELP)
}

fn main() -> process::ExitCode {
    // A file beyond `ulimit -f` is an error of the call that would extend it: of the command, or of
    // the program, to which we send the signal. Fails only if it is blocked already.
    let _ = vmm_sys_util::signal::block_signal(libc::SIGXFSZ);
    // Likewise for CPU time, `ulimit -t`.
    let _ = vmm_sys_util::signal::block_signal(libc::SIGXCPU);
    vmm::host::keep_freed_memory();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return errors::usage(&error).into(),
    };
    match log::install(&cli.log).and_then(|()| cli.command.run()) {
        Ok(code) => code,
        Err(failure) => {
            errors::print(&failure);
            failure.exit_code()
        }
    }
    .into()
}

impl Command {
    fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::New(args) => new::run(&args),
            Self::Run(args) => run::run(*args),
            Self::Vas(args) => vas::run(args),
            Self::Seg(args) => seg::run(args),
            Self::Store(args) => store::run(&args),
            Self::Ps(args) => vms::ps::run(&args),
            Self::Top(args) => vms::top::run(&args),
            Self::Stats(args) => vms::stats::run(&args),
            Self::Stop(args) => vms::signal::stop(args),
            Self::Kill(args) => vms::signal::kill(args),
            Self::Trace(args) => vms::trace::run(&args),
            Self::Gdb(args) => vms::gdb::run(&args),
            Self::Snapshot(args) => snapshots::run(&args),
            Self::Demo(args) => demo::run(&args),
            Self::Bench(_) => bench::run(),
            Self::Doctor(args) => doctor::run(&args),
            Self::Completions(args) => completions::run(&args),
            Self::Man(args) => man::run(&args),
            Self::Names(args) => completions::print_names(&args),
            Self::Version(args) => version::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cli, EXAMPLES};
    use clap::{Command, CommandFactory, Parser};

    /// All commands, including subcommands.
    fn commands(of: &Command) -> Vec<&Command> {
        of.get_subcommands().flat_map(|one| [vec![one], commands(one)].concat()).collect()
    }

    #[test]
    fn the_command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_examples() {
        for command in commands(&Cli::command()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }

    #[test]
    fn every_example_is_a_command_line_that_parses() {
        let root = Cli::command();
        let commands = commands(&root);
        let texts = commands.iter().filter_map(|command| command.get_after_help());
        let texts: Vec<String> =
            texts.map(ToString::to_string).chain([EXAMPLES.to_owned()]).collect();
        let mut seen = 0;
        for line in texts.iter().flat_map(|text| text.lines()) {
            let Some(rest) = line.strip_prefix("  spacejmp ") else {
                continue;
            };
            // The command ends at its explanation or at a shell operator.
            let end = ["  ", " > ", " | ", " || ", " && "]
                .iter()
                .filter_map(|mark| rest.find(mark))
                .min();
            let words = rest[..end.unwrap_or(rest.len())].split_whitespace();
            let parsed = Cli::try_parse_from(["spacejmp"].into_iter().chain(words));
            let good = match parsed {
                Ok(_) => true,
                Err(error) => error.kind() == clap::error::ErrorKind::DisplayHelp,
            };
            assert!(good, "{line}");
            seen += 1;
        }
        assert!(seen >= 40);
    }

    #[test]
    fn the_log_option_may_stand_before_or_after_the_command() {
        for line in
            [["spacejmp", "--log", "info", "doctor"], ["spacejmp", "doctor", "--log", "info"]]
        {
            assert!(Cli::try_parse_from(line).is_ok(), "{line:?}");
        }
        assert!(Cli::try_parse_from(["spacejmp", "--log", "loud", "doctor"]).is_err());
    }
}
