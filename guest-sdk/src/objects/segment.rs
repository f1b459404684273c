//! Segments.

use abi::Errno;

use super::{failed, name};
use crate::error::{Error, ObjectKind, Result};
use crate::sys::{
    self, Durability, EMPTY_SEG_STAT, Lifetime, PagePolicy, Right, SegId, SegParams, SegRoot,
    SegStat, seg_command,
};

/// A segment: memory with a name and an address of its own, which exists until it is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Segment {
    id: SegId,
    name: String,
}

/// How a segment is made.
#[derive(Debug, Clone)]
#[must_use]
pub struct SegmentOptions {
    pub(crate) params: SegParams,
}

/// What is known of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its id.
    pub id: SegId,
    /// Its name.
    pub name: String,
    /// First address, in every VAS that has it.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes it may grow to.
    pub reserve: u64,
    /// Bytes the host stores for it.
    pub stored: u64,
    /// Permission bits.
    pub mode: u32,
    /// How long its content lives; `None` for one that this version does not know.
    pub lifetime: Option<Lifetime>,
    /// When a commit to it survives a power cut; `None` if it is not versioned.
    pub durability: Option<Durability>,
    /// Which pages map it; `None` as above.
    pub pages: Option<PagePolicy>,
    /// Whether a thread that enters a VAS that has it acquires its lock.
    pub lockable: bool,
    /// Whether its last writer did not end properly.
    pub dirty: bool,
    /// Whether a holder of its lock died and it has not been recovered.
    pub inconsistent: bool,
    /// What the caller may do with it; `None`: nothing.
    pub access: Option<Right>,
    /// Live VMs that have it attached.
    pub attachers: u32,
}

impl SegmentInfo {
    pub(crate) fn new(stat: &SegStat) -> Option<SegmentInfo> {
        Some(SegmentInfo {
            id: SegId::new(stat.sid)?,
            name: name(&stat.name),
            base: stat.base,
            size: stat.size_bytes,
            reserve: stat.reserve_bytes,
            stored: stat.stored_bytes,
            mode: stat.mode,
            lifetime: Lifetime::from_raw(stat.lifetime.into()),
            durability: Durability::from_raw(stat.durability.into()),
            pages: PagePolicy::from_raw(stat.pages.into()),
            lockable: stat.lockable != 0,
            dirty: stat.dirty != 0,
            inconsistent: stat.inconsistent != 0,
            access: Right::from_raw(stat.access.into()),
            attachers: stat.attachers,
        })
    }
}

impl SegmentOptions {
    /// At this address, a multiple of 2 MiB. Without it: where no other segment of the store is.
    pub fn base(mut self, base: u64) -> SegmentOptions {
        self.params.base = base;
        self
    }

    /// May grow up to this many bytes. Without it: not at all.
    pub fn reserve(mut self, bytes: u64) -> SegmentOptions {
        self.params.reserve_bytes = bytes;
        self
    }

    /// Permission bits, as for a file; `umask` applies. Without it `0o600`.
    pub fn mode(mut self, mode: u32) -> SegmentOptions {
        self.params.mode = mode;
        self
    }

    /// How long its content lives. Without it: until deleted.
    pub fn lifetime(mut self, lifetime: Lifetime) -> SegmentOptions {
        self.params.lifetime = lifetime as u8;
        self
    }

    /// When a commit survives a power cut, of a versioned segment; others have none (`EINVAL`). Without it
    /// a tenth of a second later.
    pub fn durability(mut self, durability: Durability) -> SegmentOptions {
        self.params.durability = durability.raw();
        self
    }

    /// Which pages map it. Without it: the largest that fit.
    pub fn pages(mut self, pages: PagePolicy) -> SegmentOptions {
        self.params.pages = pages as u8;
        self
    }

    /// A thread that enters a VAS that has it acquires its lock: any number of readers, or one
    /// writer.
    pub fn lockable(mut self, lockable: bool) -> SegmentOptions {
        self.params.lockable = lockable.into();
        self
    }

    /// Makes the segment, full of zeros.
    ///
    /// # Errors
    /// As [`seg_alloc`](sys::seg_alloc): `EEXIST` if there is one of that name.
    pub fn create(&self, name: &str) -> Result<Segment> {
        let made = sys::seg_alloc(name, &self.params);
        let id = made.map_err(failed("create", ObjectKind::Segment, name))?;
        Ok(Segment { id, name: name.to_owned() })
    }

    /// Finds the segment, or makes it if there is none.
    ///
    /// # Errors
    /// As [`create`](SegmentOptions::create) and [`Segment::find`].
    pub fn open_or_create(&self, name: &str) -> Result<Segment> {
        match self.create(name) {
            Err(err) if err.errno() == Some(Errno::EEXIST) => Segment::find(name),
            other => other,
        }
    }
}

impl Segment {
    /// How to make a segment of `size` bytes.
    pub fn options(size: u64) -> SegmentOptions {
        let params = SegParams { size_bytes: size, mode: 0o600, ..SegParams::default() };
        SegmentOptions { params }
    }

    /// The segment of that name.
    ///
    /// # Errors
    /// As [`seg_find`](sys::seg_find): `ENOENT` if there is none.
    pub fn find(name: &str) -> Result<Segment> {
        let id = sys::seg_find(name).map_err(failed("find", ObjectKind::Segment, name))?;
        Ok(Segment { id, name: name.to_owned() })
    }

    pub(crate) fn from_info(info: SegmentInfo) -> Segment {
        Segment { id: info.id, name: info.name }
    }

    /// All segments of the store, in the order of their names.
    ///
    /// # Errors
    /// As [`seg_list`](sys::seg_list).
    pub fn list() -> Result<Vec<SegmentInfo>> {
        let stats = sys::all(EMPTY_SEG_STAT, sys::seg_list);
        let stats = stats.map_err(failed("list", ObjectKind::Store, "segments"))?;
        Ok(stats.iter().filter_map(SegmentInfo::new).collect())
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SegId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known of it.
    ///
    /// # Errors
    /// As [`seg_stat`](sys::seg_stat).
    pub fn stat(&self) -> Result<SegmentInfo> {
        let stat = sys::seg_stat(self.id).map_err(self.failed("look at"))?;
        SegmentInfo::new(&stat).ok_or_else(|| self.failed("look at")(Errno::EIO))
    }

    /// A copy of its content under a new name, at the same address, consistent: the call waits for
    /// writers to leave.
    ///
    /// # Errors
    /// As [`seg_clone`](sys::seg_clone): `EDEADLK` for a thread that is inside to write, which may
    /// be in the middle of a change; leave first.
    pub fn clone_as(&self, name: &str) -> Result<Segment> {
        let id = sys::seg_clone(self.id, name).map_err(self.failed("clone"))?;
        Ok(Segment { id, name: name.to_owned() })
    }

    /// Makes it larger, in place; what is new is zeros.
    ///
    /// # Errors
    /// As [`seg_grow`](sys::seg_grow): `EFBIG` beyond its reserve.
    pub fn grow(&self, size: u64) -> Result<()> {
        sys::seg_grow(self.id, size).map_err(self.failed("grow"))
    }

    /// Returns when all that was written to it is on stable storage.
    ///
    /// # Errors
    /// As [`seg_sync`](sys::seg_sync).
    pub fn sync(&self) -> Result<()> {
        sys::seg_sync(self.id).map_err(self.failed("sync"))
    }

    /// Its root object: an address and two words about its type; address 0 if there is none.
    ///
    /// # Errors
    /// As [`seg_root_get`](sys::seg_root_get).
    pub fn root(&self) -> Result<SegRoot> {
        sys::seg_root_get(self.id).map_err(self.failed("read the root of"))
    }

    /// Deletes it and its content.
    ///
    /// # Errors
    /// As [`seg_delete`](sys::seg_delete): `EBUSY` while a process has it attached.
    pub fn delete(self) -> Result<()> {
        sys::seg_delete(self.id).map_err(self.failed("delete"))
    }

    /// Sets the permission bits.
    ///
    /// # Errors
    /// As [`seg_ctl`](sys::seg_ctl): `EPERM` if the caller is not the owner.
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        self.control(seg_command::SET_MODE, u64::from(mode), "set the mode of")
    }

    /// Sets whether it is lockable.
    ///
    /// # Errors
    /// As [`seg_ctl`](sys::seg_ctl): `EBUSY` while a process has it attached.
    pub fn set_lockable(&self, lockable: bool) -> Result<()> {
        self.control(seg_command::SET_LOCKABLE, lockable.into(), "set the lock of")
    }

    /// Sets which pages map it, where tables are built from now on.
    ///
    /// # Errors
    /// As [`seg_ctl`](sys::seg_ctl).
    pub fn set_pages(&self, pages: PagePolicy) -> Result<()> {
        self.control(seg_command::SET_PAGES, pages as u64, "set the pages of")
    }

    fn control(&self, command: u64, argument: u64, verb: &'static str) -> Result<()> {
        sys::seg_ctl(self.id, command, argument).map_err(self.failed(verb))
    }

    /// # Safety
    /// As [`seg_root_set`](sys::seg_root_set).
    pub(crate) unsafe fn set_root(&self, root: &SegRoot) -> Result<()> {
        // SAFETY: the caller's promise.
        let set = unsafe { sys::seg_root_set(self.id, root) };
        set.map_err(self.failed("set the root of"))
    }

    /// # Safety
    /// As [`seg_recover`](sys::seg_recover).
    pub(crate) unsafe fn recover(&self) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { sys::seg_recover(self.id) }.map_err(self.failed("recover"))
    }

    fn failed(&self, verb: &'static str) -> impl FnOnce(Errno) -> Error {
        failed(verb, ObjectKind::Segment, &self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vas;

    #[test]
    fn outside_a_vm_every_object_says_so() {
        let expected = "not running under spacejmp: start the program with `spacejmp run`";
        for error in [
            Vas::create("a").map(|_| ()).unwrap_err(),
            Vas::find("a").map(|_| ()).unwrap_err(),
            Vas::list().map(|_| ()).unwrap_err(),
            Segment::options(1).open_or_create("a").map(|_| ()).unwrap_err(),
            Segment::list().map(|_| ()).unwrap_err(),
        ] {
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.errno(), Some(Errno::ENOSYS));
        }
    }
}
