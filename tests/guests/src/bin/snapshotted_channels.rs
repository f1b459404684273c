//! Threads of the standard library that pass numbers on by channels, to be snapshotted in the middle: each line of
//! input is a number of items, which go through all of them.

use std::collections::HashSet;
use std::io::BufRead;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock};
use std::thread::{self, JoinHandle};

const STAGES: u64 = 4;

/// Adds its number to each item, and passes it on.
fn stage(
    number: u64,
    from: Receiver<u64>,
    to: Sender<u64>,
    seen: Arc<RwLock<u64>>,
) -> JoinHandle<u64> {
    let of_name = thread::Builder::new().name(format!("stage {number}"));
    let work = move || {
        let mut passed = 0;
        for item in from {
            *seen.write().expect("no thread panics") += 1;
            passed += 1;
            if to.send(item + number).is_err() {
                break;
            }
        }
        passed
    };
    of_name.spawn(work).expect("a thread")
}

fn main() {
    let seen = Arc::new(RwLock::new(0));
    let (into, mut end) = channel();
    let mut stages = Vec::new();
    for number in 1..=STAGES {
        let (to, next) = channel();
        stages.push(stage(number, std::mem::replace(&mut end, next), to, seen.clone()));
    }
    // One that only computes, and is met now and then.
    let met = Arc::new((Mutex::new((0_u64, false)), Condvar::new()));
    let barrier = Arc::new(Barrier::new(2));
    let (also, at) = (met.clone(), barrier.clone());
    let computing = thread::spawn(move || {
        let (state, told) = &*also;
        let mut turns = 0_u64;
        loop {
            turns += 1;
            let mut state = state.lock().expect("no thread panics");
            state.0 = turns;
            told.notify_all();
            if state.1 {
                break;
            }
        }
        at.wait();
        turns
    });
    println!("ready");
    let mut items = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("text");
        let Ok(count) = line.parse::<u64>() else { break };
        (0..count).for_each(|item| into.send(item).expect("the first stage is there"));
        let came: HashSet<u64> = end.iter().take(count as usize).collect();
        let offset = STAGES * (STAGES + 1) / 2;
        let right = (0..count).all(|item| came.contains(&(item + offset)));
        items += count;
        let (state, told) = &*met;
        let state = state.lock().expect("no thread panics");
        let before = state.0;
        drop(told.wait_while(state, |state| state.0 == before).expect("no thread panics"));
        println!("{} of {items}", if right { "right" } else { "wrong" });
    }
    met.0.lock().expect("no thread panics").1 = true;
    barrier.wait();
    let turns = computing.join().expect("it ends");
    drop(into);
    let passed: Vec<u64> = stages.into_iter().map(|it| it.join().expect("it ends")).collect();
    let all = *seen.read().expect("no thread panics");
    let right = turns > 0 && all == items * STAGES && passed == vec![items; STAGES as usize];
    println!("{}", if right { "all came" } else { "some are missing" });
    std::process::exit(5);
}
