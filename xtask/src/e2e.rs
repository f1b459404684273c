//! The end-to-end tests, packed for machines that have neither cargo nor a C compiler: test
//! programs, the guests they run and the scripts that run them. Which of them a machine runs
//! is in `suites`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::check::TOGETHER;
use crate::machine::Addition;
use crate::workspace::{Workspace, output_of};

/// Where a machine has the script that runs tests.
const SCRIPT: &str = "/work/e2e";
/// The name under which the script knows the commands of the release build.
const COMMANDS: &str = "commands";
/// For tests in machines (`tests::pace`): everything is slower, so limits are longer, and
/// there are fewer repetitions.
const PACE: [&str; 2] = ["SPACEJMP_TEST_SLOWDOWN=20", "SPACEJMP_TEST_FEWER=40"];

/// Everything built and stripped; each machine gets the part that it runs.
pub(crate) struct Kit {
    folder: PathBuf,
    programs: BTreeMap<String, PathBuf>,
}

impl Kit {
    /// Builds the test programs in the folders `tests`, `vmm` and `vmm/host`, and the guests.
    ///
    /// # Errors
    /// When something does not build.
    pub(crate) fn build(workspace: &Workspace) -> Result<Self> {
        // The same packages as in the job `test`, whose build is reused: with fewer
        // packages, dependencies would have other features, and be built again.
        let built = built(workspace, &[&["test", "--no-run"], &TOGETHER[..]].concat())?;
        let prebuild = prebuild(&built)?;
        // None of the command's own tests: they make no VM, nor do those of files and store.
        let programs = built.into_iter().filter(|built| {
            built.is_test() && matches!(built.package.as_str(), "tests" | "vmm" | "host")
        });
        Self::pack(workspace, programs, Some(&prebuild))
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
        let arguments = [&["test", "--no-run", "--package", package], target].concat();
        let programs = built(workspace, &arguments)?.into_iter().filter(Built::is_test);
        let arguments = ["build", "--package", "tests", "--bin", "prebuild"];
        let prebuild = guests
            .then(|| built(workspace, &arguments).and_then(|built| prebuild(&built)))
            .transpose()?;
        Self::pack(workspace, programs, prebuild.as_deref())
    }

    fn pack(
        workspace: &Workspace,
        programs: impl Iterator<Item = Built>,
        prebuild: Option<&Path>,
    ) -> Result<Self> {
        let folder = workspace.target().join("machines/e2e");
        // Nothing built from an earlier state of the source may run.
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        for part in ["tests", "guests"] {
            let part = folder.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("cannot create {}", part.display()))?;
        }
        let mut stripped = BTreeMap::new();
        for Built { name, path, .. } in programs {
            let copy = folder.join("tests").join(&name);
            strip(&path, &copy)?;
            let former = stripped.insert(name.clone(), copy);
            ensure!(former.is_none(), "there are two test programs with the name {name}");
        }
        ensure!(!stripped.is_empty(), "cargo names no test programs");
        if let Some(prebuild) = prebuild {
            let mut prebuild = Command::new(prebuild);
            prebuild.current_dir(workspace.root()).arg(folder.join("guests"));
            for program in output_of(&mut prebuild)?.lines() {
                strip(Path::new(program), Path::new(program))?;
            }
        }
        Ok(Self { folder, programs: stripped })
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

/// A program that cargo has built.
#[derive(Debug, PartialEq)]
struct Built {
    /// The folder of its package.
    package: String,
    name: String,
    path: PathBuf,
    kind: BuiltKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BuiltKind {
    /// The kind of target.
    Program,
    /// An integration test, or `vmm`'s library: tests for machines.
    Tests,
    /// The tests inside a program, which has the same name as the program itself, and comes
    /// before or after it, depending on which build ends first.
    OwnTests,
}

impl Built {
    fn is_test(&self) -> bool {
        self.kind == BuiltKind::Tests
    }
}

/// What cargo builds, or has built, for `arguments`.
fn built(workspace: &Workspace, arguments: &[&str]) -> Result<Vec<Built>> {
    let mut cargo = workspace.cargo(arguments);
    cargo.args(["--quiet", "--message-format=json-render-diagnostics"]);
    Ok(output_of(&mut cargo)?.lines().filter_map(program_in).collect())
}

/// The program that one of cargo's messages reports.
fn program_in(message: &str) -> Option<Built> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let manifest = Path::new(message.get("manifest_path")?.as_str()?);
    let target = message.get("target")?;
    let name = target.get("name")?.as_str()?;
    let kinds = target.get("kind")?.as_array()?;
    let is = |kind: &str| kinds.iter().any(|k| k == kind);
    let kind = if !message.get("profile")?.get("test")?.as_bool()? {
        BuiltKind::Program
    // The package `tests` has a library, too, and no test in it.
    } else if is("test") || is("lib") && matches!(name, "vmm" | "spacejmp_host") {
        BuiltKind::Tests
    } else {
        BuiltKind::OwnTests
    };
    let package = manifest.parent()?.file_name()?.to_str()?.to_owned();
    Some(Built { package, name: name.to_owned(), path: path.into(), kind })
}

/// The program that builds guests (`tests/src/bin/prebuild.rs`). Cargo builds it for the tests of
/// its package.
fn prebuild(built: &[Built]) -> Result<PathBuf> {
    let is_it = |built: &&Built| {
        built.kind == BuiltKind::Program && built.package == "tests" && built.name == "prebuild"
    };
    let found = built.iter().find(is_it);
    Ok(found.context("cargo has not built tests/src/bin/prebuild.rs")?.path.clone())
}

/// Copies a program without debug information: a machine's files are in its memory.
fn strip(from: &Path, to: &Path) -> Result<()> {
    output_of(Command::new("objcopy").arg("--strip-debug").arg(from).arg(to)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_about_programs_name_them_and_say_whether_they_are_tests() {
        let message = |kind: &str, name: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/vmm/Cargo.toml",
                    "target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},
                    "executable":{executable}}}"#
            )
        };
        let stop = message("test", "stop", true, r#""/t/stop-1""#);
        let found = program_in(&stop).expect("a program");
        let expected = Built {
            package: "vmm".into(),
            name: "stop".into(),
            path: "/t/stop-1".into(),
            kind: BuiltKind::Tests,
        };
        assert_eq!(found, expected);
        assert_eq!(program_in(&message("test", "stop", true, "null")), None);
        let kind = |kind, name, test| {
            program_in(&message(kind, name, test, r#""/t/x""#)).expect("a program").kind
        };
        assert_eq!(kind("lib", "vmm", true), BuiltKind::Tests);
        assert_eq!(kind("lib", "spacejmp_host", true), BuiltKind::Tests);
        assert_eq!(kind("lib", "tests", true), BuiltKind::OwnTests);
        assert_eq!(kind("bin", "spacejmp", true), BuiltKind::OwnTests);
        assert_eq!(kind("bin", "spacejmp", false), BuiltKind::Program);
        assert_eq!(program_in("not JSON"), None);
    }

    #[test]
    fn guests_are_built_by_the_program_of_that_name() {
        let of = |package: &str, kind| Built {
            package: package.into(),
            name: "prebuild".into(),
            path: format!("/t/{package}-{kind:?}").into(),
            kind,
        };
        let other = || of("vmm", BuiltKind::Program);
        let own_tests = || of("tests", BuiltKind::OwnTests);
        let expected = Path::new("/t/tests-Program");
        // Cargo reports them as they are finished, in either order.
        let built = [other(), own_tests(), of("tests", BuiltKind::Program)];
        assert_eq!(prebuild(&built).expect("there"), expected);
        let built = [of("tests", BuiltKind::Program), own_tests()];
        assert_eq!(prebuild(&built).expect("there"), expected);
        assert!(prebuild(&[other(), own_tests()]).is_err());
    }

    #[test]
    fn a_selection_begins_with_its_program() {
        assert_eq!(program_of("vas:persistence::,users::"), "vas");
        assert_eq!(program_of("stop"), "stop");
    }
}
