//! Visits to read a versioned segment that take no exit: the guest kernel lets threads in and out. What
//! they see, and what the VMM must not do meanwhile. The exits are counted in `exit_counts.rs`.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use abi::layout::LIVE_PUBLISHED;
use tests::{pace, skip_without_kvm};

use crate::world::World;

const PROGRAM: &str = "vas_versions";
/// Where a segment's file has the words that VMs tell each other: behind header and lock page.
const WORDS_OFFSET: u64 = 2 * 4096;

fn bank() -> World {
    let world = World::new();
    assert_eq!(world.good(PROGRAM, &["bank", "make"]), "done\n");
    world
}

#[test]
fn threads_that_go_in_and_out_see_whole_versions_and_none_older_than_they_knew() {
    skip_without_kvm!();
    let commits = pace::times(60).to_string();
    assert_eq!(bank().good(PROGRAM, &["bank", "readers", "3", &commits]), "done\n");
}

#[test]
fn an_instance_is_not_detached_while_a_thread_is_inside_that_the_kernel_let_in() {
    skip_without_kvm!();
    assert_eq!(bank().good(PROGRAM, &["bank", "busy"]), "done\n");
}

#[test]
fn what_a_thread_sees_that_the_kernel_let_in_stays_while_logs_are_brought_elsewhere() {
    skip_without_kvm!();
    let world = bank();
    // 150 commits of 128 pages are 75 MiB, more than a log.
    assert_eq!(world.good(PROGRAM, &["bank", "long", "150"]), "done\n");
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    world.clean_after_gc();
}

/// Whoever can write the segment's file can write there what they like: readers look at it, and go on.
#[test]
fn whatever_lies_where_versions_are_published_readers_see_a_whole_version() {
    skip_without_kvm!();
    let world = bank();
    let path = world.path().join("segments/bank");
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the segment's file");
    let live = world.path().join("live");
    let live = OpenOptions::new().write(true).open(live).expect("the counters");
    let mut before = [0; 192];
    file.read_exact_at(&mut before, WORDS_OFFSET).expect("the words");
    assert_ne!(before[..32], [0; 32], "a version was published");
    let mut reader = world.spawn(PROGRAM, &["bank", "sums", "1000000"]);
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..pace::times(40) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = random >> 40 & 0xb8;
        // Odd numbers, and what was there.
        let word = if round % 4 == 3 { [0; 8] } else { random.to_le_bytes() };
        file.write_all_at(&word, WORDS_OFFSET + at).expect("it can be written");
        live.write_all_at(&random.to_le_bytes(), LIVE_PUBLISHED).expect("it can be written");
        std::thread::sleep(std::time::Duration::from_millis(10));
        if round % 2 == 1 {
            file.write_all_at(&before, WORDS_OFFSET).expect("it can be written");
        }
        assert!(!reader.has_ended(), "round {round}: {}{}", reader.out(), reader.err());
    }
    file.write_all_at(&before, WORDS_OFFSET).expect("it can be written");
    assert!(!reader.has_ended(), "{}{}", reader.out(), reader.err());
    reader.kill();
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "5", "1"]), "done\n");
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
}

/// The kernel looks at that page. As with the lock of a raw segment, the VM ends with the file's name.
#[test]
fn a_segment_whose_file_is_cut_ends_its_readers_by_name() {
    skip_without_kvm!();
    let world = bank();
    let mut reader = world.spawn(PROGRAM, &["bank", "sums", "1000000"]);
    crate::damage::vm_has(&mut reader, &world.path().join("segments/bank"));
    let path = world.path().join("segments/bank");
    OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(4096)).expect("cut");
    let status = reader.end();
    let said = reader.err();
    assert!(status > 0, "{status}: {said}{}", reader.out());
    // The program itself, if it has only now come to attach the segment.
    let is_programs = |at: &str| at.starts_with("tests/guests/");
    assert!(said.split("panicked at ").skip(1).all(is_programs), "{said}");
    if status == 125 {
        assert!(said.contains(&path.display().to_string()), "the file is not named: {said}");
    }
}
