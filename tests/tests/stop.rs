//! A VM ends when it is told to or when its program ends, whatever its threads are doing.

use std::time::{Duration, Instant};

use tests::skip_without_kvm;
use tests::vm::Run;
use tests::{guests, pace};
use vmm::process::Outcome;

/// Far more than an end takes, far less than the sleeps and limits it is distinguished from.
fn soon() -> Duration {
    pace::limit(Duration::from_secs(20))
}

#[test]
fn a_timeout_ends_programs_that_compute_and_programs_that_sleep() {
    skip_without_kvm!();
    for (name, args, word) in [
        ("spin", &[][..], "spinning"),
        ("spin", &["threads"], "spinning"),
        ("sleeper", &[], "sleeping"),
    ] {
        let run = Run::new(guests::rust(name)).args(args);
        let mut running = run.start().expect("it starts");
        running.wait_for_output(word);
        let began = Instant::now();
        let ended = running.wait(Duration::from_millis(300));
        assert_eq!(ended.outcome, Outcome::TimedOut, "{name}");
        assert_eq!(ended.out(), format!("{word}\n"));
        assert!(began.elapsed() < soon(), "{name} took {:?}", began.elapsed());
    }
}

#[test]
fn the_first_reason_to_stop_counts() {
    skip_without_kvm!();
    let running = Run::new(guests::rust("spin")).start().expect("it starts");
    running.process.stop(Outcome::Killed { signal: 2, report: String::new() });
    running.process.stop(Outcome::TimedOut);
    let ended = running.wait(soon());
    assert_eq!(ended.outcome, Outcome::Killed { signal: 2, report: String::new() });
}

#[test]
fn stopping_at_any_moment_of_the_start_ends_it() {
    skip_without_kvm!();
    // In growing steps, from none to the duration of a start.
    let steps = u64::from(pace::times(60));
    for micros in (0..steps).map(|n| (n * 60 / steps).pow(2) * 10) {
        let running = Run::new(guests::rust("threads64")).start().expect("it starts");
        std::thread::sleep(Duration::from_micros(micros));
        running.process.stop(Outcome::TimedOut);
        let began = Instant::now();
        let ended = running.wait(soon());
        assert!(
            matches!(ended.outcome, Outcome::TimedOut | Outcome::Exited(0)),
            "after {micros} us: {ended:?}"
        );
        assert!(began.elapsed() < soon(), "after {micros} us: {:?}", began.elapsed());
    }
}

#[test]
fn exit_ends_threads_blocked_in_futexes_and_sleeps() {
    skip_without_kvm!();
    for (args, status) in [
        (&["main", "64"][..], 5),
        // From a thread other than the first one.
        (&["other", "64"], 6),
        (&["other", "1"], 6),
    ] {
        let ended = Run::new(guests::rust("blocked")).args(args).timeout(soon()).in_vm();
        ended.expect(status, "all blocked\n");
        assert!(ended.elapsed < soon(), "{args:?} took {:?}", ended.elapsed);
    }
}

#[test]
fn a_stop_ends_threads_blocked_in_futexes_and_sleeps() {
    skip_without_kvm!();
    let mut running =
        Run::new(guests::rust("blocked")).args(&["stay", "64"]).start().expect("it starts");
    running.wait_for_output("all blocked");
    let began = Instant::now();
    let ended = running.wait(Duration::ZERO);
    assert_eq!(ended.outcome, Outcome::TimedOut);
    assert!(began.elapsed() < soon(), "it took {:?}", began.elapsed());
}

#[test]
fn a_fault_of_one_thread_ends_all() {
    skip_without_kvm!();
    let ended = Run::new(guests::rust("blocked")).args(&["fault", "16"]).timeout(soon()).in_vm();
    ended.expect_signal(11);
}
