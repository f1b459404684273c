//! `cargo xtask counts`: runs the tests that measure what each path costs, comparing with
//! `resources/counts.toml` or rewriting it. They also run in `check test`; the comparison
//! is in `tests/src/counts.rs`.

use anyhow::Result;

use crate::workspace::{Workspace, succeed};

/// `tests::counts::VARIABLE`.
const VARIABLE: &str = "SPACEJMP_COUNTS";

/// Package, test program and filter of the measuring tests.
const MEASURING: &[[&str; 3]] = &[
    ["spacejmp-vmm", "kernel_image", "recorded::"],
    ["tests", "ring3", "counts::"],
    ["tests", "exit_counts", "recorded"],
];

/// Measures on this computer and compares, or with `update` writes. Tables of other kinds of
/// host are not changed: the tests fail there and print the lines to insert.
///
/// # Errors
/// When something differs, or cannot be measured.
pub(crate) fn run(workspace: &Workspace, update: bool) -> Result<()> {
    for [package, program, filter] in MEASURING {
        let mut cargo = workspace.cargo(&["test", "--quiet", "--package", package]);
        cargo.args(["--test", program, "--", filter, "--nocapture"]);
        cargo.env("SPACEJMP_REQUIRE_KVM", "1");
        if update {
            cargo.env(VARIABLE, "update");
        }
        succeed(&mut cargo)?;
    }
    Ok(())
}
