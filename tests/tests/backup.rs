//! The book's page on backup and recovery: its commands are run, in their order, and print what it says.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

const PAGE: &str = include_str!("../../docs/src/backup.md");

/// A command of the page, and the lines after it, which it prints.
struct Step {
    command: &'static str,
    expected: Vec<&'static str>,
}

fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in PAGE.split("```console\n").skip(1) {
        let (block, _) = block.split_once("```").expect("a block ends");
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command, expected: Vec::new() }),
                None => steps.last_mut().expect("a command comes first").expected.push(line),
            }
        }
    }
    steps
}

fn run(folder: &Path, path: &std::ffi::OsStr, command: &str) -> Output {
    let limit = pace::limit(Duration::from_secs(120)).as_secs().to_string();
    let mut shell = Command::new("timeout");
    shell.args(["-s", "KILL", &limit, "sh", "-c", command]).current_dir(folder);
    shell.env("PATH", path).env("SPACEJMP_STORE", folder.join("store"));
    shell.env_remove("SPACEJMP_LOG").output().expect("a shell starts")
}

#[test]
fn what_the_page_on_backup_and_recovery_says_can_be_done_as_it_says() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let spacejmp = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
    let mut path = spacejmp.parent().expect("cargo's folder").as_os_str().to_owned();
    path.push(":/usr/bin:/bin");
    guests::copy_program(guests::program("kv", "kv", Profile::Dev), folder.path().join("kv"));
    let steps = steps();
    assert!(steps.len() > 20, "the page has lost its commands");
    for Step { command, expected } in &steps {
        let output = run(folder.path(), &path, command);
        let (out, err) = (&output.stdout, &output.stderr);
        let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
        assert!(output.status.success(), "{command}: {}\n{out}{err}", output.status);
        // What the page does not show is of no interest there.
        if !expected.is_empty() {
            assert_eq!(out.lines().collect::<Vec<_>>(), *expected, "{command}\n{err}");
        }
    }
    // Each kind of loss that the page speaks of was tried.
    for what in ["vas rollback", "vas import", "rm -r \"$SPACEJMP_STORE\"", "cp -a", "store check"]
    {
        assert!(steps.iter().any(|step| step.command.contains(what)), "{what}");
    }
}
