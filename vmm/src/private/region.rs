//! The memory behind the private region: blocks and their page tables.
//!
//! The region is cut into 2 MiB blocks. A block that is used gets 2 MiB of guest-physical
//! addresses, and keeps them as long as any vCPU may remember it: the page at offset *o* of the
//! block always has offset *o* there. So there is no frame allocator, a translation can be stale in
//! its rights but never in its target, and moving, freeing or file-backing memory is an operation
//! on the *host's* mapping of the block, of which KVM learns by itself (docs/src/internals/memory.md
//! has the argument in full). Blocks that are no longer in use are recycled many at a time
//! (`recycle.rs`).
//!
//! ```text
//!  block (2 MiB of guest-virtual)  ->  its fixed GPA  ->  host range
//!  page-directory entry: one large page, or a table of 512     anonymous, or a file mapped
//!  small ones, present where the program may go                 over some of its pages
//! ```
//!
//! Small areas are mapped when they are created, large ones on first access, 2 MiB at a time and
//! more when accessed sequentially, so that reserving address space costs nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use abi::layout::{CLOCK_PAGE, MMAP_TOP, PRIVATE_START};
use abi::{Entry, Errno, GuestPhys, GuestVirt, Level, PAGE_SIZE, PAGE_SIZE_2M, Rights, Table};

use super::charge::part;
use super::guards::Guards;
use super::held::{AREA_RECORD_BYTES, BLOCK_PAGES, HeldPages};
use super::image_pages::without_write;
use super::pins::PinList;
use super::recycle::Recycling;
use super::vma::{Backing, MemoryLock, Vma, VmaMap, page_up};
use crate::access::MemoryAccess;
use crate::vm::memory::{FileMapping, GuestMem, MemoryError, Owner};
use crate::vm::{Machine, MemoryKind};

/// Areas up to this size are mapped immediately.
pub(super) const EAGER_BYTES: u64 = 8 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mapped {
    Nothing,
    Large,
    Table(GuestPhys),
}

#[derive(Debug)]
pub(super) struct Block {
    /// Where it lies in guest-physical memory, for good.
    pub(super) gpa: GuestPhys,
    pub(super) mapped: Mapped,
    /// The block's page table, once it has had one: linked again when it is needed again, so
    /// that splitting and joining for ever takes no more than one.
    pub(super) table: Option<GuestPhys>,
    /// Rights of the large page, if there is one.
    pub(super) rights: Option<Rights>,
    /// A file is, or was, mapped over some page of it.
    pub(super) has_file: bool,
    /// Which of its pages are charged.
    pub(super) held: HeldPages,
    /// Which of the others show an image's content (`image_pages.rs`).
    pub(super) of_image: HeldPages,
    /// Whether the host may back it with a huge page: only while all of it is held.
    pub(super) huge: bool,
}

/// What the VMM's own memory is charged with for a block: the record, and its share of the map.
pub(super) const BLOCK_RECORD_BYTES: u64 = 192;

/// The private region of a process.
#[derive(Debug)]
pub struct PrivateRegion {
    pub(super) machine: Arc<Machine>,
    pub(super) pins: PinList,
    pub(super) guards: Guards,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) areas: VmaMap,
    pub(super) blocks: BTreeMap<u64, Block>,
    pub(super) recycling: Recycling,
    /// Number of areas whose records are charged.
    pub(super) noted_areas: usize,
    pub(super) heap_start: u64,
    pub(super) heap_end: u64,
    /// End of the pages made present in advance, beyond the heap's last page.
    pub(super) heap_ahead: u64,
    pub(super) next_fault: u64,
    pub(super) ahead_blocks: u64,
    /// Where a sequence of writes to an image's pages goes on, and how much the last one was charged.
    pub(super) next_copy: u64,
    pub(super) copied_at_once: u64,
    /// `mmap` without an address searches downward from here.
    pub(super) mmap_top: u64,
    /// How areas created from now on are locked (`MCL_FUTURE`).
    pub(super) lock_new: MemoryLock,
}

/// One past what a program may map. Above it lie the clock page, which the VMM writes, and call
/// page and gate, where our code must stay: a host that emulates SYSCALL runs the gate in ring 0
/// when the program's stack pointer is not canonical.
pub(super) const PROGRAM_END: GuestVirt = CLOCK_PAGE;
/// Bytes of a block.
pub(super) const BLOCK: u64 = PAGE_SIZE_2M;

impl PrivateRegion {
    /// An empty region. From now on up to `limit_bytes` of the host's memory may be held for it and
    /// everything else that the machine's ledger counts.
    #[must_use]
    pub fn new(machine: Arc<Machine>, limit_bytes: u64) -> PrivateRegion {
        let inner = Inner {
            areas: VmaMap::default(),
            blocks: BTreeMap::new(),
            recycling: Recycling::default(),
            noted_areas: 0,
            heap_start: 0,
            heap_end: 0,
            heap_ahead: 0,
            next_fault: 0,
            ahead_blocks: 1,
            next_copy: 0,
            copied_at_once: 0,
            mmap_top: MMAP_TOP.raw(),
            lock_new: MemoryLock::Unlocked,
        };
        machine.mem.ledger().begin(limit_bytes);
        let (pins, guards) = (PinList::default(), Guards::default());
        PrivateRegion { machine, pins, guards, inner: Mutex::new(inner) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub(super) fn mem(&self) -> &GuestMem {
        &self.machine.mem
    }

    /// Bytes of the host's memory currently held, for this region and everything else that counts.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.mem().ledger().total()
    }

    /// Maximum number of bytes held at the same time.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.mem().ledger().limit_bytes()
    }

    /// Runs an edit of the areas, and charges the memory for their records afterwards.
    pub(super) fn edit<R>(&self, edit: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.lock();
        let result = edit(&mut inner);
        let (ledger, now) = (self.mem().ledger(), inner.areas.len());
        let bytes = |areas: usize| areas as u64 * AREA_RECORD_BYTES;
        match inner.noted_areas {
            before if before < now => ledger.note(MemoryKind::Records, bytes(now - before)),
            before => ledger.release(MemoryKind::Records, bytes(before - now)),
        }
        inner.noted_areas = now;
        result
    }

    /// Gives every block of `range` its GPA; contiguous where the blocks are new.
    pub(super) fn bind(&self, inner: &mut Inner, range: Range<u64>) -> Result<(), MemoryError> {
        let mut block = range.start / BLOCK;
        let end = range.end.div_ceil(BLOCK);
        while block < end {
            if inner.blocks.contains_key(&block) {
                block += 1;
                continue;
            }
            self.recycle_when_worth_it(inner, &range);
            let next_bound = inner.blocks.range(block..end).next().map_or(end, |(&s, _)| s);
            let (mut gpa, blocks) = match self.alloc_blocks(next_bound - block) {
                // What the program has freed may be what is missing.
                Err(_) if self.recycle(inner, &range) => self.alloc_blocks(next_bound - block)?,
                allocated => allocated?,
            };
            let next_bound = block + blocks;
            for block in block..next_bound {
                let fresh = Block {
                    gpa,
                    mapped: Mapped::Nothing,
                    table: None,
                    rights: None,
                    has_file: false,
                    held: HeldPages::default(),
                    of_image: HeldPages::default(),
                    huge: false,
                };
                inner.blocks.insert(block, fresh);
                gpa = gpa.offset(BLOCK);
            }
            self.make_directories(inner, block..next_bound)?;
            block = next_bound;
        }
        Ok(())
    }

    /// Guest-physical memory for `blocks` blocks or, where the addresses are used up but for small pieces, for
    /// fewer, and their records.
    fn alloc_blocks(&self, mut blocks: u64) -> Result<(GuestPhys, u64), MemoryError> {
        loop {
            let records = blocks * BLOCK_RECORD_BYTES;
            self.mem().ledger().charge(MemoryKind::Records, records)?;
            match self.mem().alloc_for(Owner::Program, blocks * BLOCK) {
                Ok(gpa) => return Ok((gpa, blocks)),
                Err(error) => {
                    self.mem().ledger().release(MemoryKind::Records, records);
                    if blocks == 1 || !matches!(error, MemoryError::Exhausted { .. }) {
                        return Err(error);
                    }
                    blocks = blocks.div_ceil(2);
                }
            }
        }
    }

    /// Calls `f` with each maximal run of `range` that is contiguous in guest-physical space.
    pub(super) fn each_run<E>(
        inner: &Inner,
        range: Range<u64>,
        mut f: impl FnMut(Range<u64>, GuestPhys) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut run: Option<(Range<u64>, GuestPhys)> = None;
        for (&index, block) in inner.blocks.range(blocks_of(&range)) {
            let Range { start, end } = part(index, &range);
            let gpa = block.gpa.offset(start % BLOCK);
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

    pub(super) fn lay_file(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        file: &std::fs::File,
        offset: u64,
        kind: FileMapping,
    ) -> Result<(), Errno> {
        use std::os::fd::AsFd;
        self.bind(inner, range.clone())?;
        for (_, block) in inner.blocks.range_mut(blocks_of(&range)) {
            block.has_file = true;
        }
        let mut mapped = range.start;
        let result = Self::each_run(inner, range.clone(), |run, gpa| {
            let at = offset.checked_add(run.start - range.start).ok_or(Errno::EOVERFLOW)?;
            self.mem().map_file(gpa, run.end - run.start, file.as_fd(), at, kind)?;
            mapped = run.end;
            Ok(())
        });
        if result.is_err() && mapped > range.start {
            // A block that no area owns must not show a file to the area that gets it next.
            let _ = Self::each_run(inner, range.start..mapped, |run, gpa| {
                self.mem().unmap_file(gpa, run.end - run.start)
            });
            inner.mark_idle(&range);
        }
        result
    }

    /// Makes the pages of `range`, which lies in area `vma`, present.
    pub(super) fn populate(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        vma: &Vma,
    ) -> Result<(), Errno> {
        let Some(rights) = vma.prot.rights() else { return Ok(()) };
        self.bind(inner, range.clone())?;
        let all = range.clone();
        let anonymous = matches!(vma.backing, Backing::Anonymous);
        for index in blocks_of(&range) {
            let block_range = index * BLOCK..(index + 1) * BLOCK;
            let piece = part(index, &range);
            let block = inner.blocks.get_mut(&index).expect("all of the range was bound");
            let whole = piece == block_range;
            match block.mapped {
                Mapped::Nothing | Mapped::Large
                    if whole
                        && anonymous
                        && !block.has_file
                        && block.of_image.is_empty()
                        && !self.guards.are_in_block(index) =>
                {
                    self.hold(block, 0..BLOCK_PAGES)?;
                    self.set_large(block, block_range.start, rights)?;
                    self.make_huge(block)?;
                }
                _ if vma.backing.is_counted() && !block.of_image.is_empty() => {
                    self.populate_beside_image(block, &piece, rights)?;
                }
                _ if vma.backing.is_counted() => {
                    // As much as there is memory for.
                    let held = self.hold_some(block, &piece);
                    self.set_small(block, held.clone(), rights)?;
                    if held != piece {
                        return Err(Errno::ENOMEM);
                    }
                }
                _ => self.set_small(block, piece, rights)?,
            }
        }
        if vma.lock != MemoryLock::Unlocked {
            // As on Linux, a fault does not fail because the host refuses to lock.
            let _ = self.lock_host(inner, all, vma.lock);
        }
        Ok(())
    }

    pub(super) fn set_large(
        &self,
        block: &mut Block,
        start: u64,
        rights: Rights,
    ) -> Result<(), Errno> {
        let gva = virt(start)?;
        self.machine.edit_tables(|t| t.map(gva, block.gpa, abi::PageSize::Large2M, rights))?;
        block.mapped = Mapped::Large;
        block.rights = Some(rights);
        Ok(())
    }

    /// The block's page table; a large page there is split into it.
    pub(super) fn table(&self, block: &mut Block, start: u64) -> Result<GuestPhys, Errno> {
        if let Mapped::Table(table) = block.mapped {
            return Ok(table);
        }
        let gva = virt(start)?;
        let table = match block.table {
            Some(table) => {
                self.refill(block, table)?;
                self.machine.edit_tables(|t| t.link(gva, Level::Directory, table)).map(|()| table)
            }
            None => self.machine.edit_tables(|t| t.table_for(gva, Level::Table)),
        }?;
        block.table = Some(table);
        block.mapped = Mapped::Table(table);
        Ok(table)
    }

    /// Makes an unlinked table say what the block's entry says now.
    pub(super) fn refill(&self, block: &Block, table: GuestPhys) -> Result<(), Errno> {
        let large = match block.mapped {
            Mapped::Large => block.rights,
            Mapped::Nothing | Mapped::Table(_) => None,
        };
        let page = |n| match large {
            Some(rights) => Entry::Page(block.gpa.offset(n * PAGE_SIZE), rights),
            None => Entry::Empty,
        };
        let filled = Table::new(table, Level::Table).fill(self.mem(), 0, (0..512).map(page));
        filled.map_err(Errno::from)
    }

    /// Makes small pages present, which are held if they count at all.
    pub(super) fn set_small(
        &self,
        block: &mut Block,
        piece: Range<u64>,
        rights: Rights,
    ) -> Result<(), Errno> {
        if piece.is_empty() {
            return Ok(());
        }
        if block.table.is_none() {
            let charged = self.mem().ledger().check(MemoryKind::Tables, PAGE_SIZE);
            charged.map_err(|_| Errno::ENOMEM)?;
        }
        let table = Table::new(self.table(block, piece.start)?, Level::Table);
        for at in (piece.start..piece.end).step_by(PAGE_SIZE as usize) {
            let page = self.guards.entry(at, block.gpa.offset(at % BLOCK), rights);
            table.set(self.mem(), at, page)?;
        }
        Ok(())
    }

    /// Reduces the rights of `range` to `rights` (or none) wherever pages are present. The pages
    /// stay held, and the caller must flush.
    pub(super) fn restrict(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        rights: Option<Rights>,
    ) -> Result<(), Errno> {
        for (&index, block) in inner.blocks.range_mut(blocks_of(&range)) {
            let block_range = index * BLOCK..(index + 1) * BLOCK;
            let piece = part(index, &range);
            match (block.mapped, rights) {
                (Mapped::Nothing, _) => {}
                (Mapped::Large, Some(rights)) if piece == block_range => {
                    self.set_large(block, block_range.start, rights)?;
                }
                (Mapped::Large, None) if piece == block_range => {
                    let gva = virt(block_range.start)?;
                    self.machine.edit_tables(|t| t.clear(gva, Level::Directory))?;
                    block.mapped = Mapped::Nothing;
                }
                _ => {
                    let table = Table::new(self.table(block, block_range.start)?, Level::Table);
                    for at in (piece.start..piece.end).step_by(PAGE_SIZE as usize) {
                        let old = table.get(self.mem(), at)?;
                        if !old.is_present() {
                            continue;
                        }
                        let page = (at % BLOCK / PAGE_SIZE) as usize;
                        let gpa = block.gpa.offset(at % BLOCK);
                        let new = match rights {
                            Some(rights) if block.of_image.has_all(page..page + 1) => {
                                self.guards.entry(at, gpa, without_write(rights))
                            }
                            Some(rights) => self.guards.entry(at, gpa, rights),
                            None => Entry::Empty,
                        };
                        table.set(self.mem(), at, new)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Drops the content of pages that are no longer accessible, and with it every translation that
    /// a vCPU still has for them; they are no longer held.
    pub(super) fn drop_content(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        backing: &Backing,
    ) -> Result<(), Errno> {
        Self::each_run(inner, range.clone(), |run, gpa| match backing {
            Backing::Anonymous => self.mem().discard(gpa, run.end - run.start),
            Backing::File { .. } => self.mem().unmap_file(gpa, run.end - run.start),
        })
        .and_then(|()| self.release(inner, range.clone()))?;
        inner.mark_idle(&range);
        Ok(())
    }

    /// The host memory behind `range`, whose areas the caller has checked; binds slots that were
    /// never used, and charges the pages if they are to be written.
    pub(super) fn host_runs(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        access: MemoryAccess,
        mut f: impl FnMut(GuestPhys, u64, bool) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.bind(inner, range.clone())?;
        if access == MemoryAccess::Write {
            self.hold_range(inner, range.clone())?;
        }
        let first = range.start / BLOCK;
        let has_file =
            inner.blocks.range(first..range.end.div_ceil(BLOCK)).any(|(_, block)| block.has_file);
        Self::each_run(inner, range, |run, gpa| f(gpa, run.end - run.start, has_file))
    }
}

/// The blocks that a range of addresses is in.
pub(super) fn blocks_of(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}

pub(super) fn virt(raw: u64) -> Result<GuestVirt, Errno> {
    GuestVirt::new(raw).map_err(|_| Errno::EINVAL)
}

/// A page-aligned, non-empty range inside the private region.
pub(super) fn checked_range(start: u64, len: u64) -> Result<Range<u64>, Errno> {
    let len = page_up(len).filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
    let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
    if !start.is_multiple_of(PAGE_SIZE) || start < PRIVATE_START.raw() || end > PROGRAM_END.raw() {
        return Err(Errno::EINVAL);
    }
    Ok(start..end)
}

/// The error that a program gets for a failure of the VM's memory.
impl From<MemoryError> for Errno {
    fn from(error: MemoryError) -> Errno {
        match error {
            MemoryError::Host { source, .. } => {
                source.raw_os_error().map_or(Errno::ENOMEM, Errno::from_raw)
            }
            _ => Errno::ENOMEM,
        }
    }
}
