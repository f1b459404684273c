//! A visit to an instance with versioned segments begins and ends.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use abi::{Right, SegId};
use seg_lock::{Mode, Patience};
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::segment::{Limits, Partner};
use spacejmp_versions::{Sharing, VersionNumber, VersionsError};

use super::segment::{Log, News, VersionedSegment, lock};
use super::sync;
use super::view::View;
use super::visits::{TablesId, VisitTables, Visits};
use crate::store::{
    OtherWriters, SeenVersions, SegmentFile, Store, StoreError, StoreWord, Tidings, VersionWords,
};
use crate::vas::VasError;
use crate::vas::content::ContentHold;
use crate::vas::error::warn_if_failed;
use crate::vas::opened::Opened;
use crate::vas::residency::segment::VmSegment;
use crate::vas::state::State;
use crate::vas::switch::locks::LockSet;
use crate::vas::tables::InstanceTables;

impl State {
    /// Whether an instance has versioned segments.
    pub(crate) fn is_versioned(&self, vh: u32) -> bool {
        let Some(instance) = self.instances.get(vh) else { return false };
        let mut members = instance.members.iter();
        members.any(|(sid, _)| self.residency.of_member(sid).is_versioned())
    }

    /// The thread on `vcpu`, which holds `locks`, is inside `vh` from now on.
    ///
    /// A reader sees the newest published version, a writer what was committed last. If a holder of
    /// the lock died, what it had appended whole is the newest version, and the rest is void. Of a
    /// commit of several segments it sees all or nothing.
    pub(crate) fn begin_visit(
        &mut self,
        vcpu: u32,
        vh: u32,
        locks: LockSet,
    ) -> Result<(), VasError> {
        let members = self.instances.known(vh).members.iter();
        let members: Vec<(SegId, Right)> =
            members.map(|(sid, member)| (sid, member.right)).collect();
        let published = self.published_for_kernel(vh);
        let (versions, is_checked) = still_there(is_gone, || self.newest_together(vh, &members))?;
        let writes =
            members.iter().any(|(sid, right)| versions.contains_key(sid) && *right == Right::Write);
        if writes {
            self.hide_writers(vh);
        }
        let known = self.visits.fitting(vh, writes, &versions);
        let followed = || if writes { None } else { self.follow(vcpu, vh, &versions) };
        let id = match known.or_else(followed) {
            Some(id) => id,
            None => self.build_visit(vh, &members, &versions)?,
        };
        if let Some(published) = published {
            self.show_to_kernel(vcpu, vh, id, published);
        }
        self.visits.begin(vcpu, id, locks);
        self.visits.set_checked(vcpu, is_checked);
        Ok(())
    }

    /// The newest versions of those members that are versioned, and whether a writer may append behind them;
    /// otherwise that is looked for before its first commit, as for writers that the kernel lets in. They are published one by one: whoever
    /// sees one part of a commit takes in the others.
    fn newest_together(
        &mut self,
        vh: u32,
        members: &[(SegId, Right)],
    ) -> Result<(BTreeMap<SegId, VersionNumber>, bool), VasError> {
        let (mut versions, mut is_checked) = (BTreeMap::new(), true);
        let is_checked_later = self.kernels_segment(vh);
        for &(sid, right) in members {
            let segment = self.residency.of_member_mut(sid);
            if segment.is_versioned() {
                let (newest, check) = segment.newest_for(right, is_checked_later == Some(sid))?;
                versions.insert(sid, newest);
                is_checked &= check == Check::Done;
            }
        }
        let mut gone = BTreeSet::new();
        while let Some((sid, part)) = self.missing_part(&versions, &gone) {
            let versioned = self.residency.of_member_mut(sid).versioned_mut();
            if versioned.log().take_in_part(part)? {
                versioned.news.seen = versioned.news.seen.max(part.version);
                versions.insert(sid, part.version);
            } else {
                // Restored from a backup, or made anew: it is what it is.
                gone.insert((sid, part));
            }
        }
        Ok((versions, is_checked))
    }

    /// A segment of which one of `versions` needs a newer version than it has there, but for those of
    /// which its files know nothing.
    fn missing_part(
        &self,
        versions: &BTreeMap<SegId, VersionNumber>,
        gone: &BTreeSet<(SegId, Partner)>,
    ) -> Option<(SegId, Partner)> {
        if versions.len() < 2 {
            return None;
        }
        versions.iter().find_map(|(sid, version)| {
            let log = self.residency.of_member(*sid).versioned().log();
            let mut others = versions.iter().filter_map(|(other, has)| {
                let part = log.partner(other.raw(), *version)?;
                let needs = part.version > *has && !gone.contains(&(*other, part));
                needs.then_some((*other, part))
            });
            others.next()
        })
    }

    fn build_visit(
        &mut self,
        vh: u32,
        members: &[(SegId, Right)],
        versions: &BTreeMap<SegId, VersionNumber>,
    ) -> Result<TablesId, VasError> {
        let mut views = BTreeMap::new();
        for &(sid, right) in members {
            let Some(&version) = versions.get(&sid) else { continue };
            let segment = self.residency.of_member_mut(sid);
            let facts = segment.versioned().log().facts(version).cloned().unwrap_or_default();
            segment.set_size(facts.size_bytes)?;
            let range = segment.reserve.clone();
            let mut view = View::new(sid, range, right, version, facts);
            if right == Right::Read
                && let Some(older) = self.visits.newest_read(vh, sid)
                && older.version <= version
            {
                let changed = segment.versioned().log().changed_between(older.version, version);
                if let Some(changed) = changed {
                    // Without memory for it, it is built anew, as far as there is some.
                    let versioned = segment.versioned_mut();
                    let shared = view.share(older, &changed, versioned, &mut self.tables);
                    warn_if_failed("take over the tables of an older version", shared);
                }
            }
            views.insert(sid, view);
        }
        let mut tables = InstanceTables::new(&mut self.tables)?;
        let instance = self.instances.known(vh);
        let linked =
            instance.members.iter().try_for_each(|(sid, member)| match views.get_mut(&sid) {
                Some(view) => tables.link(&instance.members, member, view, &mut self.tables),
                None => {
                    let segment = self.residency.of_member_mut(sid);
                    let subtree = segment.subtree_mut(member.right);
                    tables.link(&instance.members, member, subtree, &mut self.tables)
                }
            });
        if let Err(error) = linked {
            Visits::discard(tables, views, &mut self.tables);
            return Err(error.into());
        }
        Ok(self.visits.insert(VisitTables::new(vh, tables, views)))
    }

    /// Checks that a thread which goes from reading to writing the same segments, in the visit that it
    /// leaves or in one that is suspended, would see there what it sees now. The locks that `vh` needs
    /// are held.
    ///
    /// # Errors
    /// [`VasError::Newer`]; the host's.
    pub(crate) fn check_upgrade(&mut self, vcpu: u32, vh: u32) -> Result<(), VasError> {
        // Home has none.
        let Some(instance) = self.instances.get(vh) else { return Ok(()) };
        let written = instance.members.iter().filter(|(_, member)| member.right == Right::Write);
        let read = written.filter_map(|(sid, _)| {
            let views = self.visits.views_of(vcpu, sid).filter(|it| it.right == Right::Read);
            let versions = views.map(|view| view.version);
            Some((sid, versions.chain(self.versions_in_stand_ins(vcpu, sid)).min()?))
        });
        for (sid, version) in read.collect::<Vec<_>>() {
            if self.residency.of_member_mut(sid).newest(Right::Write)? > version {
                return Err(VasError::Newer { sid });
            }
        }
        Ok(())
    }

    /// The versions of a segment that the thread sees in stand-ins.
    fn versions_in_stand_ins(&self, vcpu: u32, sid: SegId) -> impl Iterator<Item = VersionNumber> {
        let shown = self
            .visits
            .all_tables_of(vcpu)
            .flat_map(|tables| tables.views.keys().map(move |shown| (tables.vh, *shown)));
        shown.filter_map(move |(vh, shown)| {
            self.version_in_stand_in(vh, shown, sid).map(VersionNumber)
        })
    }

    /// The thread on `vcpu` leaves, to where it already has the root of. What it did not commit is
    /// gone.
    pub(crate) fn end_visit(&mut self, vcpu: u32, is_settled: bool) {
        self.visits.end(vcpu, is_settled, &mut self.tables);
    }
}

impl VmSegment {
    /// Tells the store that this VM has the segment, which is versioned, and opens its versions. If
    /// no other VM can write it, whatever the last one left is recovered.
    pub(crate) fn join_versions(
        &mut self,
        opened: &Opened,
        row: u32,
        right: Right,
    ) -> Result<(), VasError> {
        let (file, versions) = self.file_and_versions();
        let mut joined = None;
        opened.store.join_versioned(file, &opened.lease, row, right, &mut |file, others| {
            let (log, told) = open(file, right, others, &opened.store)?;
            let is_alone = right == Right::Write && others == OtherWriters::None;
            // What a writer finds it has published itself.
            let others = if right == Right::Write { OtherWriters::Live } else { others };
            let mut shown = file.clone();
            if let Some(facts) = log.facts(log.appended()) {
                shown.show_version(facts)?;
            }
            let told = told.map_or_else(|| file.read_tidings(), Ok)?;
            let at = told.count.filter(|_| is_alone);
            joined = Some((log, News::of(&told, others).joined_at(at), shown));
            Ok(())
        })?;
        opened.store.verified().clear();
        let (log, news, shown) = joined.ok_or(VasError::NotWriting)?;
        *file = shown;
        match versions {
            Some(versions) => versions.replace_log(log, news),
            None => *versions = Some(VersionedSegment::new(log, news)),
        }
        self.set_size(self.file.header().size_bytes)?;
        Ok(())
    }

    /// When the VM no longer writes the segment: what it has committed is durable.
    pub(crate) fn sync_versions(&mut self) {
        let Some(versions) = self.versions_mut() else { return };
        let shared = versions.shared_log();
        let is_behind = {
            let log = lock(&shared);
            log.durable() < log.appended()
        };
        if is_behind {
            warn_if_failed("sync a segment's log", sync::sync(&shared, &self.file).map(drop));
        }
    }

    /// When the VM no longer has the segment: what it has committed is durable; brings the home file
    /// up to date if that is due, and nobody else has it. If the last commit was of several segments, whoever
    /// opens it next need not look at the others.
    pub(crate) fn close_versions(&mut self, right: Right, opened: &Opened) {
        // One that could write before has synced then, and others may take it for one that cannot.
        if right == Right::Read {
            return;
        }
        self.sync_versions();
        let (file, versions) = self.file_and_versions();
        let Some(versions) = versions else { return };
        let mut log = versions.log();
        if !log.checkpoint_is_due_at_rest() && !log.ends_together() {
            return;
        }
        // Another VM may come meanwhile and want to write: it waits, and finds the new files.
        let mut hold = ContentHold::new(&opened.store);
        let never = || false;
        let held = hold.lock(file, Mode::Exclusive, Patience::Try, &never);
        let is_ours = held.is_ok() && !hold.held(file.sid()).owner_died;
        let newest = log.appended();
        // What somebody has done since this VM had the lock.
        let published = file.read_words().map(|words| words.map(|words| words.published));
        let is_newest = published.is_ok_and(|published| published == Some(newest.0));
        if !is_ours || !is_newest || log.refresh(newest).is_err() {
            return;
        }
        warn_if_failed("close a commit of several segments", log.settle());
        if log.checkpoint_is_due_at_rest() && opened.sharing(file) == Sharing::Alone {
            sync::checkpoint(&mut log, file, newest, &mut || opened.sharing(file));
        }
    }

    /// The version that a thread sees that enters now, taken in from the files. The lock is held by
    /// a thread that is to write.
    pub(super) fn newest(&mut self, right: Right) -> Result<VersionNumber, VasError> {
        Ok(self.newest_for(right, false)?.0)
    }

    /// The same. A writer's may be left to be checked, if the caller sees to that before it is built on.
    fn newest_for(
        &mut self,
        right: Right,
        may_be_checked_later: bool,
    ) -> Result<(VersionNumber, Check), VasError> {
        let mut told = self.file.read_tidings()?;
        let (newest, check) = match right {
            Right::Read => (self.take_in_told(&told)?, Check::Done),
            Right::Write if may_be_checked_later && self.is_as_joined(&told) => {
                (self.versioned().log().appended(), Check::IsDue)
            }
            Right::Write => (self.take_over(&mut told)?, Check::Done),
        };
        let (file, versions) = self.file_and_versions();
        let Some(versions) = versions else { return Ok((newest, check)) };
        versions.news.look_for_losses(file, &told)?;
        if versions.news.is_stale {
            return Err(VasError::Lost { sid: file.sid() });
        }
        versions.news.seen = versions.news.seen.max(newest);
        Ok((newest, check))
    }

    /// Whether the newest version is the one that this VM found when it came, and nothing has gone wrong since.
    /// Others may have come and brought the log elsewhere.
    fn is_as_joined(&self, told: &Tidings) -> bool {
        let versions = self.versioned();
        let is_consistent = self.lock.as_ref().is_some_and(|lock| !lock.is_inconsistent());
        is_consistent && versions.news.is_as_joined(told) && !versions.log().has_failed()
    }

    /// The newest version that was published, taken in from the files.
    pub(crate) fn take_in(&self) -> Result<VersionNumber, VasError> {
        self.take_in_told(&self.file.read_tidings()?)
    }

    /// The same by what was told a moment ago.
    fn take_in_told(&self, told: &Tidings) -> Result<VersionNumber, VasError> {
        let versions = self.versioned();
        let ignored = versions.news.ignored;
        let mut told = Some(told.words.filter(|_| ignored.is_none() || told.count != ignored));
        still_there(is_gone, || {
            let words = match told.take() {
                Some(words) => words,
                None => self.file.read_words_but(ignored)?,
            };
            let mut log = versions.log();
            let published = words.map_or(log.appended(), |words| VersionNumber(words.published));
            let newest = published.max(versions.news.untold);
            if newest > log.appended() {
                log.refresh(newest)?;
            }
            Ok(newest)
        })
    }

    /// The version that the holder of the lock builds on. What a dead holder left is put right, so is
    /// what one could not make known, and what a sync that failed left uncertain.
    /// `told` is what the page says when it returns.
    fn take_over(&self, told: &mut Tidings) -> Result<VersionNumber, VasError> {
        if self.lock.as_ref().is_some_and(|lock| lock.is_inconsistent()) {
            let newest = self.take_over_from_dead()?;
            *told = self.file.read_tidings()?;
            return Ok(newest);
        }
        let published = self.take_in_told(told)?;
        let mut log = self.versioned().log();
        // Whoever had the lock last publishes first, and brings logs elsewhere then: there may be
        // another log to write to, without a new version.
        log.refresh(published)?;
        sync::take_note(&mut log, told.failed_log);
        if log.has_failed() {
            // What lies behind was refused.
            let renewed = sync::renew(&mut log, &self.file, published);
            drop(log);
            let newest = renewed.inspect_err(|_| self.tell_next_holder())?.unwrap_or(published);
            *told = self.file.read_tidings()?;
            return Ok(newest);
        }
        Ok(published)
    }

    fn take_over_from_dead(&self) -> Result<VersionNumber, VasError> {
        let words = self.file.read_words_but(self.versioned().news.ignored)?;
        let mut log = self.versioned().log();
        // Not taken in before: the one that died may have brought it elsewhere.
        let published = words.map_or(log.appended(), |words| VersionNumber(words.published));
        sync::take_note(&mut log, self.file.failed_log()?);
        let newest = match log.take_over(published) {
            Err(VersionsError::Failed { .. }) => {
                let whole = log.appended();
                sync::renew(&mut log, &self.file, whole)?.unwrap_or(whole)
            }
            taken => taken?,
        };
        drop(log);
        self.publish(newest)?;
        if let Some(lock) = &self.lock {
            lock.recover();
        }
        Ok(newest)
    }

    /// Readers see `version` from now on. The caller holds the lock.
    ///
    /// # Errors
    /// The host's; then whoever has the lock next looks for it in the log.
    pub(crate) fn publish(&self, version: VersionNumber) -> Result<(), VasError> {
        sync::publish(&self.file, version).inspect_err(|_| self.mark_inconsistent())?;
        Ok(())
    }

    /// After an error, with the lock held: if there is a version that counts and was not made known,
    /// whoever has the lock next looks for it in the log, instead of writing over it.
    pub(crate) fn tell_next_holder(&self) {
        let words = self.file.read_words();
        let published = words.ok().flatten().map(|words| VersionNumber(words.published));
        let is_untold = {
            let log = self.versioned().log();
            // What lies in a log that failed was refused.
            !log.has_failed() && published != Some(log.appended())
        };
        if is_untold {
            self.mark_inconsistent();
        }
    }

    /// The same by a thread that has committed, with the store's word as the VM has it mapped.
    ///
    /// # Errors
    /// As there.
    pub(super) fn publish_committed(
        &mut self,
        version: VersionNumber,
        store_word: &dyn StoreWord,
    ) -> Result<(), VasError> {
        let words = VersionWords { appended: version.0, published: version.0 };
        let written = self.file.write_words_beside(&words, store_word);
        let publication = written.inspect_err(|_| self.mark_inconsistent())?;
        self.versioned_mut().news.has_published(publication);
        Ok(())
    }

    fn mark_inconsistent(&self) {
        if let Some(lock) = &self.lock {
            lock.mark_inconsistent();
        }
    }
}

/// Whether a writer may append behind the version that it sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    Done,
    /// It may be brought elsewhere: [`State::check_writer`] looks.
    IsDue,
}

/// Opens the versions for a VM that is to write, when no other one can.
fn recover(
    file: &SegmentFile,
    failed_log: Option<u64>,
    limits: Limits,
    store: &Store,
) -> Result<Log, StoreError> {
    let failed = |source| StoreError::Versions { segment: file.name().clone(), source };
    let looked_at = store.take_looked_at(file).filter(|_| failed_log.is_none());
    if let Some(SeenVersions { versions, is_unchanged }) = looked_at {
        let resumed = match is_unchanged {
            true => Log::resume_unchanged(versions).map(Some),
            false => Log::resume(versions),
        };
        let resumed = resumed.inspect_err(|error| note_failure(file, error));
        if let Some(log) = resumed.map_err(failed)? {
            return Ok(log);
        }
    }
    if let Some(failed_log) = failed_log {
        // Its content may be in the page cache alone, and no sync of ours would tell.
        let folder = file.versions_files()?;
        let mut log = Log::open_shared(folder, limits, None).map_err(failed)?;
        sync::take_note(&mut log, Some(failed_log));
        let whole = log.appended();
        if log.has_failed() {
            sync::renew(&mut log, file, whole)?;
        }
    }
    let log = Log::open_beside(folder_for(file, Right::Write)?, limits, store.verified());
    log.inspect_err(|error| note_failure(file, error)).map_err(failed)
}

/// Tells everybody that a sync of the last log may have failed while it was recovered: the host tells of
/// it once, and the next sync succeeds.
fn note_failure(file: &SegmentFile, error: &VersionsError) {
    if !matches!(error, VersionsError::Io { .. }) {
        return;
    }
    let Ok(folder) = folder_for(file, Right::Read) else { return };
    // What it was is reported in any case.
    if let Ok(log) = Log::open_shared(folder, Limits::default(), None) {
        warn_if_failed("tell that a sync has failed", file.note_failed_log(log.current_log().0));
    }
}

/// The versions of a segment. By a VM that is to write, with no other one that can, they are
/// recovered and published; else they are read as they are. With what the page of words says, if that is known
/// to be so still.
fn open(
    file: &SegmentFile,
    right: Right,
    others: OtherWriters,
    store: &Store,
) -> Result<(Log, Option<Tidings>), StoreError> {
    let failed = |source| StoreError::Versions { segment: file.name().clone(), source };
    let limits = Limits::default();
    if right == Right::Write && others == OtherWriters::None {
        let told = file.read_tidings()?;
        let log = recover(file, told.failed_log, limits, store)?;
        let newest = log.appended().0;
        let is_told = told.words == Some(VersionWords { appended: newest, published: newest });
        if !is_told || told.failed_log.is_some() {
            sync::publish(file, log.appended())?;
            return Ok((log, None));
        }
        // Nobody else can write, and a sync that failed here would have been an error.
        return Ok((log, Some(told)));
    }
    if others == OtherWriters::None {
        let folder = folder_for(file, right)?;
        let verified = store.verified();
        let log = Log::open_shared_beside(folder, limits, None, verified).map_err(failed)?;
        return Ok((log, None));
    }
    let is_gone = |error: &StoreError| {
        matches!(error, StoreError::Versions { source: VersionsError::Gone { .. }, .. })
    };
    let log = still_there(is_gone, || {
        let published = file.read_words()?.map(|words| VersionNumber(words.published));
        Log::open_shared(folder_for(file, right)?, limits, published).map_err(failed)
    });
    Ok((log?, None))
}

fn folder_for(file: &SegmentFile, right: Right) -> Result<HostFolder, StoreError> {
    let folder = file.versions_files()?;
    Ok(if right == Right::Write { folder } else { folder.read_only() })
}

/// How often a version is looked for that another VM's checkpoint has passed by then: each time, that VM
/// has published a newer one in between.
const TRIES: u32 = 16;

/// Does something with the newest version that is published; again, with the one that is the newest by
/// then, if a writer has brought it elsewhere before the files were opened.
pub(super) fn still_there<T, E>(
    is_gone: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    for _ in 1..TRIES {
        match attempt() {
            Err(error) if is_gone(&error) => {}
            done => return done,
        }
    }
    attempt()
}

pub(super) fn is_gone(error: &VasError) -> bool {
    matches!(error, VasError::Versions(VersionsError::Gone { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_gone_by_then_is_looked_for_again_but_not_for_ever() {
        let gone = || VersionsError::Gone { version: VersionNumber(1), oldest: VersionNumber(2) };
        let mut tries = 0;
        let found = still_there(is_gone, || {
            tries += 1;
            if tries < 3 { Err(gone().into()) } else { Ok(tries) }
        });
        assert_eq!(found.unwrap(), 3);
        let mut tries = 0;
        let never: Result<(), VasError> = still_there(is_gone, || {
            tries += 1;
            Err(gone().into())
        });
        assert!(is_gone(&never.unwrap_err()));
        assert_eq!(tries, TRIES);
        let other: Result<(), _> = still_there(is_gone, || Err(VasError::NotWriting));
        assert!(matches!(other, Err(VasError::NotWriting)));
    }
}
