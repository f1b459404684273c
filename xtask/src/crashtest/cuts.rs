//! Power cuts of a real file system: it is shut down under a writing VM without its journal, and
//! mounted again. What the device had not been told is gone.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Done;
use super::ledger::{Ledger, Random};
use super::small_disk::{Kind, Mounted, cannot, image_of};

/// Milliseconds until a cut, at most.
const WITHIN_MS: u64 = 400;

/// Cuts the power so many times.
///
/// # Errors
/// The first loss.
pub(super) fn run(ledger: &Ledger, kind: Kind, cuts: u64, seed: u64) -> Result<Done> {
    if let Some(why) = cannot(kind, &["xfs_io"]) {
        return Ok(Done::Skipped(why));
    }
    let folder = tempfile::tempdir()?;
    let (image, at) = (folder.path().join("image"), folder.path().join("at"));
    image_of(kind, &image)?;
    let mut mounted = Mounted::mount(kind, &image, &at)?;
    ledger.create(&mounted.store())?;
    let (mut random, mut changes, mut late) = (Random::new(seed), 0, 0);
    for _ in 0..cuts {
        let working = ledger.work(&mounted.store(), changes)?;
        thread::sleep(Duration::from_millis(random.below(WITHIN_MS)));
        // Nobody is told anything behind a real cut. Here the program goes on until it is killed, and a sync that is under way may
        // succeed for it although the file system has given up its journal.
        let before = working.acknowledged();
        mounted.shut_down()?;
        let acknowledged = working.kill()?;
        mounted.unmount()?;
        mounted = Mounted::mount(kind, &image, &at)?;
        let left = ledger.look(&mounted.store(), Ledger::NAME)?;
        if left < acknowledged {
            eprintln!(
                "cuts-{kind}: told before {before}, until the end {acknowledged}, left {left}"
            );
            late += 1;
        }
        ensure!(left >= before, "LOST: {before} changes were committed, and {left} are left");
        ensure!(left <= acknowledged + 1, "{acknowledged} were committed, and {left} are there");
        changes = left;
        ledger.check_store(&mounted.store())?;
    }
    mounted.unmount()?;
    Ok(Done::Checked(vec![("cuts", cuts), ("changes", changes), ("told too late", late)]))
}
