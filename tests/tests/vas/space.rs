//! What versioned segments take on the disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tests::{guests, skip_without_kvm};

use crate::world::{World, names};

const MIB: u64 = 1 << 20;

/// Bytes of all versioned segments' files whose names begin so.
fn taken(world: &World, prefix: &str) -> u64 {
    let folder = world.path().join("versions");
    let of_segment = |folder: &Path| -> u64 {
        let files = names(folder).into_iter().filter(|name| name.starts_with(prefix));
        files.map(|name| folder.join(name).metadata().expect("it is there").blocks() * 512).sum()
    };
    names(&folder).iter().map(|segment| of_segment(&folder.join(segment))).sum()
}

#[test]
fn removed_pages_are_zeros_as_part_of_the_change() {
    skip_without_kvm!();
    let world = World::new();
    for step in ["make", "remove"] {
        assert_eq!(world.good("vas_versions", &["bank", step]), "done\n");
    }
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn what_is_filled_in_order_is_large_pages_which_commits_aborts_and_removals_take_as_any_others() {
    skip_without_kvm!();
    let world = World::new();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let stats = folder.path().join("stats");
    let mut run = world.command_of(&["run", "--stats=json", "--stats-to"]);
    let ended = run.arg(&stats).arg(guests::rust("vas_filled")).args(["words", "fill"]).output();
    let ended = ended.expect("the command starts");
    assert_eq!(ended.stdout, b"done\n", "{ended:?}");
    let stats = std::fs::read_to_string(&stats).expect("statistics were written");
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("they are JSON");
    let memory = stats["memory"].as_array().expect("memory by kind");
    let tables = memory.iter().find(|one| one["kind"] == "tables").expect("of tables");
    // As pages of 4 KiB, eleven times 2 MiB have a table each.
    let peak = tables["peak_bytes"].as_u64().expect("a number");
    assert!(peak < 80 << 10, "{peak} bytes of tables");
    assert_eq!(world.good("vas_filled", &["words", "look"]), "done\n");
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn who_goes_through_scattered_pages_reads_copies_of_2_mib_in_bounded_memory() {
    skip_without_kvm!();
    let world = World::new();
    assert_eq!(world.good("vas_scattered", &["words", "make"]), "done\n");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let stats = folder.path().join("stats");
    let copied = |limit: &str| {
        let mut run = world.command_of(&["run", "--memory", limit, "--stats=json", "--stats-to"]);
        let program = guests::rust("vas_scattered");
        let ended = run.arg(&stats).arg(program).args(["words", "read"]).output();
        let ended = ended.expect("the command starts");
        assert_eq!(ended.stdout, b"done\n", "{ended:?}");
        let stats = std::fs::read_to_string(&stats).expect("statistics were written");
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("they are JSON");
        let memory = stats["memory"].as_array().expect("memory by kind");
        let copied = memory.iter().find(|one| one["kind"] == "versioned").expect("of copies");
        copied["peak_bytes"].as_u64().expect("a number")
    };
    // The first 2 MiB of six tell that a thread goes through them.
    assert_eq!(copied("256M"), 10 * MIB);
    let (some, quarter) = (copied("32M"), 8 * MIB);
    assert!((2 * MIB..=quarter).contains(&some), "{some} bytes");
}

#[test]
fn the_last_to_leave_leaves_a_short_log_and_freed_pages_give_their_space_back() {
    skip_without_kvm!();
    let world = World::new();
    world.good("sdk_versioned", &["words", "fill", "20"]);
    let logs = taken(&world, "log.");
    assert!(logs <= 8 * MIB, "{logs} bytes of logs");
    let home = taken(&world, "home");
    assert!(home > 20 * MIB, "{home} bytes of 20 MiB and more");
    world.good("sdk_versioned", &["words", "empty"]);
    let all = taken(&world, "");
    assert!(all < 8 * MIB, "{all} bytes are left");
    world.good("sdk_versioned", &["words", "fill", "20"]);
    let all = taken(&world, "");
    assert!(all < 32 * MIB, "{all} bytes of 20 MiB and more");
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
    world.left_clean();
}
