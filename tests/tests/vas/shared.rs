//! Values that several VMs use at the same time, without a lock.

use tests::skip_without_kvm;

use crate::world::World;

#[test]
fn vms_count_in_one_value_at_the_same_time_and_lose_nothing() {
    skip_without_kvm!();
    let world = World::new();
    let mut keeper = world.spawn("shared_values", &["keep"]);
    keeper.wait_for("kept");
    let mut one = world.spawn("shared_values", &["count", "2", "300"]);
    let mut two = world.spawn("shared_values", &["count", "2", "300"]);
    one.ends_well();
    two.ends_well();
    assert_eq!(world.good("shared_values", &["show"]), "number 1200, set once: no\n");
    keeper.kill();
    // With its last user it is gone.
    assert_eq!(world.good("shared_values", &["show"]), "number 0, set once: no\n");
}

#[test]
fn what_is_set_once_is_the_same_for_all_whoever_came_first_and_was_killed() {
    skip_without_kvm!();
    let world = World::new();
    let mut keeper = world.spawn("shared_values", &["keep"]);
    keeper.wait_for("kept");
    let mut setters: Vec<_> =
        ["11", "22", "33"].map(|number| world.spawn("shared_values", &["once", number])).into();
    let seen: Vec<String> = setters.iter_mut().map(|setter| setter.ends_well()).collect();
    assert!(["11\n", "22\n", "33\n"].contains(&seen[0].as_str()), "{seen:?}");
    assert!(seen.iter().all(|number| *number == seen[0]), "{seen:?}");
    let mut second = world.spawn("shared_values", &["keep"]);
    second.wait_for("kept");
    keeper.kill();
    assert_eq!(world.good("shared_values", &["once", "44"]), seen[0]);
    second.kill();
    assert_eq!(world.good("shared_values", &["once", "55"]), "55\n");
}

#[test]
fn from_inside_a_change_that_is_thrown_away_a_shared_value_is_changed_for_good() {
    skip_without_kvm!();
    let world = World::new();
    let said = world.good("shared_values", &["nested"]);
    let (refusal, rest) = said.split_once('\n').expect("lines");
    assert!(refusal.contains("on purpose"), "{said}");
    assert_eq!(rest, "in the space: 1\nnumber 5, set once: no\n");
}

#[test]
fn what_is_none_or_another_one_is_refused_with_what_it_is() {
    skip_without_kvm!();
    let world = World::new();
    let said = world.good("shared_values", &["errors"]);
    let expected = [
        "nobody has it: cannot find address space `nobody`: ",
        "another type: the root object of `other` is `struct Other`, not `struct Tally`",
        "a space: `space` is no shared value that can be used: its segment is not volatile, or has a lock",
        "twice in a program: 9",
        "a copy: `copy` is no shared value that can be used: it is the copy of another one",
        "inside: ",
    ];
    let mut rest = said.as_str();
    for line in expected {
        let (_, after) = rest.split_once(line).unwrap_or_else(|| panic!("{line}\nnot in {said}"));
        rest = after;
    }
    assert!(rest.contains("a shared value"), "{said}");
}

#[test]
fn a_volatile_space_is_made_anew_when_its_last_user_has_left_it() {
    skip_without_kvm!();
    let world = World::new();
    for _ in 0..3 {
        assert_eq!(world.good("shared_values", &["volatile"]), "7\n");
    }
}
