//! Instances as the VMM writes them: roots, entries, the locks they need.
//!
//! Which instances there are, what lies below their roots and when a list or a root may be
//! used again is decided elsewhere; where the tables lie is `switching.rs`.

use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};

use abi::layout::{
    LOCK_PAGES, LOCK_RANGES, LOCK_REFS_BYTES, LOCK_WAYS, MAX_LOCK_PAGES, PLAIN_GENERATIONS,
    PLAIN_ROOTS, PRIVATE_SLOTS,
};
use abi::objects::MAX_INSTANCES;
use abi::switch::{CR3_KEEP, InstanceEntry, LockEnd, LockRef};
use abi::walk::{PageTable, TableMem};
use abi::{GuestPhys, GuestVirt, PAGE_SIZE, PageSize, Rights};

use super::lock_code;
use super::switch_tables::{ENTRY_BYTES, REF_BYTES, loadable, range_word};
use crate::vm::machine::Machine;
use crate::vm::memory::MemoryError;
use crate::vm::tables::Tables;

/// PML4 slots of the kernel.
const KERNEL_SLOTS: std::ops::Range<usize> = 256..512;
/// The TLB tag of home, where there are tags. Tag 0 is what a vCPU begins with.
pub const HOME_TAG: u64 = 1;

impl Machine {
    /// A number that no instance has had as its generation.
    #[must_use]
    pub fn new_generation(&self) -> u64 {
        self.switching.new_generation()
    }

    /// Home's root with its tag, as an instance entry has it.
    #[must_use]
    pub fn home_cr3(&self) -> u64 {
        let root = self.root.raw();
        if self.has_pcid() { root | HOME_TAG | CR3_KEEP } else { root }
    }

    /// Writes home's entry, number 0, and lets the kernel serve switches. To be called once,
    /// after files have been laid over lines and table. Until then the kernel serves only the
    /// switch from home to home.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn start_switching(&self) -> Result<(), MemoryError> {
        let cr3 = self.home_cr3();
        let generation = self.new_generation();
        let home = InstanceEntry { cr3, generation, ..InstanceEntry::default() };
        self.set_instance(0, &home, true)?;
        self.switching.start(&self.mem)
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
            self.mem.store(self.by_handle(LOCK_RANGES, vh), range)?;
            if entry.lock_count == 1 && self.is_soft_host() {
                self.write_lock_code(vh, entry)?;
            }
            Ok(())
        } else if plain {
            self.mem.store(self.by_handle(PLAIN_ROOTS, vh), entry.cr3)
        } else {
            Ok(())
        }
    }

    /// Writes the code for an instance with one lock and lets the kernel use it, if the lock is
    /// exclusive. Code that is used is only ever replaced by the same.
    fn write_lock_code(&self, vh: u32, entry: &InstanceEntry) -> Result<(), MemoryError> {
        let first = entry.lock_first;
        let refs = self.lock_refs(first, 1)?;
        let Some(lock) = refs.first().filter(|lock| lock.exclusive != 0) else { return Ok(()) };
        let switching = &self.switching;
        let at =
            self.edit_tables_and_pool(|root, tables| switching.lock_code(tables, root, first))?;
        let (cr3, home) = (loadable(entry.cr3), loadable(self.home_cr3()));
        self.mem.write(at, &lock_code::write(first, lock, cr3, home, switching.ways()))?;
        self.mem.store(self.by_handle(LOCK_WAYS, vh), lock_code::address(first))
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
        self.mem.store(self.by_handle(LOCK_WAYS, vh), 0)?;
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
        let table =
            self.edit_tables_and_pool(|root, tables| self.switching.lock_refs(tables, root))?;
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

    /// Lock references `first` and following; none beyond the table.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn lock_refs(&self, first: u32, count: u32) -> Result<Vec<LockRef>, MemoryError> {
        let start = u64::from(first) * REF_BYTES;
        if count == 0 || start + u64::from(count) * REF_BYTES > LOCK_REFS_BYTES {
            return Ok(Vec::new());
        }
        let table =
            self.edit_tables_and_pool(|root, tables| self.switching.lock_refs(tables, root))?;
        (0..u64::from(count))
            .map(|at| {
                let gpa = table.offset(start + at * REF_BYTES);
                let mode = self.mem.load(gpa.offset(8))?;
                let (slot, exclusive) = (mode as u32, (mode >> 32) as u32);
                Ok(LockRef { page: self.mem.load(gpa)?, slot, exclusive })
            })
            .collect()
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

    /// Makes the zeroed frame `root` a root table with home's private region and the kernel, and
    /// an empty VAS region.
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
