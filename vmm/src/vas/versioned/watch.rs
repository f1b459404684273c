//! The versions of an instance's versioned segments, as a program asks for them: which is the newest,
//! waiting for a newer one, making them durable.
//!
//! The version of an instance is that of its versioned segment; of several it is the sum of theirs,
//! which rises with each commit of any.
//!
//! A thread that waits looks at the words again and again. It could sleep on a futex in them instead;
//! then every commit would make a call to wake whoever may be there, a writer that dies
//! between publishing and waking would leave them asleep, and a program without the right to write
//! could not be one that wakes. So it looks after an eighth of the time that it has waited: a
//! waiter is late by an eighth, and by a tenth of a second at most.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use abi::SegId;
use rustix::fs::Timespec;
use spacejmp_versions::{VersionNumber, VersionsError};

use super::enter::{is_gone, still_there};
use super::segment::{Log, News, lock};
use super::sync;
use crate::store::SegmentFile;
use crate::vas::VasError;
use crate::vas::residency::segment::VmSegment;
use crate::vas::state::Vases;
use crate::vas::state::instances::Hold;
use crate::vm::Vcpu;

/// How long a waiting thread sleeps between two looks.
const LOOK_LEAST: Duration = Duration::from_micros(50);
const LOOK_MOST: Duration = Duration::from_millis(100);

/// A versioned segment of an instance.
struct Watched {
    log: Arc<Mutex<Log>>,
    file: SegmentFile,
    ignored: Option<u64>,
    is_stale: bool,
    untold: u64,
}

impl Watched {
    /// `None` for a segment that is not versioned, or that no instance has.
    fn of(segment: &mut VmSegment) -> Result<Option<Watched>, VasError> {
        let (file, versions) = segment.file_and_versions();
        let Some(versions) = versions else { return Ok(None) };
        let told = file.read_tidings()?;
        versions.news.look_for_losses(file, &told)?;
        let (log, file) = (versions.shared_log(), file.clone());
        let News { ignored, is_stale, untold, .. } = versions.news;
        Ok(Some(Watched { log, file, ignored, is_stale, untold: untold.0 }))
    }

    /// The newest version that was published.
    fn published(&self) -> Result<u64, VasError> {
        let words = self.file.read_words_but(self.ignored)?;
        let published = words.map_or_else(|| lock(&self.log).appended().0, |words| words.published);
        Ok(published.max(self.untold))
    }

    /// Makes what was published durable, whoever wrote it; returns which version that is.
    fn sync(&self) -> Result<u64, VasError> {
        let published = still_there(is_gone, || {
            let published = self.published()?;
            let mut log = lock(&self.log);
            if published > log.appended().0 {
                log.refresh(VersionNumber(published))?;
            }
            Ok(published)
        })?;
        sync::take_note(&mut lock(&self.log), self.file.failed_log()?);
        let lost = self.file.lost_versions()?;
        sync::sync(&self.log, &self.file)?;
        // Versions that were lost meanwhile are not what was published then.
        match self.is_stale || self.file.lost_versions()? != lost {
            true => Err(VersionsError::Failed { durable: lock(&self.log).durable() }.into()),
            false => Ok(published),
        }
    }
}

impl Vases {
    /// The versioned segments of an instance, which stays as long as the hold does.
    fn watched(&self, vh: u64) -> Result<(Vec<Watched>, Hold), VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (vh, instance) = state.instances.named(vh)?;
        let hold = instance.hold();
        let mut watched = Vec::new();
        for (sid, _) in instance.members.iter() {
            watched.extend(Watched::of(state.residency.of_member_mut(sid))?);
        }
        if watched.is_empty() { Err(VasError::NoVersions { vh }) } else { Ok((watched, hold)) }
    }

    /// The newest version that a visit of instance `vh` would see.
    ///
    /// # Errors
    /// [`VasError::NoInstance`], [`VasError::NoVersions`]; the host's.
    pub fn version(&self, vh: u64) -> Result<u64, VasError> {
        sum(&self.watched(vh)?.0)
    }

    /// Makes all that was published of an instance's versioned segments durable; returns its version.
    /// What a thread has changed and not committed is no part of it.
    ///
    /// # Errors
    /// As [`Vases::version`]; [`VasError::Versions`] when a sync has failed: the next thread that
    /// enters to write, or commits, writes anew what can be read; when some of it was lost, `EIO` each time.
    pub fn sync_versions(&self, vh: u64) -> Result<u64, VasError> {
        let (watched, _hold) = self.watched(vh)?;
        let mut version = 0_u64;
        for segment in &watched {
            version = version.wrapping_add(segment.sync()?);
        }
        Ok(version)
    }

    /// [`Vases::sync_versions`] of one segment, which an instance has.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn sync_versions_of(&self, sid: SegId) -> Result<(), VasError> {
        let watched = Watched::of(self.lock().residency.of_member_mut(sid))?;
        watched.map_or(Ok(()), |segment| segment.sync().map(drop))
    }

    /// Waits until the version of instance `vh` is more than `after`, and returns it. What the thread
    /// sees does not move.
    ///
    /// # Errors
    /// As [`Vases::version`]; [`VasError::Deadlock`] for a thread that keeps others from writing;
    /// [`VasError::NothingNew`] after `limit`; [`VasError::Interrupted`].
    pub fn wait_version(
        &self,
        vcpu: &Vcpu,
        vh: u64,
        after: u64,
        limit: Duration,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<u64, VasError> {
        let (watched, _hold) = self.watched(vh)?;
        if self.lock().visits.writes_anywhere(vcpu.index()) {
            return Err(VasError::Deadlock);
        }
        let began = Instant::now();
        loop {
            let version = sum(&watched)?;
            if version > after {
                return Ok(version);
            }
            let waited = began.elapsed();
            let left = limit.saturating_sub(waited);
            if left.is_zero() {
                return Err(VasError::NothingNew);
            }
            if interrupted() {
                return Err(VasError::Interrupted);
            }
            let next = (waited / 8).clamp(LOOK_LEAST, LOOK_MOST).min(left);
            // A kick ends it.
            let next = Timespec { tv_sec: 0, tv_nsec: next.subsec_nanos().into() };
            let _ = rustix::thread::nanosleep(&next);
        }
    }
}

fn sum(watched: &[Watched]) -> Result<u64, VasError> {
    watched.iter().try_fold(0_u64, |sum, segment| Ok(sum.wrapping_add(segment.published()?)))
}
