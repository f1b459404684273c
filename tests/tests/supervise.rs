//! The event loop of a process, through the library. Needs /dev/kvm.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tests::vm::Run;
use tests::{guests, pace};
use vmm::process::{Outcome, Supervise};

/// What a busy machine may add to a few milliseconds.
fn slack() -> Duration {
    pace::limit(Duration::from_millis(1000))
}

fn supervise(seconds: f64) -> Supervise<'static> {
    Supervise {
        timeout: Some(Duration::from_secs_f64(seconds)),
        signals: None,
        ..Supervise::default()
    }
}

#[test]
fn a_time_limit_of_nothing_ends_a_program_at_once() {
    for name in ["spin", "sleeper"] {
        let process = Run::new(guests::rust(name)).prepare().expect("it starts");
        let since = Instant::now();
        assert_eq!(process.run_to_end(supervise(0.0)), Outcome::TimedOut);
        assert!(since.elapsed() < slack(), "{name}: {:?}", since.elapsed());
    }
}

#[test]
fn the_first_reason_to_end_is_the_one_that_is_told() {
    let process = Run::new(guests::rust("sleeper")).prepare().expect("it starts");
    process.stop(Outcome::Interrupted { signal: 2 });
    process.stop(Outcome::Exited(0));
    let outcome = process.run_to_end(supervise(0.0));
    assert_eq!(outcome, Outcome::Interrupted { signal: 2 });
}

#[test]
fn stopping_from_another_thread_wakes_the_loop() {
    let process = Run::new(guests::rust("spin")).prepare().expect("it starts");
    let since = Instant::now();
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            process.stop(Outcome::Exited(9));
        });
        process.run_to_end(supervise(60.0))
    });
    assert_eq!(outcome, Outcome::Exited(9));
    assert!(since.elapsed() < Duration::from_millis(100) + slack());
}

#[test]
fn a_task_asked_for_while_the_loop_runs_is_called_every_second() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let process = Run::new(guests::rust("sleeper")).prepare().expect("it starts");
    let since = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            process.call_every_second(|_| {
                CALLS.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(process.run_to_end(supervise(2.6)), Outcome::TimedOut);
    });
    // After 1.05 s and 2.05 s; a slow machine ends it late, and then there are more.
    let (calls, seconds) = (CALLS.load(Ordering::Relaxed), since.elapsed().as_secs());
    assert!((2..=seconds.max(2)).contains(&calls.into()), "{calls} calls in {seconds} s");
}
