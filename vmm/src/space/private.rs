//! The memory behind the private region: chunks, page tables, faults.
//!
//! The region is cut into 2 MiB slots. A slot that is used gets a 2 MiB chunk of guest
//! memory, once and for ever: the page at offset *o* of the slot is always the page at
//! offset *o* of its chunk. So there is no frame allocator, a translation can be stale in its
//! rights but never in its target, and moving, freeing or file-backing memory is an operation
//! on the *host's* mapping of the chunk, of which KVM learns by itself
//! (docs/src/internals/memory.md has the argument in full).
//!
//! ```text
//!  slot (2 MiB of guest-virtual)  ->  chunk (guest-physical)  ->  host range
//!  page-directory entry: one large page, or a table of 512     anonymous, or a file laid
//!  small ones, present where the program may go                 over some of its pages
//! ```
//!
//! Small areas are mapped when they are made; large ones at the first touch, 2 MiB at a
//! time and more when touched in sequence, so that reserving space costs nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use abi::layout::{CALL_PAGE, MMAP_TOP, PRIVATE_START};
use abi::{Errno, GuestPhys, GuestVirt, Level, PAGE_SIZE, PAGE_SIZE_2M, Pte, Rights};

use super::vma::{Backing, Prot, Vma, VmaMap, page_up};
use crate::vm::Machine;
use crate::vm::memory::{FileMapping, GuestMem, MemoryError};

/// Areas up to this size are mapped at once.
const EAGER_BYTES: u64 = 8 << 20;
/// From this size on, a heap grows in large pages.
const LARGE_HEAP_BYTES: u64 = 1 << 20;
/// Most slots mapped ahead of a sequence of faults.
const MAX_AHEAD_SLOTS: u64 = 32;

/// How the processor's page fault was dealt with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultOutcome {
    /// The page is there now; go on.
    Resolved,
    /// No area holds the address (SEGV_MAPERR).
    Unmapped,
    /// The area does not allow the access (SEGV_ACCERR).
    Forbidden,
    /// The page lies beyond the end of the mapped file (BUS_ADRERR).
    BeyondFile,
    /// The VM's memory is used up.
    OutOfMemory,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mapped {
    Nothing,
    Large,
    Table(GuestPhys),
}

#[derive(Debug)]
struct Slot {
    chunk: GuestPhys,
    mapped: Mapped,
    /// The slot's page table, once it has had one: linked again when it is needed again, so
    /// that splitting and joining for ever takes no more than one.
    table: Option<GuestPhys>,
    /// Rights of the large page, while there is one.
    rights: Option<Rights>,
    /// Some page of the chunk is, or was, laid over by a file.
    has_file: bool,
}

/// The process's own space.
#[derive(Debug)]
pub struct Space {
    machine: Arc<Machine>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) areas: VmaMap,
    slots: BTreeMap<u64, Slot>,
    present_pages: u64,
    limit_pages: u64,
    heap_start: u64,
    heap_end: u64,
    /// Up to here, beyond the heap's last page, pages are present in advance.
    heap_ahead: u64,
    next_fault: u64,
    ahead_slots: u64,
}

/// One past what a program may map. Above lie call page and gate, where code of ours must
/// stay: a host that emulates SYSCALL runs the gate in ring 0 when the program's stack
/// pointer is not canonical.
const PROGRAM_END: GuestVirt = CALL_PAGE;
/// Bytes of a slot.
const SLOT: u64 = PAGE_SIZE_2M;

impl Space {
    /// An empty space that may map `limit_bytes` of memory at one time.
    #[must_use]
    pub fn new(machine: Arc<Machine>, limit_bytes: u64) -> Space {
        let inner = Inner {
            areas: VmaMap::default(),
            slots: BTreeMap::new(),
            present_pages: 0,
            limit_pages: limit_bytes / PAGE_SIZE,
            heap_start: 0,
            heap_end: 0,
            heap_ahead: 0,
            next_fault: 0,
            ahead_slots: 1,
        };
        Space { machine, inner: Mutex::new(inner) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub(super) fn mem(&self) -> &GuestMem {
        &self.machine.mem
    }

    /// Bytes mapped for the program now.
    #[must_use]
    pub fn present_bytes(&self) -> u64 {
        self.lock().present_pages * PAGE_SIZE
    }

    /// Bytes that may be mapped at one time.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.lock().limit_pages * PAGE_SIZE
    }

    /// The area around `gva` in words, for a crash report.
    #[must_use]
    pub fn describe(&self, gva: u64) -> Option<String> {
        let inner = self.lock();
        let (start, vma) = inner.areas.find(gva)?;
        Some(format!("{start:#x}-{:#x} {} {}", vma.end, vma.prot, vma.label))
    }

    /// Every area in words, ascending, one line each.
    #[must_use]
    pub fn listing(&self) -> Vec<String> {
        let inner = self.lock();
        let line = |(r, vma): (Range<u64>, &Vma)| {
            format!("{:#014x}-{:#014x} {} {}", r.start, r.end, vma.prot, vma.label)
        };
        inner.areas.iter().map(line).collect()
    }

    /// The areas in the format of `/proc/self/maps`.
    #[must_use]
    pub fn maps(&self) -> String {
        use std::fmt::Write;
        let inner = self.lock();
        let mut text = String::new();
        for (range, vma) in inner.areas.iter() {
            let (share, offset) = match &vma.backing {
                Backing::File { offset, kind: FileMapping::Private, .. } => ('p', *offset),
                Backing::File { offset, .. } => ('s', *offset),
                Backing::Anonymous => ('p', 0),
            };
            let name = match vma.label {
                "stack" => "[stack]",
                "heap" => "[heap]",
                "vdso" => "[vdso]",
                _ => "",
            };
            let (start, end) = (range.start, range.end);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{start:08x}-{end:08x} {}{share} {offset:08x} 00:00 0 {name:>27}",
                vma.prot
            );
        }
        text
    }

    /// Maps `len` bytes at exactly `start`, replacing what is there.
    ///
    /// # Errors
    /// `EINVAL` for a range outside the private region or unaligned, `ENOMEM`, or the error
    /// of the host mapping the file.
    pub fn map_at(
        &self,
        start: u64,
        len: u64,
        prot: Prot,
        backing: Backing,
        label: &'static str,
    ) -> Result<(), Errno> {
        let range = checked_range(start, len)?;
        let mut inner = self.lock();
        self.check_limit(&inner, &range, prot, &backing)?;
        self.trim_heap(&mut inner, &range)?;
        self.unmap_locked(&mut inner, range.clone())?;
        self.insert(&mut inner, range, Vma { end: 0, prot, backing, label })
    }

    /// Maps `len` bytes where there is room, at `hint` if that is free.
    ///
    /// # Errors
    /// As [`Space::map_at`]; `ENOMEM` when there is no room.
    pub fn map_anywhere(
        &self,
        hint: u64,
        len: u64,
        prot: Prot,
        backing: Backing,
        label: &'static str,
    ) -> Result<u64, Errno> {
        let len = page_up(len).filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
        let mut inner = self.lock();
        let hinted = checked_range(hint & !(PAGE_SIZE - 1), len)
            .ok()
            .filter(|range| hint != 0 && inner.areas.is_free(range.clone()));
        let start = match hinted {
            Some(range) => range.start,
            None => inner.find_room(len).ok_or(Errno::ENOMEM)?,
        };
        let range = start..start + len;
        self.check_limit(&inner, &range, prot, &backing)?;
        self.trim_heap(&mut inner, &range)?;
        self.insert(&mut inner, range, Vma { end: 0, prot, backing, label })?;
        Ok(start)
    }

    /// The guest-physical address behind `gva`, for the VMM's own pages in the space.
    #[must_use]
    pub fn phys(&self, gva: u64) -> Option<GuestPhys> {
        let inner = self.lock();
        inner.areas.find(gva)?;
        inner.slots.get(&(gva / SLOT)).map(|slot| slot.chunk.offset(gva % SLOT))
    }

    /// Whether nothing is mapped in the range (for `MAP_FIXED_NOREPLACE`).
    #[must_use]
    pub fn is_free(&self, start: u64, len: u64) -> bool {
        checked_range(start, len).is_ok_and(|range| self.lock().areas.is_free(range))
    }

    /// Whether the whole range is mapped.
    #[must_use]
    pub fn covers(&self, start: u64, len: u64) -> bool {
        checked_range(start, len).is_ok_and(|range| self.lock().areas.covers(range))
    }

    /// Asks the host to write shared file mappings in the range to their files, and waits.
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

    /// A mapping that can obviously never be filled is refused at once, as Linux's default
    /// overcommit heuristic does; inaccessible reservations and file mappings are free.
    fn check_limit(
        &self,
        inner: &Inner,
        range: &Range<u64>,
        prot: Prot,
        backing: &Backing,
    ) -> Result<(), Errno> {
        let pages = (range.end - range.start) / PAGE_SIZE;
        let counted = prot.can_write() && matches!(backing, Backing::Anonymous);
        if counted && inner.present_pages.saturating_add(pages) > inner.limit_pages {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    fn insert(&self, inner: &mut Inner, range: Range<u64>, mut vma: Vma) -> Result<(), Errno> {
        vma.end = range.end;
        if let Backing::File { file, offset, kind } = &vma.backing {
            self.lay_file(inner, range.clone(), file, *offset, *kind)?;
        }
        let eager = range.end - range.start <= EAGER_BYTES;
        inner.areas.insert(range.start, vma.clone());
        if eager && vma.prot != Prot::NONE {
            // Best effort: what does not fit now is left to the first touch.
            let _ = self.populate(inner, range, &vma);
        }
        Ok(())
    }

    /// Gives every slot of `range` a chunk; contiguous where the slots are new.
    fn bind(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), MemoryError> {
        let mut slot = range.start / SLOT;
        let end = range.end.div_ceil(SLOT);
        while slot < end {
            if inner.slots.contains_key(&slot) {
                slot += 1;
                continue;
            }
            let next_bound = inner.slots.range(slot..end).next().map_or(end, |(&s, _)| s);
            let mut chunk = self.mem().alloc((next_bound - slot) * SLOT)?;
            for slot in slot..next_bound {
                let fresh = Slot {
                    chunk,
                    mapped: Mapped::Nothing,
                    table: None,
                    rights: None,
                    has_file: false,
                };
                inner.slots.insert(slot, fresh);
                chunk = chunk.offset(SLOT);
            }
            slot = next_bound;
        }
        Ok(())
    }

    /// Calls `f` with each maximal run of `range` that is contiguous in guest-physical space.
    fn each_run<E>(
        inner: &Inner,
        range: Range<u64>,
        mut f: impl FnMut(Range<u64>, GuestPhys) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut run: Option<(Range<u64>, GuestPhys)> = None;
        for (&index, slot) in inner.slots.range(range.start / SLOT..range.end.div_ceil(SLOT)) {
            let start = (index * SLOT).max(range.start);
            let end = ((index + 1) * SLOT).min(range.end);
            let gpa = slot.chunk.offset(start % SLOT);
            match &mut run {
                Some((r, base)) if r.end == start && base.offset(start - r.start) == gpa => {
                    r.end = end;
                }
                _ => {
                    if let Some((r, base)) = run.take() {
                        f(r, base)?;
                    }
                    run = Some((start..end, gpa));
                }
            }
        }
        match run {
            Some((r, base)) => f(r, base),
            None => Ok(()),
        }
    }

    fn lay_file(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        file: &std::fs::File,
        offset: u64,
        kind: FileMapping,
    ) -> Result<(), Errno> {
        use std::os::fd::AsFd;
        self.bind(inner, range.clone()).map_err(|e| errno_of(&e))?;
        for (_, slot) in inner.slots.range_mut(range.start / SLOT..range.end.div_ceil(SLOT)) {
            slot.has_file = true;
        }
        Self::each_run(inner, range.clone(), |run, gpa| {
            let at = offset + (run.start - range.start);
            self.mem().map_file(gpa, run.end - run.start, file.as_fd(), at, kind)
        })
        .map_err(|e| errno_of(&e))
    }

    /// Makes the pages of `range`, which lies in area `vma`, present.
    fn populate(&self, inner: &mut Inner, range: Range<u64>, vma: &Vma) -> Result<(), Errno> {
        let Some(rights) = vma.prot.rights() else { return Ok(()) };
        self.bind(inner, range.clone()).map_err(|e| errno_of(&e))?;
        let anonymous = matches!(vma.backing, Backing::Anonymous);
        let mut huge: Option<Range<u64>> = None;
        for index in range.start / SLOT..range.end.div_ceil(SLOT) {
            let slot_range = index * SLOT..(index + 1) * SLOT;
            let piece = slot_range.start.max(range.start)..slot_range.end.min(range.end);
            let Some(slot) = inner.slots.get_mut(&index) else { continue };
            let whole = piece == slot_range;
            match slot.mapped {
                Mapped::Nothing | Mapped::Large if whole && anonymous && !slot.has_file => {
                    let added = if slot.mapped == Mapped::Large { 0 } else { 512 };
                    if inner.present_pages + added > inner.limit_pages {
                        return Err(Errno::ENOMEM);
                    }
                    self.set_large(slot, slot_range.start, rights)?;
                    huge = Some(huge.map_or(piece.start, |h| h.start)..piece.end);
                    inner.present_pages += added;
                }
                _ => {
                    let limit = inner.limit_pages;
                    self.set_small(slot, piece, rights, &mut inner.present_pages, limit)?;
                }
            }
        }
        if let Some(huge) = huge {
            Self::each_run(inner, huge, |run, gpa| self.mem().allow_huge(gpa, run.end - run.start))
                .map_err(|e| errno_of(&e))?;
        }
        Ok(())
    }

    fn set_large(&self, slot: &mut Slot, start: u64, rights: Rights) -> Result<(), Errno> {
        let gva = virt(start)?;
        self.machine
            .edit_tables(|t| t.map(gva, slot.chunk, abi::PageSize::Large2M, rights))
            .map_err(|e| errno_of(&e))?;
        slot.mapped = Mapped::Large;
        slot.rights = Some(rights);
        Ok(())
    }

    /// The slot's page table; a large page there is split into it.
    fn table(&self, slot: &mut Slot, start: u64) -> Result<GuestPhys, Errno> {
        if let Mapped::Table(table) = slot.mapped {
            return Ok(table);
        }
        let gva = virt(start)?;
        let table = match slot.table {
            Some(table) => {
                self.refill(slot, table)?;
                self.machine.edit_tables(|t| t.link(gva, Level::Directory, table)).map(|()| table)
            }
            None => self.machine.edit_tables(|t| t.table_for(gva, Level::Table)),
        }
        .map_err(|e| errno_of(&e))?;
        slot.table = Some(table);
        slot.mapped = Mapped::Table(table);
        Ok(table)
    }

    /// Makes an unlinked table say what the slot's entry says now.
    fn refill(&self, slot: &Slot, table: GuestPhys) -> Result<(), Errno> {
        let large = match slot.mapped {
            Mapped::Large => slot.rights,
            Mapped::Nothing | Mapped::Table(_) => None,
        };
        for index in 0..512 {
            let pte = match large {
                Some(rights) => Pte::leaf(slot.chunk.offset(index * PAGE_SIZE), rights, false),
                None => Pte::EMPTY,
            };
            self.mem().store(table.offset(index * 8), pte.raw()).map_err(|e| errno_of(&e))?;
        }
        Ok(())
    }

    /// Makes small pages present and counts them in `present`, also those before the one
    /// that is refused because of `limit`.
    fn set_small(
        &self,
        slot: &mut Slot,
        piece: Range<u64>,
        rights: Rights,
        present: &mut u64,
        limit: u64,
    ) -> Result<(), Errno> {
        let table = self.table(slot, piece.start)?;
        for at in (piece.start..piece.end).step_by(PAGE_SIZE as usize) {
            let entry = table.offset((at % SLOT) / PAGE_SIZE * 8);
            let old = Pte::from_raw(self.mem().load(entry).map_err(|e| errno_of(&e))?);
            if !old.is_present() {
                if *present >= limit {
                    return Err(Errno::ENOMEM);
                }
                *present += 1;
            }
            let pte = Pte::leaf(slot.chunk.offset(at % SLOT), rights, false);
            self.mem().store(entry, pte.raw()).map_err(|e| errno_of(&e))?;
        }
        Ok(())
    }

    /// Takes the rights of `range` down to `rights` (or nothing) wherever pages are present.
    /// Returns the pages that are no longer present. The flush is the caller's.
    fn restrict(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        rights: Option<Rights>,
    ) -> Result<u64, Errno> {
        let mut removed = 0;
        for (&index, slot) in inner.slots.range_mut(range.start / SLOT..range.end.div_ceil(SLOT)) {
            let slot_range = index * SLOT..(index + 1) * SLOT;
            let piece = slot_range.start.max(range.start)..slot_range.end.min(range.end);
            match (slot.mapped, rights) {
                (Mapped::Nothing, _) => {}
                (Mapped::Large, Some(rights)) if piece == slot_range => {
                    self.set_large(slot, slot_range.start, rights)?;
                }
                (Mapped::Large, None) if piece == slot_range => {
                    let gva = virt(slot_range.start)?;
                    self.machine
                        .edit_tables(|t| t.clear(gva, Level::Directory))
                        .map_err(|e| errno_of(&e))?;
                    slot.mapped = Mapped::Nothing;
                    removed += 512;
                }
                _ => {
                    let table = self.table(slot, slot_range.start)?;
                    for at in (piece.start..piece.end).step_by(PAGE_SIZE as usize) {
                        let entry = table.offset((at % SLOT) / PAGE_SIZE * 8);
                        let old = self.mem().load(entry).map_err(|e| errno_of(&e))?;
                        if !Pte::from_raw(old).is_present() {
                            continue;
                        }
                        let new = match rights {
                            Some(rights) => Pte::leaf(slot.chunk.offset(at % SLOT), rights, false),
                            None => Pte::EMPTY,
                        };
                        removed += u64::from(rights.is_none());
                        self.mem().store(entry, new.raw()).map_err(|e| errno_of(&e))?;
                    }
                }
            }
        }
        Ok(removed)
    }

    fn unmap_locked(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), Errno> {
        if inner.areas.is_free(range.clone()) {
            return Ok(());
        }
        // A split needs a table; take it before anything has changed.
        for edge in [range.start, range.end] {
            if edge % SLOT != 0
                && let Some(slot) = inner.slots.get_mut(&(edge / SLOT))
                && slot.mapped == Mapped::Large
            {
                self.table(slot, edge)?;
            }
        }
        for (piece, vma) in inner.areas.remove(range) {
            let removed = self.restrict(inner, piece.clone(), None)?;
            inner.present_pages = inner.present_pages.saturating_sub(removed);
            self.drop_content(inner, piece, &vma.backing)?;
        }
        Ok(())
    }

    /// Drops content, and with it every translation a vCPU still has of it.
    fn drop_content(
        &self,
        inner: &Inner,
        range: Range<u64>,
        backing: &Backing,
    ) -> Result<(), Errno> {
        Self::each_run(inner, range, |run, gpa| match backing {
            Backing::Anonymous => self.mem().discard(gpa, run.end - run.start),
            Backing::File { .. } => self.mem().unmap_file(gpa, run.end - run.start),
        })
        .map_err(|e| errno_of(&e))
    }

    /// `munmap`: takes the range out of use. Holes in it are fine.
    ///
    /// # Errors
    /// `EINVAL` for an impossible range, `ENOMEM` when a split needs memory there is not.
    pub fn unmap(&self, start: u64, len: u64) -> Result<(), Errno> {
        let range = checked_range(start, len)?;
        self.unmap_locked(&mut self.lock(), range)
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
        let mut guard = self.lock();
        let inner = &mut *guard;
        if !inner.areas.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        let read_only = |vma: &Vma| {
            matches!(vma.backing, Backing::File { kind: FileMapping::SharedReadOnly, .. })
        };
        if prot.can_write() && inner.areas.overlapping(range.clone()).any(|(_, v)| read_only(v)) {
            return Err(Errno::EACCES);
        }
        let reduces = inner.areas.overlapping(range.clone()).any(|(_, vma)| {
            match (vma.prot.rights(), prot.rights()) {
                (None, _) => false,
                (Some(old), Some(new)) => !new.covers(old),
                (Some(_), None) => true,
            }
        });
        let removed = self.restrict(inner, range.clone(), prot.rights())?;
        inner.present_pages = inner.present_pages.saturating_sub(removed);
        inner.areas.protect(range.clone(), prot);
        if reduces {
            Self::each_run(inner, range.clone(), |run, gpa| {
                self.mem().forget_translations(gpa, run.end - run.start)
            })
            .map_err(|e| errno_of(&e))?;
        }
        if prot != Prot::NONE && range.end - range.start <= EAGER_BYTES {
            let pieces: Vec<_> =
                inner.areas.overlapping(range).map(|(r, v)| (r, v.clone())).collect();
            for (piece, vma) in pieces {
                self.expect_growth(inner, &piece);
                if self.populate(inner, piece.clone(), &vma).is_ok() {
                    self.join_slot(inner, piece.end - 1, &vma);
                }
            }
        }
        Ok(())
    }

    /// A reservation that is opened step by step, as an allocator does: once the slot before
    /// is one large page, this one will be too, so the host may back it with one from the
    /// start. Not for the first slot, or every small reservation would cost 2 MiB.
    fn expect_growth(&self, inner: &Inner, opened: &Range<u64>) {
        let index = opened.start / SLOT;
        let slot_range = index * SLOT..(index + 1) * SLOT;
        let follows_large =
            inner.slots.get(&index.wrapping_sub(1)).is_some_and(|s| s.mapped == Mapped::Large);
        let fresh = inner.slots.get(&index).is_none_or(|s| s.mapped == Mapped::Nothing);
        if follows_large && fresh && Self::is_plain(inner, slot_range.clone()) {
            let _ = Self::each_run(inner, slot_range, |run, gpa| {
                self.mem().allow_huge(gpa, run.end - run.start)
            });
        }
    }

    /// Whether all of `range` is anonymous memory, whatever its rights.
    fn is_plain(inner: &Inner, range: Range<u64>) -> bool {
        let anonymous = |(_, vma): (_, &Vma)| matches!(vma.backing, Backing::Anonymous);
        inner.areas.covers(range.clone()) && inner.areas.overlapping(range).all(anonymous)
    }

    /// Replaces the 512 small pages of the slot around `at` by one large page, when all of it
    /// has become accessible with the same rights. The content stays where it is: that is
    /// what binding slots to chunks is for.
    fn join_slot(&self, inner: &mut Inner, at: u64, vma: &Vma) {
        let index = at / SLOT;
        let slot_range = index * SLOT..(index + 1) * SLOT;
        let Some(rights) = vma.prot.rights() else { return };
        let same = |(_, v): (_, &Vma)| v.prot == vma.prot;
        if !Self::is_plain(inner, slot_range.clone())
            || !inner.areas.overlapping(slot_range.clone()).all(same)
        {
            return;
        }
        let Some(slot) = inner.slots.get_mut(&index) else { return };
        if slot.has_file || !matches!(slot.mapped, Mapped::Table(_)) {
            return;
        }
        let chunk = slot.chunk;
        // All 512 are present, or will be at their first touch: count them all.
        let Ok(present) = self.count_present(slot) else { return };
        if inner.present_pages + 512 - present > inner.limit_pages {
            return;
        }
        let _ = self.mem().collapse(chunk, SLOT);
        if self.set_large(slot, slot_range.start, rights).is_ok() {
            inner.present_pages += 512 - present;
            let _ = self.mem().forget_translations(chunk, SLOT);
        }
    }

    fn count_present(&self, slot: &Slot) -> Result<u64, MemoryError> {
        let Mapped::Table(table) = slot.mapped else { return Ok(0) };
        let mut present = 0;
        for index in 0..512 {
            let entry = Pte::from_raw(self.mem().load(table.offset(index * 8))?);
            present += u64::from(entry.is_present());
        }
        Ok(present)
    }

    /// `madvise(MADV_DONTNEED)` and kin: the content goes, the mapping stays.
    ///
    /// # Errors
    /// `ENOMEM` when part of the range is not mapped.
    pub fn drop_pages(&self, start: u64, len: u64) -> Result<(), Errno> {
        let range = checked_range(start, len)?;
        let inner = self.lock();
        for (piece, vma) in inner.areas.overlapping(range.clone()) {
            match &vma.backing {
                Backing::Anonymous => self.drop_content(&inner, piece, &vma.backing)?,
                // A private copy goes back to the file's content; a shared page is the file.
                Backing::File { file, offset, kind: kind @ FileMapping::Private } => {
                    use std::os::fd::AsFd;
                    let area = inner.areas.find(piece.start).map_or(piece.start, |(s, _)| s);
                    let at = offset + (piece.start - area);
                    Self::each_run(&inner, piece.clone(), |run, gpa| {
                        let at = at + (run.start - piece.start);
                        self.mem().map_file(gpa, run.end - run.start, file.as_fd(), at, *kind)
                    })
                    .map_err(|e| errno_of(&e))?;
                }
                Backing::File { .. } => {}
            }
        }
        if inner.areas.covers(range) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Resolves a page fault at `gva`, or says why not.
    #[must_use]
    pub fn fault(&self, gva: u64, write: bool, execute: bool) -> FaultOutcome {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some((start, vma)) = inner.areas.find(gva) else { return FaultOutcome::Unmapped };
        let vma = vma.clone();
        let allowed = vma.prot.can_read()
            && (!write || vma.prot.can_write())
            && (!execute || vma.prot.can_execute());
        if !allowed {
            return FaultOutcome::Forbidden;
        }
        let mut end = vma.end;
        if let Backing::File { file, offset, .. } = &vma.backing {
            let size = file.metadata().map_or(0, |m| m.len());
            let bytes = size.saturating_sub(*offset).next_multiple_of(PAGE_SIZE);
            end = end.min(start.saturating_add(bytes));
            if gva >= end {
                return FaultOutcome::BeyondFile;
            }
        }
        let first = gva / SLOT * SLOT;
        inner.ahead_slots = if first == inner.next_fault {
            (inner.ahead_slots * 2).min(MAX_AHEAD_SLOTS)
        } else {
            1
        };
        let wanted = first.max(start)..(first + inner.ahead_slots * SLOT).min(end);
        inner.next_fault = wanted.end;
        if self.populate(inner, wanted, &vma).is_ok() {
            return FaultOutcome::Resolved;
        }
        // Memory is short: just the page itself.
        let page = gva & !(PAGE_SIZE - 1);
        match self.populate(inner, page..page + PAGE_SIZE, &vma) {
            Ok(()) => FaultOutcome::Resolved,
            Err(_) => FaultOutcome::OutOfMemory,
        }
    }

    /// Says where the heap begins; nothing is mapped yet.
    pub fn set_heap(&self, start: u64) {
        let mut inner = self.lock();
        inner.heap_start = start;
        inner.heap_end = start;
        inner.heap_ahead = start;
    }

    /// `brk`: moves the heap's end to `end` if that is possible, and returns where it is.
    #[must_use]
    pub fn set_heap_end(&self, end: u64) -> u64 {
        let mut inner = self.lock();
        let (start, old_end) = (inner.heap_start, inner.heap_end);
        let (Some(old_top), Some(new_top)) = (page_up(old_end), page_up(end)) else {
            return old_end;
        };
        if end < start || new_top > MMAP_TOP.raw() {
            return old_end;
        }
        let moved = if new_top < old_top {
            self.shrink_heap(&mut inner, new_top..old_top)
        } else if new_top > old_top {
            self.grow_heap(&mut inner, old_top..new_top)
        } else {
            Ok(())
        };
        if moved.is_ok() {
            inner.heap_end = end;
        }
        inner.heap_end
    }

    fn grow_heap(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), Errno> {
        if !inner.areas.is_free(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        let backing = Backing::Anonymous;
        self.check_limit(inner, &range, Prot::READ_WRITE, &backing)?;
        let heap_bytes = range.end - inner.heap_start;
        let vma = Vma { end: range.end, prot: Prot::READ_WRITE, backing, label: "heap" };
        inner.areas.insert(range.start, vma.clone());
        // `brk` comes in small steps. Past the first megabyte whole slots are made present at
        // once, beyond the heap's end too: large pages, and no work for the next steps. What
        // lies there is taken back when anything else wants the addresses.
        let ahead = range.end.next_multiple_of(SLOT);
        let all_ahead = range.end..ahead;
        if heap_bytes >= LARGE_HEAP_BYTES
            && range.end > inner.heap_ahead
            && ahead - range.end.max(inner.heap_ahead) <= EAGER_BYTES
            && inner.areas.is_free(all_ahead)
            && ahead < MMAP_TOP.raw()
        {
            let from = range.start.max(inner.heap_ahead);
            let bytes = ahead - from;
            if bytes <= EAGER_BYTES {
                if self.populate(inner, from..ahead, &vma).is_ok() {
                    inner.heap_ahead = ahead;
                    return Ok(());
                }
                // Short of memory: what was made present beyond the heap has to go.
                self.take_back(inner, range.end.max(inner.heap_ahead)..ahead)?;
            }
        }
        let from = range.start.max(inner.heap_ahead);
        if from < range.end && range.end - from <= EAGER_BYTES {
            // Best effort: what does not fit now is left to the first touch.
            let _ = self.populate(inner, from..range.end, &vma);
        }
        Ok(())
    }

    fn shrink_heap(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), Errno> {
        let end = range.end.max(inner.heap_ahead);
        inner.heap_ahead = range.start;
        self.unmap_locked(inner, range.clone())?;
        self.take_back(inner, range.end..end)
    }

    /// Takes back what `grow_heap` made present in advance, where `range` needs it.
    fn trim_heap(&self, inner: &mut Inner, range: &Range<u64>) -> Result<(), Errno> {
        let Some(top) = page_up(inner.heap_end) else { return Ok(()) };
        let ahead = top..inner.heap_ahead;
        if ahead.is_empty() || range.start >= ahead.end || range.end <= ahead.start {
            return Ok(());
        }
        inner.heap_ahead = top;
        self.take_back(inner, ahead)
    }

    fn take_back(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        let removed = self.restrict(inner, range.clone(), None)?;
        inner.present_pages = inner.present_pages.saturating_sub(removed);
        self.drop_content(inner, range, &Backing::Anonymous)
    }

    /// `mremap`: changes the size of the mapping at `start`, moving it when `may_move`, to
    /// `fixed` when given. The content moves with it, without a copy where the host can.
    ///
    /// # Errors
    /// `EFAULT` when the old range is not one mapping, `ENOMEM`, `EINVAL`.
    pub fn remap(
        &self,
        start: u64,
        old_len: u64,
        new_len: u64,
        may_move: bool,
        fixed: Option<u64>,
    ) -> Result<u64, Errno> {
        let old_len = page_up(old_len).ok_or(Errno::EINVAL)?;
        let new_len = page_up(new_len).filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
        let old = checked_range(start, old_len)?;
        let mut guard = self.lock();
        let inner = &mut *guard;
        let (area, vma) = inner.areas.find(start).ok_or(Errno::EFAULT)?;
        if vma.end < old.end {
            return Err(Errno::EFAULT);
        }
        let mut vma = vma.clone();
        let area_end = vma.end;
        if let Backing::File { offset, .. } = &mut vma.backing {
            *offset += start - area;
        }
        if fixed.is_none() {
            if new_len <= old_len {
                self.unmap_locked(inner, start + new_len..old.end)?;
                return Ok(start);
            }
            let more = old.end..start.checked_add(new_len).ok_or(Errno::ENOMEM)?;
            if old.end == area_end
                && more.end <= PROGRAM_END.raw()
                && inner.areas.is_free(more.clone())
            {
                self.check_limit(inner, &more, vma.prot, &vma.backing)?;
                self.trim_heap(inner, &more)?;
                let mut tail = vma.clone();
                if let Backing::File { offset, .. } = &mut tail.backing {
                    *offset += old_len;
                }
                self.insert(inner, more, tail)?;
                return Ok(start);
            }
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        let target = match fixed {
            Some(at) => {
                let range = checked_range(at, new_len)?;
                if range.start < old.end && old.start < range.end {
                    return Err(Errno::EINVAL);
                }
                self.unmap_locked(inner, range)?;
                at
            }
            None => inner.find_room(new_len).ok_or(Errno::ENOMEM)?,
        };
        let extra = target + old_len.min(new_len)..target + new_len;
        self.check_limit(inner, &extra, vma.prot, &vma.backing)?;
        self.trim_heap(inner, &(target..target + new_len))?;
        let anonymous = matches!(vma.backing, Backing::Anonymous);
        if !anonymous && let Backing::File { kind: FileMapping::Private, .. } = vma.backing {
            // The private copies of a file's pages cannot follow into a new mapping of it.
            return Err(Errno::ENOMEM);
        }
        self.insert(inner, target..target + new_len, vma)?;
        if anonymous {
            self.move_content(inner, start, target, old_len.min(new_len))?;
        }
        self.unmap_locked(inner, old)?;
        Ok(target)
    }

    /// Moves the pages of `len` bytes at `from` to `to`, leaving zeroes behind.
    fn move_content(&self, inner: &mut Inner, from: u64, to: u64, len: u64) -> Result<(), Errno> {
        self.bind(inner, to..to + len).map_err(|e| errno_of(&e))?;
        let shared: &Inner = inner;
        // Slots of `from` that were never bound have nothing to move.
        Self::each_run(shared, from..from + len, |run, source| {
            let into = to + (run.start - from);
            let mut done = 0;
            Self::each_run(shared, into..into + (run.end - run.start), |piece, dest| {
                let bytes = piece.end - piece.start;
                let moved = self.mem().move_pages(source.offset(done), dest, bytes);
                done += bytes;
                moved
            })
        })
        .map_err(|e| errno_of(&e))
    }

    /// Lets the host use huge pages for the range (`MADV_HUGEPAGE`).
    pub fn advise_huge(&self, start: u64, len: u64) {
        let Ok(range) = checked_range(start, len) else { return };
        let inner = self.lock();
        let _ = Self::each_run(&inner, range, |run, gpa| {
            self.mem().allow_huge(gpa, run.end - run.start)
        });
    }

    /// The host memory behind `range`, whose areas the caller has checked; binds what was
    /// never touched.
    pub(super) fn host_runs(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        mut f: impl FnMut(GuestPhys, u64, bool) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.bind(inner, range.clone()).map_err(|e| errno_of(&e))?;
        let first = range.start / SLOT;
        let has_file =
            inner.slots.range(first..range.end.div_ceil(SLOT)).any(|(_, slot)| slot.has_file);
        Self::each_run(inner, range, |run, gpa| f(gpa, run.end - run.start, has_file))
    }
}

impl Inner {
    /// Room for `len` bytes below the stack; large areas start on a 2 MiB boundary, so that
    /// they can be mapped with large pages.
    fn find_room(&self, len: u64) -> Option<u64> {
        let align = if len >= SLOT { SLOT } else { PAGE_SIZE };
        self.areas.find_free(len, align, PRIVATE_START.raw(), MMAP_TOP.raw())
    }
}

fn virt(raw: u64) -> Result<GuestVirt, Errno> {
    GuestVirt::new(raw).map_err(|_| Errno::EINVAL)
}

/// A page-aligned, non-empty range inside the private region.
fn checked_range(start: u64, len: u64) -> Result<Range<u64>, Errno> {
    let len = page_up(len).filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
    let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
    if start % PAGE_SIZE != 0 || start < PRIVATE_START.raw() || end > PROGRAM_END.raw() {
        return Err(Errno::EINVAL);
    }
    Ok(start..end)
}

/// What a program is told when the VMM's memory fails it.
fn errno_of(error: &MemoryError) -> Errno {
    match error {
        MemoryError::Host { source, .. } => {
            source.raw_os_error().map_or(Errno::ENOMEM, Errno::from_raw)
        }
        _ => Errno::ENOMEM,
    }
}
