//! The book's page on the first hour: its files are written and its commands are run, in their order, and print what it says;
//! without network, using what building this workspace has downloaded.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

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

fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = PAGE;
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
    let steps = steps();
    assert!(steps.len() > 30, "the page has lost its commands");
    for step in &steps {
        match step {
            Step::Go(folder) => {
                reader.folder = reader.folder.join(folder).canonicalize().expect("it is there");
                let (own, is_cargos) =
                    (reader.folder.join("target"), reader.folder.join("Cargo.toml").exists());
                if is_cargos && !own.exists() {
                    std::os::unix::fs::symlink(&target, own).expect("a link");
                }
            }
            Step::Write(name, text) => {
                fs::write(reader.folder.join(name), text).expect("it is written");
            }
            Step::Run(command, expected) => {
                let output = reader.run(command);
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
}
