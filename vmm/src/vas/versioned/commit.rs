//! Commit and abort of what a thread inside has changed, and what of it is no page: size and root
//! object. How it comes into the logs is in `append`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use abi::objects::SegRoot;
use abi::{PAGE_SIZE, Right, SegId};
use spacejmp_versions::VersionNumber;
use spacejmp_versions::log::entry::{MEMBERS_MAX, Member, VasEntry};
use spacejmp_versions::log::record::VersionFacts;

use super::append::{Appended, Change, append};
use super::compare::change;
use super::copies::Copies;
use super::segment::Log;
use super::sync;
use super::view::View;
use crate::vas::VasError;
use crate::vas::error::warn_if_failed;
use crate::vas::residency::segment::VmSegment;
use crate::vas::state::instances::Numbering;
use crate::vas::state::{State, Vases};
use crate::vm::Vcpu;

impl Vases {
    /// Commits what the thread that runs `vcpu` has changed in versioned segments since it entered,
    /// or since its last commit. It stays inside.
    ///
    /// # Errors
    /// [`VasError::NotWriting`]; [`VasError::Versions`], with everything as it was: the thread can
    /// free space and try again, or abort.
    pub fn commit(&self, vcpu: &Vcpu) -> Result<(), VasError> {
        let begin = Instant::now();
        let (mut changes, hold) = {
            let mut state = self.lock();
            let vh = state.visits.of(vcpu.index()).ok_or(VasError::NotWriting)?.vh;
            let mut changes = self.changes(&mut state, vcpu)?;
            if changes.is_empty() {
                return Ok(());
            }
            let hold = state.instances.known(vh).hold();
            // It takes in what other VMs have done, and with that the numbers that they have given.
            let looked_at = state.check_writer(vcpu.index())?;
            let tables = state.visits.tables_of(vcpu.index()).ok_or(VasError::NotWriting)?;
            let entry = state.vas_entry(vh, &tables.views, &changes);
            for change in &mut changes {
                change.is_looked_at = looked_at == Some(change.sid);
                let is_named = |entry: &VasEntry| {
                    entry.members.iter().any(|member| member.segment == change.sid.raw())
                };
                change.facts.entry = entry.clone().filter(is_named);
            }
            (changes, hold)
        };
        let pages: usize = changes.iter().map(Change::count).sum();
        let appended = append(&mut changes);
        // The copies are in nobody's hands then.
        changes.iter_mut().for_each(|change| change.pages.clear());
        let mut guard = self.lock();
        drop(hold);
        let appended = appended.inspect_err(|_| {
            let segments = changes.iter().map(|change| guard.residency.of_member(change.sid));
            segments.for_each(VmSegment::tell_next_holder);
        })?;
        let made: Vec<_> = changes.iter().zip(appended).collect();
        // All of them before anything else: a log must not go before everybody can know what was in it.
        let told: Vec<bool> =
            made.iter().map(|(change, made)| guard.make_known(change.sid, made.version)).collect();
        for ((change, made), is_told) in made.into_iter().zip(told) {
            guard.show_committed(vcpu, change, made, changes.len() > 1)?;
            if is_told {
                guard.checkpoint_if_due(change.sid);
            }
        }
        if let Some((tables, _)) = guard.visits.tables_of_mut(vcpu.index()) {
            tables.message.clear();
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
        } else {
            drop(guard);
        }
        // `bench store` reads it.
        tracing::debug!("committed {pages} pages in {} ns", begin.elapsed().as_nanos());
        Ok(())
    }

    /// What the thread that runs `vcpu` has changed, by segment.
    fn changes(&self, state: &mut State, vcpu: &Vcpu) -> Result<Vec<Change>, VasError> {
        let State { visits, residency, tables: frames, .. } = state;
        let (tables, copies) = visits.tables_of_mut(vcpu.index()).ok_or(VasError::NotWriting)?;
        if !tables.writes() {
            return Err(VasError::NotWriting);
        }
        if tables.is_spoilt {
            return Err(VasError::Spoilt);
        }
        let mut changes = Vec::new();
        let (program, message) = (self.program(), &tables.message);
        for view in tables.views.values_mut().filter(|view| view.right == Right::Write) {
            let segment = residency.of_member_mut(view.sid);
            let machine = frames.machine();
            changes.extend(change(program, message, view, segment, copies, machine)?);
        }
        Ok(changes)
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
        tables.message.clear();
        Ok(())
    }

    /// Has the next version that the thread's visit makes say what it is for. It is forgotten when the visit
    /// ends or aborts without one.
    ///
    /// # Errors
    /// [`VasError::NotWriting`].
    pub(crate) fn set_message(&self, vcpu: &Vcpu, message: String) -> Result<(), VasError> {
        let mut state = self.lock();
        let tables = state.visits.tables_of_mut(vcpu.index()).map(|(tables, _)| tables);
        let tables = tables.filter(|it| it.writes()).ok_or(VasError::NotWriting)?;
        tables.message = message;
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
        let tables = state.visits.tables_of(vcpu.index())?;
        let is_of = |shown| state.version_in_stand_in(tables.vh, shown, sid).is_some();
        let in_stand_in = || tables.views.values().find(|view| is_of(view.sid));
        Some(tables.views.get(&sid).or_else(in_stand_in)?.facts.clone())
    }

    /// Whether this VM has a versioned segment of that id attached.
    pub(crate) fn is_versioned_here(&self, sid: SegId) -> bool {
        self.lock().residency.get(sid).is_some_and(|segment| segment.is_versioned())
    }
}

/// Gives copies the content that the view's version has.
fn restore(view: &View, log: &Log, copies: &mut Copies) -> Result<(), VasError> {
    copies.take_in_writes();
    view.copies().try_for_each(|(page, frame)| {
        if !copies.may_differ(frame) {
            return Ok(());
        }
        match view.originals.get(page) {
            Some(original) => copies.write(frame, original),
            None => copies.write(frame, &log.read(page, view.version)?),
        }
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
        Appended { version, contents }: Appended,
        is_in_logs: bool,
    ) -> Result<(), VasError> {
        let State { residency, visits, tables: frames, .. } = self;
        let segment = residency.of_member_mut(change.sid);
        segment.set_size(change.facts.size_bytes)?;
        let segment = segment.versioned_mut();
        if let Some((tables, copies)) = visits.tables_of_mut(vcpu.index())
            && let Some(view) = tables.views.get_mut(&change.sid)
        {
            let pages = contents.iter().flatten().map(|(page, _)| page);
            copies.settle(pages.filter_map(|page| view.copies.get(page).copied()));
            view.committed(version, contents);
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
        let store_word = self.kernel_views.store_word();
        let segment = self.residency.of_member_mut(sid);
        let published = segment.publish_committed(version, &store_word);
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
        self.withdraw_views(sid, |_| true);
        let is_of = |tables: &super::visits::VisitTables| tables.views.contains_key(&sid);
        self.visits.drop_idle(&mut self.tables, is_of);
        let oldest = self.visits.oldest(sid);
        let segment = self.residency.of_member_mut(sid);
        {
            let mut log = segment.versioned().log();
            let oldest = oldest.unwrap_or(log.appended());
            let who = &mut || opened.sharing(&segment.file);
            sync::checkpoint(&mut log, &segment.file, oldest, who);
        }
        self.unmap_stale(sid);
    }
}
