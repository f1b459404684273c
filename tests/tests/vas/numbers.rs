//! A VAS has numbers of its own: each commit through it is one, of all its versioned segments.

use std::collections::BTreeSet;

use serde_json::Value;
use tests::{pace, skip_without_kvm};

use crate::several::{PROGRAM, bank, is_right, version};
use crate::world::{SEED, World};

fn moved(world: &World, count: &str, seed: &str) {
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", count, seed]), "done\n");
}

fn log(world: &World, vas: &str) -> Vec<Value> {
    world.json(&["vas", "log", vas])["versions"].as_array().expect("a list").clone()
}

fn number(of: &Value) -> u64 {
    of["number"].as_u64().expect("a number")
}

/// What each segment was at.
fn at(of: &Value) -> Vec<(String, u64)> {
    let segments = of["segments"].as_array().expect("a list");
    let name = |it: &Value| it["segment"].as_str().expect("a name").to_owned();
    let mut segments: Vec<_> = segments.iter().map(|it| (name(it), number(it))).collect();
    segments.sort();
    segments
}

fn both(world: &World) -> Vec<(String, u64)> {
    ["bank.a", "bank.b"].map(|segment| (segment.to_owned(), version(world, segment))).to_vec()
}

/// Whether the VAS has now what it had at a number.
fn is_at(world: &World, number: u64) -> bool {
    let done = world.spacejmp(&["vas", "diff", &format!("bank@{number}"), "bank"]);
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code().is_some_and(|code| code < 2), "{text}");
    done.status.success()
}

#[test]
fn a_commit_of_several_segments_has_one_number_by_which_all_of_them_are_found() {
    skip_without_kvm!();
    let world = bank();
    moved(&world, "5", "1");
    let before = log(&world, "bank");
    let (then, had) = (number(&before[0]), both(&world));
    assert_eq!(at(&before[0]), had);
    assert_eq!(before[0]["opens"], true);
    let numbers: BTreeSet<_> = before.iter().map(number).collect();
    assert_eq!(numbers.len(), before.len(), "each once: {before:?}");
    moved(&world, "5", "2");
    let after = log(&world, "bank");
    assert!(after.len() > before.len() && number(&after[0]) > then, "{after:?}");
    assert!(!is_at(&world, then) && is_at(&world, number(&after[0])));

    world.says(&["vas", "tag", "bank", "early", "--at", &then.to_string()]);
    world.says(&["vas", "clone", &format!("bank@{then}"), "trial"]);
    assert_eq!(log(&world, "trial").len(), 0, "a copy has made no commit");
    world.says(&["vas", "rollback", "bank", &then.to_string()]);
    is_right(&world);
    assert!(is_at(&world, then));
    // That was a commit, too.
    let back = log(&world, "bank");
    assert!(number(&back[0]) > number(&after[0]), "{back:?}");
    assert_eq!(at(&back[0]), both(&world));
    let tagged = back.iter().find(|it| number(it) == then).expect("it is there");
    assert_eq!(tagged["tags"][0], "early");
    moved(&world, "5", "3");
    assert!(number(&log(&world, "bank")[0]) > number(&back[0]));
    is_right(&world);
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn a_number_says_of_segments_that_the_commit_left_alone_what_they_were_at() {
    skip_without_kvm!();
    let world = bank();
    moved(&world, "5", "1");
    // No commit through this VAS.
    let first = version(&world, "bank.a");
    world.says(&["vas", "create", "other"]);
    world.says(&["vas", "attach", "other", "bank.a"]);
    let numbers = log(&world, "bank").len();
    world.says(&["vas", "rollback", "other", &first.to_string()]);
    assert_eq!(version(&world, "bank.a"), first + 1);
    assert_eq!(log(&world, "bank").len(), numbers, "it is none of this VAS");
    // With one versioned segment, that one's numbers.
    assert_eq!(number(&log(&world, "other")[0]), first + 1);
    // The visits of these are through a VAS of its own; then one through this.
    assert_eq!(world.good(PROGRAM, &["bank", "alone", "1", "3"]), "done\n");
    assert_eq!(log(&world, "bank").len(), numbers);
    moved(&world, "1", "2");
    let newest = &log(&world, "bank")[0];
    assert_eq!(at(newest), both(&world));
    assert!(is_at(&world, number(newest)));
}

#[test]
fn a_number_that_is_gone_is_refused_with_the_nearest_and_never_used_again() {
    skip_without_kvm!();
    let world = bank();
    moved(&world, "5", "1");
    let then = number(&log(&world, "bank")[0]);
    world.says(&["vas", "tag", "bank", "first"]);
    // 75 MiB each: the logs with these versions go.
    for which in ["0", "1"] {
        assert_eq!(world.good(PROGRAM, &["bank", "many", which, "150"]), "done\n");
    }
    // What a tag keeps is found by its number.
    assert!(!is_at(&world, then));
    world.says(&["vas", "rollback", "bank", &then.to_string()]);
    is_right(&world);
    assert!(is_at(&world, then));
    assert!(number(&log(&world, "bank")[0]) > then);
    let refused = world.spacejmp(&["vas", "diff", &format!("bank@{}", then - 1), "bank"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains(&format!("the nearest that is kept is {then} ('bank@first')")), "{text}");
    assert!(text.contains("vas log bank"), "{text}");
}

/// A versioned segment that the VAS gets besides its own.
fn joins(world: &World, segment: &str) {
    world.says(&["seg", "create", segment, "--size", "4K", "--lifetime", "versioned"]);
    world.says(&["vas", "attach", "bank", segment]);
}

fn newest(world: &World) -> Option<u64> {
    log(world, "bank").first().map(number)
}

#[test]
fn a_raw_segment_beside_versioned_ones_has_no_part_in_a_number_and_does_not_go_back() {
    skip_without_kvm!();
    let world = bank();
    world.says(&["seg", "create", "raw", "--size", "4K", "--lifetime", "persistent"]);
    world.says(&["vas", "attach", "bank", "raw"]);
    moved(&world, "5", "1");
    let then = newest(&world).expect("a number");
    assert_eq!(at(&log(&world, "bank")[0]), both(&world));
    moved(&world, "5", "2");
    world.says(&["vas", "rollback", "bank", &then.to_string()]);
    is_right(&world);
    assert!(is_at(&world, then));
    // What is opened by a number has no raw segments.
    world.says(&["vas", "clone", &format!("bank@{then}"), "trial"]);
    assert_eq!(world.json(&["vas", "show", "trial"])["segments"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_program_that_is_killed_in_the_middle_of_commits_leaves_whole_numbers_in_order() {
    skip_without_kvm!();
    let world = bank();
    let mut random = SEED;
    for seed in 1..=pace::times(8) {
        let seed = seed.to_string();
        world.kill_at_random(PROGRAM, &["bank", "move", "1", "1000000", &seed], &mut random);
        is_right(&world);
        let versions = log(&world, "bank");
        assert!(versions.iter().map(number).is_sorted_by(|later, earlier| later > earlier));
        assert_eq!(at(&versions[0]), both(&world), "the newest is what is there");
        for version in versions.iter().filter(|it| it["opens"] == true) {
            let segments = version["segments"].as_array().expect("a list");
            assert!(segments.iter().all(|it| it["changed"] == true), "{version}");
        }
    }
    moved(&world, "1", "1");
    let oldest = log(&world, "bank").iter().filter(|it| it["opens"] == true).map(number).min();
    world.says(&["vas", "rollback", "bank", &oldest.expect("one that opens").to_string()]);
    is_right(&world);
}

#[test]
fn a_vas_that_gave_up_its_segments_goes_on_behind_the_numbers_that_they_knew() {
    skip_without_kvm!();
    let world = bank();
    moved(&world, "30", "1");
    let last = newest(&world).expect("a number");
    assert!(last > 10, "{last}");
    for segment in ["bank.a", "bank.b"] {
        world.says(&["vas", "detach", "bank", segment]);
    }
    assert_eq!(world.json(&["vas", "show", "bank"])["number"], Value::Null);
    // New files under the old addresses: their own numbers begin with 0.
    for segment in ["bank.a", "bank.b"] {
        for to in ["persistent", "versioned"] {
            world.says(&["seg", "convert", segment, "--to", to]);
        }
        world.says(&["vas", "attach", "bank", segment]);
    }
    assert_eq!(newest(&world), None, "none since");
    moved(&world, "1", "2");
    assert_eq!(both(&world), [("bank.a".to_owned(), 1), ("bank.b".to_owned(), 1)]);
    assert_eq!(newest(&world), Some(last + 1));
    let refused = world.spacejmp(&["vas", "rollback", "bank", "1"]);
    assert!(!refused.status.success(), "the first commit is gone");
    is_right(&world);
    // With one segment left, its own numbers are those of others before.
    world.says(&["vas", "detach", "bank", "bank.b"]);
    assert_eq!(log(&world, "bank")[0]["opens"], false, "one of its segments is no part of the VAS");
    let first = version(&world, "bank.a").to_string();
    world.says(&["seg", "tag", "bank.a", "own"]);
    world.says(&["vas", "rollback", "bank", "own"]);
    assert_eq!(newest(&world), Some(last + 2));
    let refused = world.spacejmp(&["vas", "rollback", "bank", &first]);
    assert!(!refused.status.success(), "version {first} of the segment is no number of the VAS");
}

#[test]
fn a_vas_of_more_segments_than_a_number_can_name_commits_without_and_has_tags() {
    skip_without_kvm!();
    let world = bank();
    moved(&world, "5", "1");
    let last = newest(&world);
    let more: Vec<String> = (0..79).map(|index| format!("more{index}")).collect();
    more.iter().for_each(|segment| joins(&world, segment));
    moved(&world, "5", "2");
    assert_eq!(newest(&world), last, "81 are too many");
    is_right(&world);
    world.says(&["vas", "tag", "bank", "all"]);
    moved(&world, "5", "3");
    world.says(&["vas", "rollback", "bank", "all"]);
    is_right(&world);
    assert_eq!(newest(&world), last);
    world.says(&["vas", "detach", "bank", "more0"]);
    moved(&world, "1", "4");
    assert!(newest(&world) > last, "80 are not");
    assert_eq!(log(&world, "bank")[0]["segments"].as_array().map(Vec::len), Some(80));
    is_right(&world);
}
