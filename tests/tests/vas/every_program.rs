//! Each guest program once: it prints what its documentation says, and leaves nothing behind.

use std::time::Duration;

use tests::guests;
use tests::vm::Run;
use tests::{pace, skip_without_kvm};

use crate::world::World;

/// It checks itself and ends with `done`.
#[track_caller]
fn done(program: &str, args: &[&str]) -> String {
    let world = World::new();
    let out = world.good(program, args);
    assert!(out.ends_with("done\n"), "{program} {args:?}: {out}");
    assert!(world.store().list_vases().expect("a list").is_empty(), "{program} left a VAS");
    assert!(world.store().list_segments().expect("a list").is_empty(), "{program} left a segment");
    world.left_clean();
    out
}

#[test]
fn the_life_of_a_vas_and_a_segment() {
    skip_without_kvm!();
    assert!(done("vas_basic", &[]).contains("ok: "));
}

#[test]
fn every_error_leaves_everything_as_it_was() {
    skip_without_kvm!();
    assert!(done("vas_errors", &[]).lines().count() > 50);
}

#[test]
fn linux_calls_work_inside_a_vas() {
    skip_without_kvm!();
    let world = World::new();
    let ended = world.run("vas_syscalls", &[]).stdin(b"a line of text\n").in_vm();
    assert_eq!(ended.outcome, vmm::process::Outcome::Exited(0), "{ended:?}");
    assert!(ended.out().contains("a line of text"), "{ended:?}");
    assert!(ended.out().ends_with("done\n"), "{ended:?}");
    world.left_clean();
}

#[test]
fn threads_in_vases_of_their_own_share_everything_private() {
    skip_without_kvm!();
    done("vas_threads", &[]);
    done("vas_threads", &["4", "same"]);
}

#[test]
fn crossing_lock_orders_neither_deadlock_nor_overlap() {
    skip_without_kvm!();
    assert!(done("vas_locks", &["8", "300", "7"]).contains("switches 2400"));
}

#[test]
fn hundreds_of_vases_are_attached_by_one_process() {
    skip_without_kvm!();
    let count = pace::times(500).max(100);
    let made = format!("made: {count} VASes, 16 segments");
    assert!(done("vas_many", &[&count.to_string(), "16"]).contains(&made));
}

#[test]
fn ten_thousand_vases_are_attached_by_one_process() {
    // More than there are tags.
    skip_without_kvm!();
    let world = World::new();
    let count = pace::times(10_000).to_string();
    let run = world.run("vas_many", &[&count]).timeout(pace::limit(Duration::from_secs(300)));
    let ended = run.in_vm();
    assert_eq!(ended.outcome, vmm::process::Outcome::Exited(0), "{ended:?}");
    assert!(ended.out().contains(&format!("made: {count} VASes")), "{ended:?}");
    assert!(ended.out().ends_with("done\n"), "{ended:?}");
    world.left_clean();
}

#[test]
fn four_hundred_tebibytes_are_attached_by_one_process() {
    skip_without_kvm!();
    let places = pace::times(1000).to_string();
    let out = done("vas_huge", &[&places]);
    assert!(out.contains("attached: 400 TiB in 4 VASes at the same addresses"), "{out}");
}

#[test]
fn the_program_of_the_paper_in_c_in_three_runs() {
    skip_without_kvm!();
    let world = World::new();
    let c = |arg: &str| {
        let ended = Run::new(guests::c("vas_c")).args(&[arg]).store(world.path()).in_vm();
        assert_eq!(ended.outcome, vmm::process::Outcome::Exited(0), "{arg}: {ended:?}");
        assert!(!ended.out().contains("FAILED"), "{arg}: {ended:?}");
        ended.out()
    };
    assert_eq!(c("create"), "created\n");
    c("use");
    assert!(c("read").contains("42"));
    c("rest");
    c("remove");
    world.left_clean();
}

#[test]
fn a_program_in_c_nests_visits() {
    skip_without_kvm!();
    let world = World::new();
    let ended = Run::new(guests::c("vas_c")).args(&["nested"]).store(world.path()).in_vm();
    assert_eq!(ended.outcome, vmm::process::Outcome::Exited(0), "{ended:?}");
    assert_eq!(ended.out(), "nested\n");
    world.left_clean();
}

#[test]
fn outside_a_vm_there_are_no_vases() {
    for program in ["vas_counter", "vas_persist", "vas_holder", "vas_random"] {
        let ended = Run::new(guests::rust(program)).native();
        assert_eq!(ended.outcome, vmm::process::Outcome::Exited(3), "{program}: {ended:?}");
    }
}

#[test]
fn random_calls_end_well_whatever_they_are() {
    skip_without_kvm!();
    for seed in 1..=pace::times(6) {
        let world = World::new();
        let out = world.good("vas_random", &[&seed.to_string(), "400"]);
        assert!(out.ends_with("done\n"), "seed {seed}: {out}");
        world.left_clean();
    }
}
