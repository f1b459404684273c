//! Segments come and go: making, copying, deleting.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use abi::layout::{VAS_END, VAS_START};
use abi::objects::{Lifetime, PagePolicy, SegRoot};
use abi::{PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M, SegId};

use super::StoreError;
use super::dir::{Store, boot_id, open_plain, random_id};
use super::files::{PartPaths, write_header};
use super::header::{DATA_OFFSET, Header, check_place};
use super::name::Name;
use super::segment::warn;

/// What a new segment is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentSpec {
    /// First address; `None` for one that no segment of the store uses.
    pub base: Option<u64>,
    /// Bytes, rounded up to 4 KiB.
    pub size_bytes: u64,
    /// Bytes it may grow to, rounded up to 2 MiB; 0 for its size.
    pub reserve_bytes: u64,
    /// Permission bits of its file.
    pub mode: u32,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Which pages map it.
    pub pages: PagePolicy,
    /// Whether switching takes its lock.
    pub lockable: bool,
}

impl SegmentSpec {
    /// A persistent, plain segment of `size_bytes` for its owner and group.
    #[must_use]
    pub fn new(size_bytes: u64) -> SegmentSpec {
        SegmentSpec {
            base: None,
            size_bytes,
            reserve_bytes: 0,
            mode: 0o660,
            lifetime: Lifetime::Persistent,
            pages: PagePolicy::Largest,
            lockable: false,
        }
    }
}

impl Store {
    /// Makes a segment, full of zeroes.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], [`StoreError::BadPlace`], [`StoreError::NoRoom`], and what
    /// the host says.
    pub fn create_segment(&self, name: &Name, spec: &SegmentSpec) -> Result<SegId, StoreError> {
        let too_big = |value| StoreError::BadPlace {
            field: "size",
            value,
            rule: "it must be at most the VAS region, 112 TiB",
        };
        let size = spec
            .size_bytes
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or_else(|| too_big(spec.size_bytes))?;
        if spec.reserve_bytes != 0 && spec.reserve_bytes < size {
            let (field, value) = ("reserve", spec.reserve_bytes);
            let rule = "it must be 0 or hold the size";
            return Err(StoreError::BadPlace { field, value, rule });
        }
        let reserve = spec
            .reserve_bytes
            .max(size)
            .checked_next_multiple_of(PAGE_SIZE_2M)
            .ok_or_else(|| too_big(spec.reserve_bytes))?;
        check_place(spec.base.unwrap_or(VAS_START.raw()), size, reserve)?;
        let _locked = self.exclusive()?;
        self.expect_free(name)?;
        let base = match spec.base {
            Some(base) => base,
            None => {
                let large = 512 * PAGE_SIZE_1G;
                let align = if reserve >= large { large } else { PAGE_SIZE_1G };
                self.free_range(VAS_START.raw(), VAS_END.raw(), reserve, align)?
            }
        };
        let header = Header {
            sid: self.new_sid()?,
            name: name.clone(),
            base,
            size_bytes: size,
            reserve_bytes: reserve,
            pages: spec.pages,
            lockable: spec.lockable,
            lifetime: spec.lifetime,
            writer: None,
            boot: boot_id(),
            root: SegRoot::default(),
            created: now(),
            store: self.id(),
            used: false,
        };
        self.place(&header, spec.mode, |_, _| Ok(()))
    }

    /// A copy of a segment under another name, at the same address: what pointers in it mean
    /// stays true. Shares storage with the original until written where the file system can.
    /// Nobody is kept from writing meanwhile: that is what the segment's lock is for.
    ///
    /// # Errors
    /// As [`Store::create_segment`].
    pub fn clone_segment(&self, sid: SegId, name: &Name) -> Result<SegId, StoreError> {
        let _locked = self.exclusive()?;
        self.expect_free(name)?;
        let source = self.open_by_id(sid)?;
        let old = source.header().clone();
        let header = Header {
            sid: self.new_sid()?,
            name: name.clone(),
            writer: None,
            created: now(),
            store: self.id(),
            used: false,
            ..old
        };
        let meta = source.main().metadata().map_err(StoreError::io("look at", source.path()))?;
        let mode = meta.permissions().mode() & 0o777;
        self.place(&header, mode, |main, parts| {
            for part in 0..header.size_bytes.div_ceil(super::header::PART_BYTES) {
                let from = source.part(part)?;
                let (to, offset) = match parts.path(part) {
                    None => (None, DATA_OFFSET),
                    Some(path) => {
                        let file = open_plain(&path, true);
                        (Some(file.map_err(StoreError::io("open", &path))?), 0)
                    }
                };
                let to = to.as_ref().unwrap_or(main);
                copy_data(&from, to, offset).map_err(StoreError::io("copy", source.path()))?;
            }
            Ok(())
        })
    }

    /// Deletes a segment and its content.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while a live VM has it attached or a VAS lists it.
    pub fn delete_segment(&self, sid: SegId) -> Result<(), StoreError> {
        let _locked = self.exclusive()?;
        let name = self.segment_name(sid)?;
        let busy = |by| StoreError::Busy { what: "segment", name: name.clone(), by };
        if let Some(lease) = self.leases()?.into_iter().find(|l| l.right_on(sid).is_some()) {
            return Err(busy(lease.who()));
        }
        let lists = self
            .all_manifests()?
            .into_iter()
            .find(|(_, manifest)| manifest.segments.iter().any(|segment| segment.sid == sid));
        if let Some((vas, _)) = lists {
            return Err(busy(format!("VAS {vas} lists it; detach it there first")));
        }
        let path = self.folder("segments").join(name.as_str());
        if super::Access::of(&path) != super::Access::Write {
            return Err(StoreError::Denied { action: "delete", what: "segment", name });
        }
        self.remove_segment(sid, &path)
    }

    /// The last attacher in a VM has left a volatile segment: it goes when no other VM has it.
    ///
    /// # Errors
    /// As [`Store::delete_segment`].
    pub fn segment_left(&self, sid: SegId) -> Result<(), StoreError> {
        let _locked = self.exclusive()?;
        if self.leases()?.iter().any(|lease| lease.right_on(sid).is_some()) {
            return Ok(());
        }
        let name = self.segment_name(sid)?;
        self.remove_segment(sid, &self.folder("segments").join(name.as_str()))
    }

    pub(super) fn remove_segment(&self, sid: SegId, path: &Path) -> Result<(), StoreError> {
        let header = self.open_at(path)?.header().clone();
        fs::remove_file(path).map_err(StoreError::io("delete", path))?;
        PartPaths::new(self, sid, header.lifetime).remove(header.parts());
        self.count_segments()?;
        self.forget_segment(sid)
    }

    fn expect_free(&self, name: &Name) -> Result<(), StoreError> {
        let path = self.folder("segments").join(name.as_str());
        match path.symlink_metadata() {
            Ok(_) => Err(StoreError::NameTaken { what: "segment", name: name.clone() }),
            Err(_) => Ok(()),
        }
    }

    pub(super) fn new_sid(&self) -> Result<SegId, StoreError> {
        loop {
            if let Some(sid) = SegId::new(random_id())
                && !self.has_segment(sid)?
            {
                return Ok(sid);
            }
        }
    }

    /// Makes the files of a segment and puts them in place.
    fn place(
        &self,
        header: &Header,
        mode: u32,
        fill: impl FnOnce(&File, &PartPaths) -> Result<(), StoreError>,
    ) -> Result<SegId, StoreError> {
        let temporary = self.temporary();
        let parts = PartPaths::new(self, header.sid, header.lifetime);
        let done = self.make(header, mode, &temporary, &parts, fill);
        let place = self.folder("segments").join(header.name.as_str());
        let done = done.and_then(|()| {
            let keep = rustix::fs::RenameFlags::NOREPLACE;
            let cwd = rustix::fs::CWD;
            rustix::fs::renameat_with(cwd, &temporary, cwd, &place, keep)
                .map_err(|error| StoreError::io("make segment", &place)(error.into()))
        });
        if let Err(error) = done {
            let _ = fs::remove_file(&temporary);
            parts.remove(header.parts());
            return Err(error);
        }
        self.count_segments()?;
        self.remember_segment(header)?;
        Ok(header.sid)
    }

    fn make(
        &self,
        header: &Header,
        mode: u32,
        temporary: &Path,
        parts: &PartPaths,
        fill: impl FnOnce(&File, &PartPaths) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let failed = |source| StoreError::Io {
            action: "make segment",
            path: self.folder("segments").join(header.name.as_str()),
            source,
        };
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(temporary)
            .map_err(failed)?;
        file.set_len(DATA_OFFSET).map_err(failed)?;
        write_header(&file, temporary, header)?;
        // The lock page is mapped by guest kernels: no full disk may meet it.
        file.write_all_at(&[0; PAGE_SIZE as usize], PAGE_SIZE).map_err(failed)?;
        parts.resize(header.size_bytes, &file, mode).map_err(failed)?;
        fill(&file, parts)?;
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Copies what is not a hole from `start` on, by sharing storage where that can be.
fn copy_data(from: &File, to: &File, start: u64) -> std::io::Result<()> {
    use rustix::fs::{SeekFrom, seek};
    let end = from.metadata()?.len();
    let mut at = start;
    while at < end {
        let data = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Only holes are left.
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let hole = seek(from, SeekFrom::Hole(data))?.min(end);
        let (mut read, mut write) = (data, data);
        while read < hole {
            let len = (hole - read).min(1 << 30) as usize;
            let copied =
                rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), len)?;
            if copied == 0 {
                warn(&StoreError::NoRoom { bytes: hole - read });
                break;
            }
        }
        at = hole;
    }
    Ok(())
}
