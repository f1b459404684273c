//! A VAS has numbers of its own: each commit through it is one, of all its versioned segments.

use std::collections::BTreeSet;

use serde_json::Value;
use tests::skip_without_kvm;

use crate::several::{PROGRAM, bank, is_right, version};
use crate::world::World;

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
