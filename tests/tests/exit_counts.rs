//! The exact number of exits to the VMM of a thread, and of a program before its `main`,
//! against `resources/counts.toml`. Calls, faults and switches are counted on bare vCPUs:
//! `ring3/counts.rs`.
//!
//! Kicks are not counted: how many of them cause an exit depends on timing.

use std::io::Write;
use std::path::Path;

use tests::counts::{Table, compare};
use tests::elf::{Elf, Header};
use tests::kvm::other_kind_of_host;
use tests::vm::Run;
use tests::{guests, skip_without_kvm};
use vmm::process::Outcome;

/// Exits of a run that ends with status 0, and whether SYSCALL enters ring 0 here.
fn exits(program: &Path, args: &[&str]) -> (u64, bool) {
    exits_of(Run::new(program).args(args))
}

fn exits_of(run: Run) -> (u64, bool) {
    let running = run.start().unwrap_or_else(|err| panic!("{}", tests::vm::all(&err)));
    let process = running.process.clone();
    let ended = running.wait(tests::pace::limit(std::time::Duration::from_secs(60)));
    assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
    let exits = process.stats.snapshot().exits;
    let count = exits.iter().filter(|exit| exit.kind != "kicked").map(|exit| exit.count).sum();
    (count, !process.machine.is_soft_host())
}

/// Exits of a run, the same each time.
#[track_caller]
fn exact(program: &Path, args: &[&str]) -> u64 {
    let runs = [(); 3].map(|()| exits(program, args).0);
    assert_eq!(runs, [runs[0]; 3], "{} {args:?}", program.display());
    runs[0]
}

/// `mov eax, exit_group; xor edi, edi; syscall` and nothing else.
fn smallest() -> tempfile::NamedTempFile {
    const CODE: [u8; 9] = [0xb8, 231, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
    let at = 64 + 56;
    let text = Header {
        kind: 1,
        flags: 5,
        offset: 0,
        vaddr: 0x40_0000,
        file_bytes: 0x1000,
        mem_bytes: 0x1000,
    };
    let elf = Elf {
        kind: 2,
        entry: 0x40_0000 + at as u64,
        headers: vec![text],
        len: 0x1000,
        patches: CODE.iter().enumerate().map(|(n, &byte)| (at + n, byte)).collect(),
    };
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(&elf.bytes()).expect("it can be written");
    file
}

/// The guest kernel's instructions are counted in `vmm/tests/kernel_image`, for an instance whose
/// entry names no locks. This is the rest: the switch never exits to the VMM, whatever the
/// number of segments.
#[test]
fn switches_take_no_exits_whether_a_vas_has_one_segment_or_a_hundred() {
    skip_without_kvm!();
    let program = guests::rust("vas_switches");
    let exits = |segments: &str, count: u32| {
        let store = tempfile::tempdir().expect("a temporary directory");
        let count = count.to_string();
        exits_of(Run::new(&program).args(&[segments, &count]).store(store.path().join("s"))).0
    };
    let many = tests::pace::times(2000);
    for segments in ["1", "10", "100"] {
        let more = difference(|is_many| exits(segments, 100 + u32::from(is_many) * many), 0);
        assert_eq!(more, 0, "{segments} segments: exits with 100 switches, and with more");
    }
}

/// How many more exits many of something take than a few. The minimum of several runs of each, as a run
/// may also have to wait for something; fewer runs if the difference is the `expected` one.
fn difference(exits: impl Fn(bool) -> u64, expected: u64) -> u64 {
    let (mut few, mut many) = (u64::MAX, u64::MAX);
    for _ in 0..5 {
        few = few.min(exits(false));
        many = many.min(exits(true));
        if many.wrapping_sub(few) == expected {
            break;
        }
    }
    many.wrapping_sub(few)
}

/// The kernel lets in who was the last to write; leaving is committing, and the VMM's. Pages that a writer
/// changes again and again are its own after the first time: no fault.
#[test]
fn a_steady_change_of_a_versioned_segment_takes_one_exit_however_many_pages_it_has() {
    skip_without_kvm!();
    let program = guests::rust("vas_versions");
    let store = tempfile::tempdir().expect("a temporary directory");
    let exits =
        |args: &[&str]| exits_of(Run::new(&program).args(args).store(store.path().join("s"))).0;
    exits(&["bank", "make"]);
    // Where there is nothing yet, pages come with fewer faults. The first change writes zeros, which is none.
    exits(&["bank", "many", "2"]);
    let more = difference(|many| exits(&["bank", "many", ["5", "25"][usize::from(many)]]), 20);
    assert_eq!(more, 20, "20 more changes of 128 pages each");
}

/// The thread's pages are made in growing numbers.
#[test]
fn a_change_that_fills_what_was_empty_takes_an_exit_for_each_2_mib() {
    skip_without_kvm!();
    let program = guests::rust("vas_durable");
    let more = difference(
        |many| {
            let store = tempfile::tempdir().expect("a temporary directory");
            let args = ["space", "0", "fill", ["8", "40"][usize::from(many)]];
            exits_of(Run::new(&program).args(&args).store(store.path().join("s"))).0
        },
        16,
    );
    assert_eq!(more, 16, "for 32 MiB more");
}

/// Nothing new is published. That the root object is the one the space was opened with is seen in the heap.
#[test]
fn a_visit_to_read_by_the_safe_api_takes_no_exits() {
    skip_without_kvm!();
    let program = guests::rust("sdk_versioned");
    let store = tempfile::tempdir().expect("a temporary directory");
    let exits =
        |args: &[&str]| exits_of(Run::new(&program).args(args).store(store.path().join("s"))).0;
    exits(&["words", "count"]);
    let more = difference(|many| exits(&["words", "read", ["10", "60"][usize::from(many)]]), 0);
    assert_eq!(more, 0, "50 more visits to read");
}

/// Nothing new is published. That a client of the key-value store is several times as quick as one of Redis where
/// translation is nested depends on it: a request of Redis's is four system calls and two wake-ups.
#[test]
fn a_get_by_a_client_that_enters_the_store_takes_no_exit_and_a_set_that_repeats_one() {
    skip_without_kvm!();
    let program = guests::program("kv", "kv-benchmark", guests::Profile::Dev);
    let store = tempfile::tempdir().expect("a temporary directory");
    let fill = ["fill", "kv", "10", "4", "manual"];
    exits_of(Run::new(&program).args(&fill).store(store.path().join("s")));
    // KEYS SETS VALUE BATCH MILLIS COUNT RATE SEED
    let exits = |order: String| {
        let run = Run::new(&program).args(&["direct", "kv"]).stdin(format!("{order}\n").as_bytes());
        exits_of(run.store(store.path().join("s"))).0
    };
    let get = |many| exits(format!("10 0 4 1 0 {} 0 3", if many { 260 } else { 60 }));
    assert_eq!(difference(get, 0), 0, "200 more GETs");
    let batches = |many| exits(format!("10 0 4 50 0 {} 0 3", if many { 9000 } else { 3000 }));
    assert_eq!(difference(batches, 0), 0, "6000 more GETs, 50 in a visit");
    let set = |many| exits(format!("1 100 4 1 0 {} 0 3", if many { 160 } else { 60 }));
    assert_eq!(difference(set, 100), 100, "100 more SETs of a key");
}

/// What a GET costs where translation is nested and ring 0 runs natively: on an emulated processor, whose time-stamp
/// counter counts instructions. An exit would take ten thousand more. Of a SET it is what one more takes in
/// the same visit: one by one, each ends with an exit, and the host's instructions say nothing.
#[test]
fn requests_of_a_client_of_kv_take_as_many_instructions_as_recorded() {
    skip_without_kvm!();
    let program = guests::rust("kv_counts");
    let store = tempfile::tempdir().expect("a temporary directory");
    let said = |args: &[&str]| Run::new(&program).args(args).store(store.path().join("s")).in_vm();
    let ended = [said(&["alone", "kv"]), said(&["more"])];
    let out = ended.iter().map(|ended| ended.out()).collect::<Vec<_>>().concat();
    let here = "exit_counts: requests_of_a_client_of_kv_take_as_many_instructions_as_recorded";
    if out == "time\ntime\n" {
        return other_kind_of_host(here, "the time-stamp counter does not count instructions");
    }
    let has_ept = std::fs::read_to_string("/sys/module/kvm_intel/parameters/ept");
    if !has_ept.is_ok_and(|text| text.trim() == "Y") {
        return other_kind_of_host(here, "without EPT, KVM's own exits are part of it");
    }
    let count = |name: &str| -> u64 {
        let line = out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{ended:?}"))
    };
    let mut table = Table::new("instructions.kv");
    // A few differ from one run to another, by where memory lies.
    table.add("GET, a visit of its own, in hundreds", (count("GET") + 50) / 100);
    compare([table]);
    // These differ by more.
    let (get, set) = (count("GET-more"), count("SET-more"));
    assert!(get < 3700 && set < 4600, "{get} for one more GET, {set} for a SET");
}

/// The kernel compares how often versions were published with what the view was built from.
#[test]
fn a_visit_to_read_takes_an_exit_only_if_there_is_a_newer_version() {
    skip_without_kvm!();
    let program = guests::rust("vas_versions");
    let store = tempfile::tempdir().expect("a temporary directory");
    let exits =
        |args: &[&str]| exits_of(Run::new(&program).args(args).store(store.path().join("s"))).0;
    exits(&["bank", "make"]);
    let more = difference(|many| exits(&["bank", "visits", ["10", "2010"][usize::from(many)]]), 0);
    assert_eq!(more, 0, "2000 more visits, with nothing new");
    let more = difference(|many| exits(&["bank", "news", ["10", "60"][usize::from(many)]]), 2 * 50);
    assert_eq!(more, 2 * 50, "one exit of each writer, one of a reader, none of the next");
}

/// A version of another segment moves the word that the kernel compares first: then it looks at each segment.
#[test]
fn a_visit_to_read_several_versioned_segments_takes_no_exits_whatever_is_published_elsewhere() {
    skip_without_kvm!();
    let program = guests::rust("vas_several");
    let store = tempfile::tempdir().expect("a temporary directory");
    let exits =
        |args: &[&str]| exits_of(Run::new(&program).args(args).store(store.path().join("s"))).0;
    exits(&["bank", "make"]);
    // The first makes the other VAS.
    exits(&["bank", "elsewhere", "2"]);
    let more = difference(|many| exits(&["bank", "visits", ["10", "2010"][usize::from(many)]]), 0);
    assert_eq!(more, 0, "2000 more visits, with nothing new");
    let counts = ["10", "60"];
    let more = difference(|many| exits(&["bank", "elsewhere", counts[usize::from(many)]]), 50);
    assert_eq!(more, 50, "one exit of each writer elsewhere, none of a reader");
}

#[test]
fn threads_and_starts_take_as_many_exits_as_recorded() {
    skip_without_kvm!();
    let program = guests::c("exit_counts");
    let kind = if exits(&program, &[]).1 { "hardware" } else { "software" };
    let mut table = Table::new(&format!("exits.{kind}.programs"));

    let (few, many) = (exact(&program, &["threads", "4"]), exact(&program, &["threads", "12"]));
    assert_eq!((many - few) % 8, 0, "4 threads take {few} exits, 12 take {many}");
    table.add("thread, from clone to exit", (many - few) / 8);

    // The last exit is exit_group itself.
    let bare = smallest();
    table.add("start, to the first instruction", exact(bare.path(), &[]) - 1);
    // The code before main belongs to the C library, which differs.
    let version = Run::new(&program).args(&["version"]).native().out();
    let path = format!("start, to main, glibc {}", version.trim());
    if !table.add_own("start, to main, ", &path, || exact(&program, &[]) - 1) {
        other_kind_of_host(
            "threads_and_starts_take_as_many_exits_as_recorded",
            "resources/counts.toml has no start with this version of the C library",
        );
    }
    compare([table]);
}

/// As the safe API: the library asks the VMM for nothing that it has found in an earlier visit.
#[test]
fn visits_of_cxx_programs_take_an_exit_to_change_something_and_none_to_read() {
    if !guests::has_cxx() {
        eprintln!("skipped: there is no C++ compiler here");
        return;
    }
    skip_without_kvm!();
    let program = guests::c_linked("spaces");
    let store = tempfile::tempdir().expect("a temporary directory");
    let exits =
        |args: &[&str]| exits_of(Run::new(&program).args(args).store(store.path().join("s"))).0;
    exits(&["visits", "1", "1"]);
    let more = difference(|many| exits(&["visits", ["10", "60"][usize::from(many)], "0"]), 0);
    assert_eq!(more, 0, "50 more visits to read");
    let more = difference(|many| exits(&["visits", "1", ["10", "60"][usize::from(many)]]), 50);
    assert_eq!(more, 50, "50 more visits to write");
}
