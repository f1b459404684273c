//! A store that was made once (`tests/golden/collections.vas`, with what `sdk_golden show` said of it beside it) is read, and
//! changed, ever after: the collections of the SDK, the heap and the layout of types stay what they were.
//!
//! A release that stores something in another way adds an archive of its own, and goes on to read this one. It is made by
//! `sdk_golden golden fill` in an empty store, and `spacejmp vas export golden`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

#[track_caller]
fn spacejmp(store: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").env("SPACEJMP_STORE", store).args(arguments);
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn sdk_golden(store: &Path, what: &str) -> String {
    let program = guests::program("guests", "sdk_golden", Profile::Dev);
    let limit = pace::limit(Duration::from_secs(120)).as_secs().to_string();
    let program = program.to_str().expect("ASCII");
    spacejmp(store, &["run", "--timeout", &limit, program, "golden", what])
}

#[test]
fn collections_that_an_earlier_release_has_stored_are_read_checked_and_changed() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
    fs::create_dir(&old).expect("a folder");
    let archive = golden("collections.vas");
    spacejmp(&old, &["vas", "import", archive.to_str().expect("ASCII")]);
    let said = fs::read_to_string(golden("collections.txt")).expect("it is there");
    assert_eq!(sdk_golden(&old, "show"), said, "what is stored is found as it was");

    let clean = "clean: ";
    assert!(sdk_golden(&old, "check").starts_with(clean), "what an earlier release has stored");

    // What is made today has the same content, also after both were changed.
    fs::create_dir(&new).expect("a folder");
    sdk_golden(&new, "fill");
    assert_eq!(sdk_golden(&new, "show"), said, "the program makes what is stored");
    sdk_golden(&old, "change");
    sdk_golden(&new, "change");
    let changed = sdk_golden(&old, "show");
    assert_ne!(changed, said);
    assert_eq!(changed, sdk_golden(&new, "show"), "what was changed");
    spacejmp(&old, &["vas", "check", "golden"]);
    for store in [&old, &new] {
        assert!(sdk_golden(store, "check").starts_with(clean), "what was changed");
    }
}
