//! `spacejmp store`: commands on an entire store.

use clap::Subcommand;
use serde::Serialize;
use vmm::exit_code::ExitCode;
use vmm::store::{check_store, counted};

use crate::errors::{self, Failure};
use crate::seg::live;
use crate::store_options::{Output, StoreArgs, failed, print_check, size};

/// Describe, check and tidy a store
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp store info
  spacejmp store check --store /srv/genomes
  spacejmp store gc")]
pub(crate) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say where the store is, what is in it and who uses it
    #[command(after_help = "\
Examples:
  spacejmp store info --json")]
    Info(Output),
    /// Look for damage, changing nothing
    #[command(after_help = "\
Examples:
  spacejmp store check
  spacejmp store check --json > report.json || echo something is damaged

Exit status: 0 if all can be used, 1 if not, 125 if it could not be looked at.")]
    Check(Output),
    /// Remove what programs that were killed left behind
    #[command(after_help = "\
Examples:
  spacejmp store gc")]
    Gc(Output),
}

#[derive(Serialize)]
struct InfoShown {
    path: String,
    id: String,
    vases: usize,
    segments: usize,
    unusable: usize,
    size_bytes: u64,
    stored_bytes: u64,
    vms: Vec<Vm>,
}

#[derive(Serialize)]
struct Vm {
    vm: String,
    pid: u32,
    program: String,
    started_ns: u64,
    vases: usize,
    segments: usize,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::Info(info) => show(&args.store, info.json),
        Command::Check(check) => {
            let report = check_store(&args.store.path()?).map_err(failed("check the store"))?;
            print_check(check.json, &report)
        }
        Command::Gc(gc) => {
            let doing = "collect the garbage of the store";
            let report = args.store.open()?.gc().map_err(failed(doing))?;
            errors::output(gc.json, &report, |_| {
                format!(
                    "removed: {} of dead VMs, {}, {}, {}\n",
                    counted(report.leases.into(), "lease"),
                    counted(report.unfinished.into(), "unfinished object"),
                    counted(report.volatile.into(), "volatile segment"),
                    counted(report.parts.into(), "part")
                )
            })
        }
    }
}

fn show(args: &StoreArgs, json: bool) -> Result<ExitCode, Failure> {
    let store = args.open()?;
    let doing = "look at the store";
    let segments = store.list_segments().map_err(failed(doing))?;
    let vases = store.list_vases().map_err(failed(doing))?;
    let usable = || segments.iter().filter_map(|entry| entry.record.as_ref().ok());
    let sum = |bytes: u64, more: u64| bytes.saturating_add(more);
    let mut vms: Vec<_> = live(&store)?
        .into_values()
        .map(|view| Vm {
            vm: view.id.to_string(),
            pid: view.pid,
            program: view.program,
            started_ns: view.started_ns,
            vases: view.vases.len(),
            segments: view.segments.len(),
        })
        .collect();
    vms.sort_by_key(|vm| vm.started_ns);
    let shown = InfoShown {
        path: store.path().to_string_lossy().into_owned(),
        id: format!("{:016x}", store.id()),
        vases: vases.len(),
        segments: segments.len(),
        unusable: segments.len() - usable().count()
            + vases.iter().filter(|entry| entry.record.is_err()).count(),
        size_bytes: usable().map(|record| record.header.size_bytes).fold(0, sum),
        stored_bytes: usable().map(|record| record.stored_bytes).fold(0, sum),
        vms,
    };
    errors::output(json, &shown, |_| {
        let mut text = format!(
            "store     {}\nid        {}\nVASes     {}\nsegments  {}, {} of addresses, {} stored\n",
            errors::one_line(&shown.path),
            shown.id,
            shown.vases,
            shown.segments,
            size(shown.size_bytes),
            size(shown.stored_bytes)
        );
        if shown.unusable > 0 {
            text += &format!("unusable  {}: see `spacejmp store check`\n", shown.unusable);
        }
        for vm in &shown.vms {
            let program = errors::one_line(&vm.program);
            let vases = counted(vm.vases as u64, "VAS");
            let segments = counted(vm.segments as u64, "segment");
            text += &format!(
                "VM        process {} ({program}): {vases}, {segments} attached\n",
                vm.pid
            );
        }
        text
    })
}
