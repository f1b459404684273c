//! Instances as the VMM writes them: roots and entries.
//!
//! Which instances there are, what lies below their roots and when a root may be used again is
//! decided in `vas`; where the tables lie is `switch_tables.rs`, which locks are needed
//! `lock_lists.rs`.

use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};

use abi::layout::{LOCK_RANGES, PLAIN_GENERATIONS, PLAIN_ROOTS};
use abi::objects::MAX_INSTANCES;
use abi::switch::{CR3_KEEP, InstanceEntry};
use abi::{GuestPhys, GuestVirt};

use super::lock_lists::range_word;
use super::switch_tables::{ENTRY_BYTES, SwitchTables};
use crate::vm::memory::MemoryError;

/// The TLB tag of home, where there are tags. Tag 0 is what a vCPU begins with.
pub const HOME_TAG: u64 = 1;

impl SwitchTables {
    /// Home's root with its tag, as an instance entry has it.
    #[must_use]
    pub fn home_cr3(&self) -> u64 {
        let root = self.machine.home_root().raw();
        if self.machine.has_pcid() { root | HOME_TAG | CR3_KEEP } else { root }
    }

    /// Writes home's entry, number 0, and lets the kernel serve switches. To be called once,
    /// after files have been mapped over status entries and table. Until then the kernel serves only the
    /// switch from home to home.
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

    /// Entry `vh` of one of the kernel's tables by handle.
    pub(super) fn by_handle(&self, table: GuestVirt, vh: u32) -> GuestPhys {
        self.at(table).offset(u64::from(vh) * 8)
    }

    /// Writes entry `vh`, for the kernel and for those who look. With `plain`, an instance
    /// without locks that the kernel may switch to. An instance with locks needs the list that
    /// [`SwitchTables::set_lock_list`] has written, with the same root and generation, and the
    /// kernel does what it can. One that is neither is the VMM's to switch to.
    ///
    /// A vCPU that switches there at this moment finds all of the old entry, all of the new
    /// one, or neither, and then leaves the switch to the VMM. One that found the old entry
    /// has announced itself before: [`SwitchTables::vcpus_in`] names it.
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
        // What lets the kernel in comes last: each store is a release.
        if entry.lock_count != 0 {
            let range = range_word(entry.lock_first, entry.lock_count);
            self.machine.mem.store(self.by_handle(LOCK_RANGES, vh), range)
        } else if plain {
            self.machine.mem.store(self.by_handle(PLAIN_ROOTS, vh), entry.cr3)
        } else {
            Ok(())
        }
    }

    /// From now on every switch to `vh` is left to the VMM; its root is 0 for those who look.
    /// Whoever found it before has announced itself: [`SwitchTables::vcpus_in`] names it.
    ///
    /// # Errors
    /// [`MemoryError`]; no such handle.
    pub fn clear_instance(&self, vh: u32) -> Result<(), MemoryError> {
        let at = self.entry(vh)?;
        self.machine.mem.store(self.by_handle(PLAIN_ROOTS, vh), 0)?;
        self.machine.mem.store(self.by_handle(LOCK_RANGES, vh), 0)?;
        self.machine.mem.store(at.offset(offset_of!(InstanceEntry, cr3) as u64), 0)?;
        // Between these stores and the loads of the status entries: the kernel's XCHG is the other
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
}
