//! `libspacejmp.a` as C and C++ programs use it: the heap functions, the paper's figure 4, and
//! data that C and Rust programs share.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tests::guests::{self, Profile};
use tests::skip_without_kvm;
use tests::vm::Run;
use vmm::process::Outcome;

/// A new store.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        World { folder: tempfile::tempdir().expect("a temporary directory") }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn run(&self, program: PathBuf, args: &[&str]) -> tests::vm::Ended {
        Run::new(program).args(args).store(self.store()).in_vm()
    }

    /// A C program's output; the program must succeed.
    #[track_caller]
    fn c(&self, name: &str, args: &[&str]) -> String {
        let ended = self.run(guests::c_linked(name), args);
        assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
        ended.out()
    }

    /// A Rust program's output; the program must succeed.
    #[track_caller]
    fn rust(&self, name: &str, args: &[&str]) -> String {
        let ended = self.run(guests::rust(name), args);
        assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
        ended.out()
    }

    fn check(&self, segment: &str, args: &[&str]) -> Output {
        let spacejmp = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
        let mut command = Command::new(spacejmp);
        command.args(["seg", "check", segment, "--store"]).arg(self.store()).args(args);
        command.output().expect("the command starts")
    }

    /// `seg check --json` of a segment.
    #[track_caller]
    fn check_json(&self, segment: &str) -> Value {
        let output = self.check(segment, &["--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|err| panic!("{err}: {output:?}"))
    }
}

#[test]
fn the_heap_functions_do_what_the_header_says() {
    skip_without_kvm!();
    let world = World::new();
    assert_eq!(world.c("heap_calls", &[]), "ok\n");
}

#[test]
fn freeing_what_is_no_block_ends_the_program_with_a_reason() {
    skip_without_kvm!();
    for (what, expected) in [("twice", "vas_free(0x"), ("inside", "no block of the heap at 0x21")] {
        let ended = World::new().run(guests::c_linked("heap_calls"), &[what]);
        let Outcome::Killed { signal: 6, .. } = ended.outcome else { panic!("{ended:?}") };
        assert!(ended.err().contains(expected), "{ended:?}");
    }
}

#[test]
fn what_is_freed_in_a_versioned_segment_gives_its_space_on_the_disk_back() {
    skip_without_kvm!();
    let world = World::new();
    let taken = || {
        let listed = fs::read_dir(world.store().join("versions")).expect("the store's folder");
        let folder = listed.last().expect("one segment").expect("listed").path();
        let files = fs::read_dir(folder).expect("the segment's folder");
        files.map(|it| it.and_then(|it| it.metadata()).expect("there").blocks() * 512).sum::<u64>()
    };
    let block = world.c("heap_space", &["fill", "24"]);
    assert!(taken() > 24 << 20, "{} bytes of 24 MiB", taken());
    world.c("heap_space", &["free", block.trim()]);
    assert!(taken() < 8 << 20, "{} bytes are left", taken());
    // What comes next is whole, wherever it lies.
    world.c("heap_space", &["fill", "24"]);
    assert!(taken() > 24 << 20 && taken() < 40 << 20, "{} bytes of 24 MiB", taken());
}

#[test]
fn figure_4_of_the_paper_runs() {
    skip_without_kvm!();
    let world = World::new();
    world.c("figure4", &["create"]);
    world.c("figure4", &["store", "the first"]);
    world.c("figure4", &["store", "hello from another process"]);
    let shown = world.c("figure4", &["show"]);
    assert!(shown.starts_with("26 bytes at 0x"), "{shown}");
    assert!(shown.ends_with(": hello from another process\n"), "{shown}");
    let heap = &world.check_json("s0")["heap"];
    // The text and its type's description; the first one was freed.
    assert_eq!((&heap["blocks"], &heap["leaked_blocks"]), (&2.into(), &0.into()));
}

#[test]
fn outside_a_vm_the_library_says_so() {
    let ended = Run::new(guests::c_linked("figure4")).args(&["create"]).native();
    assert_eq!(ended.outcome, Outcome::Exited(1));
    assert!(ended.err().starts_with("vas_create: Function not implemented"), "{ended:?}");
}

#[test]
fn c_and_rust_describe_a_type_alike() {
    let c = Run::new(guests::c_linked("shelf")).args(&["text"]).native();
    let rust = Run::new(guests::rust("c_shelf")).args(&["text"]).native();
    assert!(rust.out().contains("array of 20 (20 bytes"), "{rust:?}");
    assert_eq!(c.out(), rust.out());
}

#[test]
fn the_library_works_from_cxx() {
    if !guests::has_cxx() {
        eprintln!("skipped: there is no C++ compiler here");
        return;
    }
    skip_without_kvm!();
    let world = World::new();
    world.c(guests::SHELF_IN_CXX, &["make"]);
    world.c(guests::SHELF_IN_CXX, &["add", "Emma", "474"]);
    assert_eq!(world.c("shelf", &["list"]), "1 books\nEmma, 474 pages\n");
}

#[test]
fn what_c_makes_rust_reads_and_changes_and_the_other_way_round() {
    skip_without_kvm!();
    for rust_makes in [false, true] {
        let world = World::new();
        if rust_makes {
            world.rust("c_shelf", &["make"]);
        } else {
            world.c("shelf", &["make"]);
        }
        world.c("shelf", &["add", "Emma", "474"]);
        world.rust("c_shelf", &["add", "Ulysses", "730"]);
        world.c("shelf", &["add", "Dubliners", "152"]);
        let expected = "3 books\nDubliners, 152 pages, like Ulysses\nUlysses, 730 pages\n\
                        Emma, 474 pages\n";
        assert_eq!(world.c("shelf", &["list"]), expected);
        assert_eq!(world.rust("c_shelf", &["list"]), expected);
        // Rust frees what C allocated, and C's next allocation reuses that block.
        world.rust("c_shelf", &["drop"]);
        world.rust("c_shelf", &["drop"]);
        world.c("shelf", &["add", "Persuasion", "249"]);
        let expected = "2 books\nPersuasion, 249 pages, like Emma\nEmma, 474 pages\n";
        assert_eq!(world.rust("c_shelf", &["list"]), expected);
        let report = world.check_json("shelf");
        assert_eq!(report["findings"], Value::Array(vec![]), "{report}");
        // Root object, description, two books.
        assert_eq!(report["heap"]["blocks"], 4);
        let ended = world.run(guests::rust("c_shelf"), &["wrong"]);
        assert!(ended.out().contains("`struct Shelf`, not `array of 2`"), "{ended:?}");
    }
}

#[test]
fn seg_check_finds_damage_in_a_heap_and_names_the_place() {
    skip_without_kvm!();
    let world = World::new();
    world.c("shelf", &["make"]);
    world.c("shelf", &["add", "Emma", "474"]);
    let output = world.check("shelf", &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("heap     3 blocks"), "{text}");
    assert!(text.contains("leaks    0 blocks"), "{text}");
    let file = world.store().join("segments/shelf");
    let file = fs::File::options().write(true).read(true).open(file).expect("the segment's file");
    let content = 2 << 20;
    let write = |offset: u64, bytes: &[u8]| {
        file.write_all_at(bytes, content + offset).expect("it can be written to");
    };
    // A list of books without a head: the book leaks.
    let mut root = [0; 8];
    file.read_exact_at(&mut root, 80).expect("the header's root address");
    let mut base = [0; 8];
    file.read_exact_at(&mut base, 40).expect("the header's base");
    let root = u64::from_le_bytes(root) - u64::from_le_bytes(base);
    write(root + 8, &[0; 8]);
    let report = world.check_json("shelf");
    assert_eq!((&report["sound"], &report["heap"]["leaked_blocks"]), (&true.into(), &1.into()));
    assert_eq!(report["findings"][0]["severity"], "warning");
    assert_eq!(report["heap"]["leaks"][0]["bytes"], 48);
    // The first page of blocks no longer has a valid kind.
    write((32 << 10) + 32, &[77]);
    let output = world.check("shelf", &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["findings"][0]["field"], "heap +0x8020, page kind");
    assert_eq!(report["heap"]["leaked_blocks"], Value::Null);
    // Nothing in a heap's header can break the check.
    for offset in (0..448).step_by(8) {
        write(offset, &[0xff; 8]);
        let _ = world.check_json("shelf");
    }
    assert!(world.check_json("shelf").get("heap").is_none(), "a heap without its magic");
}
