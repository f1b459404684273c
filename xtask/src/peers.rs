//! `cargo xtask peers`: builds the program that runs what `spacejmp bench store` compares with, beside
//! the other programs of the benchmark. It is a workspace of its own: nobody else compiles databases.

use std::path::PathBuf;

use anyhow::Result;

use crate::workspace::{TARGET, Workspace, succeed};

const MANIFEST: &str = "bench-peers/Cargo.toml";

/// Builds it, optimised; returns where it is.
///
/// # Errors
/// When it does not build.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    succeed(&mut cargo(workspace, &["build", "--quiet", "--release"]))?;
    Ok(workspace.target().join(TARGET).join("release/spacejmp-bench-peers"))
}

/// Builds it, runs its tests, looks for lints.
///
/// # Errors
/// When one of these fails.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    println!("{}", build(workspace)?.display());
    succeed(&mut cargo(workspace, &["test", "--quiet", "--release"]))?;
    let mut clippy = cargo(workspace, &["clippy", "--quiet", "--release", "--all-targets"]);
    succeed(clippy.args(["--", "--deny", "warnings"]))
}

fn cargo(workspace: &Workspace, arguments: &[&str]) -> std::process::Command {
    let mut cargo = workspace.cargo(arguments);
    cargo.args(["--locked", "--manifest-path", MANIFEST, "--target-dir"]).arg(workspace.target());
    cargo
}
