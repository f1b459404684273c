//! Memory calls: `brk`, `mmap` and their kin, on top of [`crate::space::Space`].

use std::sync::Arc;

use abi::{Errno, PAGE_SIZE, PAGE_SIZE_2M};

use super::fs::Kind;
use super::{CallResult, value};
use crate::process::ThreadCtx;
use crate::space::inspect::SHARED_LABEL;
use crate::space::{Backing, Prot};
use crate::vm::memory::FileMapping;

/// `brk(2)`.
pub(super) fn brk(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    value(ctx.process.space.set_heap_end(a[0]))
}

const MAP_SHARED: u64 = libc::MAP_SHARED as u64;
const MAP_PRIVATE: u64 = libc::MAP_PRIVATE as u64;
const MAP_FIXED: u64 = libc::MAP_FIXED as u64;
const MAP_FIXED_NOREPLACE: u64 = libc::MAP_FIXED_NOREPLACE as u64;
const MAP_ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;
const MAP_NORESERVE: u64 = libc::MAP_NORESERVE as u64;
const MAP_GROWSDOWN: u64 = libc::MAP_GROWSDOWN as u64;
const MAP_HUGETLB: u64 = libc::MAP_HUGETLB as u64;

/// `mmap(2)`.
pub(super) fn mmap(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [addr, len, prot, flags, fd, offset] = *a;
    let prot = Prot::from_bits(prot & 7).ok_or(Errno::EINVAL)?;
    let kind = flags & 0xf;
    let shared = kind == MAP_SHARED || kind == libc::MAP_SHARED_VALIDATE as u64;
    if (!shared && kind != MAP_PRIVATE) || len == 0 || !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    if flags & MAP_GROWSDOWN != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if flags & MAP_HUGETLB != 0 && !is_good_huge(flags, len, offset) {
        return Err(Errno::EINVAL.into());
    }
    let backing = if flags & MAP_ANONYMOUS != 0 {
        // Shared anonymous memory would be shared with children; there are none.
        Backing::Anonymous
    } else {
        file_backing(ctx, fd as i32, offset, shared, prot)?
    };
    let label = match &backing {
        Backing::Anonymous if shared => SHARED_LABEL,
        Backing::Anonymous if flags & MAP_NORESERVE != 0 => "mapping (not reserved)",
        Backing::Anonymous => "mapping",
        Backing::File { .. } => "mapped file",
    };
    let space = &ctx.process.space;
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL.into());
        }
        if flags & MAP_FIXED_NOREPLACE != 0 && !space.is_free(addr, len) {
            return Err(Errno::EEXIST.into());
        }
        // Outside the private region there is no room to give, as Linux says for addresses
        // above its own limit.
        space
            .map_at(addr, len, prot, backing, label)
            .map_err(|e| if e == Errno::EINVAL { Errno::ENOMEM } else { e })?;
        return value(addr);
    }
    value(space.map_anywhere(addr, len, prot, backing, label)?)
}

/// Huge pages on request are ordinary memory here: areas of 2 MiB and more start on a 2 MiB
/// boundary and are mapped with large pages anyway. Only that size is offered, and only for
/// anonymous memory.
fn is_good_huge(flags: u64, len: u64, offset: u64) -> bool {
    let size_log2 = flags >> libc::MAP_HUGE_SHIFT & 0x3f;
    let anonymous = flags & MAP_ANONYMOUS != 0 && offset == 0;
    anonymous && (size_log2 == 0 || size_log2 == 21) && len.is_multiple_of(PAGE_SIZE_2M)
}

fn file_backing(
    ctx: &ThreadCtx<'_>,
    fd: i32,
    offset: u64,
    shared: bool,
    prot: Prot,
) -> Result<Backing, Errno> {
    let file = ctx.process.files.get(fd)?;
    if file.path_only() {
        return Err(Errno::EBADF);
    }
    // A directory was opened for reading, too.
    if file.can_read() == Err(Errno::EBADF) {
        return Err(Errno::EACCES);
    }
    let may_write = file.can_write().is_ok();
    if shared && prot.can_write() && !may_write {
        return Err(Errno::EACCES);
    }
    match file.kind() {
        Kind::Regular => {}
        // Anonymous memory by another name. Other devices are not mapped.
        Kind::Memory if file.is_zero_device() => return Ok(Backing::Anonymous),
        _ => return Err(Errno::ENODEV),
    }
    let kind = match (shared, may_write) {
        (false, _) => FileMapping::Private,
        (true, true) => FileMapping::Shared,
        (true, false) => FileMapping::SharedReadOnly,
    };
    let host = file.host_fd().try_clone_to_owned();
    let host = host.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(Backing::File { file: Arc::new(host.into()), offset, kind })
}

/// `munmap(2)`.
pub(super) fn munmap(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    ctx.process.space.unmap(a[0], a[1])?;
    value(0)
}

/// `mprotect(2)`.
pub(super) fn mprotect(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if !a[0].is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    let prot = Prot::from_bits(a[2]).ok_or(Errno::EINVAL)?;
    ctx.process.space.protect(a[0], a[1], prot)?;
    value(0)
}

/// `mremap(2)`.
pub(super) fn mremap(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [start, old_len, new_len, flags, new_start, _] = *a;
    let may_move = flags & libc::MREMAP_MAYMOVE as u64 != 0;
    let is_fixed = flags & libc::MREMAP_FIXED as u64 != 0;
    let known = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    if flags & !known != 0 || (is_fixed && !may_move) || old_len == 0 {
        return Err(Errno::EINVAL.into());
    }
    let fixed = is_fixed.then_some(new_start);
    value(ctx.process.space.remap(start, old_len, new_len, may_move, fixed)?)
}

/// `madvise(2)`. Advice that only concerns speed is taken and mostly ignored.
pub(super) fn madvise(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [start, len, advice, ..] = *a;
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    if len == 0 {
        return value(0);
    }
    match advice as i32 {
        libc::MADV_DONTNEED | libc::MADV_FREE => ctx.process.space.drop_pages(start, len)?,
        libc::MADV_HUGEPAGE => ctx.process.space.advise_huge(start, len),
        libc::MADV_NORMAL
        | libc::MADV_RANDOM
        | libc::MADV_SEQUENTIAL
        | libc::MADV_WILLNEED
        | libc::MADV_NOHUGEPAGE
        | libc::MADV_DONTDUMP
        | libc::MADV_DODUMP
        | libc::MADV_DONTFORK
        | libc::MADV_DOFORK
        | libc::MADV_MERGEABLE
        | libc::MADV_UNMERGEABLE
        | libc::MADV_COLD
        | libc::MADV_PAGEOUT => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    value(0)
}

/// `mincore(2)`: whatever is mapped counts as resident.
pub(super) fn mincore(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [start, len, vector, ..] = *a;
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    let pages = len.div_ceil(PAGE_SIZE);
    if len > 0 && (!ctx.process.space.covers(start, len) || pages > 1 << 24) {
        return Err(Errno::ENOMEM.into());
    }
    ctx.user().copy_out(vector, &vec![1; pages as usize])?;
    value(0)
}

/// `msync(2)`: shared file mappings are the host's page cache; ask the host to write it.
pub(super) fn msync(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if !a[0].is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    ctx.process.space.sync_files(a[0], a[1])?;
    value(0)
}
