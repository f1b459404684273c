//! `run --profile` and `run --profile-exits`: of programs whose profiles are known. Needs /dev/kvm and a C compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with links in its path resolved.
fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = std::fs::canonicalize(dir.path()).expect("it is there");
    (dir, path)
}

fn run(options: &[&str], program: &Path, args: &[&str]) -> Output {
    let limit = pace::limit(Duration::from_secs(120)).as_secs().to_string();
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(["run", "--no-store", "--timeout", &limit]);
    command.args(options).arg(program).args(args).stdin(Stdio::null());
    command.output().expect("the command starts")
}

/// Stacks and their weights.
struct Stacks(Vec<(String, u64)>);

impl Stacks {
    fn read(file: &Path) -> Stacks {
        let lines = std::fs::read_to_string(file).expect("the profile is a text");
        let stacks = lines.lines().map(|line| {
            let (stack, weight) = line.rsplit_once(' ').expect("a weight is last");
            (stack.to_owned(), weight.parse().expect("a weight is a number"))
        });
        Stacks(stacks.collect())
    }

    fn weight(&self, which: impl Fn(&str) -> bool) -> u64 {
        self.0.iter().filter(|(stack, _)| which(stack)).map(|(_, weight)| weight).sum()
    }

    fn ending(&self, end: &str) -> u64 {
        self.weight(|stack| stack.ends_with(end))
    }

    fn all(&self) -> u64 {
        self.weight(|_| true)
    }

    /// How many exits were made by this function, whatever the C library calls its own in between.
    fn getppid_from(&self, function: &str) -> u64 {
        let function = format!(";{function};");
        self.weight(|stack| stack.ends_with(";[getppid]") && stack.contains(&function))
    }
}

/// A profile of a run that is as it should be, with the other one if that is asked for, too.
fn profiled(option: &str, options: &[&str], program: &Path, args: &[&str]) -> Stacks {
    let (_dir, folder) = folder();
    let file = folder.join("profile.folded");
    let option = format!("{option}={}", file.display());
    let ended = run(&[&[option.as_str()], options].concat(), program, args);
    assert_eq!((ended.status.code(), text(&ended.stderr).as_str()), (Some(0), ""));
    Stacks::read(&file)
}

/// Compiled for the distribution's libraries.
fn dynamic(folder: &Path, options: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/c/profiled.c");
    let program = folder.join("profiled");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-std=gnu11", "-Wall", "-O1", "-pthread", "-o"]).arg(&program).arg(source);
    let output = command.args(options).output().expect("there is a C compiler");
    assert!(output.status.success(), "{}", text(&output.stderr));
    program
}

/// Of two functions, one computes three times as long as the other.
#[track_caller]
fn are_three_to_one(stacks: &Stacks) {
    let (three, one) = (stacks.ending(";three_parts"), stacks.ending(";one_part"));
    assert!(three + one >= 300, "a second and a half at 499 a second: {three} and {one}");
    assert!(3 * one <= 2 * three && three <= 6 * one, "{three} and {one}: {:?}", stacks.0);
    // Who called them, and who that.
    let called = stacks.weight(|stack| stack.contains(";main;all_parts;three_parts"));
    assert_eq!(called, three, "{:?}", stacks.0);
}

#[test]
fn two_functions_have_their_shares_of_the_time_under_those_that_called_them() {
    skip_without_kvm!();
    are_three_to_one(&profiled("--profile", &[], &guests::c("profiled"), &["time"]));
}

#[test]
fn functions_of_a_dynamic_program_and_of_its_libraries_have_names() {
    skip_without_kvm!();
    let (_dir, folder) = folder();
    let program = dynamic(&folder, &[]);
    are_three_to_one(&profiled("--profile", &[], &program, &["time"]));
    let stacks = profiled("--profile-exits", &[], &program, &["exits"]);
    let libc = stacks.weight(|stack| stack.ends_with("getppid;[getppid]"));
    assert_eq!((libc, stacks.getppid_from("from_c")), (50, 50), "{:?}", stacks.0);
    // Without symbols there are file and offset, and the library's are still there.
    let stripped = dynamic(&folder, &["-s"]);
    let stacks = profiled("--profile-exits", &[], &stripped, &["exits"]);
    let own = stacks.weight(|stack| {
        stack.rsplit(';').nth(1).is_some_and(|frame| frame.starts_with("profiled+0x"))
    });
    let libc = stacks.weight(|stack| stack.ends_with("getppid;[getppid]"));
    assert_eq!(libc, 50, "{:?}", stacks.0);
    assert!(own >= 1100, "{own}: {:?}", stacks.0);
}

#[test]
fn a_thread_that_waits_does_so_in_its_call_and_one_that_computes_in_its_function() {
    skip_without_kvm!();
    let stacks = profiled("--profile", &["--profile-hz=199"], &guests::c("profiled"), &["threads"]);
    let waits = stacks.ending(";waits_in_read;[read]");
    let computes = stacks.weight(|stack| {
        stack.contains(";computing_thread;computes_meanwhile") && !stack.ends_with(']')
    });
    // A second at 199 a second, as far as the threads are not only beginning.
    assert!(waits >= 100 && computes >= 100, "{waits} and {computes}: {:?}", stacks.0);
    assert!(waits <= 2 * computes, "{waits} and {computes}: {:?}", stacks.0);
    // And main waits for them.
    assert!(stacks.ending(";[futex]") >= 100, "{:?}", stacks.0);
}

/// The exits of a run by its statistics: all but those by which others wanted it to leave the guest.
fn exits(statistics: &Path) -> u64 {
    let told = std::fs::read(statistics).expect("they are there");
    let told: serde_json::Value = serde_json::from_slice(&told).expect("JSON");
    let exits = told["exits"].as_array().expect("a list").iter();
    let own = exits.filter(|exit| exit["kind"] != "kicked");
    own.map(|exit| exit["count"].as_u64().expect("a number")).sum()
}

#[test]
fn every_exit_is_counted_where_it_came_from() {
    skip_without_kvm!();
    let (_dir, folder) = folder();
    let statistics = folder.join("statistics");
    let to = format!("--stats-to={}", statistics.display());
    let options = ["--stats=json", &to];
    let stacks = profiled("--profile-exits", &options, &guests::c("profiled"), &["exits"]);
    for (end, times) in [(";main;from_a;[getppid]", 1000), (";main;from_b;[getppid]", 100)] {
        assert_eq!(stacks.ending(end), times, "{:?}", stacks.0);
    }
    // By the library's function, which has no frame of its own.
    let by_library = stacks
        .weight(|stack| stack.contains(";main;from_c;") && stack.ends_with("getppid;[getppid]"));
    assert_eq!(by_library, 50, "{:?}", stacks.0);
    assert_eq!(stacks.all(), exits(&statistics), "{:?}", stacks.0);
}

#[test]
fn calls_of_address_spaces_are_exits_by_their_names() {
    skip_without_kvm!();
    let (_dir, folder) = folder();
    let statistics = folder.join("statistics");
    let to = format!("--stats-to={}", statistics.display());
    let options = ["--stats=json", &to];
    let stacks = profiled("--profile-exits", &options, &guests::rust("vas_basic"), &[]);
    assert_eq!(stacks.all(), exits(&statistics), "{:?}", stacks.0);
    for call in ["[vas_create]", "[seg_alloc]", "[vas_attach]", "[vas_switch]", "[page fault]"] {
        assert!(stacks.ending(&format!(";{call}")) > 0, "{call}: {:?}", stacks.0);
    }
}

#[test]
fn time_in_the_guest_kernel_is_under_who_switches() {
    skip_without_kvm!();
    let (program, args) = (guests::rust("vas_switches"), ["1", "5000"]);
    let stacks = profiled("--profile", &["--profile-hz=4999"], &program, &args);
    // On hosts that interpret the kernel, a switch takes long enough to be seen.
    let in_kernel = stacks.ending(";[guest kernel]");
    let known =
        stacks.weight(|stack| stack.ends_with(";[guest kernel]") && stack.split(';').count() >= 3);
    assert!(2 * known >= in_kernel, "{known} of {in_kernel}: {:?}", stacks.0);
}

#[test]
fn all_processes_of_a_run_are_in_one_profile_and_what_they_execute() {
    skip_without_kvm!();
    let (_dir, folder) = folder();
    let program = folder.join("profiled");
    guests::copy_program(guests::c("profiled"), &program);
    let path = program.to_str().expect("UTF-8");
    let dir = folder.to_str().expect("UTF-8");
    let stacks = profiled("--profile-exits", &["--dir", dir], &program, &["fork", path]);
    for (function, times) in [("in_child", 70), ("in_next", 30), ("from_a", 20)] {
        assert_eq!(stacks.getppid_from(function), times, "{function}: {:?}", stacks.0);
    }
    // The file is whole also if time is sampled and a child is waited for.
    let stacks = profiled("--profile", &["--dir", dir], &program, &["fork", path]);
    assert!(stacks.weight(|stack| stack.contains("[wait4]")) > 0, "{:?}", stacks.0);
}

#[test]
fn pointers_that_lead_nowhere_end_a_stack_and_nothing_else() {
    skip_without_kvm!();
    let (_dir, folder) = folder();
    let other = folder.join("exits.txt");
    let option = format!("--profile-exits={}", other.display());
    let program = guests::c("profiled");
    let options = [option.as_str(), "--profile-hz=4999"];
    profiled("--profile", &options, &program, &["hostile"]);
    let exits = Stacks::read(&other);
    // Fifteen frame pointers with eight stack pointers each.
    assert_eq!(exits.ending(";[getppid]"), 120, "{:?}", exits.0);
    let deepest = exits.0.iter().map(|(stack, _)| stack.split(';').count()).max();
    // A name, a mark that it was cut, 127 frames and the call.
    assert_eq!(deepest, Some(130), "{:?}", exits.0);
}

#[test]
fn a_picture_shows_the_same_and_is_one_that_others_can_read() {
    skip_without_kvm!();
    let (_dir, folder) = folder();
    let file = folder.join("exits.svg");
    let option = format!("--profile-exits={}", file.display());
    let ended = run(&[&option], &guests::c("profiled"), &["exits"]);
    assert_eq!((ended.status.code(), text(&ended.stderr).as_str()), (Some(0), ""));
    let svg = std::fs::read_to_string(&file).expect("a text");
    assert!(svg.starts_with("<?xml") && svg.ends_with("</svg>\n"), "{svg}");
    for part in ["<title>from_a (1000, ", "<title>from_b (100, ", " exits</text>"] {
        assert!(svg.contains(part), "{part}: {svg}");
    }
}

#[test]
fn what_is_no_profile_is_refused_before_anything_runs() {
    let (_dir, folder) = folder();
    let program = guests::c("hello");
    let missing = folder.join("missing/p.svg");
    let missing = missing.to_str().expect("UTF-8");
    for (options, said) in [
        (&["--profile", "p.json"][..], "ends in .svg"),
        (&["--profile-exits", "p"], "ends in .svg"),
        (&["--profile-hz", "9"], "--profile"),
        (&["--profile", "p.svg", "--profile-hz", "0"], "0"),
        (&["--profile", missing], "missing/p.svg"),
        (&["--profile", "p.svg", "--gdb"], "--gdb"),
        (&["--profile", "p.svg", "--profile-exits", "p.svg"], "different files"),
    ] {
        let ended = run(options, &program, &[]);
        assert_eq!(ended.status.code(), Some(125), "{ended:?}");
        assert!(ended.stdout.is_empty(), "{ended:?}");
        let complaint = text(&ended.stderr);
        assert!(complaint.contains(said), "no {said:?} in {complaint}");
    }
    assert!(!Path::new("p.svg").exists());
}
