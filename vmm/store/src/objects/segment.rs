//! An open segment: its files, and where each byte of its content lies in them.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi::addr::PAGE_SIZE;
use abi::objects::{Lifetime, Right, SegId};
use rustix::fs::{OFlags, Stat};
use spacejmp_versions::disk::host::Growth;

use crate::format::error::{StoreError, bad_field, invalid, io_error};
use crate::format::extent::{DATA_OFFSET, LOCK_PAGE_OFFSET, PART_BYTES, WORDS_OFFSET};
use crate::format::header::{Header, read_header};
use crate::format::name::Name;
use crate::objects::dir::Dir;
use crate::objects::durable;
use crate::objects::lock::SharedLock;
use crate::objects::store::Store;

/// One file with content of a segment.
#[derive(Clone, Debug)]
pub struct PartFile {
    file: Arc<File>,
    offset: u64,
    len_bytes: u64,
}

impl PartFile {
    /// The file, for mapping; open for writing if the segment is.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Offset in the file of the part's first byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the part, when it was opened.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

/// Where a byte of a segment lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// Number of the part.
    pub part: u64,
    /// Offset in its file.
    pub file_offset: u64,
    /// Bytes from here to the end of the part or of the segment.
    pub left_bytes: u64,
}

/// A segment, opened by a user who may read it. A clone has the same files open.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    main: Arc<File>,
    path: PathBuf,
    name: Name,
    header: Header,
    right: Right,
    /// Folders and file names of parts.
    place: PartFiles,
    /// The store's folder.
    root: Arc<Dir>,
    /// The store's change counters.
    pub(crate) counters: Arc<File>,
    /// The folder of versioned segments' folders.
    versions: Arc<Dir>,
    /// Who counts what its versions grow by.
    pub(crate) growth: Option<Arc<dyn Growth>>,
    /// The user whose file it is.
    owner: u32,
    /// Device and inode of the file.
    identity: (u64, u64),
    about: About,
}

/// What the host said of a segment's file when it was opened, or found to be the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    /// Type and permission bits.
    pub(crate) mode: u32,
    pub(crate) stored_bytes: u64,
    /// [`Store::held_for_all`] then.
    held: Option<u64>,
}

impl About {
    fn of(store: &Store, stat: &Stat) -> About {
        let stored_bytes = u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        About { mode: stat.st_mode, stored_bytes, held: store.held_for_all() }
    }
}

impl SegmentFile {
    /// Its id.
    #[must_use]
    pub fn sid(&self) -> SegId {
        self.header.sid
    }

    /// Its name: the file's.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its header, as of opening or the last [`Store::refresh`].
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether it is open for writing.
    #[must_use]
    pub fn right(&self) -> Right {
        self.right
    }

    /// The file with the page of lock words, and the page's offset. Without the right to
    /// write, the file is open for reading only.
    #[must_use]
    pub fn lock_page(&self) -> (BorrowedFd<'_>, u64) {
        (self.main.as_fd(), LOCK_PAGE_OFFSET)
    }

    /// The file's path, if it was truncated so that a page is gone that the guest kernel uses: its lock
    /// page, or its words if it is versioned.
    #[must_use]
    pub fn path_if_truncated(&self) -> Option<PathBuf> {
        let len_bytes = self.main.metadata().ok()?.len();
        let last = if self.is_versioned() { WORDS_OFFSET } else { LOCK_PAGE_OFFSET };
        (len_bytes < last + PAGE_SIZE).then(|| self.path.clone())
    }

    /// Where the byte at `offset` of the segment lies; `None` beyond its size.
    #[must_use]
    pub fn locate(&self, offset: u64) -> Option<Location> {
        let left = self.header.size_bytes.checked_sub(offset).filter(|left| *left != 0)?;
        let (part, within) = (offset / PART_BYTES, offset % PART_BYTES);
        Some(Location {
            part,
            file_offset: self.part_offset(part) + within,
            left_bytes: left.min(PART_BYTES - within),
        })
    }

    /// Opens the file of one part. Callers keep what they need open.
    ///
    /// # Errors
    /// If it is missing, shorter than it must be, or the host fails; [`StoreError::Invalid`]
    /// beyond the segment's size; [`StoreError::Versioned`].
    pub fn part(&self, index: u64) -> Result<PartFile, StoreError> {
        if self.is_versioned() {
            return Err(self.refused("map", "its content lies in a folder of its own"));
        }
        let start = self
            .locate(index.saturating_mul(PART_BYTES))
            .ok_or_else(|| invalid("part", index, format!("less than {}", self.header.parts())))?;
        let part = |file| PartFile { file, offset: start.file_offset, len_bytes: start.left_bytes };
        if index == 0 && self.header.lifetime == Lifetime::Persistent {
            return Ok(part(Arc::clone(&self.main)));
        }
        let (file, path) = self.place.open(&self.name, index, self.right)?;
        check_len(&status(&file, &path)?, &path, start.left_bytes)?;
        Ok(part(Arc::new(file)))
    }

    fn part_offset(&self, part: u64) -> u64 {
        match (part, self.header.lifetime) {
            (0, Lifetime::Persistent) => DATA_OFFSET,
            _ => 0,
        }
    }

    /// The host's error about the segment's file.
    pub fn error(&self, doing: &'static str, source: std::io::Error) -> StoreError {
        io_error(doing, &self.path, source)
    }

    pub(crate) fn file(&self) -> &File {
        &self.main
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The store's folder.
    pub(crate) fn root(&self) -> &Arc<Dir> {
        &self.root
    }

    /// The folder of versioned segments' folders.
    pub(crate) fn versions(&self) -> &Dir {
        &self.versions
    }

    /// Device and inode of the file.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// What the host says of the file.
    pub(crate) fn about(&self) -> About {
        self.about
    }

    /// Whether it was opened since this thread holds the store's lock for all its calls, and that thread has
    /// changed nothing since: then nobody has.
    pub(crate) fn is_as_opened(&self, store: &Store) -> bool {
        self.about.held.is_some() && self.about.held == store.held_for_all()
    }

    /// The same, found again with such a header.
    pub(crate) fn opened_again(&self, store: &Store, header: Header, stat: &Stat) -> SegmentFile {
        SegmentFile { header, about: About::of(store, stat), ..self.clone() }
    }

    /// The user whose file it is.
    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }

    pub(crate) fn place(&self) -> &PartFiles {
        &self.place
    }

    /// Takes over what a header says about a versioned segment: all but size and root, which are those
    /// of the version that is shown.
    pub(crate) fn take_settings(&mut self, header: &Header) {
        let (size_bytes, root) = (self.header.size_bytes, self.header.root);
        self.header = Header { size_bytes, root, ..header.clone() };
    }

    pub(crate) fn set_header(&mut self, header: Header) {
        self.header = header;
    }
}

/// Where the files of a segment's further parts are: folder and file name up to the part's number.
#[derive(Clone, Debug)]
pub(crate) struct PartFiles {
    /// In memory, for a volatile segment where the host has such a folder: new ones go there.
    shm: Option<(Arc<Dir>, String)>,
    /// In the store.
    stored: (Arc<Dir>, String),
    /// The owner that parts must have where every user can create files.
    owner: Option<u32>,
}

impl PartFiles {
    pub(crate) fn of(store: &Store, sid: SegId, lifetime: Lifetime, owner: u32) -> PartFiles {
        let shm = if lifetime == Lifetime::Volatile { store.shm() } else { None };
        PartFiles {
            shm: shm.map(|dir| (Arc::clone(dir), format!("spacejmp-{:016x}-{sid}.", store.id()))),
            stored: (Arc::clone(&store.parts), format!("{sid}.")),
            owner: (lifetime == Lifetime::Volatile).then_some(owner),
        }
    }

    /// All folders that may have parts, the one for new parts first.
    fn folders(&self) -> impl Iterator<Item = &(Arc<Dir>, String)> {
        self.shm.iter().chain([&self.stored])
    }

    pub(crate) fn open(
        &self,
        segment: &Name,
        index: u64,
        right: Right,
    ) -> Result<(File, PathBuf), StoreError> {
        let flags = match right {
            Right::Read => OFlags::RDONLY,
            Right::Write => OFlags::RDWR,
        };
        let mut missing = PathBuf::new();
        for (dir, stem) in self.folders() {
            let name = format!("{stem}{index}");
            missing = dir.path_of(&name);
            if let Some(file) = dir.find_file(&name, flags)? {
                self.check_owner(&file, &missing)?;
                return Ok((file, missing));
            }
        }
        Err(StoreError::PartMissing { segment: segment.clone(), index, file: missing })
    }

    /// Every user can create files in /dev/shm, and names there can be guessed.
    fn check_owner(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        let found = file.metadata().map_err(|e| io_error("look at", path, e))?.uid();
        match self.owner {
            Some(owner) if found != owner && found != 0 => {
                Err(bad_field(path, "owner", found, owner))
            }
            _ => Ok(()),
        }
    }

    /// Creates a part's file, empty.
    pub(crate) fn create(&self, index: u64) -> Result<(File, PathBuf), StoreError> {
        let create = |(dir, stem): &(Arc<Dir>, String)| {
            let name = format!("{stem}{index}");
            Ok((dir.new_file(&name)?, dir.path_of(&name)))
        };
        match self.shm.as_ref().map(create) {
            Some(Ok(created)) => Ok(created),
            _ => create(&self.stored),
        }
    }

    /// Removes the files of parts `first..end`, as far as they are there.
    pub(crate) fn remove(&self, first: u64, end: u64) {
        for (dir, stem) in self.folders() {
            for index in first..end {
                let _ = dir.remove_file(&format!("{stem}{index}"));
            }
        }
    }

    /// Stores the names of parts that were made.
    pub(crate) fn sync_folders(&self) -> Result<(), StoreError> {
        self.folders().try_for_each(|(dir, _)| {
            durable::step(dir.path(), "names in");
            dir.sync()
        })
    }

    pub(crate) fn each(&self, first: u64, end: u64, mut f: impl FnMut(&Dir, &str)) {
        for (dir, stem) in self.folders() {
            for index in first..end {
                f(dir, &format!("{stem}{index}"));
            }
        }
    }
}

/// A file's status.
pub(crate) fn status(file: &File, path: &Path) -> Result<Stat, StoreError> {
    rustix::fs::fstat(file).map_err(|e| io_error("look at", path, e.into()))
}

pub(crate) fn check_len(stat: &Stat, path: &Path, at_least: u64) -> Result<(), StoreError> {
    let found = u64::try_from(stat.st_size).unwrap_or_default();
    if found < at_least {
        return Err(StoreError::Short {
            file: path.to_owned(),
            found_bytes: found,
            expected_bytes: at_least,
        });
    }
    Ok(())
}

impl Store {
    /// Reads the header again: the segment may have grown. A versioned one keeps the size and the root
    /// of the version that is shown ([`SegmentFile::show_version`]).
    ///
    /// # Errors
    /// If it is damaged now, or another segment's.
    pub fn refresh(&self, segment: &mut SegmentFile) -> Result<(), StoreError> {
        let _lock: SharedLock = self.lock_shared()?;
        let header = read_header(&segment.main, &segment.path)?;
        check_len(&status(&segment.main, &segment.path)?, &segment.path, header.main_len())?;
        match header.lifetime {
            Lifetime::Persistent | Lifetime::Volatile => segment.header = header,
            Lifetime::Versioned => segment.take_settings(&header),
        }
        Ok(())
    }

    /// An opened segment file and its checked header, as a [`SegmentFile`].
    pub(crate) fn segment_file(
        &self,
        name: &Name,
        (file, stat): (File, Stat),
        header: Header,
        right: Right,
    ) -> Result<SegmentFile, StoreError> {
        let path = self.segments.path_of(name.as_str());
        check_len(&stat, &path, header.main_len())?;
        let owner = stat.st_uid;
        let place = PartFiles::of(self, header.sid, header.lifetime, owner);
        Ok(SegmentFile {
            main: Arc::new(file),
            path,
            name: name.clone(),
            header,
            right,
            place,
            root: Arc::clone(&self.root),
            counters: Arc::clone(&self.counters),
            versions: Arc::clone(&self.versions_by_sid),
            growth: self.growth.clone(),
            owner,
            identity: (stat.st_dev, stat.st_ino),
            about: About::of(self, &stat),
        })
    }
}
