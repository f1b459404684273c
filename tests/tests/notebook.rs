//! The example `notebook`: each command is a separate run, in its own VM.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tests::guests::{Profile, program};
use tests::vm::Run;
use tests::{pace, skip_without_kvm};
use vmm::store::{Name, Store};

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
    let store = Store::open_or_create(&folder.path().join("store")).expect("the store opens");
    let notebook = store.find_vas(&Name::new(b"notebook").expect("a name")).expect("it is there");
    let versions = store.vas_history(notebook).expect("it has versions");
    let said: Vec<_> = versions.iter().map(|version| version.message.as_str()).collect();
    assert_eq!(said[..2], ["remove note 1", ""], "what failed made no version");
}

#[test]
fn a_kill_in_the_middle_of_a_note_leaves_whole_notes() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = folder.path().join("store");
    // So many that writing them takes a good part of the program's time.
    let tags: Vec<String> = (0..30_000).map(|number| format!("+tag{number}")).collect();
    let whole = format!("long {}", tags.join(" "));
    let rounds = pace::times(20);
    for round in 0..rounds {
        let mut add = Command::new(program("spacejmp-cli", "spacejmp", Profile::Dev));
        add.args(["run", "--timeout", "120", "--store"]).arg(&store);
        add.arg(program("notebook", "notebook", Profile::Dev)).args(["add", "long"]).args(&tags);
        let mut add = add.stdout(Stdio::null()).spawn().expect("the command starts");
        thread::sleep(pace::limit(Duration::from_millis(200)) * (round + 1) / (rounds + 1));
        add.kill().expect("it is ours");
        add.wait().expect("it has ended");
        let listed = notebook().args(&["list"]).store(&store).in_vm();
        // A note that was not finished has used up no number, either.
        let notes = listed.out().lines().count();
        let all: String = (1..=notes).map(|number| format!("{number}: {whole}\n")).collect();
        assert!(listed.out() == all && listed.err().is_empty(), "round {round}, {notes} notes");
    }
}

#[test]
fn outside_a_vm_it_says_how_to_run_it() {
    let ended = notebook().args(&["list"]).native();
    ended.expect(1, "");
    assert!(ended.err().contains("spacejmp run"), "{ended:?}");
}
