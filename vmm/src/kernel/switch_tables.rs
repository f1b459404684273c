//! The tables that the kernel's `vas_switch` reads, as the VMM writes them.
//!
//! `abi::switch` defines their contents and the protocol between the two sides. This module has
//! their addresses and the state of the VM as a whole; `vcpu_status.rs`, `instances.rs` and
//! `lock_lists.rs` read and write them. `vas` decides which instances exist, and when.
//!
//! ```text
//! SWITCH_CONTROL ┐
//! SWITCH_LIVE    ├ 2 MiB of guest memory   files can be mapped over
//! VCPU_STATUSES     │                         counters and entries
//! roots, locks   ┘
//! INSTANCES        2 MiB                   likewise
//! LOCK_REFS        2 MiB                   mapped for the first reference
//! LOCK_PAGES       4 KiB each              mapped one by one
//! TAG_TABLES       32 KiB a vCPU           with PCID only
//! ```
//!
//! None of it is resident before it is used.

use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use abi::layout::{
    INSTANCES, MAX_VCPUS, SWITCH_CONTROL, SWITCH_LIVE, TAG_TABLE_BYTES, TAG_TABLES, VCPU_STATUSES,
};
use abi::objects::MAX_INSTANCES;
use abi::shared::VcpuPage;
use abi::switch::{CR3_KEEP, InstanceEntry, SwitchControl, VcpuStatus};
use abi::walk::PageTable;
use abi::{GuestPhys, GuestVirt, PAGE_SIZE_2M, PageSize, Rights};

use crate::vm::Machine;
use crate::vm::memory::MemoryError;
use crate::vm::tables::Tables;

pub(super) const STATUS_BYTES: u64 = size_of::<VcpuStatus>() as u64;
pub(super) const ENTRY_BYTES: u64 = size_of::<InstanceEntry>() as u64;
pub(super) const LIMIT: u64 = offset_of!(VcpuPage, plain_limit) as u64;
pub(super) const KERNEL_LIMIT: u64 = offset_of!(VcpuPage, kernel_limit) as u64;

/// The tables of `vas_switch`: their addresses, and what the VMM reads and writes there.
#[derive(Debug)]
pub struct SwitchTables {
    pub(super) machine: Arc<Machine>,
    /// What [`SWITCH_CONTROL`] maps.
    base: GuestPhys,
    pub(super) instances: GuestPhys,
    next_generation: AtomicU64,
    leaves_all: AtomicBool,
    lazy: Mutex<LazyTables>,
}

#[derive(Debug, Default)]
pub(super) struct LazyTables {
    pub(super) lock_refs: Option<GuestPhys>,
    /// Whether the kernel serves switches.
    pub(super) started: bool,
    /// Each vCPU's page, by its number.
    pub(super) vcpu_pages: Vec<Option<GuestPhys>>,
    /// Tag tables, [`TABLES_A_BLOCK`] vCPUs in each.
    pub(super) tags: Vec<Option<GuestPhys>>,
}

const TABLES_A_BLOCK: u32 = (PAGE_SIZE_2M / TAG_TABLE_BYTES) as u32;

impl SwitchTables {
    /// Maps control page, change counters, status entries and instance table, all zero: every
    /// switch is left to the VMM.
    pub(super) fn new(machine: Arc<Machine>) -> Result<SwitchTables, MemoryError> {
        let base = machine.mem.alloc(2 * PAGE_SIZE_2M)?;
        let instances = base.offset(PAGE_SIZE_2M);
        machine.edit_tables(|tables| {
            tables.map(SWITCH_CONTROL, base, PageSize::Large2M, Rights::KERNEL_WRITE)?;
            tables.map(INSTANCES, instances, PageSize::Large2M, Rights::KERNEL_WRITE)
        })?;
        let (next_generation, lazy) = (AtomicU64::new(1), Mutex::default());
        let leaves_all = AtomicBool::new(false);
        Ok(SwitchTables { machine, base, instances, next_generation, leaves_all, lazy })
    }

    /// Has every switch made by the VMM, which then sees all of them: for a run that is traced.
    /// Call this before [`SwitchTables::start_switching`].
    pub fn leave_all_to_vmm(&self) {
        self.leaves_all.store(true, Ordering::Relaxed);
    }

    pub(super) fn leaves_all(&self) -> bool {
        self.leaves_all.load(Ordering::Relaxed)
    }

    /// The VM whose tables these are.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    pub(super) fn lazy(&self) -> MutexGuard<'_, LazyTables> {
        self.lazy.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Guest-physical address of something that is mapped with the control page.
    pub(super) fn at(&self, gva: GuestVirt) -> GuestPhys {
        self.base.offset(gva.raw() - SWITCH_CONTROL.raw())
    }

    /// A generation that no instance has had.
    #[must_use]
    pub fn new_generation(&self) -> u64 {
        self.next_generation.fetch_add(1, Ordering::Relaxed)
    }

    /// Guest-physical address and size of the vCPUs' status entries, to map the lease file over.
    #[must_use]
    pub fn vcpu_statuses(&self) -> (GuestPhys, u64) {
        (self.at(VCPU_STATUSES), u64::from(MAX_VCPUS) * STATUS_BYTES)
    }

    /// Guest-physical address and size of the instance table, likewise.
    #[must_use]
    pub fn instance_table(&self) -> (GuestPhys, u64) {
        (self.instances, u64::from(MAX_INSTANCES) * ENTRY_BYTES)
    }

    /// Guest-physical address of the page to map the store's change counters over.
    #[must_use]
    pub fn changes_page(&self) -> GuestPhys {
        self.at(SWITCH_LIVE)
    }

    /// The store's count of changes to VASes.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn changes(&self) -> Result<u64, MemoryError> {
        self.machine.mem.load(self.changes_page())
    }

    /// Tells the kernel up to which count of changes all VASes have been checked.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn set_seen(&self, changes: u64) -> Result<(), MemoryError> {
        let control = self.at(SWITCH_CONTROL);
        self.machine.mem.store(control.offset(offset_of!(SwitchControl, seen) as u64), changes)
    }

    /// Lets the kernel serve switches, on all present and future vCPUs.
    pub(super) fn start(&self) -> Result<(), MemoryError> {
        let mem = &self.machine.mem;
        let mut lazy = self.lazy();
        lazy.started = true;
        for page in lazy.vcpu_pages.iter().flatten() {
            mem.store(page.offset(LIMIT), u64::from(MAX_INSTANCES))?;
        }
        Ok(())
    }

    /// Number of vCPUs.
    pub(super) fn vcpus(&self) -> u32 {
        self.lazy().vcpu_pages.len() as u32
    }

    /// Registers a vCPU and writes the addresses of its status entry and tags into its `page`.
    pub(super) fn add_vcpu(
        &self,
        tables: &mut Tables<'_>,
        root: GuestPhys,
        index: u32,
        page: GuestPhys,
        pcid: bool,
    ) -> Result<(), MemoryError> {
        let mem = tables.mem;
        let status = VCPU_STATUSES.raw() + u64::from(index) * STATUS_BYTES;
        mem.store(page.offset(offset_of!(VcpuPage, status) as u64), status)?;
        mem.store(page.offset(KERNEL_LIMIT), u64::from(MAX_INSTANCES))?;
        let mut lazy = self.lazy();
        if pcid {
            let block = (index / TABLES_A_BLOCK) as usize;
            if lazy.tags.get(block).is_none_or(Option::is_none) {
                let gpa = mem.alloc(PAGE_SIZE_2M)?;
                let gva = GuestVirt::literal(TAG_TABLES.raw() + block as u64 * PAGE_SIZE_2M);
                let mut table = PageTable::new(root, tables);
                table.map(gva, gpa, PageSize::Large2M, Rights::KERNEL_WRITE)?;
                put(&mut lazy.tags, block, gpa);
            }
            let tags = TAG_TABLES.raw() + u64::from(index) * TAG_TABLE_BYTES;
            mem.store(page.offset(offset_of!(VcpuPage, tags) as u64), tags)?;
        }
        if lazy.started {
            mem.store(page.offset(LIMIT), u64::from(MAX_INSTANCES))?;
        }
        put(&mut lazy.vcpu_pages, index as usize, page);
        Ok(())
    }

    /// Where vCPU `index` keeps the generation of `tag`.
    pub(super) fn tag_word(&self, index: u32, tag: u64) -> Option<GuestPhys> {
        let block = (*self.lazy().tags.get((index / TABLES_A_BLOCK) as usize)?)?;
        let table = u64::from(index % TABLES_A_BLOCK) * TAG_TABLE_BYTES;
        Some(block.offset(table + (tag & abi::switch::CR3_TAG) * 8))
    }
}

/// Sets item `index` of a list, growing it if necessary.
pub(super) fn put(list: &mut Vec<Option<GuestPhys>>, index: usize, gpa: GuestPhys) {
    if list.len() <= index {
        list.resize(index + 1, None);
    }
    if let Some(slot) = list.get_mut(index) {
        *slot = Some(gpa);
    }
}

/// What a switch made by the VMM must load into CR3 for `entry_cr3`, a root as in an instance
/// entry.
#[must_use]
pub fn loadable(entry_cr3: u64) -> u64 {
    entry_cr3 & !CR3_KEEP
}

const _: () = {
    // One large page holds control page, change counters and status entries; another one the
    // instances.
    assert!(
        SWITCH_CONTROL.raw().is_multiple_of(PAGE_SIZE_2M)
            && INSTANCES.raw().is_multiple_of(PAGE_SIZE_2M)
    );
    assert!(
        VCPU_STATUSES.raw() + MAX_VCPUS as u64 * STATUS_BYTES
            <= SWITCH_CONTROL.raw() + PAGE_SIZE_2M
    );
    assert!(MAX_INSTANCES as u64 * ENTRY_BYTES == PAGE_SIZE_2M);
    assert!(TAG_TABLES.raw().is_multiple_of(PAGE_SIZE_2M));
};
