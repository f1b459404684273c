//! Guest-physical memory: banks of host memory behind KVM memslots.
//!
//! ```text
//! guest-physical   0 ........ bank 0 ........|...... bank 1 ......| hole |.. bank 2 ..
//! host             one anonymous mapping a bank, 2 MiB-aligned, reserved but not resident
//! ```
//!
//! Memory is handed out in 2 MiB chunks, in ascending order, and never taken back: a chunk
//! stays with the piece of guest-virtual space it was first given to, and only its *content*
//! is dropped (`discard`). Guest-physical space is plentiful, and a frame that never moves
//! cannot be reached through a stale translation (docs/src/internals/memory.md). Banks are
//! added as they are needed, because on hosts that shadow page tables KVM allocates 2 MiB of
//! bookkeeping for each GiB of memslot.
//!
//! Nothing here hands out a Rust reference to guest memory: it is copied, or given to the
//! host kernel as a raw range.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use abi::layout::PHYS_HOLE;
use abi::{GuestPhys, PAGE_SIZE_2M};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap,
    GuestRegionMmap,
};

pub use super::host_range::{HostRange, NotThere};

/// What can go wrong with guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host would not reserve address space.
    #[error("cannot reserve {len_bytes} bytes of host address space for guest memory")]
    Reserve {
        /// Size of the reservation.
        len_bytes: u64,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// KVM refused the memslot.
    #[error("cannot give guest-physical {gpa} (+{len_bytes} bytes) to KVM")]
    Memslot {
        /// Start of the slot.
        gpa: GuestPhys,
        /// Its size.
        len_bytes: u64,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// No guest-physical addresses are left.
    #[error("guest-physical address space is used up ({limit_bytes} bytes)")]
    Exhausted {
        /// End of the address space.
        limit_bytes: u64,
    },
    /// The range is not guest memory.
    #[error("guest-physical {gpa} (+{len_bytes} bytes) is not memory")]
    NotMemory {
        /// Start of the range.
        gpa: GuestPhys,
        /// Its size.
        len_bytes: u64,
    },
    /// A host memory call failed.
    #[error("cannot {action} guest-physical {gpa} (+{len_bytes} bytes)")]
    Host {
        /// What was tried.
        action: &'static str,
        /// Start of the range.
        gpa: GuestPhys,
        /// Its size.
        len_bytes: u64,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

const FIRST_BANK_BYTES: u64 = 32 << 20;
const LARGEST_BANK_BYTES: u64 = 1 << 30;

struct Growth {
    /// Next guest-physical address to hand out.
    next: u64,
    /// End of the newest bank.
    bank_end: u64,
    /// Size the next bank has at least.
    bank_bytes: u64,
    slots: u32,
}

/// The memory of one VM.
pub struct GuestMem {
    vm: Arc<VmFd>,
    banks: GuestMemoryAtomic<GuestMemoryMmap>,
    growth: Mutex<Growth>,
    end: u64,
    handed_out: AtomicU64,
    kvm_nanos: AtomicU64,
}

impl std::fmt::Debug for GuestMem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GuestMem({} bytes handed out)", self.handed_out.load(Ordering::Relaxed))
    }
}

impl GuestMem {
    /// Memory for `vm` whose processors have `phys_bits` of guest-physical address.
    ///
    /// # Errors
    /// When the first bank cannot be made.
    pub fn new(vm: Arc<VmFd>, phys_bits: u8) -> Result<GuestMem, MemoryError> {
        let mem = GuestMem {
            vm,
            banks: GuestMemoryAtomic::new(GuestMemoryMmap::new()),
            growth: Mutex::new(Growth {
                next: 0,
                bank_end: 0,
                bank_bytes: FIRST_BANK_BYTES,
                slots: 0,
            }),
            // The rest is for windows (windows.rs).
            end: address_end(phys_bits) / 4,
            handed_out: AtomicU64::new(0),
            kvm_nanos: AtomicU64::new(0),
        };
        Ok(mem)
    }

    /// Takes `bytes`, rounded up to 2 MiB chunks, contiguous in guest-physical space and in
    /// this process. The memory reads as zero and is not resident yet.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`], or the host refuses another bank.
    pub fn alloc(&self, bytes: u64) -> Result<GuestPhys, MemoryError> {
        let exhausted = MemoryError::Exhausted { limit_bytes: self.end };
        let len = match bytes.checked_next_multiple_of(PAGE_SIZE_2M) {
            Some(len) if len <= self.end => len,
            _ => return Err(exhausted),
        };
        let mut growth = self.growth.lock().unwrap_or_else(|poison| poison.into_inner());
        if growth.next + len > growth.bank_end {
            let bank_len = growth.bank_bytes.max(len.next_multiple_of(FIRST_BANK_BYTES));
            // Never next to the bank before: what is contiguous in guest-physical space must be
            // so in this process too, since ranges of it are handed to the host kernel whole.
            let gap = if growth.bank_end == 0 { 0 } else { PAGE_SIZE_2M };
            let mut start = growth.bank_end + gap;
            if start < PHYS_HOLE.end && start + bank_len > PHYS_HOLE.start {
                start = PHYS_HOLE.end;
            }
            if start + bank_len > self.end {
                return Err(exhausted);
            }
            self.add_bank(GuestPhys::literal(start), bank_len, growth.slots)?;
            growth.slots += 1;
            growth.next = start;
            growth.bank_end = start + bank_len;
            growth.bank_bytes = (growth.bank_bytes * 2).min(LARGEST_BANK_BYTES);
        }
        let gpa = GuestPhys::literal(growth.next);
        growth.next += len;
        self.handed_out.fetch_add(len, Ordering::Relaxed);
        Ok(gpa)
    }

    /// Runs a KVM set-up call on the clock of [`GuestMem::kvm_time`].
    pub(crate) fn on_kvm_clock<T>(&self, call: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = call();
        self.add_kvm_time(began.elapsed());
        result
    }

    pub(crate) fn add_kvm_time(&self, time: Duration) {
        self.kvm_nanos.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Time spent so far in KVM's set-up calls for this VM: memslots, vCPUs, registers.
    #[must_use]
    pub fn kvm_time(&self) -> Duration {
        Duration::from_nanos(self.kvm_nanos.load(Ordering::Relaxed))
    }

    fn add_bank(&self, gpa: GuestPhys, len: u64, slot: u32) -> Result<(), MemoryError> {
        let reserve = |source| MemoryError::Reserve { len_bytes: len, source };
        let ptr = reserve_aligned(len as usize).map_err(reserve)?;
        // SAFETY: `ptr` is a fresh mapping of `len` bytes that lives as long as the process
        // keeps it; `Drop` unmaps it after the regions are gone.
        let builder =
            unsafe { MmapRegionBuilder::new(len as usize).with_raw_mmap_pointer(ptr.cast()) };
        let region = builder
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            .build()
            .map_err(|e| reserve(std::io::Error::other(e)))?;
        let full = MemoryError::Exhausted { limit_bytes: self.end };
        let Some(region) = GuestRegionMmap::new(region, GuestAddress(gpa.raw())) else {
            return Err(full);
        };
        let memslot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: gpa.raw(),
            memory_size: len,
            userspace_addr: ptr as u64,
        };
        // SAFETY: the range is mapped, writable, used for nothing else, and unmapped only
        // after the VM's file descriptor is gone.
        unsafe { self.vm.set_user_memory_region(memslot) }
            .map_err(|source| MemoryError::Memslot { gpa, len_bytes: len, source })?;
        let grown = self.banks.memory().insert_region(Arc::new(region)).map_err(|_| full)?;
        match self.banks.lock() {
            Ok(guard) => guard.replace(grown),
            Err(poison) => poison.into_inner().replace(grown),
        }
        Ok(())
    }

    /// The current banks as rust-vmm's memory type, for loaders.
    #[must_use]
    pub fn backend(&self) -> Arc<GuestMemoryMmap> {
        self.banks.memory().into_inner()
    }

    /// Bytes of guest-physical space handed out so far.
    #[must_use]
    pub fn handed_out_bytes(&self) -> u64 {
        self.handed_out.load(Ordering::Relaxed)
    }

    fn not_memory(gpa: GuestPhys, len: usize) -> MemoryError {
        MemoryError::NotMemory { gpa, len_bytes: len as u64 }
    }

    /// Copies guest memory out.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`].
    pub fn read(&self, gpa: GuestPhys, buf: &mut [u8]) -> Result<(), MemoryError> {
        let len = buf.len();
        self.banks
            .memory()
            .read_slice(buf, GuestAddress(gpa.raw()))
            .map_err(|_| Self::not_memory(gpa, len))
    }

    /// Copies into guest memory.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`].
    pub fn write(&self, gpa: GuestPhys, buf: &[u8]) -> Result<(), MemoryError> {
        self.banks
            .memory()
            .write_slice(buf, GuestAddress(gpa.raw()))
            .map_err(|_| Self::not_memory(gpa, buf.len()))
    }

    /// One aligned 64-bit load.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`].
    pub fn load(&self, gpa: GuestPhys) -> Result<u64, MemoryError> {
        // Relaxed would do for the walker; Acquire also orders seqlock-like readers.
        self.banks
            .memory()
            .load(GuestAddress(gpa.raw()), Ordering::Acquire)
            .map_err(|_| Self::not_memory(gpa, 8))
    }

    /// One aligned 64-bit store, seen by a walking vCPU whole or not at all.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`].
    pub fn store(&self, gpa: GuestPhys, value: u64) -> Result<(), MemoryError> {
        // Release: a table that this entry makes reachable is complete before it.
        self.banks
            .memory()
            .store(value, GuestAddress(gpa.raw()), Ordering::Release)
            .map_err(|_| Self::not_memory(gpa, 8))
    }

    /// The host memory behind `len` bytes at `gpa`, which must lie in one bank.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`].
    pub fn host_range(&self, gpa: GuestPhys, len: usize) -> Result<HostRange, MemoryError> {
        self.banks
            .memory()
            .get_slice(GuestAddress(gpa.raw()), len)
            .map(|slice| HostRange { ptr: slice.ptr_guard_mut().as_ptr(), len })
            .map_err(|_| Self::not_memory(gpa, len))
    }

    fn advise(
        &self,
        action: &'static str,
        gpa: GuestPhys,
        len: u64,
        advice: libc::c_int,
    ) -> Result<(), MemoryError> {
        let range = self.host_range(gpa, len as usize)?;
        // SAFETY: the range belongs to a bank; every advice used here keeps it mapped and
        // readable, and the content is the guest's.
        let done = unsafe { libc::madvise(range.ptr.cast(), range.len, advice) };
        if done == 0 {
            return Ok(());
        }
        let source = std::io::Error::last_os_error();
        Err(MemoryError::Host { action, gpa, len_bytes: len, source })
    }

    /// Lets the host back the range with huge pages.
    ///
    /// # Errors
    /// [`MemoryError::Host`]; a host without huge pages is not an error.
    pub fn allow_huge(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        match self.advise("allow huge pages for", gpa, len, libc::MADV_HUGEPAGE) {
            Err(MemoryError::Host { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Asks the host to replace small pages already there by huge ones, now. A host that
    /// cannot does nothing.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`].
    pub fn collapse(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        let range = self.host_range(gpa, len as usize)?;
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_COLLAPSE] {
            // SAFETY: the range belongs to a bank; neither advice changes its content.
            unsafe { libc::madvise(range.ptr.cast(), range.len, advice) };
        }
        Ok(())
    }

    /// Drops the content of an anonymous range: it reads as zero afterwards, no vCPU can
    /// reach the old pages, and the host has its memory back. KVM is told through its MMU
    /// notifier, so that every translation of the range is gone when this returns.
    ///
    /// # Errors
    /// [`MemoryError::Host`].
    pub fn discard(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        self.advise("discard", gpa, len, libc::MADV_DONTNEED)
    }

    /// Makes every vCPU forget its translations of the range, whose content stays.
    ///
    /// A changed host protection sends KVM's MMU notifier through the range: it drops the
    /// second-level (or shadow) entries and flushes the vCPUs' TLBs before this returns.
    /// Adding and removing the execute right changes no access of ours, unlike the write
    /// right: another thread of the VMM may be copying right now.
    ///
    /// # Errors
    /// [`MemoryError::Host`].
    pub fn forget_translations(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        let range = self.host_range(gpa, len as usize)?;
        let (r, rw, x) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE, libc::PROT_EXEC);
        // A file from a noexec mount refuses the execute right, one opened read-only the
        // write right: each pair ends with the rights the mapping had.
        for pair in [[rw | x, rw], [r, rw], [r | x, r], [libc::PROT_NONE, r]] {
            let [first, last] = pair;
            if host_protect(range, last).is_err() || host_protect(range, first).is_err() {
                continue;
            }
            return host_protect(range, last).map_err(|source| MemoryError::Host {
                action: "flush translations of",
                gpa,
                len_bytes: len,
                source,
            });
        }
        let source = std::io::Error::last_os_error();
        Err(MemoryError::Host { action: "flush translations of", gpa, len_bytes: len, source })
    }

    /// Moves the pages of an anonymous range elsewhere, leaving zeroes behind. No vCPU keeps a
    /// translation of either range.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`]; what the host cannot move is copied.
    pub fn move_pages(&self, from: GuestPhys, to: GuestPhys, len: u64) -> Result<(), MemoryError> {
        let mut piece = len;
        let mut done = 0;
        while done < len {
            piece = piece.min(len - done);
            let source = self.host_range(from.offset(done), piece as usize)?;
            let dest = self.host_range(to.offset(done), piece as usize)?;
            match host_move(source, dest) {
                Ok(()) => done += piece,
                // The range spans host mappings that differ in their advice: take less.
                Err(_) if piece > PAGE_SIZE_2M => {
                    piece = (piece / 2).next_multiple_of(PAGE_SIZE_2M);
                }
                Err(_) => {
                    let mut bytes = vec![0; piece as usize];
                    self.read(from.offset(done), &mut bytes)?;
                    self.write(to.offset(done), &bytes)?;
                    self.discard(from.offset(done), piece)?;
                    done += piece;
                }
            }
        }
        Ok(())
    }

    /// Lays `file` from `offset` over the range: shared, so that writes reach the file, or
    /// private. `writable` is the host's right for a shared mapping.
    ///
    /// # Errors
    /// [`MemoryError::Host`], with the range unchanged.
    pub fn map_file(
        &self,
        gpa: GuestPhys,
        len: u64,
        file: BorrowedFd<'_>,
        offset: u64,
        kind: FileMapping,
    ) -> Result<(), MemoryError> {
        let (prot, flags) = match kind {
            FileMapping::Private => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
            FileMapping::Shared => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
            FileMapping::SharedReadOnly => (libc::PROT_READ, libc::MAP_SHARED),
        };
        self.remap("map a file over", gpa, len, prot, flags, file.as_raw_fd(), offset)
    }

    /// Puts fresh zeroed memory where a file was laid.
    ///
    /// # Errors
    /// [`MemoryError::Host`].
    pub fn unmap_file(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        self.remap("unmap the file over", gpa, len, prot, flags, -1, 0)
    }

    #[expect(clippy::too_many_arguments, reason = "mirrors mmap(2)")]
    fn remap(
        &self,
        action: &'static str,
        gpa: GuestPhys,
        len: u64,
        prot: libc::c_int,
        flags: libc::c_int,
        fd: libc::c_int,
        offset: u64,
    ) -> Result<(), MemoryError> {
        let range = self.host_range(gpa, len as usize)?;
        // SAFETY: the range belongs to a bank, so replacing its pages replaces guest memory
        // and nothing else; no Rust reference points there.
        let at = unsafe {
            libc::mmap(
                range.ptr.cast(),
                range.len,
                prot,
                flags | libc::MAP_FIXED,
                fd,
                offset as libc::off_t,
            )
        };
        if at == libc::MAP_FAILED {
            let source = std::io::Error::last_os_error();
            return Err(MemoryError::Host { action, gpa, len_bytes: len, source });
        }
        Ok(())
    }
}

/// How a file lies in guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileMapping {
    /// Writes stay in the VM.
    Private,
    /// Writes reach the file.
    Shared,
    /// The file was opened without the right to write.
    SharedReadOnly,
}

impl Drop for GuestMem {
    fn drop(&mut self) {
        use vm_memory::{GuestMemoryRegion, MemoryRegionAddress};
        for region in self.banks.memory().iter() {
            if let Ok(ptr) = region.get_host_address(MemoryRegionAddress(0)) {
                // SAFETY: made by `reserve_aligned`; the VM's vCPUs, the only other users,
                // hold an `Arc` of what owns this and so are gone.
                unsafe { libc::munmap(ptr.cast(), region.len() as usize) };
            }
        }
    }
}

/// Moves pages in two steps. The first, to a place of the host's choice, may fail for a range
/// that is not one mapping, and changes nothing then. The second moves one whole mapping:
/// with the target fixed at once, hosts before Linux 6.17 would unmap the target first and
/// then fail, leaving a hole in a bank.
fn host_move(source: HostRange, dest: HostRange) -> Result<(), std::io::Error> {
    let keep = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    // SAFETY: the source belongs to a bank and stays mapped, reading as zero.
    let parked = unsafe { libc::mremap(source.ptr.cast(), source.len, source.len, keep) };
    if parked == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: the parked mapping is ours alone; the target belongs to a bank, whose old pages
    // are replaced. No Rust reference points to either.
    let moved = unsafe { libc::mremap(parked, source.len, dest.len, fixed, dest.ptr) };
    if moved != libc::MAP_FAILED {
        return Ok(());
    }
    // The target is as it was, or gone and to be mapped again; the content is still parked.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: as above: the target is part of a bank.
    let mapped = unsafe { libc::mmap(dest.ptr.cast(), dest.len, rw, flags, -1, 0) };
    if mapped != libc::MAP_FAILED {
        // SAFETY: both ranges are mapped, of the same length, and disjoint.
        unsafe { std::ptr::copy_nonoverlapping(parked.cast::<u8>(), dest.ptr, dest.len) };
    }
    // SAFETY: the parked mapping is ours alone.
    unsafe { libc::munmap(parked, source.len) };
    if mapped == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// End of the guest-physical space we use: one bit less than the processor has, since hosts
/// keep addresses for themselves at the top (AMD's encryption bit, KVM's own uses).
pub(super) fn address_end(phys_bits: u8) -> u64 {
    1 << u32::from(phys_bits.clamp(36, 52) - 1)
}

fn host_protect(range: HostRange, prot: libc::c_int) -> Result<(), std::io::Error> {
    // SAFETY: the range belongs to a bank. At worst another thread of ours meets a fault in
    // the one case without access, which only file-laid pages see, and those are accessed
    // through calls that report faults.
    if unsafe { libc::mprotect(range.ptr.cast(), range.len, prot) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Reserves `len` bytes aligned to 2 MiB, so that huge pages of host and guest coincide.
pub(super) fn reserve_aligned(len: usize) -> Result<*mut libc::c_void, std::io::Error> {
    let align = PAGE_SIZE_2M as usize;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping wherever the host likes.
    let raw = unsafe { libc::mmap(std::ptr::null_mut(), len + align, prot, flags, -1, 0) };
    if raw == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    let head = (raw as usize).next_multiple_of(align) - raw as usize;
    let start = raw.wrapping_byte_add(head);
    if head > 0 {
        // SAFETY: the part before the aligned start, just mapped, is ours alone.
        unsafe { libc::munmap(raw, head) };
    }
    // SAFETY: likewise the part behind the aligned end.
    unsafe { libc::munmap(start.wrapping_byte_add(len), align - head) };
    Ok(start)
}
