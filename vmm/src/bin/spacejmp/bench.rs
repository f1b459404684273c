//! `spacejmp bench`: measurements on this machine.

use std::io::{self, IsTerminal, Write};

use vmm::bench::payload::Unpacked;
use vmm::bench::sample::Runner;
use vmm::bench::{Size, gups, map, rpc, run, switch, tlb};
use vmm::exit_code::ExitCode;
use vmm::host;

use crate::errors::{self, Failure};

/// Measure on this machine, ours beside the alternative
///
/// Figures are ratios from one run wherever possible; what this machine cannot show is
/// `not available`, in JSON null, with the reason.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_enum)]
    name: Name,
    /// Smaller sizes: seconds instead of minutes, for a first look
    #[arg(long)]
    quick: bool,
    /// Print one JSON object, figures under `results`
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// Running an ordinary program in a VM, against running it natively
    Run,
    /// Switching between address spaces, with and without locks
    Switch,
    /// Attaching and detaching address spaces, against mapping files
    Map,
    /// Reaching random pages, with and without a switch before each
    Tlb,
    /// Getting bytes another party has, against channels and sockets
    Rpc,
    /// Random updates of a table in windows, against remapping and messages
    Gups,
}

const EXAMPLES: &str = "\
Examples:
  spacejmp bench run --quick
  spacejmp bench run --json > run.json
  spacejmp bench switch";

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let cannot = |error| Failure::new("measure", error, ExitCode::OwnFailure);
    let spacejmp = std::env::current_exe()
        .map_err(|error| Failure::new("find its own binary", error, ExitCode::OwnFailure))?;
    let programs = Unpacked::new().map_err(cannot)?;
    let runner = Runner { spacejmp, dir: programs.dir().to_owned() };
    let size = if args.quick { Size::Quick } else { Size::Full };
    let is_watched = io::stderr().is_terminal();
    let mut progress = |what: &str| {
        if is_watched {
            // Progress is a courtesy: a closed stderr is no reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[K{what} ...");
        }
    };
    let host = host::probe();
    let has_tags = host.guest_cpu.as_ref().map(|cpu| cpu.pcid);
    let report = match args.name {
        Name::Run => run::measure(&runner, &programs, size, &mut progress),
        Name::Switch => switch::measure(&runner, &programs, size, has_tags, &mut progress),
        Name::Map => map::measure(&runner, &programs, size, &mut progress),
        Name::Tlb => tlb::measure(&runner, &programs, size, has_tags, &mut progress),
        Name::Rpc => rpc::measure(&runner, &programs, size, &mut progress),
        Name::Gups => gups::measure(&runner, &programs, size, &mut progress),
    };
    if is_watched {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    let report = report.map_err(cannot)?;
    let text = if args.json {
        let host = serde_json::to_value(host).unwrap_or_default();
        let name = match args.name {
            Name::Run => "run",
            Name::Switch => "switch",
            Name::Map => "map",
            Name::Tlb => "tlb",
            Name::Rpc => "rpc",
            Name::Gups => "gups",
        };
        errors::json("print the figures", &report.json(name, args.quick, host))?
    } else {
        report.table()
    };
    errors::write_all(&mut io::stdout(), text.as_bytes())
}
