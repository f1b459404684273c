//! Types that have changed since their values were stored: programs of three versions, one after another, at the
//! same time, and killed in between.

use tests::skip_without_kvm;

use crate::world::{Talker, World};

const PROGRAM: &str = "sdk_changing";

const NEWER: &str = "the root object of `notes` is `struct Notes` of version 2, and this program has version 1 \
                     of it: use a newer build of the program\n";

/// What version 2 has in place of the fields of version 1, as errors say it.
const CHANGES: &[&str] = &[
    "  changed: list > struct Note version 2 (",
    "; it was struct Note (",
    "\n  gone: count: u32\n",
    "\n  changed: order > ",
    "\n  gone: cache: VVec version 1",
    "\n  new: total: u32 (4 bytes, align 4)\n  new: tags: VVec version 1",
];

/// Errors that tell the two versions name the fields that differ.
#[track_caller]
fn tells_the_changes(text: &str) {
    for part in CHANGES {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn opening_makes_the_root_object_anew_and_what_was_there_is_readable_by_its_tag() {
    skip_without_kvm!();
    let world = World::new();
    let before = "1: 300 of 300, by text, cache 100, whole true\n";
    assert_eq!(world.good(PROGRAM, &["1", "fill", "300"]), before);
    let _ = world.says(&["vas", "tag", "notes", "monday"]);

    let preview = world.good(PROGRAM, &["2", "preview"]);
    let expected = "Upgrade { name: \"struct Notes\", from: 1, to: 2, changes: [\"changed: list > struct Note ";
    assert!(preview.starts_with(expected), "{preview}");
    assert_eq!(world.good(PROGRAM, &["1", "preview"]), "AsIs\n");
    assert_eq!(world.good(PROGRAM, &["1", "show"]), before, "a preview changes nothing");

    let after = "2: 300 of 300, alphabetic true 2, 0 tags, whole true\n";
    assert_eq!(world.good(PROGRAM, &["2", "show"]), after);
    assert_eq!(world.good(PROGRAM, &["2", "show"]), after, "once is enough");
    assert_eq!(world.good(PROGRAM, &["2", "preview"]), "AsIs\n");
    let newer = world.good(PROGRAM, &["1", "show"]);
    assert!(newer.starts_with(NEWER), "{newer}");
    tells_the_changes(&newer);
    let old = world.good(PROGRAM, &["2", "at", "monday"]);
    let told = "the root object of `notes@monday` is `struct Notes` of version 1; this program would make version \
                2 of it, but it is opened to be read: open it to write once, or read it as what it was with \
                `Space::at_as`\n";
    assert!(old.starts_with(told) && old.ends_with(&format!("\n{before}")), "{old}");

    let checked = world.says(&["vas", "check", "notes"]);
    assert!(!checked.contains("lost"), "{checked}");
    // Back: the old program reads it again, and the new one makes it anew again.
    let _ = world.says(&["vas", "rollback", "notes", "monday"]);
    assert_eq!(world.good(PROGRAM, &["1", "show"]), before);
    assert_eq!(world.good(PROGRAM, &["2", "show"]), after);
    world.left_clean();
}

#[test]
fn two_versions_are_gone_through_at_once_and_the_one_in_between_is_told() {
    skip_without_kvm!();
    let world = World::new();
    let _ = world.good(PROGRAM, &["1", "fill", "20"]);
    assert_eq!(world.good(PROGRAM, &["3", "show"]), "3: 20, whole true\n");
    let told = world.good(PROGRAM, &["2", "show"]);
    let expected =
        "the root object of `notes` is `struct Notes` of version 3, and this program has version 2";
    assert!(told.starts_with(expected), "{told}");
    world.left_clean();
}

#[test]
fn a_kill_a_panic_and_a_full_segment_in_the_middle_leave_the_old_values() {
    skip_without_kvm!();
    let world = World::new();
    let before = "1: 100 of 100, by day, cache 100, whole true\n";
    assert_eq!(world.good(PROGRAM, &["1", "fill", "100"]), before);
    let mut vm = world.spawn(PROGRAM, &["2", "stuck"]);
    vm.wait_for("stuck");
    vm.kill();
    assert_eq!(world.good(PROGRAM, &["1", "show"]), before);
    let ended = world.run(PROGRAM, &["2", "panic"]).in_vm();
    assert_eq!(ended.out(), "2: 100 of 100, by day, 0 tags, whole true\n", "{ended:?}");

    let world = World::new();
    let before = world.good(PROGRAM, &["1", "tight", "14000"]);
    assert!(before.ends_with("whole true\n"), "{before}");
    let told = world.good(PROGRAM, &["2", "show"]);
    assert!(told.starts_with("no room for ") && told.ends_with("`Two`\n"), "{told}");
    assert_eq!(world.good(PROGRAM, &["1", "show"]), before);
}

#[test]
fn what_is_opened_to_be_read_or_forbidden_or_not_versioned_stays_as_it_is() {
    skip_without_kvm!();
    let world = World::new();
    let before = world.good(PROGRAM, &["1", "fill", "5"]);
    let told = world.good(PROGRAM, &["2", "look"]);
    assert!(told.contains("but it is opened to be read"), "{told}");
    let forbidden = world.run(PROGRAM, &["2", "show"]).env("SPACEJMP_UPGRADE", "no").in_vm().out();
    let reason = "this program would make version 2 of it, but SPACEJMP_UPGRADE=no forbids it\n";
    assert!(forbidden.contains(reason), "{forbidden}");
    tells_the_changes(&forbidden);
    assert_eq!(world.good(PROGRAM, &["1", "show"]), before);

    let world = World::new();
    assert_eq!(world.good(PROGRAM, &["1", "raw"]), "made\n");
    let told = world.good(PROGRAM, &["2", "raw"]);
    assert!(told.contains("but it is not versioned"), "{told}");
}

#[test]
fn programs_that_have_it_open_are_told_and_two_that_open_it_at_once_agree() {
    skip_without_kvm!();
    let world = World::new();
    let _ = world.good(PROGRAM, &["1", "fill", "2000"]);
    let mut old = Talker::start(world.command(PROGRAM, &["1", "stay"]), "stay");
    let now = old.ask("").expect("an answer");
    assert_eq!(now, "1: 2000 of 2000, random, cache 100, whole true");
    let mut new = [0; 2].map(|_| world.spawn(PROGRAM, &["2", "show"]));
    for vm in &mut new {
        assert_eq!(vm.ends_well(), "2: 2000 of 2000, random, 0 tags, whole true\n");
    }
    let told = old.ask("").expect("an answer");
    assert_eq!(
        told,
        "the segments of `notes` have been changed since it was opened; open it again"
    );
    old.end().expect("it ends well");
    world.left_clean();
}
