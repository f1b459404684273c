//! The end-to-end tests, packed for machines that have neither cargo nor a C compiler: test
//! programs, the guests they run and the script that runs them. Which of them a machine runs
//! is in `suites`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::machine::Addition;
use crate::workspace::{Workspace, output_of};

/// Where a machine has the script.
pub(crate) const SCRIPT: &str = "/work/e2e";

/// Builds everything and returns what a machine needs.
///
/// # Errors
/// When something does not build.
pub(crate) fn additions(workspace: &Workspace) -> Result<Vec<Addition>> {
    let folder = workspace.target().join("machines/e2e");
    // Nothing of an earlier state of the source may run.
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let (tests, guests) = (folder.join("tests"), folder.join("guests"));
    fs::create_dir_all(&tests).with_context(|| format!("cannot create {}", tests.display()))?;
    for (name, program) in test_programs(workspace)? {
        strip(&program, &tests.join(name))?;
    }
    let mut prebuild =
        workspace.cargo(&["run", "--quiet", "--package", "tests", "--bin", "prebuild", "--"]);
    for program in output_of(prebuild.arg(&guests))?.lines() {
        strip(Path::new(program), Path::new(program))?;
    }
    let script = workspace.file("resources/machines/e2e");
    Ok(vec![
        Addition::new(tests, "/work/tests"),
        Addition::new(guests, "/work/guests"),
        Addition::new(script, SCRIPT),
    ])
}

/// Builds the test programs of the package `tests`: their names and where they are.
fn test_programs(workspace: &Workspace) -> Result<Vec<(String, PathBuf)>> {
    let messages = output_of(&mut workspace.cargo(&[
        "test",
        "--quiet",
        "--package",
        "tests",
        "--tests",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]))?;
    let programs: Vec<_> = messages.lines().filter_map(test_program).collect();
    ensure!(!programs.is_empty(), "cargo names no test programs");
    Ok(programs)
}

/// The test program one of cargo's messages tells of.
fn test_program(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let target = message.get("target")?;
    let is_test = target.get("kind")?.as_array()?.iter().any(|kind| kind == "test");
    is_test.then_some(())?;
    Some((target.get("name")?.as_str()?.to_owned(), path.into()))
}

/// Copies a program without what only debuggers want: a machine's files are in its memory.
fn strip(from: &Path, to: &Path) -> Result<()> {
    output_of(Command::new("objcopy").arg("--strip-debug").arg(from).arg(to)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_about_test_programs_name_one() {
        let message = |kind: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"stop"}},
                    "executable":{executable}}}"#
            )
        };
        let found = test_program(&message("test", r#""/t/stop-1""#)).expect("a test program");
        assert_eq!(found, ("stop".to_owned(), PathBuf::from("/t/stop-1")));
        assert_eq!(test_program(&message("test", "null")), None);
        assert_eq!(test_program(&message("bin", r#""/t/stop""#)), None);
        assert_eq!(test_program("not JSON"), None);
    }
}
