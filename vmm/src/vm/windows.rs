//! Guest-physical windows: pieces of files mapped into guest-physical space, each behind a
//! memslot of its own, that come and go.
//!
//! Private memory (`memory.rs`) is handed out for ever. Segments can be larger than the
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

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use abi::{GuestPhys, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use super::memory::{HostRange, MemoryError, reserve_aligned};

/// A piece of a file in guest-physical space. Given back by [`Windows::unmap`].
#[derive(Debug)]
pub struct Window {
    gpa: GuestPhys,
    bytes: u64,
    host: HostRange,
    slot: u32,
    /// Whether the host was told to prefer huge pages.
    dense: bool,
}

// SAFETY: the pointer is an address given to system calls and atomics on it are the only
// accesses; it belongs to no thread.
unsafe impl Send for Window {}

impl Window {
    /// Where it begins.
    #[must_use]
    pub fn gpa(&self) -> GuestPhys {
        self.gpa
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The host memory behind `bytes` at `offset`, cut off at the window's end.
    #[must_use]
    pub fn host(&self, offset: u64, bytes: u64) -> HostRange {
        let offset = offset.min(self.bytes);
        let len = bytes.min(self.bytes - offset) as usize;
        HostRange { ptr: self.host.ptr.wrapping_add(offset as usize), len }
    }

    /// Has the host prefer huge pages for what is touched from now on.
    pub fn prefer_huge(&mut self) {
        if !self.dense {
            advise(self.host, true);
            self.dense = true;
        }
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
    /// Free ranges of guest-physical space: start to length.
    free: BTreeMap<u64, u64>,
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
        let free = (start < end).then(|| (start, end - start)).into_iter().collect();
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
        let host = match map_shared(&piece, bytes) {
            Ok(host) => host,
            Err(source) => {
                self.give_back(place, bytes);
                return Err(MemoryError::Reserve { len_bytes: bytes, source });
            }
        };
        let memslot = kvm_userspace_memory_region {
            slot: place.slot,
            flags: if piece.writable { 0 } else { KVM_MEM_READONLY },
            guest_phys_addr: place.gpa,
            memory_size: bytes,
            userspace_addr: host.ptr as u64,
        };
        // SAFETY: the range is a fresh mapping of ours, unmapped only after its slot.
        if let Err(source) = unsafe { self.vm.set_user_memory_region(memslot) } {
            unmap_host(host);
            self.give_back(place, bytes);
            let gpa = GuestPhys::literal(memslot.guest_phys_addr);
            return Err(MemoryError::Memslot { gpa, len_bytes: bytes, source });
        }
        Ok(Window {
            gpa: GuestPhys::literal(memslot.guest_phys_addr),
            bytes,
            host,
            slot: memslot.slot,
            dense: piece.dense,
        })
    }

    /// Takes windows away. Entries of guest page tables that lead there must be gone already.
    /// When it returns, no vCPU has any translation made before the call.
    pub fn unmap(&self, windows: Vec<Window>) {
        for window in windows {
            self.delete_slot(window.slot);
            unmap_host(window.host);
            let place = Place { gpa: window.gpa.raw(), slot: window.slot };
            self.give_back(place, window.bytes);
        }
    }

    /// Makes every vCPU forget every translation and KVM every shadow table: afterwards, page
    /// tables that were unlinked before the call can be used for anything.
    ///
    /// # Errors
    /// [`MemoryError`] when the host has no page or KVM no slot to give: nothing is forgotten.
    pub fn forget_everything(&self) -> Result<(), MemoryError> {
        let place = self.take(PAGE_SIZE)?;
        let host = match reserve_aligned(PAGE_SIZE as usize) {
            Ok(ptr) => HostRange { ptr: ptr.cast(), len: PAGE_SIZE as usize },
            Err(source) => {
                self.give_back(place, PAGE_SIZE);
                return Err(MemoryError::Reserve { len_bytes: PAGE_SIZE, source });
            }
        };
        let gpa = GuestPhys::literal(place.gpa);
        let memslot = kvm_userspace_memory_region {
            slot: place.slot,
            flags: 0,
            guest_phys_addr: place.gpa,
            memory_size: PAGE_SIZE,
            userspace_addr: host.ptr as u64,
        };
        // SAFETY: a fresh page of ours, unmapped only after its slot.
        let made = unsafe { self.vm.set_user_memory_region(memslot) };
        if made.is_ok() {
            self.delete_slot(place.slot);
        }
        unmap_host(host);
        self.give_back(place, PAGE_SIZE);
        made.map_err(|source| MemoryError::Memslot { gpa, len_bytes: PAGE_SIZE, source })
    }

    fn delete_slot(&self, slot: u32) {
        let memslot = kvm_userspace_memory_region { slot, ..Default::default() };
        // SAFETY: a slot of size 0 is taken away, which reaches no memory. KVM refuses only
        // slots that do not exist, and this one does.
        let _ = unsafe { self.vm.set_user_memory_region(memslot) };
    }

    fn take(&self, bytes: u64) -> Result<Place, MemoryError> {
        let mut room = self.room();
        let exhausted = MemoryError::Exhausted { limit_bytes: self.limit_bytes };
        if room.mapped_bytes.saturating_add(bytes) > self.limit_bytes {
            return Err(exhausted);
        }
        let align = if bytes >= PAGE_SIZE_1G { PAGE_SIZE_1G } else { PAGE_SIZE_2M };
        let taken = bytes.next_multiple_of(PAGE_SIZE_2M);
        let fits = |(&start, &len): (&u64, &u64)| {
            let at = start.next_multiple_of(align);
            (at + taken <= start + len).then_some((start, len, at))
        };
        let Some((start, len, at)) = room.free.iter().find_map(fits) else {
            return Err(exhausted);
        };
        let slot = match room.slots.pop() {
            Some(slot) => slot,
            None if room.next_slot > self.lowest_slot => {
                room.next_slot -= 1;
                room.next_slot
            }
            None => return Err(exhausted),
        };
        room.free.remove(&start);
        for (from, to) in [(start, at), (at + taken, start + len)] {
            if from < to {
                room.free.insert(from, to - from);
            }
        }
        room.mapped_bytes += bytes;
        Ok(Place { gpa: at, slot })
    }

    fn give_back(&self, place: Place, bytes: u64) {
        let mut room = self.room();
        let mut start = place.gpa;
        let mut len = bytes.next_multiple_of(PAGE_SIZE_2M);
        if let Some(after) = room.free.remove(&(start + len)) {
            len += after;
        }
        if let Some((&before, &before_len)) = room.free.range(..start).next_back()
            && before + before_len == start
        {
            room.free.remove(&before);
            start = before;
            len += before_len;
        }
        room.free.insert(start, len);
        room.slots.push(place.slot);
        room.mapped_bytes -= bytes;
    }
}

struct Place {
    gpa: u64,
    slot: u32,
}

/// Maps the piece shared at an address aligned to 2 MiB.
fn map_shared(piece: &FilePiece<'_>, bytes: u64) -> Result<HostRange, std::io::Error> {
    let len = bytes as usize;
    let ptr = reserve_aligned(len)?;
    let prot = libc::PROT_READ | if piece.writable { libc::PROT_WRITE } else { 0 };
    let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: replaces the reservation just made, which is ours alone.
    let at = unsafe {
        libc::mmap(ptr, len, prot, flags, piece.file.as_raw_fd(), piece.offset as libc::off_t)
    };
    let host = HostRange { ptr: ptr.cast(), len };
    if at == libc::MAP_FAILED {
        let error = std::io::Error::last_os_error();
        unmap_host(host);
        return Err(error);
    }
    advise(host, piece.dense);
    Ok(host)
}

/// Tells the host how the mapping will be used.
fn advise(host: HostRange, dense: bool) {
    let advice =
        if dense { [libc::MADV_NORMAL, libc::MADV_HUGEPAGE] } else { [libc::MADV_RANDOM; 2] };
    for advice in advice {
        // SAFETY: advice on a mapping of ours, which changes no content; hosts without huge
        // pages for files refuse it.
        unsafe { libc::madvise(host.ptr.cast(), host.len, advice) };
    }
}

fn unmap_host(host: HostRange) {
    // SAFETY: a mapping made here, whose memslot is gone; no Rust reference points there.
    unsafe { libc::munmap(host.ptr.cast(), host.len) };
}
