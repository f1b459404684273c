//! When a call that changes memory has returned, no thread on any processor sees the previous
//! state. `guests/src/bin/shootdown` has the details.

use tests::guests;
use tests::pace;
use tests::skip_without_kvm;
use tests::vm::Run;

/// A seed makes the same calls in every run; which accesses coincide with them is chance.
#[track_caller]
fn shootdown(seed: u32, calls: u32) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_str().expect("temporary names are ASCII");
    let (seed, calls) = (seed.to_string(), pace::times(calls).to_string());
    let run = Run::new(guests::rust("shootdown")).args(&[path, &seed, &calls]).dir(path);
    let ended = run.in_vm();
    println!("seed {seed}: {} in {:?}", ended.err().trim(), ended.elapsed);
    ended.expect(0, "shootdown: fine\n");
}

#[test]
fn threads_see_memory_as_the_last_call_left_it() {
    skip_without_kvm!();
    (1..=2).for_each(|seed| shootdown(seed, 100));
}
