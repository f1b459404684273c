//! Programs and threads that end inside a VAS without having left it. Whoever was writing may have
//! left half a change: that must never look like a whole one, whatever the end is called.

use tests::skip_without_kvm;
use vmm::process::Outcome;

use crate::world::{Talker, World};

/// What `vas_holder` does when it finds the segment as `expected`.
fn comes_after(world: &World, expected: &str) {
    assert_eq!(world.good("vas_holder", &["one", "wait"]), format!("waiting\n{expected}\nleft\n"));
}

/// Ends a program so, and asserts that its change counts as unfinished.
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
fn another_vm_that_shares_a_volatile_segment_is_told_too() {
    skip_without_kvm!();
    let world = World::new();
    let command = world.command("vas_holder", &["one", "waits"]);
    let mut other = Talker::start(command, "the one who waits");
    assert_eq!(world.good("vas_holder", &["one", "ends:main"]), "inside\n");
    assert_eq!(other.ask("go").as_deref(), Ok("entered after a death"));
    other.end().expect("it ends well");
    world.left_clean();
}
