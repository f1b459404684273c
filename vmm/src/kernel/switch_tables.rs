//! What the kernel's `vas_switch` reads, written from the VMM's side.
//!
//! `abi::switch` says what lies there and how the two sides meet. Here are the places and the
//! order of stores; which instances there are, and when, is decided elsewhere.
//!
//! ```text
//! SWITCH_CONTROL ┐
//! SWITCH_LIVE    ├ 2 MiB of guest memory   live page and lines can be
//! VCPU_LINES     │                         laid over with files
//! roots, locks   ┘
//! INSTANCES        2 MiB                   likewise
//! LOCK_REFS        2 MiB                   from the first reference on
//! LOCK_PAGES       4 KiB each              made one by one
//! LOCK_CODE        2 MiB each              from the first list of one lock on (`lock_code.rs`)
//! TAG_TABLES       32 KiB a vCPU           where there is PCID
//! ```
//!
//! None of it is resident before it is used.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard};

use abi::layout::{
    INSTANCES, LOCK_CODE, LOCK_CODE_UNIT, LOCK_REFS, LOCK_REFS_BYTES, MAX_VCPUS, SWITCH_CONTROL,
    SWITCH_LIVE, TAG_TABLE_BYTES, TAG_TABLES, VCPU_LINES,
};
use abi::objects::MAX_INSTANCES;
use abi::shared::{TrapWays, VcpuPage};
use abi::switch::{CR3_KEEP, InstanceEntry, LockRef, SwitchControl, VcpuLine};
use abi::walk::PageTable;
use abi::{GuestPhys, GuestVirt, PAGE_SIZE, PAGE_SIZE_2M, PageSize, Rights};

use super::lock_code;
use crate::vm::machine::Machine;
use crate::vm::memory::{GuestMem, MemoryError};
use crate::vm::tables::Tables;

const LINE_BYTES: u64 = size_of::<VcpuLine>() as u64;
pub(crate) const ENTRY_BYTES: u64 = size_of::<InstanceEntry>() as u64;
pub(crate) const REF_BYTES: u64 = size_of::<LockRef>() as u64;
const HELD: u64 = offset_of!(VcpuPage, held) as u64;
const NUDGE: u64 = offset_of!(VcpuPage, nudge) as u64;
const ENTRY: u64 = offset_of!(VcpuPage, trap_entry) as u64;
const LIMIT: u64 = offset_of!(VcpuPage, plain_limit) as u64;

/// Where in guest-physical memory the tables of the switch lie.
#[derive(Debug)]
pub(crate) struct Switching {
    /// What [`SWITCH_CONTROL`] maps.
    base: GuestPhys,
    pub(crate) instances: GuestPhys,
    next_generation: AtomicU64,
    ways: TrapWays,
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    lock_refs: Option<GuestPhys>,
    /// Code of lists, [`LISTS_A_CHUNK`] places in each.
    lock_code: Vec<Option<GuestPhys>>,
    /// The kernel serves switches.
    started: bool,
    /// Each vCPU's page, by its number.
    vcpu_pages: Vec<Option<GuestPhys>>,
    /// Tables of tags, [`TABLES_A_CHUNK`] vCPUs in each.
    tags: Vec<Option<GuestPhys>>,
}

const LISTS_A_CHUNK: u32 = (PAGE_SIZE_2M / LOCK_CODE_UNIT) as u32;
/// Places in [`LOCK_REFS`].
const PLACES: u32 = (LOCK_REFS_BYTES / REF_BYTES) as u32;
const TABLES_A_CHUNK: u32 = (PAGE_SIZE_2M / TAG_TABLE_BYTES) as u32;

impl Switching {
    /// Maps control page, live page, lines and instance table, all zero: every switch is the
    /// VMM's.
    pub(crate) fn new(
        tables: &mut Tables<'_>,
        root: GuestPhys,
        ways: TrapWays,
    ) -> Result<Switching, MemoryError> {
        let base = tables.mem.alloc(2 * PAGE_SIZE_2M)?;
        let instances = base.offset(PAGE_SIZE_2M);
        let mut table = PageTable::new(root, tables);
        table.map(SWITCH_CONTROL, base, PageSize::Large2M, Rights::KERNEL_WRITE)?;
        table.map(INSTANCES, instances, PageSize::Large2M, Rights::KERNEL_WRITE)?;
        let (next_generation, rest) = (AtomicU64::new(1), Mutex::default());
        Ok(Switching { base, instances, next_generation, ways, rest })
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The place of something that is mapped with the control page.
    pub(crate) fn at(&self, gva: GuestVirt) -> GuestPhys {
        self.base.offset(gva.raw() - SWITCH_CONTROL.raw())
    }

    /// See [`Machine::new_generation`].
    pub(crate) fn new_generation(&self) -> u64 {
        self.next_generation.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets the kernel serve switches, of all vCPUs there are and will be.
    pub(crate) fn start(&self, mem: &GuestMem) -> Result<(), MemoryError> {
        let mut rest = self.rest();
        rest.started = true;
        for page in rest.vcpu_pages.iter().flatten() {
            mem.store(page.offset(LIMIT), u64::from(MAX_INSTANCES))?;
            mem.store(page.offset(ENTRY), self.ways.free)?;
        }
        Ok(())
    }

    /// Where the lists of locks lie; mapped by the first who asks, who holds the tables' lock.
    pub(crate) fn lock_refs(
        &self,
        tables: &mut Tables<'_>,
        root: GuestPhys,
    ) -> Result<GuestPhys, MemoryError> {
        let mut rest = self.rest();
        if let Some(table) = rest.lock_refs {
            return Ok(table);
        }
        let gpa = tables.mem.alloc(LOCK_REFS_BYTES)?;
        let mut table = PageTable::new(root, tables);
        table.map(LOCK_REFS, gpa, PageSize::Large2M, Rights::KERNEL_WRITE)?;
        rest.lock_refs = Some(gpa);
        Ok(gpa)
    }

    /// Where the code of the list at `first` lies, mapped by the first who asks. Not resident
    /// before it is used.
    pub(crate) fn lock_code(
        &self,
        tables: &mut Tables<'_>,
        root: GuestPhys,
        first: u32,
    ) -> Result<GuestPhys, MemoryError> {
        let mut rest = self.rest();
        let chunk = (first / LISTS_A_CHUNK) as usize;
        let gpa = match rest.lock_code.get(chunk).copied().flatten() {
            Some(gpa) => gpa,
            None => {
                let gpa = tables.mem.alloc(PAGE_SIZE_2M)?;
                let gva = GuestVirt::literal(LOCK_CODE.raw() + chunk as u64 * PAGE_SIZE_2M);
                let mut table = PageTable::new(root, tables);
                table.map(gva, gpa, PageSize::Large2M, Rights::KERNEL_CODE)?;
                put(&mut rest.lock_code, chunk, gpa);
                gpa
            }
        };
        Ok(gpa.offset(u64::from(first % LISTS_A_CHUNK) * LOCK_CODE_UNIT))
    }

    /// The kernel's places where code of the VMM's goes on.
    pub(crate) fn ways(&self) -> &TrapWays {
        &self.ways
    }

    /// First and count of the lock references by which the vCPU of this page holds locks.
    fn held(&self, mem: &GuestMem, page: GuestPhys) -> Result<(u32, u32), MemoryError> {
        let entry = mem.load(page.offset(ENTRY))?;
        match lock_code::list_of(entry, PLACES) {
            Some(first) => Ok((first, 1)),
            None => mem.load(page.offset(HELD)).map(range_of),
        }
    }

    /// How many vCPUs there are.
    fn vcpus(&self) -> u32 {
        self.rest().vcpu_pages.len() as u32
    }

    /// Makes a vCPU known and writes into its `page` where its line and its tags lie.
    pub(crate) fn add_vcpu(
        &self,
        tables: &mut Tables<'_>,
        root: GuestPhys,
        index: u32,
        page: GuestPhys,
        pcid: bool,
    ) -> Result<(), MemoryError> {
        let mem = tables.mem;
        let line = VCPU_LINES.raw() + u64::from(index) * LINE_BYTES;
        mem.store(page.offset(offset_of!(VcpuPage, line) as u64), line)?;
        let mut rest = self.rest();
        if pcid {
            let chunk = (index / TABLES_A_CHUNK) as usize;
            if rest.tags.get(chunk).is_none_or(Option::is_none) {
                let gpa = mem.alloc(PAGE_SIZE_2M)?;
                let gva = GuestVirt::literal(TAG_TABLES.raw() + chunk as u64 * PAGE_SIZE_2M);
                let mut table = PageTable::new(root, tables);
                table.map(gva, gpa, PageSize::Large2M, Rights::KERNEL_WRITE)?;
                put(&mut rest.tags, chunk, gpa);
            }
            let tags = TAG_TABLES.raw() + u64::from(index) * TAG_TABLE_BYTES;
            mem.store(page.offset(offset_of!(VcpuPage, tags) as u64), tags)?;
        }
        mem.store(page.offset(ENTRY), self.ways.held)?;
        if rest.started {
            mem.store(page.offset(LIMIT), u64::from(MAX_INSTANCES))?;
            mem.store(page.offset(ENTRY), self.ways.free)?;
        }
        put(&mut rest.vcpu_pages, index as usize, page);
        Ok(())
    }

    /// Where vCPU `index` keeps the generation of `tag`.
    fn tag_word(&self, index: u32, tag: u64) -> Option<GuestPhys> {
        let chunk = (*self.rest().tags.get((index / TABLES_A_CHUNK) as usize)?)?;
        let table = u64::from(index % TABLES_A_CHUNK) * TAG_TABLE_BYTES;
        Some(chunk.offset(table + (tag & abi::switch::CR3_TAG) * 8))
    }

    /// The next fast load of `cr3`'s tag by vCPU `index` flushes it.
    pub(crate) fn forget_tag(
        &self,
        mem: &GuestMem,
        index: u32,
        cr3: u64,
    ) -> Result<(), MemoryError> {
        // Without tags there is nothing to forget.
        self.tag_word(index, cr3).map_or(Ok(()), |word| mem.store(word, 0))
    }
}

/// First and count of a range of lock references.
fn range_of(word: u64) -> (u32, u32) {
    ((word >> 32) as u32 / REF_BYTES as u32, word as u32)
}

pub(crate) fn range_word(first: u32, count: u32) -> u64 {
    (u64::from(first) * REF_BYTES) << 32 | u64::from(count)
}

fn put(list: &mut Vec<Option<GuestPhys>>, index: usize, gpa: GuestPhys) {
    if list.len() <= index {
        list.resize(index + 1, None);
    }
    if let Some(slot) = list.get_mut(index) {
        *slot = Some(gpa);
    }
}

/// What a switch made by the VMM must put into CR3 for `entry_cr3`, a root as an instance
/// entry holds it.
#[must_use]
pub fn loadable(entry_cr3: u64) -> u64 {
    entry_cr3 & !CR3_KEEP
}

impl Machine {
    /// Guest-physical place and bytes of the vCPUs' lines, to lay the lease file over.
    #[must_use]
    pub fn vcpu_lines(&self) -> (GuestPhys, u64) {
        (self.switching.at(VCPU_LINES), u64::from(MAX_VCPUS) * LINE_BYTES)
    }

    /// Guest-physical place and bytes of the instance table, likewise.
    #[must_use]
    pub fn instance_table(&self) -> (GuestPhys, u64) {
        (self.switching.instances, u64::from(MAX_INSTANCES) * ENTRY_BYTES)
    }

    /// Guest-physical place of the page to lay the store's counter of changes over.
    #[must_use]
    pub fn live_page(&self) -> GuestPhys {
        self.switching.at(SWITCH_LIVE)
    }

    /// The counter in the live page.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn live_word(&self) -> Result<u64, MemoryError> {
        self.mem.load(self.live_page())
    }

    /// Tells the kernel up to which value of the live word all VASes have been looked at.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn set_seen(&self, live: u64) -> Result<(), MemoryError> {
        let control = self.switching.at(SWITCH_CONTROL);
        self.mem.store(control.offset(offset_of!(SwitchControl, seen) as u64), live)
    }

    fn line(&self, vcpu: u32) -> Result<GuestPhys, MemoryError> {
        let at = self.switching.at(VCPU_LINES).offset(u64::from(vcpu) * LINE_BYTES);
        if vcpu < MAX_VCPUS {
            Ok(at)
        } else {
            Err(MemoryError::NotMemory { gpa: at, len_bytes: LINE_BYTES })
        }
    }

    /// The instance vCPU `vcpu` is in, when it is out of the guest or in ring 3. In the middle
    /// of a switch: where it still is.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn current_instance(&self, vcpu: u32) -> Result<u32, MemoryError> {
        let inside = self.line(vcpu)?.offset(offset_of!(VcpuLine, inside) as u64);
        Ok(self.mem.load(inside)? as u32)
    }

    /// Whether a vCPU may be in the middle of a switch.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn is_switching(&self, vcpu: u32) -> Result<bool, MemoryError> {
        fence(Ordering::SeqCst);
        let line = self.line(vcpu)?;
        let announced = self.mem.load(line.offset(offset_of!(VcpuLine, announced) as u64))?;
        let inside = self.mem.load(line.offset(offset_of!(VcpuLine, inside) as u64))?;
        Ok(announced != inside)
    }

    /// Announces, for a vCPU that is out of the guest, that it is about to enter `vh`; it
    /// counts as inside both until [`Machine::set_current_instance`] says where it is. What
    /// is read of the instance or of the live word afterwards is read after the announcement.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn announce_instance(&self, vcpu: u32, vh: u32) -> Result<(), MemoryError> {
        let announced = self.line(vcpu)?.offset(offset_of!(VcpuLine, announced) as u64);
        self.mem.store(announced, u64::from(vh))?;
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Says that a vCPU, which is out of the guest, is in `vh` and nowhere else.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn set_current_instance(&self, vcpu: u32, vh: u32) -> Result<(), MemoryError> {
        self.announce_instance(vcpu, vh)?;
        let inside = self.line(vcpu)?.offset(offset_of!(VcpuLine, inside) as u64);
        self.mem.store(inside, u64::from(vh))
    }

    /// Writes into a vCPU's line which thread of the program it runs, for those who look.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn set_line_thread(&self, vcpu: u32, thread: u64) -> Result<(), MemoryError> {
        self.mem.store(self.line(vcpu)?.offset(offset_of!(VcpuLine, thread) as u64), thread)
    }

    /// vCPUs that are in `vh` or just trying to get there. After [`Machine::clear_instance`]
    /// a vCPU that tried in vain may be named here for some instructions more.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn vcpus_in(&self, vh: u32) -> Result<Vec<u32>, MemoryError> {
        fence(Ordering::SeqCst);
        let mut found = Vec::new();
        for vcpu in 0..self.switching.vcpus() {
            let line = self.line(vcpu)?;
            let word = |field: usize| self.mem.load(line.offset(field as u64));
            let words =
                [word(offset_of!(VcpuLine, announced))?, word(offset_of!(VcpuLine, inside))?];
            if words.contains(&u64::from(vh)) {
                found.push(vcpu);
            }
        }
        Ok(found)
    }

    fn vcpu_page(&self, vcpu: u32) -> Result<GuestPhys, MemoryError> {
        let page = self.switching.rest().vcpu_pages.get(vcpu as usize).copied().flatten();
        let missing = MemoryError::NotMemory { gpa: GuestPhys::literal(0), len_bytes: PAGE_SIZE };
        page.ok_or(missing)
    }

    /// Index of the first and number of the lock references whose locks vCPU `vcpu` holds.
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn held_locks(&self, vcpu: u32) -> Result<(u32, u32), MemoryError> {
        self.switching.held(&self.mem, self.vcpu_page(vcpu)?)
    }

    /// Indices of the first references of all lists by which some vCPU holds locks.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn all_held_locks(&self) -> Result<Vec<u32>, MemoryError> {
        let pages: Vec<GuestPhys> =
            self.switching.rest().vcpu_pages.iter().copied().flatten().collect();
        let mut lists = Vec::new();
        for page in pages {
            let (first, count) = self.switching.held(&self.mem, page)?;
            lists.extend((count != 0).then_some(first));
        }
        Ok(lists)
    }

    /// Notes that a vCPU, which is out of the guest, holds the locks of `count` references
    /// from `first` on and no others.
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn set_held_locks(&self, vcpu: u32, first: u32, count: u32) -> Result<(), MemoryError> {
        let page = self.vcpu_page(vcpu)?;
        let range = if count == 0 { 0 } else { range_word(first, count) };
        self.mem.store(page.offset(HELD), range)?;
        let plain = count == 0 && self.switching.rest().started;
        self.mem.store(page.offset(LIMIT), if plain { u64::from(MAX_INSTANCES) } else { 0 })?;
        let ways = self.switching.ways();
        self.mem.store(page.offset(ENTRY), if plain { ways.free } else { ways.held })
    }

    /// Lock references, as in [`Machine::held_locks`], whose locks the kernel has given back
    /// for this vCPU, which is out of the guest, while somebody waited: to be nudged by the
    /// caller. The kernel has then made the whole switch and left all the same, as a call to
    /// switch to where the thread is.
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn take_nudges(&self, vcpu: u32) -> Result<Option<(u32, u32)>, MemoryError> {
        let word = self.vcpu_page(vcpu)?.offset(NUDGE);
        let range = range_of(self.mem.load(word)?);
        if range.1 == 0 {
            return Ok(None);
        }
        self.mem.store(word, 0)?;
        Ok(Some(range))
    }
}

const _: () = {
    // One large page holds control page, live page and lines; one the instances.
    assert!(
        SWITCH_CONTROL.raw().is_multiple_of(PAGE_SIZE_2M)
            && INSTANCES.raw().is_multiple_of(PAGE_SIZE_2M)
    );
    assert!(
        VCPU_LINES.raw() + MAX_VCPUS as u64 * LINE_BYTES <= SWITCH_CONTROL.raw() + PAGE_SIZE_2M
    );
    assert!(MAX_INSTANCES as u64 * ENTRY_BYTES == PAGE_SIZE_2M);
    assert!(LOCK_REFS_BYTES == PAGE_SIZE_2M && LOCK_REFS.raw().is_multiple_of(PAGE_SIZE_2M));
    assert!(LOCK_CODE.raw().is_multiple_of(PAGE_SIZE_2M));
    assert!(LOCK_CODE.raw() + PLACES as u64 * LOCK_CODE_UNIT <= TAG_TABLES.raw());
    assert!(TAG_TABLES.raw().is_multiple_of(PAGE_SIZE_2M));
};
