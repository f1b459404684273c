//! Clocks never go back within a thread or between threads, sleeping lasts long enough, and
//! wall and monotonic time run at the same speed. Prints "clocks: fine", exits 0; otherwise
//! panics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

fn main() {
    let base = Instant::now();
    let latest = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let seen = latest.load(Ordering::Acquire);
                    let now = base.elapsed().as_nanos() as u64;
                    assert!(now >= seen, "{now} after {seen}");
                    latest.fetch_max(now, Ordering::AcqRel);
                }
            });
        }
    });

    for wanted in [Duration::ZERO, Duration::from_micros(10), Duration::from_millis(30)] {
        let start = Instant::now();
        thread::sleep(wanted);
        let slept = start.elapsed();
        assert!(slept >= wanted, "slept {slept:?} of {wanted:?}");
        assert!(slept < wanted + Duration::from_secs(5), "slept {slept:?} for {wanted:?}");
    }

    let (wall, steady) = (SystemTime::now(), Instant::now());
    thread::sleep(Duration::from_millis(200));
    let (wall, steady) = (wall.elapsed().expect("wall time went back"), steady.elapsed());
    let apart = wall.abs_diff(steady);
    assert!(apart < Duration::from_millis(150), "wall {wall:?}, steady {steady:?}");

    let mut before = Instant::now();
    let mut advanced = 0;
    for _ in 0..100_000 {
        let now = Instant::now();
        assert!(now >= before);
        advanced += u32::from(now > before);
        before = now;
    }
    assert!(advanced > 1000, "the clock stood still: {advanced} steps");
    println!("clocks: fine");
}
