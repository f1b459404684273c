//! A process is kept while it runs, and any number of others go on from there; what is not kept is said.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tests::commands::{Commands, Running};
use tests::{guests, pace, skip_without_kvm};

/// A store, and a folder that programs are granted as `/data`.
struct World {
    folder: TempDir,
    commands: Commands,
}

impl Deref for World {
    type Target = Commands;

    fn deref(&self) -> &Commands {
        &self.commands
    }
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("data")).expect("a folder");
        let commands = Commands::on(folder.path().join("store"));
        World { folder, commands }
    }

    fn path(&self, of: &str) -> PathBuf {
        self.folder.path().join(of)
    }

    /// The program, with this much memory, and its folder as `data`.
    fn program(&self, data: &str, mib: &str) -> Running {
        let grant = format!("{}:/data", self.path(data).display());
        let program = guests::c("snapshotted");
        let program = program.to_str().expect("a path");
        self.run_until_ready(&["--dir", &grant, program, "/data/file", mib])
    }

    /// A program that needs no file, once it says that it is ready.
    fn threads(&self, program: &Path) -> Running {
        self.run_until_ready(&[program.to_str().expect("a path")])
    }

    /// The program as it was kept by that name.
    fn from(&self, name: &str, data: &str, options: &[&str]) -> Running {
        let grant = format!("{}:/data", self.path(data).display());
        self.run(&[&["--from", name, "--dir", &grant], options].concat())
    }

    fn data_after(&self, data: &str) -> String {
        fs::read_to_string(self.path(data).join("file")).expect("the file")
    }

    /// Another folder with the same file as `data` has now.
    fn copy(&self, to: &str) {
        fs::create_dir(self.path(to)).expect("a folder");
        fs::copy(self.path("data/file"), self.path(to).join("file")).expect("a copy");
    }
}

#[test]
fn a_process_goes_on_from_a_snapshot_several_times_at_once_and_itself_unchanged() {
    skip_without_kvm!();
    let world = World::new();
    let mut first = world.program("data", "1");
    for step in 1..=2 {
        assert_eq!(first.tell("step"), format!("{step} by {}", first.pid()));
    }
    let said = world.json(&["snapshot", &first.pid(), "warm", "--json"]);
    assert_eq!(said["pid"].to_string(), first.pid());
    let program = guests::c("snapshotted").canonicalize().expect("a path");
    assert_eq!(said["executable"].as_str(), program.to_str());
    let copies = ["one", "two", "three"];
    copies.iter().for_each(|copy| world.copy(copy));
    assert_eq!(first.tell("step"), format!("3 by {}", first.pid()));
    let mut running: Vec<Running> = copies.iter().map(|it| world.from("warm", it, &[])).collect();
    let mut randoms = Vec::new();
    for (copy, vm) in copies.iter().zip(&mut running) {
        assert_eq!(vm.tell("step"), format!("3 by {}", vm.pid()));
        assert_eq!(vm.tell("step"), format!("4 by {}", vm.pid()));
        assert_eq!(world.data_after(copy), "1\n2\n3\n4\n", "at the offset that both have");
        assert_eq!(vm.tell("descriptors"), "0 1 2 3 77");
        assert_eq!(vm.tell("thread number"), "its own");
        randoms.push(vm.tell("random"));
        randoms.push(vm.line());
    }
    randoms.push(first.tell("random"));
    randoms.push(first.line());
    randoms.sort_unstable();
    randoms.dedup();
    assert_eq!(randoms.len(), 8, "none came twice: {randoms:?}");
    running.into_iter().for_each(Running::end);
    assert_eq!(first.tell("step"), format!("4 by {}", first.pid()));
    assert_eq!(world.data_after("data"), "1\n2\n3\n4\n");
    first.end();
}

#[test]
fn a_snapshot_can_be_taken_in_the_middle_of_a_computation_and_of_a_wait_with_another_mask() {
    skip_without_kvm!();
    let world = World::new();
    let mut first = world.program("data", "0");
    for (command, answer, after) in [
        ("spin", "spinning", "told after some turns"),
        ("sleep masked", "sleeping", "SIGUSR1 is blocked again"),
    ] {
        assert_eq!(first.tell(command), answer);
        let name = answer;
        world.text(&["snapshot", &first.pid(), name]);
        let mut copy = world.from(name, "data", &[]);
        // It is there when it can be asked.
        let limit = Instant::now() + pace::limit(Duration::from_secs(60));
        while !world.output(&["stats", &copy.pid(), "--json"]).status.success() {
            assert!(Instant::now() < limit, "the copy has not begun");
        }
        for vm in [&mut copy, &mut first] {
            world.text(&["kill", "--signal", "USR1", &vm.pid()]);
            assert_eq!(vm.line(), after);
        }
        copy.end();
    }
    first.end();
}

/// What the pool of threads answers, with all of its locks where they were.
const POOL: [(&str, &str); 7] = [
    ("signal", "5 signals, 0 wrong"),
    ("numbers", "5 of 5, the first has the process's number"),
    ("rounds", "3 more"),
    ("release", "released, 0 wrong"),
    ("mine", "unlocked and locked, 0 wrong"),
    ("die", "its owner has died, 0 wrong"),
    ("end", "the sum is right, 0 wrong"),
];

/// Tells it all that, once it has done its jobs, and waits for its end.
#[track_caller]
fn finish_pool(mut vm: Running, done: u32) {
    assert_eq!(vm.tell("jobs"), format!("{done} done"));
    for (command, answer) in POOL {
        assert_eq!(vm.tell(command), answer, "{command}");
    }
    assert_eq!(vm.status(), Some(5));
}

#[test]
fn threads_go_on_in_copies_with_their_locks_and_numbers_and_in_the_program_itself() {
    skip_without_kvm!();
    let world = World::new();
    let mut first = world.threads(&guests::c("snapshotted_pool"));
    assert_eq!(first.tell("jobs"), "3 done");
    world.text(&["snapshot", &first.pid(), "middle"]);
    let copies: Vec<Running> = (0..3).map(|_| world.run(&["--from", "middle"])).collect();
    finish_pool(first, 6);
    copies.into_iter().for_each(|copy| finish_pool(copy, 6));
    // A copy has other numbers than the host: it is snapshotted itself.
    let mut copy = world.run(&["--from", "middle"]);
    assert_eq!(copy.tell("jobs"), "6 done");
    assert_eq!(copy.tell("rounds"), "3 more");
    world.text(&["snapshot", &copy.pid(), "again"]);
    finish_pool(copy, 9);
    finish_pool(world.run(&["--from", "again"]), 9);
}

#[test]
fn threads_of_the_standard_library_go_on_with_their_channels() {
    skip_without_kvm!();
    let world = World::new();
    let mut first = world.threads(&guests::rust("snapshotted_channels"));
    assert_eq!(first.tell("7"), "right of 7");
    world.text(&["snapshot", &first.pid(), "middle"]);
    let mut all: Vec<Running> = (0..3).map(|_| world.run(&["--from", "middle"])).collect();
    all.push(first);
    for vm in &mut all {
        assert_eq!(vm.tell("5"), "right of 12");
        assert_eq!(vm.tell("100"), "right of 112");
    }
    for vm in &mut all {
        assert_eq!(vm.tell("end"), "all came");
    }
    for mut vm in all {
        assert_eq!(vm.status(), Some(5));
    }
}

#[test]
fn memory_is_read_when_it_is_touched_and_not_at_the_start() {
    skip_without_kvm!();
    let world = World::new();
    let mut first = world.program("data", "256");
    let said = world.json(&["snapshot", &first.pid(), "large", "--json"]);
    assert!(said["memory_bytes"].as_u64() >= Some(256 << 20), "{said}");
    assert_eq!(first.tell("memory"), "0 of 65536 pages are wrong");
    let stats = world.path("stats");
    let to = stats.to_str().expect("a path");
    let touched = |told: &[&str]| {
        let mut copy = world.from("large", "data", &["--stats=json", "--stats-to", to]);
        told.iter().for_each(|line| {
            copy.tell(line);
        });
        copy.end();
        let text = fs::read_to_string(&stats).expect("statistics");
        let read: Value = serde_json::from_str(&text).expect("JSON");
        read["memory_touched_bytes"].as_u64().expect("a number") >> 20
    };
    assert!(touched(&["step"]) < 16);
    assert!(touched(&["memory"]) >= 256);
    let mut copy = world.from("large", "data", &[]);
    assert_eq!(copy.tell("memory"), "0 of 65536 pages are wrong");
    assert_eq!(copy.tell("write"), "written");
    assert_eq!(copy.tell("memory"), "0 of 65536 pages are wrong");
    copy.end();
    let mut other = world.from("large", "data", &["--memory", "128M"]);
    assert_eq!(
        other.tell("memory"),
        "0 of 65536 pages are wrong",
        "what is only read is the disk's"
    );
    other.end();
}

#[test]
fn a_copy_forks_and_is_snapshotted_itself_and_outlives_its_snapshot() {
    skip_without_kvm!();
    let world = World::new();
    let mut first = world.program("data", "32");
    first.tell("step");
    world.text(&["snapshot", &first.pid(), "one"]);
    first.end();
    let mut second = world.from("one", "data", &[]);
    assert_eq!(second.tell("step"), format!("2 by {}", second.pid()));
    assert_eq!(second.tell("fork"), "child 42");
    assert_eq!(second.tell("write"), "written");
    assert_eq!(second.tell("fork"), "child 42");
    world.text(&["snapshot", &second.pid(), "two"]);
    world.text(&["snapshot", "rm", "one"]);
    assert_eq!(second.tell("memory"), "0 of 8192 pages are wrong");
    second.end();
    let mut third = world.from("two", "data", &[]);
    assert_eq!(third.tell("memory"), "0 of 8192 pages are wrong");
    assert_eq!(third.tell("step"), format!("3 by {}", third.pid()));
    assert_eq!(third.tell("fork"), "child 43");
    third.end();
    assert_eq!(world.data_after("data"), "1\n2\n3\n");
}

#[test]
fn what_cannot_be_kept_is_said_and_what_must_not_be_is_refused() {
    skip_without_kvm!();
    let world = World::new();
    let mut things = world.program("data", "0");
    assert_eq!(things.tell("things"), "0");
    let said = world.text(&["snapshot", &things.pid(), "things"]);
    for lost in ["a socket", "a pipe", "its timers", "where the program has stored its number"] {
        assert!(said.contains(lost), "{lost}: {said}");
    }
    let shown = world.json(&["snapshot", "show", "things", "--json"]);
    assert!(shown["lost"].as_array().is_some_and(|lost| lost.len() >= 5), "{shown}");
    let mut copy = world.from("things", "data", &[]);
    assert_eq!(copy.tell("descriptors"), "0 1 2 3 77");
    copy.end();
    things.end();
    let mut vm = world.program("data", "0");
    assert_eq!(vm.tell("share"), "0");
    let error = world.error(125, &["snapshot", &vm.pid(), "refused"]);
    assert!(error.contains("can be shared"), "{error}");
    assert_eq!(vm.tell("step"), format!("1 by {}", vm.pid()), "it goes on");
    vm.end();
    let mut vm = world.program("data", "0");
    assert_eq!(vm.tell("thread"), "0");
    assert_eq!(vm.tell("leave"), "left");
    let limit = Instant::now() + pace::limit(Duration::from_secs(60));
    let error = loop {
        // It has said so before it has ended.
        match world.output(&["snapshot", &vm.pid(), "refused"]) {
            made if made.status.success() => {
                assert!(Instant::now() < limit, "its first thread has not ended");
                world.text(&["snapshot", "rm", "refused"]);
            }
            refused => break String::from_utf8_lossy(&refused.stderr).into_owned(),
        }
    };
    assert!(error.contains("its first thread has ended"), "{error}");
    drop(vm);
    assert_eq!(
        world.json(&["snapshot", "ls", "--json"])["snapshots"].as_array().map(Vec::len),
        Some(1)
    );
    let error = world.error(1, &["snapshot", "no-such-vm", "refused"]);
    assert!(error.contains("there is no VM"), "{error}");
}

#[test]
fn what_the_program_had_open_has_to_be_granted_and_its_file_the_same() {
    skip_without_kvm!();
    let world = World::new();
    let program = world.path("program");
    guests::copy_program(guests::c("snapshotted"), &program);
    let grant = format!("{}:/data", world.path("data").display());
    let path = program.to_str().expect("a path").to_owned();
    let mut vm = world.run(&["--cwd", "/", "--dir", &grant, &path, "/data/file", "0"]);
    assert_eq!(vm.line(), "ready");
    world.text(&["snapshot", &vm.pid(), "warm"]);
    let taken = world.error(125, &["snapshot", &vm.pid(), "warm"]);
    assert!(taken.contains("snapshot 'warm' exists already"), "{taken}");
    vm.end();
    let error = world.error(125, &["run", "--from", "warm"]);
    assert!(error.contains("/data/file") && error.contains("--dir HOST:/data"), "{error}");
    let read_only = format!("{grant}:ro");
    let error = world.error(125, &["run", "--from", "warm", "--dir", &read_only]);
    assert!(error.contains("cannot open /data/file again"), "{error}");
    let error = world.error(125, &["run", "--from", "none"]);
    assert!(error.contains("there is no snapshot 'none'"), "{error}");
    for (given, what) in [(["--", "argument"], "with ARGS"), (["--env", "A=b"], "with --env")] {
        let line = [&["run", "--from", "warm", "--dir", &grant], given.as_slice()].concat();
        let error = world.error(125, &line);
        assert!(error.contains(what) && error.contains("made by `spacejmp snapshot`"), "{error}");
        assert!(error.contains("run --snapshot-at-ready"), "{error}");
    }
    fs::remove_file(&program).expect("it is ours");
    guests::copy_program(guests::c("hello"), &program);
    let error = world.error(125, &["run", "--from", "warm", "--dir", &grant]);
    assert!(error.contains("program has changed since"), "{error}");
}

#[test]
fn a_damaged_snapshot_is_one_error_that_names_what_is_wrong() {
    skip_without_kvm!();
    let world = World::new();
    let vm = world.program("data", "0");
    world.text(&["snapshot", &vm.pid(), "warm"]);
    vm.end();
    let grant = format!("{}:/data", world.path("data").display());
    let folder = world.path("store/snapshots/warm");
    let start = ["run", "--from", "warm", "--dir", &grant];
    let memory = fs::read(folder.join("memory")).expect("a file");
    let cut = memory.get(..4096).expect("a page");
    fs::write(folder.join("memory"), cut).expect("a file");
    let error = world.error(125, &start);
    assert!(error.contains("its file `memory` has 4096 bytes instead of"), "{error}");
    fs::write(folder.join("memory"), &memory).expect("a file");
    let mut head = fs::read(folder.join("head")).expect("a file");
    if let Some(byte) = head.get_mut(200) {
        *byte ^= 1;
    }
    fs::write(folder.join("head"), &head).expect("a file");
    let error = world.error(125, &start);
    assert!(error.contains("snapshots/warm/head") && error.contains("checksum"), "{error}");
    let listed = world.text(&["snapshot", "ls"]);
    assert!(listed.contains("warm") && listed.contains("checksum"), "{listed}");
    world.text(&["snapshot", "rm", "warm"]);
    assert!(!Path::new(&folder).exists());
}
