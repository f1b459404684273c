//! Versions that are kept, gone back to and copied by the command line, while programs use the segment.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{pace, skip_without_kvm};

use crate::world::{Talker, World};

const PROGRAM: &str = "vas_versions";

fn bank() -> World {
    let world = World::new();
    assert_eq!(world.good(PROGRAM, &["bank", "make"]), "done\n");
    world
}

/// The numbers in the log of segment `name`, the newest first.
fn numbers(world: &World, name: &str) -> Vec<u64> {
    let log = world.json(&["seg", "log", name]);
    let versions = log["versions"].as_array().expect("a list");
    versions.iter().map(|it| it["number"].as_u64().expect("a number")).collect()
}

/// The version with a tag.
fn tagged(world: &World, name: &str, tag: &str) -> Value {
    let log = world.json(&["seg", "log", name]);
    let has = |it: &&Value| it["tags"].as_array().expect("a list").contains(&json!(tag));
    let found = log["versions"].as_array().expect("a list").iter().find(has).cloned();
    found.unwrap_or_else(|| panic!("{tag} in {log}"))
}

#[test]
fn a_tag_that_is_made_while_a_vm_writes_is_one_version_and_stays_so() {
    skip_without_kvm!();
    let world = bank();
    let mut writer = world.spawn(PROGRAM, &["bank", "move", "2", "1000000", "1"]);
    // It is at work.
    assert_eq!(world.good(PROGRAM, &["bank", "watch", "3"]), "states 3\n");
    world.says(&["vas", "tag", "bank", "t"]);
    world.says(&["seg", "tag", "bank", "t"]);
    // A program attaches it by its name, as it would the newest.
    for _ in 0..2 {
        assert_eq!(world.good(PROGRAM, &["bank@t", "sums", "3"]), "states 1\n");
    }
    assert_eq!(world.good(PROGRAM, &["bank", "watch", "3"]), "states 3\n");
    let kept = tagged(&world, "bank", "t");
    assert_eq!((&kept["opens"], &kept["program"]), (&json!(true), &json!(PROGRAM)));
    assert!(numbers(&world, "bank")[0] > kept["number"].as_u64().expect("a number"));
    // It goes when nobody has it.
    let mut reader = world.spawn(PROGRAM, &["bank@t", "sums", "1000000"]);
    while world.json(&["vas", "show", "bank@t"])["attached"] == json!([]) {
        assert!(!reader.has_ended(), "{}{}", reader.out(), reader.err());
        std::thread::sleep(Duration::from_millis(10));
    }
    let refused = world.spacejmp(&["vas", "untag", "bank", "t"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("attached by process"), "{text}");
    reader.kill();
    // The host may keep what a killed process had mapped, and with it the lease's lock, a little longer.
    let deadline = Instant::now() + pace::limit(Duration::from_secs(60));
    while world.json(&["vas", "show", "bank@t"])["attached"] != json!([]) {
        assert!(Instant::now() < deadline, "a killed program keeps it attached");
        std::thread::sleep(Duration::from_millis(10));
    }
    world.says(&["vas", "untag", "bank", "t"]);
    world.says(&["seg", "untag", "bank", "t"]);
    assert!(!writer.has_ended(), "{}{}", writer.out(), writer.err());
    writer.kill();
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    world.clean_after_gc();
}

#[test]
fn a_program_cannot_write_to_a_tag() {
    skip_without_kvm!();
    let world = bank();
    world.says(&["vas", "tag", "bank", "t"]);
    world.says(&["seg", "tag", "bank", "t"]);
    let ended = world.run(PROGRAM, &["bank@t", "move", "1", "1", "1"]).in_vm();
    assert_ne!(ended.outcome, vmm::process::Outcome::Exited(0), "{ended:?}");
    assert_eq!(world.good(PROGRAM, &["bank@t", "sums", "1"]), "states 1\n");
    world.clean_after_gc();
}

#[test]
fn a_rollback_is_seen_by_those_who_have_it_attached_and_writers_go_on_from_it() {
    skip_without_kvm!();
    let world = bank();
    world.says(&["seg", "tag", "bank", "new"]);
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "20", "1"]), "done\n");
    let newest = numbers(&world, "bank")[0];
    // A reader that has seen one state waits for another.
    let mut reader = world.spawn(PROGRAM, &["bank", "watch", "2"]);
    while world.json(&["vas", "show", "bank"])["attached"] == json!([]) {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(200));
    let made = world.json(&["vas", "rollback", "bank", "new"]);
    assert_eq!(made["number"], newest + 1);
    assert_eq!(reader.ends_well(), "states 2\n");
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "3", "2"]), "done\n");
    assert!(numbers(&world, "bank")[0] > newest + 1);
    // Beside a writer, whose next change is one of the old version.
    let mut writer = world.spawn(PROGRAM, &["bank", "move", "2", "1000000", "3"]);
    for _ in 0..pace::times(3) {
        assert_eq!(world.good(PROGRAM, &["bank", "watch", "2"]), "states 2\n");
        world.says(&["seg", "rollback", "bank", "new"]);
        assert!(!writer.has_ended(), "{}{}", writer.out(), writer.err());
    }
    writer.kill();
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    world.says(&["seg", "untag", "bank", "new"]);
    world.clean_after_gc();
}

#[test]
fn a_clone_and_its_original_know_nothing_of_each_other() {
    skip_without_kvm!();
    let world = bank();
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "20", "1"]), "done\n");
    let mut writer = world.spawn(PROGRAM, &["bank", "move", "1", "1000000", "2"]);
    assert_eq!(world.good(PROGRAM, &["bank", "watch", "2"]), "states 2\n");
    world.says(&["seg", "clone", "bank", "other"]);
    writer.kill();
    world.says(&["vas", "create", "other"]);
    world.says(&["vas", "attach", "other", "other"]);
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    let before = numbers(&world, "bank")[0];
    assert_eq!(world.good(PROGRAM, &["other", "move", "2", "20", "3"]), "done\n");
    assert_eq!(numbers(&world, "bank")[0], before);
    assert_eq!(world.good(PROGRAM, &["other", "sums", "1"]), "states 1\n");
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    // A VAS with its segments, and an old version of it.
    world.says(&["vas", "tag", "bank", "t"]);
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "3", "4"]), "done\n");
    world.says(&["vas", "clone", "bank@t", "third"]);
    assert_eq!(world.json(&["vas", "show", "third"])["segments"][0]["name"], "third.bank");
    assert_eq!(numbers(&world, "third.bank")[0], before);
    world.clean_after_gc();
    assert_eq!(world.json(&["store", "check"])["findings"], json!([]));
}

#[test]
fn what_a_program_made_is_the_same_after_it_was_converted_there_and_back() {
    skip_without_kvm!();
    let world = bank();
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "10", "1"]), "done\n");
    world.says(&["seg", "convert", "bank", "--to", "persistent"]);
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    world.says(&["seg", "convert", "bank", "--to", "versioned"]);
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    assert_eq!(world.good(PROGRAM, &["bank", "move", "2", "10", "2"]), "done\n");
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    world.left_clean();
}

#[test]
fn a_command_that_is_killed_has_made_a_whole_tag_or_none() {
    skip_without_kvm!();
    let world = bank();
    let mut writer = world.spawn(PROGRAM, &["bank", "move", "1", "1000000", "1"]);
    assert_eq!(world.good(PROGRAM, &["bank", "watch", "2"]), "states 2\n");
    for round in 0..pace::times(20) {
        let tag = format!("t{round}");
        let mut command = world.command_of(&["seg", "tag", "bank", &tag]);
        let mut child = command.spawn().expect("it starts");
        std::thread::sleep(Duration::from_micros(u64::from(round) * 1500));
        child.kill().expect("it can be killed");
        child.wait().expect("it can be waited for");
        assert!(!writer.has_ended(), "round {round}: {}{}", writer.out(), writer.err());
    }
    writer.kill();
    // It frees the lock of the killed writer.
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "1", "2"]), "done\n");
    world.store().gc().expect("garbage is collected");
    assert_eq!(world.json(&["store", "check"])["findings"], json!([]));
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    let segments = world.json(&["seg", "ls"]);
    for segment in segments["segments"].as_array().expect("a list") {
        let name = segment["name"].as_str().expect("text");
        if name != "bank" {
            // Its newest version is whole, and it is the one that its name says.
            let log = world.json(&["seg", "log", name]);
            assert_eq!(log["versions"][0]["opens"], true, "{name}: {log}");
            world.says(&["seg", "check", name]);
        }
    }
    world.clean_after_gc();
}

#[test]
fn a_program_keeps_versions_and_attaches_old_ones_by_name_and_number() {
    skip_without_kvm!();
    let world = bank();
    let first = numbers(&world, "bank")[0];
    assert_eq!(world.good(PROGRAM, &["bank", "keep", "mine"]), "done\n");
    let second = numbers(&world, "bank")[0];
    assert_eq!(second, first + 1);
    assert_eq!(tagged(&world, "bank", "bank@mine")["number"], first);
    let at = |version: &str| world.good(PROGRAM, &["bank", "at", version]);
    assert_eq!(at("mine"), "account 1000\n");
    assert_eq!(at(&first.to_string()), "account 1000\n");
    assert_eq!(at(&second.to_string()), "account 990\n");
    // Again, while it is kept for a while, and beside a writer.
    let mut writer = world.spawn(PROGRAM, &["bank", "move", "1", "1000000", "1"]);
    assert_eq!(world.good(PROGRAM, &["bank", "watch", "2"]), "states 2\n");
    assert_eq!(at(&first.to_string()), "account 1000\n");
    writer.kill();
    assert_eq!(at("none"), "ENOENT\n");
    assert_eq!(at("999999999"), "ENOENT\n");
    // What was kept for a while is no tag, and goes.
    world.store().gc().expect("garbage is collected");
    let vases = world.json(&["vas", "ls"]);
    let names: Vec<_> =
        vases["vases"].as_array().expect("a list").iter().map(|it| it["name"].clone()).collect();
    assert_eq!(names, [json!("bank"), json!("bank@mine")]);
    world.clean_after_gc();
}

const SAFE: &str = "sdk_versioned";

#[test]
fn the_safe_api_reads_old_versions_beside_the_newest() {
    skip_without_kvm!();
    let world = World::new();
    assert_eq!(world.good(SAFE, &["words", "old"]), "3 5\n");
    // Also one that the command line has kept, for a program that has not.
    world.says(&["vas", "tag", "words", "tuesday"]);
    world.good(SAFE, &["words", "add", "100", "2"]);
    assert_eq!(world.good(SAFE, &["words", "at", "tuesday"]), "5 7\n");
    assert_eq!(world.good(SAFE, &["words", "at", "monday"]), "3 7\n");
    world.clean_after_gc();
}

#[test]
fn a_rollback_to_another_root_object_is_refused_while_a_program_has_the_space_open() {
    skip_without_kvm!();
    let world = World::new();
    assert_eq!(world.good(SAFE, &["words", "add", "0", "5"]), "");
    let mut talker = Talker::start(world.command(SAFE, &["words", "stay"]), "words stay");
    world.says(&["vas", "tag", "words", "good"]);
    // Version 0 has none, and what is there is zeros.
    let refused = world.spacejmp(&["seg", "rollback", "words", "0"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("another root object"), "{text}");
    assert_eq!(talker.ask("").expect("an answer"), "5");
    world.says(&["vas", "rollback", "words", "good"]);
    assert_eq!(talker.ask("").expect("an answer"), "5");
    talker.end().expect("it ends");
    world.says(&["seg", "rollback", "words", "0"]);
    // One of another type, at the same place.
    assert_eq!(world.good(SAFE, &["words", "number"]), "Ok(7)\n");
    world.says(&["vas", "rollback", "words", "good"]);
    assert_eq!(world.good(SAFE, &["words", "at", "good"]), "5 5\n");
}

#[test]
fn a_version_without_a_tag_gets_one_or_is_copied_and_is_not_shared() {
    skip_without_kvm!();
    let world = bank();
    let first = numbers(&world, "bank")[0].to_string();
    assert_eq!(world.good(PROGRAM, &["bank", "keep", "later"]), "done\n");
    let newest = numbers(&world, "bank")[0];
    let row = |kind: &str| {
        let table = world.says(&[kind, "ls"]);
        let line = table.lines().find(|line| line.starts_with("bank "));
        let cells: Vec<_> = line.expect("a row").split_whitespace().map(str::to_owned).collect();
        cells.contains(&newest.to_string())
    };
    assert!(row("seg") && row("vas"));
    assert_eq!(world.json(&["seg", "ls"])["segments"][0]["version"], newest);
    assert_eq!(world.json(&["vas", "ls"])["vases"][0]["segments"][0]["version"], newest);
    let old = format!("bank@{first}");
    let refused = |args: &[&str], why: &str| {
        let ended = world.spacejmp(args);
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && text.contains(why), "{args:?}: {text}");
    };
    refused(&["vas", "clone", "--share", &old, "window"], "vas tag NAME TAG --at NUMBER");
    world.says(&["vas", "clone", &old, "copy"]);
    // Now it is kept for a while, and that is still no tag.
    refused(&["vas", "clone", "--share", &old, "window"], "vas tag NAME TAG --at NUMBER");
    let made = world.json(&["vas", "tag", "bank", "first", "--at", &first]);
    assert_eq!((&made["name"], made["number"].to_string()), (&json!("bank@first"), first.clone()));
    world.says(&["vas", "clone", "--share", "bank@first", "window"]);
    assert_eq!(world.good(PROGRAM, &["bank", "at", "first"]), "account 1000\n");
    assert_eq!(world.good(PROGRAM, &["bank", "at", "later"]), "account 1000\n");
    assert_eq!(numbers(&world, "copy.bank")[0].to_string(), first);
    assert_eq!(world.json(&["vas", "show", "window"])["segments"][0]["name"], "bank@bank@first");
    refused(&["vas", "tag", "bank", "none", "--at", "999999999"], "has no version 999999999");
    // One that joins later is no part of what the VAS had before, and cannot go back to it.
    world.says(&["seg", "create", "other", "--size", "1M", "--lifetime", "versioned"]);
    world.says(&["vas", "attach", "bank", "other"]);
    world.says(&["vas", "tag", "bank", "again", "--at", &first]);
    assert_eq!(
        world.json(&["vas", "show", "bank@again"])["segments"].as_array().map(Vec::len),
        Some(1)
    );
    refused(&["vas", "rollback", "bank", &first], "spacejmp vas detach bank other");
    world.store().gc().expect("garbage is collected");
    assert_eq!(world.json(&["store", "check"])["findings"], json!([]));
}
