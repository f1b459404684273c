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
//! TAG_TABLES       32 KiB a vCPU           where there is PCID
//! ```
//!
//! None of it is resident before it is used.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard};

use abi::layout::{
    INSTANCES, LOCK_PAGES, LOCK_RANGES, LOCK_REFS, LOCK_REFS_BYTES, MAX_LOCK_PAGES, MAX_VCPUS,
    PLAIN_GENERATIONS, PLAIN_ROOTS, PRIVATE_SLOTS, SWITCH_CONTROL, SWITCH_LIVE, TAG_TABLE_BYTES,
    TAG_TABLES, VCPU_LINES,
};
use abi::objects::MAX_INSTANCES;
use abi::shared::VcpuPage;
use abi::switch::{CR3_KEEP, InstanceEntry, LockEnd, LockRef, SwitchControl, VcpuLine};
use abi::walk::{PageTable, TableMem};
use abi::{GuestPhys, GuestVirt, PAGE_SIZE, PAGE_SIZE_2M, PageSize, Rights};
use core::mem::offset_of;

use super::machine::Machine;
use super::memory::{GuestMem, MemoryError};
use super::tables::Tables;

/// PML4 slots of the kernel.
const KERNEL_SLOTS: std::ops::Range<usize> = 256..512;
/// The TLB tag of home, where there are tags. Tag 0 is what a vCPU begins with.
pub const HOME_TAG: u64 = 1;

const LINE_BYTES: u64 = size_of::<VcpuLine>() as u64;
const ENTRY_BYTES: u64 = size_of::<InstanceEntry>() as u64;
const REF_BYTES: u64 = size_of::<LockRef>() as u64;
const HELD: u64 = offset_of!(VcpuPage, held) as u64;
const NUDGE: u64 = offset_of!(VcpuPage, nudge) as u64;
const LIMIT: u64 = offset_of!(VcpuPage, plain_limit) as u64;

/// Where in guest-physical memory the tables of the switch lie.
#[derive(Debug)]
pub(crate) struct Switching {
    /// What [`SWITCH_CONTROL`] maps.
    base: GuestPhys,
    instances: GuestPhys,
    next_generation: AtomicU64,
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    lock_refs: Option<GuestPhys>,
    /// The kernel serves switches.
    started: bool,
    /// Each vCPU's page, by its number.
    vcpu_pages: Vec<Option<GuestPhys>>,
    /// Tables of tags, [`TABLES_A_CHUNK`] vCPUs in each.
    tags: Vec<Option<GuestPhys>>,
}

const TABLES_A_CHUNK: u32 = (PAGE_SIZE_2M / TAG_TABLE_BYTES) as u32;

impl Switching {
    /// Maps control page, live page, lines and instance table, all zero: every switch is the
    /// VMM's.
    pub(crate) fn new(tables: &mut Tables<'_>, root: GuestPhys) -> Result<Switching, MemoryError> {
        let base = tables.mem.alloc(2 * PAGE_SIZE_2M)?;
        let instances = base.offset(PAGE_SIZE_2M);
        let mut table = PageTable::new(root, tables);
        table.map(SWITCH_CONTROL, base, PageSize::Large2M, Rights::KERNEL_WRITE)?;
        table.map(INSTANCES, instances, PageSize::Large2M, Rights::KERNEL_WRITE)?;
        let (next_generation, rest) = (AtomicU64::new(1), Mutex::default());
        Ok(Switching { base, instances, next_generation, rest })
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The place of something that is mapped with the control page.
    fn at(&self, gva: GuestVirt) -> GuestPhys {
        self.base.offset(gva.raw() - SWITCH_CONTROL.raw())
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
        if rest.started {
            mem.store(page.offset(LIMIT), u64::from(MAX_INSTANCES))?;
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

fn range_word(first: u32, count: u32) -> u64 {
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

    /// A number that no instance has had as its generation.
    #[must_use]
    pub fn new_generation(&self) -> u64 {
        self.switching.next_generation.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes home's entry, number 0, and lets the kernel serve switches. To be called once,
    /// after files have been laid over lines and table. Until then the kernel serves only the
    /// switch from home to home.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn start_switching(&self) -> Result<(), MemoryError> {
        let root = self.root.raw();
        let cr3 = if self.has_pcid() { root | HOME_TAG | CR3_KEEP } else { root };
        let generation = self.new_generation();
        let home = InstanceEntry { cr3, generation, ..InstanceEntry::default() };
        self.set_instance(0, &home, true)?;
        let mut rest = self.switching.rest();
        rest.started = true;
        for page in rest.vcpu_pages.iter().flatten() {
            self.mem.store(page.offset(LIMIT), u64::from(MAX_INSTANCES))?;
        }
        Ok(())
    }

    /// Home's root table.
    #[must_use]
    pub fn home_root(&self) -> GuestPhys {
        self.root
    }

    fn entry(&self, vh: u32) -> Result<GuestPhys, MemoryError> {
        let at = self.switching.instances.offset(u64::from(vh) * ENTRY_BYTES);
        if vh < MAX_INSTANCES {
            Ok(at)
        } else {
            Err(MemoryError::NotMemory { gpa: at, len_bytes: ENTRY_BYTES })
        }
    }

    /// Entry `vh` of one of the kernel's tables by handle.
    fn by_handle(&self, table: GuestVirt, vh: u32) -> GuestPhys {
        self.switching.at(table).offset(u64::from(vh) * 8)
    }

    /// Writes entry `vh`, for the kernel and for those who look. With `plain`, an instance
    /// without locks that the kernel may switch to. An instance with locks needs the list that
    /// [`Machine::set_lock_list`] has written, with the same root and generation, and the
    /// kernel does what it can. One that is neither is the VMM's to switch to.
    ///
    /// A vCPU that switches there at this moment finds all of the old entry, all of the new
    /// one, or neither, and then leaves the switch to the VMM. One that found the old entry
    /// has announced itself before: [`Machine::vcpus_in`] names it.
    ///
    /// # Errors
    /// [`MemoryError`]; no such handle.
    pub fn set_instance(
        &self,
        vh: u32,
        entry: &InstanceEntry,
        plain: bool,
    ) -> Result<(), MemoryError> {
        self.clear_instance(vh)?;
        let at = self.entry(vh)?;
        let locks = u64::from(entry.lock_count) | u64::from(entry.lock_first) << 32;
        let word = |field: usize| at.offset(field as u64);
        self.mem.store(word(offset_of!(InstanceEntry, generation)), entry.generation)?;
        self.mem.store(word(offset_of!(InstanceEntry, lock_count)), locks)?;
        self.mem.store(word(offset_of!(InstanceEntry, vid)), entry.vid)?;
        self.mem.store(word(offset_of!(InstanceEntry, cr3)), entry.cr3)?;
        self.mem.store(self.by_handle(PLAIN_GENERATIONS, vh), entry.generation)?;
        // What lets the kernel in comes last: each store is a release.
        if entry.lock_count != 0 {
            let range = range_word(entry.lock_first, entry.lock_count);
            self.mem.store(self.by_handle(LOCK_RANGES, vh), range)
        } else if plain {
            self.mem.store(self.by_handle(PLAIN_ROOTS, vh), entry.cr3)
        } else {
            Ok(())
        }
    }

    /// From now on every switch to `vh` is left to the VMM; its root is 0 for those who look.
    /// Whoever found it before has announced itself: [`Machine::vcpus_in`] names it.
    ///
    /// # Errors
    /// [`MemoryError`]; no such handle.
    pub fn clear_instance(&self, vh: u32) -> Result<(), MemoryError> {
        let at = self.entry(vh)?;
        self.mem.store(self.by_handle(PLAIN_ROOTS, vh), 0)?;
        self.mem.store(self.by_handle(LOCK_RANGES, vh), 0)?;
        self.mem.store(at.offset(offset_of!(InstanceEntry, cr3) as u64), 0)?;
        // Between these stores and the loads of the lines: the kernel's XCHG is the other
        // half (abi::switch).
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Also clears what is left of entry `vh` for those who look, its VAS.
    ///
    /// # Errors
    /// [`MemoryError`]; no such handle.
    pub fn erase_instance(&self, vh: u32) -> Result<(), MemoryError> {
        self.set_instance(vh, &InstanceEntry::default(), false)
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

    /// vCPUs that are in `vh` or just trying to get there. After [`Machine::clear_instance`]
    /// a vCPU that tried in vain may be named here for some instructions more.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn vcpus_in(&self, vh: u32) -> Result<Vec<u32>, MemoryError> {
        fence(Ordering::SeqCst);
        let mut found = Vec::new();
        for vcpu in 0..self.switching.rest().vcpu_pages.len() as u32 {
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
        self.mem.load(self.vcpu_page(vcpu)?.offset(HELD)).map(range_of)
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
        self.mem.store(page.offset(LIMIT), if plain { u64::from(MAX_INSTANCES) } else { 0 })
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

    /// Writes the list of the locks of an instance with this root and generation: references
    /// from number `first` on, which is not 0, and one place more for the list's end. Not
    /// where an instance's entry or a vCPU's held locks point: whatever changes, be it the
    /// root, makes a new list.
    ///
    /// # Errors
    /// [`MemoryError`]; no such place.
    pub fn set_lock_list(
        &self,
        first: u32,
        refs: &[LockRef],
        cr3: u64,
        generation: u64,
    ) -> Result<(), MemoryError> {
        let start = u64::from(first) * REF_BYTES;
        let len_bytes = (refs.len() as u64 + 1) * REF_BYTES;
        if first == 0 || start + len_bytes > LOCK_REFS_BYTES {
            let gpa = GuestPhys::literal(start);
            return Err(MemoryError::NotMemory { gpa, len_bytes });
        }
        let known = self.switching.rest().lock_refs;
        let table = match known {
            Some(table) => table,
            None => self.map_lock_refs()?,
        };
        let mut at = table.offset(start);
        for lock in refs {
            self.mem.store(at, lock.page)?;
            let mode = u64::from(lock.slot) | u64::from(lock.exclusive) << 32;
            self.mem.store(at.offset(8), mode)?;
            at = at.offset(REF_BYTES);
        }
        self.mem.store(at.offset(offset_of!(LockEnd, cr3) as u64), cr3)?;
        self.mem.store(at.offset(offset_of!(LockEnd, generation) as u64), generation)
    }

    fn map_lock_refs(&self) -> Result<GuestPhys, MemoryError> {
        self.edit_tables(|tables| {
            // The tables' lock is held: there is one of us.
            if let Some(table) = self.switching.rest().lock_refs {
                return Ok(table);
            }
            let gpa = self.mem.alloc(LOCK_REFS_BYTES)?;
            tables.map(LOCK_REFS, gpa, PageSize::Large2M, Rights::KERNEL_WRITE)?;
            self.switching.rest().lock_refs = Some(gpa);
            Ok(gpa)
        })
    }

    /// A fresh page at number `index` of the lock pages, to lay a segment's lock page over;
    /// its guest-physical place. Once for each number: a mapped page stays, with whatever is
    /// laid over it.
    ///
    /// # Errors
    /// [`MemoryError`]; no such number.
    pub fn map_lock_page(&self, index: u32) -> Result<GuestPhys, MemoryError> {
        let gva = GuestVirt::literal(
            LOCK_PAGES.raw() + u64::from(index.min(MAX_LOCK_PAGES - 1)) * PAGE_SIZE,
        );
        if index >= MAX_LOCK_PAGES {
            let gpa = GuestPhys::literal(u64::from(index) * PAGE_SIZE);
            return Err(MemoryError::NotMemory { gpa, len_bytes: PAGE_SIZE });
        }
        self.edit_tables_and_pool(|root, tables| {
            let gpa = tables.alloc_table()?;
            PageTable::new(root, tables).map(gva, gpa, PageSize::Small4K, Rights::KERNEL_WRITE)?;
            Ok(gpa)
        })
    }

    /// A new root table with home's private region and the kernel, and an empty VAS region.
    /// The frame is never given back.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn new_root(&self) -> Result<GuestPhys, MemoryError> {
        self.edit_tables_and_pool(|home, tables| {
            let root = tables.alloc_table()?;
            link_common(tables, home, root)?;
            Ok(root)
        })
    }

    /// Makes the zeroed frame `root` a root table as [`Machine::new_root`] does.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn fill_root(&self, root: GuestPhys) -> Result<(), MemoryError> {
        self.edit_tables_and_pool(|home, tables| link_common(tables, home, root))
    }

    /// Runs `edit` on the tables below `root`, under the same lock as the home space's.
    ///
    /// # Errors
    /// Whatever `edit` returns.
    pub fn edit_tables_of<R, E>(
        &self,
        root: GuestPhys,
        edit: impl FnOnce(&mut PageTable<'_, Tables<'_>>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.edit_tables_and_pool(|_, tables| edit(&mut PageTable::new(root, tables)))
    }
}

/// Both halves that all roots share are tables that exist from the start: what is mapped in
/// them later is at once visible everywhere.
fn link_common(
    tables: &mut Tables<'_>,
    home: GuestPhys,
    root: GuestPhys,
) -> Result<(), MemoryError> {
    for slot in PRIVATE_SLOTS.chain(KERNEL_SLOTS) {
        let pte = tables.read(home, slot)?;
        if pte.is_present() {
            tables.write(root, slot, pte)?;
        }
    }
    Ok(())
}

const _: () = {
    // One large page holds control page, live page and lines; one the instances.
    assert!(SWITCH_CONTROL.raw() % PAGE_SIZE_2M == 0 && INSTANCES.raw() % PAGE_SIZE_2M == 0);
    assert!(
        VCPU_LINES.raw() + MAX_VCPUS as u64 * LINE_BYTES <= SWITCH_CONTROL.raw() + PAGE_SIZE_2M
    );
    assert!(MAX_INSTANCES as u64 * ENTRY_BYTES == PAGE_SIZE_2M);
    assert!(LOCK_REFS_BYTES == PAGE_SIZE_2M && LOCK_REFS.raw() % PAGE_SIZE_2M == 0);
    assert!(TAG_TABLES.raw() % PAGE_SIZE_2M == 0);
};
