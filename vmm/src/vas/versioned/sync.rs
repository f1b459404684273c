//! When commits survive a power cut that do not wait for the disk, and what becomes of a sync that
//! failed.
//!
//! One thread of the VM syncs the logs of all its segments, each so long after the first commit that is
//! not durable as its segment says. Not the event loop: it gives the program its signals and timers,
//! and would stand still as long as the disk works. No lock is held meanwhile.
//!
//! After a sync that failed, the host counts the pages as written, and a later sync succeeds and
//! says nothing (fsync(2), "EIO"). So the VM tells all others which log it was; whoever has the
//! segment's lock next reads back what is not known to be durable, and writes it to a new log. What
//! cannot be read is lost: versions without changes take the numbers, so that none stands for two
//! contents, and those who saw what was lost are told.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use abi::SegId;
use abi::objects::Durability;
use spacejmp_versions::{Commit, Sharing, VersionNumber, VersionsError};

use super::segment::{Log, lock};
use crate::store::{SegmentFile, StoreError, VersionWords};
use crate::vas::error::warn_if_failed;

/// How long after a commit it has to be durable, if it is not to wait for that itself; `None`: that is the
/// program's business.
pub(crate) fn delay(durability: Durability) -> Option<Duration> {
    match durability {
        Durability::Every(interval) => Some(Duration::from_millis(interval.ms().into())),
        Durability::Each | Durability::Manual => None,
    }
}

/// A log that has versions which are not durable.
#[derive(Debug)]
struct Job {
    log: Arc<Mutex<Log>>,
    file: SegmentFile,
    due: Instant,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: BTreeMap<SegId, Job>,
    is_ending: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The body of the thread.
    fn serve(&self) {
        let mut queue = self.queue();
        while !queue.is_ending {
            let next = queue.jobs.iter().min_by_key(|(_, job)| job.due);
            let Some((&sid, due)) = next.map(|(sid, job)| (sid, job.due)) else {
                queue = self.changed.wait(queue).unwrap_or_else(|poison| poison.into_inner());
                continue;
            };
            let left = due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                let waited = self.changed.wait_timeout(queue, left);
                queue = waited.unwrap_or_else(|poison| poison.into_inner()).0;
                continue;
            }
            if let Some(job) = queue.jobs.remove(&sid) {
                drop(queue);
                warn_if_failed("sync a segment's log", sync(&job.log, &job.file).map(drop));
                queue = self.queue();
            }
        }
    }
}

/// The thread that syncs, from the first time on that something is to be synced.
#[derive(Debug, Default)]
pub(crate) struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// What `log` has is durable after `delay`, or earlier.
    ///
    /// # Errors
    /// The host has no thread left: the caller has to sync.
    pub(crate) fn request(
        &mut self,
        sid: SegId,
        log: &Arc<Mutex<Log>>,
        file: &SegmentFile,
        delay: Duration,
    ) -> io::Result<()> {
        if self.thread.is_none() {
            let shared = self.shared.clone();
            let builder = std::thread::Builder::new().name("sync".to_owned());
            self.thread = Some(builder.spawn(move || shared.serve())?);
        }
        let due = Instant::now() + delay;
        let mut queue = self.shared.queue();
        match queue.jobs.get_mut(&sid) {
            // Waits from the first commit that is not durable on.
            Some(job) => job.due = job.due.min(due),
            None => {
                let (log, file) = (log.clone(), file.clone());
                queue.jobs.insert(sid, Job { log, file, due });
            }
        }
        self.shared.changed.notify_one();
        Ok(())
    }

    /// The VM gives the segment up, and has synced it.
    pub(crate) fn forget(&mut self, sid: SegId) {
        self.shared.queue().jobs.remove(&sid);
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.queue().is_ending = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did, nothing would be left to do.
            let _ = thread.join();
        }
    }
}

/// Makes durable what was appended so far. No lock is held while the disk works. If that fails, all VMs
/// learn which log it was.
///
/// # Errors
/// The host's; then [`renew`] is due.
pub(crate) fn sync(log: &Mutex<Log>, file: &SegmentFile) -> Result<VersionNumber, VersionsError> {
    let _span = tracing::debug_span!("sync", segment = %file.name()).entered();
    let ticket = {
        let log = lock(log);
        if log.has_failed() {
            let durable = log.durable();
            return Err(VersionsError::Failed { durable });
        }
        log.sync_ticket()
    };
    let id = ticket.log();
    let done = ticket.run();
    let synced = lock(log).synced(ticket, done);
    if synced.is_err() {
        // A VM that may only read has no part in what is written anew.
        warn_if_failed("tell that a sync has failed", file.note_failed_log(id.0));
    }
    synced
}

/// Takes note that a sync of the current log has failed in another VM.
pub(crate) fn take_note(log: &mut Log, failed_log: Option<u64>) {
    if failed_log == Some(log.current_log().0) {
        log.distrust();
    }
}

/// Brings what is not newer than `oldest` from the logs to a layer; `who` is asked whether others have the segment.
pub(crate) fn checkpoint(
    log: &mut Log,
    file: &SegmentFile,
    oldest: VersionNumber,
    who: &mut dyn FnMut() -> Sharing,
) {
    let _span = tracing::debug_span!("checkpoint", segment = %file.name()).entered();
    let current = log.current_log();
    let done = log.checkpoint_asking(oldest, who);
    if done.is_err() && log.has_failed() {
        warn_if_failed("tell that a sync has failed", file.note_failed_log(current.0));
    }
    warn_if_failed("bring a segment's logs to a layer", done);
}

/// Goes on in a new log after a failure. The caller holds the segment's lock. Versions up to `kept` are
/// there as before, or `Some` is what is the newest instead of those that were lost.
///
/// # Errors
/// The host's; it can be tried again.
pub(crate) fn renew(
    log: &mut Log,
    file: &SegmentFile,
    kept: VersionNumber,
) -> Result<Option<VersionNumber>, StoreError> {
    let unusable = |source| StoreError::Versions { segment: file.name().clone(), source };
    let failed = log.current_log();
    let last = match log.renew(kept) {
        Err(error) if log.has_failed() => {
            // Whoever has the lock next has to do it.
            file.note_failed_log(failed.0)?;
            return Err(unusable(error));
        }
        renewed => renewed.map_err(unusable)?,
    };
    if last >= kept { Ok(None) } else { replace_lost(log, file, last, kept).map(Some) }
}

/// Versions behind `last`, up to `kept`, could not be read back: others without changes take their numbers.
fn replace_lost(
    log: &mut Log,
    file: &SegmentFile,
    last: VersionNumber,
    kept: VersionNumber,
) -> Result<VersionNumber, StoreError> {
    let unusable = |source| StoreError::Versions { segment: file.name().clone(), source };
    let facts = log.facts(last).cloned().unwrap_or_default();
    while log.appended() <= kept {
        log.append(&Commit { facts: facts.clone(), pages: Vec::new() }).map_err(unusable)?;
    }
    log.sync().map_err(unusable)?;
    let newest = log.appended();
    // First, so that nobody takes the new one for what follows what they saw.
    file.note_lost_versions(last.0, kept.0)?;
    publish(file, newest)?;
    Ok(newest)
}

/// Takes back what is newer than `kept` of a commit of several segments that has failed, durable or
/// not. The caller holds the segment's lock, and has published none of it.
///
/// # Errors
/// The host's; then [`renew`] is due.
pub(crate) fn take_back(
    log: &mut Log,
    file: &SegmentFile,
    kept: VersionNumber,
) -> Result<(), StoreError> {
    let failed = log.current_log();
    let taken = log.take_back(kept);
    if taken.is_err() && log.has_failed() {
        file.note_failed_log(failed.0)?;
    }
    taken.map_err(|source| StoreError::Versions { segment: file.name().clone(), source })?;
    let last = log.appended();
    if last < kept {
        // What was made known before that commit, and was not durable.
        replace_lost(log, file, last, kept)?;
    }
    Ok(())
}

/// Readers see `version` from now on.
pub(crate) fn publish(file: &SegmentFile, version: VersionNumber) -> Result<(), StoreError> {
    file.write_words(&VersionWords { appended: version.0, published: version.0 })
}
