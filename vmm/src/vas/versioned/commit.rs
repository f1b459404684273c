//! Commit and abort of what a thread inside has changed, and what of it is no page: size and root
//! object. How it comes into the logs is in `append`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::SystemTime;

use abi::objects::SegRoot;
use abi::{PAGE_SIZE, Right, SegId};
use spacejmp_versions::log::entry::{MEMBERS_MAX, Member, VasEntry};
use spacejmp_versions::log::record::{NOTE_BYTES_MAX, VersionFacts};
use spacejmp_versions::page::{PAGE_BYTES, Page};
use spacejmp_versions::segment::Source;
use spacejmp_versions::{PageIndex, Sharing, VersionNumber, VersionsError};

use super::append::{Change, append};
use super::copies::{Copies, Frame};
use super::segment::{Log, VersionedSegment};
use super::spill::Spill;
use super::sync;
use super::view::View;
use crate::vas::VasError;
use crate::vas::error::warn_if_failed;
use crate::vas::residency::segment::VmSegment;
use crate::vas::state::instances::Numbering;
use crate::vas::state::{State, Vases};
use crate::vm::Vcpu;
use crate::vm::host_range::HostRange;
use crate::vm::windows::PinnedRange;

impl Vases {
    /// Commits what the thread that runs `vcpu` has changed in versioned segments since it entered,
    /// or since its last commit. It stays inside.
    ///
    /// # Errors
    /// [`VasError::NotWriting`]; [`VasError::Versions`], with everything as it was: the thread can
    /// free space and try again, or abort.
    pub fn commit(&self, vcpu: &Vcpu) -> Result<(), VasError> {
        let (changes, hold) = {
            let mut state = self.lock();
            let visit = state.visits.of(vcpu.index()).ok_or(VasError::NotWriting)?;
            let tables = state.visits.tables_of(vcpu.index()).ok_or(VasError::NotWriting)?;
            if !tables.writes() {
                return Err(VasError::NotWriting);
            }
            if tables.is_spoilt {
                return Err(VasError::Spoilt);
            }
            let mut changes = Vec::new();
            for view in tables.views.values().filter(|view| view.right == Right::Write) {
                changes.extend(self.change(&state, view)?);
            }
            if changes.is_empty() {
                return Ok(());
            }
            let hold = state.instances.known(visit.vh).hold();
            let vh = visit.vh;
            // It takes in what other VMs have done, and with that the numbers that they have given.
            state.check_writer(vcpu.index())?;
            let tables = state.visits.tables_of(vcpu.index()).ok_or(VasError::NotWriting)?;
            let entry = state.vas_entry(vh, &tables.views, &changes);
            for change in &mut changes {
                let is_named = |entry: &VasEntry| {
                    entry.members.iter().any(|member| member.segment == change.sid.raw())
                };
                change.facts.entry = entry.clone().filter(is_named);
            }
            (changes, hold)
        };
        let appended = append(&changes);
        let mut guard = self.lock();
        drop(hold);
        let versions = appended.inspect_err(|_| {
            let segments = changes.iter().map(|change| guard.residency.of_member(change.sid));
            segments.for_each(VmSegment::tell_next_holder);
        })?;
        let made: Vec<_> = changes.iter().zip(versions).collect();
        // All of them before anything else: a log must not go before everybody can know what was in it.
        let told: Vec<bool> =
            made.iter().map(|(change, version)| guard.make_known(change.sid, *version)).collect();
        for ((change, version), is_told) in made.iter().zip(told) {
            guard.show_committed(vcpu, change, *version, changes.len() > 1)?;
            if is_told {
                guard.checkpoint_if_due(change.sid);
            }
        }
        if let [change] = &changes[..]
            && let Some(delay) = sync::delay(change.durability)
        {
            let requested = guard.syncer.request(change.sid, &change.log, &change.file, delay);
            drop(guard);
            if requested.is_err() {
                // It is published: should this fail, it is written anew by the next commit.
                warn_if_failed(
                    "sync a segment's log",
                    sync::sync(&change.log, &change.file).map(drop),
                );
            }
        }
        Ok(())
    }

    /// [`Vases::commit`] for a thread that is leaving: one that only reads has nothing to commit, and
    /// what was declared inconsistent is thrown away.
    pub(crate) fn settle(&self, vcpu: &Vcpu) -> Result<(), VasError> {
        match self.commit(vcpu) {
            Err(VasError::NotWriting | VasError::Spoilt) => Ok(()),
            done => done,
        }
    }

    /// What the thread that runs `vcpu` has changed since its last commit is not to be committed;
    /// `sid` is the segment that it writes. Nothing that it sees changes before it leaves or aborts.
    ///
    /// # Errors
    /// [`VasError::NotWriting`].
    pub(crate) fn spoil(&self, vcpu: &Vcpu, sid: SegId) -> Result<(), VasError> {
        self.check_writes(vcpu, sid)?;
        if let Some((tables, _)) = self.lock().visits.tables_of_mut(vcpu.index()) {
            tables.is_spoilt = true;
        }
        Ok(())
    }

    /// Checks that the thread that runs `vcpu` is inside and may write a versioned segment.
    ///
    /// # Errors
    /// [`VasError::NotWriting`].
    pub(crate) fn check_writes(&self, vcpu: &Vcpu, sid: SegId) -> Result<(), VasError> {
        self.with_written(vcpu, sid, |_| Ok(()))
    }

    /// What differs from the version that the view began with: compared byte by byte, since equal
    /// checksums prove nothing about content that somebody may have chosen.
    fn change(&self, state: &State, view: &View) -> Result<Option<Change>, VasError> {
        let versioned = state.residency.of_member(view.sid).versioned();
        let log = versioned.log();
        let (mut pages, mut new_pages) = (Vec::new(), 0);
        let has = |(page, _): &(PageIndex, Frame)| page.0 * PAGE_SIZE < view.facts.size_bytes;
        let copies: Vec<_> = view.copies().filter(has).collect();
        for some in copies.chunks(COMPARED_AT_ONCE) {
            let committed = committed(versioned, &log, view, some.iter().map(|(page, _)| *page))?;
            for ((page, frame), committed) in some.iter().zip(&committed) {
                if view.is_spilled(*page) || *committed != state.visits.copies.read(*frame) {
                    pages.push((*page, state.visits.copies.pin(*frame)));
                    new_pages += usize::from(log.locate(*page, view.version)? == Source::Zero);
                }
            }
        }
        let removed = view.removed().filter(|page| page.0 * PAGE_SIZE < view.facts.size_bytes);
        let removed: Vec<_> = removed.collect();
        for some in removed.chunks(COMPARED_AT_ONCE) {
            let committed = committed(versioned, &log, view, some.iter().copied())?;
            let is_changed = |(page, committed): &(&PageIndex, &Page)| {
                view.is_spilled(**page) || **committed != [0; PAGE_BYTES]
            };
            let changed = some.iter().zip(&committed).filter(is_changed);
            for (page, _) in changed {
                // Mapped when pages were removed; without it the changes are not whole.
                let zeros = versioned.mapped_page(*page, Source::Zero).ok_or(VasError::Spoilt)?;
                pages.push((*page, zeros));
            }
        }
        if pages.is_empty() && !view.has_new_facts() && view.spill.is_none() {
            return Ok(None);
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // People know a program by its file's name.
        let name = self.program().rsplit('/').next().unwrap_or_default();
        let note = name.bytes().take(NOTE_BYTES_MAX).collect();
        let facts = VersionFacts {
            time_ns: since.as_nanos() as u64,
            pid: std::process::id(),
            note,
            entry: None,
            ..view.facts.clone()
        };
        drop(log);
        let (log, file) =
            (versioned.shared_log(), state.residency.of_member(view.sid).file.clone());
        let (sid, durability, base) = (view.sid, file.durability()?, view.version);
        let spilled = view.spill.as_ref().map(Spill::shared_layer);
        Ok(Some(Change { sid, log, file, durability, base, facts, pages, new_pages, spilled }))
    }

    /// Throws away what the thread that runs `vcpu` has changed since it entered, or since its last
    /// commit. It stays inside, and sees the version that it began with.
    ///
    /// # Errors
    /// [`VasError::NotWriting`]; the host's when the old content cannot be read: then the thread can
    /// only leave by ending.
    pub fn abort(&self, vcpu: &Vcpu) -> Result<(), VasError> {
        let mut guard = self.lock();
        let State { visits, residency, tables: frames, .. } = &mut *guard;
        let (tables, copies) = visits.tables_of_mut(vcpu.index()).ok_or(VasError::NotWriting)?;
        if !tables.writes() {
            return Err(VasError::NotWriting);
        }
        // If it cannot be done whole, what is left is not to be committed.
        tables.is_spoilt = true;
        for view in tables.views.values_mut().filter(|view| view.right == Right::Write) {
            let segment = residency.of_member_mut(view.sid).versioned_mut();
            restore(view, &segment.log(), copies)?;
            view.leave_spill(segment, frames)?;
            view.reset();
        }
        tables.is_spoilt = false;
        Ok(())
    }

    /// Gives a segment that the thread writes another size, as part of its changes.
    ///
    /// # Errors
    /// [`VasError::NotWriting`]; [`VasError::Invalid`] for a size that it cannot have.
    pub(crate) fn grow_versioned(
        &self,
        vcpu: &Vcpu,
        sid: SegId,
        size_bytes: u64,
    ) -> Result<(), VasError> {
        self.with_written(vcpu, sid, |view| {
            let size = size_bytes.checked_next_multiple_of(PAGE_SIZE);
            let allowed = view.facts.size_bytes..=view.reserve_bytes();
            match size.filter(|size| allowed.contains(size)) {
                Some(size) => {
                    view.facts.size_bytes = size;
                    Ok(())
                }
                None if size_bytes < view.facts.size_bytes => {
                    Err(VasError::Invalid { what: "the new size: segments do not shrink" })
                }
                None => Err(VasError::BeyondReserve { sid }),
            }
        })
    }

    /// Makes zeros of the pages in a range of addresses in a versioned segment that the thread writes, as part of
    /// its changes, without touching them. `false` if the range lies in no versioned segment that it
    /// sees.
    ///
    /// # Errors
    /// [`VasError::NotWriting`]; the host's: any of them may be zeros then.
    pub(crate) fn remove_pages(&self, vcpu: &Vcpu, range: Range<u64>) -> Result<bool, VasError> {
        let mut state = self.lock();
        let State { residency, visits, tables: frames, .. } = &mut *state;
        let Some((tables, copies)) = visits.tables_of_mut(vcpu.index()) else { return Ok(false) };
        let view = tables.views.values_mut().find(|view| view.has(range.start));
        let Some(view) = view.filter(|view| range.end <= view.end()) else { return Ok(false) };
        if view.right != Right::Write {
            return Err(VasError::NotWriting);
        }
        let segment = residency.of_member_mut(view.sid).versioned_mut();
        view.remove(range, segment, copies, frames)?;
        Ok(true)
    }

    /// Sets the root object of a segment that the thread writes, as part of its changes.
    ///
    /// # Errors
    /// [`VasError::NotWriting`]; [`VasError::Invalid`] for an address outside the segment.
    pub(crate) fn set_versioned_root(
        &self,
        vcpu: &Vcpu,
        sid: SegId,
        root: SegRoot,
    ) -> Result<(), VasError> {
        self.with_written(vcpu, sid, |view| {
            if root.address != 0 && !view.has(root.address) {
                return Err(VasError::Invalid { what: "the root's address" });
            }
            view.facts.root_address = root.address;
            let [low, high] = root.fingerprint.map(u64::to_le_bytes);
            let fingerprint = low.into_iter().chain(high);
            view.facts.root_fingerprint.iter_mut().zip(fingerprint).for_each(|(to, b)| *to = b);
            Ok(())
        })
    }

    fn with_written<R>(
        &self,
        vcpu: &Vcpu,
        sid: SegId,
        f: impl FnOnce(&mut View) -> Result<R, VasError>,
    ) -> Result<R, VasError> {
        let mut state = self.lock();
        let tables = state.visits.tables_of_mut(vcpu.index());
        let view = tables.and_then(|(tables, _)| tables.views.get_mut(&sid));
        f(view.filter(|view| view.right == Right::Write).ok_or(VasError::NotWriting)?)
    }

    /// What the thread inside sees of a versioned segment besides its pages; `None` if it is not
    /// inside with it.
    pub(crate) fn facts_inside(&self, vcpu: &Vcpu, sid: SegId) -> Option<VersionFacts> {
        let state = self.lock();
        Some(state.visits.tables_of(vcpu.index())?.views.get(&sid)?.facts.clone())
    }

    /// Whether this VM has a versioned segment of that id attached.
    pub(crate) fn is_versioned_here(&self, sid: SegId) -> bool {
        self.lock().residency.get(sid).is_some_and(|segment| segment.is_versioned())
    }
}

/// Pages whose committed content is held in memory at once.
const COMPARED_AT_ONCE: usize = 256;

/// What pages have in the view's version. Most are mapped, since the thread saw them before it changed
/// them: one call to the host reads all of these.
pub(super) fn committed(
    versioned: &VersionedSegment,
    log: &Log,
    view: &View,
    pages: impl Iterator<Item = PageIndex> + Clone,
) -> Result<Vec<Page>, VasError> {
    let sources: Result<Vec<Source>, VersionsError> =
        pages.clone().map(|page| log.locate(page, view.version)).collect();
    let sources = sources?;
    let pin = |(page, source): (PageIndex, &Source)| versioned.mapped_page(page, *source);
    if let Some(pinned) = pages.zip(&sources).map(pin).collect::<Option<Vec<PinnedRange>>>() {
        let ranges: Vec<_> = pinned.iter().map(PinnedRange::range).collect();
        let mut content = vec![[0; PAGE_BYTES]; ranges.len()];
        if HostRange::read_all_faultable(&ranges, content.as_flattened_mut()).is_ok() {
            return Ok(content);
        }
    }
    // What this thread has committed itself nobody may have mapped; or a file has been cut short, which
    // this gives a name.
    Ok(log.read_all(&sources)?)
}

/// Gives copies the content that the view's version has.
fn restore(view: &View, log: &Log, copies: &Copies) -> Result<(), VasError> {
    view.copies().try_for_each(|(page, frame)| {
        copies.write(frame, &log.read(page, view.version)?);
        Ok(())
    })
}

impl State {
    /// What a commit is for the VAS through which it is made: its next number, and what its versioned segments
    /// are at then. `None` if it changes none of them, if there are too many, or if the instance does not have
    /// all of them. All who write the VAS hold
    /// the lock of each segment that it lists to be written, and have taken in what was committed before: so
    /// no number is used twice.
    fn vas_entry(
        &self,
        vh: u32,
        views: &BTreeMap<SegId, View>,
        changes: &[Change],
    ) -> Option<VasEntry> {
        let instance = self.instances.known(vh);
        let Numbering::After(mut last) = instance.numbering else { return None };
        let (vas, mut members) = (instance.vid.raw(), Vec::new());
        for (sid, _) in instance.members.iter().filter(|(_, member)| !member.local) {
            let Some(view) = views.get(&sid) else { continue };
            let segment = self.residency.of_member(sid);
            if segment.file.header().kept.is_some() {
                continue;
            }
            let log = segment.versioned().log();
            last = log.last_number(vas).max(log.appended().0).max(last);
            let changed = changes.iter().find(|change| change.sid == sid);
            let (version, time_ns) = match changed {
                Some(change) => (change.base.next()?, change.facts.time_ns),
                None => (view.version, view.facts.time_ns),
            };
            members.push(Member { segment: sid.raw(), version, time_ns });
        }
        let is_changed = |it: &Member| changes.iter().any(|change| change.sid.raw() == it.segment);
        let is_entry = members.len() <= MEMBERS_MAX && members.iter().any(is_changed);
        is_entry.then_some(VasEntry { vas, number: last.checked_add(1)?, members })
    }

    /// What the thread that runs `vcpu` sees of a segment is the version that it has made of it.
    fn show_committed(
        &mut self,
        vcpu: &Vcpu,
        change: &Change,
        version: VersionNumber,
        is_in_logs: bool,
    ) -> Result<(), VasError> {
        let State { residency, visits, tables: frames, .. } = self;
        let segment = residency.of_member_mut(change.sid);
        segment.set_size(change.facts.size_bytes)?;
        let segment = segment.versioned_mut();
        if let Some((tables, _)) = visits.tables_of_mut(vcpu.index())
            && let Some(view) = tables.views.get_mut(&change.sid)
        {
            view.committed(version);
            if is_in_logs {
                // Of several segments: what was written out was copied.
                view.leave_spill(segment, frames)?;
            }
            view.keep_spill(segment);
        }
        let seen = &mut segment.news.seen;
        *seen = version.max(*seen);
        Ok(())
    }

    /// Tells all VMs of a version that was committed. It stays committed if that fails, since another
    /// part of the commit may be known already, and be durable: then this VM's threads see it, and other
    /// VMs when one of them has the lock next. Returns whether they know it.
    fn make_known(&mut self, sid: SegId, version: VersionNumber) -> bool {
        let segment = self.residency.of_member_mut(sid);
        let published = segment.publish(version);
        let is_told = published.is_ok();
        if !is_told {
            segment.versioned_mut().news.untold = version;
            self.withdraw_views(sid, |_| true);
        }
        warn_if_failed("publish a version, which the next program to write will do", published);
        is_told
    }

    /// Brings logs that have filled up to a layer. The thread that commits holds the segment's lock;
    /// what other VMs look at stays as it is.
    fn checkpoint_if_due(&mut self, sid: SegId) {
        let opened = self.attached();
        let segment = self.residency.of_member_mut(sid);
        if !segment.versioned().log().checkpoint_is_due() {
            return;
        }
        let others = opened.store.others_attached(sid, opened.lease.id());
        let sharing = if matches!(others, Ok(false)) { Sharing::Alone } else { Sharing::Shared };
        self.withdraw_views(sid, |_| true);
        let is_of = |tables: &super::visits::VisitTables| tables.views.contains_key(&sid);
        self.visits.drop_idle(&mut self.tables, is_of);
        let oldest = self.visits.oldest(sid);
        let segment = self.residency.of_member_mut(sid);
        {
            let mut log = segment.versioned().log();
            let oldest = oldest.unwrap_or(log.appended());
            sync::checkpoint(&mut log, &segment.file, oldest, sharing);
        }
        self.unmap_stale(sid);
    }
}
