//! The book's page on the first hour: its files are written and its commands are run, in their order, and print what it says;
//! without network, using what building this workspace has downloaded, but for the part on Python, which needs `pip`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{kvm, pace, skip_without_kvm};

const PAGE: &str = include_str!("../../docs/src/first-hour.md");

/// One thing that the page has its reader do.
enum Step {
    /// To go to another directory.
    Go(&'static str),
    /// To run a command, which prints these lines.
    Run(&'static str, Vec<&'static str>),
    /// To write a file.
    Write(&'static str, &'static str),
}

/// Where its part on Python begins, which is the last.
const PYTHON: &str = "\n## The same in Python\n";

fn steps(of: &'static str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = of;
    while let Some((before, block)) = rest.split_once("```") {
        let (block, after) = block.split_once("\n```").expect("a block ends");
        let (kind, text) = block.split_once('\n').expect("it has lines");
        rest = after;
        if kind != "console" {
            // "... `src/main.rs`:", and then the block.
            let name = before.trim_end().strip_suffix("`:").and_then(|it| it.rsplit('`').next());
            steps.push(Step::Write(name.expect("a file has a name"), text));
            continue;
        }
        for line in text.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(match command.strip_prefix("cd ") {
                    Some(folder) => Step::Go(folder),
                    None => Step::Run(command, Vec::new()),
                }),
                (None, Some(Step::Run(_, expected))) => expected.push(line),
                (None, _) => panic!("a command comes first: {line}"),
            }
        }
    }
    steps
}

/// Where the reader is, and with what.
struct Reader {
    folder: PathBuf,
    env: Vec<(&'static str, OsString)>,
}

impl Reader {
    fn run(&self, command: &str) -> Output {
        let limit = pace::limit(Duration::from_secs(300)).as_secs().to_string();
        let mut shell = Command::new("timeout");
        shell.args(["-s", "KILL", &limit, "sh", "-c", command]).current_dir(&self.folder);
        // Without the settings of the tests' own build.
        let cargos = |key: &str| {
            key.starts_with("CARGO_PKG_") || ["CARGO_BUILD_TARGET", "RUSTFLAGS"].contains(&key)
        };
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_str().is_some_and(cargos)) {
            shell.env_remove(key);
        }
        shell.env_remove("SPACEJMP_LOG").envs(self.env.iter().cloned());
        shell.output().expect("a shell starts")
    }

    /// Does what the page says next. Projects of cargo's have `target` in common.
    fn take(&mut self, step: &Step, target: &Path) {
        match step {
            Step::Go(folder) => {
                self.folder = self.folder.join(folder).canonicalize().expect("it is there");
                let (own, is_cargos) =
                    (self.folder.join("target"), self.folder.join("Cargo.toml").exists());
                if is_cargos && !own.exists() {
                    std::os::unix::fs::symlink(target, own).expect("a link");
                }
            }
            Step::Write(name, text) => {
                fs::write(self.folder.join(name), text).expect("it is written");
            }
            Step::Run(command, expected) => {
                let output = self.run(command);
                let (out, err) = (&output.stdout, &output.stderr);
                let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
                assert!(output.status.success(), "{command}: {}\n{out}{err}", output.status);
                // What the page does not show is of no interest there.
                if !expected.is_empty() {
                    assert_eq!(out.lines().collect::<Vec<_>>(), *expected, "{command}\n{err}");
                }
            }
        }
    }

    /// Why the package for Python cannot be built here, if so: there is no Python that is new enough and has `venv`, or
    /// nowhere to get maturin from.
    fn lacks_python(&self) -> Option<String> {
        let fetch = "python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
                     && python3 -m venv probe \
                     && probe/bin/pip download --quiet --no-deps --dest probe 'maturin>=1.7,<2'";
        let output = self.run(fetch);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().last().unwrap_or("python3 is older than 3.11 or missing");
        (!output.status.success()).then(|| last.to_owned())
    }
}

#[test]
fn what_the_page_on_the_first_hour_says_can_be_done_as_it_says() {
    if !guests::has_cxx() {
        eprintln!("skipped: there is no C++ compiler here");
        return;
    }
    skip_without_kvm!();
    // Builds the C library, which C++ is linked with, in the profile of the other tests.
    guests::c_linked("figure4");
    let spacejmp = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
    let programs = spacejmp.parent().expect("cargo's folder").as_os_str().to_owned();
    let mut path = programs.clone();
    path.push(":");
    path.push(std::env::var_os("PATH").expect("there is one"));
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in the workspace");
    let place = tempfile::tempdir().expect("a folder");
    let mut make = OsString::from("LIB=");
    make.push(&programs);
    let mut reader = Reader {
        folder: place.path().to_owned(),
        env: vec![
            ("PATH", path),
            ("SDK", checkout.into()),
            ("SPACEJMP_STORE", place.path().join("store").into()),
            ("CARGO_NET_OFFLINE", "true".into()),
            ("MAKEFLAGS", make),
        ],
    };
    // Stays between runs, so that what the project depends on is built once: the tests of `spacejmp new` have it, too.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-rust/target");
    fs::create_dir_all(&target).expect("cargo has made the folder around it");
    let (first, python) = PAGE.split_once(PYTHON).expect("the page has a part on Python");
    let (first, python) = (steps(first), steps(python));
    assert!(first.len() > 30 && python.len() > 5, "the page has lost its commands");
    first.iter().for_each(|step| reader.take(step, &target));

    reader.folder = place.path().join("python");
    fs::create_dir(&reader.folder).expect("a folder");
    if let Some(reason) = reader.lacks_python() {
        kvm::other_kind_of_host("the first hour in Python", &reason);
        return;
    }
    // As `pip` builds it, but not optimised, into a folder that stays.
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("first-hour-python");
    reader.env.extend([
        ("CARGO_NET_OFFLINE", "false".into()),
        ("CARGO_TARGET_DIR", built.into()),
        ("MATURIN_PEP517_ARGS", "--profile dev".into()),
    ]);
    python.iter().for_each(|step| reader.take(step, &target));
}
