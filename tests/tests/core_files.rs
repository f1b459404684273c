//! Core files: `spacejmp run --core`, opened with the distribution's gdb. Needs /dev/kvm, a C compiler and gdb.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tests::guests::{self, Profile};
use tests::{kvm, pace, skip_without_kvm};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// A folder with links in its path resolved.
fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = std::fs::canonicalize(dir.path()).expect("it is there");
    (dir, path)
}

/// The program, for the distribution's libraries.
fn dynamic(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/c/crashes.c");
    let program = folder.join("crashes");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-std=gnu11", "-Wall", "-O1", "-g", "-pthread", "-o"]).arg(&program).arg(source);
    let output = command.output().expect("there is a C compiler");
    assert!(output.status.success(), "{}", text(&output.stderr));
    program
}

fn command(words: &[&str]) -> Command {
    let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(["run", "--no-store", "--timeout", &limit]);
    command.args(words).stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    command(words).output().expect("the command starts")
}

/// What gdb says to these commands; `None` where there is no gdb, which is reported.
fn gdb(test: &str, program: &Path, core: &Path, commands: &[&str]) -> Option<String> {
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]);
    command.args(commands.iter().flat_map(|command| ["-ex", command]));
    let output = command.arg(program).arg(core).stdin(Stdio::null()).output();
    let Ok(output) = output else {
        kvm::skip(test, "there is no gdb");
        return None;
    };
    Some(text(&output.stdout) + &text(&output.stderr))
}

#[track_caller]
fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
}

const COMMANDS: [&str; 8] = [
    "bt",
    "info threads",
    "print answer",
    "print (char *) (large + (1 << 20))",
    "print (char *) (large + (100 << 20))",
    "print (char *) (large + (200 << 20))",
    "info registers rip",
    "thread apply all bt",
];

fn crashes_and_is_opened(test: &str, program: &Path) {
    let (_dir, at) = folder();
    let core = at.join("core");
    let output = run(&["--core", path(&core), path(program)]);
    assert_eq!(output.status.code(), Some(139), "{output:?}");
    let report = text(&output.stderr);
    says(&report, &["died: it wrote to 0x0", &format!("core       {}\n", core.display())]);
    let facts = std::fs::metadata(&core).expect("it is there");
    assert_eq!(facts.permissions().mode() & 0o777, 0o600);
    assert!(facts.len() > 256 << 20, "all of the memory is described: {}", facts.len());
    let on_disk = facts.blocks() * 512;
    assert!(on_disk < 16 << 20, "what was never touched is a hole: {on_disk} bytes on disk");
    let Some(said) = gdb(test, program, &core, &COMMANDS) else { return };
    says(
        &said,
        &[
            "terminated with signal SIGSEGV",
            "crash_here",
            "main (",
            "= 42",
            "in the middle",
            "by a call",
            "far behind",
            "<crash_here+",
            "wait_for_ever",
            "waiting_thread",
        ],
    );
    let first = said.find("crash_here").expect("it was just found");
    assert!(first < said.find("wait_for_ever").expect("likewise"), "the crash is first: {said}");
}

#[test]
fn gdb_opens_the_core_of_a_static_program_with_two_threads() {
    skip_without_kvm!();
    let test = "gdb_opens_the_core_of_a_static_program_with_two_threads";
    crashes_and_is_opened(test, &guests::c("crashes"));
}

#[test]
fn gdb_finds_the_libraries_of_a_dynamic_program() {
    skip_without_kvm!();
    let test = "gdb_finds_the_libraries_of_a_dynamic_program";
    let (_dir, at) = folder();
    let program = dynamic(&at);
    crashes_and_is_opened(test, &program);
    let core = at.join("core");
    let output = run(&["--core", path(&core), path(&program), "abort"]);
    assert_eq!(output.status.code(), Some(134), "{output:?}");
    says(&text(&output.stderr), &["crashes was ended by SIGABRT\n  core "]);
    let commands = ["info sharedlibrary", "bt", "info proc mappings", "print $_siginfo.si_signo"];
    let Some(said) = gdb(test, &program, &core, &commands) else { return };
    says(&said, &["terminated with signal SIGABRT", "libc.so.6", "abort", "main (", "= 6"]);
}

#[test]
fn only_signals_that_do_so_natively_leave_a_core_and_each_process_its_own() {
    skip_without_kvm!();
    let (_dir, at) = folder();
    let (program, core) = (guests::c("crashes"), at.join("core"));
    let output = run(&["--core", path(&core), path(&program), "term"]);
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert_eq!(std::fs::read_dir(&at).expect("a folder").count(), 0);
    let output = run(&["--core", path(&core), path(&program), "child"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let child = at.join(format!("core.{}", text(&output.stdout).trim()));
    assert!(child.is_file() && !core.exists(), "{output:?}");
    says(&text(&output.stderr), &[&format!("core       {}\n", child.display())]);
    let test = "only_signals_that_do_so_natively_leave_a_core_and_each_process_its_own";
    let Some(said) = gdb(test, &program, &child, &["print answer"]) else { return };
    says(&said, &["= 43", "SIGABRT"]);
}

#[test]
fn a_compressed_core_has_what_gdb_needs_and_is_much_smaller() {
    skip_without_kvm!();
    let test = "a_compressed_core_has_what_gdb_needs_and_is_much_smaller";
    let (_dir, at) = folder();
    let (program, core) = (guests::c("crashes"), at.join("core.zst"));
    let output = run(&["--core", path(&core), path(&program)]);
    assert_eq!(output.status.code(), Some(139), "{output:?}");
    let facts = std::fs::metadata(&core).expect("it is there");
    assert_eq!(facts.permissions().mode() & 0o777, 0o600);
    assert!(facts.len() < 1 << 20, "{} bytes for 256 MiB of holes", facts.len());
    assert_eq!(std::fs::read_dir(&at).expect("a folder").count(), 1, "nothing else is left");
    let unpacked = Command::new("zstd").args(["-d", "-q", "--sparse"]).arg(&core).output();
    let Ok(unpacked) = unpacked else {
        kvm::skip(test, "there is no zstd");
        return;
    };
    assert!(unpacked.status.success(), "{unpacked:?}");
    let Some(said) = gdb(test, &program, &at.join("core"), &COMMANDS) else { return };
    says(&said, &["terminated with signal SIGSEGV", "crash_here", "= 42", "far behind"]);
    let output = run(&["--core", path(&core), path(&program), "child"]);
    let child = at.join(format!("core.{}.zst", text(&output.stdout).trim()));
    assert!(child.is_file(), "{output:?}");
}

#[test]
fn a_core_is_written_where_group_and_session_are_outside_of_the_pid_namespace() {
    skip_without_kvm!();
    let test = "a_core_is_written_where_group_and_session_are_outside_of_the_pid_namespace";
    let (_dir, at) = folder();
    let (program, core) = (guests::c("crashes"), at.join("core"));
    let new = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    let try_out = Command::new("unshare").args(new).arg("true").output();
    if !try_out.as_ref().is_ok_and(|output| output.status.success()) {
        kvm::skip(test, &format!("no new PID namespace can be had here: {try_out:?}"));
        return;
    }
    let vmm = command(&["--core", path(&core), path(&program)]);
    let mut inside = Command::new("unshare");
    inside.args(new).arg(vmm.get_program()).args(vmm.get_args()).stdin(Stdio::null());
    let output = inside.output().expect("it was just there");
    assert_eq!(output.status.code(), Some(139), "{output:?}");
    let Some(said) = gdb(test, &program, &core, &["bt"]) else { return };
    says(&said, &["terminated with signal SIGSEGV", "crash_here", "main ("]);
}

#[test]
fn a_place_where_no_core_can_be_is_an_error_before_the_program_runs() {
    let (_dir, at) = folder();
    let program = guests::c("crashes");
    for (core, said) in
        [(at.join("missing/core"), "cannot write core files in"), (at.clone(), "is no file")]
    {
        let output = run(&["--core", path(&core), path(&program)]);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        says(&text(&output.stderr), &[said]);
    }
}

#[test]
fn a_full_disk_is_one_line_and_leaves_status_and_file_as_they_were() {
    skip_without_kvm!();
    let (_dir, at) = folder();
    let core = at.join("core");
    std::fs::write(&core, "before").expect("writable");
    // No file may grow beyond a megabyte: to the VMM, that is as a disk that is full.
    let program = guests::c("crashes");
    let vmm = command(&["--core", path(&core), path(&program)]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 1024; exec \"$0\" \"$@\""]);
    limited.arg(vmm.get_program()).args(vmm.get_args()).stdin(Stdio::null());
    let output = limited.output().expect("there is a shell");
    assert_eq!(output.status.code(), Some(139), "{output:?}");
    let report = text(&output.stderr);
    let lines: Vec<&str> = report.lines().filter(|line| line.contains("cannot write")).collect();
    assert_eq!(lines.len(), 1, "{report}");
    says(lines[0], &["core       none: cannot write", "File too large"]);
    assert_eq!(std::fs::read(&core).expect("it is there"), b"before");
    assert_eq!(std::fs::read_dir(&at).expect("a folder").count(), 1, "nothing else is left");
}
