//! Mappings of this process that are unmapped when they are no longer used, and the memslots
//! through which a VM accesses them.
//!
//! Safety rests on the order of removal: the memslot is removed before the mapping, and the mapping
//! not before the last range of it that the host kernel uses. Ownership enforces both, not a rule
//! for callers: a slot owns a share of its mapping, a pin another one, and `munmap` is in the
//! `Drop` of what they share.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use super::host_pages::{ALIGNMENT, reserve_aligned};
use super::host_range::HostRange;
use super::windows::{FilePiece, Usage};

/// Memory of this process, aligned to 2 MiB.
#[derive(Debug)]
pub(super) struct HostMapping {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: the pointer is an address for system calls and for KVM; it belongs to no thread.
unsafe impl Send for HostMapping {}
// SAFETY: as for `Send`; a shared reference changes nothing but advice.
unsafe impl Sync for HostMapping {}

impl HostMapping {
    /// Anonymous memory.
    pub(super) fn anonymous(len: usize) -> Result<HostMapping, std::io::Error> {
        Ok(HostMapping { ptr: reserve_aligned(len)?.cast(), len })
    }

    /// `len` bytes of a file, shared.
    pub(super) fn of_file(
        piece: &FilePiece<'_>,
        len: usize,
    ) -> Result<HostMapping, std::io::Error> {
        let prot = libc::PROT_READ | if piece.writable { libc::PROT_WRITE } else { 0 };
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let (fd, offset) = (piece.file.as_raw_fd(), piece.offset as libc::off_t);
        let map = |over: Option<&HostMapping>| {
            let (at, fixed) =
                over.map_or((std::ptr::null_mut(), 0), |it| (it.ptr, libc::MAP_FIXED));
            // SAFETY: a new mapping at an address of the host's choice, or in the place of a reservation
            // just made, which is ours alone and as long.
            let at = unsafe { libc::mmap(at.cast(), len, prot, flags | fixed, fd, offset) };
            if at == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(at) }
        };
        // Many file systems align it by themselves.
        let host = HostMapping { ptr: map(None)?.cast(), len };
        if host.ptr.addr().is_multiple_of(ALIGNMENT) {
            return Ok(host);
        }
        drop(host);
        let host = HostMapping::anonymous(len)?;
        map(Some(&host)).map(|_| host)
    }

    /// Size in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Address of its first byte, as in a memslot.
    fn address(&self) -> u64 {
        self.ptr as u64
    }

    /// `len` bytes at `offset`, truncated at the mapping's end.
    pub(super) fn range(&self, offset: usize, len: usize) -> HostRange<'_> {
        let offset = offset.min(self.len);
        let len = len.min(self.len - offset);
        // SAFETY: within the mapping, which lives as long as `self`, which the result borrows; no
        // reference is ever made to it.
        unsafe { HostRange::new(self.ptr.wrapping_add(offset), len) }
    }

    /// Drops the pages of a range: those of a file are mapped again when they are accessed, anonymous
    /// ones are zero then. KVM forgets every translation to them (its MMU notifier).
    pub(super) fn drop_pages(&self, offset: usize, len: usize) -> Result<(), std::io::Error> {
        let range = self.range(offset, len);
        // SAFETY: within our own mapping, to which no reference is ever made; whoever reads the range
        // meanwhile finds the old content or the new.
        let done =
            unsafe { libc::madvise(range.as_ptr().cast(), range.len(), libc::MADV_DONTNEED) };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }

    /// Advises the host how it will be used.
    pub(super) fn advise(&self, usage: Usage) {
        let advice: &[_] = match usage {
            Usage::Dense => &[libc::MADV_NORMAL, libc::MADV_HUGEPAGE],
            Usage::Sparse => &[libc::MADV_RANDOM],
            Usage::InMemory => &[],
        };
        advice.iter().for_each(|&advice| self.advise_of(0, self.len, advice));
    }

    /// Has the host map a range by pages of 4 KiB when it is accessed next. What is mapped stays as it is.
    pub(super) fn map_small(&self, offset: usize, len: usize) {
        self.advise_of(offset, len, libc::MADV_NOHUGEPAGE);
    }

    fn advise_of(&self, offset: usize, len: usize, advice: libc::c_int) {
        let range = self.range(offset, len);
        // SAFETY: advice on our own mapping, which changes no content; hosts without huge pages
        // for files refuse it.
        unsafe { libc::madvise(range.as_ptr().cast(), range.len(), advice) };
    }
}

impl Drop for HostMapping {
    fn drop(&mut self) {
        // SAFETY: a mapping made here. A memslot that refers to it holds a share of it, and so does
        // every user of a range of it: none are left.
        unsafe { libc::munmap(self.ptr.cast(), self.len) };
    }
}

/// A mapping in guest-physical space, until this is dropped.
#[derive(Debug)]
pub(super) struct Memslot {
    vm: Arc<VmFd>,
    region: kvm_userspace_memory_region,
    host: Arc<HostMapping>,
}

impl Memslot {
    /// Maps all of `host` at `gpa`.
    pub(super) fn new(
        vm: &Arc<VmFd>,
        number: u32,
        gpa: u64,
        flags: u32,
        host: HostMapping,
    ) -> Result<Memslot, kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot: number,
            flags,
            guest_phys_addr: gpa,
            ..Default::default()
        };
        let host = Arc::new(host);
        set(vm, &host, region)?;
        Ok(Memslot { vm: vm.clone(), region, host })
    }

    /// Has KVM note which pages the guest writes from now on.
    pub(super) fn note_writes(&self) -> Result<(), kvm_ioctls::Error> {
        let flags = self.region.flags | KVM_MEM_LOG_DIRTY_PAGES;
        set(&self.vm, &self.host, kvm_userspace_memory_region { flags, ..self.region })
    }

    /// Pages that the guest has written since this was asked last, a bit for each.
    pub(super) fn take_writes(&self) -> Result<Vec<u64>, kvm_ioctls::Error> {
        self.vm.get_dirty_log(self.region.slot, self.host.len())
    }

    /// The mapping behind it.
    pub(super) fn host(&self) -> &Arc<HostMapping> {
        &self.host
    }
}

/// Tells KVM of a slot onto `host`, which the caller keeps until the slot is removed.
fn set(
    vm: &VmFd,
    host: &HostMapping,
    region: kvm_userspace_memory_region,
) -> Result<(), kvm_ioctls::Error> {
    let region = kvm_userspace_memory_region {
        memory_size: host.len() as u64,
        userspace_addr: host.address(),
        ..region
    };
    // SAFETY: the range is mapped, and stays so until `Memslot`'s `Drop` has removed the slot.
    unsafe { vm.set_user_memory_region(region) }
}

impl Drop for Memslot {
    fn drop(&mut self) {
        let memslot = kvm_userspace_memory_region { slot: self.region.slot, ..Default::default() };
        // SAFETY: a slot of size 0 is removed, which accesses no memory.
        if unsafe { self.vm.set_user_memory_region(memslot) }.is_err() {
            // KVM refuses only slots that do not exist, and this one does. If it ever did, the
            // mapping must be leaked: what the guest can access must not become other memory of
            // this process.
            std::mem::forget(self.host.clone());
        }
    }
}
