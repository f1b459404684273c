//! The end-to-end tests, packed for machines that have neither cargo nor a C compiler: test
//! programs, the guests they run and the scripts that run them. Which of them a machine runs
//! is in `suites`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::machine::Addition;
use crate::workspace::{Workspace, output_of};

/// Where a machine has the script that runs tests.
const SCRIPT: &str = "/work/e2e";
/// The name under which the script knows the commands of the release build.
const COMMANDS: &str = "commands";
/// For tests in machines (`tests::pace`): everything is slower, so limits are longer, and
/// what is done many times is done less often.
const PACE: [&str; 2] = ["SPACEJMP_TEST_SLOWDOWN=20", "SPACEJMP_TEST_FEWER=40"];

/// Everything built and stripped; machines get what they run of it.
pub(crate) struct Kit {
    folder: PathBuf,
    programs: BTreeMap<String, PathBuf>,
}

impl Kit {
    /// Builds the test programs of the packages `tests` and `vmm`, and the guests.
    ///
    /// # Errors
    /// When something does not build.
    pub(crate) fn build(workspace: &Workspace) -> Result<Self> {
        let mut programs = test_programs(workspace, &["--package", "tests", "--tests"])?;
        // The library's own tests are in it; the command's are not, since they make no VM.
        let vmm = ["--package", "vmm", "--lib", "--test", "*"];
        programs.extend(test_programs(workspace, &vmm)?);
        Self::pack(workspace, programs, true)
    }

    /// Builds one test program, `lib` for the package's library, and the guests if wanted.
    ///
    /// # Errors
    /// As [`Kit::build`].
    pub(crate) fn of_one(
        workspace: &Workspace,
        package: &str,
        program: &str,
        guests: bool,
    ) -> Result<Self> {
        let target: &[&str] = if program == "lib" { &["--lib"] } else { &["--test", program] };
        let arguments = [&["--package", package], target].concat();
        Self::pack(workspace, test_programs(workspace, &arguments)?, guests)
    }

    fn pack(workspace: &Workspace, built: Vec<(String, PathBuf)>, guests: bool) -> Result<Self> {
        let folder = workspace.target().join("machines/e2e");
        // Nothing of an earlier state of the source may run.
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        for part in ["tests", "guests"] {
            let part = folder.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("cannot create {}", part.display()))?;
        }
        let mut programs = BTreeMap::new();
        for (name, program) in built {
            let stripped = folder.join("tests").join(&name);
            strip(&program, &stripped)?;
            let former = programs.insert(name.clone(), stripped);
            ensure!(former.is_none(), "there are two test programs with the name {name}");
        }
        if guests {
            let arguments = ["run", "--quiet", "--package", "tests", "--bin", "prebuild", "--"];
            let mut prebuild = workspace.cargo(&arguments);
            for program in output_of(prebuild.arg(folder.join("guests")))?.lines() {
                strip(Path::new(program), Path::new(program))?;
            }
        }
        Ok(Self { folder, programs })
    }

    /// The names of all test programs.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &str> {
        self.programs.keys().map(String::as_str)
    }

    /// What a machine needs to run `selections`, each NAME[:FILTER...].
    ///
    /// # Errors
    /// When there is no test program of a name.
    pub(crate) fn additions(
        &self,
        workspace: &Workspace,
        selections: &[String],
    ) -> Result<Vec<Addition>> {
        let file = |name: &str| workspace.file(&format!("resources/machines/{name}"));
        let mut additions = vec![
            Addition::new(self.folder.join("guests"), "/work/guests"),
            Addition::new(file("e2e"), SCRIPT),
            Addition::new(file(COMMANDS), format!("/work/{COMMANDS}")),
        ];
        for name in selections.iter().map(|selection| program_of(selection)) {
            if name != COMMANDS {
                let path = self.programs.get(name);
                let path = path.with_context(|| format!("there is no test program {name}"))?;
                additions.push(Addition::new(path, format!("/work/tests/{name}")));
            }
        }
        Ok(additions)
    }
}

/// The test program that a selection, or the name of one test in it, begins with.
pub(crate) fn program_of(selection: &str) -> &str {
    selection.split_once(':').map_or(selection, |(program, _)| program)
}

/// What a machine runs for `selections`, without the tests `left_out`, each PROGRAM:TEST.
pub(crate) fn command(selections: &[String], left_out: &[&str]) -> Vec<String> {
    let mut command = vec!["env".to_owned(), format!("E2E_SKIP={}", left_out.join(" "))];
    command.extend(PACE.map(str::to_owned));
    command.extend(["sh", SCRIPT].map(str::to_owned));
    command.extend_from_slice(selections);
    command
}

/// Builds the test programs cargo takes `arguments` for: their names and where they are.
fn test_programs(workspace: &Workspace, arguments: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = workspace.cargo(&["test", "--quiet", "--no-run"]);
    cargo.arg("--message-format=json-render-diagnostics").args(arguments);
    let messages = output_of(&mut cargo)?;
    let programs: Vec<_> = messages.lines().filter_map(test_program).collect();
    ensure!(!programs.is_empty(), "cargo names no test programs for {}", arguments.join(" "));
    Ok(programs)
}

/// The test program one of cargo's messages tells of.
fn test_program(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let target = message.get("target")?;
    let name = target.get("name")?.as_str()?;
    let is = |kind: &str| {
        target
            .get("kind")
            .and_then(|kinds| kinds.as_array())
            .is_some_and(|k| k.iter().any(|k| k == kind))
    };
    // The package `tests` has a library, too, and no test in it.
    (is("test") || is("lib") && name == "vmm").then(|| (name.to_owned(), path.into()))
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
        assert_eq!(test_program(&message("lib", r#""/t/stop""#)), None);
        assert_eq!(test_program("not JSON"), None);
    }

    #[test]
    fn a_selection_begins_with_its_program() {
        assert_eq!(program_of("vas:persistence::,users::"), "vas");
        assert_eq!(program_of("stop"), "stop");
    }
}
