//! A VAS with several versioned segments goes back as a whole: all of them, or none.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::process::{Pid, Signal};
use tests::skip_without_kvm;
use tests::traced::Call;

use crate::durable::{held_back, traced};
use crate::several::{PROGRAM, bank, is_right, version};
use crate::world::World;

/// A bank with a tag, and money that has moved since.
fn tagged() -> World {
    let world = bank();
    world.says(&["vas", "tag", "bank", "first"]);
    moved(&world);
    world
}

fn moved(world: &World) {
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "5", "1"]), "done\n");
}

/// Whether both segments have what the tag keeps; never one of them alone.
#[track_caller]
fn is_back(world: &World) -> bool {
    is_right(world);
    let of = |segment: &str| {
        // It fails if there is a difference.
        let tag = format!("{segment}@bank@first");
        let diff = world.spacejmp(&["seg", "diff", &tag, segment, "--json"]);
        let diff: serde_json::Value = serde_json::from_slice(&diff.stdout).expect("JSON");
        !diff["differ"].as_bool().expect("what was found")
    };
    let both = [of("bank.a"), of("bank.b")];
    assert_eq!(both[0], both[1], "half of it");
    both[0]
}

#[test]
fn a_vas_with_two_segments_goes_back_as_a_whole_under_programs_that_use_it() {
    skip_without_kvm!();
    let world = tagged();
    assert!(!is_back(&world));
    let before = [version(&world, "bank.a"), version(&world, "bank.b")];
    let made = world.json(&["vas", "rollback", "bank", "first"]);
    assert_eq!(made["segments"][1]["number"].as_u64(), Some(before[1] + 1), "{made}");
    assert_eq!([version(&world, "bank.a"), version(&world, "bank.b")], before.map(|it| it + 1));
    assert!(is_back(&world));
    let mut reader = world.spawn(PROGRAM, &["bank", "sums", "1000000"]);
    let mut writer = world.spawn(PROGRAM, &["bank", "move", "2", "1000000", "2"]);
    for _ in 0..5 {
        let made = world.says(&["vas", "rollback", "bank", "first"]);
        assert_eq!(made.lines().count(), 2, "{made}");
        is_right(&world);
    }
    assert!(!reader.has_ended() && !writer.has_ended(), "{}{}", reader.err(), writer.err());
    reader.kill();
    writer.kill();
    // What the writer left when it was killed is no part of it.
    world.says(&["vas", "rollback", "bank", "first"]);
    assert!(is_back(&world));
    let log = world.json(&["seg", "log", "bank.a"]);
    assert_eq!(log["versions"][0]["program"].as_str(), Some("spacejmp rollback"));
    world.clean_after_gc();
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn a_tag_is_gone_back_to_when_no_log_has_its_versions_any_more() {
    skip_without_kvm!();
    let world = tagged();
    // 75 MiB each: the logs with these versions go.
    for which in ["0", "1"] {
        assert_eq!(world.good(PROGRAM, &["bank", "many", which, "150"]), "done\n");
    }
    world.says(&["vas", "rollback", "bank", "first"]);
    assert!(is_back(&world));
    world.says(&["vas", "untag", "bank", "first"]);
    is_right(&world);
    moved(&world);
    is_right(&world);
}

#[test]
fn what_is_no_tag_of_the_vas_is_refused_and_changes_nothing() {
    skip_without_kvm!();
    let world = tagged();
    world.says(&["seg", "tag", "bank.a", "own"]);
    let before = [version(&world, "bank.a"), version(&world, "bank.b")];
    for (to, why) in
        [("own", "no tag"), ("other", "no tag"), ("999999999", "nothing to open under number")]
    {
        let refused = world.spacejmp(&["vas", "rollback", "bank", to]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(why), "{to}: {said}");
    }
    assert_eq!([version(&world, "bank.a"), version(&world, "bank.b")], before);
}

/// `vas rollback`, with a judge of its calls that change a file of the store, counted from 0.
fn rolls_back(world: &World, judge: impl Fn(&Call, u32) -> Option<i32>) -> i32 {
    let rollback = world.command_of(&["vas", "rollback", "bank", "first"]);
    let (store, calls) = (world.path(), AtomicU32::new(0));
    let changes = [libc::SYS_pwritev, libc::SYS_pwrite64, libc::SYS_fdatasync, libc::SYS_fsync];
    let is_change = |call: &Call| {
        changes.contains(&call.number) && call.file().is_some_and(|file| file.starts_with(&store))
    };
    let judge = |call: &Call| {
        is_change(call).then(|| judge(call, calls.fetch_add(1, Ordering::SeqCst))).flatten()
    };
    traced(held_back(&rollback), judge, |_, _| false).0
}

#[test]
fn whichever_call_of_it_is_the_last_both_segments_have_gone_back_or_none() {
    skip_without_kvm!();
    let world = tagged();
    let mut ends = [0, 0];
    for last in 0.. {
        let is_killed = AtomicBool::new(false);
        let status = rolls_back(&world, |call, number| {
            if number == last {
                is_killed.store(true, Ordering::SeqCst);
                let pid = Pid::from_raw(call.process()).expect("a process");
                rustix::process::kill_process(pid, Signal::KILL).expect("it is there");
            }
            None
        });
        let is_killed = is_killed.into_inner();
        assert_eq!(status == 0, !is_killed, "{status} before call {last}");
        let is_back = is_back(&world);
        ends[usize::from(is_back)] += 1;
        if !is_killed {
            assert!(is_back, "it was not killed");
            break;
        }
        if is_back {
            moved(&world);
        }
    }
    assert!(ends[0] > 3 && ends[1] > 3, "{ends:?}");
    world.clean_after_gc();
}

#[test]
fn whichever_call_of_it_fails_both_segments_have_gone_back_or_none() {
    skip_without_kvm!();
    let world = tagged();
    let mut refused = 0;
    for fails in 0.. {
        let has_failed = AtomicBool::new(false);
        let status = rolls_back(&world, |_, number| {
            (number == fails).then(|| {
                has_failed.store(true, Ordering::SeqCst);
                libc::EIO
            })
        });
        let is_back = is_back(&world);
        assert!(status != 0 || is_back, "it said that it had gone back: call {fails}");
        refused += u32::from(status != 0);
        if !has_failed.into_inner() {
            break;
        }
        // A program that writes puts right what a failed sync left uncertain.
        moved(&world);
    }
    assert!(refused > 6, "{refused}");
    world.clean_after_gc();
}
