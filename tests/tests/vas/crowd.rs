//! Many VMs at the same time: half of them are inside a version of one segment to read it, the others wait for input. What each has
//! of its own in memory, that all see what is there, and what is left when they have gone.

use std::fs;

use tests::skip_without_kvm;

use crate::world::{Talker, World, names};

const PROGRAM: &str = "vas_versions";
/// What an idle VM may have of its own, its process that starts others included.
const OWN_KIB: u64 = 8 << 10;

/// A field of a file of `/proc` that is in KiB.
fn kib(text: &str, name: &str) -> u64 {
    let of_line =
        |line: &str| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
    text.lines().filter_map(of_line).sum()
}

/// What a process and its children have that nobody shares.
fn own_kib(pid: u32) -> u64 {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let memory = read("smaps_rollup");
    let children = read(&format!("task/{pid}/children"));
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    kib(&memory, "Private_Clean:")
        + kib(&memory, "Private_Dirty:")
        + children.map(own_kib).sum::<u64>()
}

fn available_kib() -> u64 {
    kib(&fs::read_to_string("/proc/meminfo").expect("it can be read"), "MemAvailable:")
}

/// What `count` VMs at once have taken, of memory that is available, in KiB.
fn crowd(count: u64) -> u64 {
    let world = World::new();
    world.good(PROGRAM, &["bank", "make"]);
    let before = available_kib();
    let start = |number: u64| {
        let what = if number.is_multiple_of(2) { "stay" } else { "idle" };
        Talker::start(world.command(PROGRAM, &["bank", what]), &format!("{what} {number}"))
    };
    let mut vms: Vec<Talker> = (0..count).map(start).collect();
    assert_eq!(names(&world.path().join("vms")).len() as u64, count.div_ceil(2), "leases");
    // Somebody changes it meanwhile, of which those who are inside see nothing.
    world.good(PROGRAM, &["bank", "move", "1", "50", "7"]);
    let own: Vec<u64> = vms.iter().map(|vm| own_kib(vm.pid())).collect();
    let (most, all) = (own.iter().max().copied().unwrap_or(0), own.iter().sum::<u64>());
    let taken = before.saturating_sub(available_kib());
    println!(
        "{count} VMs: {most} KiB at most of their own, {all} KiB all; {taken} KiB less available"
    );
    assert!(own.iter().all(|kib| *kib > 0), "a process tells what it has: {own:?}");
    assert!(most <= OWN_KIB, "{most} KiB of its own");
    for (number, vm) in vms.iter_mut().enumerate() {
        let said = vm.ask("").expect("it answers");
        assert_eq!(said, if number % 2 == 0 { "first 1000" } else { "outside" }, "{number}");
    }
    for (number, vm) in vms.iter_mut().enumerate() {
        let rest = vm.rest().expect("it ends well");
        let all = ["all {1000}", "done"];
        assert_eq!(rest, all[number % 2..], "{number}");
    }
    assert_eq!(names(&world.path().join("vms")), [""; 0], "no lease is left");
    world.clean_after_gc();
    taken
}

#[test]
fn many_vms_at_once_read_one_segment_and_leave_nothing() {
    skip_without_kvm!();
    crowd(12);
}

#[test]
#[ignore = "a thousand VMs: minutes, 12 GiB of memory, and `ulimit -n 4096`; 12 of them run each time"]
fn a_thousand_vms_at_once_fit_into_12_gib() {
    skip_without_kvm!();
    let taken = crowd(1000);
    assert!(taken <= 12 << 20, "{taken} KiB");
}
