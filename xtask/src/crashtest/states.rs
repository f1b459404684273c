//! Workloads on a simulated disk, whose power is cut after every operation
//! (`spacejmp_versions::crashes`).

use anyhow::Result;
use spacejmp_versions::crashes::{Checked, Workload, check};

use super::Done;

/// Steps of a workload, and states for each point at which the power is cut.
const STEPS: u64 = 60;
const STATES_A_CUT: u64 = 10;

/// Checks every workload until enough states were opened.
///
/// # Errors
/// The first state from which something was lost.
pub(super) fn run(states: u64, seed: u64, mut tell: impl FnMut(&str, Done)) -> Result<()> {
    for workload in Workload::ALL {
        let mut sum = Checked::default();
        for seed in seed.. {
            if sum.states >= states {
                break;
            }
            let checked = check(workload, seed, STEPS, STATES_A_CUT)?;
            sum.cuts += checked.cuts;
            sum.states += checked.states;
        }
        if states > 0 {
            tell(workload.name(), Done::Checked(vec![("cuts", sum.cuts), ("states", sum.states)]));
        }
    }
    Ok(())
}
