//! Files of the store that are damaged or cut: one error, and everybody else goes on.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use tests::skip_without_kvm;

use crate::world::World;

#[test]
fn a_damaged_header_stops_its_segment_and_no_other() {
    skip_without_kvm!();
    let world = World::new();
    world.good("vas_persist", &["write", "sound", "50"]);
    world.good("vas_persist", &["write", "hurt", "50"]);
    let file = OpenOptions::new()
        .write(true)
        .open(world.path().join("segments/hurt"))
        .expect("the file opens");
    file.write_all_at(b"\xff\xff\xff\xff\xff\xff\xff\xff", 24).expect("it can be written");
    let ended = world.run("vas_persist", &["read", "hurt"]).in_vm();
    assert_ne!(ended.outcome, vmm::process::Outcome::Exited(0), "{ended:?}");
    assert!(ended.err().contains("seg_find"), "{ended:?}");
    assert!(world.good("vas_persist", &["read", "sound"]).starts_with("nodes 50 sum "));
    world.left_clean();
}

#[test]
fn a_damaged_manifest_stops_its_vas_and_no_other() {
    skip_without_kvm!();
    let world = World::new();
    world.good("vas_persist", &["write", "sound", "50"]);
    world.good("vas_persist", &["write", "hurt", "50"]);
    let path = world.path().join("vas/hurt/manifest");
    let mut bytes = std::fs::read(&path).expect("the manifest is text");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    let ended = world.run("vas_persist", &["read", "hurt"]).in_vm();
    assert_ne!(ended.outcome, vmm::process::Outcome::Exited(0), "{ended:?}");
    assert!(world.good("vas_persist", &["read", "sound"]).starts_with("nodes 50 sum "));
    world.left_clean();
}

/// Cuts the file of a segment that a program counts in, and waits for the program's end. Cut
/// below its lock page, it may be the VMM that touches what is gone and is ended by SIGBUS
/// (status -1 here): no report then, but no hang, and nobody else is harmed.
fn cut_while_in_use(len: u64) {
    let world = World::new();
    let mut vm = world.spawn("vas_counter", &["cut", "2", "1000000"]);
    let path = world.path().join("segments/cut");
    while !path.exists() {
        assert!(!vm.has_ended(), "{}{}", vm.out(), vm.err());
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(!vm.has_ended(), "{}{}", vm.out(), vm.err());
    let file = OpenOptions::new().write(true).open(&path).expect("the file opens");
    file.set_len(len).expect("it can be cut");
    let status = vm.end();
    println!("cut to {len}: status {status}, {}", vm.err());
    assert_ne!(status, 0, "it went on: {}", vm.out());
    assert!(!vm.err().contains("panicked at"), "{}", vm.err());
    // Others of the store are not concerned.
    assert!(world.good("vas_persist", &["write", "other", "10"]).starts_with("nodes 10 sum "));
}

#[test]
fn a_segment_cut_to_its_header_while_mapped_ends_the_program() {
    skip_without_kvm!();
    cut_while_in_use(2 << 20);
}

#[test]
fn a_segment_cut_to_nothing_while_mapped_ends_the_program() {
    skip_without_kvm!();
    cut_while_in_use(0);
}
