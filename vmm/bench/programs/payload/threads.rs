//! Threads that contend: a mutex, a condition variable, a channel, a barrier. The result
//! is known beforehand, so a lost wake-up or a lost update shows.

use std::sync::mpsc;
use std::sync::{Barrier, Condvar, Mutex};
use std::time::Instant;

use crate::json::Object;

const ROUNDS: u64 = 100;

/// Starts `count` threads at once and reports whether all they did arrived.
pub(crate) fn run(count: u64) -> Object {
    let start = Instant::now();
    let added = Mutex::new(0_u64);
    let turn = (Mutex::new(0_u64), Condvar::new());
    let barrier = Barrier::new(count as usize);
    let (sender, receiver) = mpsc::channel();
    let received = std::thread::scope(|scope| {
        for index in 0..count {
            let (sender, added, turn, barrier) = (sender.clone(), &added, &turn, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..ROUNDS {
                    *added.lock().expect("no holder panics") += 1;
                    sender.send(index * ROUNDS + round).expect("the receiver outlives us");
                }
                // Strictly one after the other, each woken by the one before.
                let (next, woken) = turn;
                let mut next = next.lock().expect("no holder panics");
                while *next != index {
                    next = woken.wait(next).expect("no holder panics");
                }
                *next += 1;
                woken.notify_all();
            });
        }
        drop(sender);
        receiver.iter().sum::<u64>()
    });
    let messages = count * ROUNDS;
    let added = added.into_inner().expect("no holder panics");
    let turns = turn.0.into_inner().expect("no holder panics");
    Object::new("threads")
        .number("threads", count)
        .number("added", added)
        .number("received", received)
        .number("turns", turns)
        .truth(
            "correct",
            added == messages && received == messages * (messages - 1) / 2 && turns == count,
        )
        .number("ns", start.elapsed().as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_threads() {
        for count in [1, 2, 17] {
            let line = run(count).to_string();
            assert!(line.contains("\"correct\":true"), "{line}");
        }
    }
}
