//! Transactions larger than `--memory`: what a visit has changed goes to the store's disk before it is committed, and
//! nobody sees it there.

use std::process::{Command, Output};

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm, small_disk};

use crate::world::{Vm, World, names};

const PROGRAM: &str = "vas_spill";
const LIMIT_MIB: u64 = 32;
const LIMIT: &str = "32M";
/// What the VMM itself uses, with a margin for other hosts.
const OWN_MIB: u64 = 40;
/// Five times as much as the limit.
const SIZE: &str = "160";

/// A run of the program that must succeed, and what it used.
#[track_caller]
fn used(world: &World, args: &[&str]) -> serde_json::Value {
    let stats = world.path().with_extension("stats");
    let mut run = world.command_of(&["run", "--memory", LIMIT, "--timeout", "300"]);
    run.args(["--stats=json", "--stats-to"]).arg(&stats).arg(guests::rust(PROGRAM)).args(args);
    let output = run.output().expect("the command starts");
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{args:?}");
    let text = std::fs::read_to_string(&stats).expect("statistics were written");
    serde_json::from_str(&text).expect("they are JSON")
}

/// A VM that has given every page what it has in a round, and has committed nothing.
fn half(world: &World, round: &str) -> Vm {
    let mut run = world.command_of(&["run", "--memory", LIMIT]);
    run.arg(guests::rust(PROGRAM)).args(["half", "big", round]);
    let mut vm = Vm::start(run, "half");
    vm.wait_for("half");
    vm
}

/// Memory of a process that is no file's.
fn anonymous_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it still runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("the field exists");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") / 1024
}

fn big() -> World {
    let world = World::new();
    used(&world, &["make", "big", SIZE]);
    world
}

fn versions(world: &World, name: &str) -> usize {
    let log = world.json(&["seg", "log", name]);
    log["versions"].as_array().expect("a list").len()
}

/// Layers, finished or not, in the folders of all versioned segments.
fn layers(world: &World) -> Vec<String> {
    let folder = world.path().join("versions");
    let all = names(&folder).into_iter().flat_map(|segment| names(&folder.join(segment)));
    all.filter(|name| name.starts_with("layer.")).collect()
}

#[test]
fn a_transaction_of_five_times_the_memory_is_one_version_and_holds_no_more_than_the_limit() {
    skip_without_kvm!();
    let world = big();
    let before = versions(&world, "big");
    let stats = used(&world, &["load", "big", "1"]);
    let all = stats["memory"].as_array().expect("memory by kind");
    let peak = |kind: &str| {
        let one = all.iter().find(|one| one["kind"] == kind).expect("the kind is there");
        one["peak_bytes"].as_u64().expect("a number")
    };
    // Half of the limit is for what visits have changed.
    assert!(peak("versioned") <= LIMIT_MIB << 19, "{stats}");
    assert!(peak("versioned") >= LIMIT_MIB << 18, "{stats}");
    println!("changed pages took {} MiB at most", peak("versioned") >> 20);
    assert_eq!(versions(&world, "big"), before + 1);
    used(&world, &["check", "big", "1"]);
    // The next one is not the first on its layer.
    used(&world, &["load", "big", "2"]);
    used(&world, &["check", "big", "2"]);
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
    world.left_clean();
}

#[test]
fn what_is_thrown_away_leaves_the_version_before_and_no_file() {
    skip_without_kvm!();
    let world = big();
    used(&world, &["load", "big", "1"]);
    let before = layers(&world);
    used(&world, &["abort", "big", "2"]);
    used(&world, &["check", "big", "2"]);
    let committed = layers(&world);
    let mut killed = half(&world, "3");
    assert_ne!(layers(&world), committed, "something was written out");
    let held = anonymous_mib(killed.pid());
    println!("{held} MiB of anonymous memory with {SIZE} MiB of changes");
    assert!(held <= LIMIT_MIB + OWN_MIB, "{held} MiB");
    // Beside it others see what was committed.
    used(&world, &["check", "big", "2"]);
    killed.kill();
    used(&world, &["check", "big", "2"]);
    used(&world, &["load", "big", "3"]);
    used(&world, &["check", "big", "3"]);
    assert!(before.len() <= 2 && layers(&world).len() <= 6, "{:?}", layers(&world));
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn a_program_that_is_killed_in_the_middle_leaves_a_file_until_somebody_writes() {
    skip_without_kvm!();
    let world = big();
    used(&world, &["load", "big", "1"]);
    let before = layers(&world);
    let mut killed = half(&world, "2");
    killed.kill();
    assert!(layers(&world).len() > before.len(), "{:?}", layers(&world));
    used(&world, &["abort", "big", "2"]);
    used(&world, &["check", "big", "2"]);
    let named = names(&world.path().join("versions"));
    assert_eq!(named.len(), 1, "one segment: {named:?}");
}

#[test]
fn stores_of_system_calls_are_written_out_as_well() {
    skip_without_kvm!();
    let world = World::new();
    used(&world, &["make", "big", "48"]);
    let stats = used(&world, &["call", "big", "1"]);
    let all = stats["memory"].as_array().expect("memory by kind");
    let held = |one: &&serde_json::Value| one["kind"] == "versioned";
    let held = all.iter().find(held).expect("the kind is there");
    // What one call has in use cannot be written out meanwhile.
    let peak = held["peak_bytes"].as_u64().expect("a number");
    println!("{} KiB changed pages at most", peak >> 10);
    assert!(peak <= (LIMIT_MIB << 19) + (4 << 20), "{stats}");
    used(&world, &["check", "big", "1"]);
}

#[test]
fn whatever_a_program_does_with_more_than_its_memory_is_what_a_model_says() {
    skip_without_kvm!();
    let world = World::new();
    used(&world, &["make", "big", "64"]);
    for seed in 0..u64::from(pace::times(4)) {
        used(&world, &["random", "big", "400", &seed.to_string()]);
        used(&world, &["check", "big", "1"]);
    }
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn several_segments_and_nested_visits_share_the_memory() {
    skip_without_kvm!();
    let world = World::new();
    for name in ["one", "two", "outer", "inner"] {
        used(&world, &["make", name, "24"]);
    }
    used(&world, &["several", "one", "two", "1"]);
    used(&world, &["nested", "outer", "inner", "1"]);
    for name in ["one", "two", "outer", "inner"] {
        used(&world, &["check", name, "1"]);
    }
}

/// A script's `spacejmp`, program and store on a disk of 12 MiB.
fn on_a_small_disk(test: &str, script: &str) -> Option<Output> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut run = Command::new("sh");
    run.args(["-c", script, "sh"]).arg(folder.path());
    run.arg(guests::program("spacejmp-cli", "spacejmp", Profile::Dev)).arg(guests::rust(PROGRAM));
    small_disk::run(test, folder.path(), &run)
}

#[test]
fn a_disk_that_is_full_at_the_commit_fails_it_and_one_that_is_full_before_ends_the_program() {
    skip_without_kvm!();
    let test = "spill::a_disk_that_is_full_at_the_commit_fails_it_and_one_that_is_full_before_ends_the_program";
    // 8 MiB stay in memory; 8 more can be written out, and not all of them committed.
    let script = r#"
        store=$1/store; shift
        run() { "$1" run --memory "$2" --timeout 100 --store "$store" "$3" "$4" "$5" "$6"; }
        run "$1" 32M "$2" make big 18
        run "$1" 32M "$2" full big 1
        run "$1" 32M "$2" make large 60
        run "$1" 32M "$2" load large 1
        echo $?
        run "$1" 32M "$2" check large 0
        "$1" store check --store "$store""#;
    let Some(output) = on_a_small_disk(test, script) else { return };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("done\ndone\ndone\n135\ndone\n"), "{output:?}");
    assert!(said.contains("all can be used"), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("the disk of the store is full"), "{told}");
}
