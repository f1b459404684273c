//! Power cuts of a real file system: it is shut down under a writing VM without its journal, and
//! mounted again. What the device had not been told is gone.

use std::thread;
use std::time::Duration;

use anyhow::Result;

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
    let (mut random, mut changes) = (Random::new(seed), 0);
    for _ in 0..cuts {
        let working = ledger.work(&mounted.store(), changes)?;
        thread::sleep(Duration::from_millis(random.below(WITHIN_MS)));
        mounted.shut_down()?;
        let acknowledged = working.kill()?;
        mounted.unmount()?;
        mounted = Mounted::mount(kind, &image, &at)?;
        changes = ledger.check(&mounted.store(), acknowledged)?;
        ledger.check_store(&mounted.store())?;
    }
    mounted.unmount()?;
    Ok(Done::Checked(vec![("cuts", cuts), ("changes", changes)]))
}
