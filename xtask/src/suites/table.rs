//! Tables: what runs on which emulated machine, and what does not and why. The parent module
//! runs them.

use std::time::Duration;

use super::{LeftOut, Part, Suite, Work};
use crate::machine::{Kind, Memory};

const ALL: &[Kind] = &[Kind::Intel, Kind::IntelNopcid, Kind::IntelShadow, Kind::Amd];
const INTEL: &[Kind] = &[Kind::Intel];
const LESSER_INTEL: &[Kind] = &[Kind::IntelNopcid, Kind::IntelShadow];
const AMD: &[Kind] = &[Kind::Amd];

/// The whole suite is this and every other test program, so that a new one cannot be
/// forgotten. Divided by running time, not by number.
const FIRST_PART: &[&str] =
    &["commands", "vas", "ring3", "shootdown", "vmm:vm::,guest::,process::", "spacejmp_host"];

/// The first part where it is divided further: tests of several processors, and the rest.
const SEVERAL_CPUS: &[&str] = &[
    "ring3",
    "shootdown",
    "vmm:vm::,guest::,process::",
    "spacejmp_host",
    "programs:threads,thread_local",
    "vas:crossing_lock_orders,threads_in_vases,death::",
];
const ONE_CPU_IS_ENOUGH: &[&str] = &["commands", "vas"];

/// Entry and exceptions, switch and locks, threads, shootdown, persistence.
const SELECTION: &[&str] = &[
    "commands",
    "ring3",
    "shootdown",
    "programs:threads,thread_local,hostile",
    "vas:persistence::,crossing_lock_orders,threads_in_vases",
];

/// The same without exact counts of exits, which take long and do not depend on PCID, and without
/// the release build, which `intel` and `amd` run.
const SHORTER: &[&str] = &[
    "ring3:calls::,exceptions::,fences::,kicks::,preserved::,rights::,state::,switch,tags::,windows::",
    "shootdown",
    "programs:threads,thread_local,hostile",
    "vas:persistence::,crossing_lock_orders,threads_in_vases",
];

/// QEMU 7.2 with a thread for each of two processors hangs completely in one run of three of
/// `ring3` (tried; it loops delivering interrupts); with one thread for both, tests that kick
/// make no progress.
const AMD_CPUS: u8 = 1;

/// Longest first: what starts last should be short.
pub(super) const SUITES: &[Suite] = &[
    Suite {
        name: "e2e with two processors",
        part: Part::Always,
        kinds: INTEL,
        // Otherwise no translation could be stale on another processor.
        cpus: 2,
        memory: Memory::LARGE,
        timeout: Duration::from_secs(1500),
        work: Work::Tests(SEVERAL_CPUS),
    },
    Suite {
        name: "e2e 1",
        part: Part::Always,
        kinds: INTEL,
        // With one, Bochs takes half the time.
        cpus: 1,
        memory: Memory::LARGE,
        timeout: Duration::from_secs(1500),
        work: Work::Tests(ONE_CPU_IS_ENOUGH),
    },
    Suite {
        name: "e2e 2",
        part: Part::Always,
        kinds: INTEL,
        cpus: 1,
        memory: Memory::LARGE,
        timeout: Duration::from_secs(1500),
        work: Work::AllTestsBut(FIRST_PART),
    },
    Suite {
        name: "e2e 1",
        part: Part::OnRequest,
        kinds: LESSER_INTEL,
        cpus: 2,
        memory: Memory::LARGE,
        timeout: Duration::from_secs(1800),
        work: Work::Tests(FIRST_PART),
    },
    Suite {
        name: "e2e 2",
        part: Part::OnRequest,
        kinds: LESSER_INTEL,
        cpus: 2,
        memory: Memory::LARGE,
        timeout: Duration::from_secs(1800),
        work: Work::AllTestsBut(FIRST_PART),
    },
    Suite {
        name: "e2e 1",
        part: Part::OnRequest,
        kinds: AMD,
        cpus: AMD_CPUS,
        memory: Memory::LARGE,
        timeout: Duration::from_secs(1800),
        work: Work::Tests(FIRST_PART),
    },
    Suite {
        name: "e2e 2",
        part: Part::OnRequest,
        kinds: AMD,
        cpus: AMD_CPUS,
        memory: Memory::LARGE,
        timeout: Duration::from_secs(1800),
        work: Work::AllTestsBut(FIRST_PART),
    },
    Suite {
        name: "e2e selection",
        part: Part::Always,
        kinds: LESSER_INTEL,
        cpus: 2,
        memory: Memory::LARGE,
        timeout: Duration::from_secs(900),
        work: Work::Tests(SHORTER),
    },
    Suite {
        name: "e2e selection",
        part: Part::Always,
        kinds: AMD,
        cpus: AMD_CPUS,
        memory: Memory::LARGE,
        timeout: Duration::from_secs(900),
        work: Work::Tests(SELECTION),
    },
    // Everything else relies on this: a machine has KVM and its CPUs, and reports a
    // command's output byte for byte, and its exit status. One kind of each emulator.
    Suite {
        name: "machine",
        part: Part::Always,
        kinds: &[Kind::Intel, Kind::Amd],
        cpus: 2,
        memory: Memory::DEFAULT,
        timeout: Duration::from_secs(180),
        work: Work::Command {
            words: &[
                "sh",
                "-c",
                r#"test -c /dev/kvm && test -x /bin/spacejmp && nproc || exit 1
                   printf 'error\n' >&2; printf 'odd \000\377\r\003\n\nend'; exit 7"#,
            ],
            status: 7,
            output: b"2\nerror\nodd \0\xff\r\x03\n\nend",
        },
    },
];

const NO_SETPRIV: &str = "needs setpriv of util-linux, which no machine has; permissions are the host kernel's, not KVM's";
const DISK: &str =
    "fills a disk: its errors are the host kernel's and do not depend on the kind of KVM";
const NO_COMPILER: &str = "needs a C compiler, which no machine has";
const NO_CARGO: &str = "needs cargo, which no machine has";
const ONE_CPU: &str = "on the one processor of this machine, no kick meets a vCPU that runs";
const TEXT: &str = "reads the repository's text, and a hundred megabytes, which no machine has";
const TIMES: &str = "measures times, of which an emulated machine has none that mean anything";
/// Eleven thousand calls, /proc, processes, timers and limits, natively and in a VM.
const HOST: &str = "compares what the host kernel answers natively and in a VM at length: it does not depend on the kind of KVM, and an emulator takes hours";
const NO_VM: &str = "makes no VM: it does not depend on the kind of host";
/// Tried with native programs: it has no ICEBP, no alignment checks, no unmasked SSE
/// exceptions, raises #GP for #SS, and pushes a wrong error code for `INT n` (in a VM a wrong
/// RIP).
const QEMU: &str = "QEMU without acceleration does not do this for native programs either";

/// Tried with a native program, which Linux in the machine kills outright.
const QEMU_FAR: &str =
    "QEMU without acceleration lets a far return of ring 3 read its stack as ring 0 would";

/// A whole program, or PROGRAM:TEST.
pub(super) const LEFT_OUT: &[LeftOut] = &[
    LeftOut { what: "book", kinds: ALL, reason: NO_VM },
    LeftOut { what: "results", kinds: ALL, reason: NO_VM },
    LeftOut { what: "native", kinds: ALL, reason: NO_VM },
    LeftOut {
        what: "fuzz_smoke:a_store_with_any_one_byte_changed_is_refused_or_sound",
        kinds: ALL,
        reason: NO_VM,
    },
    LeftOut {
        what: "fuzz_smoke:random_headers_manifests_and_archives_are_refused_or_sound",
        kinds: ALL,
        reason: NO_VM,
    },
    LeftOut { what: "store_archive", kinds: ALL, reason: NO_VM },
    LeftOut { what: "store_cli", kinds: ALL, reason: NO_VM },
    LeftOut { what: "bench", kinds: ALL, reason: TIMES },
    LeftOut { what: "bench_start", kinds: ALL, reason: TIMES },
    LeftOut { what: "kernel_image", kinds: ALL, reason: NO_VM },
    LeftOut { what: "c_header", kinds: ALL, reason: NO_COMPILER },
    LeftOut {
        what: "new:a_c_project_builds_runs_and_passes_its_test",
        kinds: ALL,
        reason: NO_COMPILER,
    },
    LeftOut {
        what: "new:a_rust_project_builds_runs_passes_its_test_and_becomes_what_the_tutorial_makes_of_it",
        kinds: ALL,
        reason: NO_CARGO,
    },
    LeftOut {
        what: "vas:users::permission_bits_are_obeyed_at_every_call",
        kinds: ALL,
        reason: NO_SETPRIV,
    },
    LeftOut {
        what: "vas:users::what_belongs_to_somebody_else_is_as_its_bits_say",
        kinds: ALL,
        reason: NO_SETPRIV,
    },
    LeftOut {
        what: "ring3:fences::reads_of_kernel_structures_by_sgdt_and_sidt_do_not_open_them",
        kinds: AMD,
        reason: QEMU_FAR,
    },
    LeftOut { what: "calls", kinds: ALL, reason: HOST },
    LeftOut { what: "procfs", kinds: ALL, reason: HOST },
    LeftOut { what: "process", kinds: ALL, reason: HOST },
    LeftOut { what: "memory_limit", kinds: ALL, reason: HOST },
    LeftOut { what: "keeps", kinds: ALL, reason: HOST },
    LeftOut { what: "rare_calls", kinds: ALL, reason: HOST },
    LeftOut { what: "host_calls", kinds: ALL, reason: HOST },
    LeftOut { what: "full_disk", kinds: ALL, reason: DISK },
    LeftOut { what: "wordindex", kinds: ALL, reason: TEXT },
    LeftOut {
        what: "ring3:kicks::ten_thousand_linux_calls_under_a_rain_of_kicks_are_each_made_once",
        kinds: AMD,
        reason: ONE_CPU,
    },
    LeftOut {
        what: "ring3:kicks::ten_thousand_null_calls_under_a_rain_of_kicks_are_each_made_once",
        kinds: AMD,
        reason: ONE_CPU,
    },
    LeftOut {
        what: "ring3:kicks::thousands_of_switches_under_a_rain_of_kicks_are_each_made_once",
        kinds: AMD,
        reason: ONE_CPU,
    },
    LeftOut {
        what: "ring3:kicks::thousands_of_hypercalls_under_a_rain_of_kicks_are_each_made_once",
        kinds: AMD,
        reason: ONE_CPU,
    },
    LeftOut { what: "ring3:exceptions::icebp_is_a_debug_trap", kinds: AMD, reason: QEMU },
    LeftOut {
        what: "programs:a_stack_pointer_that_is_not_canonical_is_a_bus_error",
        kinds: AMD,
        reason: QEMU,
    },
    LeftOut {
        what: "ring3:exceptions::unaligned_accesses_raise_alignment_checks_when_asked_for",
        kinds: AMD,
        reason: QEMU,
    },
    LeftOut {
        what: "ring3:exceptions::sse_exceptions_arrive_when_unmasked",
        kinds: AMD,
        reason: QEMU,
    },
    LeftOut {
        what: "ring3:exceptions::a_stack_address_that_is_not_canonical_is_a_stack_fault",
        kinds: AMD,
        reason: QEMU,
    },
    LeftOut {
        what: "ring3:exceptions::software_interrupts_raise_an_exception_and_nothing_else",
        kinds: AMD,
        reason: QEMU,
    },
];
