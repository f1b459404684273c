//! Attacks by safe code on the typed API, in VMs. The guest program (`sdk_attacks`) checks how each
//! is refused; these tests run it, and it must leave the store intact.

use tests::skip_without_kvm;
use vmm::process::Outcome;

use crate::world::World;

/// Everything in the attack is refused, and the output says so.
fn is_refused(attack: &str) {
    let world = World::new();
    let out = world.good("sdk_attacks", &[attack]);
    assert!(out.ends_with("done\n"), "{attack}: {out}");
    world.left_clean();
}

#[test]
fn an_init_that_fails_gives_no_pointer_into_what_is_made_later() {
    skip_without_kvm!();
    is_refused("stash");
    is_refused("retry");
}

#[test]
fn a_brand_does_not_follow_a_name_to_another_segment() {
    skip_without_kvm!();
    is_refused("replace");
}

#[test]
fn a_space_whose_segments_are_changed_is_not_entered() {
    skip_without_kvm!();
    is_refused("take-out");
    is_refused("lower");
}

#[test]
fn raw_calls_do_not_reach_the_instances_of_safe_types() {
    skip_without_kvm!();
    is_refused("handles");
}

#[test]
fn threads_do_not_go_into_two_spaces_at_the_same_addresses() {
    skip_without_kvm!();
    is_refused("threads");
}

#[test]
fn a_reference_that_is_used_at_home_faults() {
    skip_without_kvm!();
    let world = World::new();
    let ended = world.run("sdk_attacks", &["fault"]).in_vm();
    let Outcome::Killed { signal: 11, .. } = ended.outcome else { panic!("{ended:?}") };
    assert_eq!(ended.out(), "a fault is next\n");
}

#[test]
fn a_segment_is_not_copied_in_the_middle_of_a_change() {
    skip_without_kvm!();
    is_refused("copy");
}

#[test]
fn a_root_object_may_be_of_no_size() {
    skip_without_kvm!();
    is_refused("nothing");
}
