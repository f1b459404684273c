//! `spacejmp bench`: runs the program that measures, with the same arguments, as git and cargo run
//! their subcommands. That program has its own package, because what it compares with takes long to
//! build.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::{env, io};

use vmm::cli::bench::{PROGRAM, SPACEJMP};
use vmm::exit_code::ExitCode;

use crate::errors::Failure;

/// The benchmark program is not beside this one.
#[derive(Debug, thiserror::Error)]
#[error("there is no {}", .0.display())]
struct NotBuilt(PathBuf);

/// The arguments have been parsed already, so that mistakes and help need no second program.
pub(crate) fn run() -> Result<ExitCode, Failure> {
    let own = env::current_exe().map_err(|error| Failure::new("find its own binary", error))?;
    let program = own.with_file_name(PROGRAM);
    // Returns only when `exec` failed.
    let error = Command::new(&program).args(env::args_os().skip(1)).env(SPACEJMP, &own).exec();
    if error.kind() != io::ErrorKind::NotFound {
        let doing = format!("start {}", program.display());
        return Err(Failure::new(doing, error));
    }
    let remedy =
        format!("build it: cargo build --release -p {PROGRAM}, or cargo install {PROGRAM}");
    let failure = Failure::new("measure", NotBuilt(program));
    Err(failure.help(Some(remedy)))
}
