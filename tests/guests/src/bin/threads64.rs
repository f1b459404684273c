//! `threads64 [ROUNDS COUNT]`: 64 concurrent threads that meet at a barrier in each of ROUNDS (10), then COUNT threads (500) one after the other.
//! Prints three lines that do not vary and exits with 0.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

fn main() {
    const COUNT: u64 = 64;
    let mut numbers = std::env::args().skip(1).map(|number| number.parse().expect("a number"));
    let (rounds, in_turn): (u64, u64) =
        (numbers.next().unwrap_or(10), numbers.next().unwrap_or(500));
    let barrier = Barrier::new(COUNT as usize);
    let (sum, leaders) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for n in 0..COUNT {
            let (barrier, sum, leaders) = (&barrier, &sum, &leaders);
            scope.spawn(move || {
                for round in 0..rounds {
                    leaders.fetch_add(u64::from(barrier.wait().is_leader()), Ordering::Relaxed);
                    sum.fetch_add(n * round, Ordering::Relaxed);
                    // All numbers of a round are added before the next begins.
                    barrier.wait();
                    let expected = COUNT * (COUNT - 1) / 2 * round * (round + 1) / 2;
                    assert_eq!(sum.load(Ordering::Relaxed), expected);
                    barrier.wait();
                }
            });
        }
    });
    println!("at once: sum {}, leaders {}", sum.into_inner(), leaders.into_inner());

    let mut ids = std::collections::HashSet::new();
    let mut total = 0;
    for n in 0..in_turn {
        let (id, value) = thread::spawn(move || (thread::current().id(), n)).join().unwrap();
        ids.insert(id);
        total += value;
    }
    println!("in turn: {} threads, sum {total}", ids.len());

    // Left running on purpose: the process ends while it runs.
    thread::spawn(|| {
        loop {
            thread::park()
        }
    });
    println!("done");
}
