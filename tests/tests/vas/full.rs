//! Limits of files and disks: a call that reaches one fails, and for a program that touches
//! memory without storage the report has the address and the cause.

use std::process::{Command, Output};

use tests::guests::{self, Profile};
use tests::skip_without_kvm;
use tests::small_disk;
use tests::vm::Run;

use crate::world::{World, names};

/// `command` in a shell that has executed `first`.
fn after(first: &str, command: &Command) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{first} && exec \"$@\""), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.output().expect("a shell")
}

fn spacejmp() -> Command {
    Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
}

#[test]
fn a_segment_beyond_the_limit_of_file_sizes_is_an_error_and_leaves_nothing() {
    let world = World::new();
    let store = world.path();
    drop(world.store());
    let mut create = spacejmp();
    create.env("SPACEJMP_STORE", &store).args([
        "seg",
        "create",
        "x",
        "--size",
        "1G",
        "--lifetime",
        "persistent",
    ]);
    let output = after("ulimit -f 1000", &create);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(said.contains("ulimit -f"), "{said}");
    assert!(world.store().list_segments().expect("a list").is_empty());
    assert_eq!(names(&store.join("tmp")), [""; 0]);
}

#[test]
fn a_program_that_writes_beyond_the_limit_of_file_sizes_gets_the_signal_or_the_error() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let run = |how: &str| {
        let mut run = spacejmp();
        run.args(["run", "--dir"]).arg(folder.path()).arg(guests::c("file_limits"));
        run.arg(how).arg(folder.path().join("big"));
        after("ulimit -f 200", &run)
    };
    let ignored = run("ignore");
    assert_eq!(ignored.status.code(), Some(0), "{ignored:?}");
    assert_eq!(String::from_utf8_lossy(&ignored.stdout), "write: File too large\nstill alive\n");
    let ended = run("write");
    assert_eq!(ended.status.code(), Some(128 + libc::SIGXFSZ), "{ended:?}");
    assert_eq!(ended.stdout, b"");
}

#[test]
fn who_touches_what_a_file_has_not_is_told_the_address() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().to_str().expect("text");
    let run = Run::new(guests::c("file_limits")).args(&["cut", &format!("{path}/f")]).dir(path);
    run.in_vm().expect(
        0,
        "behind the end: the address is right\nfar behind it: the address is right\n\
         truncated: the address is right\nthere again: no signal\n",
    );
}

#[test]
fn a_program_that_meets_a_full_disk_is_told_the_address_and_that_it_is_full() {
    skip_without_kvm!();
    let test = "full::a_program_that_meets_a_full_disk_is_told_the_address_and_that_it_is_full";
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut run = spacejmp();
    run.args(["run", "--store"]).arg(folder.path().join("store"));
    run.arg(guests::rust("vas_holder")).args(["one", "fill"]);
    let Some(output) = small_disk::run(test, folder.path(), &run) else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(128 + libc::SIGBUS), "{output:?}");
    assert!(said.contains("which the host cannot give: the disk of the store is full"), "{said}");
    assert!(said.contains("it used 0x") && said.contains("segment `one`"), "{said}");
}
