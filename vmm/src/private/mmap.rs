//! Creating, changing and removing areas: `mmap`, `munmap`, `mprotect` and `madvise`.
//!
//! Each function checks, then edits the areas, then the page tables, and drops content last:
//! when it returns, no vCPU has a translation that the areas do not allow.

use std::ops::Range;
use std::sync::Arc;

use abi::layout::PRIVATE_START;
use abi::{Errno, PAGE_SIZE};

use super::charge::check_area_count;
use super::held::BLOCK_PAGES;
use super::region::{BLOCK, EAGER_BYTES, Inner, Mapped, PrivateRegion, checked_range};
use super::vma::{Backing, MemoryLock, OnFork, Prot, Vma, page_up};
use crate::vm::memory::FileMapping;

impl PrivateRegion {
    /// Maps `len` bytes at exactly `start`, replacing existing mappings.
    ///
    /// # Errors
    /// `EINVAL` for a range outside the private region or unaligned, `ENOMEM`, or the host's error
    /// when mapping the file.
    pub fn map_at(
        &self,
        start: u64,
        len: u64,
        prot: Prot,
        backing: Backing,
        label: &'static str,
    ) -> Result<(), Errno> {
        let range = checked_range(start, len)?;
        self.edit(|inner| self.map_locked(inner, range, prot, backing, label))
    }

    fn map_locked(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        prot: Prot,
        backing: Backing,
        label: &'static str,
    ) -> Result<(), Errno> {
        check_area_count(inner, &range)?;
        self.check_limit(inner, &range, prot, &backing)?;
        self.trim_heap(inner, &range)?;
        self.unmap_locked(inner, range.clone())?;
        let lock = inner.lock_new;
        let on_fork = OnFork::Copied;
        self.insert(inner, range, Vma { end: 0, prot, backing, label, lock, on_fork })
    }

    /// Maps `len` bytes at any free address, at `hint` if that is free.
    ///
    /// # Errors
    /// As [`PrivateRegion::map_at`]; `ENOMEM` when no free range is large enough.
    pub fn map_anywhere(
        &self,
        hint: u64,
        len: u64,
        prot: Prot,
        backing: Backing,
        label: &'static str,
    ) -> Result<u64, Errno> {
        let len = page_up(len).filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
        self.edit(|inner| {
            let hinted = checked_range(hint & !(PAGE_SIZE - 1), len)
                .ok()
                .filter(|range| hint != 0 && inner.areas.is_free(range.clone()));
            let start = match hinted {
                Some(range) => range.start,
                None => inner.find_room(len).ok_or(Errno::ENOMEM)?,
            };
            self.map_locked(inner, start..start + len, prot, backing, label)?;
            Ok(start)
        })
    }

    /// Whether the whole range is mapped.
    #[must_use]
    pub fn covers(&self, start: u64, len: u64) -> bool {
        checked_range(start, len).is_ok_and(|range| self.lock().areas.covers(range))
    }

    /// A mapping that can obviously never be filled is refused immediately, as by Linux's default
    /// overcommit heuristic; inaccessible reservations and file mappings are free.
    pub(super) fn check_limit(
        &self,
        inner: &mut Inner,
        range: &Range<u64>,
        prot: Prot,
        backing: &Backing,
    ) -> Result<(), Errno> {
        let counted = prot.can_write() && matches!(backing, Backing::Anonymous);
        if counted { self.check_room_for(inner, range) } else { Ok(()) }
    }

    pub(super) fn insert(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        mut vma: Vma,
    ) -> Result<(), Errno> {
        vma.end = range.end;
        self.insert_absent(inner, range.clone(), vma.clone())?;
        let eager = range.end - range.start <= EAGER_BYTES || vma.lock == MemoryLock::Locked;
        if eager && vma.prot != Prot::NONE {
            // Best effort: what does not fit now is left to the first access.
            let _ = self.populate(inner, range, &vma);
        }
        Ok(())
    }

    /// The same, with nothing made present.
    pub(super) fn insert_absent(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        vma: Vma,
    ) -> Result<(), Errno> {
        if let Backing::File { file, offset, kind, .. } = &vma.backing {
            self.lay_file(inner, range.clone(), file, *offset, *kind)?;
        }
        inner.areas.insert(range.start, vma);
        Ok(())
    }

    pub(super) fn unmap_locked(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), Errno> {
        if inner.areas.is_free(range.clone()) {
            return Ok(());
        }
        // A split needs a table; allocate it before anything has changed.
        for edge in [range.start, range.end] {
            if edge % BLOCK != 0
                && let Some(block) = inner.blocks.get_mut(&(edge / BLOCK))
                && block.mapped == Mapped::Large
            {
                self.table(block, edge)?;
            }
        }
        for (piece, vma) in inner.areas.remove(range) {
            self.restrict(inner, piece.clone(), None)?;
            self.drop_content(inner, piece, &vma.backing)?;
        }
        Ok(())
    }

    /// `munmap`: unmaps the range, which may have holes.
    ///
    /// # Errors
    /// `EINVAL` for an impossible range, `ENOMEM` when out of memory for a split.
    pub fn unmap(&self, start: u64, len: u64) -> Result<(), Errno> {
        let range = checked_range(start, len)?;
        self.edit(|inner| {
            // Only a hole in the middle of an area adds one.
            let middle = inner.areas.find(range.start);
            if middle.is_some_and(|(start, vma)| start < range.start && range.end < vma.end) {
                check_area_count(inner, &range)?;
            }
            self.unmap_locked(inner, range)
        })
    }

    /// `mprotect`.
    ///
    /// # Errors
    /// `EINVAL` for an impossible range, `ENOMEM` when part of it is not mapped, `EACCES`
    /// for a writable mapping of a read-only file.
    pub fn protect(&self, start: u64, len: u64, prot: Prot) -> Result<(), Errno> {
        if len == 0 {
            return Ok(());
        }
        let range = checked_range(start, len).map_err(|_| Errno::ENOMEM)?;
        self.edit(|inner| self.protect_locked(inner, range, prot))
    }

    fn protect_locked(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        prot: Prot,
    ) -> Result<(), Errno> {
        if !inner.areas.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        let read_only = |vma: &Vma| {
            matches!(vma.backing, Backing::File { kind: FileMapping::SharedReadOnly, .. })
        };
        if prot.can_write() && inner.areas.overlapping(range.clone()).any(|(_, v)| read_only(v)) {
            return Err(Errno::EACCES);
        }
        check_area_count(inner, &range)?;
        let opened = |(_, vma): &(Range<u64>, &Vma)| {
            !vma.prot.can_write() && matches!(vma.backing, Backing::Anonymous)
        };
        if prot.can_write() {
            let pieces = inner.areas.overlapping(range.clone()).filter(opened);
            let pieces: Vec<Range<u64>> = pieces.map(|(piece, _)| piece).collect();
            for piece in pieces {
                self.check_room_for(inner, &piece)?;
            }
        }
        let reduces = inner.areas.overlapping(range.clone()).any(|(_, vma)| {
            match (vma.prot.rights(), prot.rights()) {
                (None, _) => false,
                (Some(old), Some(new)) => !new.covers(old),
                (Some(_), None) => true,
            }
        });
        self.restrict(inner, range.clone(), prot.rights())?;
        inner.areas.protect(range.clone(), prot);
        if reduces {
            // Area by area: memory and a file have host rights of their own, which the flush
            // must leave as they were.
            for (piece, _) in inner.areas.overlapping(range.clone()) {
                Self::each_run(inner, piece, |run, gpa| {
                    self.mem().forget_translations(gpa, run.end - run.start)
                })?;
            }
        }
        if prot != Prot::NONE && range.end - range.start <= EAGER_BYTES {
            let pieces: Vec<_> =
                inner.areas.overlapping(range).map(|(r, v)| (r, v.clone())).collect();
            for (piece, vma) in pieces {
                self.expect_growth(inner, &piece);
                if self.populate(inner, piece.clone(), &vma).is_ok() {
                    self.promote_block(inner, piece.end - 1, &vma);
                }
            }
        }
        Ok(())
    }

    /// `madvise(MADV_DONTNEED)` and related advice: drops the content, keeps the mapping.
    ///
    /// # Errors
    /// `ENOMEM` when part of the range is not mapped.
    pub fn drop_pages(&self, start: u64, len: u64) -> Result<(), Errno> {
        let range = checked_range(start, len)?;
        let mut guard = self.lock();
        let inner = &mut *guard;
        let pieces: Vec<_> =
            inner.areas.overlapping(range.clone()).map(|(r, v)| (r, v.clone())).collect();
        for (piece, vma) in pieces {
            self.forget_image(inner, &piece)?;
            match &vma.backing {
                Backing::Anonymous if vma.prot == Prot::NONE => {
                    self.drop_content(inner, piece.clone(), &vma.backing)?;
                }
                // The program can allocate these pages again by accessing them, without our
                // knowledge: they stay held.
                Backing::Anonymous => Self::each_run(inner, piece.clone(), |run, gpa| {
                    self.mem().discard(gpa, run.end - run.start)
                })?,
                // A private copy reverts to the file's content; a shared page is the file.
                Backing::File { file, offset, kind: kind @ FileMapping::Private, .. } => {
                    use std::os::fd::AsFd;
                    let area = inner.areas.find(piece.start).map_or(piece.start, |(s, _)| s);
                    let at = offset + (piece.start - area);
                    Self::each_run(inner, piece.clone(), |run, gpa| {
                        let at = at + (run.start - piece.start);
                        self.mem().map_file(gpa, run.end - run.start, file.as_fd(), at, *kind)
                    })?;
                }
                Backing::File { .. } => {}
            }
            if vma.lock != MemoryLock::Unlocked {
                // What is accessed again is locked again.
                self.lock_host(inner, piece, MemoryLock::OnFault)?;
            }
        }
        if inner.areas.covers(range) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Determines what a child has of a range (`MADV_DONTFORK` and its kin).
    ///
    /// # Errors
    /// `ENOMEM` with too many areas.
    pub fn set_on_fork(&self, start: u64, len: u64, on_fork: OnFork) -> Result<(), Errno> {
        let range = checked_range(start, len)?;
        self.edit(|inner| {
            check_area_count(inner, &range)?;
            inner.areas.set_on_fork(range, on_fork);
            Ok(())
        })
    }

    /// Asks the host to write shared file mappings in the range back to their files, and waits.
    ///
    /// # Errors
    /// `ENOMEM` when part of the range is not mapped, or the file system's error.
    pub fn sync_files(&self, start: u64, len: u64) -> Result<(), Errno> {
        if len == 0 {
            return Ok(());
        }
        let range = checked_range(start, len)?;
        let files: Vec<Arc<std::fs::File>> = {
            let inner = self.lock();
            if !inner.areas.covers(range.clone()) {
                return Err(Errno::ENOMEM);
            }
            let shared = inner.areas.overlapping(range).filter_map(|(_, vma)| match &vma.backing {
                Backing::File { file, kind: FileMapping::Shared, .. } => Some(file.clone()),
                _ => None,
            });
            shared.collect()
        };
        for file in files {
            file.sync_data().map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(5)))?;
        }
        Ok(())
    }

    /// Lets the host use huge pages for the range (`MADV_HUGEPAGE`).
    pub fn advise_huge(&self, start: u64, len: u64) {
        let Ok(range) = checked_range(start, len) else { return };
        let mut inner = self.lock();
        for index in range.start.div_ceil(BLOCK)..range.end / BLOCK {
            if Self::is_plain(&inner, index * BLOCK..(index + 1) * BLOCK)
                && let Some(block) = inner.blocks.get_mut(&index)
                && block.of_image.is_empty()
                && self.hold(block, 0..BLOCK_PAGES).is_ok()
            {
                // Advice: small pages are as good.
                let _ = self.make_huge(block);
            }
        }
    }
}

impl Inner {
    /// A free range of `len` bytes below the stack; large areas start on a 2 MiB boundary, so that
    /// they can be mapped with large pages.
    pub(super) fn find_room(&self, len: u64) -> Option<u64> {
        let align = if len >= BLOCK { BLOCK } else { PAGE_SIZE };
        self.areas.find_free(len, align, PRIVATE_START.raw(), self.mmap_top)
    }
}
