//! A segment as this VM has it: its file, the extents of it that are mapped, its page tables.
//!
//! An *extent* is what the segment has of one aligned gigabyte of addresses. It is mapped into a
//! guest-physical window when the first page of it is touched, for all instances of the VM at once,
//! and evicted under pressure. So a segment can be larger than guest-physical space, and attaching
//! one costs nothing in proportion to its size.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use abi::objects::Lifetime;
use abi::{PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M, Right};

use crate::store::{PART_BYTES, SegmentFile};
use crate::vas::VasError;
use crate::vas::residency::lock_page::LockPage;
use crate::vas::tables::{PieceSpan, Subtree, TableFrames};
use crate::vas::versioned::segment::VersionedSegment;
use crate::vm::windows::{FilePiece, PinnedRange, Usage, Window};
use crate::vm::{Machine, MemoryError, MemoryKind, MemoryLedger};

/// A mapped extent.
#[derive(Debug)]
struct Extent {
    window: Window,
    /// Address of the window's first byte.
    origin: u64,
    /// When it was mapped, counted in extents.
    mapped_at: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct VmSegment {
    pub(crate) file: SegmentFile,
    pub(crate) name: String,
    /// Addresses it may ever have.
    pub(crate) reserve: Range<u64>,
    /// One past the last address it has now.
    pub(crate) end: u64,
    /// How many instances have it, by right.
    users: BTreeMap<Right, u32>,
    /// Its row in the lease's table while it has users.
    pub(crate) lease_row: Option<u32>,
    /// Its lock, while it has users and is lockable.
    pub(crate) lock: Option<LockPage>,
    extents: BTreeMap<u64, Extent>,
    read: Subtree,
    write: Subtree,
    charge: VolatileCharge,
    /// Its log and windows, while it has users and is versioned.
    versioned: Option<VersionedSegment>,
}

/// What a volatile segment is charged with while this VM has it: its full size, since its pages are
/// touched without an exit. Each VM that has it is charged.
#[derive(Debug)]
struct VolatileCharge {
    ledger: Arc<MemoryLedger>,
    bytes: u64,
}

impl VolatileCharge {
    fn set(&mut self, bytes: u64) -> Result<(), MemoryError> {
        if bytes > self.bytes {
            self.ledger.charge(MemoryKind::Volatile, bytes - self.bytes)?;
        } else {
            self.ledger.release(MemoryKind::Volatile, self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for VolatileCharge {
    fn drop(&mut self) {
        self.ledger.release(MemoryKind::Volatile, self.bytes);
    }
}

impl VmSegment {
    /// The segment in `file`, with nothing mapped.
    ///
    /// # Errors
    /// [`MemoryError::OverLimit`]: the content of a volatile segment is memory, and counts.
    pub(crate) fn new(
        file: SegmentFile,
        ledger: &Arc<MemoryLedger>,
    ) -> Result<VmSegment, MemoryError> {
        let header = file.header();
        let base = header.base;
        let mut segment = VmSegment {
            name: file.name().as_str().to_owned(),
            reserve: base..base.saturating_add(header.reserve_bytes),
            end: base.saturating_add(header.size_bytes),
            users: BTreeMap::new(),
            lease_row: None,
            lock: None,
            extents: BTreeMap::new(),
            read: Subtree::new(false),
            write: Subtree::new(true),
            charge: VolatileCharge { ledger: ledger.clone(), bytes: 0 },
            versioned: None,
            file,
        };
        segment.set_size(segment.file.header().size_bytes)?;
        Ok(segment)
    }

    pub(crate) fn is_volatile(&self) -> bool {
        self.file.header().lifetime == Lifetime::Volatile
    }

    pub(crate) fn is_versioned(&self) -> bool {
        self.file.is_versioned()
    }

    /// Whether its versions are open.
    pub(crate) fn has_versions(&self) -> bool {
        self.versioned.is_some()
    }

    /// Its log and windows; an instance has the segment, which is versioned.
    pub(crate) fn versioned(&self) -> &VersionedSegment {
        self.versioned.as_ref().expect("what an instance has is open")
    }

    /// The same, to be changed.
    pub(crate) fn versioned_mut(&mut self) -> &mut VersionedSegment {
        self.versioned.as_mut().expect("what an instance has is open")
    }

    /// What is open of its versions, if it is versioned and an instance has it.
    pub(crate) fn versions_mut(&mut self) -> Option<&mut VersionedSegment> {
        self.versioned.as_mut()
    }

    /// Its file, and what is open of its versions.
    pub(crate) fn file_and_versions(
        &mut self,
    ) -> (&mut SegmentFile, &mut Option<VersionedSegment>) {
        (&mut self.file, &mut self.versioned)
    }

    pub(crate) fn is_lockable(&self) -> bool {
        self.file.header().lockable
    }

    /// The most that an instance may do with it; `None` while no instance has it.
    pub(crate) fn highest_right(&self) -> Option<Right> {
        self.users.keys().next_back().copied()
    }

    /// One more instance has it.
    pub(crate) fn add_user(&mut self, right: Right) {
        *self.users.entry(right).or_insert(0) += 1;
    }

    /// One instance less has it.
    pub(crate) fn remove_user(&mut self, right: Right) {
        let count = self.users.get_mut(&right).expect("it is released as it was acquired");
        *count -= 1;
        if *count == 0 {
            self.users.remove(&right);
        }
    }

    /// The tables for `right`.
    pub(crate) fn subtree(&self, right: Right) -> &Subtree {
        match right {
            Right::Read => &self.read,
            Right::Write => &self.write,
        }
    }

    /// The tables for `right`, to be built on.
    pub(crate) fn subtree_mut(&mut self, right: Right) -> &mut Subtree {
        match right {
            Right::Read => &mut self.read,
            Right::Write => &mut self.write,
        }
    }

    /// Adopts a size that this or another VM has given it.
    ///
    /// # Errors
    /// [`MemoryError::OverLimit`], with the size unchanged.
    pub(crate) fn set_size(&mut self, size_bytes: u64) -> Result<(), MemoryError> {
        if self.is_volatile() {
            self.charge.set(size_bytes)?;
        }
        self.end = self.reserve.start.saturating_add(size_bytes).min(self.reserve.end);
        Ok(())
    }

    /// Whether it could have that size and be charged for it.
    ///
    /// # Errors
    /// [`MemoryError::OverLimit`].
    pub(crate) fn check_growth(&self, size_bytes: u64) -> Result<(), MemoryError> {
        if self.is_volatile() {
            let more = size_bytes.saturating_sub(self.charge.bytes);
            self.charge.ledger.check(MemoryKind::Volatile, more)?;
        }
        Ok(())
    }

    /// Whether the extent of a gigabyte is mapped.
    pub(crate) fn is_mapped(&self, gib: u64) -> bool {
        self.extents.contains_key(&gib)
    }

    /// What the segment has of a gigabyte of addresses, as far as `end`.
    fn span(&self, gib: u64, end: u64) -> Range<u64> {
        let start = (gib * PAGE_SIZE_1G).max(self.reserve.start);
        start..((gib + 1) * PAGE_SIZE_1G).min(end).max(start)
    }

    /// Maps the extent of a gigabyte, if it is not.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`]: evict something and try again.
    pub(crate) fn map_extent(
        &mut self,
        gib: u64,
        clock: u64,
        machine: &Machine,
    ) -> Result<(), VasError> {
        if self.is_mapped(gib) {
            return Ok(());
        }
        let whole = self.span(gib, self.reserve.end);
        let offset = whole.start - self.reserve.start;
        let part = self.file.part(offset / PART_BYTES)?;
        let within = offset % PART_BYTES;
        let piece = FilePiece {
            file: part.fd(),
            offset: part.offset() + within,
            // All that the extent may grow to, so that growing changes nothing here.
            bytes: (whole.end - whole.start).min(PART_BYTES - within),
            writable: self.file.right() == Right::Write,
            usage: if self.is_dense(machine) { Usage::Dense } else { Usage::Sparse },
        };
        let window = machine.windows.map(piece)?;
        let extent = Extent { window, origin: whole.start, mapped_at: clock };
        self.extents.insert(gib, extent);
        Ok(())
    }

    /// Whether huge pages are worthwhile, by its present size: a heap's reserve is addresses, far
    /// more than it will ever use. A heap that has not grown yet may stay this small, and would use
    /// a whole huge page of the disk for its first byte.
    fn is_dense(&self, machine: &Machine) -> bool {
        let bytes = self.end - self.reserve.start;
        let may_grow = self.end < self.reserve.end;
        (bytes > PAGE_SIZE_2M || !may_grow) && machine.windows.is_dense(bytes)
    }

    /// Builds the tables of a gigabyte for `right`; its extent must be mapped.
    pub(crate) fn fill(
        &mut self,
        gib: u64,
        right: Right,
        frames: &mut TableFrames,
    ) -> Result<(), MemoryError> {
        let used = self.span(gib, self.end.next_multiple_of(PAGE_SIZE));
        let policy = self.file.header().pages;
        let is_dense = self.is_dense(frames.machine());
        let extent = self.extents.get_mut(&gib).expect("an extent is mapped before its tables");
        if is_dense {
            // It may have been mapped before it grew.
            extent.window.prefer_huge();
        }
        let limit = extent.origin + extent.window.bytes();
        let used = used.start..used.end.min(limit);
        let span = PieceSpan { used, gpa: extent.window.gpa(), origin: extent.origin };
        self.subtree_mut(right).fill(gib, &span, policy, frames)
    }

    /// Mapped extents that no system call is using: when mapped, and which gigabyte.
    pub(crate) fn evictable(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.extents
            .iter()
            .filter(|(_, e)| !e.window.is_pinned())
            .map(|(&gib, e)| (e.mapped_at, gib))
    }

    /// Unlinks the extent of a gigabyte from this segment's tables and hands out its window, which
    /// must be removed before the frames are used again.
    pub(crate) fn unmap_extent(
        &mut self,
        gib: u64,
        frames: &mut TableFrames,
    ) -> Result<Option<Window>, MemoryError> {
        self.read.drop_piece(gib, frames)?;
        self.write.drop_piece(gib, frames)?;
        Ok(self.extents.remove(&gib).map(|extent| extent.window))
    }

    /// Releases all tables and hands out all windows that no other segment has; no instance may have this one.
    pub(crate) fn dissolve(self, frames: &mut TableFrames) -> Vec<Window> {
        self.read.dissolve(frames);
        self.write.dissolve(frames);
        let versions = self.versioned.into_iter().flat_map(VersionedSegment::into_windows);
        let versions = frames.machine().shared.give_back(versions);
        self.extents.into_values().map(|extent| extent.window).chain(versions).collect()
    }

    /// The host memory behind `bytes` at `gva`, truncated where the extent or the segment ends,
    /// which stays as long as the result; `None` unless the extent is mapped.
    pub(crate) fn pin(&self, gva: u64, bytes: u64) -> Option<PinnedRange> {
        let extent = self.extents.get(&(gva / PAGE_SIZE_1G))?;
        let bytes = bytes.min(self.end.saturating_sub(gva));
        Some(extent.window.pin(gva.checked_sub(extent.origin)?, bytes))
    }

    /// Windows onto its files.
    pub(crate) fn windows(&self) -> impl Iterator<Item = &Window> {
        let versions = self.versioned.iter().flat_map(VersionedSegment::windows);
        self.extents.values().map(|extent| &extent.window).chain(versions)
    }

    /// Bytes of it that are mapped into the VM.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        self.windows().map(Window::bytes).sum()
    }
}
