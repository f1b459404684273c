//! `cargo xtask crashtest`: what kills and power cuts leave of versioned segments.
//!
//! - `states`: workloads on a simulated disk, cut after every operation
//! - `ledger`: a program in a VM whose content follows from how many changes it made, and looking at
//!   what is left of it
//! - `kills`: SIGKILL at random moments, and before every call to the host
//! - `writers`: SIGKILL of one of two writers, or both
//! - `cuts`: a real file system that is shut down, without its journal, in the middle
//! - `blocklog`: every write to a block device, replayed to any flush
//! - `page`: the book's page of a run
//! - `small_disk`: images of file systems, mounted for this process alone
//!
//! The first loss ends it. What this host cannot do is said and counted as skipped.

mod blocklog;
mod cuts;
mod kills;
mod ledger;
mod page;
mod small_disk;
mod states;
mod writers;

use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use serde_json::{Map, Value, json};
use spacejmp_versions::crashes::Workload;

use crate::workspace::Workspace;
use ledger::Ledger;

/// How much to check
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct CrashtestArgs {
    /// States of the simulated disk to open for each workload, at least
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub(crate) states: u64,
    /// Only this workload of the simulated disk
    #[arg(long, value_name = "NAME", value_parser = states::workload)]
    pub(crate) workload: Option<Workload>,
    /// Times to kill a writing VM at a random moment, alone and beside another that writes the same segment, or the
    /// same two; and the calls to the host before which a program, or a command, is killed, for each at most
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) kills: u64,
    /// Times to shut a mounted file system down under a writing VM, of each kind
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) cuts: u64,
    /// Flushes of a block device to replay to, of each kind of file system
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) blocklog: u64,
    /// Where the random choices begin: a run is repeated by its seed, as far as time does not choose
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Keep what was checked beside what other campaigns were, and make the book's page of it
    #[arg(long)]
    pub(crate) record: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a campaign has done: `None` when this host cannot, with the reason.
enum Done {
    /// Counts by what was counted. Nothing was lost.
    Checked(Vec<(&'static str, u64)>),
    /// Why not.
    Skipped(String),
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Done::Checked(counts) => {
                counts.iter().try_for_each(|(what, n)| write!(f, "{n:>8} {what}, "))?;
                f.write_str("none lost")
            }
            Done::Skipped(why) => write!(f, "SKIPPED: {why}"),
        }
    }
}

impl Done {
    fn json(&self) -> Value {
        match self {
            Done::Checked(counts) => {
                let counts = counts.iter().map(|(what, n)| ((*what).to_owned(), json!(n)));
                let lost = [("lost".to_owned(), json!(0))];
                Value::Object(counts.chain(lost).collect())
            }
            Done::Skipped(why) => json!({ "skipped": why }),
        }
    }
}

/// Runs what was asked for: the simulated disk beside virtual machines, since those wait for real ones.
///
/// # Errors
/// The first loss; anything that keeps a campaign from running to its end, once it has begun.
pub(crate) fn run(workspace: &Workspace, args: CrashtestArgs) -> Result<()> {
    let revision = args.record.then(|| page::revision(workspace)).transpose()?;
    let (all, stop) = (Mutex::new(Map::new()), AtomicBool::new(false));
    let tell = |name: &str, done: &Done| {
        if !args.json {
            println!("{name:<18} {done}");
        }
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.to_owned(), done.json());
    };
    thread::scope(|scope| {
        let simulated =
            scope.spawn(|| states::run(args.states, args.workload, args.seed, &stop, tell));
        let real = in_virtual_machines(workspace, args, tell);
        stop.store(real.is_err(), Ordering::Relaxed);
        let simulated = simulated.join().unwrap_or_else(|panic| resume_unwind(panic));
        real.and(simulated)
    })?;
    let all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(revision) = revision {
        page::record(workspace, &all, &revision)?;
    }
    if args.json {
        println!("{}", json!(all));
    }
    Ok(())
}

fn in_virtual_machines(
    workspace: &Workspace,
    args: CrashtestArgs,
    tell: impl Fn(&str, &Done),
) -> Result<()> {
    if args.kills + args.cuts + args.blocklog == 0 {
        return Ok(());
    }
    let ledger = Ledger::build(workspace)?;
    if args.kills > 0 {
        tell("kills", &kills::at_random(&ledger, args.kills, args.seed)?);
        tell("kills-two-writers", &writers::run(&ledger, args.kills, args.seed)?);
        let several = Ledger::of_two_segments(workspace)?;
        tell("kills-two-segments", &writers::run(&several, args.kills, args.seed)?);
        tell("kills-at-calls", &kills::before_calls(&ledger, args.kills)?);
        tell("kills-at-commands", &kills::before_calls_of_commands(&ledger, args.kills)?);
    }
    for kind in small_disk::Kind::ALL {
        if args.cuts > 0 {
            tell(&format!("cuts-{kind}"), &cuts::run(&ledger, kind, args.cuts, args.seed)?);
        }
        if args.blocklog > 0 {
            tell(&format!("blocklog-{kind}"), &blocklog::run(&ledger, kind, args.blocklog)?);
        }
    }
    Ok(())
}
