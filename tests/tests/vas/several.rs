//! Several versioned segments that one visit changes: one commit, whatever ends its program.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal};
use tests::traced::Call;
use tests::{pace, skip_without_kvm};
use vmm::process::Outcome;
use vmm::store::Name;

use crate::durable::{is_log, is_sync_of_a_log, syncs_of, traced};
use crate::world::{SEED, Talker, World, names};

pub(crate) const PROGRAM: &str = "vas_several";
const MANUAL: &str = "65534";
const EACH: &str = "65535";

pub(crate) fn bank() -> World {
    let world = World::new();
    assert_eq!(world.good(PROGRAM, &["bank", "make"]), "done\n");
    world
}

#[track_caller]
pub(crate) fn is_right(world: &World) {
    assert_eq!(world.good(PROGRAM, &["bank", "sums", "1"]), "states 1\ndone\n");
}

/// The version that a segment is at.
pub(crate) fn version(world: &World, segment: &str) -> u64 {
    let log = world.json(&["seg", "log", segment]);
    log["versions"][0]["number"].as_u64().expect("a number")
}

#[test]
fn what_a_visit_changed_in_two_segments_is_one_change_and_an_abort_takes_back_both() {
    skip_without_kvm!();
    let world = bank();
    assert_eq!(world.good(PROGRAM, &["bank", "move", "2", "30", "1"]), "done\n");
    is_right(&world);
    assert!(version(&world, "bank.a") > 10 && version(&world, "bank.b") > 10);
    assert_eq!(world.good(PROGRAM, &["bank", "alone", "0", "5"]), "done\n");
    is_right(&world);
    world.left_clean();
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn a_program_that_is_killed_in_the_middle_has_changed_neither() {
    skip_without_kvm!();
    let world = bank();
    let mut dies = world.spawn(PROGRAM, &["bank", "die"]);
    assert_ne!(dies.end(), 0);
    is_right(&world);
    assert_eq!((version(&world, "bank.a"), version(&world, "bank.b")), (1, 1));
}

#[test]
fn a_segment_with_new_files_is_entered_together_with_one_that_knows_its_old_versions() {
    skip_without_kvm!();
    let world = bank();
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "20", "1"]), "done\n");
    assert!(version(&world, "bank.b") > 10);
    for to in ["persistent", "versioned"] {
        world.says(&["seg", "convert", "bank.a", "--to", to]);
    }
    // What belongs to the other's version 10 and more is no version of this one.
    assert_eq!(version(&world, "bank.a"), 0);
    is_right(&world);
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "3", "2"]), "done\n");
    is_right(&world);
}

#[test]
fn readers_in_another_vm_see_both_parts_of_every_commit_or_none() {
    skip_without_kvm!();
    let world = bank();
    let mut writers = ["1", "2"].map(|seed| vec!["bank", "move", "2", "1000000", seed]).to_vec();
    // Others change one segment meanwhile, and bring its logs elsewhere.
    writers.push(vec!["bank", "alone", "0", "1000000"]);
    let writers: Vec<_> = writers.iter().map(|args| world.spawn(PROGRAM, args)).collect();
    assert_eq!(world.good(PROGRAM, &["bank", "watch", "12"]), "states 12\ndone\n");
    for mut writer in writers {
        assert!(!writer.has_ended(), "{}{}", writer.out(), writer.err());
        writer.kill();
    }
    is_right(&world);
    world.clean_after_gc();
}

#[test]
fn a_writer_that_is_killed_anywhere_leaves_both_segments_at_the_same_commit() {
    skip_without_kvm!();
    let world = bank();
    let mut random = SEED;
    let mut reader = world.spawn(PROGRAM, &["bank", "sums", "1000000"]);
    for round in 0..pace::times(6) {
        world.kill_at_random(
            PROGRAM,
            &["bank", "move", "2", "1000000", &round.to_string()],
            &mut random,
        );
        assert!(!reader.has_ended(), "round {round}: {}{}", reader.out(), reader.err());
        // The next one takes over one of them, or both.
        let (which, both) = ((round % 2).to_string(), ["bank", "move", "1", "2", "1"]);
        let args: &[&str] =
            if round % 3 == 2 { &both } else { &["bank", "alone", which.as_str(), "3"] };
        assert_eq!(world.good(PROGRAM, args), "done\n");
        is_right(&world);
    }
    reader.kill();
    is_right(&world);
    world.clean_after_gc();
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn a_segment_whose_programs_have_left_is_opened_without_a_look_at_the_other() {
    skip_without_kvm!();
    let world = bank();
    let mut reader = world.spawn(PROGRAM, &["bank", "sums", "1000000"]);
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "3", "1"]), "done\n");
    reader.kill();
    let (a, b) = (version(&world, "bank.a"), world.json(&["seg", "show", "bank.b"]));
    let folder = world.path().join("versions").join(b["sid"].as_str().expect("an id"));
    std::fs::rename(&folder, world.path().join("aside")).expect("moved");
    std::fs::write(&folder, "").expect("written");
    assert_eq!(version(&world, "bank.a"), a);
    std::fs::remove_file(&folder).expect("removed");
    std::fs::rename(world.path().join("aside"), &folder).expect("moved back");
    // After a kill it has to look.
    assert!(commits_until(&world, 3));
    std::fs::rename(&folder, world.path().join("aside")).expect("moved");
    std::fs::write(&folder, "").expect("written");
    let refused = world.spacejmp(&["seg", "log", "bank.a"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("cannot be read"), "{said}");
    std::fs::remove_file(&folder).expect("removed");
    std::fs::rename(world.path().join("aside"), &folder).expect("moved back");
    is_right(&world);
}

/// Calls that write or sync before the first commit of a program: of each segment's log, what has its header and
/// zeros, the log, the folder, and the root record.
const BEGINNING: u32 = 2 * 6;

/// The program commits to the end, unless it is killed before its host call `last` that writes or syncs.
/// Returns whether it was.
fn is_killed_at(world: &World, last: u32) -> bool {
    let store = world.path();
    let (calls, is_killed) = (AtomicU32::new(0), AtomicU32::new(0));
    let (status, _) = traced(
        world.command(PROGRAM, &["bank", "go", "2"]),
        |call| {
            let changes =
                [libc::SYS_pwritev, libc::SYS_pwrite64, libc::SYS_fdatasync, libc::SYS_fsync];
            if changes.contains(&call.number)
                && call.file().is_some_and(|file| file.starts_with(&store))
                && calls.fetch_add(1, Ordering::SeqCst) == last
            {
                is_killed.store(1, Ordering::SeqCst);
                let pid = Pid::from_raw(call.process()).expect("a process");
                rustix::process::kill_process(pid, Signal::KILL).expect("it is there");
            }
            None
        },
        |_, _| false,
    );
    let is_killed = is_killed.load(Ordering::SeqCst) == 1;
    assert_eq!(status == 0, !is_killed, "{status}, killed before call {last}");
    is_killed
}

/// The same, counted from the first commit's records on.
fn commits_until(world: &World, last: u32) -> bool {
    is_killed_at(world, BEGINNING + last)
}

#[test]
fn whichever_call_of_a_commit_is_the_last_both_segments_have_it_or_none() {
    skip_without_kvm!();
    let world = bank();
    for last in 0..BEGINNING + 14 {
        assert!(is_killed_at(&world, last), "two commits make fewer than {last} calls");
        if last % 3 != 0 {
            // Who has only one of them takes it over; the other is looked at later.
            let which = (last % 2).to_string();
            assert_eq!(world.good(PROGRAM, &["bank", "alone", &which, "2"]), "done\n");
        }
        is_right(&world);
    }
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "3", "1"]), "done\n");
    is_right(&world);
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn a_segment_whose_logs_go_is_remembered_as_part_of_the_last_commit() {
    skip_without_kvm!();
    let world = bank();
    // Killed when both have the record and neither was told of.
    let mut last = 4;
    assert!(commits_until(&world, last));
    // 150 commits of 128 pages are 75 MiB: the log with that record goes.
    assert_eq!(world.good(PROGRAM, &["bank", "many", "0", "150"]), "done\n");
    is_right(&world);
    let folder = world.path().join("versions");
    let memos = |segment: &String| {
        names(&folder.join(segment)).iter().filter(|name| name.starts_with("joint.")).count()
    };
    assert_eq!(names(&folder).iter().map(memos).sum::<usize>(), 1);
    last += 1;
    assert!(commits_until(&world, last));
    assert_eq!(world.good(PROGRAM, &["bank", "many", "1", "150"]), "done\n");
    is_right(&world);
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

/// How many syncs of logs so many commits of two segments take, the end of the program included.
fn syncs(durability: &str, count: &str) -> u32 {
    let world = World::new();
    world.good(PROGRAM, &["bank", "make", durability]);
    syncs_of(&world, world.command(PROGRAM, &["bank", "go", count]))
}

#[test]
fn a_commit_of_two_segments_takes_two_syncs() {
    skip_without_kvm!();
    for durability in [EACH, MANUAL] {
        assert_eq!(syncs(durability, "30") - syncs(durability, "10"), 40, "{durability}");
    }
}

#[test]
fn a_commit_whose_second_sync_fails_is_taken_back_in_both() {
    skip_without_kvm!();
    let world = bank();
    let mut syncs = 0;
    let (status, lines) = traced(
        world.command(PROGRAM, &["bank", "go", "3"]),
        |call| {
            syncs += u32::from(is_sync_of_a_log(call));
            // The first two begin the logs.
            (syncs == 6 && is_sync_of_a_log(call)).then_some(libc::EIO)
        },
        |_, _| false,
    );
    // It gives up at the error.
    assert_ne!(status, 0, "{lines:?}");
    is_right(&world);
    assert_eq!((version(&world, "bank.a"), version(&world, "bank.b")), (2, 2));
    assert_eq!(world.good(PROGRAM, &["bank", "move", "2", "5", "1"]), "done\n");
    is_right(&world);
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

/// Which of the two segments' words, which say what was published, a call writes.
fn words_of(call: &Call) -> Option<usize> {
    let is_record = call.number == libc::SYS_pwrite64 && call.args[2] == 32;
    let file = call.file().filter(|_| is_record && call.args[3].is_multiple_of(4096))?;
    ["bank.a", "bank.b"].iter().position(|name| file.ends_with(name))
}

/// A program whose words cannot be written after its second commit: of both segments, or of one alone.
/// `answer` is called when it has committed.
fn untold(
    world: &World,
    args: &[&str],
    fails: &[usize],
    answer: impl Fn(Pid) -> bool + Send + Sync,
) -> (i32, Vec<String>) {
    let mut written = [0, 0];
    traced(
        world.command(PROGRAM, &[&["bank", "stay", "2"], args].concat()),
        |call| {
            let which = words_of(call)?;
            written[which] += 1;
            (written[which] == 2 && fails.contains(&which)).then_some(libc::EIO)
        },
        |pid, line| {
            let pid = Pid::from_raw(pid.as_raw()).expect("a process");
            line.starts_with("committed") && answer(pid)
        },
    )
}

#[test]
fn a_commit_that_cannot_be_made_known_is_not_written_over_by_another_program() {
    skip_without_kvm!();
    for (durability, fails) in
        [(EACH, &[0][..]), (EACH, &[1]), (EACH, &[0, 1]), (MANUAL, &[0]), (MANUAL, &[0, 1])]
    {
        let world = World::new();
        world.good(PROGRAM, &["bank", "make", durability]);
        let other = Talker::start(world.command(PROGRAM, &["bank", "go", "2"]), "the other");
        let other = Mutex::new(other);
        let (status, lines) = untold(&world, &[], fails, |_| {
            // Who only reads sees both parts or none.
            is_right(&world);
            assert_eq!(other.lock().expect("alone").ask("x").as_deref(), Ok("done"));
            true
        });
        // The other one has moved money the other way.
        let expected = ["committed 1001", "sees 1000 1000", "done"];
        assert_eq!((status, &lines[..]), (0, &expected.map(str::to_owned)[..]), "{fails:?}");
        // The tracer may have waited for it as well.
        drop(other);
        is_right(&world);
        assert_eq!((version(&world, "bank.a"), version(&world, "bank.b")), (6, 6), "{fails:?}");
        world.clean_after_gc();
    }
}

#[test]
fn a_commit_of_one_segment_that_cannot_be_made_known_is_not_written_over_either() {
    skip_without_kvm!();
    for durability in [EACH, MANUAL] {
        let world = World::new();
        world.good(PROGRAM, &["bank", "make", durability]);
        let (status, lines) = untold(&world, &["1"], &[1], |_| {
            assert_eq!(world.good(PROGRAM, &["bank", "alone", "1", "3"]), "done\n");
            true
        });
        assert_eq!((status, lines.last().map(String::as_str)), (0, Some("done")), "{lines:?}");
        assert_eq!((version(&world, "bank.a"), version(&world, "bank.b")), (1, 7));
        is_right(&world);
        world.left_clean();
    }
}

#[test]
fn a_commit_that_could_not_be_made_known_is_there_after_a_kill_too() {
    skip_without_kvm!();
    for fails in [&[0][..], &[1], &[0, 1]] {
        let world = bank();
        let other = Talker::start(world.command(PROGRAM, &["bank", "go", "2"]), "the other");
        let (status, lines) = untold(&world, &[], fails, |pid| {
            rustix::process::kill_process(pid, Signal::KILL).expect("it is there");
            false
        });
        assert_eq!((status, &lines[..]), (-1, &["committed 1001".to_owned()][..]));
        let mut other = other;
        assert_eq!(other.ask("x").as_deref(), Ok("done"));
        other.end().expect("it ends");
        is_right(&world);
        assert_eq!((version(&world, "bank.a"), version(&world, "bank.b")), (5, 5), "{fails:?}");
        world.clean_after_gc();
    }
}

#[test]
fn while_nothing_can_be_made_known_nobody_writes_and_nothing_is_lost() {
    skip_without_kvm!();
    let world = bank();
    let mut written = 0;
    let (status, _) = traced(
        world.command(PROGRAM, &["bank", "go", "3"]),
        |call| {
            written += u32::from(words_of(call).is_some());
            (words_of(call).is_some() && written > 2).then_some(libc::ENOSPC)
        },
        |_, _| false,
    );
    // It could not enter a third time.
    assert_ne!(status, 0);
    assert_eq!((version(&world, "bank.a"), version(&world, "bank.b")), (3, 3));
    is_right(&world);
    assert_eq!(world.good(PROGRAM, &["bank", "move", "2", "5", "1"]), "done\n");
    is_right(&world);
}

#[test]
fn a_commit_that_is_taken_back_says_what_was_lost_before_it() {
    skip_without_kvm!();
    let world = World::new();
    world.good(PROGRAM, &["bank", "make", MANUAL]);
    let (mut lost, mut has_failed, mut has_begun) = (None, false, false);
    let (_, lines) = traced(
        world.command(PROGRAM, &["bank", "loses"]),
        |call| {
            // Before that, the log is begun.
            if !has_begun {
                has_begun = is_sync_of_a_log(call);
                return None;
            }
            // The first commit, whose record is not durable, and will not be readable.
            if call.number == libc::SYS_pwritev && is_log(call) && lost.is_none() {
                lost = Some((call.file(), call.args[3]));
            }
            let (file, record) = lost.as_ref()?;
            let is_read = [libc::SYS_pread64, libc::SYS_preadv].contains(&call.number);
            let fails = call.file() == *file
                && match has_failed {
                    true => is_read && call.args[3] >= *record,
                    false => is_sync_of_a_log(call),
                };
            has_failed |= fails;
            fails.then_some(libc::EIO)
        },
        |_, _| false,
    );
    assert_eq!(lines.first().map(String::as_str), Some("leaves: Err(EIO)"), "{lines:?}");
    // Its number is not used again.
    assert_eq!((version(&world, "bank.a"), version(&world, "bank.b")), (1, 3));
    is_right(&world);
    let sid = world.store().find_segment(&Name::new(b"bank.b").expect("a name")).expect("there");
    let lost = world.store().open_segment(sid).expect("opened").lost_versions().expect("read");
    assert_eq!(lost.map(|lost| (lost.after, lost.up_to)), Some((1, 2)));
    assert_eq!(world.good(PROGRAM, &["bank", "move", "2", "5", "1"]), "done\n");
    is_right(&world);
}

#[test]
fn what_fits_into_no_log_is_refused_as_a_whole_and_the_thread_goes_on() {
    skip_without_kvm!();
    let world = bank();
    let ended = world.run(PROGRAM, &["bank", "large"]).memory(1 << 30).in_vm();
    assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
    assert_eq!(ended.out(), "done\n");
}

#[test]
fn a_tag_and_a_rollback_of_one_of_two_segments_leave_the_other_as_it_is() {
    skip_without_kvm!();
    let world = bank();
    world.says(&["vas", "tag", "bank", "first"]);
    assert!(commits_until(&world, 5), "killed when one of the two was told of");
    world.says(&["seg", "tag", "bank.b", "second"]);
    is_right(&world);
    let before = version(&world, "bank.a");
    world.says(&["seg", "rollback", "bank.b", "second"]);
    assert_eq!(version(&world, "bank.a"), before);
    is_right(&world);
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn a_segment_with_other_files_than_at_their_last_commit_is_entered_as_it_is() {
    skip_without_kvm!();
    let world = bank();
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "5", "1"]), "done\n");
    world.says(&["seg", "convert", "bank.b", "--to", "persistent"]);
    world.says(&["seg", "convert", "bank.b", "--to", "versioned"]);
    // Its versions are counted from 0 again, and the other one knows of newer ones.
    is_right(&world);
    assert_eq!(world.good(PROGRAM, &["bank", "move", "1", "5", "2"]), "done\n");
    is_right(&world);
    assert!(world.says(&["store", "check"]).contains("all can be used"), "a check");
}

#[test]
fn a_raw_segment_beside_a_versioned_one_is_not_aborted() {
    skip_without_kvm!();
    let world = World::new();
    assert_eq!(world.good(PROGRAM, &["pair", "mixed"]), "done\n");
}

#[test]
fn a_segment_in_two_vases_has_one_history() {
    skip_without_kvm!();
    let world = bank();
    let mut both = world.spawn(PROGRAM, &["bank", "move", "2", "40", "3"]);
    let mut one = world.spawn(PROGRAM, &["bank", "alone", "1", "40"]);
    assert_eq!(both.ends_well(), "done\n");
    assert_eq!(one.ends_well(), "done\n");
    is_right(&world);
    // 40 commits in the one VAS, and those of two threads in the other.
    assert!(version(&world, "bank.b") > version(&world, "bank.a") + 39);
    world.left_clean();
}
