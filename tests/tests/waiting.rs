//! `epoll`, `timerfd` and `inotify`, natively and in a VM: the same answers and the same events.

use tests::vm::Run;
use tests::{guests, skip_without_kvm};
use vmm::process::Outcome;

#[test]
fn what_a_program_waits_for_arrives_as_natively() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let watched = folder.path().to_str().expect("paths of tests are UTF-8");
    let run = Run::new(guests::c("waiting")).args(&[watched]).dir(watched);
    let ended = run.same_as_native();
    assert_eq!(ended.outcome, Outcome::Exited(0));
    // The last line: it has done all.
    assert!(ended.out().ends_with("inotify_rm_watch(watch, 1): 0\n"), "{}", ended.out());
}

#[test]
fn signals_processes_and_counters_are_waited_for_as_natively() {
    skip_without_kvm!();
    let ended = Run::new(guests::c("signal_files")).same_as_native();
    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert!(ended.out().ends_with("done\n"), "{}", ended.out());
}

#[test]
fn a_handler_never_runs_between_a_call_and_the_instruction_that_makes_it() {
    skip_without_kvm!();
    let ended = Run::new(guests::c("signals_at_calls")).same_as_native();
    assert_eq!(ended.out(), "done\n");
    assert_eq!(ended.outcome, Outcome::Exited(0));
}

#[test]
fn no_trap_is_lost_in_the_moment_of_an_interruption() {
    skip_without_kvm!();
    let ended = Run::new(guests::c("traps")).same_as_native();
    assert_eq!(ended.out(), "lost 0, elsewhere 0\n");
    assert_eq!(ended.outcome, Outcome::Exited(0));
}
