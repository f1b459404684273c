//! What can be done with one segment.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use abi::lock::word;
use abi::objects::{Lifetime, PagePolicy, SegRoot};
use abi::{LeaseId, PAGE_SIZE, Right, SegId};

use super::dir::{Store, boot_id, open_plain};
use super::files::{PartPaths, SegmentFile, read_header, write_header};
use super::header::{Header, LOCK_PAGE_OFFSET, check_root};
use super::name::Name;
use super::{Access, StoreError};

/// A segment as it is in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentRecord {
    /// Its name: that of its file.
    pub name: Name,
    /// Its header.
    pub header: Header,
    /// Permission bits of its file.
    pub mode: u32,
    /// What the user may do with it.
    pub access: Access,
    /// Bytes the host stores for it.
    pub stored_bytes: u64,
    /// Its lock says that a holder died and nobody has recovered the content.
    pub inconsistent: bool,
}

impl Store {
    /// The id of the segment with this name.
    ///
    /// # Errors
    /// [`StoreError::NoSuchName`], [`StoreError::BadField`].
    pub fn find_segment(&self, name: &Name) -> Result<SegId, StoreError> {
        let _locked = self.exclusive()?;
        let path = self.folder("segments").join(name.as_str());
        if path.symlink_metadata().is_err() {
            return Err(StoreError::NoSuchName { what: "segment", name: name.clone() });
        }
        let file = self.open_at(&path)?;
        let header = file.header();
        if header.name != *name {
            return self.adopt(&file, name);
        }
        if self.is_left_over(header)? {
            self.remove_segment(header.sid, &path)?;
            return Err(StoreError::NoSuchName { what: "segment", name: name.clone() });
        }
        Ok(header.sid)
    }

    /// A file copied here by other means becomes a segment of its own: by its new name, and
    /// with a new id if the old one is taken.
    fn adopt(&self, file: &SegmentFile, name: &Name) -> Result<SegId, StoreError> {
        if file.right() != Right::Write {
            let name = name.clone();
            return Err(StoreError::Denied { action: "adopt the copied", what: "segment", name });
        }
        let mut header = file.header().clone();
        let original = self.has_segment(header.sid)? && self.segment_name(header.sid)? != *name;
        if original {
            header.sid = self.new_sid()?;
        }
        header.name = name.clone();
        header.writer = None;
        header.store = self.id();
        let zero = [0; PAGE_SIZE as usize];
        let main = file.main();
        main.write_all_at(&zero, LOCK_PAGE_OFFSET).map_err(StoreError::io("write", file.path()))?;
        write_header(main, file.path(), &header)?;
        self.count_segments()?;
        Ok(header.sid)
    }

    /// A volatile segment that nobody has any more, because its last VM was killed or the
    /// machine has started anew.
    fn is_left_over(&self, header: &Header) -> Result<bool, StoreError> {
        if header.lifetime != Lifetime::Volatile {
            return Ok(false);
        }
        if header.boot != boot_id() {
            return Ok(true);
        }
        let held = || -> Result<bool, StoreError> {
            Ok(self.leases()?.iter().any(|lease| lease.right_on(header.sid).is_some()))
        };
        Ok(header.used && !held()?)
    }

    /// A segment's header and what the host knows of its files.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSegment`], [`StoreError::BadField`].
    pub fn segment(&self, sid: SegId) -> Result<SegmentRecord, StoreError> {
        let _locked = self.shared()?;
        let name = self.segment_name(sid)?;
        self.record(&name)
    }

    fn record(&self, name: &Name) -> Result<SegmentRecord, StoreError> {
        let path = self.folder("segments").join(name.as_str());
        let file = open_plain(&path, false).map_err(StoreError::io("open segment", &path))?;
        let header = read_header(&file, &path)?;
        let meta = file.metadata().map_err(StoreError::io("look at", &path))?;
        let parts = PartPaths::new(self, header.sid, header.lifetime);
        let further = parts.existing(header.parts()).filter_map(|path| fs::metadata(path).ok());
        let stored_bytes = further.map(|meta| meta.blocks() * 512).sum::<u64>();
        let mut state = [0; 8];
        file.read_exact_at(&mut state, LOCK_PAGE_OFFSET + word::STATE as u64 * 8)
            .map_err(StoreError::io("read", &path))?;
        let state = u64::from_le_bytes(state);
        Ok(SegmentRecord {
            name: name.clone(),
            header,
            mode: meta.permissions().mode() & 0o777,
            access: Access::of(&path),
            stored_bytes: stored_bytes + meta.blocks() * 512,
            inconsistent: state & abi::lock::state::INCONSISTENT != 0,
        })
    }

    /// All segments that can be read, in the order of their names. Damaged ones are left out,
    /// with a warning.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list_segments(&self) -> Result<Vec<SegmentRecord>, StoreError> {
        let _locked = self.shared()?;
        let mut records = Vec::new();
        for name in self.names_in("segments")? {
            match self.record(&name) {
                Ok(record) => records.push(record),
                Err(error) => warn(&error),
            }
        }
        Ok(records)
    }

    /// Opens a segment, for writing if that is allowed.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSegment`], no right at all, or it is damaged.
    pub fn open_segment(&self, sid: SegId) -> Result<SegmentFile, StoreError> {
        let _locked = self.shared()?;
        self.open_by_id(sid)
    }

    pub(super) fn open_by_id(&self, sid: SegId) -> Result<SegmentFile, StoreError> {
        let name = self.segment_name(sid)?;
        self.open_at(&self.folder("segments").join(name.as_str()))
    }

    pub(super) fn open_at(&self, path: &Path) -> Result<SegmentFile, StoreError> {
        SegmentFile::open(self, path)
    }

    /// Changes the header of a segment under the store's lock.
    fn change<R>(
        &self,
        sid: SegId,
        change: impl FnOnce(&mut Header, &SegmentFile) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let _locked = self.exclusive()?;
        let file = self.open_by_id(sid)?;
        let mut header = file.header().clone();
        if file.right() != Right::Write {
            return Err(StoreError::Denied {
                action: "change",
                what: "segment",
                name: header.name,
            });
        }
        let result = change(&mut header, &file)?;
        if header != *file.header() {
            write_header(file.main(), file.path(), &header)?;
        }
        Ok(result)
    }

    /// Sets the permission bits of a segment's files.
    ///
    /// # Errors
    /// The host refuses: they belong to somebody else.
    pub fn set_segment_mode(&self, sid: SegId, mode: u32) -> Result<(), StoreError> {
        let _locked = self.exclusive()?;
        let name = self.segment_name(sid)?;
        let path = self.folder("segments").join(name.as_str());
        let header = self.record(&name)?.header;
        let parts = PartPaths::new(self, sid, header.lifetime);
        for path in std::iter::once(path).chain(parts.existing(header.parts())) {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .map_err(StoreError::io("change the permissions of", &path))?;
        }
        Ok(())
    }

    /// Makes a segment lockable or not.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while a live VM has it attached.
    pub fn set_lockable(&self, sid: SegId, lockable: bool) -> Result<(), StoreError> {
        self.change(sid, |header, _| {
            let held = self.leases()?.into_iter().find(|lease| lease.right_on(sid).is_some());
            if let Some(lease) = held {
                let name = header.name.clone();
                return Err(StoreError::Busy { what: "segment", name, by: lease.who() });
            }
            header.lockable = lockable;
            Ok(())
        })
    }

    /// Sets which pages map a segment, for tables built from now on.
    ///
    /// # Errors
    /// No right to write.
    pub fn set_pages(&self, sid: SegId, pages: PagePolicy) -> Result<(), StoreError> {
        self.change(sid, |header, _| {
            header.pages = pages;
            Ok(())
        })
    }

    /// Grows a segment in place.
    ///
    /// # Errors
    /// [`StoreError::BadPlace`] for less than it has or more than its reserve; what the host
    /// says.
    pub fn grow_segment(&self, sid: SegId, size_bytes: u64) -> Result<(), StoreError> {
        self.change(sid, |header, file| {
            let bad = |rule| StoreError::BadPlace { field: "size", value: size_bytes, rule };
            let size = size_bytes.checked_next_multiple_of(PAGE_SIZE);
            let size = size.filter(|&size| size <= header.reserve_bytes);
            let size = size.ok_or_else(|| StoreError::BeyondReserve {
                name: header.name.clone(),
                bytes: size_bytes,
                reserve_bytes: header.reserve_bytes,
            })?;
            if size < header.size_bytes {
                return Err(bad("a segment does not shrink"));
            }
            let meta = file.main().metadata().map_err(StoreError::io("look at", file.path()))?;
            PartPaths::new(self, sid, header.lifetime)
                .resize(size, file.main(), meta.permissions().mode() & 0o777)
                .map_err(StoreError::io("grow", file.path()))?;
            header.size_bytes = size;
            Ok(())
        })
    }

    /// A segment's root object.
    ///
    /// # Errors
    /// As [`Store::segment`].
    pub fn root_get(&self, sid: SegId) -> Result<SegRoot, StoreError> {
        let _locked = self.shared()?;
        Ok(self.open_by_id(sid)?.header().root)
    }

    /// Sets a segment's root object.
    ///
    /// # Errors
    /// [`StoreError::BadPlace`] for an address outside the segment; no right to write.
    pub fn root_set(&self, sid: SegId, root: &SegRoot) -> Result<(), StoreError> {
        self.change(sid, |header, _| {
            check_root(header, root)?;
            header.root = *root;
            Ok(())
        })
    }

    /// Has the host store everything written to a segment.
    ///
    /// # Errors
    /// The host could not.
    pub fn sync(&self, sid: SegId) -> Result<(), StoreError> {
        let file = self.open_segment(sid)?;
        if file.right() != Right::Write {
            let name = file.header().name.clone();
            return Err(StoreError::Denied { action: "sync", what: "segment", name });
        }
        file.sync()
    }

    /// Notes in a segment that the VM with this lease is about to write to it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn mark_dirty(&self, file: &SegmentFile, lease: LeaseId) -> Result<(), StoreError> {
        self.mark(file, |header| {
            header.writer = Some(lease);
            header.boot = boot_id();
        })
    }

    /// Takes the mark away, unless another live VM is writing.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn mark_clean(&self, file: &SegmentFile, lease: LeaseId) -> Result<(), StoreError> {
        let sid = file.header().sid;
        let leases = self.leases()?;
        let mut others = leases.iter().filter(|other| other.id != lease);
        let other = others.find(|other| other.right_on(sid) == Some(Right::Write));
        let other = other.map(|other| other.id);
        self.mark(file, |header| {
            // A mark of a VM that died is not ours to take away.
            let dead = header.writer.is_some_and(|writer| writer != lease && Some(writer) != other);
            if !dead {
                header.writer = other;
            }
        })
    }

    /// Notes in a segment that somebody has it attached.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn mark_used(&self, file: &SegmentFile) -> Result<(), StoreError> {
        if file.header().used || file.header().lifetime != Lifetime::Volatile {
            return Ok(());
        }
        self.mark(file, |header| header.used = true)
    }

    fn mark(&self, file: &SegmentFile, change: impl FnOnce(&mut Header)) -> Result<(), StoreError> {
        let _locked = self.exclusive()?;
        let main: &File = file.main();
        let mut header = read_header(main, file.path())?;
        let before = header.clone();
        change(&mut header);
        if header == before {
            return Ok(());
        }
        write_header(main, file.path(), &header)
    }
}

/// Says in the log what is left out of a list.
pub(super) fn warn(error: &StoreError) {
    tracing::warn!("{}", crate::error::chain(error));
}
