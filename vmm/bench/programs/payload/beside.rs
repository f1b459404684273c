//! How fast a reader is beside a writer: visits that look keys up, first alone, then while another
//! thread commits a hundred times a second. The same for a versioned space and its peers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::json::Object;
use crate::random::Random;

/// How long a visit of the reader is.
pub(crate) const VISIT: Duration = Duration::from_millis(5);
/// How often the writer commits.
const PERIOD: Duration = Duration::from_millis(10);

/// Has `visit` look keys up for [`VISIT`] and count what it finds, again and again for `millis`
/// milliseconds, alone and beside `commit`, which is told how often it was called.
pub(crate) fn beside<E: Send>(
    name: &str,
    millis: u64,
    visit: impl Fn(&mut Random) -> Result<u64, E>,
    commit: impl Fn(&mut Random, u64) -> Result<(), E> + Sync,
) -> Result<Object, E> {
    let time = Duration::from_millis(millis.max(1));
    let read = || {
        let (mut random, mut found, mut visits) = (Random::new(3), 0_u64, 0_u64);
        let begin = Instant::now();
        while begin.elapsed() < time {
            found += visit(&mut random)?;
            visits += 1;
        }
        Ok((found, visits, begin.elapsed()))
    };
    let (alone, _, alone_time) = read()?;
    let is_over = AtomicBool::new(false);
    let (beside, commits) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut random, mut commits, begin) = (Random::new(5), 0_u32, Instant::now());
            while !is_over.load(Ordering::Relaxed) {
                commit(&mut random, commits.into())?;
                commits += 1;
                thread::sleep((PERIOD * commits).saturating_sub(begin.elapsed()));
            }
            Ok(commits)
        });
        let beside = read();
        is_over.store(true, Ordering::Relaxed);
        (beside, writer.join().expect("a writer does not panic"))
    });
    let (beside, visits, beside_time) = beside?;
    Ok(Object::new(name)
        .number("alone_gets", alone)
        .number("alone_ns", alone_time.as_nanos())
        .number("beside_gets", beside)
        .number("beside_visits", visits)
        .number("beside_ns", beside_time.as_nanos())
        .number("commits", commits?))
}
