//! When commits of versioned segments survive a power cut, what a failed sync leaves, and waiting for
//! versions. The disk's part is played by the test: it traces the VMM, counts its syncs, and has them
//! fail.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use abi::objects::Durability;
use nix::unistd::Pid;
use rustix::process::Signal;
use tests::pace;
use tests::skip_without_kvm;
use tests::traced::{Call, follow};

use crate::world::{Talker, World, names};

const PROGRAM: &str = "vas_durable";
const EACH: &str = "65535";
const MANUAL: &str = "65534";
/// Longer than any test.
const EVERY_MINUTE: &str = "60000";

fn look(world: &World) -> String {
    world.good(PROGRAM, &["space", "0", "look"])
}

pub(crate) fn is_sync_of_a_log(call: &Call) -> bool {
    let is_sync = [libc::SYS_fdatasync, libc::SYS_fsync].contains(&call.number);
    is_sync && is_log(call)
}

pub(crate) fn is_log(call: &Call) -> bool {
    let is_log = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("log.");
    call.file().is_some_and(|file| file.file_name().is_some_and(is_log))
}

/// Runs a program that says `ready` and waits for a byte, and traces it from then on: `judge` says which
/// calls fail. `answer` is called for each line that it says after that, and returns whether it gets a byte.
pub(crate) fn traced(
    command: Command,
    judge: impl FnMut(&Call) -> Option<i32>,
    answer: impl Fn(Pid, &str) -> bool + Send + Sync,
) -> (i32, Vec<String>) {
    let mut command = command;
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("spacejmp starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut stdin = child.stdin.take().expect("piped");
    let mut line = String::new();
    out.read_line(&mut line).expect("it writes");
    assert_eq!(line, "ready\n");
    let pid = Pid::from_raw(child.id().cast_signed());
    std::thread::scope(|scope| {
        let (begun, begin) = std::sync::mpsc::channel();
        let talker = scope.spawn(move || {
            begin.recv().expect("it is traced");
            stdin.write_all(b"x").expect("it reads");
            let mut lines = Vec::new();
            for line in out.lines() {
                let line = line.expect("text");
                if answer(pid, &line) {
                    stdin.write_all(b"x").expect("it reads");
                }
                lines.push(line);
            }
            lines
        });
        let status = follow(pid, || begun.send(()).expect("it waits"), judge);
        // The tracer has already waited for it, which the library cannot know: this error is expected.
        let _ = child.wait();
        (status.expect("it can be traced"), talker.join().expect("the talker"))
    })
}

/// A command that does not run before it is [`traced`].
pub(crate) fn held_back(of: &Command) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "echo ready; head -c 1 > /dev/null; exec \"$@\"", "sh"]);
    command.arg(of.get_program()).args(of.get_args());
    for (name, value) in of.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// How many syncs of logs `count` commits take, the end of the program included.
fn syncs(durability: &str, count: &str) -> u32 {
    let world = World::new();
    world.good(PROGRAM, &["space", durability, "commits", "1"]);
    syncs_of(&world, world.command(PROGRAM, &["space", durability, "go", count]))
}

/// How many syncs of logs a program makes from its first commit on, its end included.
pub(crate) fn syncs_of(world: &World, command: Command) -> u32 {
    let (mut syncs, mut is_attached) = (0, false);
    let (status, lines) = traced(
        command,
        |call| {
            // Attaching begins a log: that is not what is counted.
            is_attached |= call.number == libc::SYS_pwritev && is_log(call);
            syncs += u32::from(is_attached && is_sync_of_a_log(call));
            None
        },
        |_, _| false,
    );
    assert_eq!((status, lines.last().map(String::as_str)), (0, Some("done")));
    world.left_clean();
    syncs
}

#[test]
fn a_commit_takes_one_sync_or_none_as_its_segment_says() {
    skip_without_kvm!();
    assert_eq!(syncs(EACH, "30") - syncs(EACH, "10"), 20, "each");
    for later in [EVERY_MINUTE, MANUAL] {
        let (few, many) = (syncs(later, "10"), syncs(later, "30"));
        assert_eq!(many, few, "{later}: commits wait for no sync");
        assert!(few >= 1, "{later}: it ended without a sync");
    }
}

#[test]
fn what_waits_for_no_sync_is_synced_in_time_and_by_a_program_that_is_told_to_end() {
    skip_without_kvm!();
    for (durability, ends) in [("20", false), (MANUAL, true)] {
        let world = World::new();
        let synced = AtomicBool::new(false);
        let command = world.command(PROGRAM, &["space", durability, "hold", "3"]);
        let mut vm = crate::world::Vm::start(command, PROGRAM);
        vm.wait_for("committed");
        // Traced from here on: the syncs of attaching are over.
        let pid = Pid::from_raw(vm.pid().cast_signed());
        let raw = rustix::process::Pid::from_raw(pid.as_raw()).expect("a process");
        if ends {
            let end = || rustix::process::kill_process(raw, Signal::TERM).expect("it is there");
            let status = follow(pid, end, |call| {
                synced.fetch_or(is_sync_of_a_log(call), Ordering::SeqCst);
                None
            });
            assert_ne!(status, Ok(0));
            assert!(synced.load(Ordering::SeqCst), "told to end, it did not sync");
        } else {
            vm.kill();
        }
        assert_eq!(look(&world), "version 3 value 3\ndone\n");
    }
    // By the clock: the first commit is synced while the program goes on.
    let world = World::new();
    world.good(PROGRAM, &["space", "20", "commits", "1"]);
    let mut commits = 0;
    let synced = AtomicBool::new(false);
    let (status, lines) = traced(
        world.command(PROGRAM, &["space", "20", "fails", "0"]),
        |call| {
            commits += u32::from(call.number == libc::SYS_pwritev && is_log(call));
            let is_sync = commits > 0 && is_sync_of_a_log(call);
            let fails = is_sync && !synced.swap(true, Ordering::SeqCst);
            fails.then_some(libc::EIO)
        },
        |_, line| line == "committed" && soon(&synced),
    );
    assert_eq!((status, lines.last().map(String::as_str)), (0, Some("done")), "{lines:?}");
}

/// Waits until `flag` is set.
fn soon(flag: &AtomicBool) -> bool {
    let began = Instant::now();
    while !flag.load(Ordering::SeqCst) {
        assert!(began.elapsed() < pace::limit(Duration::from_secs(60)), "nothing was synced");
        std::thread::sleep(Duration::from_millis(5));
    }
    // And noted.
    std::thread::sleep(Duration::from_millis(200));
    true
}

#[test]
fn a_sync_that_fails_while_a_segment_is_recovered_is_known_to_the_next_program() {
    skip_without_kvm!();
    let world = World::new();
    let mut vm = world.spawn(PROGRAM, &["space", MANUAL, "hold", "7"]);
    vm.wait_for("committed");
    vm.kill();
    let folder = world.path().join("versions");
    let [segment] = &names(&folder)[..] else { panic!("one versioned segment in {folder:?}") };
    let sid = abi::SegId::new(u64::from_str_radix(segment, 16).expect("a number")).expect("an id");
    let failed_log = || world.store().open_segment(sid).expect("opened").failed_log();
    assert_eq!(failed_log().expect("read"), None);
    let mut failed = None;
    let (status, _) = traced(
        held_back(&world.command(PROGRAM, &["space", MANUAL, "commits", "1"])),
        |call| {
            let fails = failed.is_none() && is_sync_of_a_log(call);
            fails.then(|| failed = call.file())?;
            Some(libc::EIO)
        },
        |_, _| false,
    );
    assert_ne!(status, 0, "it could not have the segment");
    let failed = failed.expect("it synced");
    let number = failed.extension().and_then(|number| number.to_str()).expect("a log");
    let noted = failed_log().expect("read").map(|log| format!("{log:016x}"));
    assert_eq!(noted.as_deref(), Some(number));
    assert_eq!(look(&world), "version 7 value 7\ndone\n");
    world.good(PROGRAM, &["space", MANUAL, "commits", "1"]);
    assert_eq!(look(&world), "version 8 value 8\ndone\n");
    assert!(!failed.exists(), "what it had was written to another one");
}

/// The logs of the only versioned segment.
fn logs(world: &World) -> Vec<String> {
    let folder = world.path().join("versions");
    let [segment] = &names(&folder)[..] else { panic!("one versioned segment in {folder:?}") };
    let mut logs = names(&folder.join(segment));
    logs.retain(|name| name.starts_with("log."));
    logs.sort();
    logs
}

#[test]
fn what_a_failed_sync_left_uncertain_is_written_to_a_new_log() {
    skip_without_kvm!();
    let world = World::new();
    let mut commits = 0;
    let failed = AtomicBool::new(false);
    let before = std::sync::Mutex::new(Vec::new());
    let (status, lines) = traced(
        world.command(PROGRAM, &["space", "20", "fails", "0"]),
        |call| {
            commits += u32::from(call.number == libc::SYS_pwritev && is_log(call));
            let fails = commits > 0 && is_sync_of_a_log(call);
            if fails && !failed.load(Ordering::SeqCst) {
                *before.lock().expect("alone") = logs(&world);
                failed.store(true, Ordering::SeqCst);
                return Some(libc::EIO);
            }
            None
        },
        |_, line| line == "committed" && soon(&failed),
    );
    assert_eq!(status, 0, "{lines:?}");
    assert_eq!(lines, ["committed", "value 3", "done"]);
    let before = before.into_inner().expect("alone");
    assert!(logs(&world).iter().any(|log| !before.contains(log)), "{before:?} and no other");
    assert_eq!(look(&world), "version 3 value 3\ndone\n");
    world.left_clean();
}

#[test]
fn who_has_seen_a_version_that_a_failed_disk_lost_is_told_and_nobody_else() {
    skip_without_kvm!();
    let world = World::new();
    world.good(PROGRAM, &["space", "20", "commits", "1"]);
    let early = Talker::start(world.command(PROGRAM, &["space", "20", "sees"]), "early");
    let late = std::sync::Mutex::new(None);
    let mut commits = 0;
    let failed = AtomicBool::new(false);
    let (mut lost, mut record) = (None, u64::MAX);
    let (status, lines) = traced(
        world.command(PROGRAM, &["space", "20", "fails", "1"]),
        |call| {
            if call.number == libc::SYS_pwritev && is_log(call) {
                commits += 1;
                // Where the record begins that will not be on the disk.
                record = if commits == 1 { call.args[3] } else { record };
            }
            if commits > 0 && lost.is_none() && is_sync_of_a_log(call) {
                lost = call.file();
                failed.store(true, Ordering::SeqCst);
                return Some(libc::EIO);
            }
            let is_read = [libc::SYS_pread64, libc::SYS_preadv].contains(&call.number);
            let is_gone = is_read && call.args[3] >= record;
            (is_gone && lost.is_some() && call.file() == lost).then_some(libc::EIO)
        },
        |_, line| {
            if line != "committed" {
                return false;
            }
            let vm = Talker::start(world.command(PROGRAM, &["space", "20", "sees"]), "late");
            *late.lock().expect("alone") = Some(vm);
            soon(&failed)
        },
    );
    assert_eq!(status, 0, "{lines:?}");
    assert_eq!(lines, ["committed", "value 2", "done"]);
    let (mut early, late) = (early, late.into_inner().expect("alone"));
    let mut late = late.expect("it was started");
    assert_eq!(late.ask("").as_deref(), Ok("ESTALE"));
    assert_eq!(late.ask("").as_deref(), Ok("ESTALE"));
    assert_eq!(early.ask("").as_deref(), Ok("sees 2"));
    assert!(look(&world).ends_with(" value 2\ndone\n"));
    world.good(PROGRAM, &["space", "20", "commits", "1"]);
    assert!(look(&world).ends_with(" value 3\ndone\n"));
}

#[test]
fn a_killed_program_loses_nothing_that_it_has_committed_however_lazy_its_segment() {
    skip_without_kvm!();
    let world = World::new();
    let mut vm = world.spawn(PROGRAM, &["space", MANUAL, "hold", "7"]);
    vm.wait_for("committed");
    vm.kill();
    assert_eq!(look(&world), "version 7 value 7\ndone\n");
    // And so it is for a reader that came while it lived.
    let mut vm = world.spawn(PROGRAM, &["space", MANUAL, "hold", "1"]);
    vm.wait_for("committed");
    let mut reader = Talker::start(world.command(PROGRAM, &["space", MANUAL, "sees"]), "reader");
    vm.kill();
    assert_eq!(reader.ask("").as_deref(), Ok("sees 8"));
    world.good(PROGRAM, &["space", MANUAL, "commits", "1"]);
    assert_eq!(reader.ask("").as_deref(), Ok("sees 9"));
    reader.end().expect("it ends");
    world.clean_after_gc();
}

/// A power cut takes what was not synced, and may leave the words that say it was published.
#[test]
fn words_that_are_newer_than_what_a_power_cut_left_of_the_log_mislead_nobody() {
    skip_without_kvm!();
    let world = World::new();
    world.good(PROGRAM, &["space", MANUAL, "commits", "4"]);
    let (versions, kept) = (world.path().join("versions"), world.path().join("kept"));
    copy(&versions, &kept);
    world.good(PROGRAM, &["space", MANUAL, "commits", "3"]);
    assert_eq!(look(&world), "version 7 value 7\ndone\n");
    std::fs::remove_dir_all(&versions).expect("it can be removed");
    std::fs::rename(&kept, &versions).expect("it can be moved");
    assert_eq!(look(&world), "version 4 value 4\ndone\n");
    let mut reader = Talker::start(world.command(PROGRAM, &["space", MANUAL, "sees"]), "reader");
    world.good(PROGRAM, &["space", MANUAL, "commits", "1"]);
    assert_eq!(reader.ask("").as_deref(), Ok("sees 5"));
    reader.end().expect("it ends");
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().expect("cp starts");
    assert!(status.success());
}

#[test]
fn waiting_for_a_version_wakes_at_a_commit_of_another_vm_and_moves_no_view() {
    skip_without_kvm!();
    let world = World::new();
    world.good(PROGRAM, &["space", "0", "commits", "1"]);
    let mut watch = world.spawn(PROGRAM, &["space", "0", "watch"]);
    for said in ["waiting", "inside"] {
        watch.wait_for(said);
        world.good(PROGRAM, &["space", "0", "commits", "1"]);
    }
    assert_eq!(watch.end(), 0, "{}{}", watch.out(), watch.err());
}

#[test]
fn durabilities_and_versions_are_asked_for_by_calls_and_commands() {
    skip_without_kvm!();
    let world = World::new();
    assert_eq!(world.good(PROGRAM, &["space", "0", "calls"]), "done\n");
    let of = |name: &str| world.json(&["seg", "show", name])["durability"].clone();
    assert_eq!(of("space"), "each");
    assert!(of("raw").is_null());
    world.says(&["seg", "chmod", "space", "--durability", "every:20"]);
    assert_eq!(of("space"), "every:20");
    assert!(world.says(&["seg", "ls"]).contains("versioned, every:20"));
    assert!(world.says(&["vas", "ls"]).contains("every:20"));
    let made = ["seg", "create", "a", "--size", "2M"];
    world.says(&made);
    assert_eq!(of("a"), Durability::DEFAULT.to_string());
    world.says(&["seg", "create", "b", "--size", "2M", "--durability", "each"]);
    assert_eq!(of("b"), "each");
    for wrong in ["every", "every:0", "every:60001", "every:-1", "never", "65535"] {
        let refused = world.spacejmp(&["seg", "chmod", "a", "--durability", wrong]);
        assert!(!refused.status.success(), "{wrong}");
    }
    for (command, name) in [("chmod", "raw"), ("create", "c")] {
        let size: &[&str] = if command == "create" { &["--size", "2M", "--volatile"] } else { &[] };
        let refused =
            world.spacejmp(&[&["seg", command, name, "--durability", "manual"], size].concat());
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(error.contains("only versioned segments"), "{error}");
    }
}

/// What the host stores of the only versioned segment.
fn stored(world: &World) -> u64 {
    let shown = world.json(&["seg", "show", "space"]);
    shown["stored_bytes"].as_u64().expect("a number")
}

#[test]
fn a_visit_that_changes_more_than_a_log_holds_is_a_version_that_other_vms_see() {
    skip_without_kvm!();
    let world = World::new();
    world.good(PROGRAM, &["space", "0", "commits", "1"]);
    let mut reader = Talker::start(world.command(PROGRAM, &["space", "0", "sees"]), "reader");
    // From 32 MiB on a change is no part of a log.
    let mib = pace::times(100).max(40).to_string();
    world.good(PROGRAM, &["space", "0", "fill", &mib]);
    assert_eq!(reader.ask("").as_deref(), Ok("sees 2"));
    world.good(PROGRAM, &["space", "0", "filled", &mib]);
    world.good(PROGRAM, &["space", "0", "commits", "1"]);
    assert_eq!(reader.ask("").as_deref(), Ok("sees 3"));
    world.good(PROGRAM, &["space", "0", "filled", &mib]);
    let most = 140 << 20;
    assert!(stored(&world) < most, "{}", stored(&world));
    reader.end().expect("it ends");
}

#[test]
fn logs_go_while_others_have_the_segment_and_a_vm_that_never_enters_again_lets_them_go() {
    skip_without_kvm!();
    let world = World::new();
    world.good(PROGRAM, &["space", MANUAL, "many", "1"]);
    let idle = Talker::start(world.command(PROGRAM, &["space", MANUAL, "sees"]), "idle");
    let pid = idle.pid();
    // 400 commits of 128 pages are 200 MiB, of which half a MiB is worth keeping.
    let commits = pace::times(400);
    world.good(PROGRAM, &["space", MANUAL, "many", &commits.to_string()]);
    let most = 150 << 20;
    assert!(stored(&world) < most, "{}", stored(&world));
    let began = Instant::now();
    let maps = || std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    let gone = |line: &&str| line.contains("/log.") && line.ends_with("(deleted)");
    while let Some(line) = maps().lines().find(gone) {
        let limit = pace::limit(Duration::from_secs(120));
        assert!(began.elapsed() < limit, "still mapped: {line}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut idle = idle;
    assert_eq!(idle.ask("").as_deref(), Ok(&*format!("sees {}", commits + 1)));
    idle.end().expect("it ends");
    world.left_clean();
}

#[test]
fn no_commit_is_lost_when_another_vm_brings_logs_elsewhere_after_it_has_published() {
    skip_without_kvm!();
    let world = World::new();
    world.good(PROGRAM, &["space", MANUAL, "commits", "1"]);
    // A log holds some sixty of these.
    let count = pace::times(130).max(20);
    let start = || world.spawn(PROGRAM, &["space", MANUAL, "beside", &count.to_string()]);
    let mut both = [start(), start()];
    assert_eq!(both.each_mut().map(|vm| vm.end()), [0, 0]);
    let said = look(&world);
    assert!(said.contains(&format!("value {}\n", 1 + 2 * count)), "{said}");
    world.left_clean();
}
