//! What part of the store a program is granted, by `--vas`, `--no-store` and `--dir`; and what
//! other users of a shared host can do to a run. Needs /dev/kvm.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use abi::objects::Right;
use rustix::fs::{FlockOperation, flock};
use tests::guests::{self, Profile};
use tests::pace;
use tests::vm::Run;
use vmm::process::Outcome;
use vmm::store::{Mode, Name, SegmentSpec, Store};

fn spacejmp(home: &Path) -> Command {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_clear().env("HOME", home);
    command
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// Status and stderr.
fn told(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[track_caller]
fn fine(output: &Output) {
    let (out, (status, err)) = (String::from_utf8_lossy(&output.stdout), told(output));
    assert!(status == Some(0) && !out.contains("FAILED") && out.ends_with("done\n"), "{out}{err}");
}

#[test]
fn a_program_uses_only_the_vases_it_was_granted_and_as_they_were_granted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let store = Store::open_or_create(&path).expect("a store");
    let spec = SegmentSpec { reserve_bytes: 4 << 20, ..SegmentSpec::new(4096) };
    let segment = |text: &str| store.create_segment(&name(text), &spec).expect("a segment");
    let vas = |text: &str| store.create_vas(&name(text), Mode::PRIVATE).expect("a VAS");
    let (data, both, words, secret) =
        (segment("data"), segment("both"), segment("words"), segment("secret"));
    let (mine, library, other) = (vas("mine"), vas("library"), vas("other"));
    for (vid, sid) in
        [(mine, data), (mine, both), (library, both), (library, words), (other, secret)]
    {
        store.attach_segment(vid, sid, Right::Write).expect("attached");
    }
    let (vid, sid) = (format!("{:x}", other.raw()), format!("{:x}", secret.raw()));
    let run = Run::new(guests::rust("store_grants"))
        .args(&["calls", &vid, &sid])
        .store(&path)
        .vas("mine")
        .vas("mine2")
        .vas("new")
        .vas("library:ro");
    let ended = run.in_vm();
    assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
    assert!(!ended.out().contains("FAILED") && ended.out().ends_with("done\n"), "{ended:?}");
    let left = store.vas(other).expect("still there");
    assert_eq!(left.segments.len(), 1);
    assert_eq!(store.vas(library).expect("still there").segments.len(), 2);
    assert_eq!(store.list_segments().expect("a list").len(), 4);
}

#[test]
fn a_run_without_a_store_has_a_whole_one_and_leaves_nothing() {
    let home = tempfile::tempdir().expect("a folder");
    let mut command = spacejmp(home.path());
    command.args(["run", "--no-store", "--timeout", "100"]).arg(guests::rust("vas_basic"));
    // A second one finds nothing of the first.
    for _ in 0..2 {
        fine(&command.output().expect("it runs"));
    }
    assert_eq!(fs::read_dir(home.path()).expect("a folder").count(), 0);
}

#[test]
fn no_store_and_another_store_are_a_contradiction() {
    let home = tempfile::tempdir().expect("a folder");
    let program = guests::rust("vas_basic");
    for more in [["--store", "/nowhere"], ["--vas", "v"]] {
        let mut command = spacejmp(home.path());
        command.args(["run", "--no-store"]).args(more).arg(&program);
        assert_eq!(told(&command.output().expect("it runs")).0, Some(125));
    }
    // The variable only locates the store if no option does.
    let mut command = spacejmp(home.path());
    command.env("SPACEJMP_STORE", "/nowhere/at/all").args(["run", "--no-store"]).arg(&program);
    fine(&command.output().expect("it runs"));
}

/// A home directory with a store in the usual place.
fn home_with_store() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join(".local/share/spacejmp");
    let store = Store::open_or_create(&path).expect("a store");
    store.create_segment(&name("s"), &SegmentSpec::new(4096)).expect("a segment");
    (home, path)
}

#[test]
fn a_store_cannot_be_granted_as_a_directory() {
    let (home, path) = home_with_store();
    for dir in [path.clone(), path.join("segments")] {
        let mut command = spacejmp(home.path());
        command.args(["run", "--dir"]).arg(&dir).arg(guests::rust("vas_basic"));
        let (status, error) = told(&command.output().expect("it runs"));
        assert_eq!(status, Some(125), "{error}");
        assert!(error.contains("belongs to the store") && error.contains("help:"), "{error}");
    }
    // Even when the run has another store.
    let mut command = spacejmp(home.path());
    command.args(["run", "--no-store", "--dir"]).arg(&path).arg(guests::rust("vas_basic"));
    assert_eq!(told(&command.output().expect("it runs")).0, Some(125));
}

#[test]
fn a_store_in_a_granted_directory_is_out_of_reach() {
    let (home, path) = home_with_store();
    let mut command = spacejmp(home.path());
    command.args(["run", "--timeout", "100", "--dir"]).arg(home.path());
    command.arg(guests::rust("store_grants")).arg("reach").arg(&path);
    fine(&command.output().expect("it runs"));
    assert!(Store::open(&path).expect("there").find_vas(&name("made")).is_ok());
}

#[test]
fn a_store_that_a_run_makes_is_as_the_users_umask_wants_it() {
    let home = tempfile::tempdir().expect("a folder");
    let command = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
    let mut shell = Command::new("sh");
    shell.env_clear().env("HOME", home.path());
    shell.args(["-c", "umask 027; exec \"$@\"", "sh"]).arg(command).arg("run");
    fine(&shell.arg(guests::rust("vas_basic")).output().expect("it runs"));
    let path = home.path().join(".local/share/spacejmp");
    let mode = |name: &str| {
        fs::metadata(path.join(name)).expect("it is there").permissions().mode() & 0o777
    };
    for folder in [".", "tmp", "vas", "segments", "parts", "vms"] {
        assert_eq!(mode(folder), 0o750, "{folder}");
    }
    for file in ["lock", "live", "format"] {
        assert_eq!(mode(file), 0o640, "{file}");
    }
}

#[test]
fn a_stranger_with_the_stores_lock_keeps_no_run_from_ending() {
    let (home, path) = home_with_store();
    let stranger = File::open(path.join("lock")).expect("it can be read");
    flock(&stranger, FlockOperation::LockExclusive).expect("locked");
    let mut command = spacejmp(home.path());
    command.args(["run", "--timeout", "1"]).arg(guests::rust("vas_basic"));
    assert_eq!(told(&command.output().expect("it runs")).0, Some(124));

    let mut command = spacejmp(home.path());
    let mut child = command.arg("run").arg(guests::rust("vas_basic")).spawn().expect("it runs");
    std::thread::sleep(pace::limit(Duration::from_secs(1)));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    drop(stranger);
    let mut command = spacejmp(home.path());
    fine(&command.arg("run").arg(guests::rust("vas_basic")).output().expect("it runs"));
}

#[test]
fn barriers_stay_within_the_program() {
    let home = tempfile::tempdir().expect("a folder");
    let mut command = spacejmp(home.path());
    command.args(["run", "--no-store"]).arg(guests::rust("store_grants")).arg("barriers");
    fine(&command.output().expect("it runs"));
}

#[test]
fn warnings_that_a_program_causes_are_limited_and_counted() {
    let home = tempfile::tempdir().expect("a folder");
    let mut command = spacejmp(home.path());
    command.args(["run", "--no-store"]).arg(guests::rust("store_grants")).arg("warnings");
    let output = command.output().expect("it runs");
    fine(&output);
    let (_, error) = told(&output);
    // A burst of ten, then one a second: the run may be slow.
    assert!((10..80).contains(&error.lines().count()), "{error}");
    assert!(error.contains("left out"), "{error}");
}
