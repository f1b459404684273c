//! The locks that instances need and vCPUs hold, as lists of references, and the lock pages.
//!
//! When a list may be used again is decided in `vas`; what a lock is, in `abi::lock`.

use std::mem::offset_of;

use abi::layout::{
    LOCK_CODE, LOCK_CODE_UNIT, LOCK_PAGES, LOCK_REFS, LOCK_REFS_BYTES, LOCK_WAYS, MAX_LOCK_PAGES,
    TAG_TABLES,
};
use abi::objects::MAX_INSTANCES;
use abi::shared::VcpuPage;
use abi::switch::{InstanceEntry, LockEnd, LockRef};
use abi::walk::{PageTable, TableMem};
use abi::{GuestPhys, GuestVirt, PAGE_SIZE, PAGE_SIZE_2M, PageSize, Rights};

use super::lock_code;
use super::switch_tables::{ENTRY, LIMIT, SwitchTables, loadable, put};
use crate::vm::memory::{GuestMem, MemoryError};
use crate::vm::tables::Tables;

const REF_BYTES: u64 = size_of::<LockRef>() as u64;
const HELD: u64 = offset_of!(VcpuPage, held) as u64;
const NUDGE: u64 = offset_of!(VcpuPage, nudge) as u64;

const LISTS_A_CHUNK: u32 = (PAGE_SIZE_2M / LOCK_CODE_UNIT) as u32;
/// Places in [`LOCK_REFS`].
const PLACES: u32 = (LOCK_REFS_BYTES / REF_BYTES) as u32;

impl SwitchTables {
    /// Where the lists of locks lie; mapped when first asked for.
    fn lock_table(&self) -> Result<GuestPhys, MemoryError> {
        self.machine.edit_tables_and_pool(|root, tables| {
            let mut lazy = self.lazy();
            if let Some(table) = lazy.lock_refs {
                return Ok(table);
            }
            let gpa = tables.mem.alloc(LOCK_REFS_BYTES)?;
            let mut table = PageTable::new(root, tables);
            table.map(LOCK_REFS, gpa, PageSize::Large2M, Rights::KERNEL_WRITE)?;
            lazy.lock_refs = Some(gpa);
            Ok(gpa)
        })
    }

    /// Where the code of the list at `first` lies, mapped by the first who asks. Not resident
    /// before it is used.
    fn lock_code(
        &self,
        tables: &mut Tables<'_>,
        root: GuestPhys,
        first: u32,
    ) -> Result<GuestPhys, MemoryError> {
        let mut lazy = self.lazy();
        let chunk = (first / LISTS_A_CHUNK) as usize;
        let gpa = match lazy.lock_code.get(chunk).copied().flatten() {
            Some(gpa) => gpa,
            None => {
                let gpa = tables.mem.alloc(PAGE_SIZE_2M)?;
                let gva = GuestVirt::literal(LOCK_CODE.raw() + chunk as u64 * PAGE_SIZE_2M);
                let mut table = PageTable::new(root, tables);
                table.map(gva, gpa, PageSize::Large2M, Rights::KERNEL_CODE)?;
                put(&mut lazy.lock_code, chunk, gpa);
                gpa
            }
        };
        Ok(gpa.offset(u64::from(first % LISTS_A_CHUNK) * LOCK_CODE_UNIT))
    }

    /// First and count of the lock references by which the vCPU of this page holds locks.
    fn held(&self, mem: &GuestMem, page: GuestPhys) -> Result<(u32, u32), MemoryError> {
        let entry = mem.load(page.offset(ENTRY))?;
        match lock_code::list_of(entry, PLACES) {
            Some(first) => Ok((first, 1)),
            None => mem.load(page.offset(HELD)).map(range_of),
        }
    }

    /// Writes the code for an instance with one lock and lets the kernel use it, if the lock is
    /// exclusive. Code that is used is only ever replaced by the same.
    pub(super) fn write_lock_code(
        &self,
        vh: u32,
        entry: &InstanceEntry,
    ) -> Result<(), MemoryError> {
        let first = entry.lock_first;
        let refs = self.lock_refs(first, 1)?;
        let Some(lock) = refs.first().filter(|lock| lock.exclusive != 0) else { return Ok(()) };
        let at = self
            .machine
            .edit_tables_and_pool(|root, tables| self.lock_code(tables, root, first))?;
        let (cr3, home) = (loadable(entry.cr3), loadable(self.home_cr3()));
        self.machine.mem.write(at, &lock_code::write(first, lock, cr3, home, &self.ways))?;
        self.machine.mem.store(self.by_handle(LOCK_WAYS, vh), lock_code::address(first))
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
        let table = self.lock_table()?;
        let mut at = table.offset(start);
        for lock in refs {
            self.machine.mem.store(at, lock.page)?;
            let mode = u64::from(lock.slot) | u64::from(lock.exclusive) << 32;
            self.machine.mem.store(at.offset(8), mode)?;
            at = at.offset(REF_BYTES);
        }
        self.machine.mem.store(at.offset(offset_of!(LockEnd, cr3) as u64), cr3)?;
        self.machine.mem.store(at.offset(offset_of!(LockEnd, generation) as u64), generation)
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
        let table = self.lock_table()?;
        (0..u64::from(count))
            .map(|at| {
                let gpa = table.offset(start + at * REF_BYTES);
                let mode = self.machine.mem.load(gpa.offset(8))?;
                let (slot, exclusive) = (mode as u32, (mode >> 32) as u32);
                Ok(LockRef { page: self.machine.mem.load(gpa)?, slot, exclusive })
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
        self.machine.edit_tables_and_pool(|root, tables| {
            let gpa = tables.alloc_table()?;
            PageTable::new(root, tables).map(gva, gpa, PageSize::Small4K, Rights::KERNEL_WRITE)?;
            Ok(gpa)
        })
    }

    fn vcpu_page(&self, vcpu: u32) -> Result<GuestPhys, MemoryError> {
        let page = self.lazy().vcpu_pages.get(vcpu as usize).copied().flatten();
        let missing = MemoryError::NotMemory { gpa: GuestPhys::literal(0), len_bytes: PAGE_SIZE };
        page.ok_or(missing)
    }

    /// Index of the first and number of the lock references whose locks vCPU `vcpu` holds.
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn held_locks(&self, vcpu: u32) -> Result<(u32, u32), MemoryError> {
        self.held(&self.machine.mem, self.vcpu_page(vcpu)?)
    }

    /// Indices of the first references of all lists by which some vCPU holds locks.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn all_held_locks(&self) -> Result<Vec<u32>, MemoryError> {
        let pages: Vec<GuestPhys> = self.lazy().vcpu_pages.iter().copied().flatten().collect();
        let mut lists = Vec::new();
        for page in pages {
            let (first, count) = self.held(&self.machine.mem, page)?;
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
        self.machine.mem.store(page.offset(HELD), range)?;
        let plain = count == 0 && self.lazy().started;
        self.machine
            .mem
            .store(page.offset(LIMIT), if plain { u64::from(MAX_INSTANCES) } else { 0 })?;
        let ways = &self.ways;
        self.machine.mem.store(page.offset(ENTRY), if plain { ways.free } else { ways.held })
    }

    /// Lock references, as in [`SwitchTables::held_locks`], whose locks the kernel has given back
    /// for this vCPU, which is out of the guest, while somebody waited: the
    /// caller wakes the waiters. The kernel has then made the whole switch and left all the same, as a call to
    /// switch to where the thread is.
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn take_waited_for(&self, vcpu: u32) -> Result<Option<(u32, u32)>, MemoryError> {
        let word = self.vcpu_page(vcpu)?.offset(NUDGE);
        let range = range_of(self.machine.mem.load(word)?);
        if range.1 == 0 {
            return Ok(None);
        }
        self.machine.mem.store(word, 0)?;
        Ok(Some(range))
    }
}

/// First and count of a range of lock references.
fn range_of(word: u64) -> (u32, u32) {
    ((word >> 32) as u32 / REF_BYTES as u32, word as u32)
}

pub(super) fn range_word(first: u32, count: u32) -> u64 {
    (u64::from(first) * REF_BYTES) << 32 | u64::from(count)
}

const _: () = {
    assert!(LOCK_REFS_BYTES == PAGE_SIZE_2M && LOCK_REFS.raw().is_multiple_of(PAGE_SIZE_2M));
    assert!(LOCK_CODE.raw().is_multiple_of(PAGE_SIZE_2M));
    assert!(LOCK_CODE.raw() + PLACES as u64 * LOCK_CODE_UNIT <= TAG_TABLES.raw());
};
