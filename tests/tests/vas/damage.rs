//! Files of the store that are damaged or truncated: one error, and all other programs
//! continue.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::skip_without_kvm;

use crate::world::{Vm, World};

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

/// Truncates a file of the store while a program counts in a lockable segment, and waits for its
/// end, which must be an error: the program's, for lost content, or the VMM's own, which
/// names the file. No other program is harmed. Returns the output, and the status.
fn cut_while_in_use(find: impl Fn(&Path) -> PathBuf, len: u64) -> (String, i32) {
    let world = World::new();
    let mut vm = world.spawn("vas_counter", &["cut", "2", "1000000"]);
    vm_has(&mut vm, &world.path().join("segments/cut"));
    let path = find(&world.path());
    let file = OpenOptions::new().write(true).open(&path).expect("the file opens");
    file.set_len(len).expect("it can be cut");
    let status = vm.end();
    let said = vm.err();
    println!("{} cut to {len}: status {status}, {said}", path.display());
    assert_ne!(status, 0, "it went on: {}", vm.out());
    assert!(status > 0, "ended by a signal, without a report: {said}");
    assert!(!said.contains("panicked at"), "{said}");
    assert!(said.starts_with("spacejmp: "), "{said:?}");
    if status == 125 {
        assert!(said.contains(&path.display().to_string()), "the file is not named: {said}");
    }
    // Other objects of the store are not affected.
    assert!(world.good("vas_persist", &["write", "other", "10"]).starts_with("nodes 10 sum "));
    (said, status)
}

fn the_segment(store: &Path) -> PathBuf {
    store.join("segments/cut")
}

/// The only VM's.
fn the_lease(store: &Path) -> PathBuf {
    let mut leases = std::fs::read_dir(store.join("vms")).expect("the folder can be listed");
    leases.next().expect("the VM has a lease").expect("an entry").path()
}

#[test]
fn a_segment_cut_to_its_header_while_mapped_ends_the_program() {
    skip_without_kvm!();
    let (said, status) = cut_while_in_use(the_segment, 2 << 20);
    assert_eq!(status, 128 + 7, "{said}");
}

#[test]
fn a_segment_cut_below_its_lock_while_mapped_ends_with_an_error() {
    skip_without_kvm!();
    cut_while_in_use(the_segment, 4096);
}

#[test]
fn a_segment_cut_to_nothing_while_mapped_ends_with_an_error() {
    skip_without_kvm!();
    cut_while_in_use(the_segment, 0);
}

#[test]
fn a_lease_cut_while_mapped_ends_with_an_error() {
    skip_without_kvm!();
    cut_while_in_use(the_lease, 4096);
}

#[test]
fn a_count_of_changes_cut_while_mapped_ends_with_an_error() {
    skip_without_kvm!();
    let world = World::new();
    world.store();
    let live = world.path().join("live");
    let mut vm = world.spawn("vas_counter", &["cut", "2", "1000000"]);
    vm_has(&mut vm, &world.path().join("segments/cut"));
    let whole = std::fs::read(&live).expect("it can be read");
    OpenOptions::new().write(true).open(&live).expect("it opens").set_len(0).expect("it is cut");
    let status = vm.end();
    assert!(status > 0, "{status}: {}", vm.err());
    println!("status {status}, {}", vm.err());
    let named = format!("{} was truncated", live.display());
    assert!(vm.err().starts_with("spacejmp: ") && vm.err().contains(&named), "{}", vm.err());
    // Once repaired, the store works as before.
    std::fs::write(&live, whole).expect("it can be written");
    world.good("vas_counter", &["cut", "2", "10"]);
}

/// Waits until a VM has created a file, and a moment more.
pub(crate) fn vm_has(vm: &mut Vm, path: &Path) {
    while !path.exists() {
        assert!(!vm.has_ended(), "{}{}", vm.out(), vm.err());
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(!vm.has_ended(), "{}{}", vm.out(), vm.err());
}
