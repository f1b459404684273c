//! The example `notebook`: each command is a separate run, in its own VM.

use tests::guests::{Profile, program};
use tests::skip_without_kvm;
use tests::vm::Run;

fn notebook() -> Run {
    Run::new(program("notebook", "notebook", Profile::Dev))
}

#[test]
fn what_one_run_notes_the_next_ones_list_find_and_remove() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let run = |args: &[&str]| notebook().args(args).store(folder.path().join("store")).in_vm();
    run(&["add", "buy", "milk", "+home", "+today"]).expect(0, "note 1\n");
    run(&["add", "call", "Ada", "+today"]).expect(0, "note 2\n");
    run(&["add", "milk", "the", "cow"]).expect(0, "note 3\n");
    run(&["list", "+today"]).expect(0, "1: buy milk +home +today\n2: call Ada +today\n");
    run(&["find", "milk"]).expect(0, "1: buy milk +home +today\n3: milk the cow\n");
    run(&["remove", "1"]).expect(0, "");
    let again = run(&["remove", "1"]);
    again.expect(1, "");
    assert!(again.err().contains("there is no note 1"), "{again:?}");
    run(&["list"]).expect(0, "2: call Ada +today\n3: milk the cow\n");
}

#[test]
fn outside_a_vm_it_says_how_to_run_it() {
    let ended = notebook().args(&["list"]).native();
    ended.expect(1, "");
    assert!(ended.err().contains("spacejmp run"), "{ended:?}");
}
