//! System V IPC between the processes of a run, natively and in VMs, and that nothing of it reaches the host.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

/// The key that the guest uses in VMs only.
const KEY: u64 = 0x5350_4a4d;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn command(options: &[&str], words: &[&str]) -> Command {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
    command.env_remove("SPACEJMP_LOG").stdin(Stdio::null());
    command.args(["run", "--no-store", "--timeout", &limit]).args(options);
    command.arg(guests::c("sysv")).args(words);
    command
}

fn run(options: &[&str], words: &[&str]) -> Output {
    command(options, words).output().expect("it starts")
}

#[track_caller]
fn same_as_native(mode: &str) {
    let native = Command::new(guests::c("sysv")).arg(mode).stdin(Stdio::null()).output();
    let native = native.expect("it starts");
    let here = run(&[], &[mode]);
    assert_eq!(
        (text(&here.stdout), here.status.code()),
        (text(&native.stdout), native.status.code()),
        "{mode}: {}",
        text(&here.stderr)
    );
    assert!(!native.stdout.is_empty(), "it says what it does");
}

/// Whether the host has an object with the guest's key.
fn is_on_the_host() -> bool {
    ["shm", "sem", "msg"].iter().any(|kind| {
        let list = std::fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        let keys = list.lines().filter_map(|line| line.split_ascii_whitespace().next());
        keys.filter_map(|key| key.parse().ok()).any(|key: u64| key == KEY)
    })
}

#[test]
fn segments_are_shared_inherited_and_gone_with_the_last_who_has_them() {
    skip_without_kvm!();
    same_as_native("memory");
}

#[test]
fn semaphores_wait_for_each_other_and_are_undone_with_the_process() {
    skip_without_kvm!();
    same_as_native("semaphores");
}

#[test]
fn messages_are_queued_chosen_by_type_and_waited_for() {
    skip_without_kvm!();
    same_as_native("messages");
}

#[test]
fn keys_are_the_runs_own_and_end_with_it_also_by_a_kill() {
    skip_without_kvm!();
    let expected = "shmget: 0\nsemget: 0\nmsgget: 0\na child finds it: 0\n";
    for _ in 0..2 {
        let run = run(&[], &["keys"]);
        assert_eq!(text(&run.stdout), expected, "{}", text(&run.stderr));
        assert!(!is_on_the_host());
    }
    let mut waits = command(&[], &["waits"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = std::io::BufReader::new(waits.stdout.take().expect("it is piped"));
    let mut line = String::new();
    while !line.starts_with("waits") {
        line.clear();
        let read = std::io::BufRead::read_line(&mut lines, &mut line).expect("it says so");
        assert!(read > 0, "it has ended");
    }
    assert!(!is_on_the_host());
    waits.kill().expect("it is there");
    waits.wait().expect("it ends");
    let again = run(&[], &["keys"]);
    assert_eq!(text(&again.stdout), expected, "{}", text(&again.stderr));
}

#[test]
fn segments_count_against_the_runs_memory_once() {
    skip_without_kvm!();
    let run = run(&["--memory", "100M"], &["limited", "60"]);
    let expected = "second: ENOMEM\nshared: 1\nremoved: 0\nanother one: 1\n";
    assert_eq!(text(&run.stdout), expected, "{}", text(&run.stderr));
}

#[test]
fn a_program_that_runs_alone_has_none() {
    skip_without_kvm!();
    let run = run(&["--processes", "1"], &["keys"]);
    assert!(text(&run.stdout).starts_with("shmget: ENOSYS\n"), "{}", text(&run.stdout));
    assert!(text(&run.stderr).contains("--processes"), "{}", text(&run.stderr));
}
