//! gdb that comes later: to a program that runs (`spacejmp gdb`), and to one that a signal is about to end
//! (`run --gdb-on-crash`). And watchpoints. Needs /dev/kvm, a C compiler and the distribution's gdb.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{kvm, pace, skip_without_kvm};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn limit() -> Duration {
    pace::limit(Duration::from_secs(120))
}

/// Whether there is a gdb; that there is none is reported.
fn has_gdb(test: &str) -> bool {
    let version = Command::new("gdb").arg("--version").stdout(Stdio::null()).status();
    let is_there = version.is_ok_and(|status| status.success());
    if !is_there {
        kvm::skip(test, "there is no gdb");
    }
    is_there
}

fn spacejmp() -> Command {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").stdin(Stdio::null());
    command
}

/// The lines that a stream has, as they come.
fn lines(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Who does not listen any more does not receive it.
            let _ = tell.send(line);
        }
    });
    told
}

/// A run, and what it says on both of its streams.
struct Run {
    vmm: Child,
    said: mpsc::Receiver<String>,
    told: mpsc::Receiver<String>,
}

impl Run {
    fn start(options: &[&str], program: &Path, args: &[&str]) -> Run {
        let mut command = spacejmp();
        command.args(["run", "--no-store"]);
        if !options.contains(&"--timeout") {
            command.args(["--timeout", &limit().as_secs().to_string()]);
        }
        command.args(options).arg(program).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut vmm = command.spawn().expect("the command starts");
        let said = lines(vmm.stdout.take().expect("it is piped"));
        let told = lines(vmm.stderr.take().expect("it is piped"));
        Run { vmm, said, told }
    }

    fn pid(&self) -> String {
        self.vmm.id().to_string()
    }

    fn line(&self) -> String {
        self.said.recv_timeout(limit()).expect("the program prints something")
    }

    /// Where it waits for gdb, and after which signal.
    fn waits(&self) -> (String, String) {
        let line = self.told.recv_timeout(limit()).expect("it says where it waits");
        let said = line.strip_prefix("spacejmp: ").expect("it is our line");
        let (signal, at) = said.split_once(": waiting for gdb: target remote ").expect(&line);
        (signal.to_owned(), at.to_owned())
    }

    /// How it ended, and what else it said. Its own time limit ends it.
    fn end(mut self) -> (ExitStatus, String, String) {
        let status = self.vmm.wait().expect("it can be waited for");
        let all = |lines: mpsc::Receiver<String>| lines.into_iter().collect::<Vec<_>>().join("\n");
        (status, all(self.said), all(self.told))
    }
}

const QUIET: [&str; 8] = [
    "-nx",
    "-batch",
    "-iex",
    "set debuginfod enabled off",
    "-ex",
    "set confirm off",
    "-ex",
    "set width 0",
];

fn commands(commands: &[&str]) -> Vec<String> {
    commands.iter().flat_map(|command| ["-ex".to_owned(), (*command).to_owned()]).collect()
}

fn finished(command: &mut Command) -> String {
    let Output { stdout, stderr, .. } = command.output().expect("it starts");
    let said = text(&stdout) + &text(&stderr);
    println!("{said}");
    said
}

/// What gdb says to these commands, by `spacejmp gdb`.
fn attached(vm: &str, program: &Path, words: &[&str]) -> String {
    let mut command = spacejmp();
    command.args(["gdb", vm, "--"]).args(QUIET).args(commands(words)).arg(program);
    finished(&mut command)
}

/// The same at a place where a program waits.
fn connected(at: &str, program: &Path, words: &[&str]) -> String {
    let mut command = Command::new("gdb");
    command.args(QUIET).arg("-ex").arg(format!("target remote {at}")).args(commands(words));
    finished(command.arg(program).stdin(Stdio::null()))
}

#[track_caller]
fn says(said: &str, parts: &[&str]) {
    let mut rest = said;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("no {part:?} where it belongs in:\n{said}");
        };
        rest = after;
    }
}

#[test]
fn a_program_that_runs_is_debugged_and_goes_on_and_another_gdb_may_come() {
    skip_without_kvm!();
    if !has_gdb("a_program_that_runs_is_debugged_and_goes_on_and_another_gdb_may_come") {
        return;
    }
    let program = guests::c("debugged");
    let run = Run::start(&[], &program, &["work"]);
    assert_eq!(run.line(), "working");
    let said = attached(
        &run.pid(),
        &program,
        &["backtrace", "break at_work", "continue", "print counter > 0", "stepi", "detach"],
    );
    says(&said, &["main", "Breakpoint 1, at_work", "= 1", "detached]"]);
    // By its line; and while that one is there, no other.
    let line = spacejmp().args(["gdb", "--print", &run.pid()]).output().expect("it starts");
    assert!(line.status.success(), "{line:?}");
    let line = text(&line.stdout);
    let line = line.trim_end();
    assert!(line.starts_with("target remote | "), "{line}");
    let mut command = Command::new("gdb");
    let second = line.replace("target remote |", "shell");
    let words = [line, &second, "print counter > 0", "set var handled = 1", "continue"];
    command.args(QUIET).args(commands(&words)).arg(&program).stdin(Stdio::null());
    let said = finished(&mut command);
    says(&said, &["= 1", "exited with code 07"]);
    says(&said, &["cannot be debugged now", "end the other gdb"]);
    let pid = run.pid();
    let (status, printed, told) = run.end();
    assert_eq!((status.code(), printed.as_str()), (Some(7), "released"), "{told}");
    let gone = spacejmp().args(["gdb", &pid]).output().expect("it starts");
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
}

#[test]
fn a_thread_that_waits_in_a_call_goes_on_with_it_when_gdb_has_left_or_is_killed() {
    skip_without_kvm!();
    if !has_gdb("a_thread_that_waits_in_a_call_goes_on_with_it_when_gdb_has_left_or_is_killed") {
        return;
    }
    let program = guests::c("debugged");
    let run = Run::start(&[], &program, &["await"]);
    assert_eq!(run.line(), "waiting");
    for _ in 0..3 {
        let said = attached(&run.pid(), &program, &["info threads", "backtrace", "detach"]);
        says(&said, &["read", "main", "detached]"]);
    }
    // A pipe to gdb that ends without a word, in the middle of it.
    let mut pipe = spacejmp();
    pipe.args(["gdb", "--pipe", &run.pid()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut pipe = pipe.spawn().expect("it starts");
    std::io::Write::write_all(&mut pipe.stdin.as_ref().expect("it is piped"), b"$?#3f")
        .expect("it reads");
    let mut byte = [0];
    pipe.stdout.as_mut().expect("it is piped").read_exact(&mut byte).expect("it is answered");
    pipe.kill().expect("it runs");
    pipe.wait().expect("it can be waited for");
    let sent = Command::new("kill").args(["-USR1", &run.pid()]).status();
    assert!(sent.expect("there is `kill`").success());
    let (status, printed, told) = run.end();
    assert_eq!((status.code(), printed.as_str()), (Some(7), "undisturbed"), "{told}");
}

#[test]
fn watchpoints_tell_of_writing_reading_and_both() {
    skip_without_kvm!();
    if !has_gdb("watchpoints_tell_of_writing_reading_and_both") {
        return;
    }
    let program = guests::c("debugged");
    let run = Run::start(&[], &program, &["work"]);
    assert_eq!(run.line(), "working");
    let words = [
        "watch counter",
        "continue",
        "backtrace 1",
        "delete",
        // It is read in one place, and written nowhere.
        "watch handled",
        "rwatch handled",
        "continue",
        "delete",
        "awatch counter",
        "continue",
        "delete",
        "watch counter if counter % 64 == 0",
        "continue",
        "print counter % 64",
        "print ($eflags & 0x100) == 0",
        "delete",
        "set var handled = 1",
        "continue",
    ];
    let said = attached(&run.pid(), &program, &words);
    says(
        &said,
        &[
            "Hardware watchpoint 1: counter",
            "Hardware watchpoint 1: counter",
            "Old value",
            "New value",
            "at_work",
            "Hardware read watchpoint 3: handled",
            "Hardware read watchpoint 3: handled",
            "Value = 0",
            "Hardware access (read/write) watchpoint 4: counter",
            "Hardware access (read/write) watchpoint 4: counter",
            "Value = ",
            "Hardware watchpoint 5: counter",
            "Hardware watchpoint 5: counter",
            "= 0",
            "= 1",
            "exited with code 07",
        ],
    );
    // Where it was made, and nowhere else.
    assert_eq!(said.matches("Hardware watchpoint 2: handled").count(), 1, "{said}");
    let (status, printed, told) = run.end();
    assert_eq!((status.code(), printed.as_str()), (Some(7), "released"), "{told}");
}

#[test]
fn a_watchpoint_names_the_thread_and_disturbs_no_other() {
    skip_without_kvm!();
    if !has_gdb("a_watchpoint_names_the_thread_and_disturbs_no_other") {
        return;
    }
    let program = guests::c("debugged");
    let run = Run::start(&["--gdb"], &program, &["counting"]);
    let first = run.told.recv_timeout(limit()).expect("it says where it waits");
    let at = first.strip_prefix("spacejmp: waiting for gdb: target remote ").expect(&first);
    let words = [
        "break works",
        "continue",
        "delete",
        // Not a single value: until all threads stand, another one may have counted on, as natively.
        "watch counter if counter >= 150",
        "continue",
        "print counter >= 150 && counter < 206",
        "delete",
        "continue",
    ];
    let said = connected(at, &program, &words);
    says(&said, &["\"works\" hit Hardware watchpoint 2", "= 1", "exited with code 07"]);
    let (status, printed, told) = run.end();
    assert_eq!((status.code(), printed.as_str()), (Some(7), "undisturbed"), "{told}");
}

#[test]
fn a_program_that_would_die_stands_and_ends_or_goes_on_as_gdb_says() {
    skip_without_kvm!();
    if !has_gdb("a_program_that_would_die_stands_and_ends_or_goes_on_as_gdb_says") {
        return;
    }
    let program = guests::c("debugged");
    let place = |run: &Run, expected: &str| {
        let (signal, at) = run.waits();
        assert_eq!(signal, expected);
        at
    };
    // What it stands at is told at once; it ends by that, with the report.
    let run = Run::start(&["--gdb-on-crash"], &program, &["die"]);
    let at = place(&run, "SIGSEGV");
    let said = connected(&at, &program, &["print $_siginfo.si_signo", "backtrace", "detach"]);
    says(&said, &["crash_here", "= 11", "#0", "crash_here", "main", "detached]"]);
    let (status, _, told) = run.end();
    assert_eq!(status.code(), Some(139), "{told}");
    says(&told, &["died", "crash_here"]);
    assert!(!Path::new(&at).exists(), "the socket is removed");
    // The same by `continue`, which passes the signal.
    let run = Run::start(&["--gdb-on-crash"], &program, &["die"]);
    let said = connected(&place(&run, "SIGSEGV"), &program, &["continue"]);
    says(&said, &["terminated with signal SIGSEGV"]);
    assert_eq!(run.end().0.code(), Some(139));
    // Repaired, it goes on, and is debugged as any other.
    let run = Run::start(&["--gdb-on-crash=0"], &program, &["die"]);
    let at = place(&run, "SIGSEGV");
    assert!(at.starts_with("localhost:"), "{at}");
    let said = connected(&at, &program, &["set var $rdi = &counter", "signal 0"]);
    says(&said, &["exited with code 07"]);
    assert_eq!(run.end().0.code(), Some(7));
    // A signal that is sent is one, too; a handler's is not, nor one that leaves no core file.
    let run = Run::start(&["--gdb-on-crash"], &program, &["abort"]);
    let said = connected(&place(&run, "SIGABRT"), &program, &["backtrace", "kill"]);
    says(&said, &["abort", "main"]);
    assert_eq!(run.end().0.code(), Some(137));
    for (how, expected) in [("segv", 5), ("signal", 7), ("", 7)] {
        let (status, _, told) = Run::start(&["--gdb-on-crash"], &program, &[how]).end();
        assert_eq!(status.code(), Some(expected), "{how}: {told}");
        assert!(!told.contains("gdb"), "{told}");
    }
}

#[test]
fn a_program_that_waits_for_gdb_after_a_crash_is_ended_by_its_time_and_by_stop() {
    skip_without_kvm!();
    let program = guests::c("debugged");
    let mut run = Run::start(&["--gdb-on-crash", "--timeout", "3"], &program, &["die"]);
    assert_eq!(run.waits().0, "SIGSEGV");
    assert_eq!(run.vmm.wait().expect("it can be waited for").code(), Some(124));
    let run = Run::start(&["--gdb-on-crash"], &program, &["die"]);
    assert_eq!(run.waits().0, "SIGSEGV");
    let stopped = spacejmp().args(["stop", &run.pid()]).status().expect("it starts");
    assert!(stopped.success());
    assert_eq!(run.end().0.code(), Some(143));
}
