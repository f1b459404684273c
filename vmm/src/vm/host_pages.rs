//! Host operations on the pages of a memory region: protect, replace, move.
//!
//! Each leaves the range mapped, whatever it returns: KVM accesses it through a memslot that refers
//! to its addresses, and a hole could be filled by an unrelated mapping of this process.

use abi::{PAGE_SIZE, PAGE_SIZE_2M};

use super::host_range::HostRange;

/// Sets the host's protection of the range.
pub(super) fn host_protect(range: HostRange<'_>, prot: libc::c_int) -> Result<(), std::io::Error> {
    // SAFETY: the range belongs to a memory region. At worst another thread of ours, or a vCPU,
    // faults, which the call it is in reports as an error (`GuestMem::withheld`).
    if unsafe { libc::mprotect(range.as_ptr().cast(), range.len(), prot) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Replaces the pages of the range by a mapping of `fd` from `offset`, or by fresh memory.
pub(super) fn lay(
    range: HostRange<'_>,
    prot: libc::c_int,
    flags: libc::c_int,
    fd: libc::c_int,
    offset: u64,
) -> Result<(), std::io::Error> {
    let (at, len) = (range.as_ptr().cast(), range.len());
    // Linux's error for offsets that no file can have.
    let overflow = |_| std::io::Error::from_raw_os_error(libc::EOVERFLOW);
    let offset = libc::off_t::try_from(offset).map_err(overflow)?;
    // SAFETY: the range belongs to a memory region, so replacing its pages replaces guest memory
    // and nothing else; no Rust reference points there.
    let laid = unsafe { libc::mmap(at, len, prot, flags | libc::MAP_FIXED, fd, offset) };
    if laid != libc::MAP_FAILED {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    // Hosts before Linux 6.12 have already unmapped the range when the file refuses (a sealed memfd
    // does). Otherwise the page is mapped and this changes nothing.
    if is_mapped(range) {
        return Err(error);
    }
    fill(range);
    Err(error)
}

/// Whether all of the range is mapped.
fn is_mapped(range: HostRange<'_>) -> bool {
    // SAFETY: this call changes nothing; a hole is an error.
    unsafe { libc::msync(range.as_ptr().cast(), range.len(), libc::MS_ASYNC) == 0 }
}

/// Maps fresh memory into a hole.
#[expect(
    clippy::disallowed_methods,
    reason = "an error or a panic would leave the guest a way into this process"
)]
fn fill(range: HostRange<'_>) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range is part of a memory region.
    let mapped = unsafe { libc::mmap(range.as_ptr().cast(), range.len(), rw, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        // The guest can access these addresses, and our next mapping may get them.
        std::process::abort();
    }
}

/// Moves pages in two steps. The first, to a place of the host's choice, may fail for a range that
/// is not a single mapping, and then changes nothing. The second moves a single complete mapping:
/// if the first step already fixed the target, hosts before Linux 6.17 would unmap the target first
/// and then fail, leaving a hole in a memory region.
pub(super) fn host_move(source: HostRange<'_>, dest: HostRange<'_>) -> Result<(), std::io::Error> {
    let keep = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    // SAFETY: the source belongs to a memory region and stays mapped, reading as zero.
    let parked = unsafe { libc::mremap(source.as_ptr().cast(), source.len(), source.len(), keep) };
    if parked == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: the parked mapping is ours alone; the target belongs to a memory region, whose old
    // pages are replaced. No Rust reference points to either.
    let moved = unsafe { libc::mremap(parked, source.len(), dest.len(), fixed, dest.as_ptr()) };
    if moved != libc::MAP_FAILED {
        return Ok(());
    }
    // The target is unchanged, or unmapped and must be mapped again; the content is still parked.
    fill(dest);
    // SAFETY: mapped, of the source's length, and ours alone until the end of this function.
    let content = unsafe { HostRange::new(parked.cast(), source.len()) };
    copy_pages(content, dest);
    // SAFETY: the parked mapping is ours alone.
    unsafe { libc::munmap(parked, source.len()) };
    Ok(())
}

/// Copies page by page, except pages beyond the end of a file, which have no content.
pub(super) fn copy_pages(source: HostRange<'_>, dest: HostRange<'_>) {
    let mut page = [0; PAGE_SIZE as usize];
    for at in (0..source.len()).step_by(page.len()) {
        let there = source.part(at, page.len()).read_faultable(&mut page);
        // A destination that is not accessible either is beyond the end of the same file.
        let _ = there.and_then(|()| dest.part(at, page.len()).write_faultable(&page));
    }
}

/// How much of a range is to be kept in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostLock {
    /// All of it, immediately.
    Whole,
    /// Pages, once they are accessed.
    OnFault,
}

/// Locks the range.
pub(super) fn lock(range: HostRange<'_>, how: HostLock) -> Result<(), std::io::Error> {
    let flags = match how {
        HostLock::Whole => 0,
        HostLock::OnFault => libc::MLOCK_ONFAULT,
    };
    // SAFETY: changes no content; pages that are faulted in are what the guest would find there.
    match unsafe { libc::syscall(libc::SYS_mlock2, range.as_ptr(), range.len(), flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Undoes [`lock`].
pub(super) fn unlock(range: HostRange<'_>) -> Result<(), std::io::Error> {
    // SAFETY: changes no content.
    match unsafe { libc::munlock(range.as_ptr().cast(), range.len()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Of what is mapped, so that huge pages of host and guest coincide.
pub(super) const ALIGNMENT: usize = PAGE_SIZE_2M as usize;

/// Reserves `len` bytes, aligned.
pub(super) fn reserve_aligned(len: usize) -> Result<*mut libc::c_void, std::io::Error> {
    let align = ALIGNMENT;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the host's choice.
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
    // SAFETY: likewise the part after the aligned end.
    unsafe { libc::munmap(start.wrapping_byte_add(len), align - head) };
    Ok(start)
}
