//! Guest-physical windows: pieces of files mapped temporarily into guest-physical space, each
//! behind its own memslot.
//!
//! Private memory (`memory.rs`) lies in permanent regions. Segments can be larger than the
//! guest-physical space and this process's own address space, so their pieces are mapped on access
//! and unmapped under pressure.
//!
//! ```text
//!  guest-physical  0 .. private memory .. | start .. windows .. end
//!  memslots        0, 1, 2, ...           | last, last - 1, ...
//! ```
//!
//! Removing a memslot makes KVM drop *every* translation of the VM, second-level or shadow, and
//! flush every vCPU, before the call returns (`kvm_arch_flush_shadow_memslot`).
//! [`Windows::forget_everything`] uses that on purpose: it is the one operation after which, on
//! every kind of host, no frame that was a page table can still be cached as one
//! (docs/src/internals/vas.md).

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use abi::{GuestPhys, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
use kvm_bindings::KVM_MEM_READONLY;
use kvm_ioctls::VmFd;

use super::extents::Extents;
use super::host_mapping::{HostMapping, Memslot};
use super::host_range::HostRange;
use super::memory::MemoryError;
use super::small_chunks::SmallChunks;

/// A piece of a file in guest-physical space. Released by [`Windows::unmap`].
#[derive(Debug)]
pub struct Window {
    place: MemslotPlace,
    bytes: u64,
    slot: Memslot,
    /// Whether the host was told to prefer huge pages.
    dense: AtomicBool,
    /// Where the host was told to map by pages of 4 KiB.
    small: Mutex<SmallChunks>,
}

impl Window {
    /// Its start address.
    #[must_use]
    pub fn gpa(&self) -> GuestPhys {
        GuestPhys::literal(self.place.gpa)
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The host memory behind `bytes` at `offset`, truncated at the window's end, for use in system
    /// calls: it stays mapped as long as the result exists, whatever happens to the window.
    #[must_use]
    pub fn pin(&self, offset: u64, bytes: u64) -> PinnedRange {
        let offset = offset.min(self.bytes);
        let len = bytes.min(self.bytes - offset) as usize;
        PinnedRange { host: self.slot.host().clone(), offset: offset as usize, len }
    }

    /// Whether `bytes` lie at `offset`: of a window of anonymous memory.
    #[must_use]
    pub fn has(&self, offset: u64, bytes: &[u8]) -> bool {
        self.slot.host().range(offset.min(self.bytes) as usize, bytes.len()).has(bytes)
    }

    /// Whether part of it is pinned. A pin may be dropped at any time; none is added while the
    /// caller has exclusive access to the window.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        Arc::strong_count(self.slot.host()) > 1
    }

    /// Drops what is mapped of `bytes` at `offset`, and with it every translation of the guest's: of
    /// a file, it is mapped again at the next access; anonymous memory is zero then.
    ///
    /// # Errors
    /// The host's; nothing is known then.
    pub fn drop_pages(&self, offset: u64, bytes: u64) -> Result<(), MemoryError> {
        let pinned = self.pin(offset, bytes);
        self.slot.host().drop_pages(offset as usize, pinned.len()).map_err(|source| {
            let gpa = self.gpa().offset(offset);
            MemoryError::Host { action: "drop", gpa, len_bytes: bytes, source }
        })
    }

    /// Has the host map by pages of 4 KiB around `bytes` at `offset`, of a file, when it maps anything there again: so that
    /// [`Window::drop_pages`] drops no more than is asked for.
    pub fn map_small(&self, offset: u64, bytes: u64) {
        let mut small = self.small.lock().unwrap_or_else(|poison| poison.into_inner());
        for chunk in small.add(offset..offset.saturating_add(bytes), self.bytes) {
            self.slot.host().map_small(chunk.start as usize, (chunk.end - chunk.start) as usize);
        }
    }

    /// Has KVM note which pages the guest writes from now on. From then on the guest has no large pages there.
    ///
    /// # Errors
    /// KVM's.
    pub fn note_writes(&self) -> Result<(), MemoryError> {
        self.slot.note_writes().map_err(|source| self.refused(source))
    }

    /// Pages that the guest has written since this was asked last, a bit for each. What the host writes in
    /// system calls is not among them.
    ///
    /// # Errors
    /// KVM's: it notes nothing.
    pub fn take_writes(&self) -> Result<Vec<u64>, MemoryError> {
        self.slot.take_writes().map_err(|source| self.refused(source))
    }

    fn refused(&self, source: kvm_ioctls::Error) -> MemoryError {
        MemoryError::Memslot { gpa: self.gpa(), len_bytes: self.bytes, source }
    }

    /// Makes the host prefer huge pages for what is accessed from now on.
    pub fn prefer_huge(&self) {
        if !self.dense.swap(true, Ordering::Relaxed) {
            self.slot.host().advise(Usage::Dense);
        }
    }
}

/// A part of a window that system calls may use: a share of the window's mapping.
///
/// The window may be removed from the guest meanwhile; writes then still go to the file: the last
/// user of the mapping unmaps it, so the addresses are never reused while in use.
#[derive(Debug)]
pub struct PinnedRange {
    host: Arc<HostMapping>,
    offset: usize,
    len: usize,
}

impl PinnedRange {
    /// The addresses, valid as long as the pin.
    #[must_use]
    pub fn range(&self) -> HostRange<'_> {
        self.host.range(self.offset, self.len)
    }

    /// Takes `next` in if it is the same mapping's memory right behind; gives it back otherwise.
    pub fn join(&mut self, next: PinnedRange) -> Option<PinnedRange> {
        let follows = Arc::ptr_eq(&self.host, &next.host) && self.offset + self.len == next.offset;
        if follows {
            self.len += next.len;
            return None;
        }
        Some(next)
    }

    /// `bytes` of it from `offset` on, truncated at its end.
    #[must_use]
    pub fn part(self, offset: u64, bytes: u64) -> PinnedRange {
        let skipped = (offset as usize).min(self.len);
        let len = (bytes.min((self.len - skipped) as u64)) as usize;
        PinnedRange { host: self.host.clone(), offset: self.offset + skipped, len }
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What a window maps.
#[derive(Clone, Copy, Debug)]
pub struct FilePiece<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// Start offset, a multiple of 4 KiB.
    pub offset: u64,
    /// Length in bytes; accesses beyond the file's end raise a bus error.
    pub bytes: u64,
    /// Whether the file was opened for writing.
    pub writable: bool,
    /// What it is mapped for.
    pub usage: Usage,
}

/// What the host is told of how memory will be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usage {
    /// All of it: the host is to prefer huge pages.
    Dense,
    /// Single pages here and there, where huge pages, and reading ahead, would be a waste of time and disk
    /// space.
    Sparse,
    /// Nothing: most of it is in the host's memory already.
    InMemory,
}

#[derive(Debug)]
struct Available {
    free: Extents,
    slots: Vec<u32>,
    next_slot: u32,
    mapped_bytes: u64,
}

/// All windows of a VM.
#[derive(Debug)]
pub struct Windows {
    vm: Arc<VmFd>,
    range: std::ops::Range<u64>,
    lowest_slot: u32,
    slots_end: u32,
    limit_bytes: u64,
    available: Mutex<Available>,
}

/// Maximum number of windows at the same time: memslots reserved for them.
const MAX_WINDOWS: u32 = 8192;

impl Windows {
    /// Windows in `range` of guest-physical space, at most `limit_bytes` at the same time, with the
    /// highest of `memslots` slot numbers.
    #[must_use]
    pub fn new(
        vm: Arc<VmFd>,
        range: std::ops::Range<u64>,
        memslots: u32,
        limit_bytes: u64,
    ) -> Windows {
        let start = range.start.next_multiple_of(PAGE_SIZE_1G);
        let end = range.end / PAGE_SIZE_1G * PAGE_SIZE_1G;
        let mut free = Extents::default();
        free.give_back(start, end.saturating_sub(start));
        let lowest_slot = memslots.saturating_sub(MAX_WINDOWS.min(memslots / 2));
        let available = Available { free, slots: Vec::new(), next_slot: memslots, mapped_bytes: 0 };
        let (range, slots_end, available) = (start..end, memslots, Mutex::new(available));
        Windows { vm, range, lowest_slot, slots_end, limit_bytes, available }
    }

    fn available(&self) -> MutexGuard<'_, Available> {
        self.available.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Current number of windows, each with its own memslot.
    #[must_use]
    pub fn count(&self) -> usize {
        let available = self.available();
        (self.slots_end - available.next_slot) as usize - available.slots.len()
    }

    /// Whether `gpa` lies in the range of windows.
    #[must_use]
    pub fn contains(&self, gpa: u64) -> bool {
        self.range.contains(&gpa)
    }

    /// Whether a file of this size can be expected to be used in full: it would fit into the
    /// windows, whose total is a multiple of the host's memory.
    #[must_use]
    pub fn is_dense(&self, bytes: u64) -> bool {
        bytes <= self.limit_bytes / 4
    }

    /// Bytes currently mapped.
    #[must_use]
    pub fn mapped_bytes(&self) -> u64 {
        self.available().mapped_bytes
    }

    /// Maps a piece of a file. Full gigabytes are aligned to a gigabyte, everything else to 2 MiB,
    /// both in guest-physical and in host addresses, so that page sizes can coincide.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`] when space, slots or the limit are used up: release windows and
    /// retry. Otherwise the host's or KVM's error.
    pub fn map(&self, piece: FilePiece<'_>) -> Result<Window, MemoryError> {
        let bytes = piece.bytes.max(1).next_multiple_of(PAGE_SIZE);
        let flags = if piece.writable { 0 } else { KVM_MEM_READONLY };
        self.map_host(bytes, flags, piece.usage, || HostMapping::of_file(&piece, bytes as usize))
    }

    /// Maps fresh anonymous memory, all zero.
    ///
    /// # Errors
    /// As [`Windows::map`].
    pub fn map_anonymous(&self, bytes: u64) -> Result<Window, MemoryError> {
        let bytes = bytes.max(1).next_multiple_of(PAGE_SIZE);
        self.map_host(bytes, 0, Usage::Sparse, || HostMapping::anonymous(bytes as usize))
    }

    fn map_host(
        &self,
        bytes: u64,
        flags: u32,
        usage: Usage,
        make: impl FnOnce() -> Result<HostMapping, std::io::Error>,
    ) -> Result<Window, MemoryError> {
        let place = self.take(bytes)?;
        let host = make().inspect(|host| host.advise(usage));
        let (place, slot) = self.fill(place, bytes, flags, host)?;
        let (dense, small) = (AtomicBool::new(usage == Usage::Dense), Mutex::default());
        Ok(Window { place, bytes, slot, dense, small })
    }

    /// Gives a mapping to KVM. On failure the place that was taken for it is free again.
    fn fill(
        &self,
        place: MemslotPlace,
        bytes: u64,
        flags: u32,
        host: std::io::Result<HostMapping>,
    ) -> Result<(MemslotPlace, Memslot), MemoryError> {
        let (gpa, len_bytes) = (GuestPhys::literal(place.gpa), bytes);
        let host = host.map_err(|source| MemoryError::Reserve { len_bytes, source });
        let made = host.and_then(|host| {
            Memslot::new(&self.vm, place.slot, place.gpa, flags, host)
                .map_err(|source| MemoryError::Memslot { gpa, len_bytes, source })
        });
        match made {
            Ok(slot) => Ok((place, slot)),
            Err(error) => {
                self.give_back(place, bytes);
                Err(error)
            }
        }
    }

    /// Removes windows. Guest page-table entries that point there must have been removed already.
    /// When it returns, no vCPU has any translation made before the call.
    pub fn unmap(&self, windows: Vec<Window>) {
        for Window { place, bytes, slot, .. } in windows {
            drop(slot);
            self.give_back(place, bytes);
        }
    }

    /// Makes every vCPU drop every translation and KVM every shadow table: afterwards, page tables
    /// that were unlinked before the call can be reused for anything.
    ///
    /// # Errors
    /// [`MemoryError`] when the host has no free page or KVM no free slot: nothing is dropped.
    pub fn forget_everything(&self) -> Result<(), MemoryError> {
        let place = self.take(PAGE_SIZE)?;
        let host = HostMapping::anonymous(PAGE_SIZE as usize);
        let (place, slot) = self.fill(place, PAGE_SIZE, 0, host)?;
        // Removing it drops all translations.
        drop(slot);
        self.give_back(place, PAGE_SIZE);
        Ok(())
    }

    fn take(&self, bytes: u64) -> Result<MemslotPlace, MemoryError> {
        let mut available = self.available();
        let exhausted = MemoryError::Exhausted { limit_bytes: self.limit_bytes };
        if available.mapped_bytes.saturating_add(bytes) > self.limit_bytes {
            return Err(exhausted);
        }
        let align = if bytes >= PAGE_SIZE_1G { PAGE_SIZE_1G } else { PAGE_SIZE_2M };
        let taken = bytes.next_multiple_of(PAGE_SIZE_2M);
        if available.slots.is_empty() && available.next_slot <= self.lowest_slot {
            return Err(exhausted);
        }
        let Some(at) = available.free.take(taken, align) else { return Err(exhausted) };
        let slot = match available.slots.pop() {
            Some(slot) => slot,
            None => {
                available.next_slot -= 1;
                available.next_slot
            }
        };
        available.mapped_bytes += bytes;
        Ok(MemslotPlace { gpa: at, slot })
    }

    fn give_back(&self, place: MemslotPlace, bytes: u64) {
        let mut available = self.available();
        available.free.give_back(place.gpa, bytes.next_multiple_of(PAGE_SIZE_2M));
        available.slots.push(place.slot);
        available.mapped_bytes -= bytes;
    }
}

#[derive(Debug)]
struct MemslotPlace {
    gpa: u64,
    slot: u32,
}
