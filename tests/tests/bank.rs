//! The example `bank`: its commands, and its script, which kills it again and again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tests::guests::{Profile, program};
use tests::vm::Run;
use tests::{pace, skip_without_kvm};

const SCRIPT: &str = include_str!("../../examples/bank/killed.sh");

fn bank() -> Run {
    Run::new(program("bank", "bank", Profile::Dev))
}

/// What the script says, with `spacejmp` as its command.
fn script(folder: &Path, spacejmp: &Path, kills: u32, within: Duration) -> Output {
    let script = folder.join("killed.sh");
    fs::write(&script, SCRIPT).expect("the script is written");
    let programs = program("bank", "bank", Profile::Dev);
    let mut command = Command::new("sh");
    command.arg(script).env("TMPDIR", folder).env("SPACEJMP", spacejmp);
    command.env("BIN", programs.parent().expect("a folder"));
    command.env("KILLS", kills.to_string()).env("WITHIN", within.as_millis().to_string());
    command.output().expect("there is a shell")
}

/// The same with something else instead of `spacejmp`, whose sums are made by `sum`.
fn script_with_sum(sum: &str) -> Output {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let false_one = folder.path().join("spacejmp");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in\n*' move '*) exec sleep 100 ;;\n*' sum'*) {sum} ;;\nesac\n"
    );
    fs::write(&false_one, text).expect("the command is written");
    fs::set_permissions(&false_one, fs::Permissions::from_mode(0o755)).expect("it is ours");
    script(folder.path(), &false_one, 2, Duration::from_millis(100))
}

#[test]
fn every_command_does_what_it_says() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let run = |args: &[&str]| bank().args(args).store(folder.path().join("store")).in_vm();
    run(&["open", "3", "100"]).expect(0, "");
    run(&["show"]).expect(0, "0: 100\n1: 100\n2: 100\n");
    run(&["move", "20"]).expect(0, "");
    run(&["move", "5", "7", "--vas", "bank"]).expect(0, "");
    run(&["sum", "4"]).expect(0, "sum 300 in 4 visits, versions seen: 1, from 25 to 25\n");
    assert_ne!(run(&["show"]).out(), "0: 100\n1: 100\n2: 100\n");
    let again = run(&["open", "3", "100"]);
    again.expect(1, "");
    assert!(again.err().contains("EEXIST"), "{again:?}");
    run(&["open", "2", "5", "--vas", "other"]).expect(0, "");
    run(&["sum", "--vas", "other"])
        .expect(0, "sum 10 in 1 visits, versions seen: 1, from 0 to 0\n");
    run(&["open", "1", "5", "--vas", "third"]).expect(1, "");
    run(&["sum", "--vas", "third"]).expect(1, "");
}

#[test]
fn killed_at_random_moments_it_never_has_a_wrong_sum() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let spacejmp = program("spacejmp-cli", "spacejmp", Profile::Dev);
    // Not one alone, which may come before the first move.
    let kills = pace::times(6).max(4);
    let ended = script(folder.path(), &spacejmp, kills, pace::limit(Duration::from_secs(2)));
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    let said = String::from_utf8(ended.stdout).expect("text");
    // `KILLS kills, MOVES moves, SUMS sums in VERSIONS versions: 0 wrong`
    let last = said.lines().last().expect("lines");
    let numbers: Vec<u32> =
        last.split(|c: char| !c.is_ascii_digit()).flat_map(str::parse).collect();
    let [killed, moves, sums, versions, wrong] = numbers[..] else { panic!("{said}") };
    assert_eq!((killed, wrong), (kills, 0), "{said}");
    assert!(moves > 0 && sums > 1 && versions > 1, "{said}");
    let left: Vec<_> = fs::read_dir(folder.path()).expect("a folder").flatten().collect();
    assert!(matches!(&left[..], [script] if script.file_name() == "killed.sh"), "{left:?}");
}

#[test]
fn the_script_notices_a_wrong_sum_and_a_reader_that_fails() {
    let right = "echo 'sum 100000 in 1 visits, versions seen: 1, from 0 to 0'";
    let ended = script_with_sum(right);
    assert!(ended.status.success(), "{ended:?}");
    for sum in [right.replace("100000", "99999"), format!("{right}; echo torn >&2; exit 1")] {
        let ended = script_with_sum(&sum);
        assert_eq!(ended.status.code(), Some(1), "{sum}: {ended:?}");
    }
}
