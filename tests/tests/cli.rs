//! `spacejmp run` as its users see it: exit statuses, time limits, Ctrl-C, what is printed on
//! bad input and on a crash. Needs /dev/kvm; every run has a time limit.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::guests::{self, Profile};
use tests::pace;

/// Longest any program here may take; each test's own limits are shorter.
fn limit() -> String {
    pace::limit(Duration::from_secs(60)).as_secs().to_string()
}
/// From the request to end until nothing is left of the process. That takes a few
/// milliseconds; the rest is for a busy machine.
fn prompt() -> Duration {
    pace::limit(Duration::from_millis(1000))
}

fn spacejmp() -> Command {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG");
    command
}

fn run(options: &[&str], program: &Path, args: &[&str]) -> Output {
    let mut command = spacejmp();
    command.args(["run", "--log", "error"]).args(options);
    if !options.contains(&"--timeout") {
        command.args(["--timeout", &limit()]);
    }
    command.arg(program).args(args).stdin(Stdio::null()).output().expect("the command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Starts a program that prints one line and then waits, and returns when it has printed it.
fn start(program: &Path, args: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = spacejmp()
        .args(["run", "--log", "error", "--timeout", &limit()])
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("the program says something");
    assert!(!line.is_empty(), "the program ended early");
    (child, out)
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("the command lives");
}

/// Waits for the end, which must come soon, and returns the status.
#[track_caller]
fn ends_soon(child: &mut Child) -> Option<i32> {
    let since = Instant::now();
    while since.elapsed() < prompt() {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("it has not ended");
    child.wait().expect("killed");
    panic!("still there after {:?}", prompt());
}

#[test]
fn the_programs_output_and_status_are_the_commands() {
    let hello = run(&[], &guests::c("hello"), &["a b", "--memory", "c"]);
    assert_eq!(text(&hello.stdout), "hello from C\na b\n--memory\nc\n");
    assert_eq!(hello.status.code(), Some(3), "{hello:?}");
    assert_eq!(text(&hello.stderr), "");
    let panics = run(&[], &guests::rust("panics"), &[]);
    assert_eq!(panics.status.code(), Some(101), "{panics:?}");
}

#[test]
fn a_store_that_cannot_be_one_is_an_error_of_the_command_also_for_a_program_that_uses_none() {
    tests::skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let thesis = folder.path().join("thesis.tex");
    std::fs::write(&thesis, "").expect("written");
    let hello = guests::c("hello");
    for (place, status) in [
        (folder.path().to_owned(), Some(125)),
        (thesis.clone(), Some(125)),
        (thesis.join("store"), Some(125)),
        (folder.path().join("new"), Some(0)),
    ] {
        let place = place.to_str().expect("UTF-8");
        let output = run(&["--store", place], &hello, &[]);
        assert_eq!(output.status.code(), status, "{place}: {output:?}");
        let said = text(&output.stderr);
        assert!(status == Some(0) || said.contains(place) && said.contains("help:"), "{said}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1, "none was made");
}

#[test]
fn a_program_gets_the_environment_it_was_given_and_no_secrets() {
    let mut command = spacejmp();
    command.args(["run", "--log", "error", "--timeout", &limit(), "--env", "COLOUR=green"]);
    command.arg(guests::c("libc_tour")).env("NONE", "a secret").stdin(Stdio::null());
    let output = command.output().expect("the command starts");
    let said = text(&output.stdout);
    assert!(said.contains("COLOUR=green, NONE=unset"), "{said}");
    let asked = command.env("COLOUR", "red").env("NONE", "").output().expect("it starts");
    assert!(text(&asked.stdout).contains("COLOUR=green"), "a given value wins");
}

#[test]
fn a_timeout_ends_programs_that_compute_and_programs_that_block() {
    for (name, args) in [("spin", &[][..]), ("spin", &["threads"]), ("sleeper", &[])] {
        let since = Instant::now();
        let output = run(&["--timeout", "0.3"], &guests::rust(name), args);
        let took = since.elapsed();
        assert_eq!(output.status.code(), Some(124), "{name}: {output:?}");
        assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(300) + prompt());
        let said = text(&output.stderr);
        assert!(said.contains(&format!("{name} was ended: --timeout 0.3 s ran out")), "{said}");
    }
}

/// Fails early where these signals are ignored, as under `nohup` or `&` in a script: every process
/// started from here inherits that, and the signals could not end it.
#[track_caller]
fn signals_are_not_ignored() {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("all kernels");
    let ignored = u64::from_str_radix(line.trim(), 16).expect("a mask");
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM] {
        let is_ignored = ignored >> (signal.as_raw() - 1) & 1 != 0;
        assert!(!is_ignored, "{signal:?} was ignored when the tests were started (nohup? `&`?)");
    }
}

#[test]
fn signals_without_a_handler_end_the_program_with_their_status() {
    signals_are_not_ignored();
    for (signal, status) in
        [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)]
    {
        for (name, args) in [("spin", &["threads"][..]), ("sleeper", &[])] {
            let (mut child, _out) = start(&guests::rust(name), args);
            send(&child, signal);
            assert_eq!(ends_soon(&mut child), Some(status), "{name}, {signal:?}");
        }
    }
}

#[test]
fn a_handled_signal_reaches_the_program_and_the_second_ends_it() {
    signals_are_not_ignored();
    let program = guests::c("on_signal");
    let (mut child, mut out) = start(&program, &[]);
    send(&child, Signal::INT);
    let mut line = String::new();
    out.read_line(&mut line).expect("the handler ran");
    assert_eq!(line, "caught 02\n");
    send(&child, Signal::TERM);
    line.clear();
    out.read_line(&mut line).expect("another signal has its own count");
    assert_eq!(line, "caught 15\n");
    assert!(child.try_wait().expect("it can be asked").is_none());
    send(&child, Signal::INT);
    assert_eq!(ends_soon(&mut child), Some(130));

    let (mut child, _out) = start(&program, &["exit"]);
    send(&child, Signal::TERM);
    assert_eq!(ends_soon(&mut child), Some(3), "the handler decides");

    let (mut child, _out) = start(&program, &[]);
    send(&child, Signal::QUIT);
    assert_eq!(ends_soon(&mut child), Some(131));

    let (mut child, mut out) = start(&program, &["quit"]);
    send(&child, Signal::QUIT);
    line.clear();
    out.read_line(&mut line).expect("a server may end in order");
    assert_eq!(line, "caught 03\n");
    send(&child, Signal::QUIT);
    assert_eq!(ends_soon(&mut child), Some(131));
}

#[test]
fn a_program_that_waits_for_input_ends_as_promptly_as_any_other() {
    signals_are_not_ignored();
    for (order, status) in [(None, 124), (Some(Signal::INT), 130)] {
        let timeout = if order.is_none() { "0.3" } else { &limit() };
        let mut child = spacejmp()
            .args(["run", "--log", "error", "--timeout", timeout])
            .arg(guests::rust("stdin_echo"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(b"x\n").expect("it reads");
        let mut out = child.stdout.take().expect("piped");
        out.read_exact(&mut [0; 2]).expect("it echoes, and now waits for more");
        if let Some(signal) = order {
            send(&child, signal);
        }
        assert_eq!(ends_soon(&mut child), Some(status));
        drop(stdin);
    }
}

#[test]
fn input_the_program_does_not_read_is_left_for_the_next_one() {
    let script = r#""$1" run --log error --timeout 60 "$2"; read line; echo "left: $line""#;
    let mut child = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(spacejmp().get_program())
        .arg(guests::c("hello"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh starts");
    child.stdin.take().expect("piped").write_all(b"first\nsecond\n").expect("room in the pipe");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(text(&output.stdout), "hello from C\nleft: first\n");
}

#[test]
fn a_granted_directory_is_all_of_the_host_a_program_sees() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().to_str().expect("a plain name");
    let program = guests::rust("file_calls");
    let renamed = format!("{path}:/data");
    let read_only = format!("{path}:ro");
    let clean = || {
        for entry in std::fs::read_dir(path).expect("still there").flatten() {
            let _ = std::fs::remove_dir_all(entry.path());
            let _ = std::fs::remove_file(entry.path());
        }
    };
    for (options, arg) in [(["--dir", path], path), (["--dir", &renamed], "/data")] {
        let output = run(&options, &program, &[arg]);
        assert_eq!(text(&output.stdout), "files: fine\n", "{output:?}");
        clean();
    }
    for (options, arg) in
        [(&[][..], path), (&["--dir", path], "/tmp"), (&["--dir", &read_only], path)]
    {
        let output = run(options, &program, &[arg]);
        assert_eq!(output.status.code(), Some(101), "{options:?} {arg:?}: {output:?}");
    }
    assert_eq!(std::fs::read_dir(path).expect("still there").count(), 0, "nothing was written");
    refused(&["--dir", "/no/such/folder"], &program, 125, &["grant /no/such/folder", "help:"]);
    refused(&["--cwd", "/no/such/folder"], &program, 125, &["in /no/such/folder", "help:"]);
}

#[test]
fn a_signal_ignored_by_whoever_started_us_stays_ignored() {
    let script = r#"trap '' HUP; exec "$@""#;
    let mut child = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(spacejmp().get_program())
        .args(["run", "--log", "error", "--timeout", &limit()])
        .arg(guests::rust("sleeper"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh starts");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    out.read_line(&mut line).expect("it says so");
    send(&child, Signal::HUP);
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().expect("it can be asked").is_none(), "SIGHUP was ignored before");
    send(&child, Signal::TERM);
    assert_eq!(ends_soon(&mut child), Some(143));
}

/// A shell on its own terminal, with spacejmp as its child.
struct Terminal {
    master: std::fs::File,
    shell: Child,
}

impl Terminal {
    fn start(script: &str, args: &[&Path]) -> Terminal {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("ours");
        unlockpt(&master).expect("ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let name = PathBuf::from(text(name.as_bytes()));
        let slave = || std::fs::File::options().read(true).write(true).open(&name).expect("opens");
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(spacejmp().get_program()).args(args);
        command.env_remove("SPACEJMP_LOG").stdin(slave()).stdout(slave()).stderr(slave());
        let become_leader = || {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(std::io::stdin())?;
            Ok(())
        };
        // SAFETY: two system calls and nothing else between fork and exec.
        unsafe { command.pre_exec(become_leader) };
        let shell = command.spawn().expect("sh starts");
        Terminal { master: master.into(), shell }
    }

    /// Reads until `what` has been printed.
    fn expect(&mut self, what: &str) {
        let mut said = Vec::new();
        while !text(&said).contains(what) {
            let mut byte = [0];
            match self.master.read(&mut byte) {
                Ok(1) => said.extend(byte),
                other => panic!("no {what:?} but {other:?} after {:?}", text(&said)),
            }
        }
    }

    fn local_modes(&self) -> rustix::termios::LocalModes {
        rustix::termios::tcgetattr(&self.master).expect("a terminal").local_modes
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The shell ends when its terminal does; this kill makes sure.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[test]
fn ctrl_c_on_a_terminal_ends_the_program_and_the_terminal_is_as_before() {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    signals_are_not_ignored();
    // The shell outlives Ctrl-C, so that the terminal still has an owner when it is inspected.
    let script = r#"trap : INT; "$1" run --log error --timeout 60 "$2"; echo "status $?"; read x"#;
    let mut terminal = Terminal::start(script, &[&guests::rust("sleeper")]);
    let before = terminal.local_modes();
    assert!(before.contains(LocalModes::ECHO));
    terminal.expect("sleeping");
    // What a program that reads a password does.
    let mut termios = tcgetattr(&terminal.master).expect("a terminal");
    termios.local_modes -= LocalModes::ECHO | LocalModes::ICANON;
    tcsetattr(&terminal.master, OptionalActions::Now, &termios).expect("a terminal");
    assert_ne!(terminal.local_modes(), before);
    terminal.master.write_all(&[3]).expect("Ctrl-C is typed");
    terminal.expect("status 130");
    assert_eq!(terminal.local_modes(), before);
}

#[test]
fn a_crash_report_names_the_place_and_the_exit_status() {
    let output = run(&[], &guests::rust("hostile"), &["null-write"]);
    assert_eq!(output.status.code(), Some(139), "{output:?}");
    let report = text(&output.stderr);
    for part in [
        "hostile died: it wrote to 0x0",
        "a null pointer?",
        "`hostile`, of 1 started",
        "hostile::",
        "rip ",
        "program code",
        "not mapped",
        "stack",
        "139 (128 + SIGSEGV)",
    ] {
        assert!(report.contains(part), "no {part:?} in:\n{report}");
    }
    assert!(report.lines().count() < 40 && report.len() < 8000, "{report}");
    for (args, status, said) in [
        (&["jump-nowhere"][..], 139, "it jumped to 0x12345000"),
        (&["ud2"], 132, "SIGILL"),
        (&["divide"], 136, "SIGFPE"),
        (&["privileged", "hlt"], 139, "privileged instruction"),
    ] {
        let output = run(&[], &guests::rust("hostile"), args);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
        assert!(text(&output.stderr).contains(said), "{args:?}: {output:?}");
        assert!(!text(&output.stdout).contains("still here"));
    }
}

fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                keys(value, &path, found);
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| keys(item, &format!("{path}[]"), found));
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

#[test]
fn stats_json_has_exactly_the_documented_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("stats.json");
    let options = ["--stats=json", "--stats-to", file.to_str().expect("a plain name")];
    // Causes a fault, so that no list is empty.
    let output = run(&options, &guests::rust("hostile"), &["null-write"]);
    let stats = std::fs::read_to_string(&file).expect("written");
    assert_eq!(stats.lines().count(), 1);
    assert!(!text(&output.stderr).contains("wall_ns"));
    let stats: Value = serde_json::from_str(&stats).expect("one JSON object");
    let mut found = BTreeSet::new();
    keys(&stats, "", &mut found);
    let (_, table) = include_str!("../../docs/src/stats.md")
        .split_once("## `--stats=json`")
        .expect("the section on JSON");
    let documented: BTreeSet<String> = table
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    assert_eq!(found, documented);

    assert_eq!((&stats["outcome"], &stats["status"]), (&"killed".into(), &139.into()));
    let number = |pointer: &str| stats.pointer(pointer).and_then(Value::as_u64).expect(pointer);
    let phases: u64 = ["machine", "vcpu", "load", "run", "end"]
        .iter()
        .map(|name| number(&format!("/phases/{name}_ns")))
        .sum();
    assert!(phases <= number("/wall_ns") && phases > number("/guest_ns"));
    let touched = number("/memory_touched_bytes");
    assert!((100 << 10..64 << 20).contains(&touched), "{touched} bytes");
    assert_eq!((number("/threads_started"), number("/threads_peak")), (1, 1));
}

#[test]
fn stats_count_every_call_once() {
    let output = run(&["--stats=json"], &guests::c("hello"), &[]);
    let said = text(&output.stderr);
    let stats: Value = serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
    let calls = stats["calls"].as_array().expect("a list");
    let exits = stats["exits"].as_array().expect("a list");
    let sum = |list: &[Value]| list.iter().map(|one| one["count"].as_u64().expect("count")).sum();
    let made: u64 = sum(calls);
    let seen: Vec<Value> = exits.iter().filter(|exit| exit["kind"] == "syscall").cloned().collect();
    assert_eq!(made, sum(&seen), "{said}");
    let write = calls.iter().find(|call| call["name"] == "write").expect("it writes");
    assert_eq!((&write["number"], &write["served"]), (&1.into(), &true.into()));
}

/// A run that fails before it starts: status, and stderr without a line of a panic.
#[track_caller]
fn refused(options: &[&str], program: &Path, status: i32, parts: &[&str]) {
    let output = run(options, program, &[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for part in parts {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    assert!(output.stdout.is_empty() && !said.contains("panicked"), "{said}");
}

#[test]
fn what_cannot_be_run_is_refused_with_reason_status_and_help() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(path(name), bytes).expect("writable");
        path(name)
    };
    refused(&[], &path("none"), 127, &["spacejmp: cannot run ", "  1: No such file"]);
    refused(&[], &path("none/x"), 127, &["  1: No such file"]);
    refused(&[], dir.path(), 126, &["Is a directory", "help:"]);
    refused(&[], &write("empty", b""), 126, &["not an ELF file", "help:"]);
    refused(&[], &write("text", b"hello, this is text\n"), 126, &["not an ELF file"]);
    refused(&[], &write("script", b"#!/bin/none\nexit 0\n# more"), 126, &["/bin/none", "help:"]);

    let program = std::fs::read(guests::c("hello")).expect("just built");
    let mut elf32 = program.clone();
    elf32[4] = 1;
    refused(&[], &write("elf32", &elf32), 126, &["32-bit", "help:"]);
    let mut arm = program.clone();
    arm[18] = 183;
    refused(&[], &write("arm", &arm), 126, &["machine 183", "help:"]);
    refused(&[], &write("short", &program[..program.len() / 2]), 126, &["truncated"]);
    refused(&[], &write("header", &program[..40]), 126, &["ELF header"]);
    // Turns its PT_NOTE header into a PT_INTERP, whose text is not one then.
    let mut dynamic = program.clone();
    let headers = dynamic[64..].chunks_exact_mut(56).take(program[56].into());
    let mut notes = headers.filter(|header| header[0] == 4);
    notes.next().expect("it has a note")[0] = 3;
    let dynamic = write("dynamic", &dynamic);
    refused(&[], &dynamic, 126, &["its interpreter is impossible"]);
}

#[test]
fn a_wrong_command_line_is_told_and_gives_125() {
    let program = guests::c("hello");
    for (options, part) in [
        (&["--memory", "1M"][..], "at least 16M"),
        (&["--memory", "lots"], "no size"),
        (&["--memory", "17T"], "too much"),
        (&["--timeout", "0"], "out of range"),
        (&["--env", "=x"], "no name"),
        (&["--no-such-option"], "--no-such-option"),
        (&["--stats=xml"], "xml"),
        (&["--stats-to", "/no/such/folder/file"], "cannot create /no/such/folder/file"),
    ] {
        refused(options, &program, 125, &[part]);
    }
    let output = spacejmp().arg("run").output().expect("it starts");
    assert_eq!(output.status.code(), Some(125), "a program is needed");
}

#[test]
fn the_smallest_memory_runs_a_small_program() {
    let output = run(&["--memory", "16M"], &guests::c("hello"), &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
