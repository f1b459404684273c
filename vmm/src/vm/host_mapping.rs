//! Mappings of this process's that are unmapped when nobody uses them any more, and the memslots
//! through which a VM reaches them.
//!
//! The order at the end is what safety rests on: the memslot goes before the mapping, and the
//! mapping not before the last range of it that the host kernel was given. Both are ownership
//! here, not a rule for callers: a slot owns a share of its mapping, a pin another one, and
//! `munmap` is in the `Drop` of what they share.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;

use super::host_pages::reserve_aligned;
use super::host_range::HostRange;
use super::windows::FilePiece;

/// Memory of this process's, aligned to 2 MiB.
#[derive(Debug)]
pub(super) struct HostMapping {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: the pointer is an address for system calls and for KVM; it belongs to no thread.
unsafe impl Send for HostMapping {}
// SAFETY: as for `Send`; nothing is changed through a shared reference but advice.
unsafe impl Sync for HostMapping {}

impl HostMapping {
    /// Anonymous memory.
    pub(super) fn anonymous(len: usize) -> Result<HostMapping, std::io::Error> {
        Ok(HostMapping { ptr: reserve_aligned(len)?.cast(), len })
    }

    /// The piece of a file, shared: `len` bytes.
    pub(super) fn of_file(
        piece: &FilePiece<'_>,
        len: usize,
    ) -> Result<HostMapping, std::io::Error> {
        let host = HostMapping::anonymous(len)?;
        let prot = libc::PROT_READ | if piece.writable { libc::PROT_WRITE } else { 0 };
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let (fd, offset) = (piece.file.as_raw_fd(), piece.offset as libc::off_t);
        // SAFETY: replaces the reservation just made, which is ours alone.
        let at = unsafe { libc::mmap(host.ptr.cast(), len, prot, flags, fd, offset) };
        if at == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(host) }
    }

    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Its first byte's address, as a memslot names it.
    fn address(&self) -> u64 {
        self.ptr as u64
    }

    /// `len` bytes at `offset`, cut off where the mapping ends.
    pub(super) fn range(&self, offset: usize, len: usize) -> HostRange<'_> {
        let offset = offset.min(self.len);
        let len = len.min(self.len - offset);
        // SAFETY: within the mapping, which stays as long as `self`, which the result borrows;
        // no reference is ever made to it.
        unsafe { HostRange::new(self.ptr.wrapping_add(offset), len) }
    }

    /// Tells the host how it will be used.
    pub(super) fn advise(&self, dense: bool) {
        let advice =
            if dense { [libc::MADV_NORMAL, libc::MADV_HUGEPAGE] } else { [libc::MADV_RANDOM; 2] };
        for advice in advice {
            // SAFETY: advice on a mapping of ours, which changes no content; hosts without huge
            // pages for files refuse it.
            unsafe { libc::madvise(self.ptr.cast(), self.len, advice) };
        }
    }
}

impl Drop for HostMapping {
    fn drop(&mut self) {
        // SAFETY: a mapping made here. A memslot that names it holds a share of it, and so does
        // whoever was given a range of it: there are none any more.
        unsafe { libc::munmap(self.ptr.cast(), self.len) };
    }
}

/// A mapping in guest-physical space, until this is dropped.
#[derive(Debug)]
pub(super) struct Memslot {
    vm: Arc<VmFd>,
    number: u32,
    host: Arc<HostMapping>,
}

impl Memslot {
    /// Puts all of `host` at `gpa`.
    pub(super) fn new(
        vm: &Arc<VmFd>,
        number: u32,
        gpa: u64,
        flags: u32,
        host: HostMapping,
    ) -> Result<Memslot, kvm_ioctls::Error> {
        let host = Arc::new(host);
        let memslot = kvm_userspace_memory_region {
            slot: number,
            flags,
            guest_phys_addr: gpa,
            memory_size: host.len() as u64,
            userspace_addr: host.address(),
        };
        // SAFETY: the range is mapped, and stays so until `Drop` has taken the slot away.
        unsafe { vm.set_user_memory_region(memslot) }?;
        Ok(Memslot { vm: vm.clone(), number, host })
    }

    /// The mapping behind it.
    pub(super) fn host(&self) -> &Arc<HostMapping> {
        &self.host
    }
}

impl Drop for Memslot {
    fn drop(&mut self) {
        let memslot = kvm_userspace_memory_region { slot: self.number, ..Default::default() };
        // SAFETY: a slot of size 0 is taken away, which reaches no memory.
        if unsafe { self.vm.set_user_memory_region(memslot) }.is_err() {
            // KVM refuses only slots that do not exist, and this one does. Should it ever: what
            // the guest can reach must not become something else of this process.
            std::mem::forget(self.host.clone());
        }
    }
}
