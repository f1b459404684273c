//! Guest-physical memory: regions of host memory behind KVM memslots.
//!
//! ```text
//! guest-physical   0 ....... region 0 .......|..... region 1 .....| hole |. region 2 .
//! host             one anonymous mapping per region, 2 MiB-aligned, reserved but not resident
//! ```
//!
//! Memory is allocated in 2 MiB blocks. A block in use stays bound to its piece of guest-virtual
//! space, and only its *content* is dropped (`discard`): a frame that does not move cannot be
//! reached through a stale translation (docs/src/internals/memory.md). The program's blocks are
//! freed once every translation is forgotten (`give_back`); the VMM's never are. Regions are
//! permanent and added as needed, because on hosts that shadow page tables KVM allocates 2 MiB of
//! bookkeeping for each GiB of memslot.
//!
//! There are two kinds of regions ([`Owner`]). The program can map files over its own, and our
//! accesses to such a page can fail with a signal. What the VMM itself loads and stores, above all
//! page tables, lies in its own regions, and [`GuestMem::load`], [`GuestMem::store`],
//! [`GuestMem::read`] and [`GuestMem::write`] access no others: tables that a guest has tampered
//! with lead to an error.
//!
//! Nothing here returns a Rust reference to guest memory: it is copied, or passed to the host
//! kernel as a raw range.

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
    GuestMemoryRegion, GuestRegionMmap,
};

use super::extents::Extents;
use super::host_maps::HostMaps;
use super::host_pages::{self, host_protect, reserve_aligned};
pub use super::host_range::{HostRange, NotThere};
use super::images::ImageRanges;
use super::ledger::{MemoryLedger, OverLimit};
pub use super::withheld::Withheld;

/// What can go wrong with guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused to reserve address space.
    #[error("cannot reserve {len_bytes} bytes of host address space for guest memory")]
    Reserve {
        /// Size of the reservation.
        len_bytes: u64,
        /// The host's error.
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
        /// KVM's error.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// No guest-physical addresses are left.
    #[error("guest-physical address space is used up ({limit_bytes} bytes)")]
    Exhausted {
        /// End of the address space.
        limit_bytes: u64,
    },
    /// The run's own limit.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
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
        /// What was attempted.
        action: &'static str,
        /// Start of the range.
        gpa: GuestPhys,
        /// Its size.
        len_bytes: u64,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
}

impl MemoryError {
    /// What the host's error becomes when it refuses to do `action`.
    pub(super) fn host(
        action: &'static str,
        gpa: GuestPhys,
        len_bytes: u64,
    ) -> impl Fn(std::io::Error) -> MemoryError {
        move |source| MemoryError::Host { action, gpa, len_bytes, source }
    }
}

const FIRST_REGION_BYTES: u64 = 32 << 20;
const LARGEST_REGION_BYTES: u64 = 1 << 30;

struct Growth {
    own: Free,
    programs: Free,
    /// The program's blocks that it no longer uses. Regions are not adjacent, so no range spans
    /// two.
    given_back: Extents,
    /// End of the newest region.
    end: u64,
    slots: u32,
}

/// The free part of the newest region of a kind.
struct Free {
    /// Next guest-physical address to allocate.
    next: u64,
    /// End of the region.
    end: u64,
    /// Minimum size of the next region.
    region_bytes: u64,
}

impl Free {
    const NOTHING: Free = Free { next: 0, end: 0, region_bytes: FIRST_REGION_BYTES };
}

/// Owner of a piece of guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The VMM's: tables, the kernel. The program's files are never mapped over it.
    Vmm,
    /// The program's: private memory, and files it maps.
    Program,
}

/// The memory of one VM.
pub struct GuestMem {
    vm: Arc<VmFd>,
    regions: GuestMemoryAtomic<GuestMemoryMmap>,
    ledger: Arc<MemoryLedger>,
    pub(super) maps: HostMaps,
    pub(super) images: ImageRanges,
    /// Those of `regions` that belong to the VMM.
    own: GuestMemoryAtomic<GuestMemoryMmap>,
    growth: Mutex<Growth>,
    /// See [`Withheld`].
    withheld: AtomicU64,
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
    /// When the first region cannot be created.
    pub fn new(vm: Arc<VmFd>, phys_bits: u8) -> Result<GuestMem, MemoryError> {
        let mem = GuestMem {
            vm,
            regions: GuestMemoryAtomic::new(GuestMemoryMmap::new()),
            ledger: Arc::default(),
            maps: HostMaps::of_this_host(),
            images: ImageRanges::default(),
            own: GuestMemoryAtomic::new(GuestMemoryMmap::new()),
            growth: Mutex::new(Growth {
                own: Free::NOTHING,
                programs: Free::NOTHING,
                given_back: Extents::default(),
                end: 0,
                slots: 0,
            }),
            withheld: AtomicU64::new(0),
            // The rest is for windows (windows.rs).
            end: address_end(phys_bits) / 4,
            handed_out: AtomicU64::new(0),
            kvm_nanos: AtomicU64::new(0),
        };
        Ok(mem)
    }

    /// The host memory held for this VM's program.
    #[must_use]
    pub fn ledger(&self) -> &Arc<MemoryLedger> {
        &self.ledger
    }

    /// Allocates `bytes` for the VMM, rounded up to 2 MiB blocks, contiguous in guest-physical
    /// space and in this process. The memory reads as zero and is not resident yet.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`], or the host refuses another region.
    pub fn alloc(&self, bytes: u64) -> Result<GuestPhys, MemoryError> {
        self.alloc_for(Owner::Vmm, bytes)
    }

    /// The same for either owner.
    ///
    /// # Errors
    /// As [`GuestMem::alloc`].
    pub fn alloc_for(&self, owner: Owner, bytes: u64) -> Result<GuestPhys, MemoryError> {
        let exhausted = MemoryError::Exhausted { limit_bytes: self.end };
        let len = match bytes.checked_next_multiple_of(PAGE_SIZE_2M) {
            Some(len) if len <= self.end => len,
            _ => return Err(exhausted),
        };
        let mut growth = self.growth.lock().unwrap_or_else(|poison| poison.into_inner());
        let growth = &mut *growth;
        if owner == Owner::Program
            && let Some(gpa) = growth.given_back.take(len, PAGE_SIZE_2M)
        {
            self.handed_out.fetch_add(len, Ordering::Relaxed);
            return Ok(GuestPhys::literal(gpa));
        }
        let free = match owner {
            Owner::Vmm => &mut growth.own,
            Owner::Program => &mut growth.programs,
        };
        if free.next + len > free.end {
            let region_len = free.region_bytes.max(len.next_multiple_of(FIRST_REGION_BYTES));
            // Never adjacent to the previous region: what is contiguous in guest-physical space
            // must be so in this process, too, since ranges of it are passed to the host kernel
            // undivided.
            let gap = if growth.end == 0 { 0 } else { PAGE_SIZE_2M };
            let mut start = growth.end + gap;
            if start < PHYS_HOLE.end && start + region_len > PHYS_HOLE.start {
                start = PHYS_HOLE.end;
            }
            if start + region_len > self.end {
                return Err(exhausted);
            }
            self.add_region(owner, GuestPhys::literal(start), region_len, growth.slots)?;
            growth.slots += 1;
            growth.end = start + region_len;
            let region_bytes = (free.region_bytes * 2).min(LARGEST_REGION_BYTES);
            *free = Free { next: start, end: growth.end, region_bytes };
        }
        let gpa = GuestPhys::literal(free.next);
        free.next += len;
        self.handed_out.fetch_add(len, Ordering::Relaxed);
        Ok(gpa)
    }

    /// Frees blocks of the program, which read as zero and which no vCPU and no host call can
    /// access.
    pub fn give_back(&self, gpa: GuestPhys, len: u64) {
        let mut growth = self.growth.lock().unwrap_or_else(|poison| poison.into_inner());
        growth.given_back.give_back(gpa.raw(), len);
        self.handed_out.fetch_sub(len, Ordering::Relaxed);
    }

    /// Runs a KVM set-up call, adding its duration to [`GuestMem::kvm_time`].
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

    fn add_region(
        &self,
        owner: Owner,
        gpa: GuestPhys,
        len: u64,
        slot: u32,
    ) -> Result<(), MemoryError> {
        let reserve = |source| MemoryError::Reserve { len_bytes: len, source };
        let ptr = reserve_aligned(len as usize).map_err(reserve)?;
        // SAFETY: `ptr` is a fresh mapping of `len` bytes that stays until `Drop` unmaps it, after
        // the regions are gone.
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
        let region = Arc::new(region);
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
        if owner == Owner::Vmm {
            insert(&self.own, region.clone()).ok_or(full)?;
        }
        let full = MemoryError::Exhausted { limit_bytes: self.end };
        insert(&self.regions, region).ok_or(full)?;
        self.forbid_huge(gpa, len)
    }

    /// The current regions as rust-vmm's memory type, for loaders.
    #[must_use]
    pub fn backend(&self) -> Arc<GuestMemoryMmap> {
        self.regions.memory().into_inner()
    }

    /// Bytes of guest-physical space allocated and not freed.
    #[must_use]
    pub fn handed_out_bytes(&self) -> u64 {
        self.handed_out.load(Ordering::Relaxed)
    }

    pub(super) fn not_memory(gpa: GuestPhys, len: usize) -> MemoryError {
        MemoryError::NotMemory { gpa, len_bytes: len as u64 }
    }

    /// Copies from the VMM's memory.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`], also for the program's memory.
    pub fn read(&self, gpa: GuestPhys, buf: &mut [u8]) -> Result<(), MemoryError> {
        let len = buf.len();
        self.own
            .memory()
            .read_slice(buf, GuestAddress(gpa.raw()))
            .map_err(|_| Self::not_memory(gpa, len))
    }

    /// Copies into the VMM's memory.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`], also for the program's memory.
    pub fn write(&self, gpa: GuestPhys, buf: &[u8]) -> Result<(), MemoryError> {
        self.own
            .memory()
            .write_slice(buf, GuestAddress(gpa.raw()))
            .map_err(|_| Self::not_memory(gpa, buf.len()))
    }

    /// One aligned 64-bit load from the VMM's memory.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`], also for the program's memory.
    pub fn load(&self, gpa: GuestPhys) -> Result<u64, MemoryError> {
        // Relaxed would do for the walker; Acquire also orders seqlock-like readers.
        self.own
            .memory()
            .load(GuestAddress(gpa.raw()), Ordering::Acquire)
            .map_err(|_| Self::not_memory(gpa, 8))
    }

    /// One aligned 64-bit store to the VMM's memory, atomic for a page-walking vCPU.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`], also for the program's memory.
    pub fn store(&self, gpa: GuestPhys, value: u64) -> Result<(), MemoryError> {
        // Release: a table that this entry makes reachable is complete before it.
        self.own
            .memory()
            .store(value, GuestAddress(gpa.raw()), Ordering::Release)
            .map_err(|_| Self::not_memory(gpa, 8))
    }

    /// The host memory behind `len` bytes at `gpa`, which must lie in one region.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`].
    pub fn host_range(&self, gpa: GuestPhys, len: usize) -> Result<HostRange<'_>, MemoryError> {
        let regions = self.regions.memory();
        let slice = regions
            .get_slice(GuestAddress(gpa.raw()), len)
            .map_err(|_| Self::not_memory(gpa, len))?;
        // SAFETY: a region is mapped from `add_region` to the `Drop` of `self`, which the result
        // borrows; what is mapped over it in between replaces pages and leaves no hole.
        Ok(unsafe { HostRange::new(slice.ptr_guard_mut().as_ptr(), len) })
    }

    /// Keeps all of it, as it is now, from processes that are forked from this one.
    ///
    /// # Errors
    /// [`MemoryError::Host`].
    pub fn keep_from_forks(&self) -> Result<(), MemoryError> {
        for region in self.regions.memory().iter() {
            let (gpa, len) = (GuestPhys::literal(region.start_addr().0), region.len());
            self.advise("keep from other processes", gpa, len, libc::MADV_DONTFORK)?;
        }
        Ok(())
    }

    pub(super) fn advise(
        &self,
        action: &'static str,
        gpa: GuestPhys,
        len: u64,
        advice: libc::c_int,
    ) -> Result<(), MemoryError> {
        let range = self.host_range(gpa, len as usize)?;
        // SAFETY: the range belongs to a memory region; every advice used here keeps it mapped and
        // readable, and the content is the guest's.
        let done = unsafe { libc::madvise(range.as_ptr().cast(), range.len(), advice) };
        if done == 0 {
            return Ok(());
        }
        Err(MemoryError::host(action, gpa, len)(std::io::Error::last_os_error()))
    }

    /// Drops the content of a range without a file: it reads as zero afterwards, no vCPU can access the
    /// old pages, and the memory is returned to the host. KVM is notified through its MMU notifier,
    /// so every translation of the range is gone when this returns.
    ///
    /// # Errors
    /// [`MemoryError::Host`].
    pub fn discard(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        self.drop_images(gpa, len)?;
        let discard = || self.advise("discard", gpa, len, libc::MADV_DONTNEED);
        match discard() {
            // Locked pages are not dropped.
            Err(MemoryError::Host { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) =>
            {
                self.unlock(gpa, len)?;
                discard()
            }
            done => done,
        }
    }

    /// Makes every vCPU forget its translations of the range, whose content stays.
    ///
    /// Changing the host protection invokes KVM's MMU notifier for the range: it drops the
    /// second-level (or shadow) entries and flushes the vCPUs' TLBs before this returns. The right
    /// that is briefly removed and restored is one that none of our accesses needs, and no mapping
    /// is writable and executable even briefly (docs/src/internals/memory.md lists what was tried).
    ///
    /// # Errors
    /// [`MemoryError::Host`].
    pub fn forget_translations(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        let range = self.host_range(gpa, len as usize)?;
        let failed = MemoryError::host("flush translations of", gpa, len);
        let (r, w, x) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        // Memory that can be written can be read on x86, whatever the host has recorded. A file
        // opened read-only refuses the write right, one from a noexec mount the execute right: each
        // pair ends with the rights the mapping had.
        for (less, rights) in [(w, r | w), (r | x, r), (libc::PROT_NONE, r)] {
            if host_protect(range, rights).is_err() {
                continue;
            }
            let (changed, restored) =
                self.withholding(|| (host_protect(range, less), host_protect(range, rights)));
            if changed.is_err() && restored.is_ok() {
                continue;
            }
            return restored.map_err(failed);
        }
        Err(failed(std::io::Error::last_os_error()))
    }

    /// Runs `f`, which reduces the rights of some mapping and restores them.
    pub(super) fn withholding<R>(&self, f: impl FnOnce() -> R) -> R {
        self.withheld.fetch_add(Withheld::BEGUN, Ordering::SeqCst);
        let result = f();
        self.withheld.fetch_add(Withheld::ENDED, Ordering::SeqCst);
        result
    }

    /// The periods so far in which some mapping had reduced rights. An access that failed may have
    /// coincided with one, and must then be retried.
    #[must_use]
    pub fn withheld(&self) -> Withheld {
        Withheld(self.withheld.load(Ordering::SeqCst))
    }

    /// Maps `file`, starting at `offset`, over the range: shared, so that writes reach the file, or
    /// private. `writable` is the host's right for a shared mapping.
    ///
    /// # Errors
    /// [`MemoryError::Host`], with the range unchanged or, on hosts that removed its pages before
    /// they refused, empty.
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
        let action = "map a file over";
        if !self.maps.has_room() {
            let source = std::io::Error::from_raw_os_error(libc::ENOMEM);
            return Err(MemoryError::host(action, gpa, len)(source));
        }
        self.remap(action, gpa, len, prot, flags, file.as_raw_fd(), offset)
    }

    /// Maps fresh zeroed memory where a file was mapped.
    ///
    /// # Errors
    /// [`MemoryError::Host`].
    pub fn unmap_file(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        self.remap("unmap the file over", gpa, len, prot, flags, -1, 0)?;
        // With the same advice as the region around it, so that the host can merge the mappings
        // again.
        self.forbid_huge(gpa, len)
    }

    #[expect(clippy::too_many_arguments, reason = "mirrors mmap(2)")]
    pub(super) fn remap(
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
        host_pages::lay(range, prot, flags, fd, offset)
            .map_err(MemoryError::host(action, gpa, len))?;
        self.images.remove(gpa.raw()..gpa.raw() + len);
        Ok(())
    }
}

/// How a file is mapped into guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileMapping {
    /// Writes stay in the VM.
    Private,
    /// Writes reach the file.
    Shared,
    /// The file was opened read-only.
    SharedReadOnly,
}

impl Drop for GuestMem {
    fn drop(&mut self) {
        use vm_memory::MemoryRegionAddress;
        for region in self.regions.memory().iter() {
            if let Ok(ptr) = region.get_host_address(MemoryRegionAddress(0)) {
                // SAFETY: made by `reserve_aligned`; the VM's vCPUs, the only other users, hold an
                // `Arc` of the owner of this and so are gone.
                unsafe { libc::munmap(ptr.cast(), region.len() as usize) };
            }
        }
    }
}

fn insert(
    regions: &GuestMemoryAtomic<GuestMemoryMmap>,
    region: Arc<GuestRegionMmap>,
) -> Option<()> {
    let grown = regions.memory().insert_region(region).ok()?;
    match regions.lock() {
        Ok(guard) => guard.replace(grown),
        Err(poison) => poison.into_inner().replace(grown),
    }
    Some(())
}

/// End of the guest-physical space that we use: one bit less than the processor supports, since
/// hosts reserve addresses at the top (AMD's encryption bit, KVM's own uses).
pub(super) fn address_end(phys_bits: u8) -> u64 {
    1 << u32::from(phys_bits.clamp(36, 52) - 1)
}
