//! How fast a reader is beside a writer: transactions of 5 ms that look keys up, first alone, then
//! while another thread commits a hundred times a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::json::Object;
use crate::keys::Keys;
use crate::random::Random;
use crate::workload::{Peer, other_value};

/// How long a transaction of the reader is.
const VISIT: Duration = Duration::from_millis(5);
/// How often the writer commits.
const PERIOD: Duration = Duration::from_millis(10);

pub(crate) fn run(peer: &impl Peer, entries: u64, millis: u64) -> Result<Object> {
    let keys = Keys::new(entries)?.inserted;
    let time = Duration::from_millis(millis.max(1));
    let read = || {
        let (mut random, mut found, mut visits) = (Random::new(3), 0_u64, 0_u64);
        let begin = Instant::now();
        while begin.elapsed() < time {
            let visit = Instant::now();
            let mut asked = 0_u32;
            let mut chosen = std::iter::from_fn(|| {
                asked += 1;
                // Looking at the clock costs as much as a key.
                if asked.is_multiple_of(64) && visit.elapsed() >= VISIT {
                    return None;
                }
                Some(keys[random.below(keys.len() as u32) as usize])
            });
            found += peer.get_some(&mut chosen)?;
            visits += 1;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((found, visits, begin.elapsed()))
    };
    let (alone, _, alone_time) = read()?;
    let is_over = AtomicBool::new(false);
    let (beside, commits) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut random, mut commits, begin) = (Random::new(5), 0_u32, Instant::now());
            while !is_over.load(Ordering::Relaxed) {
                let key = keys[random.below(keys.len() as u32) as usize];
                peer.put(key, other_value(key, commits.into()))?;
                commits += 1;
                thread::sleep((PERIOD * commits).saturating_sub(begin.elapsed()));
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(commits)
        });
        let read = read();
        is_over.store(true, Ordering::Relaxed);
        (read, writer.join().expect("it does not panic"))
    });
    let (beside, visits, beside_time) = beside?;
    Ok(Object::new("beside")
        .number("alone_gets", alone)
        .number("alone_ns", alone_time.as_nanos())
        .number("beside_gets", beside)
        .number("beside_visits", visits)
        .number("beside_ns", beside_time.as_nanos())
        .number("commits", commits?))
}
