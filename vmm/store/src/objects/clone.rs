//! Copying a segment, sparsely, or by sharing blocks where the file system can.
//!
//! Content may be terabytes, so it is copied without the store's lock, into files of `tmp/`
//! that are held by an flock, which tells `gc` that they are in use.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use abi::objects::{Lifetime, SegId};
use rustix::fs::FlockOperation;
use seg_lock::{state, word};

use crate::format::error::{StoreError, io_error};
use crate::format::extent::{DATA_OFFSET, LOCK_PAGE_OFFSET, first_part, part_len};
use crate::format::header::{Header, SegmentState, write_header};
use crate::format::name::{Mode, Name};
use crate::objects::create::{set_len, set_mode};
use crate::objects::fresh::now_ns;
use crate::objects::lock::Locked;
use crate::objects::segment::{PartFiles, SegmentFile};
use crate::objects::sparse::copy_sparse;
use crate::objects::store::Store;

/// Why the file of a versioned segment is not copied as that of a raw one.
pub(crate) const NO_COPIES: &str =
    "its content is in a folder of its own, which a copy of one file does not hold";

/// A file being copied, in `tmp/` until it is finished.
pub(crate) struct Unfinished<'a> {
    pub(crate) store: &'a Store,
    pub(crate) name: String,
    pub(crate) file: File,
    /// It has left `tmp/`.
    pub(crate) done: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.store.tmp.remove_file(&self.name);
        }
    }
}

/// Files of further parts, at their final place already. Dropping it removes them.
pub(crate) struct CopiedParts {
    place: PartFiles,
    numbers: Range<u64>,
}

impl Drop for CopiedParts {
    fn drop(&mut self) {
        self.place.remove(self.numbers.start, self.numbers.end);
    }
}

/// The folder of a versioned segment, at its final place already. Dropping it removes it.
pub(crate) struct MadeVersions<'a>(Option<(&'a Store, Header)>);

impl<'a> MadeVersions<'a> {
    pub(crate) fn new(store: &'a Store, header: &Header) -> MadeVersions<'a> {
        MadeVersions(Some((store, header.clone())))
    }

    fn keep(&mut self) {
        self.0 = None;
    }

    /// It stays.
    pub(crate) fn leave(mut self) {
        self.keep();
    }
}

impl Drop for MadeVersions<'_> {
    fn drop(&mut self) {
        if let Some((store, header)) = self.0.take() {
            store.remove_versions(&header);
        }
    }
}

/// What a copy has outside of its own file.
pub(crate) enum Made<'a> {
    /// A raw one.
    Parts {
        /// Its parts.
        parts: CopiedParts,
        /// Says that they are in use.
        _mark: Unfinished<'a>,
    },
    /// A versioned one.
    Versions(MadeVersions<'a>),
}

/// A complete copy that is not in the store yet. Dropping it leaves nothing.
pub(crate) struct Copied<'a> {
    pub(crate) main: Unfinished<'a>,
    pub(crate) made: Made<'a>,
    pub(crate) header: Header,
}

impl Copied<'_> {
    /// Its file has left `tmp/`: what it has made stays.
    pub(crate) fn is_published(&mut self) -> SegId {
        self.main.done = true;
        self.keep_parts()
    }

    /// Its file has its final name, and may have the one in `tmp/` too, which goes with this.
    pub(crate) fn keep_parts(&mut self) -> SegId {
        match &mut self.made {
            Made::Parts { parts, .. } => parts.numbers = 0..0,
            Made::Versions(versions) => versions.keep(),
        }
        self.header.sid
    }
}

impl Store {
    /// A copy under a new name, at the same addresses, with the same permission bits. What others
    /// write meanwhile may or may not be in it: a caller that wants a consistent snapshot holds the
    /// segment's lock (`vas::content`). What a dead writer left is dirty or inconsistent in the
    /// copy too; a live writer does not make the copy dirty. A volatile segment's copy is volatile.
    ///
    /// # Errors
    /// As [`Store::open_segment`] and [`Store::create_segment`]; [`StoreError::Versioned`].
    pub fn clone_segment(&self, sid: SegId, name: &Name) -> Result<SegId, StoreError> {
        name.check_new()?;
        let mut copy = self.copy_raw(&self.open_segment(sid)?, name, "clone")?;
        let lock = self.lock_exclusive()?;
        self.check_segment_name_free(name, &lock)?;
        self.publish_segment(&copy.main.name, &copy.header, &lock)?;
        Ok(copy.is_published())
    }

    /// Copies what a raw segment has, up to its place in the store; `kind` ends the name of the copy's
    /// file in `tmp/`.
    pub(crate) fn copy_raw(
        &self,
        source: &SegmentFile,
        name: &Name,
        kind: &str,
    ) -> Result<Copied<'_>, StoreError> {
        if source.is_versioned() {
            return Err(source.refused("copy", NO_COPIES));
        }
        let new_sid = {
            let lock = self.lock_exclusive()?;
            self.check_segment_name_free(name, &lock)?;
            self.new_sid(&lock)?
        };
        let mut header = Header {
            sid: new_sid,
            name: name.clone(),
            lease: None,
            used: false,
            created_ns: now_ns(),
            ..source.header().clone()
        };
        header.boot = self.boot_of(header.lifetime);
        // No program has the copy open for writing, so none would ever mark it clean: a program
        // that copies what it has attached itself, under the lock, has lost nothing.
        if self.is_written(source.sid()) {
            header.state = SegmentState::Clean;
        }
        let mode = self.mode_of(source)?;
        let owner = rustix::process::geteuid().as_raw();
        let place = PartFiles::of(self, new_sid, header.lifetime, owner);
        let parts = CopiedParts { place, numbers: first_part(header.lifetime)..header.parts() };
        let mark = self.copy_parts(source, &header, mode, &parts)?;
        let main = self.copy_main(source, &header, mode, kind)?;
        Ok(Copied { main, made: Made::Parts { parts, _mark: mark }, header })
    }

    fn copy_main(
        &self,
        source: &SegmentFile,
        header: &Header,
        mode: Mode,
        kind: &str,
    ) -> Result<Unfinished<'_>, StoreError> {
        let copy = self.new_copy(format!("{}.{kind}", header.sid))?;
        let path = self.tmp.path_of(&copy.name);
        let failed = |e| io_error("copy to", &path, e);
        set_len(&copy.file, &path, header.main_len())?;
        if header.lifetime == Lifetime::Persistent {
            let end = header.main_len();
            copy_sparse(source.file(), &copy.file, DATA_OFFSET, end).map_err(failed)?;
        }
        write_header(&copy.file, &path, header)?;
        // The copy's lock is free, even where the file system has shared the whole file.
        copy.file.write_all_at(&[0; 4096], LOCK_PAGE_OFFSET).map_err(failed)?;
        if self.is_inconsistent(source)? {
            mark_inconsistent(&copy.file).map_err(failed)?;
        }
        set_mode(&copy.file, &path, mode)?;
        copy.file.sync_all().map_err(failed)?;
        Ok(copy)
    }

    /// Copies parts directly to their final place: there they are found only by the new id, which
    /// no program knows yet. The empty file in `tmp/` says that the copy is in progress.
    fn copy_parts(
        &self,
        source: &SegmentFile,
        header: &Header,
        mode: Mode,
        parts: &CopiedParts,
    ) -> Result<Unfinished<'_>, StoreError> {
        let mark = self.new_copy(parts_mark(header.sid))?;
        for index in parts.numbers.clone() {
            let part = source.part(index)?;
            let from = File::from(
                part.fd().try_clone_to_owned().map_err(|e| io_error("open", source.path(), e))?,
            );
            let (to, path) = parts.place.create(index)?;
            set_len(&to, &path, part_len(header.size_bytes, index))?;
            copy_sparse(&from, &to, 0, part.len_bytes())
                .and_then(|()| to.sync_all())
                .map_err(|e| io_error("copy to", &path, e))?;
            set_mode(&to, &path, mode)?;
        }
        Ok(mark)
    }

    pub(crate) fn new_copy(&self, name: String) -> Result<Unfinished<'_>, StoreError> {
        self.new_copy_locked(name, &self.lock_shared()?)
    }

    /// The same for a caller that has the store's lock: `gc` must not see the file before it is held.
    pub(crate) fn new_copy_locked(
        &self,
        name: String,
        _lock: &impl Locked,
    ) -> Result<Unfinished<'_>, StoreError> {
        let file = self.tmp.new_file(&name)?;
        let copy = Unfinished { store: self, name, file, done: false };
        rustix::fs::flock(&copy.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| self.tmp.error("lock", &copy.name, e))?;
        Ok(copy)
    }
}

/// Marks a segment whose lock is free as left by a holder that died inside.
pub(crate) fn mark_inconsistent(file: &File) -> io::Result<()> {
    let at = LOCK_PAGE_OFFSET + word::STATE as u64 * 8;
    file.write_all_at(&state::INCONSISTENT.to_le_bytes(), at)
}

/// Name of the file in `tmp/` that is held while something copies into the parts of this segment.
pub(crate) fn parts_mark(sid: SegId) -> String {
    format!("{sid}.parts")
}
