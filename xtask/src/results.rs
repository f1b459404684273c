//! `cargo xtask results`: measures everything on this machine with the release build and generates
//! the book's page of results. The page's layout is in `vmm/bench/tests/results/page.rs`; the test
//! that compares page and runs writes it here, so that there is one way to make it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace::{Workspace, succeed};

/// `vmm/bench/tests/results`.
const VARIABLE: &str = "SPACEJMP_RESULTS";

/// The committed run of a kind of host.
pub(crate) fn committed(workspace: &Workspace, kind: &str) -> PathBuf {
    workspace.file(&format!("resources/results/{kind}.json"))
}

/// The kind of host a run is from: `translation.kind` of `spacejmp doctor --json`.
///
/// # Errors
/// When the file is not a run, or the host's kind is unknown.
pub(crate) fn kind(results: &Path) -> Result<String> {
    let text = fs::read(results).with_context(|| format!("cannot read {}", results.display()))?;
    let value: Value = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not JSON", results.display()))?;
    let kind = value.pointer("/host/translation/kind").and_then(Value::as_str);
    let kind = kind.with_context(|| format!("{} has no kind of host", results.display()))?;
    // It is used as a file name.
    let is_word = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_lowercase());
    ensure!(is_word, "{}: {kind:?} is no kind of host", results.display());
    Ok(kind.to_owned())
}

/// Measures, or takes the run in `from`, a folder of `--out`; then writes it to the source tree:
/// the run, its plots, the page. The tests refuse a quick run, and one with a broken check.
///
/// # Errors
/// When something cannot be measured or written, or a test refuses the run.
pub(crate) fn run(workspace: &Workspace, from: Option<PathBuf>) -> Result<()> {
    let dir = match from {
        Some(dir) => dir,
        None => measure(workspace)?,
    };
    let results = dir.join("results.json");
    let kind = kind(&results)?;
    let path = committed(workspace, &kind);
    let folder = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::copy(&results, &path).with_context(|| format!("cannot write {}", path.display()))?;
    // Removes plots of an earlier run that this one lacks.
    let plots = workspace.file(&format!("docs/src/results/{kind}"));
    if plots.exists() {
        fs::remove_dir_all(&plots).with_context(|| format!("cannot clear {}", plots.display()))?;
    }
    let arguments = ["test", "--quiet", "--package", "spacejmp-bench", "--test", "results"];
    succeed(workspace.cargo(&arguments).env(VARIABLE, "update"))?;
    println!("written: {}, {}, docs/src/results.md", path.display(), plots.display());
    Ok(())
}

fn measure(workspace: &Workspace) -> Result<PathBuf> {
    workspace.build_bench()?;
    // What `bench sam` measures: no other use of the benchmarks waits for it to be built.
    succeed(&mut workspace.cargo(&["build", "--release", "--quiet", "--package", "genome"]))?;
    let dir = workspace.target().join("results");
    let mut command = std::process::Command::new(workspace.spacejmp());
    succeed(command.args(["bench", "all", "--out"]).arg(&dir))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(text: &str) -> Result<String> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("results.json");
        fs::write(&path, text).expect("write the file");
        kind(&path)
    }

    #[test]
    fn the_figures_on_the_page_about_when_to_use_it_are_the_recorded_ones() {
        let [page, recorded] =
            [include_str!("../../docs/src/when.md"), include_str!("../../docs/src/results.md")];
        let cells =
            |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let rows = page.lines().filter(|line| line.starts_with("| `") && line.contains("_over_"));
        let rows: Vec<_> = rows.map(cells).collect();
        assert!(rows.len() >= 8, "{rows:?}");
        for row in rows {
            let (name, value) = (&row[1], &row[2]);
            let there = recorded.lines().map(cells).find(|line| line.get(1) == Some(name));
            let there = there.unwrap_or_else(|| panic!("no {name} in results.md"));
            assert_eq!(there.get(2), Some(value), "{name}");
        }
    }

    #[test]
    fn the_kind_of_host_comes_from_the_run_and_is_a_word() {
        let run = |kind: &str| format!(r#"{{"host":{{"translation":{{"kind":{kind}}}}}}}"#);
        assert_eq!(kind_of(&run(r#""ept""#)).expect("a kind"), "ept");
        for bad in [run("null"), run(r#""../x""#), run(r#""""#), "{}".into(), "x".into()] {
            assert!(kind_of(&bad).is_err(), "{bad}");
        }
    }
}
