//! Looking segments up, listing, changing and deleting them.

use abi::objects::{Durability, LeaseId, Lifetime, PagePolicy, Right, SegId, SegRoot};

use crate::format::counters::Counted;
use crate::format::error::{Busy, Object, StoreError, invalid, io_error};
use crate::format::extent::{LOCK_PAGE_OFFSET, first_part, part_len};
use crate::format::header::{HEADER_BYTES, Header, read_header, write_header};
use crate::format::name::{Mode, Name};
use crate::objects::create::{ONLY_VERSIONED, check_lockable, make_parts, round_size, set_len};
use crate::objects::dir::or_denied;
use crate::objects::durable;
use crate::objects::leases::LiveLease;
use crate::objects::lock::Exclusive;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

impl Store {
    /// The id of the segment with this name. A copied file gets its own name and id now, if
    /// the caller may write it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Denied`], [`StoreError::BadField`];
    /// [`StoreError::VersionedCopy`] for a copied file of a versioned segment, and
    /// [`StoreError::VersionsMissing`] for a renamed one without its content.
    pub fn find_segment(&self, name: &Name) -> Result<SegId, StoreError> {
        // A file gets its name when it is whole, and a header has a checksum, so what needs no change needs no
        // lock. Whether a volatile one is gone, the leases say.
        if let Ok(segment) = self.open_whole(name)
            && segment.header().name == *name
            && segment.header().lifetime != Lifetime::Volatile
        {
            self.hints().note_segment(segment.sid(), name);
            return Ok(segment.sid());
        }
        {
            let lock = self.lock_shared()?;
            let segment = self.open_named(name, &lock)?;
            if segment.header().name == *name && !self.is_gone(segment.header(), &lock) {
                self.hints().note_segment(segment.sid(), name);
                return Ok(segment.sid());
            }
        }
        let lock = self.lock_exclusive()?;
        self.reap_volatile(name, &lock);
        let segment = self.open_named(name, &lock)?;
        self.adopt(segment, &lock)
    }

    /// Deletes a segment and its content.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if a live VM has it attached or a VAS lists it,
    /// [`StoreError::Denied`] without the right to write it.
    pub fn delete_segment(&self, sid: SegId) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_deletable(sid, &lock)?;
        self.check_unattached(&segment)?;
        let listed = self.vases_listing(sid)?;
        if !listed.is_empty() {
            let object = Object::SegmentName(segment.name().clone());
            return Err(StoreError::Busy { object, why: Busy::Listed(listed) });
        }
        if segment.is_versioned() {
            // It may come back under its id, from an archive, and know nothing of commits that it had with
            // others. Where they cannot be looked at, it goes all the same.
            let _ = self.settle_partners(&segment, &lock);
        }
        self.remove_segment(&segment, &lock)
    }

    /// Grows a segment in place to `size_bytes`, rounded up to 4 KiB. A VM sees it when it calls
    /// [`Store::refresh`]. Files that are longer than the header says are what a growth that was
    /// interrupted has left: the next one continues from there.
    ///
    /// # Errors
    /// [`StoreError::BeyondReserve`]; [`StoreError::Invalid`] for less than it has;
    /// [`StoreError::Denied`]; [`StoreError::Versioned`].
    pub fn grow_segment(&self, sid: SegId, size_bytes: u64) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_writable(sid, &lock)?;
        segment.check_raw("grow")?;
        let mut header = segment.header().clone();
        check_growth(&segment, header.size_bytes, size_bytes)?;
        let size_bytes = round_size(size_bytes, header.reserve_bytes)?;
        let old_parts = header.parts();
        header.size_bytes = size_bytes;
        // Files first, and on stable storage: a header never claims what is not there, not even
        // after a power cut.
        set_len(segment.file(), segment.path(), header.main_len())?;
        durable::sync_start(segment.file(), segment.path())?;
        let first = first_part(header.lifetime);
        if let Some(last) = old_parts.checked_sub(1).filter(|last| *last >= first) {
            let (file, path) = segment.place().open(segment.name(), last, Right::Write)?;
            set_len(&file, &path, part_len(size_bytes, last))?;
            durable::sync_all(&file, &path)?;
        }
        let mode = self.mode_of(&segment)?;
        let first_new = old_parts.max(first);
        // Left there by a growth that failed half-way.
        segment.place().remove(first_new, header.parts());
        make_parts(segment.place(), first_new, size_bytes, mode)?;
        self.change_header(&segment, &lock, |stored| *stored = header)?;
        drop(lock);
        durable::sync_start(segment.file(), segment.path())
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
        let refusal = || StoreError::NotOwner(Object::SegmentName(name.clone()));
        let changed = self.segments.chmod(name.as_str(), mode.of_file());
        changed.map_err(|error| or_denied(error, refusal))?;
        let header = segment.header();
        let mut failed = None;
        segment.place().each(first_part(header.lifetime), header.parts(), |dir, part| {
            if matches!(dir.stat(part), Ok(Some(_))) {
                failed = dir.chmod(part, mode.of_file()).err().or(failed.take());
            }
        });
        self.set_versions_mode(&segment, mode).err().or(failed).map_or(Ok(()), Err)
    }

    /// Whether switching into a VAS with it acquires its lock.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while a live VM has it attached, [`StoreError::Denied`];
    /// [`StoreError::Invalid`] for a versioned segment without a lock.
    pub fn set_lockable(&self, sid: SegId, lockable: bool) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_writable(sid, &lock)?;
        check_lockable(segment.header().lifetime, lockable)?;
        self.check_unattached(&segment)?;
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

    /// When commits of a versioned segment survive a power cut, from the next one on.
    ///
    /// # Errors
    /// [`StoreError::Denied`]; [`StoreError::Invalid`] for a segment that is not versioned.
    pub fn set_durability(&self, sid: SegId, durability: Durability) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_writable(sid, &lock)?;
        if !segment.is_versioned() {
            return Err(invalid("the durability", durability, ONLY_VERSIONED));
        }
        self.change_header(&segment, &lock, |header| header.durability = durability)
    }

    /// The address of the root object.
    ///
    /// # Errors
    /// As [`Store::open_segment`].
    pub fn root_get(&self, sid: SegId) -> Result<SegRoot, StoreError> {
        Ok(self.open_segment(sid)?.header().root)
    }

    /// Sets the address of the root object.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for an address outside the segment, [`StoreError::Denied`],
    /// [`StoreError::Versioned`].
    pub fn root_set(&self, sid: SegId, root: SegRoot) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_writable(sid, &lock)?;
        segment.check_raw("set the root object of")?;
        let (base, size_bytes) = (segment.header().base, segment.header().size_bytes);
        let inside = root.address.checked_sub(base).is_some_and(|offset| offset < size_bytes);
        if root.address != 0 && !inside {
            let expected = format!("0 or {size_bytes:#x} bytes from {base:#x} on");
            return Err(invalid("the root's address", format!("{:#x}", root.address), expected));
        }
        self.change_header(&segment, &lock, |header| header.root = root)
    }

    /// Returns when all written content is on stable storage. Content of a volatile segment
    /// has none.
    ///
    /// # Errors
    /// [`StoreError::Denied`] when it is open for reading; [`StoreError::Versioned`]; the host's error.
    pub fn sync(&self, segment: &SegmentFile) -> Result<(), StoreError> {
        segment.check_writable()?;
        segment.check_raw("sync")?;
        self.sync_content(segment)
    }

    /// The same for a raw segment that is open for writing. Takes the store's lock for a moment.
    pub(crate) fn sync_content(&self, segment: &SegmentFile) -> Result<(), StoreError> {
        // It may have grown since it was opened.
        let header = {
            let _lock = self.lock_shared()?;
            read_header(segment.file(), segment.path())?
        };
        durable::sync_all(segment.file(), segment.path())?;
        if header.lifetime == Lifetime::Volatile {
            return Ok(());
        }
        for index in 1..header.parts() {
            let (file, path) = segment.place().open(segment.name(), index, segment.right())?;
            durable::sync_all(&file, &path)?;
        }
        Ok(())
    }
}

/// For the rest of this crate, with the lock held.
impl Store {
    pub(crate) fn change_header(
        &self,
        segment: &SegmentFile,
        _lock: &Exclusive,
        change: impl FnOnce(&mut Header),
    ) -> Result<(), StoreError> {
        let mut header = read_header(segment.file(), segment.path())?;
        change(&mut header);
        durable::step(segment.path(), "header of");
        write_header(segment.file(), segment.path(), &header)
    }

    /// Checks that no VM but the one with the lease `mine` can write a segment now.
    ///
    /// # Errors
    /// [`StoreError::Busy`] with the VMs that can.
    pub fn check_unwritten(&self, sid: SegId, mine: Option<LeaseId>) -> Result<(), StoreError> {
        let leases = self.live_leases_but(mine)?;
        let writers = leases.iter().filter(|lease| lease.right_of(sid) == Some(Right::Write));
        let holders: Vec<_> = writers.map(LiveLease::holder).collect();
        if holders.is_empty() {
            return Ok(());
        }
        Err(StoreError::Busy { object: Object::Segment(sid), why: Busy::Written(holders) })
    }

    /// The error of a lock that could not be acquired in time, with its holder.
    pub fn locked(&self, segment: &SegmentFile) -> StoreError {
        let owner = segment.lock_view().ok().and_then(|view| view.owner_lease());
        let leases = self.live_leases().unwrap_or_default();
        let holder = leases.iter().find(|lease| Some(lease.id()) == owner).map(LiveLease::holder);
        let by = holder.map_or_else(
            || "a program that waits for it or is about to release it".to_owned(),
            |holder| format!("process {} ({})", holder.pid, holder.program),
        );
        StoreError::Locked { segment: segment.name().clone(), by }
    }

    /// A copied or renamed file gets its own name, and its own id if the original is here.
    fn adopt(&self, segment: SegmentFile, lock: &Exclusive) -> Result<SegId, StoreError> {
        let name = segment.name();
        if segment.header().name == *name {
            return Ok(segment.sid());
        }
        self.check_content(&segment, lock)?;
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
            // The lock words name holders of the original.
            let zeros = [0; HEADER_BYTES * 8];
            std::os::unix::fs::FileExt::write_all_at(segment.file(), &zeros, LOCK_PAGE_OFFSET)
                .map_err(|e| io_error("write", segment.path(), e))?;
        }
        let sid = header.sid;
        self.bump_objects(Counted::Segment, lock)?;
        write_header(segment.file(), segment.path(), &header)?;
        Ok(sid)
    }
}

/// Whether a segment of `present_bytes` can be given a size.
pub(crate) fn check_growth(
    segment: &SegmentFile,
    present_bytes: u64,
    wanted_bytes: u64,
) -> Result<(), StoreError> {
    let reserve_bytes = segment.header().reserve_bytes;
    if wanted_bytes > reserve_bytes {
        let segment = segment.name().clone();
        return Err(StoreError::BeyondReserve { segment, reserve_bytes, wanted_bytes });
    }
    if round_size(wanted_bytes, reserve_bytes)? < present_bytes {
        let expected = format!("{present_bytes:#x} or more: segments do not shrink");
        return Err(invalid("the new size", format!("{wanted_bytes:#x}"), expected));
    }
    Ok(())
}
