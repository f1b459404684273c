//! `spacejmp demo`: a tour that explains itself while it runs.
//!
//! - `tour`: the steps, each with the lines behind it and what the same costs natively
//! - `stage`: a folder with a store, and the virtual machines that use it
//! - `program`: what runs in them. It is in this very file: the command is a static executable as
//!   any other, so it runs in its own virtual machines
//! - `natively`: the same data kept in a file
//!
//! Each step does something real and shows the result; if a step fails, so does the demo.

mod natively;
mod program;
mod stage;
mod tour;

use vmm::exit_code::ExitCode;

use crate::errors::Failure;

/// A guided tour: data that programs share, and that no kill divides
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  spacejmp demo")]
pub(crate) struct Args {
    /// Be one of the tour's programs, in a virtual machine
    #[arg(long, hide = true, value_name = "STEP", num_args = 1..)]
    program: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    if args.program.is_empty() {
        return tour::run();
    }
    let done = program::run(&args.program);
    done.map(|()| ExitCode::Program(0))
        .map_err(|error| Failure::new("run a step of the demo", error))
}
