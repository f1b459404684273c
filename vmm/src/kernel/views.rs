//! Views of versioned segments that the kernel may enter by itself, to read or to write: their records, and
//! which vCPUs may be on one.
//!
//! `vas::versioned` decides what is shown, and when tables go; `abi::switch` defines the protocol.

use std::mem::offset_of;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{Ordering, fence};

use abi::layout::{
    LIVE_PUBLISHED, LOCK_RANGES, MAX_VIEWS, VIEW_BYTES, VIEW_ROOTS, VIEW_STAMPS, VIEWS,
};
use abi::shared::VcpuPage;
use abi::switch::{VIEW_WRITES, ViewRecord, WORDS_COUNT, WORDS_FAILURES, WriteRecord, may_be_on};
use abi::walk::{PageTable, TableMem};
use abi::{GuestPhys, GuestVirt, PAGE_SIZE, PageSize, Rights};

use super::switch_tables::SwitchTables;
use crate::vm::memory::{FileMapping, MemoryError};

const VIEW: u64 = offset_of!(VcpuPage, view) as u64;

/// Guest memory of a view's record and a writer's, and of the words before them; once allocated it stays.
#[derive(Clone, Copy, Debug)]
pub struct ViewPages {
    number: u32,
    words: GuestPhys,
    record: GuestPhys,
    write: GuestPhys,
}

impl ViewPages {
    /// The kernel's address of one of the pages.
    fn address(&self, page: u64) -> u64 {
        VIEWS.raw() + u64::from(self.number) * VIEW_BYTES + page * PAGE_SIZE
    }
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
        self.machine.edit_tables_and_pool(|root, tables| {
            let mut alloc = || tables.alloc_table();
            let (words, record, write) = (alloc()?, alloc()?, alloc()?);
            let pages = ViewPages { number, words, record, write };
            let mut table = PageTable::new(root, tables);
            for (page, gpa) in (0..).zip([words, record, write]) {
                let gva = GuestVirt::literal(pages.address(page));
                table.map(gva, gpa, PageSize::Small4K, Rights::KERNEL_READ)?;
            }
            Ok(pages)
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

    /// From now on the kernel enters `vh` by the view with this root, as long as nothing newer is published of
    /// its segments; until [`SwitchTables::clear_instance`]. Each segment has pages, and a count of how often
    /// versions of it had been published when the view was the newest; `stamp` is what the store's word said
    /// then, or [`abi::switch::NO_STAMP`]. A view that it replaces may still be entered by a vCPU for which
    /// [`SwitchTables::is_view_used`] is true.
    ///
    /// # Errors
    /// [`MemoryError`]; no such handle.
    pub fn show_view(
        &self,
        vh: u32,
        segments: &[(ViewPages, u64)],
        (cr3, stamp): (u64, u64),
    ) -> Result<(), MemoryError> {
        // The old root goes first: see `ViewRecord`. Each store is a release.
        self.clear_instance(vh)?;
        let Some((first, _)) = segments.first() else { return Ok(()) };
        let mem = &self.machine.mem;
        let next = segments.iter().skip(1).map(|(pages, _)| pages.address(1)).chain([0]);
        for ((pages, count), next) in segments.iter().zip(next) {
            let word = |field: usize| pages.record.offset(field as u64);
            mem.store(word(offset_of!(ViewRecord, count)), *count)?;
            mem.store(word(offset_of!(ViewRecord, next)), next)?;
        }
        if self.leaves_all() {
            return Ok(());
        }
        mem.store(self.by_handle(VIEW_ROOTS, vh), cr3)?;
        mem.store(self.by_handle(VIEW_STAMPS, vh), stamp)?;
        mem.store(self.by_handle(LOCK_RANGES, vh), first.address(1))
    }

    /// The view that the kernel is shown of `vh` is the newest by this stamp, too.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn renew_view(&self, vh: u32, stamp: u64) -> Result<(), MemoryError> {
        self.machine.mem.store(self.by_handle(VIEW_STAMPS, vh), stamp)
    }

    /// The store's word, which is another one whenever versions are published. To be asked before the
    /// newest versions are looked for: what comes meanwhile is news then.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn published(&self) -> Result<u64, MemoryError> {
        let word = self.machine.mem.load(self.changes_page().offset(LIVE_PUBLISHED))?;
        // What is read afterwards is at least as new.
        fence(Ordering::SeqCst);
        Ok(word)
    }

    /// Makes the store's word `value`. Of what this process stores, in memory or by calls of the host, nobody sees
    /// what comes afterwards and still the word as it was.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn set_published(&self, value: u64) -> Result<(), MemoryError> {
        self.machine.mem.store(self.changes_page().offset(LIVE_PUBLISHED), value)?;
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// [`WriteRecord::count`] for tables that show what is committed last by now.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn writers_count(&self, pages: &ViewPages) -> Result<u64, MemoryError> {
        let word = |at| self.machine.mem.load(pages.words.offset(at));
        Ok(word(WORDS_COUNT)?.wrapping_add(word(WORDS_FAILURES)?))
    }

    /// Describes the tables that the kernel may enter to write, until [`SwitchTables::hide_writer`]. The
    /// caller has the segment's lock.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn set_writer(&self, pages: &ViewPages, record: &WriteRecord) -> Result<(), MemoryError> {
        let fields = [
            (offset_of!(WriteRecord, no_view), record.no_view),
            (offset_of!(WriteRecord, count), record.count),
            (offset_of!(WriteRecord, owner), record.owner),
            (offset_of!(WriteRecord, cr3), record.cr3),
            (offset_of!(WriteRecord, lock), record.lock),
        ];
        fields.into_iter().try_for_each(|(field, value)| {
            self.machine.mem.store(pages.write.offset(field as u64), value)
        })
    }

    /// From now on the kernel enters `vh` by what [`SwitchTables::set_writer`] describes, as long as this VM
    /// is the last writer and the lock is free; until [`SwitchTables::clear_instance`].
    ///
    /// # Errors
    /// [`MemoryError`]; no such handle.
    pub fn show_writer(&self, vh: u32, pages: &ViewPages) -> Result<(), MemoryError> {
        self.clear_instance(vh)?;
        if self.leaves_all() {
            return Ok(());
        }
        self.machine.mem.store(self.by_handle(LOCK_RANGES, vh), pages.address(2))
    }

    /// The kernel enters `vh` to write no more. Whoever has the segment's lock knows that no vCPU finds the
    /// tables any more. Otherwise one may have found them for which [`SwitchTables::is_view_used`] is true.
    ///
    /// # Errors
    /// [`MemoryError`]; no such handle.
    pub fn hide_writer(&self, vh: u32, pages: &ViewPages) -> Result<(), MemoryError> {
        // Without the lock's address no vCPU tries in vain.
        for field in [offset_of!(WriteRecord, lock), offset_of!(WriteRecord, cr3)] {
            self.machine.mem.store(pages.write.offset(field as u64), 0)?;
        }
        self.clear_instance(vh)
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

    /// Whether the kernel has noted that a vCPU writes a versioned segment.
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn is_writing_view(&self, vcpu: u32) -> Result<bool, MemoryError> {
        let view = self.machine.mem.load(self.vcpu_page(vcpu)?.offset(VIEW))?;
        Ok(view & VIEW_WRITES != 0)
    }

    /// Records that a vCPU, which is out of the guest, enters the view with root `cr3`; with 0, that it is in
    /// none that the kernel could enter.
    ///
    /// # Errors
    /// [`MemoryError`]; no such vCPU.
    pub fn set_view(&self, vcpu: u32, cr3: u64) -> Result<(), MemoryError> {
        self.machine.mem.store(self.vcpu_page(vcpu)?.offset(VIEW), cr3)
    }
}
