//! Checks of spaces over plain memory: what is sound is clean whatever happened to it, each kind of damage is found and named, and
//! whatever is found clean can be read.

mod damage;
mod flips;
mod model;
mod world;

use crate::check::CheckReport;

/// Whether a report says this of exactly this path.
#[track_caller]
fn says(report: &CheckReport, path: &str, problem: &str) {
    let found = report
        .findings
        .iter()
        .any(|finding| finding.path == path && finding.problem.to_string().contains(problem));
    assert!(found, "not \"{path}: {problem}\":\n{report}");
}
