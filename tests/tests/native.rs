//! Every guest program runs natively and does what its documentation says: other tests compare its
//! behaviour in a VM with this.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tests::guests::{self, Link, Profile};

const SIGILL: i32 = 4;
const SIGABRT: i32 = 6;
const SIGBUS: i32 = 7;
const SIGFPE: i32 = 8;
const SIGSEGV: i32 = 11;

fn run(program: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .env("TOUR", "1")
        .env_remove("COLOUR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|err| panic!("cannot start {}: {err}", program.display()));
    let mut stdin = child.stdin.take().expect("standard input is piped");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A program that reads nothing closes its end early.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().expect("a child can be waited for")
    })
}

#[track_caller]
fn expect(program: &Path, args: &[&str], status: i32, stdout: &str) -> Output {
    let output = run(program, args, b"");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{output:?}");
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    output
}

#[track_caller]
fn expect_signal(program: &Path, args: &[&str], signal: i32) -> Output {
    let output = run(program, args, b"");
    assert_eq!(output.status.signal(), Some(signal), "{args:?}: {output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("still here"));
    output
}

#[test]
fn native_std_tour_visits_all_and_exits_with_7() {
    let dir = tempfile::tempdir().unwrap();
    let expected = "\
tour: 1 argument(s), TOUR=Ok(\"1\")
tour: mutex 13986000
tour: channel 4950
tour: condvar true
tour: timed out true
tour: rwlock 2
tour: map 332833500
tour: slept true
tour: after 2020 true
tour: file \"some text\"
tour: missing NotFound
tour: caught true, dropped 1
tour: thread panicked true
";
    expect(&guests::rust("std_tour"), &[dir.path().to_str().unwrap()], 7, expected);
}

#[test]
fn native_panic_and_stack_overflow_end_as_rust_says() {
    let output = expect(&guests::rust("panics"), &[], 101, "before\ndropped\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the panic that was asked for"));
    for args in [&[][..], &["thread"]] {
        let output = expect_signal(&guests::rust("overflow"), args, SIGABRT);
        assert!(String::from_utf8_lossy(&output.stderr).contains("has overflowed its stack"));
    }
}

#[test]
fn native_threads_tls_clocks_and_memory_are_as_expected() {
    let threads = "at once: sum 90720, leaders 10\nin turn: 500 threads, sum 124750\ndone\n";
    expect(&guests::rust("threads64"), &[], 0, threads);
    expect(&guests::rust("tls"), &[], 0, "tls: main 1, destroyed 1136\n");
    expect(&guests::rust("clocks"), &[], 0, "clocks: fine\n");
    let memory = "alloc: patterns 349285107\nalloc: raw calls fine\nalloc: sparse 0\n";
    expect(&guests::rust("big_alloc"), &[], 0, memory);
}

#[test]
fn native_file_calls_give_what_linux_gives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    expect(&guests::rust("file_calls"), &[path], 0, "files: fine\n");
    for link in [Link::Fixed, Link::Pie] {
        expect(&guests::c_with("fileio", link), &[path], 0, "fileio: fine\n");
    }
}

#[test]
fn native_stdin_echo_copies_every_byte() {
    let input: Vec<u8> = (0..1_000_003_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let output = run(&guests::rust("stdin_echo"), &[], &input);
    assert!(output.status.success());
    assert!(output.stdout == input, "the copy differs");
    assert_eq!(output.stderr, b"1000003 bytes\n");
}

#[test]
fn native_spin_and_sleeper_run_until_they_are_stopped() {
    use std::io::{BufRead, BufReader};
    for (name, args, word) in
        [("spin", &["threads"][..], "spinning\n"), ("sleeper", &[], "sleeping\n")]
    {
        let mut child =
            Command::new(guests::rust(name)).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, word);
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(child.try_wait().unwrap().is_none(), "{name} ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn native_hostile_programs_end_by_the_documented_signal() {
    let hostile = guests::rust("hostile");
    let segv: [&[&str]; 11] = [
        &["jump-nowhere"],
        &["null-write"],
        &["exec-data"],
        &["privileged", "hlt"],
        &["privileged", "cli"],
        &["privileged", "cr3"],
        &["privileged", "lgdt"],
        &["privileged", "wrmsr"],
        &["out"],
        &["sigreturn", "rip"],
        &["sigreturn", "cs"],
    ];
    for args in segv {
        expect_signal(&hostile, args, SIGSEGV);
    }
    expect_signal(&hostile, &["sigreturn", "rsp"], SIGBUS);
    expect_signal(&hostile, &["ud2"], SIGILL);
    expect_signal(&hostile, &["divide"], SIGFPE);
}

#[test]
fn native_hostile_programs_that_survive_say_so() {
    let hostile = guests::rust("hostile");
    let said = |args: &[&str], what: &str| {
        let all = format!("hostile: {}\n{what}\nhostile: still here\n", args.join(" "));
        expect(&hostile, args, 0, &all);
    };
    said(&["oom", "256"], "oom: refused with ENOMEM: true, some were given: true");
    said(&["syscall-registers"], "registers kept: true");
    said(&["sigreturn", "flags"], "sigreturn: I/O privilege refused: true");
    for seed in ["1", "2", "3"] {
        said(&["wild-syscalls", seed], "survived 1728 calls");
    }
}

#[test]
fn native_c_programs_do_the_same_at_a_fixed_address_and_relocated() {
    let faults = "\
unmapped write: signal 11, fine
unmapped write: signal 11, fine
unmapped write: signal 11, fine
write to read-only: signal 11, fine
execute data: signal 11, fine
not canonical: signal 11, fine
divide: signal 8, fine
ud2: signal 4, fine
stack overflow: signal 11, fine
recovered
";
    let tour = "\
-7  3.14 left  | 0000beef 1.234568e+04 0x1.8p+0
sqrt 1.414214, sin 0.841471, pow 1.414
allocated 69169815
sorted 0 500 999
jumped back
2001-09-09 01:46:40, now later
COLOUR=green, NONE=unset
2500 xyz, abc 4
at exit
";
    let threads = "\
total 16000, turns 16, results 120080
destroyed 136, initialised 1, mine 5
cancelled 1, cleaned 1
";
    for link in [Link::Fixed, Link::Pie] {
        expect(&guests::c_with("hello", link), &["a b", "c"], 2, "hello from C\na b\nc\n");
        expect(&guests::c_with("segv_jump", link), &[], 0, faults);
        expect(&guests::c_with("sigreturn", link), &[], 0, "preserved\n");
        expect(&guests::c_with("libc_tour", link), &[], 5, tour);
        expect(&guests::c_with("threads", link), &[], 0, threads);
    }
}

#[test]
fn native_c_variants_are_linked_as_they_say() {
    // The ELF header's type: 2 is an executable at a fixed address, 3 a relocatable one.
    let kind = |path: &Path| std::fs::read(path).unwrap()[16];
    assert_eq!(kind(&guests::c("hello")), 2);
    assert_eq!(kind(&guests::c_with("hello", Link::Pie)), 3);
}

#[test]
fn native_payload_prints_one_json_object() {
    let payload = guests::program("spacejmp-bench", "spacejmp-bench-payload", Profile::Dev);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![0; 100_000]).unwrap();
    let read = ["read", file.path().to_str().unwrap(), "--piece", "64K", "--passes", "2"];
    let lines: [&[&str]; 4] = [
        &read,
        &["touch", "--bytes", "64M"],
        &["syscalls", "--count", "1000"],
        &["clock", "--count", "1000", "--threads", "2"],
    ];
    for args in lines {
        let output = run(&payload, args, b"");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["kind"], args[0]);
        assert!(object["ns"].is_u64(), "{text}");
    }
    expect(&payload, &["hello"], 0, "");
    expect(&guests::program("spacejmp-bench", "spacejmp-bench-hello", Profile::Dev), &[], 0, "");
    assert_eq!(run(&payload, &["no-such"], b"").status.code(), Some(2));
}

#[test]
fn native_wordindex_answers_and_its_exit_status_tells_of_unread_files() {
    let wordindex = guests::program("wordindex", "wordindex", Profile::Dev);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "Caf\u{e9} bar\nbar").unwrap();
    let path = dir.path().to_str().unwrap();
    let output = run(&wordindex, &["--threads", "2", path], b"BAR\n:stats\n:quit\nbar\n");
    let text = String::from_utf8(output.stdout).unwrap().replace(path, "D");
    let expected = "\
bar: 2 times in 1 file\n  D/a.txt:1\n  D/a.txt:2
files:          1\nbytes:          13\nlines:          2\nwords:          3\ndistinct words: 2\n";
    assert_eq!(text, expected);
    assert_eq!(output.status.code(), Some(0));
    let output = run(&wordindex, &[path, "/no/such"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read /no/such"));
    assert_eq!(run(&wordindex, &[], b"").status.code(), Some(2));
}

#[test]
fn outside_a_vm_programs_about_address_spaces_say_so_and_end() {
    let message = "not running under spacejmp: start the program with `spacejmp run`\n";
    let programs = [
        "vas_basic",
        "vas_counter",
        "vas_errors",
        "vas_holder",
        "vas_huge",
        "vas_locks",
        "vas_many",
        "vas_persist",
        "vas_random",
        "vas_syscalls",
        "vas_threads",
    ];
    for name in programs {
        expect(&guests::rust(name), &["a", "b"], 3, message);
    }
    let expected = "not running under spacejmp\n";
    expect(&guests::c("vas_c"), &["create"], 3, expected);
    expect(&guests::c_with("vas_c", Link::Pie), &["create"], 3, expected);
}

#[test]
fn native_graph_query_answers_the_same_from_text_and_from_arrays() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (text, arrays) = (path("edges.txt"), path("edges.bin"));
    let make = guests::program("mkgraph", "mkgraph", Profile::Dev);
    expect(&make, &["20K", &text, "--nodes", "3K"], 0, "");
    let build = guests::program("graph", "graph-build", Profile::Dev);
    expect(&build, &[&text, "--save", &arrays], 0, "2972 nodes, 20000 edges\n");
    let query = guests::program("graph", "graph-query", Profile::Dev);
    let questions: &[u8] = b"stats\ndegree 0\nreach 1 2\nreach 17 2999\ndegree 4000000\n";
    let parsed = run(&query, &["--parse", &text], questions);
    let loaded = run(&query, &["--load", &arrays], questions);
    assert!(parsed.status.success() && loaded.status.success(), "{parsed:?} {loaded:?}");
    let answers = String::from_utf8_lossy(&parsed.stdout).into_owned();
    assert_eq!(answers, String::from_utf8_lossy(&loaded.stdout));
    assert_eq!(answers.lines().count(), 5, "{answers}");
    assert!(answers.contains(", 20000 edges, largest degree "), "{answers}");

    // The third form needs a VM, and reports that.
    let elsewhere = run(&query, &["links", "stats"], b"");
    assert_eq!(elsewhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("spacejmp run"), "{elsewhere:?}");
    assert_eq!(run(&query, &["--load", &text, "stats"], b"").status.code(), Some(1));
    assert_eq!(run(&query, &["--parse", &text, "why"], b"").status.code(), Some(1));
    assert_eq!(run(&query, &[], b"").status.code(), Some(2));
}
