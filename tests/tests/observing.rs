//! VMs that run are listed, describe themselves, and are ended by name or number; those of others are not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn spacejmp(words: &[&str]) -> Command {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").env_remove("SPACEJMP_STORE").args(words);
    command
}

fn output(words: &[&str]) -> Output {
    spacejmp(words).output().expect("it starts")
}

#[track_caller]
fn text(words: &[&str]) -> String {
    let output = output(words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn json(words: &[&str]) -> Value {
    serde_json::from_str(&text(words)).expect("JSON")
}

/// A program in a VM that has printed a line.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(options: &[&str], program: &Path, args: &[&str]) -> Running {
        Running::reading(options, program, args, Stdio::null())
    }

    fn reading(options: &[&str], program: &Path, args: &[&str], stdin: Stdio) -> Running {
        let limit = pace::limit(Duration::from_secs(120)).as_secs().to_string();
        let mut command = spacejmp(&["run", "--timeout", &limit]);
        command.args(options).arg(program).args(args);
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).spawn().expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        Running { child, out }
    }

    fn sleeper(options: &[&str]) -> Running {
        let mut running = Running::start(options, &guests::rust("sleeper"), &[]);
        running.wait_for("sleeping");
        running
    }

    fn wait_for(&mut self, line: &str) {
        let mut read = String::new();
        self.out.read_line(&mut read).expect("a line");
        assert_eq!(read.trim_end(), line);
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A name that no other test has.
fn name(of: &str) -> String {
    format!("test-{of}-{}", std::process::id())
}

fn pids(list: &Value) -> Vec<String> {
    let vms = list["vms"].as_array().expect("a list");
    vms.iter().map(|vm| vm["pid"].to_string()).collect()
}

#[test]
fn a_running_vm_is_listed_with_its_store_and_gone_afterwards() {
    skip_without_kvm!();
    let store = tempfile::tempdir().expect("a folder");
    let path = store.path().to_str().expect("a path");
    let mut vm = Running::sleeper(&["--store", path]);
    let private = Running::sleeper(&["--no-store"]);
    let listed = json(&["ps", "--json", "--store", path]);
    assert_eq!(pids(&listed), [vm.pid()]);
    let all = pids(&json(&["ps", "--all", "--json"]));
    assert!(all.contains(&vm.pid()) && all.contains(&private.pid()), "{all:?}");
    let table = text(&["ps", "--store", path]);
    let row = table.lines().nth(1).expect("a row");
    assert!(row.contains("sleeper") && row.contains("home, in clock_nanosleep"), "{table}");
    vm.child.kill().expect("it is ours");
    vm.child.wait().expect("it ends");
    assert!(pids(&json(&["ps", "--json", "--store", path])).is_empty());
}

#[test]
fn a_name_is_one_vms_while_it_runs() {
    skip_without_kvm!();
    let name = name("unique");
    let first = Running::sleeper(&["--no-store", "--name", &name]);
    assert_eq!(json(&["stats", &name, "--json"])["pid"].to_string(), first.pid());
    let program = guests::rust("sleeper");
    let program = program.to_str().expect("a path");
    let second = output(&["run", "--no-store", "--name", &name, program]);
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(125), "{error}");
    assert!(error.contains("another VM runs by that name"), "{error}");
    drop(first);
    let _third = Running::sleeper(&["--no-store", "--name", &name]);
}

#[test]
fn stop_lets_a_program_end_and_kills_one_that_does_not() {
    skip_without_kvm!();
    let name = name("stop");
    let mut willing = Running::sleeper(&["--no-store", "--name", &name]);
    text(&["stop", &name]);
    assert_eq!(willing.child.wait().expect("it ends").code(), Some(128 + 15));
    let mut deaf = Running::start(
        &["--root", "/", "--no-store"],
        Path::new("/bin/sh"),
        &["-c", "trap : TERM; echo deaf; while :; do :; done"],
    );
    deaf.wait_for("deaf");
    let began = Instant::now();
    text(&["stop", "--timeout", "0.3", &deaf.pid()]);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(deaf.child.wait().expect("it ends").signal(), Some(9));
}

#[test]
fn a_signal_reaches_the_programs_handler() {
    skip_without_kvm!();
    let mut vm = Running::start(
        &["--root", "/", "--no-store"],
        Path::new("/bin/sh"),
        &["-c", "trap 'echo got it; exit 3' USR1; echo ready; while :; do :; done"],
    );
    vm.wait_for("ready");
    text(&["kill", "--signal", "usr1", &vm.pid()]);
    vm.wait_for("got it");
    assert_eq!(vm.child.wait().expect("it ends").code(), Some(3));
}

#[test]
fn a_stopped_vm_is_listed_says_why_it_does_not_answer_and_can_be_stopped_for_good() {
    skip_without_kvm!();
    let mut vm = Running::sleeper(&["--no-store"]);
    text(&["kill", "--signal", "STOP", &vm.pid()]);
    let until = Instant::now() + pace::limit(Duration::from_secs(60));
    let error = loop {
        let output = output(&["stats", &vm.pid()]);
        if !output.status.success() {
            break String::from_utf8(output.stderr).expect("text");
        }
        assert!(Instant::now() < until, "it is not stopped");
    };
    assert!(error.contains("is stopped") && error.contains("CONT"), "{error}");
    let list = json(&["ps", "--all", "--json"]);
    let vms = list["vms"].as_array().expect("a list");
    assert!(vms.iter().any(|one| one["pid"] == vm.child.id() && one["silent"] == "stopped"));
    let table = text(&["ps", "--all"]);
    let is_row = |line: &str| line.starts_with(&vm.pid()) && line.ends_with("stopped");
    assert!(table.lines().any(|line| is_row(line.trim_end())), "{table}");
    text(&["stop", &vm.pid()]);
    // By SIGTERM, in time, not by SIGKILL.
    assert_eq!(vm.child.wait().expect("it ends").code(), Some(128 + 15));
}

#[test]
fn a_vm_that_is_not_there_has_its_own_status() {
    for words in [["stats", "no-such-vm"], ["stop", "no-such-vm"], ["kill", "2147483647"]] {
        let output = output(&words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {error}");
        assert!(error.contains("there is no VM") && error.contains("ps --all"), "{error}");
    }
    let output = output(&["kill", "--signal", "NONE", "x"]);
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn who_waits_for_a_lock_names_the_vm_that_holds_it() {
    skip_without_kvm!();
    let store = tempfile::tempdir().expect("a folder");
    let options = ["--store", store.path().to_str().expect("a path")];
    let program = guests::rust("vas_versions");
    let run = |args: &[&str]| Running::start(&options, &program, args);
    run(&["bank", "make"]).wait_for("done");
    let holder = run(&["bank", "slow", "600000"]);
    let holder_pid = holder.pid();
    let until = Instant::now() + pace::limit(Duration::from_secs(60));
    let told = |pid: &str, wanted: &[String]| loop {
        // It does not listen yet when its process has just begun.
        let told = String::from_utf8(output(&["stats", pid]).stdout).expect("text");
        if wanted.iter().all(|part| told.contains(part.as_str())) {
            return told;
        }
        assert!(Instant::now() < until, "{wanted:?} is not in\n{told}");
        std::thread::sleep(Duration::from_millis(20));
    };
    // It is inside once it writes.
    told(&holder_pid, &["rw at 0x".to_owned(), ": bank\n".to_owned()]);
    let waiter = run(&["bank", "move", "1", "1", "1"]);
    let held = format!("is held to write by process {holder_pid} (vas_versions)");
    let text = told(&waiter.pid(), &["waits for bank".to_owned(), held]);
    assert!(text.contains("; version "), "{text}");
}

#[test]
fn metrics_have_a_line_for_every_counter_of_every_vm() {
    skip_without_kvm!();
    let name = name("metrics");
    let _vm = Running::sleeper(&["--no-store", "--name", &name]);
    let all = text(&["stats", "--metrics"]);
    let label = format!("vm=\"{name}\"");
    for family in ["uptime_seconds", "exits_total", "memory_bytes", "calls_total"] {
        let of_vm =
            |line: &str| line.starts_with(&format!("spacejmp_{family}{{")) && line.contains(&label);
        assert!(all.lines().any(of_vm), "{family}: {all}");
    }
}

#[test]
fn metrics_are_answered_on_this_machine_at_each_question() {
    skip_without_kvm!();
    let vm = Running::sleeper(&["--no-store"]);
    let mut listener = spacejmp(&["stats", "--metrics-listen", "0"]);
    let mut child = listener.stdout(Stdio::piped()).spawn().expect("it starts");
    let out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut listener = Running { child, out };
    let mut said = String::new();
    listener.out.read_line(&mut said).expect("a line");
    let at = said.trim_end().strip_prefix("listening at http://").expect("where");
    let at = at.strip_suffix("/metrics").expect("what");
    assert!(at.starts_with("127.0.0.1:"), "{at}");
    let ask = |question: &str| {
        let mut stream = TcpStream::connect(at).expect("it listens");
        stream.write_all(question.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    };
    for _ in 0..2 {
        let answer = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains(&format!("spacejmp_threads{{pid=\"{}\"", vm.pid())), "{answer}");
    }
    assert!(ask("GET /else HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
}

#[test]
fn top_shows_what_is_done_per_second() {
    skip_without_kvm!();
    let mut busy = Running::start(&["--no-store"], &guests::rust("spin"), &[]);
    busy.wait_for("spinning");
    let json = json(&["top", "--json", "--iterations", "1", "--interval", "0.5"]);
    let vms = json["vms"].as_array().expect("a list");
    let of = |vm: &&Value| vm["pid"] == busy.child.id();
    let vm = vms.iter().find(of).expect("it runs");
    assert!(vm["exits_per_second"].is_number(), "{vm}");
    assert!(vm["cpu_percent"].as_f64().is_some_and(|percent| percent > 0.0), "{vm}");
    let table = text(&["top", "--iterations", "2", "--interval", "0.1"]);
    assert_eq!(table.matches("CPU%").count(), 2, "{table}");
}

#[test]
fn processes_of_a_run_are_vms_of_their_own() {
    skip_without_kvm!();
    let mut shell = Running::start(
        &["--root", "/", "--no-store"],
        Path::new("/bin/sh"),
        &["-c", "sleep 1000 & echo $!; wait"],
    );
    let mut pid = String::new();
    shell.out.read_line(&mut pid).expect("a line");
    let until = Instant::now() + pace::limit(Duration::from_secs(60));
    // The number is known before the program has started.
    let child = loop {
        let output = output(&["stats", pid.trim(), "--json"]);
        if output.status.success() {
            break serde_json::from_slice::<Value>(&output.stdout).expect("JSON");
        }
        assert!(Instant::now() < until, "{output:?}");
    };
    assert_eq!(child["parent"].to_string(), shell.pid());
    text(&["stop", pid.trim()]);
    assert!(shell.child.wait().expect("it ends").code().is_some());
}

#[test]
fn a_signal_that_comes_while_a_process_replaces_its_program_is_not_lost() {
    skip_without_kvm!();
    let script = "for n in $(seq 20); do sleep 1000 & echo $!; wait $!; echo $?; done";
    let mut shell =
        Running::start(&["--root", "/", "--no-store"], Path::new("/bin/sh"), &["-c", script]);
    let mut line = || {
        let mut line = String::new();
        shell.out.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    };
    for n in 0..20 {
        let pid = line().parse().expect("a number");
        // It is forked, replaces its program, and sleeps: over some tens of milliseconds.
        std::thread::sleep(Duration::from_millis(2 * n));
        let pid = rustix::process::Pid::from_raw(pid).expect("a number");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
        assert_eq!(line(), (128 + libc::SIGTERM).to_string());
    }
    assert_eq!(shell.child.wait().expect("it ends").code(), Some(0));
}

/// `spacejmp trace` of a VM.
struct Trace {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Trace {
    fn of(vm: &str) -> Trace {
        let mut child = spacejmp(&["trace", vm]).stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Trace { child, lines }
    }

    /// Whether it has begun: somebody else may look still.
    fn has_begun(&mut self) -> bool {
        !self.lines.fill_buf().expect("a pipe").is_empty()
    }

    /// The first line with this in it, and all before.
    #[track_caller]
    fn until(&mut self, part: &str) -> String {
        let mut all = String::new();
        loop {
            let before = all.len();
            let read = self.lines.read_line(&mut all).expect("text");
            assert_ne!(read, 0, "no `{part}` in\n{all}");
            if all[before..].contains(part) {
                return all;
            }
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_calls_of_a_running_vm_are_traced_while_somebody_looks() {
    skip_without_kvm!();
    let script = "echo ready; while read x; do echo got $x; done";
    let options = ["--root", "/", "--no-store"];
    let mut vm = Running::reading(&options, Path::new("/bin/sh"), &["-c", script], Stdio::piped());
    vm.wait_for("ready");
    let mut to = vm.child.stdin.take().expect("a pipe");
    let mut trace = Trace::of(&vm.pid());
    // What it waits in, whether it waited before or not: a shell may read, or poll first.
    trace.until("<unfinished ...>");
    to.write_all(b"one\n").expect("it reads");
    vm.wait_for("got one");
    let seen = trace.until(r#"write(1, "got one\n", 8) = 8"#);
    assert!(seen.contains("read"), "{seen}");
    let second = output(&["trace", &vm.pid()]);
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(125), "{error}");
    assert!(error.contains("traced already"), "{error}");
    drop(trace);
    // Its place is free when the VM has heard of that.
    let mut again = loop {
        let mut again = Trace::of(&vm.pid());
        if again.has_begun() {
            break again;
        }
    };
    drop(to);
    again.until("+++ exited with 0 +++");
    assert!(again.child.wait().expect("it ends").success());
    assert!(vm.child.wait().expect("it ends").success());
    assert_eq!(output(&["trace", &vm.pid()]).status.code(), Some(1));
}
