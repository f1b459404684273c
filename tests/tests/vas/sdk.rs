//! The safe API in real VMs: one program that checks everything one VM can see, and typed
//! spaces shared by VMs that write at the same time, wait, and are killed.

use serde_json::json;
use tests::skip_without_kvm;

use crate::world::World;

#[test]
fn the_safe_api_does_what_it_says_and_refuses_what_it_must() {
    skip_without_kvm!();
    let world = World::new();
    let out = world.good("sdk_basic", &[]);
    assert!(out.ends_with("done\n"), "{out}");
    let refusal = "ok: a root of another type is refused:\n\
                   the root object of `chain` is `Option`, not `Option`\n  \
                   expected: value +0: i64 (8 bytes, align 8)\n     \
                   found: value +0: u64 (8 bytes, align 8)\n";
    assert!(out.contains(refusal), "{out}");
    assert!(world.store().list_vases().expect("a list").is_empty(), "a VAS is left");
    assert!(world.store().list_segments().expect("a list").is_empty(), "a segment is left");
    world.left_clean();
}

#[test]
fn two_vms_count_in_one_space_and_lose_nothing() {
    skip_without_kvm!();
    let world = World::new();
    let mut one = world.spawn("sdk_holder", &["count", "2", "500"]);
    let mut two = world.spawn("sdk_holder", &["count", "3", "500"]);
    one.ends_well();
    two.ends_well();
    assert_eq!(world.good("sdk_holder", &["enter"]), "entered 2500 2500\n");
    world.left_clean();
}

#[test]
fn whoever_would_wait_for_another_vm_is_told() {
    skip_without_kvm!();
    let world = World::new();
    let mut holder = world.spawn("sdk_holder", &["hold"]);
    holder.wait_for("holding");
    let expected = "`shared` is locked by others (waited 0ns)\n\
                    `shared` is locked by others (waited 0ns)\n\
                    `shared` is locked by others (waited 50ms)\n";
    assert_eq!(world.good("sdk_holder", &["try"]), expected);
    holder.kill();
    world.clean_after_gc();
}

#[test]
fn a_writer_that_is_killed_leaves_an_inconsistent_space_until_it_is_recovered() {
    skip_without_kvm!();
    let world = World::new();
    assert_eq!(world.good("sdk_holder", &["count", "1", "10"]), "entered 10 10\n");
    let mut holder = world.spawn("sdk_holder", &["hold"]);
    holder.wait_for("holding");
    holder.kill();
    let refused = "`shared` is inconsistent: a program died while it was writing; see \
                   `Space::recover`\n";
    // Twice: the report changes nothing.
    assert_eq!(world.good("sdk_holder", &["enter"]), refused);
    assert_eq!(world.good("sdk_holder", &["enter"]), refused);
    assert_eq!(world.good("sdk_holder", &["recover"]), "entered 11 11\n");
    assert_eq!(world.good("sdk_holder", &["enter"]), "entered 11 11\n");
    world.clean_after_gc();
}

#[test]
fn another_program_with_another_type_is_told_both_and_the_first_difference() {
    skip_without_kvm!();
    let world = World::new();
    let _ = world.good("sdk_holder", &["count", "1", "1"]);
    let expected = "the root object of `shared` is `struct Pair`, not `struct Triple`\n  \
                    expected: struct Triple (16 bytes, align 8)\n     \
                    found: struct Pair (16 bytes, align 8)\n";
    assert_eq!(world.good("sdk_holder", &["wrong"]), expected);
    world.left_clean();
}

#[test]
fn collections_are_read_and_changed_by_another_program_in_another_vm() {
    skip_without_kvm!();
    let world = World::new();
    assert_eq!(world.good("sdk_fill", &["20000"]), "filled 20000\n");
    let found = world.good("sdk_find", &["20000"]);
    assert!(found.ends_with("done\n"), "{found}");
    // The first program continues with what the second one left.
    let filled = world.good("sdk_fill", &["100"]);
    let total: usize = filled.trim_start_matches("filled ").trim().parse().expect("a number");
    assert!((5_000..20_000).contains(&total), "{filled}");
    world.left_clean();
}

#[test]
fn an_ordered_map_and_an_arena_are_what_a_model_says_in_every_vm_that_comes() {
    skip_without_kvm!();
    let world = World::new();
    let mut before = 0;
    for after in [4_000, 9_000, 9_000, 15_000] {
        let out = world.good("sdk_model", &[&before.to_string(), &after.to_string()]);
        assert!(out.ends_with("done\n"), "{out}");
        let report = world.json(&["seg", "check", "books"]);
        assert_eq!(report["findings"], json!([]), "after {after} steps");
        let heap = &report["heap"];
        assert!(heap["blocks"].as_u64() > Some(1_000), "{heap}");
        assert_eq!(heap["leaked_blocks"], 0, "{heap}");
        before = after;
    }
    world.left_clean();
}

#[test]
fn collections_of_std_made_in_a_scope_are_read_and_changed_by_the_next_run() {
    skip_without_kvm!();
    let world = World::new();
    // 1 to 3 digits for the line, 1 to 2 for the word.
    let filled = "20000 lines, 20102 words, 406890 bytes, 200 with word-42, last \
                  Some(\"line 19999 of word-99\")\n";
    assert_eq!(world.good("sdk_scope", &["fill", "20000"]), filled);
    assert_eq!(world.good("sdk_scope", &["read"]), filled);
    let out = world.good("sdk_scope", &["drop"]);
    assert!(out.ends_with("done\n"), "{out}");
    let left = "10001 lines, 20102 words, 203450 bytes, 200 with word-42, last Some(\"added\")\n";
    assert_eq!(world.good("sdk_scope", &["read"]), left);
    world.left_clean();
}

#[test]
fn spaces_of_one_brand_are_open_at_once_and_what_is_moved_from_one_to_another_frees_nothing_there()
{
    skip_without_kvm!();
    let world = World::new();
    let entries =
        |first: usize, others: usize| format!("{first} {}", format!("{others} ").repeat(11));
    assert_eq!(world.good("sdk_months", &["12"]), format!("{}440\n", entries(1, 2)));
    let again = world.good("sdk_months", &["12"]);
    assert!(again.starts_with(&entries(2, 4)), "{again}");
    for month in 0..12 {
        let report = world.json(&["seg", "check", &format!("month-{month}")]);
        // The root, its type, a node and the texts; and the text that was taken out in each run, and dropped elsewhere, but for the
        // last month. Whether nothing leads to it is not asked: the node may have its old bytes behind those in use.
        let (texts, lost) = (if month == 0 { 2 } else { 4 }, if month == 11 { 0 } else { 2 });
        let found = (&report["sound"], &report["heap"]["blocks"]);
        assert_eq!(found, (&json!(true), &json!(3 + texts + lost)), "{month}: {report}");
    }
}

#[test]
fn queues_and_shared_owners_go_on_in_the_next_vm_and_counts_of_owners_are_undone_with_all_else() {
    skip_without_kvm!();
    let world = World::new();
    assert_eq!(world.good("sdk_queues", &["work", "add", "0", "30"]), "");
    let people = "[\"Ada:10\", \"Emmy:10\", \"Grace:10\"]";
    let shown = format!("30 open, 11 owners, {people}, [], []\n");
    assert_eq!(world.good("sdk_queues", &["work", "show"]), shown);
    assert_eq!(world.good("sdk_queues", &["work", "abort"]), "");
    assert_eq!(world.good("sdk_queues", &["work", "show"]), shown);
    let first = "6 6 Ada\n13 6 Emmy\n20 6 Grace\n27 6 Ada\n5 5 Grace\n12 5 Ada\n";
    assert_eq!(world.good("sdk_queues", &["work", "take", "6"]), first);
    let _ = world.good("sdk_queues", &["work", "abort"]);
    let next = "19 5 Emmy\n26 5 Grace\n4 4 Emmy\n11 4 Grace\n18 4 Ada\n25 4 Emmy\n";
    assert_eq!(world.good("sdk_queues", &["work", "take", "6"]), next);
    let done = "[\"25 4 Emmy\", \"18 4 Ada\", \"11 4 Grace\", \"4 4 Emmy\", \"26 5 Grace\", \
                \"19 5 Emmy\", \"12 5 Ada\", \"5 5 Grace\", \"27 6 Ada\", \"20 6 Grace\"]";
    let counts = "[((\"Ada\", 4), 1), ((\"Ada\", 5), 1), ((\"Ada\", 6), 2), ((\"Emmy\", 4), 2), \
                  ((\"Emmy\", 5), 1), ((\"Emmy\", 6), 1), ((\"Grace\", 4), 1), ((\"Grace\", 5), 2), \
                  ((\"Grace\", 6), 1)]";
    // Of eleven owners of each name four jobs' are gone.
    let shown = format!("18 open, 7 owners, {people}, {done}, {counts}\n");
    assert_eq!(world.good("sdk_queues", &["work", "show"]), shown);
    let report = world.json(&["seg", "check", "work"]);
    assert_eq!((&report["findings"], &report["heap"]["leaked_blocks"]), (&json!([]), &json!(0)));
    // All others die with their owners.
    assert_eq!(world.good("sdk_queues", &["work", "take", "18"]).lines().count(), 18);
    let shown = world.good("sdk_queues", &["work", "show"]);
    assert!(shown.starts_with("0 open, 0 owners, "), "{shown}");
    let report = world.json(&["seg", "check", "work"]);
    assert_eq!(report["heap"]["leaked_blocks"], 0, "{report}");
    world.left_clean();
}
