//! `spacejmp run --gdb` with programs that are more than one: that fork, call `execve`, have libraries, or are in address spaces.
//! Needs /dev/kvm, a C compiler and gdb.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tests::gdb::{Debuggee, has_gdb, path, run, says, text};
use tests::guests;
use tests::skip_without_kvm;

#[test]
fn children_run_without_breakpoints_and_execve_is_followed() {
    skip_without_kvm!();
    if !has_gdb("children_run_without_breakpoints_and_execve_is_followed") {
        return;
    }
    let (said, status, printed) =
        run(&["fork"], &["break at_work", "continue", "continue", "continue", "continue"]);
    says(&said, &["Breakpoint 1", "Breakpoint 1", "Breakpoint 1", "exited with code 07"]);
    assert_eq!((status, printed.as_str()), (Some(7), "child 300"));
    // The program must see itself to run itself.
    let program = guests::c("debugged");
    let folder = program.parent().expect("it is in a folder");
    let grant = format!("{}:ro", path(folder));
    let debuggee = Debuggee::start(&["--gdb", "--dir", &grant], &program, &["exec"]);
    let said = debuggee.debug(
        &program,
        &[
            "break at_work",
            "ignore 1 2",
            "continue",
            "catch exec",
            "continue",
            "continue",
            "print counter",
            "delete",
            "continue",
        ],
    );
    println!("{said}");
    says(
        &said,
        &["Breakpoint 1", "executing new program", "Breakpoint 1", "= 0", "exited with code 07"],
    );
    let (status, ..) = debuggee.run.end();
    assert_eq!(status.code(), Some(7));
}

/// The program, for the distribution's libraries.
fn dynamic(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/c/debugged.c");
    let program = folder.join("debugged");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.arg("-I").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sdk/include"));
    command.args(["-std=gnu11", "-O1", "-g", "-pthread", "-o"]).arg(&program).arg(source);
    let output = command.output().expect("there is a C compiler");
    assert!(output.status.success(), "{}", text(&output.stderr));
    program
}

#[test]
fn a_dynamic_program_has_its_libraries_and_mappings_also_at_a_port() {
    skip_without_kvm!();
    if !has_gdb("a_dynamic_program_has_its_libraries_and_mappings_also_at_a_port") {
        return;
    }
    let dir: TempDir = tempfile::tempdir().expect("a folder");
    let program = dynamic(&std::fs::canonicalize(dir.path()).expect("it is there"));
    let debuggee = Debuggee::start(&["--gdb=0"], &program, &["signal"]);
    assert!(debuggee.at.starts_with("localhost:"), "{}", debuggee.at);
    let said = debuggee.debug(
        // gdb asks for the program, too.
        Path::new("-q"),
        &[
            "break at_work",
            "continue",
            "info sharedlibrary",
            "info proc mappings",
            "info auxv",
            "delete",
            "handle SIGUSR1 nostop",
            "break raise",
            "continue",
            "bt",
            "delete",
            "continue",
        ],
    );
    let (status, printed, told) = debuggee.run.end();
    println!("{said}\n{told}");
    says(
        &said,
        &[
            "Breakpoint 1, at_work",
            "libc.so.6",
            "debugged",
            "[stack]",
            "AT_ENTRY",
            "Breakpoint 2",
            "raise",
            "main",
            "exited with code 07",
        ],
    );
    assert_eq!((status.code(), printed.as_str()), (Some(7), "handled 10"));
}

#[test]
fn memory_is_that_of_the_address_space_that_the_thread_is_in() {
    skip_without_kvm!();
    if !has_gdb("memory_is_that_of_the_address_space_that_the_thread_is_in") {
        return;
    }
    let (said, status, printed) = run(
        &["vas"],
        &[
            "monitor vas",
            "monitor nonsense",
            "break inside",
            "break outside",
            "continue",
            "monitor vas",
            "print *(int *)$rdi",
            "set var *(int *)$rdi = 43",
            "print *(int *)$rdi",
            "info proc mappings",
            "break *$rdi",
            "continue",
            "delete 3",
            "continue",
            "print *(int *)$rdi",
            "monitor vas",
            "continue",
            "print *(int *)$rdi",
            "delete",
            "continue",
        ],
    );
    says(
        &said,
        &[
            "* home  threads",
            "`nonsense` is no command",
            "Breakpoint 1, inside",
            "  home",
            "* genome (handle 1)  threads",
            "rw- reads",
            "= 42",
            "= 43",
            "[segment:reads]",
            "Cannot insert breakpoint 3",
            "Breakpoint 2, outside",
            "Cannot access memory at address",
            "* home  threads",
            "  genome (handle 1)",
            "Breakpoint 1, inside",
            "= 43",
            "exited with code 07",
        ],
    );
    // What it had read before, and what gdb has written.
    assert_eq!((status, printed.as_str()), (Some(7), "43 43"));
}
