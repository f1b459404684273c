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
        // The minimum of several runs: a run may also have to wait for another thread.
        let (mut least, mut most) = (u64::MAX, u64::MAX);
        for _ in 0..5 {
            least = least.min(exits(segments, 100));
            most = most.min(exits(segments, 100 + many));
            if least == most {
                break;
            }
        }
        assert_eq!(least, most, "{segments} segments: exits with 100 switches, and with more");
    }
}

/// Entering and leaving are calls that the VMM serves. Pages that a writer changes again and again are
/// its own after the first time: no fault.
#[test]
fn a_steady_change_of_a_versioned_segment_takes_two_exits_however_many_pages_it_has() {
    skip_without_kvm!();
    let program = guests::rust("vas_versions");
    let store = tempfile::tempdir().expect("a temporary directory");
    let exits =
        |args: &[&str]| exits_of(Run::new(&program).args(args).store(store.path().join("s"))).0;
    exits(&["bank", "make"]);
    // The minimum of several runs: a run may also have to wait for something.
    let (mut few, mut many) = (u64::MAX, u64::MAX);
    for _ in 0..5 {
        few = few.min(exits(&["bank", "many", "5"]));
        many = many.min(exits(&["bank", "many", "25"]));
        if many.wrapping_sub(few) == 2 * 20 {
            break;
        }
    }
    assert_eq!(many.wrapping_sub(few), 2 * 20, "20 more changes of 128 pages each");
}

/// That the root object is the one the space was opened with is seen in the heap.
#[test]
fn a_visit_of_the_safe_api_takes_no_exits_beyond_those_of_entering_and_leaving() {
    skip_without_kvm!();
    let program = guests::rust("sdk_versioned");
    let store = tempfile::tempdir().expect("a temporary directory");
    let exits =
        |args: &[&str]| exits_of(Run::new(&program).args(args).store(store.path().join("s"))).0;
    exits(&["words", "count"]);
    let least = |count| (0..5).map(|_| exits(&["words", "read", count])).min().unwrap_or(0);
    let (few, many) = (least("10"), least("60"));
    assert_eq!(many - few, 2 * 50, "50 more visits to read");
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
    // The minimum of several runs: a run may also have to wait for something.
    let least = |what, count| (0..5).map(|_| exits(&["bank", what, count])).min().unwrap_or(0);
    let (few, many) = (least("visits", "10"), least("visits", "2010"));
    assert_eq!(many, few, "2000 more visits, with nothing new");
    let (few, many) = (least("news", "10"), least("news", "60"));
    assert_eq!(many - few, 3 * 50, "two exits of each writer, one of a reader, none of the next");
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
