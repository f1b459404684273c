//! Programs and threads that end inside a VAS without having left it. A thread that was writing may
//! have left an incomplete change: that must never look like a complete one, however the thread
//! ended.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tests::guests::{self, Profile};
use tests::skip_without_kvm;
use vmm::process::Outcome;

use crate::world::{Talker, Vm, World};

/// What `vas_holder` prints when it finds the segment as `expected`.
fn comes_after(world: &World, expected: &str) {
    assert_eq!(world.good("vas_holder", &["one", "wait"]), format!("waiting\n{expected}\nleft\n"));
}

/// Ends a program this way, and asserts that its change counts as unfinished.
fn is_unfinished_after(how: &str, outcome: impl Fn(&Outcome) -> bool, says: &str) {
    let world = World::new();
    let ended = world.run("vas_holder", &["one", &format!("end:{how}")]).in_vm();
    assert!(outcome(&ended.outcome), "{how}: {ended:?}");
    assert_eq!(ended.out(), format!("inside\n{says}"), "{how}: {ended:?}");
    comes_after(&world, "entered after a death");
    let shown = world.json(&["seg", "show", "one"]);
    assert_eq!(shown["inconsistent"], true, "{how}: {shown}");
    let out = world.good("vas_holder", &["one", "recover"]);
    assert!(out.ends_with("done\n"), "{how}: {out}");
    comes_after(&world, "entered");
    world.clean_after_gc();
}

fn exits(outcome: &Outcome) -> bool {
    *outcome == Outcome::Exited(0)
}

#[test]
fn a_writer_whose_program_exits_around_it_leaves_the_segment_inconsistent() {
    skip_without_kvm!();
    is_unfinished_after("main", exits, "");
    is_unfinished_after("exit", exits, "");
}

#[test]
fn a_thread_that_ends_while_it_writes_leaves_the_segment_inconsistent_for_its_own_program_too() {
    skip_without_kvm!();
    for how in ["thread", "returns"] {
        is_unfinished_after(how, exits, "then: Err(EOWNERDEAD)\n");
    }
}

#[test]
fn a_writer_that_a_signal_of_its_own_ends_leaves_the_segment_inconsistent() {
    skip_without_kvm!();
    let by = |expected: i32| move |outcome: &Outcome| matches!(outcome, Outcome::Killed { signal, .. } if i32::from(*signal) == expected);
    is_unfinished_after("abort", by(6), "");
    is_unfinished_after("fault", by(11), "");
}

#[test]
fn a_reader_that_ends_inside_and_a_writer_that_went_home_leave_nothing_to_recover() {
    skip_without_kvm!();
    let world = World::new();
    for how in ["reader", "home"] {
        assert_eq!(world.good("vas_holder", &["one", &format!("end:{how}")]), "inside\n", "{how}");
        comes_after(&world, "entered");
    }
    world.left_clean();
}

#[test]
fn writers_that_only_waited_when_their_program_ended_leave_nothing_to_recover() {
    skip_without_kvm!();
    let world = World::new();
    // Without draining, the end lets one of the eight in, in three runs out of ten.
    for run in 0..12 {
        assert_eq!(world.good("vas_holder", &["one", "waited"]), "inside\n", "run {run}");
        let shown = world.json(&["seg", "show", "one"]);
        assert_eq!(shown["inconsistent"], false, "run {run}: {shown}");
    }
    world.left_clean();
}

#[test]
fn another_vm_that_shares_a_volatile_segment_is_told_too() {
    skip_without_kvm!();
    let world = World::new();
    let command = world.command("vas_holder", &["one", "waits"]);
    let mut other = Talker::start(command, "the waiting VM");
    assert_eq!(world.good("vas_holder", &["one", "ends:main"]), "inside\n");
    assert_eq!(other.ask("go").as_deref(), Ok("entered after a death"));
    other.end().expect("it ends well");
    world.left_clean();
}

/// The statuses of a program that a signal or a time limit ends.
const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;
const TIMED_OUT: i32 = 124;

/// A VM with a time limit.
fn limited(world: &World, seconds: &str, program: &str, args: &[&str]) -> Vm {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.args(["run", "--timeout", seconds, "--store"]).arg(world.path());
    command.arg(guests::rust(program)).args(args);
    Vm::start(command, program)
}

#[test]
fn a_writer_may_finish_before_a_signal_ends_its_program_and_none_begins_meanwhile() {
    skip_without_kvm!();
    for (signal, status) in [(Signal::INT, INTERRUPTED), (Signal::TERM, TERMINATED)] {
        let world = World::new();
        let mut writer = world.spawn("vas_holder", &["one", "end:slow"]);
        writer.wait_for("inside");
        writer.signal(signal);
        assert_eq!(writer.end(), status, "{}", writer.err());
        assert_eq!(writer.out(), "inside\nleft\n");
        comes_after(&world, "entered");
        world.left_clean();
    }
}

#[test]
fn a_writer_may_finish_before_a_time_limit_ends_its_program() {
    skip_without_kvm!();
    let world = World::new();
    let mut writer = limited(&world, "0.25", "vas_holder", &["one", "end:slow"]);
    assert_eq!(writer.end(), TIMED_OUT, "{}", writer.err());
    // A slow machine may not have got that far.
    assert!(["", "inside\nleft\n"].contains(&writer.out().as_str()), "{}", writer.out());
    comes_after(&world, "entered");
    world.left_clean();
}

#[test]
fn a_writer_that_does_not_finish_is_cut_short_and_its_change_counts_as_unfinished() {
    skip_without_kvm!();
    let world = World::new();
    let mut stubborn = world.spawn("vas_holder", &["one", "write"]);
    stubborn.wait_for("holding write");
    stubborn.signal(Signal::INT);
    assert_eq!(stubborn.end(), INTERRUPTED, "{}", stubborn.err());
    comes_after(&world, "entered after a death");
    assert!(world.good("vas_holder", &["one", "recover"]).ends_with("done\n"));

    // A user who sends it twice does not want to wait.
    let mut stubborn = world.spawn("vas_holder", &["one", "write"]);
    stubborn.wait_for("holding write");
    stubborn.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(50));
    stubborn.signal(Signal::INT);
    assert_eq!(stubborn.end(), INTERRUPTED, "{}", stubborn.err());
    comes_after(&world, "entered after a death");
    assert!(world.good("vas_holder", &["one", "recover"]).ends_with("done\n"));
    world.clean_after_gc();
}

/// The VMM has not heard of this visit: the kernel let the thread in, and it has not left the guest since.
#[test]
fn a_writer_of_versions_that_the_kernel_let_in_may_finish_before_a_signal_ends_its_program() {
    skip_without_kvm!();
    let world = World::new();
    assert_eq!(world.good("vas_versions", &["bank", "make"]), "done\n");
    let newest = || world.json(&["seg", "log", "bank"])["versions"][0]["number"].as_u64();
    let before = newest().expect("a version");
    let mut writer = world.spawn("vas_versions", &["bank", "slow", "1200"]);
    // The first change is there, and somebody has the lock again.
    while newest() < Some(before + 1)
        || world.json(&["seg", "show", "bank"])["lock"]["state"] != "exclusive"
    {
        assert!(!writer.has_ended(), "{}{}", writer.out(), writer.err());
    }
    writer.signal(Signal::TERM);
    writer.end();
    assert_eq!(newest(), Some(before + 2), "its change was cut short: {}", writer.err());
    assert_eq!(world.good("vas_versions", &["bank", "sums", "1"]), "states 1\n");
}

#[test]
fn programs_that_go_in_and_out_all_the_time_are_ended_between_two_visits() {
    skip_without_kvm!();
    let world = World::new();
    for round in 0..6 {
        let limit = format!("0.{}", 40 + 3 * round);
        let mut busy = limited(&world, &limit, "vas_counter", &["often", "4", "100000000"]);
        assert_eq!(busy.end(), TIMED_OUT, "{}", busy.err());
        if world.store().list_segments().expect("a list").is_empty() {
            println!("round {round}: too slow to begin in {limit} s");
            continue;
        }
        let shown = world.json(&["seg", "show", "often"]);
        assert_eq!(shown["inconsistent"], false, "round {round}: {shown}");
    }
    world.clean_after_gc();
}
