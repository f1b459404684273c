//! `spacejmp stats`: what a running VM does and uses.
#![forbid(unsafe_code)]

use std::io;

use vmm::control::{Vm, VmRef};
use vmm::exit_code::ExitCode;

use super::seen::Seen;
use super::{STATUS_HELP, failed, metrics, text};
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
    #[arg(required_unless_present = "metrics")]
    vm: Option<VmRef>,
    /// Print one JSON object
    #[arg(long, conflicts_with = "metrics")]
    json: bool,
    /// Print the counters in the text format of Prometheus
    #[arg(long)]
    metrics: bool,
}

fn examples() -> String {
    format!(
        "Examples:\n  spacejmp stats 4711\n  spacejmp stats web --json\n  spacejmp stats --metrics > \
         spacejmp.prom\n\n{STATUS_HELP}"
    )
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Some(vm) = &args.vm else {
        let all = Seen::all().map_err(failed("list the VMs"))?;
        return errors::write_all(&mut io::stdout().lock(), metrics::text(&all).as_bytes());
    };
    let doing = || format!("look at VM {vm}");
    let json = Vm::find(vm.clone()).and_then(|vm| vm.report()).map_err(failed(doing()))?;
    let seen = Seen::read(&json);
    if args.metrics {
        return errors::write_all(&mut io::stdout().lock(), metrics::text(&[seen]).as_bytes());
    }
    errors::output(args.json, &seen.0, |_| text::whole(&seen))
}
