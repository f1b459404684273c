//! gdb's watchpoints: only what uses the watched pages costs something, nothing is missed, and the program notices
//! nothing. Needs /dev/kvm, a C compiler and the distribution's gdb.

use std::fs;

use serde_json::Value;
use tests::gdb::{Debuggee, has_gdb, path, says};
use tests::guests;
use tests::skip_without_kvm;

/// Runs the program under gdb, which is told `words` at its first breakpoint; returns what gdb says, how often the program left the
/// guest, and what it printed.
fn debugged(how: &str, words: &[&str]) -> (String, u64, String) {
    let program = guests::c("watched");
    let folder = tempfile::tempdir().expect("a folder");
    let stats = folder.path().join("stats");
    let options = ["--gdb", "--stats=json", "--stats-to", path(&stats)];
    let debuggee = Debuggee::start(&options, &program, &[how]);
    let first = ["break begins", "continue", "delete"];
    let said = debuggee.debug(&program, &[&first, words].concat());
    let (status, printed, told) = debuggee.run.end();
    assert_eq!(status.code(), Some(7), "{printed}{told}\n{said}");
    let stats: Value =
        serde_json::from_str(&fs::read_to_string(&stats).expect("statistics")).expect("JSON");
    let exits = stats["exits"].as_array().expect("a list").iter();
    (said, exits.filter_map(|exit| exit["count"].as_u64()).sum(), printed)
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
    assert_eq!(printed, "as natively");
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
    assert_eq!(printed, "as natively");
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
        assert_eq!(printed, "as natively");
        assert!(exits < 2 * FEW, "{exits}");
    }
    let words =
        ["watch page.watched", "handle SIGSEGV nostop noprint pass", "continue", "continue"];
    let (said, ..) = debugged("hidden", &[words.as_slice(), &["delete", "continue"]].concat());
    // What the pipe and the child have written came without a stop, and the write that may not be made, too.
    says(&said, &["New value = 1\n", "New value = 3\n", "exited with code 07"]);
}
