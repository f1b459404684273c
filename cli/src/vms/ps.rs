//! `spacejmp ps`: the VMs that run.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use vmm::exit_code::ExitCode;

use super::failed;
use super::seen::Seen;
use super::text::{age, dash, place};
use crate::errors::{self, Failure};
use crate::store_options::{StoreArgs, size, table};

/// List the VMs that run and may use the store
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp ps
  spacejmp ps --all
  spacejmp ps --all --json

WHERE is what the first thread does: the VAS it is in, the Linux call it is in, or the VAS it waits to
enter; `stopped` is a VM that cannot answer before it goes on. `spacejmp stats VM` shows all.")]
pub(crate) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    /// List all of this user's VMs, whatever store they may use
    #[arg(long)]
    all: bool,
    /// Print one JSON object, with all that each VM tells of itself
    #[arg(long)]
    json: bool,
}

const HEADING: [&str; 8] = ["PID", "NAME", "PROGRAM", "AGE", "THREADS", "MEMORY", "EXITS", "WHERE"];

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut vms = Seen::all().map_err(failed("list the VMs"))?;
    if !args.all {
        let store = std::path::absolute(args.store.path()?);
        let store = store.map_err(|error| Failure::new("find the store", error))?;
        vms.retain(|vm| vm.uses(&store));
    }
    let reports: Vec<_> = vms.iter().map(|vm| &vm.0).collect();
    errors::output(args.json, &BTreeMap::from([("vms", reports)]), |colour| {
        table(&HEADING, &vms.iter().map(row).collect::<Vec<_>>(), colour)
    })
}

pub(super) fn row(vm: &Seen) -> Vec<String> {
    if let Some(why) = vm.text("silent") {
        let mut row = vec!["?".to_owned(); HEADING.len()];
        row[0] = vm.number("pid").to_string();
        row[HEADING.len() - 1] = why.to_owned();
        return row;
    }
    let program = vm.text("program").unwrap_or_default().rsplit('/').next().unwrap_or_default();
    vec![
        vm.number("pid").to_string(),
        dash(vm.text("name")),
        errors::one_line(program),
        age(vm.number("running_ns")),
        vm.list("threads").len().to_string(),
        size(vm.sum("memory", "bytes")),
        vm.sum("exits", "count").to_string(),
        vm.list("threads").first().map(place).unwrap_or_default(),
    ]
}
