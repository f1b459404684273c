//! `cargo xtask crashtest`: workloads on a simulated disk, whose power is cut after every operation
//! (`spacejmp_versions::crashes`). Prints what was checked; the first loss ends it.

use anyhow::Result;
use serde_json::json;
use spacejmp_versions::crashes::{Checked, Workload, check};

/// Steps of a workload, and states for each point at which the power is cut.
const STEPS: u64 = 60;
const STATES_A_CUT: u64 = 10;

/// How much to check.
#[derive(clap::Args)]
pub(crate) struct CrashtestArgs {
    /// States to open for each workload, at least
    #[arg(long, value_name = "N", default_value_t = 5000)]
    states: u64,
    /// Check one workload only
    #[arg(long, value_name = "NAME", value_parser = workload)]
    workload: Option<Workload>,
    /// Where the random choices begin: a run is repeated by its seed
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

fn workload(name: &str) -> Result<Workload, String> {
    let mut all = Workload::ALL.into_iter();
    let names = || Workload::ALL.map(Workload::name).join(", ");
    all.find(|workload| workload.name() == name).ok_or_else(|| format!("there are {}", names()))
}

/// Checks every workload until enough states were opened.
///
/// # Errors
/// The first state from which something was lost.
pub(crate) fn run(args: &CrashtestArgs) -> Result<()> {
    let mut rows = Vec::new();
    let is_asked = |workload: &Workload| args.workload.is_none_or(|asked| asked == *workload);
    for workload in Workload::ALL.into_iter().filter(is_asked) {
        let mut sum = Checked::default();
        for seed in args.seed.. {
            let checked = check(workload, seed, STEPS, STATES_A_CUT)?;
            sum.cuts += checked.cuts;
            sum.states += checked.states;
            if sum.states >= args.states {
                break;
            }
        }
        if !args.json {
            println!(
                "{:<12} {:>8} cuts {:>9} states, none lost",
                workload.name(),
                sum.cuts,
                sum.states
            );
        }
        rows.push((workload.name(), json!({ "cuts": sum.cuts, "states": sum.states, "lost": 0 })));
    }
    if args.json {
        println!("{}", json!(rows.into_iter().collect::<std::collections::BTreeMap<_, _>>()));
    }
    Ok(())
}
