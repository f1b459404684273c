//! Attaching and releasing segments: clean and dirty, and the end of volatile segments.
//!
//! A VM joins a segment at its first attachment and leaves it at its last. Both happen under
//! the store's lock together with the entry in the VM's lease, so that a segment cannot be
//! deleted between being opened and being known as attached.

use abi::objects::{LeaseId, Lifetime, Right, SegId};

use crate::format::error::{Busy, Object, StoreError};
use crate::format::header::{SegmentState, read_header};
use crate::objects::durable;
use crate::objects::lease::Lease;
use crate::objects::leases::LiveLease;
use crate::objects::lock::{Exclusive, Locked};
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

fn busy(segment: &SegmentFile, why: Busy) -> StoreError {
    StoreError::Busy { object: Object::SegmentName(segment.name().clone()), why }
}

const NOTHING_TO_RECOVER: &str = "it always shows a whole version: there is nothing to recover";

/// Whether another live VM can write a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OtherWriters {
    /// One can: what it has published is the truth.
    Live,
    /// None can: what the files say is, and recovery is due.
    None,
}

impl Store {
    /// This VM has the segment attached from now on, recorded at `index` of its lease; with
    /// the right to write, the segment counts as dirty until the VM leaves. To change from
    /// reading to writing, join again at the same index. A lockable segment that an earlier boot
    /// of the host left dirty is inconsistent from now on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if it was deleted since it was opened;
    /// [`StoreError::Denied`] if it is to be written and is open for reading;
    /// [`StoreError::Versioned`], see [`Store::join_versioned`].
    pub fn join(
        &self,
        segment: &mut SegmentFile,
        lease: &Lease,
        index: u32,
        right: Right,
    ) -> Result<(), StoreError> {
        if right == Right::Write {
            segment.check_writable()?;
        }
        if segment.is_versioned() {
            return Err(segment.refused("attach", "only `join_versioned` opens its content"));
        }
        self.note_another_boot(segment)?;
        let first_use = segment.header().lifetime == Lifetime::Volatile;
        if segment.right() == Right::Write && (right == Right::Write || first_use) {
            let lock = self.lock_exclusive()?;
            self.check_still_there(segment, &lock)?;
            let before = lease.segment(index);
            lease.set_segment(index, Some((segment.sid(), right)))?;
            let marked = match right {
                Right::Read => self.change_header(segment, &lock, |header| header.used = true),
                Right::Write => self.make_dirty(segment, lease.id(), &lock),
            };
            marked.inspect_err(|_| {
                // Should this fail, the VM counts as one that has it until it ends.
                let _ = lease.set_segment(index, before);
            })?;
            segment.set_header(read_header(segment.file(), segment.path())?);
            return Ok(());
        }
        let lock = self.lock_shared()?;
        self.check_still_there(segment, &lock)?;
        segment.set_header(read_header(segment.file(), segment.path())?);
        lease.note_segment(index, segment, right, self)
    }

    /// This VM has a versioned segment attached from now on, as by [`Store::join`]; it never counts
    /// as dirty. `open` opens its content and learns whether another live VM can write it. That does
    /// not change before `open` returns: with the right to write it may recover the content, and publish. It must not use what takes the store's lock.
    ///
    /// # Errors
    /// As [`Store::join`]; errors of `open`. Then the VM has what it had before.
    pub fn join_versioned(
        &self,
        segment: &mut SegmentFile,
        lease: &Lease,
        index: u32,
        right: Right,
        open: &mut dyn FnMut(&SegmentFile, OtherWriters) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        segment.check_versioned()?;
        if right == Right::Write {
            segment.check_writable()?;
        }
        let is_as_opened = segment.is_as_opened(self);
        let lock: Box<dyn Locked> = match right {
            Right::Write => Box::new(self.lock_exclusive()?),
            // It recovers nothing, and with others who read nothing changes: any number comes at once.
            Right::Read => Box::new(self.lock_shared()?),
        };
        if !is_as_opened {
            self.check_still_there(segment, &*lock)?;
            segment.take_settings(&read_header(segment.file(), segment.path())?);
        }
        let before = lease.segment(index);
        lease.note_segment(index, segment, right, self)?;
        let others = self.other_writers(segment.sid(), lease.id());
        others.and_then(|others| open(segment, others)).inspect_err(|_| {
            // Should this fail, the VM counts as one that has it until it ends.
            let _ = lease.set_segment(index, before);
        })
    }

    /// Whether a live VM other than `mine` has the segment attached, with a lease or without.
    ///
    /// # Errors
    /// If the host fails.
    pub fn others_attached(
        &self,
        segment: &SegmentFile,
        mine: LeaseId,
    ) -> Result<bool, StoreError> {
        if segment.is_read_without_lease() {
            return Ok(true);
        }
        let others = self.live_leases_but(Some(mine))?;
        Ok(others.iter().any(|other| other.right_of(segment.sid()).is_some()))
    }

    fn other_writers(&self, sid: SegId, mine: LeaseId) -> Result<OtherWriters, StoreError> {
        self.writers_but(sid, Some(mine))
    }

    pub(crate) fn writers_but(
        &self,
        sid: SegId,
        mine: Option<LeaseId>,
    ) -> Result<OtherWriters, StoreError> {
        let others = self.live_leases_but(mine)?;
        let can_write = others.iter().any(|other| other.right_of(sid) == Some(Right::Write));
        Ok(if can_write { OtherWriters::Live } else { OtherWriters::None })
    }

    /// This VM no longer has the segment attached. If it was the last to write, the segment is
    /// clean, once its content is on stable storage; if it was the last at all, a volatile segment
    /// is gone.
    ///
    /// # Errors
    /// The host's error. If the content could not be stored, the segment stays dirty; the VM has
    /// left it all the same.
    pub fn leave(
        &self,
        segment: &SegmentFile,
        lease: &Lease,
        index: u32,
    ) -> Result<(), StoreError> {
        self.leave_for(segment, lease, index, None)
    }

    /// This VM reads from now on what it could write: as [`Store::leave`], but it stays attached.
    ///
    /// # Errors
    /// As [`Store::leave`].
    pub fn stop_writing(
        &self,
        segment: &SegmentFile,
        lease: &Lease,
        index: u32,
    ) -> Result<(), StoreError> {
        self.leave_for(segment, lease, index, Some(Right::Read))
    }

    /// Content first, then the header that calls it clean, each on stable storage before the next.
    /// The lease says until the end that this VM writes: another one that leaves meanwhile would
    /// call clean what is not stored yet.
    fn leave_for(
        &self,
        segment: &SegmentFile,
        lease: &Lease,
        index: u32,
        keeps: Option<Right>,
    ) -> Result<(), StoreError> {
        // A reader that leaves must not mark clean what a dead writer left.
        let wrote = lease.segment(index) == Some((segment.sid(), Right::Write))
            && segment.right() == Right::Write
            && !segment.is_versioned();
        let stored = wrote && segment.header().lifetime == Lifetime::Persistent;
        // Without the store's lock, which others would wait for as long as for the disk.
        let synced = if stored { self.sync_content(segment) } else { Ok(()) };
        {
            let lock = self.lock_exclusive()?;
            lease.set_segment(index, keeps.map(|right| (segment.sid(), right)))?;
            if self.check_still_there(segment, &lock).is_err() {
                return Ok(());
            }
            if wrote && synced.is_ok() {
                self.make_clean(segment, lease.id(), &lock)?;
            }
            if keeps.is_none() && segment.header().lifetime == Lifetime::Volatile {
                self.reap_volatile(segment.name(), &lock);
            }
        }
        synced?;
        if stored { durable::sync_start(segment.file(), segment.path()) } else { Ok(()) }
    }

    /// Marks a segment as being written by a VM; not a versioned one, which cannot be left in the
    /// middle of a change. Part of [`Store::join`].
    ///
    /// # Errors
    /// [`StoreError::Denied`] if it is open for reading.
    pub fn mark_dirty(&self, segment: &SegmentFile, lease: LeaseId) -> Result<(), StoreError> {
        segment.check_writable()?;
        if segment.is_versioned() {
            return Ok(());
        }
        self.make_dirty(segment, lease, &self.lock_exclusive()?)
    }

    /// Checks that a segment can be declared consistent from outside: this user may write it, no
    /// live VM can, and no thread is inside.
    ///
    /// # Errors
    /// [`StoreError::Busy`], [`StoreError::Denied`]; [`StoreError::Versioned`]: there is nothing to
    /// recover.
    pub fn check_recoverable(&self, segment: &SegmentFile) -> Result<(), StoreError> {
        segment.check_writable()?;
        if segment.is_versioned() {
            return Err(segment.refused("recover", NOTHING_TO_RECOVER));
        }
        self.check_no_writer(segment)?;
        let (leases, lock) = (self.live_leases()?, segment.lock_view()?);
        match leases.iter().find(|lease| lock.is_inside(lease.id())) {
            Some(lease) => Err(busy(segment, Busy::Inside(lease.holder()))),
            None => Ok(()),
        }
    }

    fn check_no_writer(&self, segment: &SegmentFile) -> Result<(), StoreError> {
        let leases = self.live_leases()?;
        let writes = |lease: &&LiveLease| lease.right_of(segment.sid()) == Some(Right::Write);
        let writers: Vec<_> = leases.iter().filter(writes).map(LiveLease::holder).collect();
        match writers.is_empty() {
            true => Ok(()),
            false => Err(busy(segment, Busy::Attached(writers))),
        }
    }

    /// Calls a segment clean whose content a user has found whole, once it is on stable storage.
    /// The caller holds its lock alone, and has found it recoverable ([`Store::check_recoverable`]).
    ///
    /// # Errors
    /// [`StoreError::Busy`] if a VM has attached it for writing since; the host's errors.
    pub fn declare_clean(&self, segment: &SegmentFile) -> Result<(), StoreError> {
        self.sync(segment)?;
        {
            let lock = self.lock_exclusive()?;
            self.check_still_there(segment, &lock)?;
            self.check_no_writer(segment)?;
            self.change_header(segment, &lock, |header| header.state = SegmentState::Clean)?;
        }
        durable::sync_start(segment.file(), segment.path())
    }

    /// Deletes a volatile segment that no live VM has. To be called after the last attachment in a
    /// VM, and its entry in the lease, are gone. Part of [`Store::leave`].
    ///
    /// # Errors
    /// If the host fails.
    pub fn segment_left(&self, sid: SegId) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        if let Some(name) = self.segment_name(sid, &lock)? {
            self.reap_volatile(&name, &lock);
        }
        Ok(())
    }

    fn make_dirty(
        &self,
        segment: &SegmentFile,
        lease: LeaseId,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        let mut was_dirty = false;
        self.change_header(segment, lock, |header| {
            was_dirty = header.state == SegmentState::Dirty;
            header.used = true;
            header.state = SegmentState::Dirty;
            header.lease = Some(lease);
            header.boot = self.boot();
        })?;
        // What is written from now on may be stored at any time: not before this. Under the lock,
        // so that nobody finds it dirty and goes ahead of the disk.
        if was_dirty || segment.header().lifetime != Lifetime::Persistent {
            return Ok(());
        }
        durable::sync_start(segment.file(), segment.path())
    }

    fn make_clean(
        &self,
        segment: &SegmentFile,
        lease: LeaseId,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        let mut writers = self
            .live_leases_but(Some(lease))?
            .into_iter()
            .filter(|other| other.right_of(segment.sid()) == Some(Right::Write));
        let other = writers.next().map(|other| other.id());
        self.change_header(segment, lock, |header| match other {
            Some(other) => header.lease = Some(other),
            None => header.state = SegmentState::Clean,
        })
    }

    /// The file with this name is still the same one.
    pub(crate) fn check_still_there(
        &self,
        segment: &SegmentFile,
        _lock: &dyn Locked,
    ) -> Result<(), StoreError> {
        if self.is_same_file(segment)? {
            return Ok(());
        }
        Err(StoreError::NotFound(Object::Segment(segment.sid())))
    }

    /// Whether the file with the segment's name is the one that was opened.
    pub(crate) fn is_same_file(&self, segment: &SegmentFile) -> Result<bool, StoreError> {
        let name = segment.name().as_str();
        let there = match self.segments.stat_at(name) {
            Some(stat) => Some(stat),
            None => self.segments.stat(name)?,
        };
        Ok(there.map(|stat| (stat.st_dev, stat.st_ino)) == Some(segment.identity()))
    }
}
