//! Every guest program does in a VM what it does natively, or what its documentation says.

use std::path::Path;

use tests::guests::{self, Link};
use tests::pace;
use tests::skip_without_kvm;
use tests::vm::{Ended, Run};
use vmm::process::Outcome;

const SIGILL: i32 = 4;
const SIGABRT: i32 = 6;
const SIGFPE: i32 = 8;
const SIGSEGV: i32 = 11;
const SIGBUS: i32 = 7;

fn rust(name: &str) -> Run {
    Run::new(guests::rust(name))
}

/// A directory that both the program and its native run may use.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary names are ASCII")
}

#[test]
fn std_tour_is_as_natively() {
    skip_without_kvm!();
    let dir = folder();
    let run = rust("std_tour").args(&[text(dir.path())]).env("TOUR", "1").dir(text(dir.path()));
    let ended = run.same_as_native();
    assert_eq!(ended.outcome, Outcome::Exited(7), "{ended:?}");
    assert_eq!(ended.out().lines().count(), 13, "{}", ended.out());
}

#[test]
fn a_panic_unwinds_and_exits_with_101() {
    skip_without_kvm!();
    let ended = rust("panics").same_as_native();
    ended.expect(101, "before\ndropped\n");
    assert!(ended.err().contains("the panic that was asked for"), "{}", ended.err());
}

#[test]
fn a_stack_overflow_prints_rusts_message_and_aborts() {
    skip_without_kvm!();
    for args in [&[][..], &["thread"]] {
        let ended = rust("overflow").args(args).in_vm();
        ended.expect_signal(SIGABRT);
        assert!(ended.err().contains("has overflowed its stack"), "{args:?}: {}", ended.err());
        assert_eq!(ended.out(), "going down\n");
    }
}

#[test]
fn sixty_four_threads_compute_and_meet() {
    skip_without_kvm!();
    let (rounds, in_turn) = (pace::times(10).max(3), pace::times(500));
    let sum = 64 * 63 / 2 * (rounds * (rounds - 1) / 2);
    let expected = format!(
        "at once: sum {sum}, leaders {rounds}\nin turn: {in_turn} threads, sum {}\ndone\n",
        in_turn * (in_turn - 1) / 2
    );
    rust("threads64")
        .args(&[&rounds.to_string(), &in_turn.to_string()])
        .in_vm()
        .expect(0, &expected);
}

#[test]
fn thread_local_storage_is_each_threads_own() {
    skip_without_kvm!();
    rust("tls").in_vm().expect(0, "tls: main 1, destroyed 1136\n");
}

#[test]
fn clocks_run_and_sleeps_last() {
    skip_without_kvm!();
    let ended = rust("clocks").in_vm();
    assert_eq!(ended.outcome, Outcome::Exited(0), "{}", ended.err());
    assert_eq!(ended.out(), "clocks: fine\n");
}

#[test]
fn memory_of_all_sizes_comes_and_goes() {
    skip_without_kvm!();
    let steps = pace::times(4000);
    let ended = rust("big_alloc").args(&[&steps.to_string()]).same_as_native();
    if steps == 4000 {
        ended.expect(0, "alloc: patterns 349285107\nalloc: raw calls fine\nalloc: sparse 0\n");
    }
}

#[test]
fn standard_input_is_copied_to_the_last_byte() {
    skip_without_kvm!();
    let input: Vec<u8> = (0..1_000_003_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let ended = rust("stdin_echo").stdin(&input).in_vm();
    assert_eq!(ended.outcome, Outcome::Exited(0), "{}", ended.err());
    assert!(ended.stdout == input, "the copy differs: {} bytes", ended.stdout.len());
    assert_eq!(ended.err(), "1000003 bytes\n");
}

#[test]
fn file_calls_give_what_linux_gives() {
    skip_without_kvm!();
    let dir = folder();
    let args = [text(dir.path())];
    rust("file_calls").args(&args).dir(text(dir.path())).in_vm().expect(0, "files: fine\n");
    for link in [Link::Fixed, Link::Pie] {
        let run = Run::new(guests::c_with("fileio", link)).args(&args).dir(text(dir.path()));
        run.in_vm().expect(0, "fileio: fine\n");
    }
}

#[test]
fn files_outside_the_granted_directories_are_not_there() {
    skip_without_kvm!();
    let dir = folder();
    let ended = rust("file_calls").args(&[text(dir.path())]).in_vm();
    assert_ne!(ended.outcome, Outcome::Exited(0), "{ended:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was made there");
    let ended = rust("file_calls")
        .args(&[text(dir.path())])
        .dir(format!("{0}:{0}:ro", text(dir.path())))
        .in_vm();
    assert_ne!(ended.outcome, Outcome::Exited(0), "{ended:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was made there");
}

#[test]
fn c_programs_do_the_same_fixed_and_relocated() {
    skip_without_kvm!();
    for link in [Link::Fixed, Link::Pie] {
        let c = |name: &str| Run::new(guests::c_with(name, link));
        c("hello").args(&["a b", "c"]).same_as_native().expect(2, "hello from C\na b\nc\n");
        c("libc_tour").env("COLOUR", "green").same_as_native();
        c("threads").same_as_native();
        c("sigreturn").same_as_native().expect(0, "preserved\n");
    }
}

#[test]
fn rights_taken_from_memory_and_a_read_only_file_at_once_come_back() {
    skip_without_kvm!();
    let dir = folder();
    let file = dir.path().join("mapped");
    let run = Run::new(guests::c("mixed_protect")).args(&[text(&file)]).dir(text(dir.path()));
    run.same_as_native().expect(0, "fine 7\n");
}

#[test]
fn c_programs_recover_from_every_fault_by_siglongjmp() {
    skip_without_kvm!();
    for link in [Link::Fixed, Link::Pie] {
        let ended = Run::new(guests::c_with("segv_jump", link)).same_as_native();
        assert!(ended.out().ends_with("stack overflow: signal 11, fine\nrecovered\n"), "{ended:?}");
    }
}

fn hostile(args: &[&str]) -> Ended {
    rust("hostile").args(args).in_vm()
}

#[test]
fn hostile_programs_die_by_the_signal_linux_gives() {
    skip_without_kvm!();
    let cases: [(&[&str], i32); 13] = [
        (&["jump-nowhere"], SIGSEGV),
        (&["null-write"], SIGSEGV),
        (&["exec-data"], SIGSEGV),
        (&["privileged", "hlt"], SIGSEGV),
        (&["privileged", "cli"], SIGSEGV),
        (&["privileged", "cr3"], SIGSEGV),
        (&["privileged", "lgdt"], SIGSEGV),
        (&["privileged", "wrmsr"], SIGSEGV),
        (&["out"], SIGSEGV),
        (&["ud2"], SIGILL),
        (&["divide"], SIGFPE),
        (&["sigreturn", "rip"], SIGSEGV),
        (&["sigreturn", "cs"], SIGSEGV),
    ];
    for (args, signal) in cases {
        dies(args, signal);
    }
}

#[track_caller]
fn dies(args: &[&str], signal: i32) {
    let ended = hostile(args);
    let report = ended.expect_signal(signal);
    assert!(report.contains("hostile"), "{args:?}: the report names the program: {report}");
    assert!(!ended.out().contains("still here"), "{args:?}: {ended:?}");
}

#[test]
fn a_stack_pointer_that_is_not_canonical_is_a_bus_error() {
    skip_without_kvm!();
    dies(&["sigreturn", "rsp"], SIGBUS);
}

#[test]
fn hostile_programs_that_may_live_do() {
    skip_without_kvm!();
    let said = |args: &[&str], what: &str| {
        let all = format!("hostile: {}\n{what}\nhostile: still here\n", args.join(" "));
        hostile(args).expect(0, &all);
    };
    said(&["syscall-registers"], "registers kept: true");
    said(&["sigreturn", "flags"], "sigreturn: I/O privilege refused: true");
}

#[test]
fn the_32_bit_gate_is_no_way_in() {
    skip_without_kvm!();
    // Linux may have it or not; here the interrupt is a fault of the program.
    let ended = hostile(&["int80"]);
    let Outcome::Killed { signal, .. } = &ended.outcome else { panic!("{ended:?}") };
    assert!([SIGSEGV, SIGILL].contains(&i32::from(*signal)), "{ended:?}");
}

#[test]
fn wild_arguments_to_every_system_call_are_survived() {
    skip_without_kvm!();
    for seed in 1..=pace::times(12) {
        let seed = seed.to_string();
        for args in [&["wild-syscalls", &seed][..], &["wild-syscalls", &seed, "all"]] {
            let ended = hostile(args);
            assert_eq!(ended.outcome, Outcome::Exited(0), "{args:?}: {}", ended.err());
            assert!(ended.out().contains("survived"), "{args:?}: {}", ended.out());
        }
    }
}

#[test]
fn mapping_until_memory_is_out_ends_in_an_error_of_the_call() {
    skip_without_kvm!();
    let ended = rust("hostile").args(&["oom"]).memory(256 << 20).in_vm();
    let expected = "hostile: oom\noom: refused with ENOMEM: true, some were given: true\n\
                    hostile: still here\n";
    ended.expect(0, expected);
}

#[test]
fn too_little_memory_to_start_is_a_clear_error() {
    skip_without_kvm!();
    for bytes in [0, 1, 4096, 64 << 10, 1 << 20] {
        // Either it cannot be started, or it runs out.
        match rust("hostile").args(&["ud2"]).memory(bytes).start() {
            Err(err) => assert!(!tests::vm::all(&err).is_empty()),
            Ok(running) => {
                let ended = running.wait(pace::limit(std::time::Duration::from_secs(60)));
                assert!(
                    !matches!(ended.outcome, Outcome::HostFailed(_) | Outcome::TimedOut),
                    "{bytes} bytes: {ended:?}"
                );
            }
        }
    }
}

#[test]
fn what_is_no_program_is_refused_with_a_reason() {
    skip_without_kvm!();
    let dir = folder();
    let refused = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let err = Run::new(&path).start().expect_err(name);
        let all = tests::vm::all(&err);
        assert!(all.contains(name), "{all}");
        all
    };
    assert!(refused("empty", b"").contains("ELF"));
    assert!(refused("words", b"these are only words, and enough of them").contains("ELF"));
    refused("script", b"#!/bin/sh\necho no\n");
    let good = std::fs::read(guests::c("hello")).unwrap();
    for len in [16, 63, 64, 100, 1000, good.len() / 2] {
        refused("cut", &good[..len]);
    }
    let mut other = good.clone();
    other[18] = 0xb7;
    assert!(refused("arm", &other).contains("x86-64"));
    let mut narrow = good;
    narrow[4] = 1;
    assert!(refused("narrow", &narrow).contains("32-bit"));
    let err = Run::new(dir.path().join("missing")).start().expect_err("it is not there");
    assert!(tests::vm::all(&err).contains("missing"));
    assert!(Run::new(dir.path()).start().is_err());
}

#[test]
fn huge_pages_on_request_are_large_memory_opened_step_by_step() {
    skip_without_kvm!();
    Run::new(guests::c("hugetlb")).in_vm().expect(0, "huge pages: fine\n");
}

#[test]
fn calls_of_our_own_come_back_and_unknown_ones_are_enosys() {
    skip_without_kvm!();
    let run = Run::new(guests::rust("nullcall"));
    run.in_vm().expect(0, "calls: 499500.5, missing: Err(ENOSYS)\n");
    assert_eq!(run.native().outcome, Outcome::Exited(3));
}
