//! Changes that one VM makes to a VAS, as seen by another that has it attached: at its next
//! switch, at the first touch, or not before it leaves.

use abi::objects::attach::READ_ONLY;
use tests::skip_without_kvm;

use crate::world::{Talker, World};

const READ: u64 = 1;
const WRITE: u64 = 3;
/// Two addresses, one gigabyte apart, and one next to the first.
const FIRST: u64 = (16 << 40) + (1 << 30);
const SECOND: u64 = FIRST + (1 << 30);
const BESIDE: u64 = FIRST + (4 << 20);

/// A VM that makes calls on request.
struct Hand(Talker);

impl Hand {
    fn new(world: &World) -> Hand {
        Hand(Talker::start(world.command("vas_model", &["2"]), "vas_model"))
    }

    /// Makes a call in thread 0; returns the answer.
    #[track_caller]
    fn says(&mut self, call: &str) -> String {
        self.thread(0, call)
    }

    #[track_caller]
    fn thread(&mut self, thread: usize, call: &str) -> String {
        self.0.ask(&format!("{thread} {call}")).expect("it answers")
    }

    /// The same for a call that must succeed; its value.
    #[track_caller]
    fn number(&mut self, call: &str) -> u64 {
        let said = self.says(call);
        said.strip_prefix("= ").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"))
    }

    #[track_caller]
    fn done(&mut self, call: &str) {
        assert_eq!(self.says(call), "=", "{call}");
    }

    /// A VAS.
    fn vas(&mut self, name: &str) -> u64 {
        self.number(&format!("vas_create {name} {}", 0o600))
    }

    /// A segment of 2 MiB.
    fn segment(&mut self, name: &str, base: u64, lockable: u8) -> u64 {
        let (size, mode) = (2 << 20, 0o600);
        self.number(&format!("seg_alloc {name} {base} {size} 0 {mode} 0 0 {lockable}"))
    }
}

/// Two VMs with a VAS attached that has one plain segment; its id, and the VAS's.
fn two_hands(world: &World) -> (Hand, Hand, u64, u64) {
    let (mut a, mut b) = (Hand::new(world), Hand::new(world));
    let vid = a.vas("v");
    let sid = a.segment("first", FIRST, 0);
    a.done(&format!("seg_attach {vid} {sid} {WRITE}"));
    for hand in [&mut a, &mut b] {
        assert_eq!(hand.number(&format!("vas_attach {vid} 0")), 1);
    }
    (a, b, vid, sid)
}

#[test]
fn a_segment_attached_elsewhere_is_there_at_the_next_switch() {
    skip_without_kvm!();
    let world = World::new();
    let (mut a, mut b, vid, _) = two_hands(&world);
    for (name, base, lockable) in [("plain", SECOND, 0), ("locked", BESIDE, 1)] {
        let sid = a.segment(name, base, lockable);
        a.done(&format!("seg_attach {vid} {sid} {WRITE}"));
        a.done("switch 1");
        a.done(&format!("in {base} 77"));
        a.done("switch 0");
        b.done("switch 1");
        assert_eq!(b.says(&format!("read {base}")), "= 77");
        b.done("switch 0");
    }
}

#[test]
fn a_segment_attached_elsewhere_is_there_at_the_first_touch() {
    skip_without_kvm!();
    let world = World::new();
    let (mut a, mut b, vid, _) = two_hands(&world);
    b.done("switch 1");
    assert_eq!(b.says(&format!("read {FIRST}")), "= 0");
    assert_eq!(b.says(&format!("read {SECOND}")), "= NotMapped");
    let far = a.segment("far", SECOND, 0);
    let near = a.segment("near", BESIDE, 0);
    for sid in [far, near] {
        a.done(&format!("seg_attach {vid} {sid} {WRITE}"));
    }
    a.done("switch 1");
    // By an instruction, and by a system call.
    b.says(&format!("write {SECOND} 5"));
    b.done(&format!("in {BESIDE} 6"));
    assert_eq!(a.says(&format!("read {SECOND}")), "= 5");
    assert_eq!(a.says(&format!("out {BESIDE}")), "= 6");
    // What was attached before still is.
    b.says(&format!("write {FIRST} 7"));
    assert_eq!(a.says(&format!("read {FIRST}")), "= 7");
}

#[test]
fn a_lockable_segment_appears_to_a_thread_inside_only_with_its_lock() {
    skip_without_kvm!();
    let world = World::new();
    let (mut a, mut b, vid, _) = two_hands(&world);
    b.done("switch 1");
    let sid = a.segment("locked", SECOND, 1);
    a.done(&format!("seg_attach {vid} {sid} {WRITE}"));
    // With another thread of its process inside, it does not appear.
    assert_eq!(b.thread(1, "switch 1"), "=");
    assert_eq!(b.says(&format!("read {SECOND}")), "= NotMapped");
    assert_eq!(b.thread(1, "switch 0"), "=");
    // Alone, the thread gets it and the lock, and no other thread does.
    assert_eq!(b.says(&format!("read {SECOND}")), "= 0");
    assert_eq!(a.says("try 1"), "! EAGAIN");
    b.done("switch 0");
    a.done("try 1");
}

/// It takes as long as a touch waits for a lock.
#[test]
fn a_touch_that_does_not_get_the_lock_does_not_get_the_segment() {
    skip_without_kvm!();
    let world = World::new();
    let (mut a, mut b, vid, _) = two_hands(&world);
    b.done("switch 1");
    let sid = a.segment("locked", SECOND, 1);
    a.done(&format!("seg_attach {vid} {sid} {WRITE}"));
    a.done("switch 1");
    assert_eq!(b.says(&format!("read {SECOND}")), "= NotMapped");
    // Neither then nor afterwards, as long as the other is inside.
    assert_eq!(b.says(&format!("out {SECOND}")), "! EFAULT");
    assert_eq!(b.thread(1, "try 1"), "=");
    assert_eq!(b.thread(1, &format!("read {SECOND}")), "= NotMapped");
    assert_eq!(b.thread(1, "switch 0"), "=");
    a.done("switch 0");
    assert_eq!(b.says(&format!("read {SECOND}")), "= 0");
}

#[test]
fn a_touch_does_not_bring_in_what_a_dead_holder_left() {
    skip_without_kvm!();
    let world = World::new();
    let (mut a, mut b, vid, _) = two_hands(&world);
    let sid = a.segment("locked", SECOND, 1);
    b.done("switch 1");
    a.done(&format!("seg_attach {vid} {sid} {WRITE}"));
    a.done("switch 1");
    a.0.kill();
    assert_eq!(b.says(&format!("read {SECOND}")), "= NotMapped");
    assert_eq!(b.says(&format!("read {SECOND}")), "= NotMapped");
    // A switch reports why.
    b.done("switch 0");
    assert_eq!(b.says("switch 1"), "! EOWNERDEAD");
    assert_eq!(b.says(&format!("read {SECOND}")), "= 0");
    b.done(&format!("seg_ctl {sid} {} 0", abi::objects::seg_ctl::RECOVER));
    b.0.end().expect("it ends well");
    world.clean_after_gc();
}

#[test]
fn a_segment_is_not_detached_under_another_vms_thread_and_is_gone_after_it_left() {
    skip_without_kvm!();
    let world = World::new();
    let (mut a, mut b, vid, sid) = two_hands(&world);
    b.done("switch 1");
    b.says(&format!("write {FIRST} 9"));
    let detach = format!("seg_detach {vid} {sid}");
    assert_eq!(a.says(&detach), "! EBUSY");
    // Nothing has changed for either.
    assert_eq!(b.says(&format!("read {FIRST}")), "= 9");
    assert_eq!(a.number(&format!("seg_find {}", "first")), sid);
    b.done("switch 0");
    a.done(&detach);
    // A thread that was not inside when it was detached does not find it by any access.
    assert_eq!(b.says(&format!("read {FIRST}")), "= NotMapped");
    b.done("switch 1");
    assert_eq!(b.says(&format!("read {FIRST}")), "= NotMapped");
    assert_eq!(b.says(&format!("out {FIRST}")), "! EFAULT");
    // Without a handler there is a report, which names the VAS the thread was in.
    let died = b.0.ask(&format!("0 die {FIRST}"));
    assert!(died.is_err(), "{died:?}");
    let report = b.0.log();
    let first_line = report.lines().next().unwrap_or_default();
    assert!(first_line.contains(&format!("read from {FIRST:#x}")), "{report}");
    assert!(report.contains("VAS        `v`, handle 1"), "{report}");
    a.0.end().expect("it ends well");
}

#[test]
fn a_segment_put_back_with_another_right_has_that_right_everywhere() {
    skip_without_kvm!();
    let world = World::new();
    let (mut a, mut b, vid, sid) = two_hands(&world);
    b.done("switch 1");
    assert_eq!(b.says(&format!("write {FIRST} 3")), "= 0");
    b.done("switch 0");
    a.done(&format!("seg_detach {vid} {sid}"));
    a.done(&format!("seg_attach {vid} {sid} {READ}"));
    b.done("switch 1");
    assert_eq!(b.says(&format!("write {FIRST} 4")), "= Forbidden");
    assert_eq!(b.says(&format!("read {FIRST}")), "= 3");
}

#[test]
fn what_is_attached_to_an_instance_itself_goes_before_what_its_vas_gets() {
    skip_without_kvm!();
    let world = World::new();
    let (mut a, mut b, vid, _) = two_hands(&world);
    let (same, other) = (a.segment("same", SECOND, 0), a.segment("other", BESIDE, 0));
    let mine = b.segment("mine", BESIDE, 0);
    // The same segment, with fewer rights; and one at the address of the VAS's later segment.
    b.done(&format!("seg_attach_local 1 {same} {READ}"));
    b.done(&format!("seg_attach_local 1 {mine} {WRITE}"));
    a.done(&format!("seg_attach {vid} {same} {WRITE}"));
    a.done(&format!("seg_attach {vid} {other} {WRITE}"));
    b.done("switch 1");
    assert_eq!(b.says(&format!("write {SECOND} 1")), "= Forbidden");
    assert_eq!(b.says(&format!("write {BESIDE} 1")), "= 0");
    // Other processes are not affected.
    a.done("switch 1");
    assert_eq!(a.says(&format!("write {SECOND} 2")), "= 0");
    assert_eq!(a.says(&format!("read {BESIDE}")), "= 0");
    // When they are detached, the VAS's own take their places.
    b.done("switch 0");
    b.done(&format!("seg_detach_local 1 {same}"));
    b.done(&format!("seg_detach_local 1 {mine}"));
    b.done("switch 1");
    assert_eq!(b.says(&format!("write {SECOND} 3")), "= 0");
    a.says(&format!("write {BESIDE} 4"));
    assert_eq!(b.says(&format!("read {BESIDE}")), "= 4");
}

#[test]
fn a_read_only_instance_stays_so_whatever_is_attached() {
    skip_without_kvm!();
    let world = World::new();
    let (mut a, mut b, vid, _) = two_hands(&world);
    assert_eq!(b.number(&format!("vas_attach {vid} {READ_ONLY}")), 2);
    b.done("switch 2");
    let sid = a.segment("locked", SECOND, 1);
    a.done(&format!("seg_attach {vid} {sid} {WRITE}"));
    assert_eq!(b.says(&format!("write {SECOND} 1")), "= Forbidden");
    // Its lock is shared: another reader can enter, a writer cannot.
    assert_eq!(a.number(&format!("vas_attach {vid} {READ_ONLY}")), 2);
    a.done("try 2");
    assert_eq!(a.thread(1, "try 1"), "! EAGAIN");
}
