//! Two VMs that write the same segments, killed at random moments: one of them, while the other goes on, or both. What they
//! have acknowledged together has to be one history, without a gap and without a change that was made twice.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Done;
use super::kills::Watching;
use super::ledger::{Ledger, Random, Working, in_memory};

/// Milliseconds until a kill, at most.
const WITHIN_MS: u64 = 500;
/// Of one of them, before both are killed and what they left is looked at: so many at most.
const ALONE: u64 = 4;
/// Looks at what was left, after so many of which the whole store is checked.
const STORE_CHECKS: u64 = 10;
/// A writer that does not go on for so long never does, however busy the machine.
const HANGS: Duration = Duration::from_secs(60);

/// Kills writing VMs, `kills` of them at least.
///
/// # Errors
/// The first loss.
pub(super) fn run(ledger: &Ledger, kills: u64, seed: u64) -> Result<Done> {
    let folder = in_memory()?;
    let store = folder.path().join("store");
    ledger.create(&store)?;
    let mut watching = Watching::start(ledger, &store)?;
    let (mut random, mut changes, mut longest) = (Random::new(seed), 0, Duration::ZERO);
    let (mut killed, mut looks) = (0, 0);
    while killed < kills {
        let mut history = History { looked_at: changes, ..History::default() };
        let start = || ledger.work_until_killed(&store, changes);
        let mut writers = [start()?, start()?];
        for _ in 0..random.below(ALONE + 1) {
            let [first, second] = writers;
            let (dies, stays) =
                if random.below(2) == 0 { (first, second) } else { (second, first) };
            // Otherwise its start would count as a wait.
            goes_on(&stays, 0)?;
            thread::sleep(Duration::from_millis(random.below(WITHIN_MS)));
            history.add(dies.kill_alive()?)?;
            let told = stays.told().len();
            longest = longest.max(goes_on(&stays, told)?);
            writers = [stays, start()?];
        }
        thread::sleep(Duration::from_millis(random.below(WITHIN_MS)));
        for writer in writers {
            history.add(writer.kill_alive()?)?;
        }
        killed += history.killed;
        changes = look(ledger, &store, &history)?;
        watching.goes_on()?;
        looks += 1;
        if looks % STORE_CHECKS == 0 {
            ledger.check_store(&store)?;
        }
    }
    let longest = u64::try_from(longest.as_millis())?;
    let counts = [("kills", killed), ("changes", changes), ("ms the longest wait", longest)];
    Ok(Done::Checked(counts.to_vec()))
}

fn look(ledger: &Ledger, store: &Path, history: &History) -> Result<u64> {
    let changes = ledger.look(store, Ledger::NAME)?;
    history.agrees(changes)?;
    Ok(changes)
}

/// Waits until a writer has acknowledged more than `told` changes; returns how long that took.
fn goes_on(writer: &Working, told: usize) -> Result<Duration> {
    let began = Instant::now();
    while writer.told().len() <= told {
        ensure!(began.elapsed() < HANGS, "a writer waits for {HANGS:?}");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(began.elapsed())
}

/// What writers have acknowledged since somebody looked, when none of them lived.
#[derive(Default)]
struct History {
    /// How many changes there were then.
    looked_at: u64,
    acknowledged: BTreeSet<u64>,
    killed: u64,
}

impl History {
    /// Adds what a writer had acknowledged when it was killed.
    fn add(&mut self, told: Vec<u64>) -> Result<()> {
        self.killed += 1;
        for number in told {
            let is_new = number > self.looked_at && self.acknowledged.insert(number);
            ensure!(is_new, "LOST: change {number} was committed twice");
        }
        Ok(())
    }

    /// Whether it is a history with so many changes: each writer may have made one that it could not acknowledge any more.
    fn agrees(&self, changes: u64) -> Result<()> {
        let last = self.acknowledged.last().copied().unwrap_or(self.looked_at);
        ensure!(changes >= last, "LOST: {last} changes were committed, and {changes} are left");
        let untold = changes - self.looked_at - self.acknowledged.len() as u64;
        let killed = self.killed;
        ensure!(
            untold <= killed,
            "{untold} changes of {changes} are nobody's: {killed} were killed"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::History;

    #[test]
    fn of_two_writers_each_may_have_one_change_that_it_has_not_told_and_none_is_lost_or_made_twice()
    {
        let told = |numbers: [&[u64]; 2]| {
            let mut history = History { looked_at: 10, ..History::default() };
            numbers.iter().try_for_each(|numbers| history.add(numbers.to_vec())).map(|()| history)
        };
        let history = told([&[11, 13, 14], &[12, 15]]).unwrap();
        for (changes, is_right) in [(14, false), (15, true), (16, true), (17, true), (18, false)] {
            assert_eq!(history.agrees(changes).is_ok(), is_right, "{changes} changes");
        }
        assert!(told([&[11, 12], &[12]]).is_err(), "one was made twice");
        assert!(told([&[10], &[]]).is_err(), "one that was there is made again");
        assert!(told([&[], &[]]).unwrap().agrees(9).is_err(), "what was there is gone");
    }
}
