//! One version of a versioned segment as another segment: by links, or where that is not possible by a
//! copy.

use std::os::unix::fs::FileExt;

use abi::objects::{Right, SegId};
use spacejmp_versions::VersionNumber;
use spacejmp_versions::disk::host::HostFolder;

use crate::format::error::{Object, StoreError, io_error};
use crate::format::header::{Header, KeptVersion, write_header};
use crate::format::name::{Mode, Name};
use crate::objects::clone::{Copied, Made, MadeVersions, Unfinished};
use crate::objects::create::{set_len, set_mode};
use crate::objects::fresh::now_ns;
use crate::objects::kept::content::{HeldAlone, OpenContent};
use crate::objects::kept::names::TagName;
use crate::objects::kept::pinned::Pinned;
use crate::objects::lock::Exclusive;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;
use crate::objects::versions::FIRST_LOG;

/// What a version becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Becomes {
    /// A kept version, which is only read.
    Kept,
    /// A versioned segment that goes its own way.
    Clone,
}

/// The content of a version as a file, for a segment that is made of it.
pub(crate) struct HomeCopy<'a> {
    home: Unfinished<'a>,
    header: Header,
    mode: Mode,
}

impl SegmentFile {
    /// Checks that links of its files can be made: they belong to who owns the segment, whoever makes
    /// them, and can be written by who may write it.
    pub(crate) fn check_linkable(&self) -> Result<(), StoreError> {
        if self.owner() == rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        Err(StoreError::NotOwner(Object::SegmentName(self.name().clone())))
    }

    /// Whether a clone of it is made of links.
    #[must_use]
    pub fn is_linked_by_clones(&self) -> bool {
        let writable = self.right() == Right::Write || self.header().kept.is_some();
        self.is_versioned() && writable && self.check_linkable().is_ok()
    }
}

impl Store {
    /// Keeps a version of a segment under a name, durably, in constant time. `number` is that of the
    /// version, without it the newest. Returns its number. The caller holds the segment's lock alone.
    ///
    /// # Errors
    /// [`StoreError::Exists`]; [`StoreError::NoVersion`] for a version that is gone; [`StoreError::Versions`];
    /// [`StoreError::NotOwner`], [`StoreError::Denied`]; [`StoreError::Invalid`] for a
    /// segment that is not versioned; the host's. Then there is nothing new.
    pub fn keep_version(
        &self,
        sid: SegId,
        number: Option<u64>,
        tag: &TagName,
        held: HeldAlone,
    ) -> Result<u64, StoreError> {
        let lock = self.lock_exclusive()?;
        let source = self.open_present(sid, &lock)?;
        let name = tag.of(source.name())?;
        source.check_versioned()?;
        source.check_writable()?;
        let mut content = self.open_content(&source, held, &lock)?;
        let number = number.unwrap_or(content.versions.appended().0);
        let kept = Becomes::Kept;
        let mut made =
            self.link_version(&mut content, &source, number, &name, kept, "segment", &lock)?;
        content.settle()?;
        self.publish_segment(&made.main.name, &made.header, &lock)?;
        made.is_published();
        Ok(number)
    }

    /// A clone of a version of a segment, by links: see [`Store::keep_version`].
    ///
    /// # Errors
    /// As there.
    pub fn clone_version(
        &self,
        sid: SegId,
        number: Option<u64>,
        name: &Name,
        held: HeldAlone,
    ) -> Result<SegId, StoreError> {
        name.check_new()?;
        let lock = self.lock_exclusive()?;
        let source = self.open_present(sid, &lock)?;
        source.check_versioned()?;
        let mut content = self.open_content(&source, held, &lock)?;
        let number = number.unwrap_or(content.versions.appended().0);
        let becomes = Becomes::Clone;
        let mut made =
            self.link_version(&mut content, &source, number, name, becomes, "segment", &lock)?;
        content.settle()?;
        self.publish_segment(&made.main.name, &made.header, &lock)?;
        Ok(made.is_published())
    }

    /// A clone by a copy of the content, for who may only read it. Nothing is locked: a version does not
    /// change while a lease says that somebody has it (`Store::pin_version`).
    ///
    /// # Errors
    /// As [`Store::create_segment`]; [`StoreError::NoVersion`] for a version that is gone.
    pub fn copy_version(
        &self,
        sid: SegId,
        number: Option<u64>,
        name: &Name,
    ) -> Result<SegId, StoreError> {
        name.check_new()?;
        let source = self.open_segment(sid)?;
        source.check_versioned()?;
        let copy = self.copy_home(&source, &self.pin_version(sid, number)?, name)?;
        let lock = self.lock_exclusive()?;
        self.check_segment_name_free(name, &lock)?;
        let mut made = self.of_home(copy, "segment", &lock)?;
        self.publish_segment(&made.main.name, &made.header, &lock)?;
        Ok(made.is_published())
    }

    /// Makes the files of what a version becomes, up to its place in the store.
    #[expect(clippy::too_many_arguments, reason = "what is made of what, and where")]
    pub(crate) fn link_version(
        &self,
        content: &mut OpenContent<'_>,
        source: &SegmentFile,
        number: u64,
        name: &Name,
        becomes: Becomes,
        kind: &str,
        lock: &Exclusive,
    ) -> Result<Copied<'_>, StoreError> {
        source.check_linkable()?;
        self.check_segment_name_free(name, lock)?;
        let kept = match becomes {
            Becomes::Kept => Some(KeptVersion { of: source.sid(), number }),
            Becomes::Clone => None,
        };
        let header = Header { kept, ..new_header(source, self.new_sid(lock)?, name) };
        let mode = self.mode_of(source)?;
        let made = self.place_versions(&header, mode, lock, |folder| {
            let into = HostFolder::from_fd(folder.into_fd()?).counted_by(self.growth.clone());
            let (version, limits) = (VersionNumber(number), FIRST_LOG);
            let linked =
                content.versions.link_version(version, &into, header.sid.raw(), |_| (), limits);
            linked.map_err(|error| self.of_versions_of(source, error, lock))
        })?;
        self.with_file(header, mode, made, kind, lock)
    }

    /// The segment's own file, beside its versions.
    pub(crate) fn with_file<'a>(
        &'a self,
        header: Header,
        mode: Mode,
        made: MadeVersions<'a>,
        kind: &str,
        lock: &Exclusive,
    ) -> Result<Copied<'a>, StoreError> {
        let main = self.new_copy_locked(format!("{}.{kind}", header.sid), lock)?;
        let path = self.tmp.path_of(&main.name);
        set_len(&main.file, &path, header.main_len())?;
        write_header(&main.file, &path, &header)?;
        set_mode(&main.file, &path, mode)?;
        main.file.sync_all().map_err(|e| io_error("sync", &path, e))?;
        Ok(Copied { main, made: Made::Versions(made), header })
    }

    /// Copies what a version has to a file in `tmp/`.
    pub(crate) fn copy_home(
        &self,
        source: &SegmentFile,
        pinned: &Pinned,
        name: &Name,
    ) -> Result<HomeCopy<'_>, StoreError> {
        let mode = self.mode_of(source)?;
        let sid = {
            let lock = self.lock_exclusive()?;
            self.check_segment_name_free(name, &lock)?;
            self.new_sid(&lock)?
        };
        let header = new_header(&pinned.segment, sid, name);
        let home = self.new_copy(format!("{sid}.home"))?;
        let path = self.tmp.path_of(&home.name);
        set_len(&home.file, &path, header.size_bytes)?;
        let write = |at, bytes: &[u8]| home.file.write_all_at(bytes, at);
        let written = pinned.content.each_run(pinned.number, header.size_bytes, write);
        written.map_err(source.of_versions())?.map_err(|e| io_error("write", &path, e))?;
        pinned.check()?;
        home.file.sync_all().map_err(|e| io_error("sync", &path, e))?;
        Ok(HomeCopy { home, header, mode })
    }

    /// Makes a versioned segment of a copy, up to its place in the store.
    pub(crate) fn of_home<'a>(
        &'a self,
        copy: HomeCopy<'a>,
        kind: &str,
        lock: &Exclusive,
    ) -> Result<Copied<'a>, StoreError> {
        let HomeCopy { mut home, header, mode } = copy;
        self.make_versions(&header, mode, Some(&mut home), lock)?;
        let made = MadeVersions::new(self, &header);
        self.with_file(header, mode, made, kind, lock)
    }
}

/// The header of a copy of a versioned segment.
fn new_header(source: &SegmentFile, sid: SegId, name: &Name) -> Header {
    Header {
        sid,
        name: name.clone(),
        lease: None,
        used: false,
        created_ns: now_ns(),
        kept: None,
        ..source.header().clone()
    }
}
