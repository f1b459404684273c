//! gdb that comes later: to a program that runs (`spacejmp gdb`), and to one that a signal is about to end
//! (`run --gdb-on-crash`). And watchpoints. Needs /dev/kvm, a C compiler and the distribution's gdb.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use tests::gdb::{Debuggee, Run, attached, connected, has_gdb, says, spacejmp, text};
use tests::guests;
use tests::skip_without_kvm;

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
    let place = line.trim_start_matches("target remote ");
    let second = line.replace("target remote |", "shell");
    let words = [&second, "print counter > 0", "set var handled = 1", "continue"];
    let said = connected(place, &program, &words);
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
    let debuggee = Debuggee::start(&["--gdb"], &program, &["counting"]);
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
    let said = debuggee.debug(&program, &words);
    says(&said, &["\"works\" hit Hardware watchpoint 2", "= 1", "exited with code 07"]);
    let (status, printed, told) = debuggee.run.end();
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
        assert_eq!(signal.as_deref(), Some(expected));
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
    assert_eq!(run.waits().0.as_deref(), Some("SIGSEGV"));
    assert_eq!(run.vmm.wait().expect("it can be waited for").code(), Some(124));
    let run = Run::start(&["--gdb-on-crash"], &program, &["die"]);
    assert_eq!(run.waits().0.as_deref(), Some("SIGSEGV"));
    let stopped = spacejmp().args(["stop", &run.pid()]).status().expect("it starts");
    assert!(stopped.success());
    assert_eq!(run.end().0.code(), Some(143));
}
