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
/// Of `vas`, what looks at page tables, locks and threads. The rest is the same on every kind of KVM:
/// damaged stores, full disks, syncs and power cuts, names of versions, commits of several segments, what the SDK makes of it.
const ONE_CPU_IS_ENOUGH: &[&str] = &[
    "commands",
    "vas:changes::,ends::,every_program::,model::,persistence::,readers::,together::,versions::",
];
const ALL_OF_VAS: &[&str] = &["vas"];

/// Entry and exceptions, switch and locks, threads, shootdown, persistence.
const SELECTION: &[&str] = &[
    "commands",
    "ring3",
    "shootdown",
    "programs:threads,thread_local,hostile",
    "vas:persistence::,crossing_lock_orders,threads_in_vases",
];

/// The same without what takes long and does not depend on PCID or on whose page tables the processor
/// walks: exact counts of exits, the store, programs that only end themselves, the release build.
const SHORTER: &[&str] = &[
    "ring3:calls::,exceptions::,fences::,kicks::,preserved::,rights::,state::,switch,tags::,windows::",
    "shootdown",
    "programs:thread_local",
    "vas:crossing_lock_orders,threads_in_vases",
];

/// QEMU 7.2 with a thread for each of two processors hangs completely in one run of three of
/// `ring3` (tried; it loops delivering interrupts); with one thread for both, tests that kick
/// make no progress.
const AMD_CPUS: u8 = 1;

/// Tests on machines with much memory, at most so many minutes.
const fn tests(
    name: &'static str,
    part: Part,
    kinds: &'static [Kind],
    cpus: u8,
    minutes: u64,
    work: Work,
) -> Suite {
    let timeout = Duration::from_secs(60 * minutes);
    Suite { name, part, kinds, cpus, memory: Memory::LARGE, timeout, work }
}

/// Longest first: what starts last should be short.
pub(super) const SUITES: &[Suite] = &[
    // With one processor, no translation could be stale on another.
    tests("e2e with two processors", Part::Always, INTEL, 2, 25, Work::Tests(SEVERAL_CPUS)),
    // With one, Bochs takes half the time.
    tests("e2e 1", Part::Always, INTEL, 1, 25, Work::Tests(ONE_CPU_IS_ENOUGH)),
    tests("e2e 2", Part::Always, INTEL, 1, 25, Work::AllTestsBut(FIRST_PART)),
    tests("all of vas", Part::OnRequest, INTEL, 1, 60, Work::Tests(ALL_OF_VAS)),
    tests("e2e 1", Part::OnRequest, LESSER_INTEL, 2, 30, Work::Tests(FIRST_PART)),
    tests("e2e 2", Part::OnRequest, LESSER_INTEL, 2, 30, Work::AllTestsBut(FIRST_PART)),
    tests("e2e 1", Part::OnRequest, AMD, AMD_CPUS, 30, Work::Tests(FIRST_PART)),
    tests("e2e 2", Part::OnRequest, AMD, AMD_CPUS, 30, Work::AllTestsBut(FIRST_PART)),
    tests("e2e selection", Part::Always, LESSER_INTEL, 2, 15, Work::Tests(SHORTER)),
    tests("e2e selection", Part::Always, AMD, AMD_CPUS, 15, Work::Tests(SELECTION)),
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

/// What machines do not run.
pub(super) const LEFT_OUT: &[LeftOut] = &[
    LeftOut {
        kinds: ALL,
        reason: "makes no VM: it does not depend on the kind of host",
        what: &[
            "book",
            "book_code",
            "results",
            "native",
            "fuzz_smoke:a_store_with_any_one_byte_changed_is_refused_or_sound",
            "fuzz_smoke:random_headers_manifests_and_archives_are_refused_or_sound",
            "fuzz_smoke:random_files_of_versioned_segments_are_refused_or_sound",
            "fuzz_smoke:random_requests_to_a_control_socket_are_answered_or_end_the_connection",
            "fuzz_smoke:random_packets_of_gdb_are_answered_by_packets",
            "fuzz_smoke:a_versioned_segment_with_any_bytes_changed_is_refused_or_sound",
            "seg_lifetimes",
            "store_archive",
            "store_cli",
            "versions_outside:diff_shows_the_addresses_that_differ_and_says_by_its_status_whether_any_do",
            "versions_outside:tags_and_vases_are_compared_segment_by_segment",
            "versions_outside:an_archive_of_any_version_comes_back_as_it_was",
            "versions_outside:one_versioned_segment_is_exported_while_it_is_written_and_several_at_one_moment",
            "versions_outside:a_shell_completes_names_and_tags_and_evaluates_none_of_them",
            "kernel_image",
        ],
    },
    LeftOut {
        kinds: ALL,
        reason: "looks at what is stored, at grants of it, or at page tables that no vCPU uses: it does not depend on the kind of KVM",
        what: &["checked", "private_model", "store_grants", "store_safety"],
    },
    LeftOut {
        kinds: ALL,
        reason: "counts what is written to files, or is about the command line: it does not depend on the kind of KVM",
        what: &["cli", "disk_limit", "private_tmp"],
    },
    LeftOut {
        kinds: ALL,
        reason: "the same calls as those of `vas`, through the library for C",
        what: &["c_library"],
    },
    LeftOut {
        kinds: ALL,
        reason: "waits each time for a time-out, a long one on an emulator: which words the VMM believes does not depend on the kind of KVM",
        what: &[
            "taken_over:words_about_views_of_versions_may_say_anything",
            "taken_over:words_about_writers_of_versions_may_say_anything",
        ],
    },
    LeftOut {
        kinds: ALL,
        reason: "measures times, of which an emulated machine has none that mean anything",
        what: &["bench", "bench_kv", "bench_start", "bench_store"],
    },
    LeftOut {
        kinds: ALL,
        reason: "goes by the clock, which tells calls that last from others and when a sample is taken: on an emulator all calls last",
        what: &[
            "strace",
            "profiles:two_functions_have_their_shares_of_the_time_under_those_that_called_them",
            "profiles:a_thread_that_waits_does_so_in_its_call_and_one_that_computes_in_its_function",
        ],
    },
    LeftOut {
        kinds: ALL,
        reason: "needs a compiler, which no machine has",
        what: &[
            "backtraces",
            "book_commands",
            "c_header",
            "cxx",
            "dynamic",
            "profiles:functions_of_a_dynamic_program_and_of_its_libraries_have_names",
            "new:a_c_project_builds_runs_and_passes_its_test",
            "new:a_cxx_project_builds_runs_and_passes_its_test",
        ],
    },
    LeftOut {
        kinds: ALL,
        reason: "needs cargo and Python, which no machine has",
        what: &["python"],
    },
    LeftOut {
        kinds: ALL,
        reason: "whole programs, which take minutes on an emulator: what they ask of KVM, `programs`, `vas` and `ring3` ask, too",
        what: &["bank", "busybox", "ever_new", "graph", "notebook"],
    },
    LeftOut {
        kinds: ALL,
        reason: "commands on the files of a store, which a program in a VM has only filled: they do not depend on the kind of KVM",
        what: &[
            "backup",
            "json_keys",
            "store_archive",
            "store_cli",
            "store_safety",
            "versions_outside",
        ],
    },
    LeftOut {
        kinds: ALL,
        reason: "how stderr is written does not depend on the kind of KVM",
        what: &["log_json"],
    },
    LeftOut {
        kinds: ALL,
        reason: "opens core files and debugs programs with gdb, which no machine has",
        what: &["core_files", "gdb", "gdb_later", "gdb_programs", "watchpoints"],
    },
    LeftOut {
        kinds: ALL,
        reason: "sends what is no packet of gdb's: how packets are read does not depend on the kind of KVM",
        what: &["gdb_hostile"],
    },
    LeftOut {
        kinds: ALL,
        reason: "needs a distribution's programs, of which no machine has more than a few",
        what: &["distribution"],
    },
    LeftOut {
        kinds: ALL,
        reason: "runs a program of the tests' own from where cargo has built it, and strace, which no machine has; \
                 all tests that run a program in a VM confine their VMM",
        what: &["confinement"],
    },
    LeftOut {
        kinds: ALL,
        reason: "needs cargo, which no machine has",
        what: &[
            "first_hour",
            "shared_library",
            "new:a_rust_project_builds_runs_passes_its_test_and_becomes_what_the_tutorial_makes_of_it",
        ],
    },
    LeftOut {
        kinds: ALL,
        reason: "needs setpriv of util-linux, which no machine has; permissions are the host kernel's, not KVM's",
        what: &[
            "vas:users::permission_bits_are_obeyed_at_every_call",
            "vas:users::what_belongs_to_somebody_else_is_as_its_bits_say",
        ],
    },
    // Tried with a native program, which Linux in the machine kills outright.
    LeftOut {
        kinds: AMD,
        reason: "QEMU without acceleration lets a far return of ring 3 read its stack as ring 0 would",
        what: &["ring3:fences::reads_of_kernel_structures_by_sgdt_and_sidt_do_not_open_them"],
    },
    // Eleven thousand calls, /proc, processes, timers and limits, natively and in a VM.
    LeftOut {
        kinds: ALL,
        reason: "compares what the host kernel answers natively and in a VM at length: it does not depend on the kind of KVM, and an emulator takes hours",
        what: &[
            "calls",
            "waiting",
            "terminals",
            "passed_sockets",
            "network",
            "network_programs",
            "forks",
            "job_control",
            "others",
            "processes",
            "procfs",
            "process",
            "memory_limit",
            "keeps",
            "rare_calls",
            "host_calls",
            "red_team",
        ],
    },
    LeftOut {
        kinds: ALL,
        reason: "gives tens of thousands of commands to servers by sockets, and to `redis-server`, which no machine has",
        what: &["kv"],
    },
    LeftOut {
        kinds: ALL,
        reason: "runs the commands of the book's page on backup and recovery with `kv`, twenty VMs one after another: it does \
                 not depend on the kind of KVM",
        what: &["backup"],
    },
    LeftOut {
        kinds: ALL,
        reason: "runs `kv` in an image, for which no machine has the programs: it does not depend on the kind of KVM",
        what: &["deployment"],
    },
    LeftOut {
        kinds: ALL,
        reason: "asks over the loopback network, which no machine has",
        what: &["observing:metrics_are_answered_on_this_machine_at_each_question"],
    },
    LeftOut {
        kinds: ALL,
        reason: "waits for calls of the distribution's shell, and the machines' shell makes others: it does not depend on the kind of KVM",
        what: &["observing:the_calls_of_a_running_vm_are_traced_while_somebody_looks"],
    },
    LeftOut {
        kinds: ALL,
        reason: "fills 256 MiB of memory and keeps them in a store, which is memory there: no machine has so much",
        what: &["snapshots:memory_is_read_when_it_is_touched_and_not_at_the_start"],
    },
    LeftOut {
        kinds: ALL,
        reason: "runs or reads a file of the repository, which no machine has",
        what: &["fuzz_corpora", "golden_store", "kept"],
    },
    LeftOut {
        kinds: ALL,
        reason: "compares with samtools, which no machine has",
        what: &["genome"],
    },
    LeftOut {
        kinds: ALL,
        reason: "fills a disk: its errors are the host kernel's and do not depend on the kind of KVM",
        what: &[
            "full_disk",
            "vas:unwritable::a_store_on_a_read_only_file_system_is_read",
            "vas:unwritable::a_store_on_a_full_disk_is_read_and_written_again_when_there_is_space",
            "vas:unwritable::a_store_is_read_however_little_space_is_left",
            "vas:unwritable::what_a_reader_without_a_lease_sees_stays_and_what_it_has_is_not_taken_away",
            "vas:unwritable::a_reader_through_a_read_only_mount_sees_what_others_commit_and_its_death_releases_all",
        ],
    },
    LeftOut {
        kinds: ALL,
        reason: "reads the repository's text, and a hundred megabytes, which no machine has",
        what: &["wordindex"],
    },
    LeftOut {
        kinds: AMD,
        reason: "on the one processor of this machine, no kick meets a vCPU that runs",
        what: &[
            "ring3:kicks::ten_thousand_linux_calls_under_a_rain_of_kicks_are_each_made_once",
            "ring3:kicks::ten_thousand_null_calls_under_a_rain_of_kicks_are_each_made_once",
            "ring3:kicks::thousands_of_switches_under_a_rain_of_kicks_are_each_made_once",
            "ring3:kicks::thousands_of_hypercalls_under_a_rain_of_kicks_are_each_made_once",
        ],
    },
    // Tried with native programs: it has no ICEBP, no alignment checks, no unmasked SSE
    // exceptions, raises #GP for #SS, and pushes a wrong error code for `INT n` (in a VM a wrong
    // RIP).
    LeftOut {
        kinds: AMD,
        reason: "QEMU without acceleration does not do this for native programs either",
        what: &[
            "ring3:exceptions::icebp_is_a_debug_trap",
            "programs:a_stack_pointer_that_is_not_canonical_is_a_bus_error",
            "ring3:exceptions::unaligned_accesses_raise_alignment_checks_when_asked_for",
            "ring3:exceptions::sse_exceptions_arrive_when_unmasked",
            "ring3:exceptions::a_stack_address_that_is_not_canonical_is_a_stack_fault",
            "ring3:exceptions::software_interrupts_raise_an_exception_and_nothing_else",
        ],
    },
];
