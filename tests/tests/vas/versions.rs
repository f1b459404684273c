//! Versioned segments in real VMs: whatever ends a writer, others see all of a change or nothing.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use spacejmp_versions::checksum::Checksum;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm, small_disk};
use vmm::process::Outcome;

use crate::world::{SEED, Talker, World, names};

const PROGRAM: &str = "vas_versions";
/// Where a segment's file has the words that VMs tell each other: behind header and lock page.
const WORDS_OFFSET: u64 = 2 * 4096;

fn bank() -> World {
    let world = World::new();
    assert_eq!(world.good(PROGRAM, &["bank", "make"]), "done\n");
    world
}

/// The files of the only versioned segment.
fn files(world: &World) -> Vec<String> {
    let folder = world.path().join("versions");
    let [segment] = &names(&folder)[..] else { panic!("one versioned segment in {folder:?}") };
    names(&folder.join(segment))
}

#[test]
fn what_a_visit_changed_is_there_for_the_next_vm_and_what_it_aborted_is_not() {
    skip_without_kvm!();
    let world = bank();
    assert_eq!(world.good(PROGRAM, &["bank", "move", "2", "30", "1"]), "done\n");
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "2"]), "states 1\n");
    assert_eq!(world.good(PROGRAM, &["bank", "leave"]), "done\n");
    world.left_clean();
    let log = world.json(&["seg", "log", "bank"]);
    let versions = log["versions"].as_array().expect("a list");
    let numbers: Vec<u64> = versions.iter().filter_map(|it| it["number"].as_u64()).collect();
    assert!(numbers.len() > 20 && numbers.is_sorted_by(|a, b| a > b), "{numbers:?}");
    let moved = &versions[0];
    assert!(moved["pages"].as_u64().is_some_and(|pages| (1..=3).contains(&pages)), "{moved}");
    assert_eq!(moved["program"], PROGRAM, "{moved}");
    let log = world.says(&["seg", "log", "bank"]);
    assert!(log.contains("s ago") && !log.contains("MESSAGE"), "{log}");
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn a_version_says_what_it_is_for_if_its_program_has_said_so() {
    skip_without_kvm!();
    let (world, program) = (World::new(), "vas_messages");
    assert_eq!(world.good(program, &["said"]), "done\n");
    let long = "\u{e9}".repeat(60);
    for of in ["seg", "vas"] {
        let log = world.json(&[of, "log", "said"]);
        let versions = log["versions"].as_array().expect("a list");
        let said: Vec<_> = versions.iter().map(|it| it["message"].as_str()).collect();
        // The newest first; before these is the empty one.
        assert_eq!(said[..6], [&long[..], "", "one", "", "", ""].map(Some), "{of}");
        assert!(versions[..6].iter().all(|it| it["program"] == program), "{log}");
        assert!(world.says(&[of, "log", "said"]).contains(&long), "{of}");
    }
}

#[test]
fn a_program_that_ends_in_the_middle_of_a_change_has_changed_nothing() {
    skip_without_kvm!();
    let world = bank();
    assert_eq!(world.run(PROGRAM, &["bank", "exit"]).in_vm().outcome, Outcome::Exited(7));
    let mut dies = world.spawn(PROGRAM, &["bank", "die"]);
    assert_ne!(dies.end(), 0);
    // The next one is told nothing: there is nothing to repair.
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "3", "1"]), "done\n");
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    world.clean_after_gc();
}

#[test]
fn a_writer_that_the_kernel_has_let_in_is_as_any_other_whatever_it_does_and_however_it_ends() {
    skip_without_kvm!();
    let world = bank();
    for what in ["leave", "grow", "calls", "views", "leave"] {
        assert_eq!(world.good(PROGRAM, &["bank", "again", what]), "done\n", "{what}");
    }
    let ended = world.run(PROGRAM, &["bank", "again", "exit"]).in_vm();
    assert_eq!(ended.outcome, Outcome::Exited(7));
    let mut dies = world.spawn(PROGRAM, &["bank", "again", "die"]);
    assert_ne!(dies.end(), 0);
    assert_eq!(world.good(PROGRAM, &["bank", "move", "3", "30", "1"]), "done\n");
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    world.clean_after_gc();
}

fn taking_turns(world: &World) -> [Talker; 2] {
    ["a", "b"].map(|name| Talker::start(world.command(PROGRAM, &["bank", "turns"]), name))
}

#[test]
fn writers_in_two_vms_go_on_from_what_was_committed_last_whoever_has_let_them_in() {
    skip_without_kvm!();
    let world = bank();
    let mut vms = taking_turns(&world);
    let mut left = 1000;
    // Each of them after itself and after the other one, also several times.
    for vm in [0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0] {
        left -= 1;
        assert_eq!(vms[vm].ask("").as_deref(), Ok(&*format!("has {left}")), "{vm}");
    }
    for vm in &mut vms {
        vm.end().expect("it ends");
    }
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    world.clean_after_gc();
}

/// It does not look for other logs at its first entry if nothing was published since it came, but before
/// its first commit.
#[test]
fn a_writer_who_came_early_and_enters_late_goes_on_from_what_others_did_meanwhile() {
    skip_without_kvm!();
    let world = bank();
    let start = |what| Talker::start(world.command(PROGRAM, &["bank", "turns"]), what);
    let mut left = 1000;
    let mut has = |talker: &mut Talker| {
        left -= 1;
        assert_eq!(talker.ask("").as_deref(), Ok(&*format!("has {left}")));
    };
    for round in 0..3 {
        let mut early = start("early");
        match round {
            0 => {}
            1 => {
                let mut other = start("other");
                has(&mut other);
                other.end().expect("it ends");
            }
            // No new version, and other files.
            _ => drop(world.says(&["vas", "tag", "bank", "monday"])),
        }
        has(&mut early);
        has(&mut early);
        early.end().expect("it ends");
    }
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    world.clean_after_gc();
}

/// Somebody who can write the segment's file says that nothing was published since, but something was.
#[test]
fn a_writer_whom_a_false_count_has_let_in_to_an_older_version_overwrites_nothing() {
    skip_without_kvm!();
    let world = bank();
    let path = world.path().join("segments/bank");
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the segment's file");
    let words = || {
        let mut words = [0; 32];
        file.read_exact_at(&mut words, WORDS_OFFSET).expect("the words");
        words
    };
    let [mut a, mut b] = taking_turns(&world);
    let mut left = 1000;
    let mut has = |said: Result<String, String>| {
        left -= 1;
        assert_eq!(said.as_deref(), Ok(&*format!("has {left}")));
    };
    let mut refused = 0;
    // Once a second a VM lets go of what is not the newest version.
    for _ in 0..20 {
        has(a.ask(""));
        let before = words();
        has(b.ask(""));
        let now = words();
        let mut lie = now;
        lie[16..24].copy_from_slice(&before[16..24]);
        let sum = Checksum::of(&lie[..24]).0.to_le_bytes();
        lie[24..].copy_from_slice(&sum);
        file.write_all_at(&lie, WORDS_OFFSET).expect("it can be written");
        let said = a.ask("");
        if said.as_deref() == Ok("ESTALE") {
            file.write_all_at(&now, WORDS_OFFSET).expect("it can be written");
            refused += 1;
        } else {
            // It has written what is true now.
            has(said);
        }
        if refused == 2 {
            break;
        }
    }
    assert_eq!(refused, 2, "the false count has misled nobody");
    for vm in [&mut a, &mut b] {
        has(vm.ask(""));
        vm.end().expect("it ends");
    }
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
}

#[test]
fn size_and_root_object_are_part_of_a_change() {
    skip_without_kvm!();
    assert_eq!(bank().good(PROGRAM, &["bank", "grow"]), "done\n");
}

#[test]
fn system_calls_see_what_the_thread_sees_and_their_stores_are_its_changes() {
    skip_without_kvm!();
    let world = bank();
    assert_eq!(world.good(PROGRAM, &["bank", "calls"]), "done\n");
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
}

#[test]
fn a_readers_view_stays_while_another_thread_commits() {
    skip_without_kvm!();
    assert_eq!(bank().good(PROGRAM, &["bank", "views"]), "done\n");
}

#[test]
fn readers_in_another_vm_wait_for_nobody_and_always_see_whole_changes() {
    skip_without_kvm!();
    let world = bank();
    let writers =
        ["1", "2"].map(|seed| world.spawn(PROGRAM, &["bank", "move", "2", "1000000", seed]));
    // It ends when it has seen so many.
    assert_eq!(world.good(PROGRAM, &["bank", "watch", "12"]), "states 12\n");
    for mut writer in writers {
        assert!(!writer.has_ended(), "{}{}", writer.out(), writer.err());
        writer.kill();
    }
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    world.clean_after_gc();
}

#[test]
fn a_writer_that_is_killed_anywhere_leaves_a_whole_version_and_no_lock() {
    skip_without_kvm!();
    let world = bank();
    let mut random = SEED;
    let mut reader = world.spawn(PROGRAM, &["bank", "sums", "100000"]);
    for round in 0..pace::times(8) {
        world.kill_at_random(
            PROGRAM,
            &["bank", "move", "2", "1000000", &round.to_string()],
            &mut random,
        );
        assert!(!reader.has_ended(), "round {round}: {}{}", reader.out(), reader.err());
        // Whoever comes next waits for no dead one.
        let began = std::time::Instant::now();
        assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "2", "1"]), "done\n");
        assert!(began.elapsed() < pace::limit(Duration::from_secs(20)), "{:?}", began.elapsed());
    }
    reader.kill();
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    world.clean_after_gc();
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn logs_that_fill_up_are_brought_to_the_home_file() {
    skip_without_kvm!();
    let world = bank();
    // 150 commits of 128 pages are 75 MiB, of which 512 KiB are worth keeping.
    assert_eq!(world.good(PROGRAM, &["bank", "many", "150"]), "done\n");
    let files = files(&world);
    assert!(files.len() <= 4, "{files:?}");
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
}

#[test]
fn a_full_disk_fails_the_commit_as_a_whole_and_the_program_goes_on() {
    skip_without_kvm!();
    let test = "a_full_disk_fails_the_commit_as_a_whole_and_the_program_goes_on";
    let folder = tempfile::tempdir().expect("a temporary directory");
    // What the failed commit had taken of the disk is there for others.
    let script = r#"set -e
        store=$1/store; shift
        "$1" run --timeout 100 --store "$store" "$2" bank make
        "$1" run --timeout 100 --store "$store" "$2" bank full
        head -c 3000000 /dev/zero > "$store/room"
        "$1" run --timeout 100 --store "$store" "$2" bank sums 1"#;
    let mut run = Command::new("sh");
    run.args(["-c", script, "sh"]).arg(folder.path());
    run.arg(guests::program("spacejmp-cli", "spacejmp", Profile::Dev)).arg(guests::rust(PROGRAM));
    let Some(output) = small_disk::run(test, folder.path(), &run) else { return };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said, "done\ndone\nstates 1\n");
}

const SAFE: &str = "sdk_versioned";

#[test]
fn the_safe_api_keeps_whole_visits_and_a_process_that_gave_many_up_goes_on() {
    skip_without_kvm!();
    let world = World::new();
    world.good(SAFE, &["words", "add", "0", "40"]);
    assert_eq!(world.good(SAFE, &["words", "count"]), "40\n");
    // On the error output are the messages of the panics.
    let fives = (pace::times(100) / 5).max(2);
    let ended = world.run(SAFE, &["words", "abort", &(5 * fives).to_string()]).in_vm();
    assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
    let count = |more: u32| format!("{}\n", 40 + fives + more);
    assert_eq!(ended.out(), count(0));
    assert_eq!(world.good(SAFE, &["words", "count"]), count(0));
    assert_eq!(world.good(SAFE, &["words", "nested"]), "nested\n");
    assert_eq!(world.good(SAFE, &["words", "count"]), count(2));
    assert_eq!(world.good(SAFE, &["words", "watch"]), "watched\n");
    assert_eq!(world.good(SAFE, &["words", "count"]), count(4));
    let brand = "versioned, and pointers of brand `Kept` may be kept between visits: give the brand a \
                 lifetime, as in `brand! { Kept<'v> => ... }`";
    let refused = ["words", "words", "words", "fresh"].map(|name| format!("`{name}` is {brand}\n"));
    assert_eq!(world.good(SAFE, &["words", "kept"]), refused.concat());
    for round in 0..u64::from(pace::times(4)) {
        let mut writer = world.spawn(SAFE, &["words", "add", &(1000 * round).to_string(), "900"]);
        std::thread::sleep(Duration::from_millis(250 + 60 * round));
        writer.kill();
        let before = world.good(SAFE, &["words", "count"]);
        assert!(before.trim().parse::<u32>().is_ok_and(|now| now >= 43 + fives), "{before}");
    }
    world.clean_after_gc();
}

#[test]
fn a_visit_that_fills_the_disk_is_an_error_and_has_not_happened() {
    skip_without_kvm!();
    let test = "a_visit_that_fills_the_disk_is_an_error_and_has_not_happened";
    let folder = tempfile::tempdir().expect("a temporary directory");
    let script = r#"set -e
        store=$1/store; shift
        for what in 'add 5 3' full count 'add 9 1' count; do
            "$1" run --timeout 100 --store "$store" "$2" words $what
        done"#;
    let mut run = Command::new("sh");
    run.args(["-c", script, "sh"]).arg(folder.path());
    run.arg(guests::program("spacejmp-cli", "spacejmp", Profile::Dev)).arg(guests::rust(SAFE));
    let Some(output) = small_disk::run(test, folder.path(), &run) else { return };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said, "refused\n3\n4\n");
}
