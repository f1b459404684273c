//! `spacejmp run --gdb`, with the distribution's gdb: what is asked of one program. Needs /dev/kvm, a C compiler and gdb.

use std::process::Command;
use std::time::Duration;

use tests::gdb::{Debuggee, Gdb, has_gdb, path, run, says};
use tests::guests;
use tests::skip_without_kvm;

#[test]
fn a_program_stands_before_its_first_instruction_and_stops_at_breakpoints() {
    skip_without_kvm!();
    if !has_gdb("a_program_stands_before_its_first_instruction_and_stops_at_breakpoints") {
        return;
    }
    let program = guests::c("debugged");
    let before = std::fs::read(&program).expect("it is there");
    let (said, status, _) = run(
        &[],
        &[
            "print counter",
            "break at_work",
            "continue",
            "backtrace",
            "print n",
            "set var counter = 100",
            "continue",
            "print counter",
            "print twice(21)",
            "x/2i $pc",
            "x/s text",
            "delete",
            "continue",
        ],
    );
    says(
        &said,
        &[
            "_start",
            "$1 = 0",
            "Breakpoint 1, at_work",
            "#0  at_work",
            "main",
            "$2 = 1",
            "Breakpoint 1, at_work",
            "$3 = 101",
            "$4 = 42",
            "=>",
            "in read-only memory",
            "exited with code 07",
        ],
    );
    assert!(!said.contains("int3"), "breakpoints are not seen: {said}");
    assert_eq!(status, Some(7));
    assert_eq!(std::fs::read(&program).expect("it is there"), before, "the file is as it was");
}

#[test]
fn steps_are_of_one_instruction_also_over_calls_and_breakpoints() {
    skip_without_kvm!();
    if !has_gdb("steps_are_of_one_instruction_also_over_calls_and_breakpoints") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let script = dir.path().join("to-the-call");
    std::fs::write(&script, "while *(unsigned short *)$pc != 0x050f\nstepi\nend\n")
        .expect("writable");
    let (said, status, printed) = run(
        &["signal"],
        &[
            "break at_work",
            "continue",
            "set var $at = $pc",
            "stepi",
            "print $pc > $at && $pc < $at + 16",
            "delete",
            // To the system call by which the signal is sent, and over it.
            "break raise",
            "continue",
            &format!("source {}", path(&script)),
            "set var $call = $pc",
            "handle SIGUSR1 nostop noprint pass",
            "stepi",
            "print $pc == $call + 2",
            "print ($eflags & 0x100) == 0",
            "finish",
            "continue",
        ],
    );
    says(&said, &["Breakpoint 1", "= 1", "Breakpoint 2", "= 1", "= 1", "exited with code 07"]);
    assert_eq!((status, printed.as_str()), (Some(7), "handled 10"));
}

#[test]
fn threads_have_names_and_all_of_them_come_to_breakpoints_and_none_is_disturbed() {
    skip_without_kvm!();
    if !has_gdb("threads_have_names_and_all_of_them_come_to_breakpoints_and_none_is_disturbed") {
        return;
    }
    let (said, status, printed) = run(
        &["threads"],
        &[
            "set pagination off",
            "break works",
            "continue",
            "info threads",
            "delete",
            "break at_work if n == 1 && $_thread > 1",
            "thread apply all bt 3",
            // Each of the two comes to it 100 times.
            "ignore 2 199",
            "continue",
            "info breakpoints",
            "continue",
        ],
    );
    says(&said, &["Breakpoint 1", "\"debugged", "\"waits\"", "already hit 200 times"]);
    says(&said, &["#0", "read", "waits ("]);
    says(&said, &["exited with code 07"]);
    assert_eq!((status, printed.as_str()), (Some(7), "undisturbed"));
}

#[test]
fn registers_are_read_and_written_with_vectors() {
    skip_without_kvm!();
    if !has_gdb("registers_are_read_and_written_with_vectors") {
        return;
    }
    let (said, status, _) = run(
        &[],
        &[
            "break at_work",
            "continue",
            "print $xmm1.v2_int64[1] = 0x1122334455667788",
            "print $xmm1.v2_int64[1]",
            "print $r12 = 0x123456789a",
            "print/x $r12",
            "print/x $cs",
            "print $fs_base != 0",
            "print $st0 = 1.5",
            "print $st0",
            "info registers rip eflags",
            "print $ymm2.v4_int64[3] = 77",
            "print $ymm2.v4_int64[3]",
            "print $edi = 50",
            "kill",
        ],
    );
    says(
        &said,
        &["1234605616436508552", "1234605616436508552", "0x123456789a", "0x33", "= 1", "1.5"],
    );
    says(&said, &["<at_work", "77", "killed"]);
    assert_eq!(status, Some(137));
}

#[test]
fn a_fault_stops_before_its_handler_and_a_signal_is_passed_or_not() {
    skip_without_kvm!();
    if !has_gdb("a_fault_stops_before_its_handler_and_a_signal_is_passed_or_not") {
        return;
    }
    let (said, status, _) = run(
        &["segv"],
        &[
            "continue",
            "backtrace",
            "print handled",
            "print $_siginfo.si_signo",
            "print $_siginfo._sifields._sigfault.si_addr",
            "continue",
        ],
    );
    says(&said, &["SIGSEGV", "crash_here", "main", "= 0", "= 11", "0x10", "exited with code 05"]);
    assert_eq!(status, Some(5));
    let (said, status, _) = run(&["die"], &["continue", "signal SIGSEGV"]);
    says(&said, &["SIGSEGV", "Program terminated with signal SIGSEGV"]);
    assert_eq!(status, Some(139));
    // Without the signal, the instruction is done again.
    let commands = ["continue", "set var $rdi = &counter", "signal 0"];
    let (said, status, _) = run(&["die"], &commands);
    says(&said, &["SIGSEGV", "exited with code 07"]);
    assert_eq!(status, Some(7));
    let (said, status, printed) =
        run(&["signal"], &["handle SIGUSR1 stop print", "continue", "signal 0"]);
    says(&said, &["received signal SIGUSR1", "exited with code 07"]);
    assert_eq!((status, printed.as_str()), (Some(7), "handled 0"));
}

/// Interrupts a program that does what `how` says once it has printed a line.
fn interrupted(how: &str, commands: &[&str]) -> (String, Option<i32>, String) {
    let program = guests::c("debugged");
    let debuggee = Debuggee::start(&["--gdb"], &program, &[how]);
    let gdb = Gdb::at(&debuggee.at, &program, commands);
    let first = debuggee.run.line();
    // It waits for the program: what it is sent before, it would take for itself.
    std::thread::sleep(Duration::from_millis(300));
    let pid = gdb.process.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().expect("there is `kill`");
    assert!(sent.success());
    let said = gdb.output();
    let (status, printed, told) = debuggee.run.end();
    println!("{said}\n--- run: {status:?}\n{first}\n{printed}\n{told}");
    (said, status.code(), printed)
}

#[test]
fn ctrl_c_stops_a_program_that_computes_and_one_that_waits() {
    skip_without_kvm!();
    if !has_gdb("ctrl_c_stops_a_program_that_computes_and_one_that_waits") {
        return;
    }
    let (said, status, printed) =
        interrupted("spin", &["continue", "backtrace", "set var handled = 1", "signal 0"]);
    says(&said, &["SIGINT", "main", "exited with code 07"]);
    assert_eq!((status, printed.as_str()), (Some(7), "released"));
    let (said, status, _) = interrupted(
        "sleep",
        &["continue", "backtrace", "print counter", "print twice(4)", "backtrace", "kill"],
    );
    says(&said, &["SIGINT", "nanosleep", "main", "= 6", "= 8", "nanosleep", "main", "killed"]);
    assert_eq!(status, Some(137));
}

#[test]
fn after_detach_the_program_goes_on_and_a_second_gdb_can_come() {
    skip_without_kvm!();
    if !has_gdb("after_detach_the_program_goes_on_and_a_second_gdb_can_come") {
        return;
    }
    let (dir, program) = (tempfile::tempdir().expect("a folder"), guests::c("debugged"));
    let socket = dir.path().join("socket");
    let option = format!("--gdb={}", path(&socket));
    let debuggee = Debuggee::start(&[&option], &program, &["spin"]);
    assert_eq!(debuggee.at, path(&socket));
    let said = debuggee.debug(&program, &["break at_work", "continue", "detach"]);
    says(&said, &["Breakpoint 1", "detached]"]);
    assert_eq!(debuggee.run.line(), "spinning");
    let commands = ["print counter > 5", "backtrace", "set var handled = 1", "continue"];
    let said = debuggee.debug(&program, &commands);
    says(&said, &["= 1", "main", "exited with code 07"]);
    let (status, printed, _) = debuggee.run.end();
    assert_eq!((status.code(), printed.as_str()), (Some(7), "released"));
    assert!(!socket.exists(), "it is removed");
}
