//! One VM that goes in and out of an address space for very long: what it has at the host does not grow.

use std::fs;

use tests::skip_without_kvm;

use crate::world::{Talker, World, names};

const PROGRAM: &str = "vas_versions";
/// How much more memory of its own it may have in the end: its allocator, and what the host has not yet freed.
const MORE_KIB: u64 = 1024;

/// What a process has: files, mappings, threads, and memory of its own in KiB.
#[derive(Debug)]
struct Held {
    files: usize,
    mappings: usize,
    threads: usize,
    own_kib: u64,
}

fn held(pid: u32) -> Held {
    let folder = std::path::PathBuf::from(format!("/proc/{pid}"));
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("it lives");
    let memory = read("smaps_rollup");
    let own = memory.lines().filter(|line| line.starts_with("Private_Dirty:"));
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    Held {
        files: names(&folder.join("fd")).len(),
        mappings: read("maps").lines().count(),
        threads: names(&folder.join("task")).len(),
        own_kib: own.filter_map(kib).sum(),
    }
}

/// Ten times so many visits and calls, and a tenth as many commits; compares what is held after two tenths and in the end.
fn rounds(tenth: u64) {
    let world = World::new();
    world.good(PROGRAM, &["bank", "make"]);
    let command = world.command(PROGRAM, &["bank", "rounds", &tenth.to_string()]);
    let mut vm = Talker::start(command, "rounds");
    let mut early = None;
    for number in 1..=10 {
        assert_eq!(vm.ask(""), Ok(format!("rounds {}", number * tenth)));
        if number == 2 {
            early = Some(held(vm.pid()));
        }
    }
    let (early, late) = (early.expect("it was looked at"), held(vm.pid()));
    println!("after two tenths of {}: {early:?}; in the end: {late:?}", 10 * tenth);
    assert_eq!((late.files, late.threads), (early.files, early.threads));
    // Logs that are written anew are other mappings: some more or fewer at a moment.
    assert!(late.mappings <= early.mappings + 8, "{early:?}, {late:?}");
    assert!(late.own_kib <= early.own_kib + MORE_KIB, "{early:?}, {late:?}");
    vm.end().expect("it ends well");
    world.clean_after_gc();
}

#[test]
fn visits_calls_and_commits_by_the_thousand_leave_nothing_behind() {
    skip_without_kvm!();
    rounds(1_000);
}

#[test]
#[ignore = "a million switches, calls, and 100,000 commits: minutes where ring 0 is interpreted; a hundredth of it runs each time"]
fn a_million_visits_and_calls_leave_nothing_behind() {
    skip_without_kvm!();
    rounds(100_000);
}
