//! gdb's watchpoints by pages: only what uses the watched pages costs something, nothing is missed, and the program notices
//! nothing. Needs /dev/kvm, a C compiler and the distribution's gdb.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::guests::{self, Profile};
use tests::{kvm, pace, skip_without_kvm};

/// Whether there is a gdb; that there is none is reported.
fn has_gdb(test: &str) -> bool {
    let version = Command::new("gdb").arg("--version").stdout(Stdio::null()).status();
    let is_there = version.is_ok_and(|status| status.success());
    if !is_there {
        kvm::skip(test, "there is no gdb");
    }
    is_there
}

/// Runs the program under gdb, which is told `words` at its first breakpoint; returns what gdb says, how often the program left the
/// guest, and what it printed.
fn debugged(how: &str, words: &[&str]) -> (String, u64, String) {
    let program = guests::c("watched");
    let folder = tempfile::tempdir().expect("a folder");
    let stats = folder.path().join("stats");
    let limit = pace::limit(Duration::from_secs(200)).as_secs().to_string();
    let mut run = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    run.env_remove("SPACEJMP_LOG").args(["run", "--no-store", "--timeout", &limit, "--gdb"]);
    run.args(["--stats=json", "--stats-to"]).arg(&stats).arg(&program).arg(how);
    run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut vmm = run.spawn().expect("it starts");
    let mut told = BufReader::new(vmm.stderr.take().expect("a pipe"));
    let mut line = String::new();
    told.read_line(&mut line).expect("it says where it waits");
    let at = line.trim_end().strip_prefix("spacejmp: waiting for gdb: target remote ");
    let said = gdb(&program, at.unwrap_or_else(|| panic!("{line}")), words);
    let mut rest = String::new();
    told.read_to_string(&mut rest).expect("text");
    let mut printed = String::new();
    vmm.stdout.take().expect("a pipe").read_to_string(&mut printed).expect("text");
    let status = vmm.wait().expect("it can be waited for");
    assert_eq!(status.code(), Some(7), "{printed}{rest}\n{said}");
    let stats: Value =
        serde_json::from_str(&fs::read_to_string(&stats).expect("statistics")).expect("JSON");
    let exits = stats["exits"].as_array().expect("a list").iter();
    (said, exits.filter_map(|exit| exit["count"].as_u64()).sum(), printed)
}

fn gdb(program: &Path, at: &str, words: &[&str]) -> String {
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]);
    let at = format!("target remote {at}");
    let first = ["set confirm off", "set width 0", &at, "break begins", "continue", "delete"];
    for word in first.iter().chain(words) {
        command.args(["-ex", word]);
    }
    let output = command.arg(program).stdin(Stdio::null()).output().expect("gdb starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    println!("{said}");
    said
}

#[track_caller]
fn says(said: &str, parts: &[&str]) {
    let mut rest = said;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("no {part:?} where it belongs in:\n{said}");
        };
        rest = after;
    }
}

/// Exits of a run in which nothing is watched are some hundreds; steps would take a hundred million.
const FEW: u64 = 20_000;

#[test]
fn ten_million_instructions_between_two_accesses_cost_nothing() {
    skip_without_kvm!();
    if !has_gdb("ten_million_instructions_between_two_accesses_cost_nothing") {
        return;
    }
    let hit = "Hardware watchpoint 2: page.watched";
    let words = ["watch page.watched", "continue", "continue", "delete", "continue"];
    let (said, exits, printed) = debugged("far", &words);
    let values = ["Old value = 0", "New value = 10", hit, "Old value = 10", "New value = 20"];
    says(&said, &[&[hit, hit], values.as_slice(), &["exited with code 07"]].concat());
    assert_eq!(printed, "as natively\n");
    assert!(exits < FEW, "{exits}");

    let words = [
        "rwatch page.watched",
        "continue",
        "delete",
        "awatch page.watched",
        "continue",
        "continue",
        "delete",
        // Beside it, to the end.
        "watch page.rest",
        "continue",
    ];
    let (said, exits, _) = debugged("far", &words);
    let read = ["Hardware read watchpoint 2", "Value = 10"];
    let both = ["Hardware access (read/write) watchpoint 3", "New value = 20", "Value = 20"];
    says(&said, &[read.as_slice(), &both, &["exited with code 07"]].concat());
    assert!(exits < FEW, "{exits}");
}

#[test]
fn each_access_of_several_threads_is_seen_and_nothing_else_is_told() {
    skip_without_kvm!();
    if !has_gdb("each_access_of_several_threads_is_seen_and_nothing_else_is_told") {
        return;
    }
    let words = ["watch page.watched", "continue", "continue", "continue", "delete", "continue"];
    let (said, exits, printed) = debugged("threads", &words);
    let values = ["New value = 1", "New value = 2", "New value = 3", "exited with code 07"];
    says(&said, &values);
    assert_eq!(said.matches("hit Hardware watchpoint 2").count(), 3, "{said}");
    assert_eq!(printed, "as natively\n");
    assert!(exits < FEW, "{exits}");
}

#[test]
fn a_program_that_is_watched_does_not_notice() {
    skip_without_kvm!();
    if !has_gdb("a_program_that_is_watched_does_not_notice") {
        return;
    }
    // With a value that it never has, so that all accesses are looked at and none stops it.
    for watch in ["watch", "awatch"] {
        let watch = format!("{watch} page.watched if page.watched == 12345");
        let pass = "handle SIGSEGV nostop noprint pass";
        let (said, exits, printed) = debugged("hidden", &[&watch, pass, "continue"]);
        says(&said, &["exited with code 07"]);
        assert_eq!(printed, "as natively\n");
        assert!(exits < 2 * FEW, "{exits}");
    }
    let words =
        ["watch page.watched", "handle SIGSEGV nostop noprint pass", "continue", "continue"];
    let (said, ..) = debugged("hidden", &[words.as_slice(), &["delete", "continue"]].concat());
    // What the pipe and the child have written came without a stop, and the write that may not be made, too.
    says(&said, &["New value = 1\n", "New value = 3\n", "exited with code 07"]);
}
