//! A process can run any number of VMs one after another: their resources are freed.
//!
//! In a separate test program, with one test: other tests' threads and files would count.

use std::process::Command;
use std::time::Duration;

use tests::skip_without_kvm;
use tests::vm::Run;
use tests::{guests, pace};
use vmm::process::Outcome;

const ARENAS: &str = "MALLOC_ARENA_MAX";

#[derive(Debug, Clone, Copy)]
struct Held {
    files: usize,
    threads: usize,
    mappings: usize,
    address_space_kib: u64,
    resident_kib: u64,
}

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the field exists");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

fn held() -> Held {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    Held {
        files: std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count(),
        threads: status("Threads:") as usize,
        mappings: maps.lines().count(),
        address_space_kib: status("VmSize:"),
        resident_kib: status("VmRSS:"),
    }
}

fn one_vm(round: usize) {
    let run = match round % 4 {
        0 => Run::new(guests::c("hello")),
        1 => Run::new(guests::rust("tls")),
        2 => Run::new(guests::rust("hostile")).args(&["null-write"]),
        _ => Run::new(guests::rust("spin")).args(&["threads"]).timeout(Duration::from_millis(20)),
    };
    let ended = run.in_vm();
    assert!(!matches!(ended.outcome, Outcome::HostFailed(_)), "round {round}: {ended:?}");
}

#[test]
fn a_hundred_vms_leave_nothing_behind() {
    skip_without_kvm!();
    // When threads first allocate concurrently, glibc reserves 64 MiB of addresses for each and
    // keeps them. With one arena for all, any growth is ours.
    if std::env::var_os(ARENAS).is_none() {
        let again = ["--exact", "a_hundred_vms_leave_nothing_behind", "--nocapture"];
        let program = std::env::current_exe().expect("this program has a path");
        let output = Command::new(program).args(again).env(ARENAS, "1").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let cause = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{cause}");
        // The test exists under that name, and did not pass only because none was found.
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    // What is allocated once and kept: the C library's caches, thread stacks.
    (0..12).for_each(one_vm);
    let vms = pace::times(100).max(8) as usize;
    let before = held();
    (0..vms).for_each(one_vm);
    let after = held();
    println!("before {before:?}\nafter  {after:?}");
    assert_eq!(after.files, before.files);
    assert_eq!(after.threads, before.threads);
    assert!(after.mappings <= before.mappings + 8, "before {before:?}, after {after:?}");
    // A VM's first memory region alone is 32 MiB.
    let grown = after.address_space_kib.saturating_sub(before.address_space_kib);
    assert!(grown < 24 << 10, "before {before:?}, after {after:?}");
    let resident = after.resident_kib.saturating_sub(before.resident_kib);
    assert!(resident < 8 << 10, "before {before:?}, after {after:?}");
}
