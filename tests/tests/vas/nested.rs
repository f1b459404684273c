//! Visits inside of visits: the outer ones keep locks, views and changes, whatever happens inside.

use std::process::Command;

use rustix::process::Signal;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm, small_disk};
use vmm::process::Outcome;

use crate::world::{SEED, World};

const PROGRAM: &str = "vas_nested";

fn made() -> World {
    let world = World::new();
    assert_eq!(world.good(PROGRAM, &["make"]), "done\n");
    world
}

#[test]
fn random_nestings_see_and_are_told_what_a_model_says() {
    skip_without_kvm!();
    let world = made();
    for seed in 0..u64::from(pace::times(3)) {
        let seed = (SEED + seed).to_string();
        let said = world.good(PROGRAM, &["random", "4000", &seed]);
        assert!(said.contains("refused true\ndone"), "{said}");
    }
    world.left_clean();
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn a_thread_that_ends_in_a_nested_visit_has_changed_nothing_in_any() {
    skip_without_kvm!();
    for how in ["thread", "exit", "kill", "fault"] {
        let world = made();
        match how {
            "thread" => assert_eq!(world.good(PROGRAM, &["ends", how]), "done\n"),
            "kill" => {
                let mut dies = world.spawn(PROGRAM, &["ends", how]);
                assert_ne!(dies.end(), 0);
            }
            _ => {
                let ended = world.run(PROGRAM, &["ends", how]).in_vm().outcome;
                let is_right = match ended {
                    Outcome::Exited(7) => how == "exit",
                    // By a handler of the signal.
                    Outcome::Exited(99) => how == "fault",
                    _ => false,
                };
                assert!(is_right, "{how}: {ended:?}");
            }
        }
        // The raw one has what was stored, and is inconsistent.
        let has = "a 1000 1000\nb 2 1000\nc 1000 1000\nraw 4 1000\ndone\n";
        assert_eq!(world.good(PROGRAM, &["look"]), has, "{how}");
        world.clean_after_gc();
    }
}

#[test]
fn a_thread_with_locks_waits_for_others_a_limited_time_and_for_its_own_not_at_all() {
    skip_without_kvm!();
    let world = made();
    let mut holder = world.spawn(PROGRAM, &["hold", "c"]);
    holder.wait_for("holding");
    assert_eq!(world.good(PROGRAM, &["waits"]), "done\n");
    holder.kill();
    world.clean_after_gc();
}

#[test]
fn two_threads_that_want_what_the_other_has_both_go_on() {
    skip_without_kvm!();
    let world = made();
    assert_eq!(world.good(PROGRAM, &["cross"]), "done\n");
    world.left_clean();
}

#[test]
fn what_a_suspended_visit_has_stays_while_others_commit_and_detach() {
    skip_without_kvm!();
    let world = made();
    assert_eq!(world.good(PROGRAM, &["busy"]), "done\n");
    world.left_clean();
}

#[test]
fn a_nested_visit_that_finds_no_room_can_be_taken_back_and_the_outer_one_is_whole() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let test =
        "nested::a_nested_visit_that_finds_no_room_can_be_taken_back_and_the_outer_one_is_whole";
    let script = r#"set -e
        store=$1/store; shift
        for what in make full look; do
            "$1" run --timeout 100 --store "$store" "$2" $what
        done"#;
    let mut run = Command::new("sh");
    run.args(["-c", script, "sh"]).arg(folder.path());
    run.arg(guests::program("spacejmp-cli", "spacejmp", Profile::Dev)).arg(guests::rust(PROGRAM));
    let Some(output) = small_disk::run(test, folder.path(), &run) else { return };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    let has = "a 1 1000\nb 2 1000\nc 1000 1000\nraw 1000 1000\n";
    assert_eq!(said, format!("done\ndone\n{has}done\n"));
}

#[test]
fn a_visit_that_is_suspended_may_end_before_a_signal_ends_its_program() {
    skip_without_kvm!();
    let world = made();
    let mut writer = world.spawn(PROGRAM, &["stays", "1000"]);
    writer.wait_for("suspended");
    writer.signal(Signal::TERM);
    assert_eq!(writer.end(), 128 + Signal::TERM.as_raw(), "{}", writer.err());
    let has = world.good(PROGRAM, &["look"]);
    assert!(has.starts_with("a 1001 999\n"), "its change was cut short: {has}");
    world.left_clean();
}

#[test]
fn no_segment_is_taken_out_of_a_vas_while_another_program_has_suspended_a_visit_there() {
    skip_without_kvm!();
    let world = made();
    let mut writer = world.spawn(PROGRAM, &["stays", "2500"]);
    writer.wait_for("suspended");
    for vas in ["a", "b"] {
        let refused = world.spacejmp(&["vas", "detach", vas, vas]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && text.contains("inside"), "{vas} was taken: {text}");
    }
    writer.wait_for("left");
    for vas in ["a", "b"] {
        world.says(&["vas", "detach", vas, vas]);
    }
    writer.kill();
    world.clean_after_gc();
}
