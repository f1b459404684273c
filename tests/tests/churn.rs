//! A program that attaches and detaches forever uses no more resources than one that does it a few
//! times.
//!
//! In a separate test program, with one test: other tests' files would count.

use std::thread;
use std::time::Duration;

use tests::vm::{Run, Running};
use tests::{guests, pace, skip_without_kvm};
use vmm::process::Outcome;
use vmm::store::{Mode, Name, Store};

/// Resources that attaching uses on the host and in the VM.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    files: usize,
    mappings: usize,
    memslots: usize,
    instances: usize,
    segments: usize,
    mapped_bytes: u64,
    table_frames: u64,
}

fn held(vm: &Running) -> Held {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let (instances, segments, mapped_bytes, table_frames) = vm.process.vases.counts();
    Held {
        files: std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count(),
        mappings: maps.lines().filter(|line| line.contains(" rw-s ")).count(),
        memslots: vm.process.machine.windows.count(),
        instances,
        segments,
        mapped_bytes,
        table_frames,
    }
}

/// What is held between two looks for a name, by which the program waits: a look has files of the store open.
///
/// On a machine that is slow enough it does little but look. What is not given back is in every sample.
fn least_held(vm: &Running) -> Held {
    let samples = (0..200).map(|_| {
        thread::sleep(Duration::from_millis(2));
        held(vm)
    });
    samples.min_by_key(|held| held.files).expect("there are samples")
}

#[test]
fn attaching_and_deleting_two_thousand_times_leaves_no_files_and_no_memslots() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("store");
    let store = Store::open_or_create(&path).expect("the store opens");
    let go = |name: &str| {
        let name = Name::new(name.as_bytes()).expect("a name");
        store.create_vas(&name, Mode::PRIVATE).expect("it is free");
    };
    // Our own store keeps files that it has used.
    go("first");
    let rounds = pace::times(2000).max(40).to_string();
    let mut vm = Run::new(guests::rust("vas_churn"))
        .args(&[&rounds])
        .store(path)
        .start()
        .unwrap_or_else(|err| panic!("{}", tests::vm::all(&err)));
    vm.wait_for_output("warm");
    let before = least_held(&vm);
    go("go-on");
    vm.wait_for_output("churned");
    let after = least_held(&vm);
    println!("before {before:?}\nafter  {after:?}");
    // A store keeps the manifest open that it has read last, if there is one.
    assert!(after.files.abs_diff(before.files) <= 1, "{before:?}");
    assert_eq!(Held { files: before.files, ..after }, before);
    // The measurement detects resources in use.
    assert!(before.instances == 1 && before.memslots > 0, "{before:?}");
    go("end");
    let ended = vm.wait(pace::limit(Duration::from_secs(60)));
    assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
}
