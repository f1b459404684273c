//! `spacejmp version`: what this build is, for bug reports.

use serde::Serialize;
use vmm::exit_code::ExitCode;

use crate::errors::{self, Failure};

/// Say which version this is and how it was built
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp version           for people: paste it into a bug report
  spacejmp version --json    for scripts")]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    profile: &'static str,
    target: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    };
    errors::output(args.json, &version, |_| {
        let Version { version, profile, target } = &version;
        format!("spacejmp {version} ({profile}, {target})\n")
    })
}
