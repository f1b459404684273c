//! Commit and abort of what a thread inside has changed, and what of it is no page: size and root
//! object.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use abi::objects::SegRoot;
use abi::{PAGE_SIZE, Right, SegId};
use spacejmp_versions::log::record::{NOTE_BYTES_MAX, VersionFacts};
use spacejmp_versions::page::Page;
use spacejmp_versions::{Commit, PageIndex, Sharing, VersionNumber, VersionsError};

use super::copies::Copies;
use super::segment::{Log, lock};
use super::view::View;
use crate::vas::VasError;
use crate::vas::state::{State, Vases};
use crate::vm::Vcpu;

/// What a thread has changed in one segment.
struct Change {
    sid: SegId,
    log: Arc<Mutex<Log>>,
    base: VersionNumber,
    facts: VersionFacts,
    pages: Vec<(PageIndex, Box<Page>)>,
}

impl Change {
    /// Makes it a version that a power cut leaves. On failure nothing of it is to be seen.
    fn append(&self) -> Result<VersionNumber, VersionsError> {
        let pages = self.pages.iter().map(|(page, content)| (*page, &**content)).collect();
        let commit = Commit { facts: self.facts.clone(), pages };
        let appended = {
            let mut log = lock(&self.log);
            // Since an earlier failure.
            if log.has_failed() {
                log.renew(self.base)?;
            }
            log.append(&commit)
        };
        let done = appended.and_then(|version| {
            // Others may look at older versions meanwhile.
            let ticket = lock(&self.log).sync_ticket();
            let synced = ticket.run();
            lock(&self.log).synced(ticket, synced)?;
            Ok(version)
        });
        if done.is_err() {
            // What was appended must not be found by a later recovery. Should this fail as well, the
            // next commit does it first, and nobody else can: the lock is held.
            let _ = lock(&self.log).renew(self.base);
        }
        done
    }
}

impl Vases {
    /// Commits what the thread that runs `vcpu` has changed in versioned segments since it entered,
    /// or since its last commit. It stays inside.
    ///
    /// # Errors
    /// [`VasError::NotWriting`]; [`VasError::Versions`], with everything as it was: the thread can
    /// free space and try again, or abort.
    pub fn commit(&self, vcpu: &Vcpu) -> Result<(), VasError> {
        let (change, hold) = {
            let state = self.lock();
            let visit = state.visits.of(vcpu.index()).ok_or(VasError::NotWriting)?;
            let tables = state.visits.tables_of(vcpu.index()).ok_or(VasError::NotWriting)?;
            let view = tables.views.values().find(|view| view.right == Right::Write);
            let view = view.ok_or(VasError::NotWriting)?;
            if tables.is_spoilt {
                return Err(VasError::Spoilt);
            }
            let Some(change) = self.change(&state, view)? else { return Ok(()) };
            (change, state.instances.known(visit.vh).hold())
        };
        let version = change.append()?;
        let mut guard = self.lock();
        let state = &mut *guard;
        drop(hold);
        // Durable: from here on others may see it. If the words cannot be written, they do so later,
        // with the next version or after a recovery.
        let segment = state.residency.of_member_mut(change.sid);
        crate::vas::error::warn_if_failed("publish a version", segment.publish(version));
        segment.set_size(change.facts.size_bytes)?;
        if let Some((tables, _)) = state.visits.tables_of_mut(vcpu.index())
            && let Some(view) = tables.views.get_mut(&change.sid)
        {
            view.committed(version);
        }
        state.checkpoint_if_due(change.sid);
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
        let mut pages = Vec::new();
        for (page, frame) in view.copies() {
            if page.0 * PAGE_SIZE >= view.facts.size_bytes {
                continue;
            }
            let content = state.visits.copies.read(frame);
            if log.read(page, view.version)? != content {
                pages.push((page, Box::new(content)));
            }
        }
        if pages.is_empty() && !view.has_new_facts() {
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
            ..view.facts.clone()
        };
        drop(log);
        let log = versioned.shared_log();
        Ok(Some(Change { sid: view.sid, log, base: view.version, facts, pages }))
    }

    /// Throws away what the thread that runs `vcpu` has changed since it entered, or since its last
    /// commit. It stays inside, and sees the version that it began with.
    ///
    /// # Errors
    /// [`VasError::NotWriting`]; the host's when the old content cannot be read: then the thread can
    /// only leave by ending.
    pub fn abort(&self, vcpu: &Vcpu) -> Result<(), VasError> {
        let mut guard = self.lock();
        let State { visits, residency, .. } = &mut *guard;
        let (tables, copies) = visits.tables_of_mut(vcpu.index()).ok_or(VasError::NotWriting)?;
        if !tables.writes() {
            return Err(VasError::NotWriting);
        }
        for view in tables.views.values_mut().filter(|view| view.right == Right::Write) {
            let log = residency.of_member(view.sid).versioned().log();
            restore(view, &log, copies)?;
            view.reset_facts();
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

/// Gives copies the content that the view's version has.
fn restore(view: &View, log: &Log, copies: &Copies) -> Result<(), VasError> {
    view.copies().try_for_each(|(page, frame)| {
        copies.write(frame, &log.read(page, view.version)?);
        Ok(())
    })
}

impl State {
    /// Brings the home file up to date when logs have filled up and nobody else has the segment.
    fn checkpoint_if_due(&mut self, sid: SegId) {
        let opened = self.attached();
        let segment = self.residency.of_member_mut(sid);
        if !segment.versioned().log().checkpoint_is_due() {
            return;
        }
        let alone = opened.store.others_attached(sid, opened.lease.id()).map(|others| !others);
        if !alone.unwrap_or(false) {
            return;
        }
        let is_of = |tables: &super::visits::VisitTables| tables.views.contains_key(&sid);
        self.visits.drop_idle(&mut self.tables, is_of);
        let oldest = self.visits.oldest(sid);
        let segment = self.residency.of_member_mut(sid);
        let done = {
            let mut log = segment.versioned().log();
            let oldest = oldest.unwrap_or(log.appended());
            log.checkpoint(oldest, Sharing::Alone)
        };
        crate::vas::error::warn_if_failed("bring a segment's logs to a layer", done);
        // What is mapped of a file that has no name any more keeps its space on the disk.
        let (logs, layers) = (self.visits.logs(sid), self.visits.layers(sid));
        let versioned = self.residency.of_member_mut(sid).versioned_mut();
        let stale = versioned.take_stale_windows(&logs, &layers);
        if !stale.is_empty() {
            self.tables.machine().windows.unmap(stale);
            self.tables.all_is_forgotten();
        }
    }
}
