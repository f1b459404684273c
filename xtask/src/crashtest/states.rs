//! Workloads on a simulated disk, whose power is cut after every operation
//! (`spacejmp_versions::crashes`).

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use spacejmp_versions::crashes::{Checked, Workload, check};

use super::Done;

/// Steps of a workload, and states for each point at which the power is cut.
const STEPS: u64 = 60;
const STATES_A_CUT: u64 = 10;

/// A workload by its name.
pub(super) fn workload(name: &str) -> Result<Workload, String> {
    let mut all = Workload::ALL.into_iter();
    let names = || Workload::ALL.map(Workload::name).join(", ");
    all.find(|workload| workload.name() == name).ok_or_else(|| format!("there are {}", names()))
}

/// Checks every workload until enough states were opened, or it is to stop.
///
/// # Errors
/// The first state from which something was lost.
pub(super) fn run(
    states: u64,
    only: Option<Workload>,
    seed: u64,
    stop: &AtomicBool,
    tell: impl Fn(&str, &Done),
) -> Result<()> {
    let is_asked = |workload: &Workload| only.is_none_or(|asked| asked == *workload);
    for workload in Workload::ALL.into_iter().filter(is_asked) {
        let mut sum = Checked::default();
        for seed in seed.. {
            if sum.states >= states {
                break;
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let checked = check(workload, seed, STEPS, STATES_A_CUT)?;
            sum.cuts += checked.cuts;
            sum.states += checked.states;
        }
        if states > 0 {
            let counts = vec![("cuts", sum.cuts), ("states", sum.states)];
            tell(workload.name(), &Done::Checked(counts));
        }
    }
    Ok(())
}
