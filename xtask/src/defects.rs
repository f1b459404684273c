//! `cargo xtask defects`: plants the defects of `resources/defects`, one at a time, in a copy
//! of the last commit, and requires that the test each one names fails in the way it says.
//! A test that passes with a defect guards nothing. docs/src/internals/planted-defects.md lists
//! the defects.
//!
//! A defect is a patch after a few lines `Field: value`, which git-apply(1) skips.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum as _;

use crate::copy::{Checkout, commit_id, git};
use crate::e2e::{self, Kit};
use crate::machine::{Kind, Machine, Memory, Outcome};
use crate::workspace::{Workspace, output_of, read};

/// Time for a machine that runs one test: far more than any needs.
const TIMEOUT: Duration = Duration::from_secs(600);

/// One defect.
#[derive(Debug, PartialEq, Eq)]
struct Defect {
    name: String,
    patch: PathBuf,
    /// What is wrong, in a sentence.
    what: String,
    package: String,
    /// The test program, `lib` for the library's own.
    program: String,
    test: String,
    /// Whether the test runs guests.
    guests: bool,
    /// The emulated machine that shows it; this computer if `None`.
    machine: Option<Kind>,
    /// Part of what the failing test prints.
    says: String,
}

/// Plants the defects `named`, or all. Returns whether all were caught; prints by what.
///
/// # Errors
/// When there is no such defect, a patch does not apply or the copy does not build: a test
/// that does not run has caught nothing.
pub(crate) fn run(workspace: &Workspace, named: &[String], list: bool) -> Result<bool> {
    let defects = select(workspace, named)?;
    if list {
        for defect in &defects {
            println!("{:<22} {}", defect.name, defect.what);
        }
        return Ok(true);
    }
    let copy = Checkout::named(workspace, "defects")?;
    copy.move_to(&commit_id(workspace, "HEAD")?)?;
    let mut missed = Vec::new();
    for defect in &defects {
        let begin = Instant::now();
        plant(&copy, defect)?;
        let verdict = defect.verdict(&defect.provoke(workspace, &copy.workspace)?);
        let host = defect.machine.map_or("this computer".to_owned(), |kind| kind.to_string());
        let (test, took) = (&defect.test, begin.elapsed().as_secs());
        match verdict {
            Ok(line) => println!(
                "{}: caught on {host} by {}::{test} in {took} s\n  {}\n  {line}",
                defect.name, defect.program, defect.what
            ),
            Err(error) => {
                println!("{}: NOT CAUGHT on {host} by {test}: {error:#}", defect.name);
                missed.push(defect.name.as_str());
            }
        }
    }
    println!("{} defects, {} not caught", defects.len(), missed.len());
    Ok(missed.is_empty())
}

fn select(workspace: &Workspace, named: &[String]) -> Result<Vec<Defect>> {
    let folder = workspace.file("resources/defects");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        all.push(Defect::parse(&path, &read(&path)?).with_context(|| path.display().to_string())?);
    }
    for name in named {
        if !all.iter().any(|defect| &defect.name == name) {
            let names: Vec<_> = all.iter().map(|defect| defect.name.as_str()).collect();
            bail!("there is no defect {name}; there are {}", names.join(", "));
        }
    }
    all.retain(|defect| named.is_empty() || named.contains(&defect.name));
    ensure!(!all.is_empty(), "{} holds no patch", folder.display());
    Ok(all)
}

/// Removes the previously planted defect, and plants this one.
fn plant(copy: &Checkout, defect: &Defect) -> Result<()> {
    let root = copy.workspace.root();
    output_of(&mut git(root, &["checkout", "--quiet", "--force", "HEAD", "--", "."]))?;
    output_of(git(root, &["apply", "--whitespace=nowarn"]).arg(&defect.patch)).map(drop)
}

impl Defect {
    fn parse(path: &Path, text: &str) -> Result<Self> {
        let head = text.split("\ndiff --git ").next().unwrap_or_default();
        let field = |name: &str| -> Option<String> {
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned);
            head.lines().find_map(value)
        };
        let must = |name: &str| field(name).with_context(|| format!("there is no line {name}:"));
        let machine = match must("Machine")?.as_str() {
            "native" => None,
            kind => Some(Kind::from_str(kind, false).map_err(anyhow::Error::msg)?),
        };
        let name = path.file_stem().and_then(|name| name.to_str()).context("an odd file name")?;
        Ok(Self {
            name: name.to_owned(),
            patch: path.to_owned(),
            what: must("Defect")?,
            package: must("Package")?,
            program: must("Program")?,
            test: must("Test")?,
            guests: field("Guests").is_some_and(|value| value == "yes"),
            machine,
            says: must("Says")?,
        })
    }

    /// What the defective copy's test prints.
    fn provoke(&self, workspace: &Workspace, copy: &Workspace) -> Result<String> {
        let Some(kind) = self.machine else { return self.provoke_here(copy) };
        let kit = Kit::of_one(copy, &self.package, &self.program, self.guests)?;
        let selection = [format!("{}:{}", self.program, self.test)];
        let machine = Machine {
            kind,
            cpus: 2,
            memory: Memory::LARGE,
            timeout: TIMEOUT,
            additions: kit.additions(workspace, &selection)?,
            append: String::new(),
            verbose: false,
        };
        let mut output = Vec::new();
        let outcome = machine.run(workspace, &e2e::command(&selection, &[]), &mut output)?;
        let output = String::from_utf8_lossy(&output).into_owned();
        ensure!(matches!(outcome, Outcome::Exited { .. }), "{outcome}\n{output}");
        Ok(output)
    }

    fn provoke_here(&self, copy: &Workspace) -> Result<String> {
        let target: &[&str] =
            if self.program == "lib" { &["--lib"] } else { &["--test", &self.program] };
        let arguments = [&["test", "--quiet", "--package", &self.package], target].concat();
        // First without running it: a failed build must not count as caught.
        output_of(copy.cargo(&arguments).arg("--no-run"))?;
        let mut test = copy.cargo(&arguments);
        test.args(["--", "--exact", "--format=pretty", &self.test]);
        test.env("SPACEJMP_REQUIRE_KVM", "1");
        let output = test.output().context("cannot start cargo")?;
        Ok([output.stdout, output.stderr]
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .concat())
    }

    /// The line of `output` that shows how the test has caught it.
    fn verdict(&self, output: &str) -> Result<String> {
        // The test failed, or ended the whole test program.
        let passed = format!("test {} ... ok", self.test);
        ensure!(!output.contains(&passed), "the test has passed:\n{output}");
        let line = output.lines().find(|line| line.contains(&self.says));
        let line = line
            .with_context(|| {
                format!("its output does not contain {:?}, but is\n{output}", self.says)
            })?
            .trim();
        Ok(line.chars().take(200).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Defect: wrong\nPackage: tests\nProgram: ring3\nTest: a::b\n\
                        Machine: intel\nSays: r9\n\ndiff --git a/x b/x\n+Machine: amd\n";

    fn defect() -> Defect {
        Defect::parse(Path::new("d/lost.patch"), TEXT).expect("it is whole")
    }

    #[test]
    fn a_patch_says_what_it_does_and_who_notices() {
        let defect = defect();
        assert_eq!((defect.name.as_str(), defect.machine), ("lost", Some(Kind::Intel)));
        assert!(!defect.guests);
        let error = Defect::parse(Path::new("x.patch"), "Defect: none\n").expect_err("too short");
        assert!(error.to_string().contains("Machine"), "{error}");
    }

    #[test]
    fn every_defect_can_still_be_planted() {
        let here = Workspace::here();
        for defect in select(&here, &[]).expect("the folder can be read") {
            let mut apply = git(here.root(), &["apply", "--check"]);
            let planted = output_of(apply.arg(&defect.patch));
            assert!(planted.is_ok(), "{}: {planted:?}", defect.name);
        }
    }

    #[test]
    fn only_the_named_test_failing_as_it_should_is_a_catch() {
        let defect = defect();
        let caught = defect.verdict("test a::b ... FAILED\nleft: r9 is 0\n").expect("caught");
        assert_eq!(caught, "left: r9 is 0");
        assert!(defect.verdict("test a::b ... ok\nr9\n").is_err());
        assert!(defect.verdict("test a::b ... FAILED\nno KVM\n").is_err());
    }
}
