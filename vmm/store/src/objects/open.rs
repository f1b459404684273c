//! Opening a segment by its name or id. A volatile one that no VM has any more is removed on the
//! way, and is not found.

use std::os::unix::fs::MetadataExt;
use std::sync::{MutexGuard, PoisonError};

use abi::objects::{Lifetime, Right, SegId};
use rustix::fs::OFlags;

use crate::format::counters::Counted;
use crate::format::error::{Busy, Object, StoreError, io_error};
use crate::format::extent::first_part;
use crate::format::header::{Header, header_bytes, read_header};
use crate::format::name::{Mode, Name};
use crate::objects::dir::{denied, or_denied};
use crate::objects::hints::Hints;
use crate::objects::leases::LiveLease;
use crate::objects::lock::{Exclusive, Locked, SharedLock};
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

pub(crate) fn segment_write_denied(name: &Name) -> StoreError {
    StoreError::Denied { object: Object::SegmentName(name.clone()), right: Right::Write }
}

impl SegmentFile {
    /// Whether this user may write it.
    ///
    /// # Errors
    /// [`StoreError::Kept`] for a kept version, which nobody may write; [`StoreError::Denied`].
    pub fn check_writable(&self) -> Result<(), StoreError> {
        match self.right() {
            Right::Write => Ok(()),
            Right::Read if self.header().kept.is_some() => {
                Err(StoreError::Kept { segment: self.name().clone() })
            }
            Right::Read => Err(segment_write_denied(self.name())),
        }
    }
}

impl Store {
    /// Opens a segment for writing, or for reading if the caller may not write it. Of a versioned one,
    /// size and root are those of its newest published version.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Denied`] if not even reading is permitted,
    /// [`StoreError::BadField`] for a damaged or shortened file; [`StoreError::VersionsMissing`] and
    /// [`StoreError::Versions`] for a versioned segment whose content is not there or not whole.
    pub fn open_segment(&self, sid: SegId) -> Result<SegmentFile, StoreError> {
        self.open_segment_showing(sid, |segment, lock| self.show_newest_known(segment, lock))
    }

    /// The same for who attaches it: of a versioned one, size and root are those that it was made with.
    ///
    /// # Errors
    /// As [`Store::open_segment`], but for those of its content.
    pub fn open_to_attach(&self, sid: SegId) -> Result<SegmentFile, StoreError> {
        self.open_segment_showing(sid, |_, _| Ok(()))
    }

    fn open_segment_showing(
        &self,
        sid: SegId,
        show: impl FnOnce(&mut SegmentFile, &SharedLock) -> Result<(), StoreError>,
    ) -> Result<SegmentFile, StoreError> {
        let gone = {
            let lock = self.lock_shared()?;
            let mut segment = self.open_by_id(sid, &lock)?;
            if !self.is_gone(segment.header(), &lock) {
                show(&mut segment, &lock)?;
                return Ok(segment);
            }
            segment.name().clone()
        };
        self.reap_volatile(&gone, &self.lock_exclusive()?);
        Err(StoreError::NotFound(Object::Segment(sid)))
    }

    pub(crate) fn open_named(
        &self,
        name: &Name,
        lock: &impl Locked,
    ) -> Result<SegmentFile, StoreError> {
        self.open_with(name, Some(lock))
    }

    /// The same without the lock: as somebody who changes it has left it, or an error about a header that
    /// is written just then.
    pub(crate) fn open_whole(&self, name: &Name) -> Result<SegmentFile, StoreError> {
        self.open_with(name, None)
    }

    fn open_with(&self, name: &Name, lock: Option<&dyn Locked>) -> Result<SegmentFile, StoreError> {
        if let Some(segment) = self.last_segment(name, lock)? {
            return Ok(segment);
        }
        let not_found = || StoreError::NotFound(Object::SegmentName(name.clone()));
        let open = |flags| self.segments.find_file_stat(name.as_str(), flags);
        let (mut file, mut right) = match open(OFlags::RDWR) {
            Err(StoreError::Io { source, .. }) if denied(&source) => {
                let object = Object::SegmentName(name.clone());
                let refusal = || StoreError::Denied { object, right: Right::Read };
                (open(OFlags::RDONLY).map_err(|error| or_denied(error, refusal))?, Right::Read)
            }
            other => (other?, Right::Write),
        };
        let mut header = match &file {
            Some((file, _)) => read_header(file, &self.segments.path_of(name.as_str()))?,
            None => return Err(not_found()),
        };
        if header.kept.is_some() && right == Right::Write {
            (file, right) = (open(OFlags::RDONLY)?, Right::Read);
            // Another file may have this name by now.
            if let Some((file, _)) = &file {
                header = read_header(file, &self.segments.path_of(name.as_str()))?;
            }
        }
        let file = file.ok_or_else(not_found)?;
        let stat = file.1;
        let segment = self.segment_file(name, file, header, right)?;
        self.keep_last_segment(&segment, &stat);
        Ok(segment)
    }

    pub(crate) fn open_by_id(
        &self,
        sid: SegId,
        lock: &impl Locked,
    ) -> Result<SegmentFile, StoreError> {
        let hint = self.hints().segment(sid);
        if let Some(segment) = hint.and_then(|name| self.open_named(&name, lock).ok()) {
            // A copy of a file has its id, and the name of the original in its header.
            if segment.sid() == sid && segment.header().name == *segment.name() {
                return Ok(segment);
            }
        }
        let name = self.segment_name(sid, lock)?;
        let name = name.ok_or_else(|| self.why_missing(sid, lock))?;
        let segment = self.open_named(&name, lock)?;
        self.hints().note_segment(sid, &name);
        Ok(segment)
    }

    pub(crate) fn hints(&self) -> MutexGuard<'_, Hints> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why no usable segment has this id: the file that has it cannot be used, or there is none.
    fn why_missing(&self, sid: SegId, lock: &impl Locked) -> StoreError {
        let bears_it = |name: &Name| {
            let file = self.segments.open_file(name.as_str(), OFlags::RDONLY).ok()?;
            let bytes = header_bytes(&file, self.segments.path()).ok()?;
            (Header::sid_in(&bytes) == Some(sid)).then_some(())
        };
        let names = self.names_in(&self.segments).unwrap_or_default();
        let file = names.iter().find(|name| bears_it(name).is_some());
        file.and_then(|name| self.open_named(name, lock).err())
            .unwrap_or(StoreError::NotFound(Object::Segment(sid)))
    }

    /// The same, unless it is volatile and was freed with the last VM that had it.
    pub(crate) fn open_present(
        &self,
        sid: SegId,
        lock: &Exclusive,
    ) -> Result<SegmentFile, StoreError> {
        let segment = self.open_by_id(sid, lock)?;
        if self.is_gone(segment.header(), lock) {
            self.reap_volatile(segment.name(), lock);
            return Err(StoreError::NotFound(Object::Segment(sid)));
        }
        Ok(segment)
    }

    pub(crate) fn open_writable(
        &self,
        sid: SegId,
        lock: &Exclusive,
    ) -> Result<SegmentFile, StoreError> {
        let segment = self.open_present(sid, lock)?;
        segment.check_writable()?;
        Ok(segment)
    }

    /// The same, to be deleted: kept versions can be.
    pub(crate) fn open_deletable(
        &self,
        sid: SegId,
        lock: &Exclusive,
    ) -> Result<SegmentFile, StoreError> {
        let segment = self.open_present(sid, lock)?;
        match segment.check_writable() {
            Err(StoreError::Kept { segment: name }) if !self.segments.writable(name.as_str()) => {
                Err(segment_write_denied(&name))
            }
            Ok(()) | Err(StoreError::Kept { .. }) => Ok(segment),
            Err(error) => Err(error),
        }
    }

    /// Whether a holder of the segment's lock died inside, or an earlier boot left it dirty, and no
    /// program has recovered it. The next VM that wants the lock finds out and sets the flag; until
    /// then the dead owner, or the header, shows it. A versioned segment has whole versions, whoever
    /// dies.
    pub(crate) fn is_inconsistent(&self, segment: &SegmentFile) -> Result<bool, StoreError> {
        if segment.is_versioned() {
            return Ok(false);
        }
        let view = segment.lock_view()?;
        let is_dead = |owner| !self.is_alive(owner);
        let died_inside = !view.entering && view.owner_lease().is_some_and(is_dead);
        let header = segment.header();
        let is_torn = header.lockable && self.is_of_another_boot(header);
        Ok(view.inconsistent || died_inside || is_torn)
    }

    pub(crate) fn mode_of(&self, segment: &SegmentFile) -> Result<Mode, StoreError> {
        let stat = segment.file().metadata().map_err(|e| io_error("look at", segment.path(), e))?;
        Ok(Mode::from_stat(stat.mode()))
    }

    /// Checks that no VM has a segment attached.
    pub(crate) fn check_unattached(&self, segment: &SegmentFile) -> Result<(), StoreError> {
        self.check_in_no_lease(segment.sid())?;
        if segment.is_read_without_lease() { Err(segment.is_being_read()) } else { Ok(()) }
    }

    /// The same of one whose file is not there, as far as leases say.
    pub(crate) fn check_in_no_lease(&self, sid: SegId) -> Result<(), StoreError> {
        let leases = self.live_leases()?;
        let attached = leases.iter().filter(|lease| lease.right_of(sid).is_some());
        let holders: Vec<_> = attached.map(LiveLease::holder).collect();
        if holders.is_empty() {
            return Ok(());
        }
        Err(StoreError::Busy { object: Object::Segment(sid), why: Busy::Attached(holders) })
    }

    /// Removes the files. First the one with the header: parts without it are only garbage.
    pub(crate) fn remove_segment(
        &self,
        segment: &SegmentFile,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        let (name, header) = (segment.name(), segment.header());
        let mut index = self.segment_index(lock)?;
        self.bump_objects(Counted::Segment, lock)?;
        let removed = self.segments.remove_file(name.as_str());
        removed.map_err(|error| or_denied(error, || segment_write_denied(name)))?;
        segment.place().remove(first_part(header.lifetime), header.parts());
        index.remove(name, header);
        index.restamp(self.stamp(Counted::Segment, lock).ok());
        self.segments.sync()?;
        // Now that no power cut brings back the file that names it.
        self.remove_versions(header);
        Ok(())
    }

    /// Whether no VM has a volatile segment's memory any more.
    pub(crate) fn is_gone(&self, header: &Header, _lock: &impl Locked) -> bool {
        if !self.is_gone_unattached(header) {
            return false;
        }
        // If it cannot be told which VMs have it, one may.
        self.live_leases()
            .is_ok_and(|leases| leases.iter().all(|l| l.right_of(header.sid).is_none()))
    }

    /// The same for a segment that no live VM has attached.
    pub(crate) fn is_gone_unattached(&self, header: &Header) -> bool {
        header.lifetime == Lifetime::Volatile && (header.used || header.boot != self.boot())
    }

    /// Removes a volatile segment that is gone; files that cannot be removed stay, and the segment
    /// is gone all the same.
    pub(crate) fn reap_volatile(&self, name: &Name, lock: &Exclusive) {
        if let Ok(segment) = self.open_named(name, lock)
            && self.is_gone(segment.header(), lock)
        {
            let _ = self.remove_segment(&segment, lock);
        }
    }

    /// Whether a live program has the segment writable.
    pub(crate) fn is_written(&self, sid: SegId) -> bool {
        let write = Some(Right::Write);
        self.live_leases()
            .is_ok_and(|leases| leases.iter().any(|lease| lease.right_of(sid) == write))
    }
}
