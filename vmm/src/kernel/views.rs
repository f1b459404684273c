//! Views of versioned segments that the kernel may enter by itself: their records, and which vCPUs may be
//! on one.
//!
//! `vas::versioned` decides what is shown, and when tables go; `abi::switch` defines the protocol.

use std::mem::offset_of;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{Ordering, fence};

use abi::layout::{LOCK_RANGES, MAX_VIEWS, VIEW_BYTES, VIEWS};
use abi::shared::VcpuPage;
use abi::switch::{ViewRecord, may_be_on};
use abi::walk::{PageTable, TableMem};
use abi::{GuestPhys, GuestVirt, PAGE_SIZE, PageSize, Rights};

use super::switch_tables::SwitchTables;
use crate::vm::memory::{FileMapping, MemoryError};

const VIEW: u64 = offset_of!(VcpuPage, view) as u64;

/// Guest memory of a record and of the words before it; once allocated it stays.
#[derive(Clone, Copy, Debug)]
pub struct ViewPages {
    number: u32,
    words: GuestPhys,
    record: GuestPhys,
}

impl SwitchTables {
    /// Allocates the pages of view `number`, for a segment's words to be mapped over the first. Once
    /// for each number.
    ///
    /// # Errors
    /// [`MemoryError`]; no such number.
    pub fn map_view(&self, number: u32) -> Result<ViewPages, MemoryError> {
        if number >= MAX_VIEWS {
            let gpa = GuestPhys::literal(u64::from(number) * VIEW_BYTES);
            return Err(MemoryError::NotMemory { gpa, len_bytes: VIEW_BYTES });
        }
        let words_at = GuestVirt::literal(VIEWS.raw() + u64::from(number) * VIEW_BYTES);
        let record_at = GuestVirt::literal(words_at.raw() + PAGE_SIZE);
        self.machine.edit_tables_and_pool(|root, tables| {
            let (words, record) = (tables.alloc_table()?, tables.alloc_table()?);
            let mut table = PageTable::new(root, tables);
            table.map(words_at, words, PageSize::Small4K, Rights::KERNEL_READ)?;
            table.map(record_at, record, PageSize::Small4K, Rights::KERNEL_READ)?;
            Ok(ViewPages { number, words, record })
        })
    }

    /// Maps the page of a segment's file where VMs tell each other of versions.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn map_words(
        &self,
        pages: &ViewPages,
        (file, offset): (BorrowedFd<'_>, u64),
    ) -> Result<(), MemoryError> {
        let read_only = FileMapping::SharedReadOnly;
        self.machine.mem.map_file(pages.words, PAGE_SIZE, file, offset, read_only)
    }

    /// Unmaps it. No vCPU may be about to enter.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn unmap_words(&self, pages: &ViewPages) -> Result<(), MemoryError> {
        self.machine.mem.unmap_file(pages.words, PAGE_SIZE)
    }

    /// From now on the kernel enters `vh` by the view that the record describes, as long as nothing
    /// newer is published; until [`SwitchTables::clear_instance`]. A view that it replaces may still be
    /// entered by a vCPU for which [`SwitchTables::is_view_used`] is true.
    ///
    /// # Errors
    /// [`MemoryError`]; no such handle.
    pub fn show_view(
        &self,
        vh: u32,
        pages: &ViewPages,
        record: &ViewRecord,
    ) -> Result<(), MemoryError> {
        self.clear_instance(vh)?;
        let mem = &self.machine.mem;
        let word = |field: usize| pages.record.offset(field as u64);
        // In this order: see `ViewRecord`. Each store is a release.
        mem.store(word(offset_of!(ViewRecord, cr3)), record.cr3)?;
        mem.store(word(offset_of!(ViewRecord, count)), record.count)?;
        let at = VIEWS.raw() + u64::from(pages.number) * VIEW_BYTES + PAGE_SIZE;
        mem.store(self.by_handle(LOCK_RANGES, vh), at)
    }

    /// Whether a vCPU other than `but_for` may be on the view with root `cr3` of instance `vh`, or yet get
    /// there. The kernel is no longer shown it.
    #[must_use]
    pub fn is_view_used(&self, vh: u32, cr3: u64, but_for: Option<u32>) -> bool {
        // Pairs with the kernel's XCHG: see `may_be_on`.
        fence(Ordering::SeqCst);
        let is_on = |vcpu| {
            let (announced, inside) = self.status_words(vcpu)?;
            let view = self.machine.mem.load(self.vcpu_page(vcpu)?.offset(VIEW))?;
            Ok::<_, MemoryError>(may_be_on(announced, inside, view, u64::from(vh), cr3))
        };
        let mut others = (0..self.vcpus()).filter(|&vcpu| Some(vcpu) != but_for);
        // What cannot be read may be on it.
        others.any(|vcpu| is_on(vcpu).unwrap_or(true))
    }

    /// Records that a vCPU, which is out of the guest, enters the view with root `cr3`.
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn set_view(&self, vcpu: u32, cr3: u64) -> Result<(), MemoryError> {
        self.machine.mem.store(self.vcpu_page(vcpu)?.offset(VIEW), cr3)
    }
}
