//! Reports on programs that die, with the lines of their sources, and where all threads were. Needs /dev/kvm
//! and a C compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Crashes in a library, three calls deep, while another thread waits, by an instruction of its own: the C library's
/// functions have no frame pointers.
const PROGRAM: &str = r#"#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
void in_library(volatile int *at);
static int never[2];
static volatile int waiting;
__attribute__((noinline)) static void waits(void)
{
    char byte;
    long result;
    waiting = (int)syscall(SYS_gettid);
    __asm__ volatile("syscall" : "=a"(result) : "0"(0L), "D"((long)never[0]), "S"(&byte), "d"(1L) : "rcx", "r11", "memory");
}
static void *thread(void *unused) { waits(); return unused; }
/* Whether it sleeps, which it does in one call only. */
static int is_asleep(void)
{
    char name[64], line[256] = "";
    snprintf(name, sizeof name, "/proc/self/task/%d/stat", waiting);
    FILE *stat = waiting ? fopen(name, "r") : NULL;
    if (!stat) return 0;
    char *end = fgets(line, sizeof line, stat) ? strrchr(line, ')') : NULL;
    fclose(stat);
    return end && end[1] == ' ' && end[2] == 'S';
}
__attribute__((noinline)) static void work(int *at)
{
    in_library(at);
    __asm__ volatile("");
}
int main(int argc, char **argv)
{
    pthread_t other;
    if (pipe(never) || pthread_create(&other, NULL, thread, NULL))
        return 1;
    while (!is_asleep())
        usleep(1000);
    if (argc > 1 && strcmp(argv[1], "kill") == 0)
        abort();
    work(NULL);
    return 0;
}
"#;

const LIBRARY: &str = r#"void in_library(volatile int *at);

void in_library(volatile int *at)
{
    *at = 1;
}
"#;

/// The program, with the library or linked with all of it statically, compiled with these options.
fn build(options: &[&str], is_static: bool) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let at = std::fs::canonicalize(dir.path()).expect("it is there");
    for (name, source) in [("program.c", PROGRAM), ("library.c", LIBRARY)] {
        std::fs::write(at.join(name), source).expect("writable");
    }
    let compile = |args: &[&str]| {
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(compiler);
        command.args(["-O1", "-fno-omit-frame-pointer", "-pthread"]).args(options).args(args);
        let output = command.current_dir(&at).output().expect("there is a C compiler");
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    if is_static {
        compile(&["-static", "-o", "program", "program.c", "library.c"]);
    } else {
        compile(&["-fPIC", "-shared", "-o", "libown.so", "library.c"]);
        compile(&["-o", "program", "program.c", "libown.so", "-Wl,-rpath,$ORIGIN"]);
    }
    let program = at.join("program");
    (dir, program)
}

/// How it ends, and what is told of that.
fn run(options: &[&str], program: &Path, args: &[&str]) -> (Option<i32>, String) {
    let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
    let folder = program.parent().expect("it is in a folder");
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(["run", "--no-store", "--timeout", &limit]);
    command.arg("--dir").arg(format!("{}:ro", folder.display())).args(options);
    let output = command.arg(program).args(args).stdin(Stdio::null()).output();
    let output = output.expect("the command starts");
    (output.status.code(), text(&output.stderr))
}

/// The line of a source that has this.
fn line(source: &str, has: &str) -> usize {
    1 + source.lines().position(|line| line.contains(has)).expect("it is there")
}

#[track_caller]
fn in_order(report: &str, parts: &[&str]) {
    let mut rest = report;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("no {part:?} where it belongs in:\n{report}");
        };
        rest = after;
    }
}

#[test]
fn each_frame_of_a_report_names_its_line_also_in_a_library() {
    skip_without_kvm!();
    let fault = format!(" at library.c:{}\n", line(LIBRARY, "*at = 1"));
    let call = format!(" at program.c:{}\n", line(PROGRAM, "in_library(at)"));
    let first = format!(" at program.c:{}\n", line(PROGRAM, "work(NULL)"));
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let (_dir, program) = build(&[version], false);
        let (status, report) = run(&[], &program, &[]);
        assert_eq!(status, Some(139), "{report}");
        let places = [
            "  at  ",
            "in_library+",
            " in libown.so",
            &fault,
            "called by?",
            " work+",
            &call,
            " main+",
            &first,
        ];
        in_order(&report, &places);
        let (_dir, program) = build(&[version], true);
        let (status, report) = run(&[], &program, &[]);
        assert_eq!(status, Some(139), "{report}");
        in_order(&report, &["  at  ", " in_library+", &fault, " work+", &call, " main+", &first]);
        assert!(!report.contains("#0"), "the other threads were not asked for: {report}");
    }
    // Without debug information, names are what there is; stripped, the place in the file.
    let (_dir, program) = build(&[], false);
    let (_, report) = run(&[], &program, &[]);
    in_order(&report, &["in_library+", " in libown.so\n", " work+", " main+"]);
    assert!(!report.contains(".c:"), "{report}");
    let (_dir, program) = build(&["-s"], false);
    let (_, report) = run(&[], &program, &[]);
    in_order(&report, &["in_library+", " in libown.so\n", " program+0x"]);
}

#[test]
fn all_threads_are_shown_with_their_calls_after_a_fault_and_after_a_signal_that_was_sent() {
    skip_without_kvm!();
    let (_dir, program) = build(&["-g"], false);
    let fault = format!(" at library.c:{}\n", line(LIBRARY, "*at = 1"));
    let waits = format!(" at program.c:{}\n", line(PROGRAM, "never[0])"));
    let starts = format!(" at program.c:{}\n", line(PROGRAM, "static void *thread"));
    let (status, report) = run(&["--backtrace=all"], &program, &[]);
    assert_eq!(status, Some(139), "{report}");
    in_order(
        &report,
        &[
            "died: it wrote to 0x0",
            "status ",
            "thread ",
            " `program`\n",
            "#0",
            "in_library+",
            &fault,
        ],
    );
    in_order(&report, &["status", "`, in read\n", "#0", " waits+", &waits, " thread+", &starts]);
    let (status, report) = run(&["--backtrace=all"], &program, &["kill"]);
    assert_eq!(status, Some(134), "{report}");
    in_order(
        &report,
        &["was ended by SIGABRT", "thread ", "#0", "thread ", ", in read\n", " waits+"],
    );
}

/// Behind all of an executable that is loaded: tables, strings and the headers of sections follow.
fn loaded_end(file: &[u8]) -> usize {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes"));
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    let headers = (0..count).map(|index| word(32) as usize + 56 * index);
    let loaded = headers.filter(|at| file[*at..at + 4] == [1, 0, 0, 0]);
    let ends = loaded.map(|at| word(at + 8) + word(at + 32));
    ends.max().expect("something is loaded") as usize
}

#[test]
fn a_file_whose_table_of_lines_is_damaged_is_reported_as_one_without() {
    skip_without_kvm!();
    let (_dir, program) = build(&["-g"], true);
    let whole = std::fs::read(&program).expect("it is there");
    let start = loaded_end(&whole);
    for seed in 1_usize..=6 {
        let mut damaged = whole.clone();
        for index in (start..damaged.len()).step_by(seed * 3) {
            damaged[index] = damaged[index].wrapping_mul(31).wrapping_add(seed as u8);
        }
        std::fs::write(&program, damaged).expect("writable");
        let (status, report) = run(&["--backtrace=all"], &program, &[]);
        assert_eq!(status, Some(139), "{report}");
        in_order(&report, &["died: it wrote to 0x0", "  at  ", "status", "#0"]);
    }
}
