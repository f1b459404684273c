//! Creating a segment: checked first, created under `tmp/`, visible only when complete.

use std::fs::File;
use std::path::Path;

use abi::addr::{PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
use abi::layout::{VAS_END, VAS_START};
use abi::objects::{Durability, Lifetime, PagePolicy, SegId, SegRoot};

use crate::format::counters::Counted;
use crate::format::error::{Object, StoreError, invalid, io_error};
use crate::format::extent::{PART_BYTES, first_part, part_len};
use crate::format::header::{Header, SegmentState, write_header};
use crate::format::name::{Mode, Name};
use crate::objects::dir::Linked;
use crate::objects::durable;
use crate::objects::fresh::{now_ns, random};
use crate::objects::lock::Exclusive;
use crate::objects::segment::PartFiles;
use crate::objects::store::Store;

/// The parameters of a new segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentSpec {
    /// First address, a multiple of 2 MiB in the VAS region; `None`: the lowest range that
    /// no segment the caller may read uses.
    pub base: Option<u64>,
    /// Bytes; rounded up to 4 KiB, not 0.
    pub size_bytes: u64,
    /// How far it may grow; rounded up to 2 MiB; 0: as `size_bytes`.
    pub reserve_bytes: u64,
    /// Permission bits.
    pub mode: Mode,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// When commits survive a power cut; only of a versioned segment. `None`:
    /// [`Durability::DEFAULT`].
    pub durability: Option<Durability>,
    /// Largest pages to map it with.
    pub pages: PagePolicy,
    /// Whether switching acquires its lock.
    pub lockable: bool,
}

impl SegmentSpec {
    /// A persistent, lockable, private segment of this size, placed where there is room.
    #[must_use]
    pub const fn new(size_bytes: u64) -> SegmentSpec {
        SegmentSpec {
            base: None,
            size_bytes,
            reserve_bytes: 0,
            mode: Mode::PRIVATE,
            lifetime: Lifetime::Persistent,
            durability: None,
            pages: PagePolicy::Largest,
            lockable: true,
        }
    }

    /// Size and reserve, rounded.
    fn extent(&self) -> Result<(u64, u64), StoreError> {
        let most = VAS_END.raw() - VAS_START.raw();
        let size_bytes = round_size(self.size_bytes, most)?;
        let wanted = if self.reserve_bytes == 0 { size_bytes } else { self.reserve_bytes };
        let reserve_bytes = wanted.checked_next_multiple_of(PAGE_SIZE_2M);
        match reserve_bytes.filter(|reserve| (size_bytes..=most).contains(reserve)) {
            Some(reserve_bytes) => Ok((size_bytes, reserve_bytes)),
            None => {
                let expected = format!("{size_bytes:#x} to {most:#x} bytes");
                Err(invalid("the reserve", format!("{wanted:#x}"), expected))
            }
        }
    }
}

/// A size in whole pages.
pub(crate) fn round_size(bytes: u64, most: u64) -> Result<u64, StoreError> {
    let size = bytes.checked_next_multiple_of(PAGE_SIZE).filter(|size| (1..=most).contains(size));
    size.ok_or_else(|| invalid("the size", format!("{bytes:#x}"), format!("1 to {most:#x} bytes")))
}

/// One writer at a time commits a versioned segment, and that is the holder of its lock.
pub(crate) fn check_lockable(lifetime: Lifetime, lockable: bool) -> Result<(), StoreError> {
    if lockable || lifetime != Lifetime::Versioned {
        return Ok(());
    }
    let expected = "1: its lock keeps writers apart (leave out --no-lock, or choose the lifetime \
                    persistent or volatile)";
    Err(invalid("`lockable` of a versioned segment", 0, expected))
}

/// The durability of a new segment.
fn durability_of(spec: &SegmentSpec) -> Result<Durability, StoreError> {
    match (spec.lifetime, spec.durability) {
        (Lifetime::Versioned, chosen) => Ok(chosen.unwrap_or(Durability::DEFAULT)),
        (_, None) => Ok(Durability::Each),
        (_, Some(found)) => Err(invalid("the durability", found, ONLY_VERSIONED)),
    }
}

/// What has a durability.
pub(crate) const ONLY_VERSIONED: &str = "none: only versioned segments have one";

fn check_base(base: u64, reserve_bytes: u64) -> Result<u64, StoreError> {
    let fits = base.checked_add(reserve_bytes).is_some_and(|end| end <= VAS_END.raw());
    if base >= VAS_START.raw() && base.is_multiple_of(PAGE_SIZE_2M) && fits {
        return Ok(base);
    }
    let (start, end) = (VAS_START.raw(), VAS_END.raw());
    let expected = format!("a multiple of 2 MiB, with the reserve inside {start:#x}..{end:#x}");
    Err(invalid("the base", format!("{base:#x}"), expected))
}

impl Store {
    /// Makes a segment of zeros.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Name`], [`StoreError::Invalid`] for impossible sizes and
    /// bases, for a versioned segment without a lock, and for a durability of another one,
    /// [`StoreError::NoRoom`], and the host's errors.
    pub fn create_segment(&self, name: &Name, spec: &SegmentSpec) -> Result<SegId, StoreError> {
        name.check_new()?;
        let (size_bytes, reserve_bytes) = spec.extent()?;
        check_lockable(spec.lifetime, spec.lockable)?;
        let durability = durability_of(spec)?;
        let base = spec.base.map(|base| check_base(base, reserve_bytes)).transpose()?;
        let lock = self.lock_exclusive()?;
        self.check_segment_name_free(name, &lock)?;
        let sid = self.new_sid(&lock)?;
        let base = match base {
            Some(base) => base,
            None => self.default_base(reserve_bytes, &lock)?,
        };
        let header = Header {
            compatible_features: 0,
            sid,
            name: name.clone(),
            base,
            size_bytes,
            reserve_bytes,
            pages: spec.pages,
            lifetime: spec.lifetime,
            durability,
            lockable: spec.lockable,
            state: SegmentState::Clean,
            used: false,
            lease: None,
            boot: self.boot_of(spec.lifetime),
            root: SegRoot::default(),
            created_ns: now_ns(),
            kept: None,
        };
        let file_name = format!("{sid}.segment");
        let place = PartFiles::of(self, sid, spec.lifetime, rustix::process::geteuid().as_raw());
        let first = first_part(spec.lifetime);
        let made =
            self.make_segment(&file_name, &header, spec.mode, &place, &lock).and_then(|()| {
                let published = self.publish_segment(&file_name, &header, &lock);
                published.inspect_err(|_| self.remove_versions(&header))
            });
        if made.is_err() {
            let _ = self.tmp.remove_file(&file_name);
            place.remove(first, header.parts());
        }
        made.map(|()| sid)
    }

    fn make_segment(
        &self,
        file_name: &str,
        header: &Header,
        mode: Mode,
        place: &PartFiles,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        let path = self.tmp.path_of(file_name);
        let main = self.tmp.new_file(file_name)?;
        write_header(&main, &path, header)?;
        set_len(&main, &path, header.main_len())?;
        set_mode(&main, &path, mode)?;
        main.sync_all().map_err(|e| io_error("sync", &path, e))?;
        match header.lifetime {
            Lifetime::Persistent | Lifetime::Volatile => {
                make_parts(place, first_part(header.lifetime), header.size_bytes, mode)
            }
            Lifetime::Versioned => self.make_versions(header, mode, None, lock),
        }
    }

    /// Moves a finished segment to its name. The caller has checked that the name is free.
    pub(crate) fn publish_segment(
        &self,
        file_name: &str,
        header: &Header,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        self.publish_by(header, lock, |name| self.tmp.move_new(file_name, &self.segments, name))
    }

    /// The same for one of several that belong together: it keeps its name in `tmp/` too,
    /// until the caller removes that, so that `gc` finds what was published if the caller
    /// dies before the rest. Returns whether it does; some file systems cannot.
    pub(crate) fn publish_segment_of_many(
        &self,
        file_name: &str,
        header: &Header,
        lock: &Exclusive,
    ) -> Result<bool, StoreError> {
        let mut has_both = true;
        self.publish_by(header, lock, |name| {
            match self.tmp.link_new(file_name, &self.segments, name)? {
                Linked::Done => Ok(true),
                Linked::Taken => Ok(false),
                Linked::Unable => {
                    has_both = false;
                    self.tmp.move_new(file_name, &self.segments, name)
                }
            }
        })?;
        Ok(has_both)
    }

    fn publish_by(
        &self,
        header: &Header,
        lock: &Exclusive,
        place: impl FnOnce(&str) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let name = &header.name;
        let mut index = self.segment_index(lock)?;
        // Before the move: reading an index again without need does no harm.
        self.bump_objects(Counted::Segment, lock)?;
        if !place(name.as_str())? {
            return Err(StoreError::Exists(Object::SegmentName(name.clone())));
        }
        index.insert(name, header);
        index.restamp(self.stamp(Counted::Segment, lock).ok());
        self.segments.sync().inspect_err(|_| {
            // The caller removes its content, which no file may name then. The name was free.
            let _ = self.segments.remove_file(name.as_str());
            index.restamp(None);
        })
    }

    /// Puts a finished file in the place of the segment's that has this id and name, durably. After an
    /// error it may be there all the same.
    pub(crate) fn replace_segment(
        &self,
        file_name: &str,
        header: &Header,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        let mut index = self.segment_index(lock)?;
        self.bump_objects(Counted::Segment, lock)?;
        self.tmp.move_over(file_name, &self.segments, header.name.as_str())?;
        index.insert(&header.name, header);
        // It had been inserted before: reading it again is the easier way.
        index.restamp(None);
        self.segments.sync()
    }

    /// A name that a volatile segment of dead programs has is free once that is gone.
    pub(crate) fn check_segment_name_free(
        &self,
        name: &Name,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        self.reap_volatile(name, lock);
        match self.segments.stat(name.as_str())? {
            Some(_) => Err(StoreError::Exists(Object::SegmentName(name.clone()))),
            None => Ok(()),
        }
    }

    pub(crate) fn new_sid(&self, lock: &Exclusive) -> Result<SegId, StoreError> {
        let index = self.segment_index(lock)?;
        let is_free = |sid: &SegId| index.name(*sid).is_none() && !self.has_versions(*sid);
        random(|id| SegId::new(id).filter(is_free))
    }

    /// Aligned so that whole subtrees of page tables can be linked.
    fn default_base(&self, reserve_bytes: u64, lock: &Exclusive) -> Result<u64, StoreError> {
        const PAGE_SIZE_512G: u64 = 512 * PAGE_SIZE_1G;
        let align = if reserve_bytes >= PAGE_SIZE_512G { PAGE_SIZE_512G } else { PAGE_SIZE_1G };
        self.segment_index(lock)?
            .free_base(reserve_bytes, align)
            .ok_or(StoreError::NoRoom { reserve_bytes })
    }
}

/// Makes the files from part `first` on; they and their names are on stable storage then.
pub(crate) fn make_parts(
    place: &PartFiles,
    first: u64,
    size_bytes: u64,
    mode: Mode,
) -> Result<(), StoreError> {
    for index in first..size_bytes.div_ceil(PART_BYTES) {
        let (file, path) = place.create(index)?;
        set_len(&file, &path, part_len(size_bytes, index))?;
        set_mode(&file, &path, mode)?;
        durable::sync_all(&file, &path)?;
    }
    if first < size_bytes.div_ceil(PART_BYTES) { place.sync_folders() } else { Ok(()) }
}

pub(crate) fn set_len(file: &File, path: &Path, len_bytes: u64) -> Result<(), StoreError> {
    file.set_len(len_bytes).map_err(|e| io_error("set the length of", path, e))
}

pub(crate) fn set_mode(file: &File, path: &Path, mode: Mode) -> Result<(), StoreError> {
    rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(mode.of_file()))
        .map_err(|e| io_error("change the mode of", path, e.into()))
}
