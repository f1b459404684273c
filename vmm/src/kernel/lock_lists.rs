//! The locks that instances need and vCPUs hold, as lists of references, and the lock pages.
//!
//! `vas` decides when a list may be reused; `seg-lock` defines a lock.

use std::mem::offset_of;

use abi::layout::{LOCK_PAGES, LOCK_REFS, LOCK_REFS_BYTES, MAX_LOCK_PAGES};
use abi::objects::MAX_INSTANCES;
use abi::shared::VcpuPage;
use abi::switch::{LockEnd, LockRef};
use abi::walk::{PageTable, TableMem};
use abi::{GuestPhys, GuestVirt, PAGE_SIZE, PAGE_SIZE_2M, PageSize, Rights};

use super::switch_tables::{KERNEL_LIMIT, LIMIT, SwitchTables};
use crate::vm::memory::MemoryError;

const REF_BYTES: u64 = size_of::<LockRef>() as u64;
const HELD: u64 = offset_of!(VcpuPage, held) as u64;
const WAITED_FOR: u64 = offset_of!(VcpuPage, waited_for) as u64;

impl SwitchTables {
    /// Address of the lists of locks; mapped on first use.
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

    /// Writes the list of locks of an instance with this root and generation: references starting
    /// at number `first`, which is not 0, and one more entry for the list's end. Never overwrites a
    /// list that an instance's entry or a vCPU's held locks point to: any change, even of the root,
    /// makes a new list.
    ///
    /// # Errors
    /// [`MemoryError`]; no such entry.
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

    /// The lock references starting at `first`; none beyond the table.
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

    /// Allocates a page at number `index` of the lock pages, for a segment's lock page to be mapped
    /// over; returns its guest-physical address. Once for each number: a mapped page stays, with
    /// whatever is mapped over it.
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

    pub(super) fn vcpu_page(&self, vcpu: u32) -> Result<GuestPhys, MemoryError> {
        let page = self.lazy().vcpu_pages.get(vcpu as usize).copied().flatten();
        let missing = MemoryError::NotMemory { gpa: GuestPhys::literal(0), len_bytes: PAGE_SIZE };
        page.ok_or(missing)
    }

    /// Index of the first and number of the lock references of the locks that vCPU `vcpu` holds.
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn held_locks(&self, vcpu: u32) -> Result<(u32, u32), MemoryError> {
        self.machine.mem.load(self.vcpu_page(vcpu)?.offset(HELD)).map(range_of)
    }

    /// Indices of the first references of all lists through which some vCPU holds locks.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn all_held_locks(&self) -> Result<Vec<u32>, MemoryError> {
        let pages: Vec<GuestPhys> = self.lazy().vcpu_pages.iter().copied().flatten().collect();
        let mut lists = Vec::new();
        for page in pages {
            let (first, count) = self.machine.mem.load(page.offset(HELD)).map(range_of)?;
            lists.extend((count != 0).then_some(first));
        }
        Ok(lists)
    }

    /// Records that a vCPU, which is out of the guest, holds exactly the locks of the `count`
    /// references starting at `first`.
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn set_held_locks(&self, vcpu: u32, first: u32, count: u32) -> Result<(), MemoryError> {
        let page = self.vcpu_page(vcpu)?;
        let range = if count == 0 { 0 } else { range_word(first, count) };
        self.machine.mem.store(page.offset(HELD), range)?;
        let plain = count == 0 && self.lazy().started;
        let limit = if plain { u64::from(MAX_INSTANCES) } else { 0 };
        self.machine.mem.store(page.offset(LIMIT), limit)?;
        self.machine.mem.store(page.offset(KERNEL_LIMIT), u64::from(MAX_INSTANCES))
    }

    /// From now on every switch of a vCPU, which is out of the guest, is left to the VMM, which
    /// knows what the thread holds; until [`SwitchTables::set_held_locks`].
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn leave_switches_to_vmm(&self, vcpu: u32) -> Result<(), MemoryError> {
        let page = self.vcpu_page(vcpu)?;
        for field in [HELD, LIMIT, KERNEL_LIMIT] {
            self.machine.mem.store(page.offset(field), 0)?;
        }
        Ok(())
    }

    /// Lock references, as in [`SwitchTables::held_locks`], of locks with waiters that the kernel
    /// has released for this vCPU, which is out of the guest: the caller wakes the waiters. The
    /// kernel has then completed the switch and exited all the same, with a call to switch to the
    /// instance that the thread is in.
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn take_waited_for(&self, vcpu: u32) -> Result<Option<(u32, u32)>, MemoryError> {
        let word = self.vcpu_page(vcpu)?.offset(WAITED_FOR);
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

const _: () =
    assert!(LOCK_REFS_BYTES == PAGE_SIZE_2M && LOCK_REFS.raw().is_multiple_of(PAGE_SIZE_2M));
