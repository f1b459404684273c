//! `spacejmp run`: runs a program in a VM of its own.

use std::os::fd::AsFd;
use std::path::PathBuf;

use vmm::exit_code::ExitCode;
use vmm::process::{Outcome, Process, RunConfig};

use crate::errors::Failure;

/// Run a program in a virtual machine of its own
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  spacejmp run ./hello")]
pub(crate) struct Args {
    /// A directory
    #[arg(long)]
    dir: Vec<String>,
    /// The program: a static ELF executable
    program: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<std::ffi::OsString>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let dup = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().expect("dup");
    let stdio = [
        dup(std::io::stdin().as_fd()),
        dup(std::io::stdout().as_fd()),
        dup(std::io::stderr().as_fd()),
    ];
    let program_args = args.args.into_iter().map(|a| a.into_encoded_bytes()).collect();
    let config = RunConfig {
        program: args.program,
        args: program_args,
        env: vec![],
        memory_bytes: 4 << 30,
        grants: args.dir.iter().map(|d| d.parse().expect("grant")).collect(),
        cwd: None,
        umask: vmm::linux::fs::take_over_umask(),
        stdio,
    };
    let process =
        Process::start(config).map_err(|e| Failure::new("run it", e, ExitCode::OwnFailure))?;
    let outcome = process.wait();
    Ok(match outcome {
        Outcome::Exited(status) => ExitCode::Program(status),
        Outcome::Killed { signal, report } => {
            eprint!("{report}");
            ExitCode::Signal(signal)
        }
        Outcome::TimedOut => ExitCode::TimedOut,
        Outcome::OutOfMemory { .. } => ExitCode::OutOfMemory,
        Outcome::HostFailed(text) => {
            eprintln!("{text}");
            ExitCode::OwnFailure
        }
    })
}
