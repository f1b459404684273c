//! Two VMs at the same time on the same segments.

use std::time::{Duration, Instant};

use abi::Right;
use tests::{pace, skip_without_kvm};
use vmm::store::{Name, StoreError, check_store};

use crate::world::{Vm, World};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// Two VMs of 8 threads, each thread with this many locked increments.
fn count_in_two_vms(per_thread: u64) {
    let world = World::new();
    let began = Instant::now();
    let text = per_thread.to_string();
    let start = || world.spawn("vas_counter", &["shared", "8", &text]);
    let mut vms: [Vm; 2] = [start(), start()];
    let limit = pace::limit(Duration::from_secs(60) + Duration::from_millis(per_thread * 40));
    while !vms.iter_mut().all(Vm::has_ended) {
        assert!(began.elapsed() < limit, "no end: {vms:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    for vm in &mut vms {
        assert_eq!(vm.ends_well(), format!("added {}\n", 8 * per_thread));
    }
    println!("2 VMs x 8 threads x {per_thread} increments: {:?}", began.elapsed());
    let expected = format!("value {}\n", 16 * per_thread);
    assert_eq!(world.good("vas_counter", &["shared", "show"]), expected);
    world.left_clean();
}

#[test]
fn locked_increments_from_two_vms_lose_no_update() {
    skip_without_kvm!();
    count_in_two_vms(pace::times(500).max(50).into());
}

#[test]
#[ignore = "a quarter of an hour where ring 0 is interpreted: 1.6 million contended hand-overs"]
fn a_hundred_thousand_locked_increments_a_thread_lose_no_update() {
    skip_without_kvm!();
    count_in_two_vms(100_000);
}

#[test]
fn readers_share_a_lock_and_keep_writers_out() {
    skip_without_kvm!();
    let world = World::new();
    let mut first = world.spawn("vas_holder", &["one", "read"]);
    first.wait_for("holding read");
    let mut second = world.spawn("vas_holder", &["one", "read"]);
    second.wait_for("holding read");
    let tried = world.good("vas_holder", &["one", "try"]);
    assert_eq!(tried, "try: EAGAIN\ntimeout: ETIMEDOUT\n");
    let mut writer = world.spawn("vas_holder", &["one", "wait"]);
    writer.wait_for("waiting");
    std::thread::sleep(Duration::from_millis(200));
    assert!(!writer.out().contains("entered"), "it entered beside two readers");
    // Readers that die do no harm.
    first.kill();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!writer.out().contains("entered"), "it entered beside a reader");
    second.kill();
    assert_eq!(writer.ends_well(), "waiting\nentered\nleft\n");
    world.clean_after_gc();
}

#[test]
fn what_a_live_vm_has_attached_is_busy_and_what_a_dead_one_had_is_not() {
    skip_without_kvm!();
    let world = World::new();
    let mut vm = world.spawn("vas_holder", &["busy", "read"]);
    vm.wait_for("holding read");
    let store = world.store();
    let vid = store.find_vas(&name("busy")).expect("it is there");
    let sid = store.find_segment(&name("busy")).expect("it is there");
    let busy = |result: Result<(), StoreError>| {
        let error = result.expect_err("a live VM has it");
        assert_eq!(error.errno(), abi::Errno::EBUSY, "{error}");
    };
    let before = store.vas(vid).expect("it can be read").segments;
    busy(store.detach_segment(vid, sid));
    busy(store.delete_vas(vid));
    busy(store.delete_segment(sid));
    busy(store.set_lockable(sid, false));
    assert_eq!(store.vas(vid).expect("it can be read").segments.len(), before.len());
    vm.kill();
    store.detach_segment(vid, sid).expect("a dead VM does not count");
    store.attach_segment(vid, sid, Right::Write).expect("there is room again");
    store.delete_vas(vid).expect("a dead VM does not count");
    store.delete_segment(sid).expect("a dead VM does not count");
    world.clean_after_gc();
}

#[test]
fn a_linked_list_goes_from_hand_to_hand_between_vms() {
    skip_without_kvm!();
    let world = World::new();
    world.good("vas_persist", &["write", "list", "10"]);
    for round in 1..=4 {
        let mut writer = world.spawn("vas_persist", &["prepend", "list", "100"]);
        let said = writer.ends_well();
        assert!(said.starts_with(&format!("nodes {} sum ", 10 + 100 * round)), "{said}");
        // Two concurrent readers, each in its own VM, follow its pointers.
        let mut readers = [(); 2].map(|()| world.spawn("vas_persist", &["read", "list"]));
        for reader in &mut readers {
            assert_eq!(reader.ends_well(), said);
        }
    }
    world.left_clean();
}

/// Nodes move between lists; a third VM checks that none is lost.
fn checked(world: &World, nodes: u64, moves: u64) {
    let mut third = world.spawn("vas_moves", &["lists", "check"]);
    assert_eq!(third.ends_well(), format!("nodes {nodes} moves {moves}\n"));
}

#[test]
fn two_vms_change_linked_lists_in_turns() {
    skip_without_kvm!();
    let world = World::new();
    world.good("vas_moves", &["lists", "make", "100"]);
    for round in 1..=4 {
        let mut writer =
            world.spawn("vas_moves", &["lists", "move", "1", "50", &format!("{round}")]);
        assert_eq!(writer.ends_well(), "moved 50\n");
        checked(&world, 100, 50 * round);
    }
    world.left_clean();
}

#[test]
fn two_vms_change_linked_lists_at_the_same_time() {
    skip_without_kvm!();
    let world = World::new();
    world.good("vas_moves", &["lists", "make", "300"]);
    let mut writers =
        ["1", "2"].map(|seed| world.spawn("vas_moves", &["lists", "move", "3", "400", seed]));
    // A reader in between finds them intact.
    while !writers.iter_mut().any(Vm::has_ended) {
        let out = world.good("vas_moves", &["lists", "check"]);
        assert!(out.starts_with("nodes 300 moves "), "{out}");
    }
    for writer in &mut writers {
        assert_eq!(writer.ends_well(), "moved 1200\n");
    }
    checked(&world, 300, 2400);
    world.left_clean();
}

#[test]
fn vms_that_cross_lock_orders_neither_deadlock_nor_overlap() {
    skip_without_kvm!();
    let world = World::new();
    let mut vms = ["1", "2"].map(|seed| world.spawn("vas_cross", &["cross", "3", "400", seed]));
    for vm in &mut vms {
        assert_eq!(vm.ends_well(), "switches 1200 recovered 0\n");
    }
    assert_eq!(world.good("vas_cross", &["cross", "check"]), "sound\n");
    world.left_clean();
}

#[test]
fn random_calls_of_several_vms_at_once_end_well_and_leave_the_store_sound() {
    skip_without_kvm!();
    for seed in 1..=pace::times(2) {
        let world = World::new();
        let mut vms = [1, 2, 3].map(|vm| {
            let seed = (seed * 10 + vm).to_string();
            world.spawn("vas_random", &[&seed, "1500", "others"])
        });
        for vm in &mut vms {
            let out = vm.ends_well();
            assert!(out.ends_with("done\n"), "seed {seed}: {out}");
        }
        let report = check_store(&world.path()).expect("the store can be looked at");
        assert!(report.findings.is_empty(), "seed {seed}: {:?}", report.findings);
        world.left_clean();
    }
}
