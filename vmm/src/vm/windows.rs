//! Guest-physical windows: pieces of files mapped into guest-physical space, each behind a
//! memslot of its own, that come and go.
//!
//! Private memory (`memory.rs`) lies in banks that stay. Segments can be larger than the
//! guest-physical space and than this process's own, so their pieces are mapped when they are
//! touched and taken away again under pressure.
//!
//! ```text
//!  guest-physical  0 .. private banks .. | start .. windows .. end
//!  memslots        0, 1, 2, ...          | last, last - 1, ...
//! ```
//!
//! Taking a memslot away makes KVM drop *every* translation of the VM, second-level or
//! shadow, and flush every vCPU, before the call returns (`kvm_arch_flush_shadow_memslot`).
//! [`Windows::forget_everything`] uses that on purpose: it is the one operation after which,
//! on every kind of host, no frame that was a page table can be remembered as one
//! (docs/src/internals/vas.md).

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use abi::{GuestPhys, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
use kvm_bindings::KVM_MEM_READONLY;
use kvm_ioctls::VmFd;

use super::extents::Extents;
use super::host_mapping::{HostMapping, Memslot};
use super::host_range::HostRange;
use super::memory::MemoryError;

/// A piece of a file in guest-physical space. Given back by [`Windows::unmap`].
#[derive(Debug)]
pub struct Window {
    place: Place,
    bytes: u64,
    slot: Memslot,
    /// Whether the host was told to prefer huge pages.
    dense: bool,
}

impl Window {
    /// Where it begins.
    #[must_use]
    pub fn gpa(&self) -> GuestPhys {
        GuestPhys::literal(self.place.gpa)
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The host memory behind `bytes` at `offset`, cut off at the window's end, to be given to
    /// system calls: it stays mapped as long as the result, whatever becomes of the window.
    #[must_use]
    pub fn pin(&self, offset: u64, bytes: u64) -> PinnedRange {
        let offset = offset.min(self.bytes);
        let len = bytes.min(self.bytes - offset) as usize;
        PinnedRange { host: self.slot.host().clone(), offset: offset as usize, len }
    }

    /// Whether some of it is pinned. A pin may go at any time; none comes while the caller keeps
    /// others from the window.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        Arc::strong_count(self.slot.host()) > 1
    }

    /// Has the host prefer huge pages for what is touched from now on.
    pub fn prefer_huge(&mut self) {
        if !self.dense {
            self.slot.host().advise(true);
            self.dense = true;
        }
    }
}

/// A part of a window that system calls may use: a share of the window's mapping.
///
/// The window may be taken from the guest meanwhile, and what is written then goes to the file:
/// the mapping is unmapped by whoever lets go of it last, so that the addresses never come to
/// mean anything else.
#[derive(Debug)]
pub struct PinnedRange {
    host: Arc<HostMapping>,
    offset: usize,
    len: usize,
}

impl PinnedRange {
    /// The addresses, for as long as the pin.
    #[must_use]
    pub fn range(&self) -> HostRange<'_> {
        self.host.range(self.offset, self.len)
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What a window shows.
#[derive(Clone, Copy, Debug)]
pub struct FilePiece<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// From here on, a multiple of 4 KiB.
    pub offset: u64,
    /// So many bytes; those beyond the file's end give a bus error when touched.
    pub bytes: u64,
    /// Whether the file was opened for writing.
    pub writable: bool,
    /// Whether the host is to prefer huge pages: good for what will be used densely, and a
    /// waste of time and disk where single pages are touched here and there.
    pub dense: bool,
}

#[derive(Debug)]
struct Room {
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
    room: Mutex<Room>,
}

/// Windows at one time: memslots set aside for them.
const MAX_WINDOWS: u32 = 8192;

impl Windows {
    /// Windows in `range` of guest-physical space, at most `limit_bytes` at one time, with the
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
        let room = Room { free, slots: Vec::new(), next_slot: memslots, mapped_bytes: 0 };
        let (range, slots_end, room) = (start..end, memslots, Mutex::new(room));
        Windows { vm, range, lowest_slot, slots_end, limit_bytes, room }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Windows there are now, each with a memslot of its own.
    #[must_use]
    pub fn count(&self) -> usize {
        let room = self.room();
        (self.slots_end - room.next_slot) as usize - room.slots.len()
    }

    /// Whether `gpa` lies where windows are.
    #[must_use]
    pub fn contains(&self, gpa: u64) -> bool {
        self.range.contains(&gpa)
    }

    /// Whether a file of so many bytes can be expected to be used as a whole: it would fit
    /// into the windows, which are as large as the host's memory some times over.
    #[must_use]
    pub fn is_dense(&self, bytes: u64) -> bool {
        bytes <= self.limit_bytes / 4
    }

    /// Bytes mapped now.
    #[must_use]
    pub fn mapped_bytes(&self) -> u64 {
        self.room().mapped_bytes
    }

    /// Maps a piece of a file. Full gigabytes are aligned to a gigabyte, all else to 2 MiB, in
    /// guest-physical and host address alike, so that page sizes can coincide.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`] when space, slots or the limit are used up: give windows
    /// back and try again. Otherwise what the host or KVM said.
    pub fn map(&self, piece: FilePiece<'_>) -> Result<Window, MemoryError> {
        let bytes = piece.bytes.max(1).next_multiple_of(PAGE_SIZE);
        let place = self.take(bytes)?;
        let host = match HostMapping::of_file(&piece, bytes as usize) {
            Ok(host) => host,
            Err(source) => {
                self.give_back(place, bytes);
                return Err(MemoryError::Reserve { len_bytes: bytes, source });
            }
        };
        host.advise(piece.dense);
        let flags = if piece.writable { 0 } else { KVM_MEM_READONLY };
        match Memslot::new(&self.vm, place.slot, place.gpa, flags, host) {
            Ok(slot) => Ok(Window { place, bytes, slot, dense: piece.dense }),
            Err(source) => {
                let gpa = GuestPhys::literal(place.gpa);
                self.give_back(place, bytes);
                Err(MemoryError::Memslot { gpa, len_bytes: bytes, source })
            }
        }
    }

    /// Takes windows away. Entries of guest page tables that lead there must be gone already.
    /// When it returns, no vCPU has any translation made before the call.
    pub fn unmap(&self, windows: Vec<Window>) {
        for Window { place, bytes, slot, .. } in windows {
            drop(slot);
            self.give_back(place, bytes);
        }
    }

    /// Makes every vCPU forget every translation and KVM every shadow table: afterwards, page
    /// tables that were unlinked before the call can be used for anything.
    ///
    /// # Errors
    /// [`MemoryError`] when the host has no page or KVM no slot to give: nothing is forgotten.
    pub fn forget_everything(&self) -> Result<(), MemoryError> {
        let place = self.take(PAGE_SIZE)?;
        let (gpa, number) = (place.gpa, place.slot);
        let host = HostMapping::anonymous(PAGE_SIZE as usize)
            .map_err(|source| MemoryError::Reserve { len_bytes: PAGE_SIZE, source });
        let made = host.and_then(|host| {
            Memslot::new(&self.vm, number, gpa, 0, host).map_err(|source| {
                let gpa = GuestPhys::literal(gpa);
                MemoryError::Memslot { gpa, len_bytes: PAGE_SIZE, source }
            })
        });
        // Taking it away is what makes everything forgotten.
        let made = made.map(drop);
        self.give_back(place, PAGE_SIZE);
        made
    }

    fn take(&self, bytes: u64) -> Result<Place, MemoryError> {
        let mut room = self.room();
        let exhausted = MemoryError::Exhausted { limit_bytes: self.limit_bytes };
        if room.mapped_bytes.saturating_add(bytes) > self.limit_bytes {
            return Err(exhausted);
        }
        let align = if bytes >= PAGE_SIZE_1G { PAGE_SIZE_1G } else { PAGE_SIZE_2M };
        let taken = bytes.next_multiple_of(PAGE_SIZE_2M);
        if room.slots.is_empty() && room.next_slot <= self.lowest_slot {
            return Err(exhausted);
        }
        let Some(at) = room.free.take(taken, align) else { return Err(exhausted) };
        let slot = match room.slots.pop() {
            Some(slot) => slot,
            None => {
                room.next_slot -= 1;
                room.next_slot
            }
        };
        room.mapped_bytes += bytes;
        Ok(Place { gpa: at, slot })
    }

    fn give_back(&self, place: Place, bytes: u64) {
        let mut room = self.room();
        room.free.give_back(place.gpa, bytes.next_multiple_of(PAGE_SIZE_2M));
        room.slots.push(place.slot);
        room.mapped_bytes -= bytes;
    }
}

#[derive(Debug)]
struct Place {
    gpa: u64,
    slot: u32,
}
