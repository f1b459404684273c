//! What one VM leaves for the next one: after its end, after its death, and in a copy.

use abi::Right;
use abi::objects::{Lifetime, PagePolicy};
use tests::skip_without_kvm;
use vmm::store::{Mode, Name, SegmentSpec};

use crate::world::World;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

#[test]
fn the_next_vm_finds_the_list_at_the_same_address() {
    skip_without_kvm!();
    let world = World::new();
    let written = world.good("vas_persist", &["write", "list", "1000"]);
    assert!(written.starts_with("nodes 1000 sum "), "{written}");
    let base = |world: &World| {
        let store = world.store();
        let sid = store.find_segment(&name("list")).expect("it is there");
        let record = store.segment(sid).expect("it can be read");
        assert!(!record.dirty(), "marked dirty after an orderly end");
        record.header.base
    };
    let before = base(&world);
    assert_eq!(world.good("vas_persist", &["read", "list"]), written);
    let more = world.good("vas_persist", &["prepend", "list", "500"]);
    assert!(more.starts_with("nodes 1500 sum "), "{more}");
    assert_eq!(world.good("vas_persist", &["read", "list"]), more);
    assert_eq!(base(&world), before);
    assert_eq!(world.good("vas_persist", &["remove", "list"]), "removed\n");
    world.left_clean();
}

#[test]
fn a_program_that_aborts_inside_leaves_its_data_and_a_dirty_mark() {
    skip_without_kvm!();
    let world = World::new();
    world.good("vas_persist", &["write", "list", "100"]);
    let ended = world.run("vas_persist", &["die", "list", "100"]).in_vm();
    ended.expect_signal(6);
    let store = world.store();
    let sid = store.find_segment(&name("list")).expect("it is there");
    assert!(store.segment(sid).expect("it can be read").dirty(), "not marked dirty");
    // As far as it had been written: half of the second hundred.
    assert!(world.good("vas_persist", &["read", "list"]).starts_with("nodes 150 sum "));
    world.left_clean();
}

#[test]
fn data_written_before_a_sigkill_is_there_and_marked_dirty() {
    skip_without_kvm!();
    let world = World::new();
    let mut vm = world.spawn("vas_holder", &["held", "write"]);
    vm.wait_for("holding write");
    vm.kill();
    let store = world.store();
    let sid = store.find_segment(&name("held")).expect("it is there");
    assert!(store.segment(sid).expect("it can be read").dirty(), "not marked dirty");
    // The value is its incomplete change.
    let ended = world.run("vas_holder", &["held", "recover"]).in_vm();
    assert!(ended.out().ends_with("done\n"), "{ended:?}");
    assert_eq!(world.good("vas_counter", &["held", "show"]), "value 1\n");
    world.clean_after_gc();
}

#[test]
fn a_segment_copied_to_another_store_is_whole() {
    skip_without_kvm!();
    let (from, to) = (World::new(), World::new());
    let written = from.good("vas_persist", &["write", "list", "2000"]);
    let store = to.store();
    let [original, copy] = [&from, &to].map(|world| world.path().join("segments/list"));
    std::fs::copy(original, copy).expect("the file can be copied, its mode with it");
    let vid = store.create_vas(&name("list"), Mode::new(0o600).expect("a mode")).expect("a VAS");
    let sid = store.find_segment(&name("list")).expect("the copy is found");
    store.attach_segment(vid, sid, Right::Write).expect("it can be attached");
    assert_eq!(to.good("vas_persist", &["read", "list"]), written);
    // The two are independent from here on.
    to.good("vas_persist", &["prepend", "list", "10"]);
    assert_eq!(from.good("vas_persist", &["read", "list"]), written);
    to.left_clean();
    from.left_clean();
}

#[test]
fn a_volatile_segment_goes_with_the_last_vm_that_has_it() {
    skip_without_kvm!();
    let world = World::new();
    let store = world.store();
    let spec = SegmentSpec {
        base: None,
        size_bytes: 4096,
        reserve_bytes: 0,
        mode: Mode::new(0o600).expect("a mode"),
        lifetime: Lifetime::Volatile,
        durability: None,
        pages: PagePolicy::Largest,
        lockable: true,
    };
    let make = || {
        let sid = store.create_segment(&name("brief"), &spec).expect("a segment");
        let vid =
            store.create_vas(&name("brief"), Mode::new(0o600).expect("a mode")).expect("a VAS");
        store.attach_segment(vid, sid, Right::Write).expect("attached");
        vid
    };
    let vid = make();
    let mut first = world.spawn("vas_holder", &["brief", "read"]);
    first.wait_for("holding read");
    let mut second = world.spawn("vas_holder", &["brief", "read"]);
    second.wait_for("holding read");
    first.kill();
    assert!(store.find_segment(&name("brief")).is_ok(), "gone while one VM has it");
    second.kill();
    store.gc().expect("garbage is collected");
    assert!(store.find_segment(&name("brief")).is_err(), "there after the last VM has gone");
    store.delete_vas(vid).expect("no VM has it attached");
    // And when the last one ends normally.
    make();
    world.good("vas_counter", &["brief", "2", "10"]);
    assert!(store.find_segment(&name("brief")).is_err(), "there after the last VM has gone");
    world.left_clean();
}
