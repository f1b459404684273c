//! What versioned segments take on the disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tests::skip_without_kvm;

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
