//! The command line of `cargo xtask machine`, and its meaning in terms of [`Machine`].

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{Addition, Kind, Machine, Memory, Outcome, build_spacejmp, spacejmp};
use crate::workspace::Workspace;

/// The command line of `cargo xtask machine`.
#[derive(Args)]
pub(crate) struct MachineArgs {
    kind: Kind,
    /// CPUs of the machine
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(1..=4))]
    cpus: u8,
    /// Memory of the machine: a number with M or G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = Memory::parse)]
    memory: Memory,
    /// Seconds from the start of the emulator after which it is stopped
    #[arg(long, value_name = "SECS", default_value = "600", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// A file or folder to copy into the machine; GUESTPATH is /work/NAME if not given
    #[arg(long, value_name = "HOSTPATH[:GUESTPATH]", value_parser = Addition::parse)]
    add: Vec<Addition>,
    /// More words for the machine's kernel command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// Use the release build of spacejmp as it is instead of building it first
    #[arg(long)]
    no_build: bool,
    /// Show the machine's console on stderr while it boots
    #[arg(long)]
    verbose: bool,
    /// The command and its arguments, run in /work with /bin and /work on the PATH
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

impl MachineArgs {
    /// Builds `spacejmp` and runs the command in the machine with it in `/bin`.
    ///
    /// # Errors
    /// As [`Machine::run`], and when `spacejmp` does not build.
    pub(crate) fn run(self, workspace: &Workspace, to: &mut dyn Write) -> Result<Outcome> {
        if !self.no_build {
            build_spacejmp(workspace)?;
        }
        let mut additions = vec![spacejmp(workspace)];
        additions.extend(self.add);
        let machine = Machine {
            kind: self.kind,
            cpus: self.cpus,
            memory: self.memory,
            timeout: Duration::from_secs(self.timeout),
            additions,
            append: self.append,
            verbose: self.verbose,
        };
        machine.run(workspace, &self.command, to)
    }
}
