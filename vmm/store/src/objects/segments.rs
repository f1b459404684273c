//! Looking segments up, listing, changing and deleting them.

use std::os::unix::fs::MetadataExt;

use abi::objects::{LeaseId, Lifetime, PagePolicy, Right, SegId, SegRoot};
use rustix::fs::OFlags;

use crate::format::error::{Busy, Object, StoreError};
use crate::format::header::{HEADER_BYTES, Header, LOCK_PAGE_OFFSET};
use crate::format::name::{Mode, Name};
use crate::format::record::{Access, SegmentEntry, SegmentRecord};
use crate::objects::create::{make_parts, part_len, round_size, set_len};
use crate::objects::lease_view::OpenLease;
use crate::objects::live::Kind;
use crate::objects::lock::{Exclusive, Locked};
use crate::objects::open::{Store, denied};
use crate::objects::segment::{
    SegmentFile, first_part, header_bytes, io_error, main_len, read_header, write_header,
};

impl Store {
    /// The id of the segment with this name. A copied file gets its own name and id now, if
    /// the caller may write it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Denied`], [`StoreError::BadField`].
    pub fn find_segment(&self, name: &Name) -> Result<SegId, StoreError> {
        {
            let lock = self.lock_shared()?;
            let segment = self.open_named(name, &lock)?;
            if segment.header().name == *name && !self.is_gone(segment.header(), &lock) {
                return Ok(segment.sid());
            }
        }
        let lock = self.lock_exclusive()?;
        self.reap_volatile(name, &lock);
        let segment = self.open_named(name, &lock)?;
        self.adopt(segment, &lock)
    }

    /// What there is to know about a segment.
    ///
    /// # Errors
    /// As [`Store::open_segment`].
    pub fn segment(&self, sid: SegId) -> Result<SegmentRecord, StoreError> {
        let segment = self.open_segment(sid)?;
        let lock = self.lock_shared()?;
        let leases = self.live_leases()?;
        let name = segment.name().clone();
        self.segment_record(&name, &leases, &lock)
    }

    /// Opens a segment for writing, or for reading if that is all the caller may.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Denied`] if not even reading is permitted,
    /// [`StoreError::BadField`] for a damaged or shortened file.
    pub fn open_segment(&self, sid: SegId) -> Result<SegmentFile, StoreError> {
        let gone = {
            let lock = self.lock_shared()?;
            let segment = self.open_by_id(sid, &lock)?;
            if !self.is_gone(segment.header(), &lock) {
                return Ok(segment);
            }
            segment.name().clone()
        };
        self.reap_volatile(&gone, &self.lock_exclusive()?);
        Err(StoreError::NotFound(Object::Segment(sid)))
    }

    /// All segments by name, the damaged and the unreadable too.
    ///
    /// # Errors
    /// If the host fails.
    pub fn list_segments(&self) -> Result<Vec<SegmentEntry>, StoreError> {
        let lock = self.lock_shared()?;
        let leases = self.live_leases()?;
        let mut entries = Vec::new();
        for name in self.names_in(&self.segments)? {
            let record = self.segment_record(&name, &leases, &lock);
            let gone = record.as_ref().is_ok_and(|record| {
                record.attachers.is_empty() && self.is_gone_unattached(&record.header)
            });
            if !gone {
                entries.push(SegmentEntry { name, record });
            }
        }
        Ok(entries)
    }

    /// Deletes a segment and its content.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if a live VM has it attached or a VAS lists it,
    /// [`StoreError::Denied`] without the right to write it.
    pub fn delete_segment(&self, sid: SegId) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_writable(sid, &lock)?;
        self.check_unattached(sid)?;
        let listed = self.vases_listing(sid)?;
        if !listed.is_empty() {
            let object = Object::SegmentName(segment.name().clone());
            return Err(StoreError::Busy { object, why: Busy::Listed(listed) });
        }
        self.remove_segment(&segment, &lock)
    }

    /// Grows a segment in place to `size_bytes`, rounded up to 4 KiB. A VM sees it when it
    /// looks: [`Store::refresh`].
    ///
    /// # Errors
    /// [`StoreError::BeyondReserve`]; [`StoreError::Invalid`] for less than it has;
    /// [`StoreError::Denied`].
    pub fn grow_segment(&self, sid: SegId, size_bytes: u64) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_writable(sid, &lock)?;
        let mut header = segment.header().clone();
        let beyond = StoreError::BeyondReserve {
            segment: segment.name().clone(),
            reserve_bytes: header.reserve_bytes,
            wanted_bytes: size_bytes,
        };
        if size_bytes > header.reserve_bytes {
            return Err(beyond);
        }
        let size_bytes = round_size(size_bytes, header.reserve_bytes)?;
        if size_bytes < header.size_bytes {
            return Err(StoreError::Invalid {
                what: "the new size",
                found: format!("{size_bytes:#x}"),
                expected: format!("{:#x} or more: segments do not shrink", header.size_bytes),
            });
        }
        let old_parts = header.parts();
        header.size_bytes = size_bytes;
        // Files first: a header never promises what is not there.
        set_len(segment.file(), segment.path(), main_len(&header))?;
        let first = first_part(header.lifetime);
        if let Some(last) = old_parts.checked_sub(1).filter(|last| *last >= first) {
            let (file, path) = segment.place().open(segment.name(), last, Right::Write)?;
            set_len(&file, &path, part_len(size_bytes, last))?;
        }
        let mode = self.mode_of(&segment)?;
        let first_new = old_parts.max(first);
        // Left there by a growth that failed half-way.
        segment.place().remove(first_new, header.parts());
        make_parts(segment.place(), first_new, size_bytes, mode)?;
        write_header(segment.file(), segment.path(), &header)?;
        segment.file().sync_all().map_err(|e| io_error("sync", segment.path(), e))
    }

    /// Changes the permission bits of all of a segment's files. Programs that have it
    /// attached keep what they have.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`].
    pub fn set_segment_mode(&self, sid: SegId, mode: Mode) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_present(sid, &lock)?;
        let name = segment.name();
        self.segments.chmod(name.as_str(), mode.of_file()).map_err(|error| match error {
            StoreError::Io { source, .. } if denied(&source) => {
                StoreError::NotOwner(Object::SegmentName(name.clone()))
            }
            other => other,
        })?;
        let header = segment.header();
        let mut failed = None;
        segment.place().each(first_part(header.lifetime), header.parts(), |dir, part| {
            if matches!(dir.stat(part), Ok(Some(_))) {
                failed = dir.chmod(part, mode.of_file()).err().or(failed.take());
            }
        });
        failed.map_or(Ok(()), Err)
    }

    /// Whether switching into a VAS with it takes its lock.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while a live VM has it attached, [`StoreError::Denied`].
    pub fn set_lockable(&self, sid: SegId, lockable: bool) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_writable(sid, &lock)?;
        self.check_unattached(sid)?;
        self.change_header(&segment, &lock, |header| header.lockable = lockable)
    }

    /// Largest pages to map it with, for tables built from now on.
    ///
    /// # Errors
    /// [`StoreError::Denied`].
    pub fn set_pages(&self, sid: SegId, pages: PagePolicy) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_writable(sid, &lock)?;
        self.change_header(&segment, &lock, |header| header.pages = pages)
    }

    /// Where a program begins to read.
    ///
    /// # Errors
    /// As [`Store::open_segment`].
    pub fn root_get(&self, sid: SegId) -> Result<SegRoot, StoreError> {
        Ok(self.open_segment(sid)?.header().root)
    }

    /// Sets where a program begins to read.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for an address outside the segment, [`StoreError::Denied`].
    pub fn root_set(&self, sid: SegId, root: SegRoot) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_writable(sid, &lock)?;
        let (base, size_bytes) = (segment.header().base, segment.header().size_bytes);
        let inside = root.address.checked_sub(base).is_some_and(|offset| offset < size_bytes);
        if root.address != 0 && !inside {
            return Err(StoreError::Invalid {
                what: "the root's address",
                found: format!("{:#x}", root.address),
                expected: format!("0 or {size_bytes:#x} bytes from {base:#x} on"),
            });
        }
        self.change_header(&segment, &lock, |header| header.root = root)
    }

    /// Returns when all written content is on stable storage. Content of a volatile segment
    /// has none.
    ///
    /// # Errors
    /// [`StoreError::Denied`] when it is open for reading; what the host says.
    pub fn sync(&self, segment: &SegmentFile) -> Result<(), StoreError> {
        if segment.right() == Right::Read {
            return Err(write_denied(segment.name()));
        }
        segment.file().sync_all().map_err(|e| io_error("sync", segment.path(), e))?;
        if segment.header().lifetime == Lifetime::Volatile {
            return Ok(());
        }
        for index in 1..segment.header().parts() {
            let (file, path) = segment.place().open(segment.name(), index, segment.right())?;
            file.sync_all().map_err(|e| io_error("sync", &path, e))?;
        }
        Ok(())
    }
}

pub(crate) fn write_denied(name: &Name) -> StoreError {
    StoreError::Denied { object: Object::SegmentName(name.clone()), right: Right::Write }
}

/// For the rest of this room, with the lock in hand.
impl Store {
    pub(crate) fn open_named(
        &self,
        name: &Name,
        _lock: &impl Locked,
    ) -> Result<SegmentFile, StoreError> {
        let not_found = || StoreError::NotFound(Object::SegmentName(name.clone()));
        let open = |flags| self.segments.find_file(name.as_str(), flags);
        let (file, right) = match open(OFlags::RDWR) {
            Err(StoreError::Io { source, .. }) if denied(&source) => {
                let file = open(OFlags::RDONLY).map_err(|error| match error {
                    StoreError::Io { source, .. } if denied(&source) => StoreError::Denied {
                        object: Object::SegmentName(name.clone()),
                        right: Right::Read,
                    },
                    other => other,
                })?;
                (file, Right::Read)
            }
            other => (other?, Right::Write),
        };
        let file = file.ok_or_else(not_found)?;
        let header = read_header(&file, &self.segments.path_of(name.as_str()))?;
        self.segment_file(name, file, header, right)
    }

    pub(crate) fn open_by_id(
        &self,
        sid: SegId,
        lock: &impl Locked,
    ) -> Result<SegmentFile, StoreError> {
        match self.segment_name(sid, lock)? {
            Some(name) => self.open_named(&name, lock),
            None => Err(self.why_missing(sid, lock)),
        }
    }

    /// Why no usable segment has this id: a file that bears it cannot be used, or there is none.
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

    /// The same, unless it is volatile and went with the last VM that had it.
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
        match segment.right() {
            Right::Write => Ok(segment),
            Right::Read => Err(write_denied(segment.name())),
        }
    }

    pub(crate) fn change_header(
        &self,
        segment: &SegmentFile,
        _lock: &Exclusive,
        change: impl FnOnce(&mut Header),
    ) -> Result<(), StoreError> {
        let mut header = read_header(segment.file(), segment.path())?;
        change(&mut header);
        write_header(segment.file(), segment.path(), &header)
    }

    fn segment_record(
        &self,
        name: &Name,
        leases: &[OpenLease],
        lock: &impl Locked,
    ) -> Result<SegmentRecord, StoreError> {
        let segment = self.open_named(name, lock)?;
        let failed = |e| io_error("look at", segment.path(), e);
        let header = segment.header().clone();
        let mut stored_bytes = segment.file().metadata().map_err(failed)?.blocks() * 512;
        segment.place().each(first_part(header.lifetime), header.parts(), |dir, part| {
            if let Ok(Some(stat)) = dir.stat(part) {
                stored_bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            }
        });
        let inconsistent = self.is_inconsistent(&segment)?;
        let mut attachers = Vec::new();
        for lease in leases {
            if let Some(right) = lease.right_of(header.sid) {
                attachers.push((lease.id(), right));
            }
        }
        Ok(SegmentRecord {
            name: name.clone(),
            mode: self.mode_of(&segment)?,
            stored_bytes,
            access: match segment.right() {
                Right::Read => Access::Read,
                Right::Write => Access::Write,
            },
            attachers,
            inconsistent,
            header,
        })
    }

    /// Whether a holder of the segment's lock died inside and nobody has recovered it. Whoever
    /// wants the lock next finds out and sets the mark; until then the dead owner tells.
    pub(crate) fn is_inconsistent(&self, segment: &SegmentFile) -> Result<bool, StoreError> {
        let view = segment.lock_view()?;
        let is_dead = |owner| !self.is_alive(owner);
        Ok(view.inconsistent || (!view.entering && view.owner_lease().is_some_and(is_dead)))
    }

    pub(crate) fn mode_of(&self, segment: &SegmentFile) -> Result<Mode, StoreError> {
        let stat = segment.file().metadata().map_err(|e| io_error("look at", segment.path(), e))?;
        Ok(Mode::from_stat(stat.mode()))
    }

    pub(crate) fn check_unattached(&self, sid: SegId) -> Result<(), StoreError> {
        let mut holders = Vec::new();
        for lease in self.live_leases()? {
            if lease.right_of(sid).is_some() {
                holders.push(lease.holder());
            }
        }
        if holders.is_empty() {
            return Ok(());
        }
        Err(StoreError::Busy { object: Object::Segment(sid), why: Busy::Attached(holders) })
    }

    /// Whether nobody but the VM with the lease `mine` can write a segment just now.
    ///
    /// # Errors
    /// [`StoreError::Busy`] with those who can.
    pub fn check_unwritten(&self, sid: SegId, mine: Option<LeaseId>) -> Result<(), StoreError> {
        let leases = self.live_leases_but(mine)?;
        let writers = leases.iter().filter(|lease| lease.right_of(sid) == Some(Right::Write));
        let holders: Vec<_> = writers.map(OpenLease::holder).collect();
        if holders.is_empty() {
            return Ok(());
        }
        Err(StoreError::Busy { object: Object::Segment(sid), why: Busy::Written(holders) })
    }

    /// The error of a lock that was not free in time, with whoever holds it.
    pub fn locked(&self, segment: &SegmentFile) -> StoreError {
        let owner = segment.lock_view().ok().and_then(|view| view.owner_lease());
        let leases = self.live_leases().unwrap_or_default();
        let holder = leases.iter().find(|lease| Some(lease.id()) == owner).map(OpenLease::holder);
        let by = holder.map_or_else(
            || "a program that waits or is about to leave".to_owned(),
            |holder| format!("process {} ({})", holder.pid, holder.program),
        );
        StoreError::Locked { segment: segment.name().clone(), by }
    }

    /// Removes the files. First the one with the header: parts without it are only garbage.
    pub(crate) fn remove_segment(
        &self,
        segment: &SegmentFile,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        let (name, header) = (segment.name(), segment.header());
        let mut index = self.segment_index(lock)?;
        self.bump_objects(Kind::Segment, lock)?;
        self.segments.remove_file(name.as_str()).map_err(|error| match error {
            StoreError::Io { source, .. } if denied(&source) => write_denied(name),
            other => other,
        })?;
        segment.place().remove(first_part(header.lifetime), header.parts());
        index.remove(name, header);
        index.restamp(self, lock);
        self.segments.sync()
    }

    /// A copied or renamed file gets its own name, and its own id if the original is here.
    fn adopt(&self, segment: SegmentFile, lock: &Exclusive) -> Result<SegId, StoreError> {
        let name = segment.name();
        if segment.header().name == *name {
            return Ok(segment.sid());
        }
        let original = self.segment_name(segment.sid(), lock)?.filter(|other| other != name);
        if segment.right() == Right::Read {
            return match original {
                Some(_) => Err(StoreError::Copy { file: segment.path().to_owned() }),
                None => Ok(segment.sid()),
            };
        }
        let mut header = segment.header().clone();
        header.name = name.clone();
        if original.is_some() {
            header.sid = self.new_sid(lock)?;
            header.lease = None;
            // Lock words speak of holders of the original.
            let zeros = [0; HEADER_BYTES * 8];
            std::os::unix::fs::FileExt::write_all_at(segment.file(), &zeros, LOCK_PAGE_OFFSET)
                .map_err(|e| io_error("write", segment.path(), e))?;
        }
        let sid = header.sid;
        self.bump_objects(Kind::Segment, lock)?;
        write_header(segment.file(), segment.path(), &header)?;
        Ok(sid)
    }
}
