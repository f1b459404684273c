//! What a program sees of itself and does to itself: ids, locks that identify their owner by
//! them, signals, timers and clocks. Everything must work in a VM as on Linux.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::guests::{self, Profile};
use tests::vm::Run;
use tests::{kvm, pace, skip_without_kvm};
use vmm::process::Outcome;

#[test]
fn bad_signal_frames_and_stacks_are_the_programs_own_sigsegv() {
    skip_without_kvm!();
    for what in ["bad-frames", "bad-stacks", "lost-in-suspend", "stack-arguments", "autodisarm"] {
        let ended = Run::new(guests::c("signals")).args(&[what]).same_as_native();
        assert_eq!(ended.outcome, Outcome::Exited(0), "{what}: {ended:?}");
    }
}

#[test]
fn signals_queue_with_their_values_and_are_taken_in_order() {
    skip_without_kvm!();
    for what in ["queued", "queue-arguments", "waiting"] {
        let ended = Run::new(guests::c("signals")).args(&[what]).same_as_native();
        assert_eq!(ended.outcome, Outcome::Exited(0), "{what}: {ended:?}");
    }
}

#[test]
fn select_leaves_what_remains_of_its_time() {
    skip_without_kvm!();
    let ended = Run::new(guests::c("signals")).args(&["select"]).same_as_native();
    ended.expect(0, "left 0 0\n");
}

#[test]
fn timers_and_clocks_are_linuxs() {
    skip_without_kvm!();
    for what in ["intervals", "posix", "clocks", "profile"] {
        let ended = Run::new(guests::c("timers")).args(&[what]).same_as_native();
        assert_eq!(ended.outcome, Outcome::Exited(0), "{what}: {ended:?}");
    }
}

#[test]
fn numbers_agree_with_each_other_and_priority_inheritance_works_by_them() {
    skip_without_kvm!();
    for what in ["numbers", "pi", "requeue", "futex", "clones"] {
        let ended = Run::new(guests::c("owners")).args(&[what]).same_as_native();
        assert_eq!(ended.outcome, Outcome::Exited(0), "{what}: {ended:?}");
    }
}

/// The command that runs `owners` in a VM, in `folder`.
fn owners(folder: &Path, args: &[&str]) -> Command {
    let folder = folder.to_str().expect("temporary names are ASCII");
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(["run", "--dir", folder, "--cwd", folder]);
    command.arg("--timeout").arg(pace::limit(Duration::from_secs(60)).as_secs().to_string());
    command.arg(guests::c("owners")).args(args);
    command
}

/// What `owners` prints about the ids above it, with `before` in front of the command.
fn numbers_under(before: &[&str], native: bool) -> Output {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let inner = if native {
        let mut command = Command::new(guests::c("owners"));
        command.arg("outside");
        command
    } else {
        owners(folder.path(), &["outside"])
    };
    let mut command = Command::new(before[0]);
    command.args(&before[1..]).arg(inner.get_program()).args(inner.get_args());
    ended(command)
}

#[test]
fn a_group_and_a_session_outside_of_the_pid_namespace_are_0() {
    skip_without_kvm!();
    let ways: [&[&str]; 4] = [
        // The first process of a namespace, and one that it starts; each of them a leader
        // or not.
        &["unshare", "--pid", "--fork", "--mount-proc"],
        &["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "\"$@\"; exit $?", "sh"],
        &["unshare", "--pid", "--fork", "--mount-proc", "setsid", "--wait"],
        &["setsid", "--wait"],
    ];
    for before in ways {
        let natively = numbers_under(before, true);
        if !natively.status.success() {
            let test = "a_group_and_a_session_outside_of_the_pid_namespace_are_0";
            kvm::skip(test, &format!("{before:?} does not work here: {natively:?}"));
            continue;
        }
        let in_vm = numbers_under(before, false);
        assert!(in_vm.status.success(), "{before:?}: {in_vm:?}");
        if before[0] == "unshare" {
            let print = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(print(&in_vm), print(&natively), "{before:?}");
        }
    }
}

fn ended(mut command: Command) -> Output {
    command.output().expect("the command starts")
}

#[track_caller]
fn printed(folder: &Path, args: &[&str]) -> String {
    let output = ended(owners(folder, args));
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("ASCII")
}

fn native(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new(guests::c("owners"));
    command.args(args).current_dir(folder);
    String::from_utf8(ended(command).stdout).expect("ASCII")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A program that holds the lock until it is dropped.
struct Holder(Child);

impl Holder {
    fn start(mut command: Command) -> Holder {
        use std::io::{BufRead, BufReader};
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("it can be read");
        assert_eq!(line, "held\n");
        Holder(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_program_reaches_nobody_but_itself() {
    skip_without_kvm!();
    let folder = folder();
    let expected = "-3 -3 -3 -3\nknown: 1\nof others: -3 -3 -3\ninto another group: -1\n\
                    group: 0, I: 0, 0\n";
    assert_eq!(printed(folder.path(), &["alone"]), expected);
}

#[test]
fn processes_that_run_at_the_same_time_have_different_numbers() {
    skip_without_kvm!();
    let folder = folder();
    printed(folder.path(), &["init", "recursive"]);
    let holder = Holder::start(owners(folder.path(), &["hold", "wait"]));
    // A recursive mutex can be locked again by the thread with its owner's id.
    assert_eq!(printed(folder.path(), &["try"]), "Device or resource busy\n");
    let word = u32::from_str_radix(printed(folder.path(), &["word"]).trim(), 16);
    assert_eq!(word, Ok(1), "a plain lock");
    // Two words further is the owner: the VMM's own id.
    let lock = std::fs::read(folder.path().join("lock")).expect("it can be read");
    let owner = u32::from_le_bytes([lock[8], lock[9], lock[10], lock[11]]);
    assert_eq!(owner, holder.0.id());
}

#[test]
fn a_robust_lock_is_let_go_however_its_owner_ends() {
    skip_without_kvm!();
    for kind in ["robust", "robust-pi"] {
        let folder = folder();
        printed(folder.path(), &["init", kind]);
        for how in ["exit", "segv", "abort", "thread", "other", "main"] {
            ended(owners(folder.path(), &["hold", how]));
            assert_eq!(printed(folder.path(), &["next"]), "Owner died\n", "{kind} {how}");
            assert_eq!(native(folder.path(), &["next"]), "Success\n", "{kind} {how}");
        }
        // By a signal, while another VM waits for it.
        for signal in [Signal::TERM, Signal::KILL] {
            let holder = Holder::start(owners(folder.path(), &["hold", "wait"]));
            let mut waiter = owners(folder.path(), &["next"]);
            let waiter = waiter.stdout(Stdio::piped()).spawn().expect("the command starts");
            // Usually it waits by then; the outcome is the same if it does not.
            std::thread::sleep(Duration::from_millis(500));
            kill_process(Pid::from_child(&holder.0), signal).expect("it runs");
            let output = waiter.wait_with_output().expect("it can be waited for");
            assert_eq!(output.stdout, b"Owner died\n", "{kind}, by {signal:?}");
        }
    }
}

#[test]
fn what_a_killed_vm_held_in_a_segment_is_let_go() {
    skip_without_kvm!();
    let folder = folder();
    let command = |what: &str| {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.env_remove("SPACEJMP_LOG").arg("run").arg("--store");
        command.arg(folder.path().join("store")).arg(guests::c("robust")).arg(what);
        command
    };
    let holder = Holder::start(command("hold"));
    kill_process(Pid::from_child(&holder.0), Signal::KILL).expect("it runs");
    let output = ended(command("next"));
    assert_eq!(output.stdout, b"Owner died\n", "{output:?}");
}

#[test]
fn a_vm_that_has_ended_leaves_no_process_behind() {
    skip_without_kvm!();
    let folder = folder();
    printed(folder.path(), &["init", "robust"]);
    // They have their VMM's memory, or a copy of it, and so its arguments.
    let mark = folder.path().to_str().expect("ASCII").to_owned();
    let is_ours = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&mark)
    };
    let listed = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    assert_eq!(listed.filter(is_ours).count(), 0);
    let holder = Holder::start(owners(folder.path(), &["hold", "wait"]));
    let listed = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    assert_eq!(listed.filter(is_ours).count(), 3, "the VMM, its starter and its survivor");
    kill_process(Pid::from_child(&holder.0), Signal::KILL).expect("it runs");
    printed(folder.path(), &["next"]);
    drop(holder);
    let began = std::time::Instant::now();
    while std::fs::read_dir("/proc").expect("it is mounted").flatten().any(|entry| is_ours(&entry))
    {
        assert!(began.elapsed() < pace::limit(Duration::from_secs(120)), "a process is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_lock_about_to_be_taken_or_given_back_is_let_go_too() {
    skip_without_kvm!();
    let folder = folder();
    for (how, expected) in [("taken", "40000000\n"), ("others", "1\n"), ("free", "0\n")] {
        printed(folder.path(), &["init", "robust"]);
        printed(folder.path(), &["pending", how]);
        assert_eq!(native(folder.path(), &["word"]), expected, "{how}");
    }
}

#[test]
fn a_robust_lock_in_a_segment_is_let_go_wherever_its_owner_is() {
    skip_without_kvm!();
    let store = folder();
    let ended = Run::new(guests::c("robust")).store(store.path().join("store")).in_vm();
    ended.expect(0, "at home: Owner died\ninside: Owner died\nelsewhere: Owner died\n");
}
