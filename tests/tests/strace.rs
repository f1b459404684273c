//! `run --strace`: what it prints of a program that makes calls of every kind.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::skip_without_kvm;

fn command(options: &[&str], program: &Path) -> Command {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(["run", "--log", "error", "--no-store"]);
    command.args(["--timeout", "120"]).args(options).arg(program).stdin(Stdio::null());
    command
}

fn run(options: &[&str], program: &Path) -> Output {
    command(options, program).output().expect("the command starts")
}

const UNFINISHED: &str = " <unfinished ...>";

/// The calls of a trace, each a thread's number and the rest without its time. Where a busy machine
/// made any call last, its two lines are put together.
fn lines(trace: &str) -> Vec<(&str, String)> {
    let mut all: Vec<(&str, String)> = Vec::new();
    for line in trace.lines() {
        let (tid, rest) = line.split_once(' ').expect("a thread comes first");
        let (time, rest) = rest.trim_start().split_once(' ').expect("a time comes next");
        assert!(time.parse::<f64>().is_ok_and(|time| time >= 0.0), "{line}");
        match rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((name, end)) => {
                let began = all.iter_mut().rev().find(|(other, _)| *other == tid);
                let (_, began) = began.expect("it has begun");
                let start = began.strip_suffix(UNFINISHED).expect("it is unfinished");
                assert!(start.starts_with(&format!("{name}(")), "{line}");
                *began = format!("{start}{end}");
            }
            None => all.push((tid, rest.to_owned())),
        }
    }
    all
}

/// The trace of a program that ends by itself.
fn traced(program: &Path) -> String {
    traced_until(program, &[])
}

/// The trace of a program that goes on, and ends, once its standard input is closed: when all of `told` is in it.
fn traced_until(program: &Path, told: &[String]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("trace");
    let option = format!("--strace={}", file.display());
    let mut command = command(&[&option], program);
    let mut running = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let trace = || std::fs::read_to_string(&file).unwrap_or_default();
    let is_told = || told.iter().all(|line| trace().contains(line));
    while !is_told() && running.try_wait().expect("it can be asked").is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    // Closes its standard input.
    let ended = running.wait_with_output().expect("it can be waited for");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(said, "", "the trace goes to its file alone");
    std::fs::read_to_string(file).expect("the trace is a text")
}

#[test]
fn a_trace_has_every_call_with_its_arguments_its_result_and_its_time() {
    skip_without_kvm!();
    // Those that last are told before they end.
    let lasting = ["read(3", "read(0"].map(|call| format!("{call}{UNFINISHED}\n"));
    let trace = traced_until(&guests::c("traced"), &lasting);
    let lines = lines(&trace);
    let (first, _) = lines.first().expect("there are lines");
    let mut rest = lines.iter();
    // In this order, with others in between; each ends with how long it took.
    for expected in [
        "execve(\"",
        r#"openat(AT_FDCWD, "/none/\33[2J\"name\"", O_RDWR|O_CREAT, 0640) = -1 ENOENT (no such"#,
        "openat(AT_FDCWD, 0x1, O_RDONLY, ",
        r#"writev(1, [{iov_base="two ", iov_len=4}, {iov_base="parts\n", iov_len=6}], 2) = 10 <"#,
        r#"write(1, "a text that is longer than what "..., 52) = 52 <"#,
        "fstat(99, 0x",
        "syscall_0x3e7(0x1, 0x2, 0x3, 0x4, 0x5, 0x6) = -1 ENOSYS (",
        "rt_sigaction(SIGUSR1, {sa_handler=0x",
        "tgkill(",
        "--- SIGUSR1 {si_code=-6, ",
        "rt_sigreturn() = 0 <",
        "pipe2([3, 4], O_CLOEXEC) = 0 <",
        "clock_nanosleep(CLOCK_REALTIME, 0x0, {tv_sec=0, tv_nsec=300000000}, ",
        r#"read(0, "", 1) = 0 <"#,
        r#"write(4, "x", 1) = 1 <"#,
        "exit_group(3) = ? <",
        "+++ exited with 3 +++",
    ] {
        let found = rest.any(|(tid, line)| tid == first && line.starts_with(expected));
        assert!(found, "{expected} is missing, or out of order:\n{trace}");
    }
    let waits = |&&(tid, ref line): &&(&str, String)| {
        tid != *first && line.starts_with(r#"read(3, "x", 1) = 1 <"#)
    };
    assert_eq!(lines.iter().filter(waits).count(), 1, "{trace}");
    for lasts in lasting {
        assert!(trace.contains(&lasts), "{trace}");
    }
    assert!(trace.is_ascii() && !trace.contains('\x1b'));
}

#[test]
fn without_a_file_the_trace_goes_to_standard_error_and_changes_neither_output_nor_status() {
    skip_without_kvm!();
    let ended = run(&["--strace"], &guests::c("traced"));
    assert_eq!(ended.status.code(), Some(3));
    let shown = "two parts\na text that is longer than what a trace shows of it\n";
    assert_eq!(String::from_utf8_lossy(&ended.stdout), shown);
    let trace = String::from_utf8(ended.stderr).expect("a text");
    assert!(lines(&trace).last().expect("there are lines").1 == "+++ exited with 3 +++");
}

#[test]
fn a_trace_has_the_switches_that_the_guest_kernel_makes_otherwise() {
    skip_without_kvm!();
    let trace = traced(&guests::rust("vas_basic"));
    let count = |start: &str| lines(&trace).iter().filter(|(_, it)| it.starts_with(start)).count();
    assert!(count("vas_create(\"") > 0, "{trace}");
    // Home again by the same call: as many as into address spaces, and more than the first ones,
    // which the VMM makes anyway.
    let (all, home) = (count("vas_switch("), count("vas_switch(0) = 0"));
    assert!(home >= 2 && all >= 2 * home, "{all} and {home}\n{trace}");
}

#[test]
fn a_trace_that_cannot_be_written_is_refused_before_anything_runs() {
    let ended = run(&["--strace=/no/such/folder/trace"], &guests::c("hello"));
    assert_eq!(ended.status.code(), Some(125), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("/no/such/folder/trace"), "{said}");
}

#[test]
fn a_trace_has_the_calls_of_the_processes_that_a_program_starts() {
    skip_without_kvm!();
    let dir = tempfile::tempdir().expect("a folder");
    let folder = std::fs::canonicalize(dir.path()).expect("it is there");
    let (parent, child) = (folder.join("parent"), folder.join("child"));
    guests::copy_program(guests::c("starts"), &parent);
    guests::copy_program(guests::c("hello"), &child);
    let file = folder.join("trace");
    let (trace, dir) = (format!("--strace={}", file.display()), folder.display().to_string());
    let ended = run(&[&trace, "--dir", &dir], &parent);
    let trace = std::fs::read_to_string(&file).expect("the trace is a text");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}\n{trace}");
    let lines = lines(&trace);
    let first = lines.first().expect("there are lines").0;
    let starts = format!("execve(\"{}\", ", child.display());
    let started = |(tid, line): &&(&str, String)| *tid != first && line.starts_with(&starts);
    let (child, _) = lines.iter().find(started).unwrap_or_else(|| panic!("{trace}"));
    let has = |tid: &str, start: &str| {
        assert!(lines.iter().any(|(of, line)| *of == tid && line.starts_with(start)), "{trace}");
    };
    has(child, "write(1, \"");
    has(child, "+++ exited with 0 +++");
    has(first, &format!("wait4({child}, [0], 0, NULL) = {child} <"));
    assert!(lines.last().expect("there are lines").1 == "+++ exited with 0 +++");
}
