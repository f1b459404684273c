//! Copies of a versioned segment side by side in one VM: they have the same files, and one mapping of each.

use std::time::Duration;

use serde_json::json;
use tests::vm::{Ended, Running};
use tests::{pace, skip_without_kvm};
use vmm::process::Outcome;

use crate::world::World;

fn sums(ended: &Ended) -> Vec<(String, u64)> {
    let out = ended.out();
    let lines = out.lines().filter_map(|line| line.split_once(' '));
    lines.filter_map(|(name, sum)| Some((name.to_owned(), sum.parse().ok()?))).collect()
}

/// A VM that has read them.
fn start(world: &World, names: &[&str]) -> Running {
    let started = world.run("vas_copies", names).start();
    let mut vm = started.unwrap_or_else(|err| panic!("{}", tests::vm::all(&err)));
    vm.wait_for_output("read\n");
    vm
}

fn end(world: &World, vm: Running) -> Ended {
    world.says(&["vas", "create", "end"]);
    let ended = vm.wait(pace::limit(Duration::from_secs(60)));
    assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
    for name in ["one-less", "again", "end"] {
        world.says(&["vas", "rm", name]);
    }
    ended
}

#[test]
fn copies_in_one_vm_share_their_windows_and_stay_whole_when_one_of_them_goes() {
    skip_without_kvm!();
    let world = World::new();
    assert_eq!(world.good("vas_versions", &["bank", "make"]), "done\n");
    for copy in ["one", "two"] {
        world.says(&["vas", "clone", "bank", copy]);
    }
    let held = |vm: &Running| (vm.process.machine.windows.count(), vm.process.vases.counts().2);
    let alone = start(&world, &["bank:bank"]);
    let of_one = held(&alone);
    assert!(of_one.0 > 0 && of_one.1 > 0, "{of_one:?}");
    for name in ["one-less", "again"] {
        world.says(&["vas", "create", name]);
    }
    let sum = sums(&end(&world, alone))[0].1;

    let mut vm = start(&world, &["one:one.bank", "two:two.bank", "bank:bank"]);
    assert_eq!(held(&vm), of_one, "all of them have what one has");
    // One is detached and deleted, another one is changed.
    world.says(&["vas", "create", "one-less"]);
    vm.wait_for_output("detached\n");
    world.says(&["vas", "rm", "one"]);
    world.says(&["seg", "rm", "one.bank"]);
    assert_eq!(held(&vm), of_one, "the others have it still");
    assert_eq!(world.good("vas_versions", &["bank", "move", "1", "20", "1"]), "done\n");
    world.says(&["vas", "create", "again"]);
    vm.wait_for_output("read again\n");
    // What is moved about is never more or less.
    let read = ["one", "two", "bank", "two", "bank"].map(|name| (name.to_owned(), sum));
    assert_eq!(sums(&end(&world, vm)), read);
    assert_eq!(world.json(&["store", "check"])["findings"], json!([]));
}
