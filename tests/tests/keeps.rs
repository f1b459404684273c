//! Settings that a program makes for itself hold, and are read back: memory that moves or is
//! locked, limits, the size of its stack, owners of descriptors.
//!
//! One program, `guests/c/keeps.c`, by topic. The command runs it, under a shell that sets its
//! own limits first, and the same shell runs it natively; only what depends on the privileges of
//! the user who runs the tests is compared with what Linux answers a user without any.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

/// Runs a topic after the shell commands `shell`; `before` goes in front of the program.
fn run(shell: &str, before: &[&str], folder: &Path, topic: &[&str]) -> Output {
    let dir = folder.join(if before.is_empty() { "native" } else { "vm" });
    std::fs::create_dir_all(&dir).expect("a directory can be made");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell} exec \"$@\""), "sh"]);
    if !before.is_empty() {
        command.arg(guests::program("spacejmp-cli", "spacejmp", Profile::Dev)).args(before);
        command.arg("--dir").arg(&dir).arg("--store").arg(folder.join("store"));
    }
    command.arg(guests::c("keeps")).arg(topic[0]).arg(&dir).args(&topic[1..]);
    command.output().expect("a shell starts")
}

fn in_vm(shell: &str, topic: &[&str]) -> (String, i32) {
    in_vm_with(&[], shell, topic)
}

fn in_vm_with(options: &[&str], shell: &str, topic: &[&str]) -> (String, i32) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let timeout = pace::limit(std::time::Duration::from_secs(100)).as_secs().to_string();
    let before = [&["run", "--log", "error", "--timeout", &timeout], options].concat();
    let done = run(shell, &before, folder.path(), topic);
    let status = done.status.code().unwrap_or_else(|| panic!("the VMM was killed: {done:?}"));
    (String::from_utf8_lossy(&done.stdout).into_owned(), status)
}

#[track_caller]
fn same_as_native(shell: &str, topic: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let native = run(shell, &[], folder.path(), topic);
    let status = native.status.code().or(native.status.signal().map(|signal| 128 + signal));
    let native = (String::from_utf8_lossy(&native.stdout).into_owned(), status.unwrap_or(-1));
    let vm = in_vm(shell, topic);
    assert_eq!(vm, native, "in a VM, and natively");
    vm.0
}

#[test]
fn a_private_file_mapping_moves_with_its_copies_and_leaves_the_file_behind() {
    skip_without_kvm!();
    let said = same_as_native("", &["moves"]);
    assert!(said.contains("its beginning: XcdefYhi"), "{said}");
}

#[test]
fn locked_memory_is_counted_and_not_dropped() {
    skip_without_kvm!();
    let said = same_as_native("", &["locks"]);
    assert!(said.contains("what came before it: 64"), "{said}");
}

#[test]
fn no_more_is_locked_than_the_limit_allows() {
    skip_without_kvm!();
    let expected = "\
        too much: ENOMEM, enough: ok, once more: ok, more: ENOMEM, mapped: EAGAIN, grown: EAGAIN, \
        all: ENOMEM\n\
        what comes: ok, small: ok, large: EAGAIN\n\
        nothing: EPERM EPERM EPERM\n";
    assert_eq!(in_vm("", &["over"]), (expected.to_owned(), 0));
}

#[test]
fn locked_pages_of_a_program_are_locked_on_the_host() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .args(["run", "--log", "error", "--timeout", "300", "--store"])
        .arg(folder.path().join("store"))
        .arg("--dir")
        .arg(folder.path())
        .arg(guests::c("keeps"))
        .arg("hold")
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let status = format!("/proc/{}/status", child.id());
    let locked_kib = || {
        let text = std::fs::read_to_string(&status).expect("it still runs");
        let line = text.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("a line");
        line.trim_end_matches("kB").trim().parse::<u64>().expect("a number")
    };
    let mut stdin = child.stdin.take().expect("it is piped");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut line = || lines.next().expect("a line comes").expect("it is text");
    assert_eq!(line(), "locked: ok");
    assert_eq!(locked_kib(), 160);
    stdin.write_all(b"\n").expect("it reads");
    assert_eq!(line(), "less");
    assert_eq!(locked_kib(), 40);
    drop(stdin);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_limit_on_the_size_of_files_is_kept_whichever_call_makes_one_grow() {
    skip_without_kvm!();
    let said = same_as_native("", &["sizes"]);
    assert!(said.contains("write: -1 EFBIG, signals 1"), "{said}");
}

#[test]
fn processor_time_beyond_the_limit_is_a_signal_and_then_the_end() {
    skip_without_kvm!();
    let said = same_as_native("", &["time"]);
    assert!(said.ends_with("signals: 1\n"), "{said}");
}

#[test]
fn a_limit_of_processor_time_from_the_shell_is_told_to_the_program() {
    skip_without_kvm!();
    let (_, status) = in_vm("ulimit -S -t 1;", &["burn"]);
    assert_eq!(status, 128 + libc::SIGXCPU);
}

#[test]
fn processor_time_of_a_run_is_limited_by_an_option() {
    skip_without_kvm!();
    let time = ["--cpu-time", "1", "--processes", "1"];
    assert_eq!(in_vm_with(&time, "", &["burn"]).1, 128 + libc::SIGXCPU);
    let (said, status) = in_vm_with(&time, "", &["count"]);
    assert_eq!((said.as_str(), status), ("limit: 1 2\nsignals: 1\n", 128 + libc::SIGKILL));
    // The shell's is lower.
    let (_, status) = in_vm_with(&["--cpu-time", "1000"], "ulimit -S -t 1;", &["burn"]);
    assert_eq!(status, 128 + libc::SIGXCPU);
}

/// Runs a topic that starts processes with two seconds of processor time for all together: what it said, its
/// status and the seconds they used.
fn with_two_seconds(topic: &str) -> (String, i32, f64) {
    let stats = tempfile::NamedTempFile::new().expect("a file");
    let path = stats.path().to_str().expect("text");
    let options = ["--cpu-time", "2", "--stats=json", "--stats-to", path];
    let (said, status) = in_vm_with(&options, "", &[topic]);
    let text = std::fs::read_to_string(path).expect("statistics were written");
    let stats: serde_json::Value = serde_json::from_str(&text).expect("they are JSON");
    assert_eq!(stats["limits"]["cpu_seconds"], 2);
    let used = stats["limits"]["run_cpu_ns"].as_u64().expect("it is limited");
    (said, status, used as f64 / 1e9)
}

#[test]
fn processor_time_of_all_processes_of_a_run_is_limited_together() {
    skip_without_kvm!();
    let (said, status, used) = with_two_seconds("together");
    println!("{used} s");
    assert_eq!((said.as_str(), status), ("ended: 3\n", 0), "{used} s");
    // Each on its own would have used as much; some of what they use is found out a little later.
    assert!((2.0..4.0).contains(&used), "{used} s");
}

#[test]
fn processor_time_of_processes_that_end_early_counts() {
    skip_without_kvm!();
    let (_, status, used) = with_two_seconds("short");
    println!("{used} s");
    assert!([128 + libc::SIGXCPU, 128 + libc::SIGKILL].contains(&status), "{status}");
    assert!((2.0..5.0).contains(&used), "{used} s");
}

#[test]
fn the_size_of_files_is_limited_by_an_option_and_the_program_cannot_raise_it() {
    skip_without_kvm!();
    let (said, status) = in_vm_with(&["--file-size", "4K"], "", &["grow"]);
    let expected = "limit: 4096 4096\nhigher: EPERM\nwrite: 3000 , signals 0\n\
                    write: 1096 , signals 0\nwrite: -1 EFBIG, signals 1\n";
    assert_eq!((said.as_str(), status), (expected, 128 + libc::SIGXFSZ));
}

#[test]
fn a_run_has_as_many_processors_as_an_option_says_and_no_more() {
    skip_without_kvm!();
    let expected = "wants all: ok\nprocessors: 1 1 1 1\n";
    assert_eq!(in_vm_with(&["--cpus", "1"], "", &["processors"]), (expected.to_owned(), 0));
    let (_, status) = in_vm_with(&["--cpus", "100000"], "", &["processors"]);
    assert_eq!(status, 125);
}

#[test]
fn a_limit_on_threads_is_kept() {
    skip_without_kvm!();
    let expected = "limit: ok, now 4 5\nthread: ok\nthread: ok\nthread: ok\nthread: EAGAIN\n\
                    higher: EPERM\n";
    assert_eq!(in_vm("", &["threads"]), (expected.to_owned(), 0));
}

#[test]
fn every_limit_can_be_lowered_and_is_read_back() {
    skip_without_kvm!();
    let said = same_as_native("", &["kept"]);
    assert_eq!(said.matches(": ok 1 ok EINVAL\n").count(), 16, "{said}");
}

#[test]
fn the_main_stack_is_as_large_as_the_shell_says() {
    skip_without_kvm!();
    for (kib, bytes) in [("1024", "900000"), ("8192", "8000000"), ("65536", "60000000")] {
        same_as_native(&format!("ulimit -s {kib};"), &["stack", bytes]);
    }
    let said = same_as_native("ulimit -s unlimited;", &["stack", "200000000"]);
    assert_eq!(said, "limit -1, used\n");
    let (said, status) = in_vm("ulimit -s 1024;", &["stack", "2000000"]);
    assert_eq!((said.as_str(), status), ("limit 1048576", 128 + libc::SIGSEGV));
}

#[test]
fn a_stack_grows_to_a_limit_raised_later() {
    skip_without_kvm!();
    same_as_native("ulimit -S -s 8192;", &["raise"]);
}

#[test]
fn owners_and_signals_of_descriptors_are_kept() {
    skip_without_kvm!();
    same_as_native("", &["owners"]);
}

#[test]
fn what_proc_says_of_privileges_processors_and_personality_is_what_was_set() {
    skip_without_kvm!();
    let said = same_as_native("", &["status"]);
    assert!(said.contains("NoNewPrivs:\t0\nNoNewPrivs:\t1\n"), "{said}");
}

#[test]
fn a_pipe_on_standard_output_can_be_opened_again_by_its_number() {
    skip_without_kvm!();
    let said = same_as_native("", &["pipe"]);
    assert_eq!(said, "to read: ok, to write: ok\n");
}
