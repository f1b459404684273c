//! The VMM's writes to instances: roots and entries.
//!
//! `vas` decides which instances exist, what their roots map and when a root may be reused;
//! `switch_tables.rs` has the addresses of the tables, `lock_lists.rs` the locks that are needed.

use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};

use abi::layout::{LOCK_RANGES, PLAIN_GENERATIONS, PLAIN_ROOTS, VIEW_ROOTS, VIEW_STAMPS};
use abi::objects::MAX_INSTANCES;
use abi::switch::{CR3_KEEP, InstanceEntry, NO_STAMP};
use abi::{GuestPhys, GuestVirt};

use super::lock_lists::range_word;
use super::switch_tables::{ENTRY_BYTES, SwitchTables};
use crate::vm::memory::MemoryError;

/// The TLB tag of home, where there are tags. A vCPU starts with tag 0.
pub const HOME_TAG: u64 = 1;

impl SwitchTables {
    /// Home's root with its tag, as in an instance entry.
    #[must_use]
    pub fn home_cr3(&self) -> u64 {
        let root = self.machine.home_root().raw();
        if self.machine.has_pcid() { root | HOME_TAG | CR3_KEEP } else { root }
    }

    /// Writes home's entry, number 0, and lets the kernel serve switches. Call this once, after
    /// files have been mapped over the status entries and the instance table. Until then the kernel
    /// serves only the switch from home to home.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn start_switching(&self) -> Result<(), MemoryError> {
        let cr3 = self.home_cr3();
        let generation = self.new_generation();
        let home = InstanceEntry { cr3, generation, ..InstanceEntry::default() };
        self.set_instance(0, &home, true)?;
        self.start()
    }

    fn entry(&self, vh: u32) -> Result<GuestPhys, MemoryError> {
        let at = self.instances.offset(u64::from(vh) * ENTRY_BYTES);
        if vh < MAX_INSTANCES {
            Ok(at)
        } else {
            Err(MemoryError::NotMemory { gpa: at, len_bytes: ENTRY_BYTES })
        }
    }

    /// Entry `vh` of one of the kernel's tables that are indexed by handle.
    pub(super) fn by_handle(&self, table: GuestVirt, vh: u32) -> GuestPhys {
        self.at(table).offset(u64::from(vh) * 8)
    }

    /// Writes entry `vh`, for the kernel and for inspection. `plain` means an instance without
    /// locks that the kernel may switch to. An instance with locks needs the list that
    /// [`SwitchTables::set_lock_list`] has written, with the same root and generation, and the
    /// kernel does what it can. An instance that is neither is left to the VMM.
    ///
    /// A vCPU that switches there concurrently finds all of the old entry, all of the new one, or
    /// neither, and in the last case leaves the switch to the VMM. One that found the old entry has
    /// announced itself before, so [`SwitchTables::vcpus_in`] lists it.
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
        self.machine.mem.store(word(offset_of!(InstanceEntry, generation)), entry.generation)?;
        self.machine.mem.store(word(offset_of!(InstanceEntry, lock_count)), locks)?;
        self.machine.mem.store(word(offset_of!(InstanceEntry, vid)), entry.vid)?;
        self.machine.mem.store(word(offset_of!(InstanceEntry, cr3)), entry.cr3)?;
        self.machine.mem.store(self.by_handle(PLAIN_GENERATIONS, vh), entry.generation)?;
        // What enables the kernel comes last: each store is a release.
        if self.leaves_all() {
            Ok(())
        } else if entry.lock_count != 0 {
            let range = range_word(entry.lock_first, entry.lock_count);
            self.machine.mem.store(self.by_handle(LOCK_RANGES, vh), range)
        } else if plain {
            self.machine.mem.store(self.by_handle(PLAIN_ROOTS, vh), entry.cr3)
        } else {
            Ok(())
        }
    }

    /// From now on every switch to `vh` is left to the VMM; its root reads as 0 in the instance
    /// table. A vCPU that found the old root has announced itself before, so
    /// [`SwitchTables::vcpus_in`] lists it.
    ///
    /// # Errors
    /// [`MemoryError`]; no such handle.
    pub fn clear_instance(&self, vh: u32) -> Result<(), MemoryError> {
        let at = self.entry(vh)?;
        self.machine.mem.store(self.by_handle(PLAIN_ROOTS, vh), 0)?;
        self.machine.mem.store(self.by_handle(LOCK_RANGES, vh), 0)?;
        self.machine.mem.store(self.by_handle(VIEW_ROOTS, vh), 0)?;
        self.machine.mem.store(self.by_handle(VIEW_STAMPS, vh), NO_STAMP)?;
        self.machine.mem.store(at.offset(offset_of!(InstanceEntry, cr3) as u64), 0)?;
        // Orders these stores before the loads of the status entries; pairs with the kernel's XCHG
        // (abi::switch).
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Tells other VMs how many visits to `vh` are suspended: what [`InstanceEntry::suspended`] says.
    ///
    /// # Errors
    /// [`MemoryError`]; no such handle.
    pub fn set_suspended(&self, vh: u32, suspended: u64) -> Result<(), MemoryError> {
        let at = self.entry(vh)?;
        self.machine.mem.store(at.offset(offset_of!(InstanceEntry, suspended) as u64), suspended)
    }

    /// Also clears the rest of entry `vh` in the instance table, its VAS.
    ///
    /// # Errors
    /// [`MemoryError`]; no such handle.
    pub fn erase_instance(&self, vh: u32) -> Result<(), MemoryError> {
        self.set_instance(vh, &InstanceEntry::default(), false)
    }
}
