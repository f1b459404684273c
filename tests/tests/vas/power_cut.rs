//! Raw segments that an earlier boot of the host left dirty, and segments that are recovered from
//! the command line.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use tests::skip_without_kvm;

use crate::world::World;

/// Makes a segment's header what a power cut leaves while a program writes: dirty, and of another
/// boot (`docs/src/store.md`).
fn cut_the_power(world: &World, name: &str) {
    let path = world.path().join("segments").join(name);
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the file opens");
    let mut header = [0; 512];
    file.read_exact_at(&mut header, 0).expect("a header");
    header[131] = 1;
    header[112] ^= 1;
    let sum = crc32fast::hash(&header[..508]);
    header[508..].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&header, 0).expect("it can be written");
}

#[test]
fn whoever_enters_what_a_power_cut_left_is_told_until_it_is_recovered() {
    skip_without_kvm!();
    let world = World::new();
    world.good("vas_counter", &["one", "2", "10"]);
    cut_the_power(&world, "one");
    let shown = world.json(&["seg", "show", "one"]);
    assert_eq!((&shown["dirty"], &shown["inconsistent"]), (&true.into(), &true.into()));
    let text = world.spacejmp(&["seg", "show", "one"]);
    let text = String::from_utf8(text.stdout).expect("text");
    assert!(text.contains("dirty, inconsistent (the host lost power"), "{text}");
    // It leaves without recovering it.
    let first = world.good("vas_holder", &["one", "wait"]);
    assert_eq!(first, "waiting\nentered after a death\nleft\n");
    let out = world.good("vas_holder", &["one", "recover"]);
    assert!(out.ends_with("done\n"), "{out}");
    let shown = world.json(&["seg", "show", "one"]);
    assert_eq!((&shown["dirty"], &shown["inconsistent"]), (&false.into(), &false.into()));
    assert_eq!(world.good("vas_counter", &["one", "2", "10"]), "added 20\n");
    world.clean_after_gc();
}

#[test]
fn what_a_user_has_found_whole_is_entered_as_if_nothing_had_happened() {
    skip_without_kvm!();
    let world = World::new();
    world.good("vas_counter", &["one", "2", "10"]);
    cut_the_power(&world, "one");
    let recovered = world.json(&["seg", "recover", "one"]);
    assert_eq!(recovered["was_dirty"], true, "{recovered}");
    assert_eq!(recovered["was_inconsistent"], true, "{recovered}");
    let shown = world.json(&["seg", "show", "one"]);
    assert_eq!((&shown["dirty"], &shown["inconsistent"]), (&false.into(), &false.into()));
    assert_eq!(world.good("vas_counter", &["one", "2", "10"]), "added 20\n");
    // And after a death inside.
    let mut holder = world.spawn("vas_holder", &["one", "write"]);
    holder.wait_for("holding write");
    let refused = world.spacejmp(&["seg", "recover", "one"]);
    assert_eq!(refused.status.code(), Some(125), "{refused:?}");
    let error = String::from_utf8(refused.stderr).expect("text");
    assert!(error.contains(&format!("attached by process {}", holder.pid())), "{error}");
    holder.kill();
    let text = world.spacejmp(&["seg", "recover", "one"]);
    let text = String::from_utf8(text.stdout).expect("text");
    assert_eq!(text, "segment 'one' is clean: it was dirty and inconsistent\n");
    assert_eq!(world.good("vas_counter", &["one", "2", "10"]), "added 20\n");
    world.clean_after_gc();
}

#[test]
fn a_reader_inside_keeps_recovery_out() {
    skip_without_kvm!();
    let world = World::new();
    world.good("vas_counter", &["one", "2", "10"]);
    let mut reader = world.spawn("vas_holder", &["one", "read"]);
    reader.wait_for("holding read");
    let refused = world.spacejmp(&["seg", "recover", "one"]);
    assert_eq!(refused.status.code(), Some(125), "{refused:?}");
    reader.kill();
    let recovered = world.json(&["seg", "recover", "one"]);
    assert_eq!(recovered["was_inconsistent"], false, "{recovered}");
    world.clean_after_gc();
}

#[test]
fn a_program_that_sigterm_ends_leaves_its_segment_dirty_and_one_that_exits_clean() {
    skip_without_kvm!();
    let world = World::new();
    let dirty = || world.json(&["seg", "show", "one"])["dirty"] == true;
    world.good("vas_counter", &["one", "2", "10"]);
    assert!(!dirty());
    let mut vm = world.spawn("vas_holder", &["one", "write"]);
    vm.wait_for("holding write");
    let pid = rustix::process::Pid::from_raw(vm.pid().cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
    assert_ne!(vm.end(), 0);
    assert!(dirty(), "nothing was stored, so nothing may be called clean");
}

#[test]
fn a_reader_sees_what_was_committed_although_the_number_that_others_publish_is_older() {
    skip_without_kvm!();
    let world = World::new();
    world.good("ledger", &["one", "new"]);
    let path = world.path().join("segments").join("one");
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the file opens");
    // Nothing syncs that number: what a power cut leaves of it may be of any age.
    let mut words = [0; 32];
    file.read_exact_at(&mut words, 8192).expect("a published version");
    assert_eq!(world.good("ledger", &["one", "work", "5"]), "1\n2\n3\n4\n5\n");
    file.write_all_at(&words, 8192).expect("it can be written");
    assert_eq!(world.good("ledger", &["one", "check"]), "5\n");
    assert_eq!(world.good("ledger", &["one", "work", "1"]), "6\n");
}
