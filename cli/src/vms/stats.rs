//! `spacejmp stats`: what a running VM does and uses.
#![forbid(unsafe_code)]

use std::io;

use vmm::control::{Vm, VmRef};
use vmm::exit_code::ExitCode;

use super::seen::Seen;
use super::{STATUS_HELP, failed, metrics, metrics_listen, text};
use crate::errors::{self, Failure};

/// Show what a running VM does and uses
///
/// Threads and where they are: in which VAS, in which Linux call, which lock they wait for and who holds it;
/// exits, faults and calls since the program started; memory by kind; attached address spaces and segments with
/// versions and logs.
#[derive(Debug, clap::Args)]
#[command(after_help = examples())]
pub(crate) struct Args {
    /// The number of its process, or the name given by `run --name`; with --metrics, none for all VMs of
    /// this user
    #[arg(required_unless_present_any = ["metrics", "metrics_listen"])]
    vm: Option<VmRef>,
    /// Print one JSON object
    #[arg(long, conflicts_with = "metrics")]
    json: bool,
    /// Print the counters in the text format of Prometheus
    #[arg(long)]
    metrics: bool,
    /// Answer collectors of this machine with the counters, at http://127.0.0.1:PORT/metrics, until Ctrl-C
    ///
    /// Port 0 is one that the host chooses. Every user of this machine can ask.
    #[arg(long, value_name = "PORT", conflicts_with_all = ["json", "metrics"])]
    metrics_listen: Option<u16>,
}

fn examples() -> String {
    format!(
        "Examples:\n  spacejmp stats 4711\n  spacejmp stats web --json\n  spacejmp stats --metrics > \
         spacejmp.prom\n\n{STATUS_HELP}"
    )
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let counters = || {
        let seen = match &args.vm {
            Some(vm) => vec![one(vm)?],
            None => Seen::all().map_err(failed("list the VMs"))?,
        };
        Ok(metrics::text(&seen))
    };
    match &args.vm {
        Some(vm) if !args.metrics && args.metrics_listen.is_none() => {
            let seen = one(vm)?;
            errors::output(args.json, &seen.0, |_| text::whole(&seen))
        }
        _ => match args.metrics_listen {
            Some(port) => metrics_listen::serve(port, counters),
            None => errors::write_all(&mut io::stdout().lock(), counters()?.as_bytes()),
        },
    }
}

fn one(vm: &VmRef) -> Result<Seen, Failure> {
    let json = Vm::find(vm.clone()).and_then(|vm| vm.report());
    Ok(Seen::read(&json.map_err(failed(format!("look at VM {vm}")))?))
}
