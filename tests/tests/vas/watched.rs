//! `spacejmp vas`, `seg` and `store` while VMs are running: what they have attached, which threads
//! are inside, the lock.

use serde_json::{Value, json};
use tests::skip_without_kvm;

use crate::world::{Vm, World};

impl World {
    /// Its only error.
    #[track_caller]
    fn refuses(&self, args: &[&str]) -> String {
        let output = self.spacejmp(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    }
}

/// The processes in a list of `attached` or `inside`.
fn pids(list: &Value) -> Vec<u64> {
    let list = list.as_array().expect("a list");
    let mut pids: Vec<u64> =
        list.iter().map(|one| one["pid"].as_u64().expect("a process")).collect();
    pids.sort_unstable();
    pids
}

fn sorted<const N: usize>(vms: [&Vm; N]) -> Vec<u64> {
    let mut pids: Vec<u64> = vms.iter().map(|vm| vm.pid().into()).collect();
    pids.sort_unstable();
    pids
}

/// A VM that waits to write, and is in the lock's queue.
fn waiter(world: &World) -> Vm {
    let mut vm = world.spawn("vas_holder", &["one", "wait"]);
    vm.wait_for("waiting");
    while world.json(&["seg", "show", "one"])["lock"]["waiting_exclusive"] == 0 {
        assert!(!vm.has_ended(), "{}{}", vm.out(), vm.err());
    }
    vm
}

#[test]
fn a_writer_inside_and_one_that_waits_are_shown() {
    skip_without_kvm!();
    let world = World::new();
    let mut holder = world.spawn("vas_holder", &["one", "write"]);
    holder.wait_for("holding write");
    let mut waiter = waiter(&world);
    let both = sorted([&holder, &waiter]);

    let segment = world.json(&["seg", "show", "one"]);
    assert_eq!(pids(&segment["attached"]), both, "{segment}");
    for one in segment["attached"].as_array().expect("a list") {
        assert_eq!(one["right"], "write", "{segment}");
        assert!(one["program"].as_str().is_some_and(|p| p.contains("vas_holder")), "{segment}");
    }
    let lock = &segment["lock"];
    assert_eq!(lock["state"], "exclusive", "{segment}");
    assert_eq!(lock["owner"]["pid"], holder.pid(), "{segment}");
    assert_eq!((&lock["readers"], &lock["waiting_exclusive"]), (&json!(0), &json!(1)));
    assert_eq!((&segment["dirty"], &segment["inconsistent"]), (&json!(false), &json!(false)));
    assert_eq!(pids(&segment["inside"]), sorted([&holder]), "{segment}");
    assert_eq!(segment["inside"][0]["vas"], "one", "{segment}");
    assert_eq!(segment["vases"], json!(["one"]));

    let vas = world.json(&["vas", "show", "one"]);
    assert_eq!(pids(&vas["attached"]), both, "{vas}");
    assert_eq!(pids(&vas["inside"]), sorted([&holder]), "{vas}");

    let text = world.says(&["seg", "show", "one"]);
    let held = format!("lock      exclusive, held by process {} (", holder.pid());
    assert!(text.contains(&held) && text.contains("waiting: 0 to read, 1 to write"), "{text}");
    assert!(world.says(&["vas", "ls"]).contains("in use"));
    // Everything is in order.
    for args in [&["seg", "check", "one"][..], &["vas", "check", "one"], &["store", "check"]] {
        let report = world.json(args);
        assert_eq!(report["findings"], json!([]), "{args:?}");
    }
    // Objects in use are kept.
    for args in [&["seg", "rm", "one"][..], &["vas", "rm", "one"], &["vas", "detach", "one", "one"]]
    {
        // A waiting VM has announced itself, so either may be named.
        let error = world.refuses(args);
        let names = |vm: &Vm| error.contains(&format!("process {}", vm.pid()));
        assert!(names(&holder) || names(&waiter), "{args:?}: {error}");
    }
    assert_eq!(pids(&world.json(&["store", "info"])["vms"]), both);
    assert!(!waiter.out().contains("entered"), "looking let it in");
    holder.kill();
    assert_eq!(waiter.ends_well(), "waiting\nentered after a death\nleft\n");
    world.clean_after_gc();
}

#[test]
fn readers_inside_are_counted() {
    skip_without_kvm!();
    let world = World::new();
    let [mut first, mut second] = [(); 2].map(|()| world.spawn("vas_holder", &["one", "read"]));
    first.wait_for("holding read");
    second.wait_for("holding read");
    let waiter = waiter(&world);
    let segment = world.json(&["seg", "show", "one"]);
    let lock = &segment["lock"];
    assert_eq!((&lock["state"], &lock["readers"]), (&json!("shared"), &json!(2)), "{segment}");
    assert_eq!(lock["owner"], Value::Null, "{segment}");
    assert_eq!(pids(&segment["inside"]), sorted([&first, &second]), "{segment}");
    assert_eq!(pids(&segment["attached"]), sorted([&first, &second, &waiter]), "{segment}");
    let text = world.says(&["seg", "show", "one"]);
    assert!(text.contains("shared, 2 readers, waiting: 0 to read, 1 to write"), "{text}");
}

#[test]
fn what_a_killed_writer_left_is_shown_until_it_is_recovered() {
    skip_without_kvm!();
    let world = World::new();
    let mut holder = world.spawn("vas_holder", &["one", "write"]);
    holder.wait_for("holding write");
    holder.kill();
    let segment = world.json(&["seg", "show", "one"]);
    assert_eq!((&segment["dirty"], &segment["inconsistent"]), (&json!(true), &json!(true)));
    assert_eq!(segment["attached"], json!([]), "the dead are not attached");
    assert_eq!(segment["inside"], json!([]), "nor inside");
    assert_eq!(segment["lock"]["state"], "exclusive", "no VM has come yet: {segment}");
    assert_eq!(segment["lock"]["owner"]["pid"], Value::Null);
    let text = world.says(&["seg", "show", "one"]);
    assert!(text.contains("which is dead: the next VM that wants the lock gets it"), "{text}");
    assert!(text.contains("state     dirty, inconsistent"), "{text}");
    // Warnings, no errors: it is usable.
    let fields = |report: &Value| {
        let findings = report["findings"].as_array().expect("a list").iter();
        let mut fields: Vec<String> = findings
            .map(|finding| {
                assert_eq!(finding["severity"], "warning", "{report}");
                finding["field"].as_str().expect("text").to_owned()
            })
            .collect();
        fields.sort();
        fields
    };
    assert_eq!(fields(&world.json(&["seg", "check", "one"])), ["lock", "state"]);
    // Its lease remains, too.
    assert_eq!(fields(&world.json(&["store", "check"])), ["liveness", "lock", "state"]);
    world.says(&["store", "gc"]);
    assert_eq!(fields(&world.json(&["store", "check"])), ["lock", "state"]);

    // The next visitor, which does not recover it.
    assert_eq!(
        world.good("vas_holder", &["one", "wait"]),
        "waiting\nentered after a death\nleft\n"
    );
    let segment = world.json(&["seg", "show", "one"]);
    assert_eq!((&segment["dirty"], &segment["inconsistent"]), (&json!(false), &json!(true)));
    assert_eq!(segment["lock"]["state"], "free", "{segment}");
    assert_eq!(fields(&world.json(&["seg", "check", "one"])), ["lock"]);
    // A copy is inconsistent, too, however it is made.
    world.says(&["seg", "clone", "one", "two"]);
    assert_eq!(world.json(&["seg", "show", "two"])["inconsistent"], true);
    let archive = world.path().with_extension("vas");
    let archive = archive.to_str().expect("ASCII");
    world.says(&["vas", "export", "one", archive]);
    world.says(&["vas", "import", archive, "--as", "three"]);
    assert_eq!(world.json(&["seg", "show", "three.one"])["inconsistent"], true);

    assert!(world.good("vas_holder", &["one", "recover"]).ends_with("done\n"));
    let segment = world.json(&["seg", "show", "one"]);
    assert_eq!((&segment["dirty"], &segment["inconsistent"]), (&json!(false), &json!(false)));
    assert_eq!(fields(&world.json(&["seg", "check", "one"])), [""; 0]);
    world.left_clean();
}
