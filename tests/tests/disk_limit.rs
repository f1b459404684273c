//! `--disk` bounds what a run adds to granted folders and to the store, whichever way a program tries to
//! exceed it.
//!
//! One program, `guests/c/disk_limit.c`, tries to add four times as much, in a way named by its argument.
//! What is on the disk afterwards is measured from outside.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

const MIB: u64 = 1 << 20;
const LIMIT_MIB: u64 = 8;
/// What the VMMs themselves keep in a store: leases, counters, words.
const OWN_BYTES: u64 = MIB;

/// How a run ended.
#[derive(Debug)]
struct Seen {
    said: String,
    status: Option<i32>,
    /// What it was charged with at the end.
    charged: u64,
}

/// Bytes on the disk, in a folder and all below.
fn stored(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let meta = entry.metadata().expect("it is there");
        sum += meta.blocks() * 512;
        if meta.is_dir() {
            sum += stored(&entry.path());
        }
    }
    sum
}

fn run_in(folder: &Path, program: &Path, args: &[&str]) -> Seen {
    let stats = tempfile::NamedTempFile::new().expect("a file");
    let timeout = pace::limit(Duration::from_secs(200)).as_secs().to_string();
    let granted = folder.join("granted");
    let output = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .args(["run", "--log", "error", "--timeout", &timeout])
        .args(["--disk", &format!("{LIMIT_MIB}M"), "--stats=json", "--stats-to"])
        .arg(stats.path())
        .arg("--store")
        .arg(folder.join("store"))
        .arg("--dir")
        .arg(&granted)
        .arg("--cwd")
        .arg(&granted)
        .arg(program)
        .args(args)
        .output()
        .expect("the command starts");
    let text = std::fs::read_to_string(stats.path()).expect("statistics were written");
    let stats: serde_json::Value = serde_json::from_str(&text).expect("they are JSON");
    assert_eq!(stats["limits"]["disk_bytes"], LIMIT_MIB * MIB, "{output:?}");
    let charged = stats["limits"]["disk_used_bytes"].as_u64().expect("a number");
    assert!(charged <= LIMIT_MIB * MIB, "{output:?}: {charged}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.stderr.is_empty(), "{output:?}");
    Seen { said, status: output.status.code(), charged }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(folder.path().join("granted")).expect("a folder is made");
    folder
}

/// Runs one way, which must say `expected` and leave no more than the limit.
#[track_caller]
fn ends(way: &str, expected: &str) -> Seen {
    let folder = folder();
    let granted = folder.path().join("granted");
    let before = stored(&granted);
    let seen = run_in(folder.path(), &guests::c("disk_limit"), &[way, &LIMIT_MIB.to_string()]);
    println!("{way}: {} of {} KiB stored", stored(&granted) >> 10, seen.charged >> 10);
    assert_eq!((seen.said.as_str(), seen.status), (expected, Some(0)), "{seen:?}");
    assert!(stored(&granted) - before <= LIMIT_MIB * MIB, "{seen:?}");
    seen
}

#[test]
fn each_call_that_makes_a_file_grow_fails_at_the_limit() {
    skip_without_kvm!();
    let ways = [
        "write",
        "append",
        "pwrite",
        "writev",
        "truncate",
        "fallocate",
        "keep",
        "sendfile",
        "copy",
        "splice",
        "mmap",
    ];
    for way in ways {
        let seen = ends(way, &format!("{way}: EDQUOT\n"));
        // The last step is a whole one, and the inode counts, too.
        assert!(seen.charged > (LIMIT_MIB - 1) * MIB, "{way}: {seen:?}");
    }
}

#[test]
fn names_count_and_removed_files_are_not_released_before_they_are_gone() {
    skip_without_kvm!();
    ends("names", "names: EDQUOT\n");
    ends("removed", "removed: EDQUOT\n");
}

#[test]
fn a_run_that_makes_room_again_goes_on() {
    skip_without_kvm!();
    ends("room", "room: nothing\n");
}

#[test]
fn threads_that_race_and_processes_that_write_at_once_stay_within_the_limit() {
    skip_without_kvm!();
    ends("race", "race: done\n");
    ends("children", "children: 4 stopped\n");
}

#[test]
fn the_holes_of_a_file_that_was_there_count() {
    skip_without_kvm!();
    let folder = folder();
    let sparse = folder.path().join("granted/sparse");
    let file = File::create(&sparse).expect("a file is made");
    file.set_len(4 * LIMIT_MIB * MIB).expect("it has a length");
    let seen = run_in(folder.path(), &guests::c("disk_limit"), &["hole", "8"]);
    assert_eq!(seen.said, "hole: EDQUOT\nmapped: EDQUOT\n");
    assert_eq!(stored(&folder.path().join("granted")), 0);
}

#[test]
fn raw_segments_count_with_their_size() {
    skip_without_kvm!();
    let folder = folder();
    let program = guests::rust("disk_store");
    let seen = run_in(folder.path(), &program, &["make", &LIMIT_MIB.to_string()]);
    let expected = "another: EDQUOT\ncopy: EDQUOT\ngrow small: EDQUOT\n\
                    grow a little: ok\n";
    assert_eq!((seen.said.as_str(), seen.status), (expected, Some(0)), "{seen:?}");
    assert!(stored(&folder.path().join("store")) <= LIMIT_MIB * MIB + OWN_BYTES);
    // One that was made outside.
    let made = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .env("SPACEJMP_STORE", folder.path().join("store"))
        .args(["seg", "create", "sparse", "--size", "64M", "--lifetime", "persistent"])
        .output()
        .expect("the command starts");
    assert!(made.status.success(), "{made:?}");
    let seen = run_in(folder.path(), &program, &["attach"]);
    assert_eq!(seen.said, "attach: EDQUOT\nattach to read: ok\n");
}

#[test]
fn a_commit_that_would_take_too_much_fails_as_on_a_full_disk_and_a_smaller_one_is_kept() {
    skip_without_kvm!();
    let folder = folder();
    let program = guests::rust("vas_versions");
    let made = run_in(folder.path(), &program, &["bank", "make"]);
    assert_eq!((made.said.as_str(), made.status), ("done\n", Some(0)), "{made:?}");
    let before = stored(&folder.path().join("store"));
    let seen = run_in(folder.path(), &program, &["bank", "full"]);
    assert_eq!((seen.said.as_str(), seen.status), ("done\n", Some(0)), "{seen:?}");
    let added = stored(&folder.path().join("store")).saturating_sub(before);
    assert!(added <= LIMIT_MIB * MIB + OWN_BYTES, "{added}");
}
