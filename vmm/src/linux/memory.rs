//! Memory calls: `brk`, `mmap` and their kin, on top of [`crate::private::PrivateRegion`].

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use abi::addr::LOWER_HALF_END;
use abi::layout::PRIVATE_START;
use abi::{Errno, PAGE_SIZE, PAGE_SIZE_2M};

use super::{CallResult, limits, value};
use crate::files::{FileCharge, FileKind, OpenFile, Stored, host};
use crate::linux::survivor::Survivor;
use crate::linux::task::ThreadCtx;
use crate::private::inspect::{SEGMENT_LABEL, SHARED_LABEL};
use crate::private::{
    Backing, Destination, MemoryLock, OnFork, Piece, PieceBacking, Prot, Source, page_up,
};
use crate::vas::VasError;
use crate::vm::memory::FileMapping;

/// `brk(2)`.
pub(super) fn brk(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let private = &ctx.process.private;
    let now = private.set_heap_end(0);
    let more = a[0].saturating_sub(now);
    let lockable = ctx.process.limits.soft(libc::RLIMIT_MEMLOCK);
    let may_grow = check_limits(ctx, more, Prot::READ_WRITE, false)
        .and_then(|()| private.check_lock(MemoryLock::Unlocked, more, lockable));
    if more > 0 && may_grow.is_err() {
        return value(now);
    }
    value(private.set_heap_end(a[0]))
}

const MAP_SHARED: u64 = libc::MAP_SHARED as u64;
const MAP_PRIVATE: u64 = libc::MAP_PRIVATE as u64;
const MAP_SHARED_VALIDATE: u64 = libc::MAP_SHARED_VALIDATE as u64;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = libc::MAP_FIXED as u64;
const MAP_FIXED_NOREPLACE: u64 = libc::MAP_FIXED_NOREPLACE as u64;
const MAP_ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;
const MAP_NORESERVE: u64 = libc::MAP_NORESERVE as u64;
const MAP_GROWSDOWN: u64 = libc::MAP_GROWSDOWN as u64;
const MAP_HUGETLB: u64 = libc::MAP_HUGETLB as u64;
const MAP_LOCKED: u64 = libc::MAP_LOCKED as u64;
const MAP_32BIT: u64 = libc::MAP_32BIT as u64;

/// The flags `MAP_SHARED_VALIDATE` accepts, from before there was anything to validate: only a file
/// system can support flags beyond these (`MAP_SYNC`), and none does.
const VALIDATED: u64 = MAP_SHARED_VALIDATE
    | MAP_FIXED
    | MAP_GROWSDOWN
    | MAP_NORESERVE
    | MAP_LOCKED
    | MAP_32BIT
    | MAP_HUGETLB
    | (libc::MAP_DENYWRITE | libc::MAP_EXECUTABLE | libc::MAP_POPULATE) as u64
    | (libc::MAP_NONBLOCK | libc::MAP_STACK) as u64
    // MAP_ABOVE4G, and the sizes of huge pages.
    | 0x80
    | 0x1f << libc::MAP_HUGE_SHIFT;

/// A System V segment to be mapped.
pub(super) struct Segment {
    pub(super) file: Arc<std::fs::File>,
    pub(super) kind: FileMapping,
    pub(super) bytes: u64,
    pub(super) prot: Prot,
}

/// Maps a segment: at any address, or at this one, and then perhaps in place of what is there.
///
/// # Errors
/// `ENOMEM`; `EINVAL` where something is.
pub(super) fn map_segment(
    ctx: &ThreadCtx<'_>,
    (at, replaces): (u64, bool),
    segment: Segment,
) -> Result<u64, Errno> {
    let Segment { file, kind, bytes, prot } = segment;
    check_limits(ctx, bytes, prot, true)?;
    let backing = Backing::File { file, offset: 0, kind, charge: None };
    // Other processes may wait for locks in it.
    Survivor::make(ctx.process);
    let private = &ctx.process.private;
    if at == 0 {
        return private.map_anywhere(0, bytes, prot, backing, SEGMENT_LABEL);
    }
    let flags = if replaces { MAP_FIXED } else { MAP_FIXED_NOREPLACE };
    check_place(ctx, at, bytes, flags).map_err(|_| Errno::EINVAL)?;
    private.map_at(at, bytes, prot, backing, SEGMENT_LABEL)?;
    Ok(at)
}

/// `mmap(2)`.
pub(super) fn mmap(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [addr, len, prot, flags, fd, offset] = *a;
    // Linux, too, ignores other bits of the protection here.
    let prot = Prot::from_bits(prot & 7).ok_or(Errno::EINVAL)?;
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    let anonymous = flags & MAP_ANONYMOUS != 0;
    let file = if anonymous { None } else { Some(ctx.files().for_io(fd as i32)?) };
    if len == 0 || (flags & MAP_HUGETLB != 0 && !is_good_huge(flags, len, offset)) {
        return Err(Errno::EINVAL.into());
    }
    let len = page_up(len).ok_or(Errno::ENOMEM)?;
    if file.is_some()
        && (offset / PAGE_SIZE).checked_add(len / PAGE_SIZE).is_none_or(|end| end > MAX_FILE_PAGES)
    {
        return Err(Errno::EOVERFLOW.into());
    }
    let fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
    if fixed {
        check_place(ctx, addr, len, flags)?;
    }
    let kind = flags & MAP_TYPE;
    let shared = kind == MAP_SHARED || (kind == MAP_SHARED_VALIDATE && !anonymous);
    if !shared && kind != MAP_PRIVATE {
        return Err(Errno::EINVAL.into());
    }
    if kind == MAP_SHARED_VALIDATE && flags & !VALIDATED != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let is_shared_memory = shared
        && file.as_ref().is_none_or(|file| file.is_zero_device() && file.can_write().is_ok());
    let backing = match file {
        None if shared => shared_memory(ctx, len),
        None => Backing::Anonymous,
        Some(file) if shared && file.is_zero_device() && file.can_write().is_ok() => {
            shared_memory(ctx, len)
        }
        Some(file) => file_backing(ctx, &file, offset, len, shared, prot)?,
    };
    if flags & MAP_GROWSDOWN != 0 {
        let ordinary = anonymous && !shared;
        return Err(if ordinary { Errno::EOPNOTSUPP } else { Errno::EINVAL }.into());
    }
    let lock = if flags & MAP_LOCKED != 0 { MemoryLock::Locked } else { MemoryLock::Unlocked };
    if lock == MemoryLock::Locked {
        limits::lockable(ctx.process)?;
    }
    let lockable = ctx.process.limits.soft(libc::RLIMIT_MEMLOCK);
    ctx.process.private.check_lock(lock, len, lockable)?;
    check_limits(ctx, len, prot, shared)?;
    let label = match &backing {
        _ if is_shared_memory => SHARED_LABEL,
        Backing::Anonymous if flags & MAP_NORESERVE != 0 => "mapping (not reserved)",
        Backing::Anonymous => "mapping",
        Backing::File { .. } => "mapped file",
    };
    if shared && flags & MAP_ANONYMOUS == 0 {
        // Other processes may wait for locks in it.
        Survivor::make(ctx.process);
    }
    let private = &ctx.process.private;
    if fixed {
        // Outside the private region there is no space to allocate; Linux returns this for
        // addresses above its own limit.
        private
            .map_at(addr, len, prot, backing, label)
            .map_err(|e| if e == Errno::EINVAL { Errno::ENOMEM } else { e })?;
        return locked(ctx, addr, len, lock);
    }
    if flags & MAP_32BIT == 0 {
        return locked(ctx, private.map_anywhere(addr, len, prot, backing, label)?, len, lock);
    }
    let low = private.find_low_room(len).ok_or(Errno::ENOMEM)?;
    let at = private.map_anywhere(low, len, prot, backing, label)?;
    if at != low {
        // Another thread was faster.
        private.unmap(at, len)?;
        return Err(Errno::ENOMEM.into());
    }
    locked(ctx, at, len, lock)
}

/// Locks a new mapping, if requested. As on Linux the mapping exists even if its pages could not be
/// allocated.
fn locked(ctx: &ThreadCtx<'_>, at: u64, len: u64, lock: MemoryLock) -> CallResult {
    if lock == MemoryLock::Locked {
        let _ = ctx.process.private.set_lock(at..at + len, lock, u64::MAX);
    }
    value(at)
}

/// One past the last page a file can have: offsets are signed.
const MAX_FILE_PAGES: u64 = 1 << (63 - 12);
/// One past the last address of a program on Linux.
const TASK_END: u64 = LOWER_HALF_END - PAGE_SIZE;

fn check_place(ctx: &ThreadCtx<'_>, addr: u64, len: u64, flags: u64) -> Result<(), Errno> {
    if len > TASK_END || addr > TASK_END - len {
        return Err(Errno::ENOMEM);
    }
    if !addr.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let taken = || !ctx.process.private.pieces_of(addr, len).pieces.is_empty();
    if flags & MAP_FIXED_NOREPLACE != 0 && taken() {
        return Err(Errno::EEXIST);
    }
    Ok(())
}

/// `RLIMIT_AS` and `RLIMIT_DATA`, when the program has set one.
fn check_limits(ctx: &ThreadCtx<'_>, len: u64, prot: Prot, shared: bool) -> Result<(), Errno> {
    let limits = &ctx.process.limits;
    let (all, data) = (limits.soft(libc::RLIMIT_AS), limits.soft(libc::RLIMIT_DATA));
    if all == u64::MAX && data == u64::MAX {
        return Ok(());
    }
    let (mapped, writable) = ctx.process.private.mapped_bytes();
    let is_data = prot.can_write() && !shared;
    if mapped.saturating_add(len) > all || (is_data && writable.saturating_add(len) > data) {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}

/// Huge pages on request (`MAP_HUGETLB`) are ordinary memory here: areas of 2 MiB and more start on
/// a 2 MiB boundary and are mapped with large pages anyway. Only that size is offered, and only for
/// anonymous memory.
fn is_good_huge(flags: u64, len: u64, offset: u64) -> bool {
    let size_log2 = flags >> libc::MAP_HUGE_SHIFT & 0x3f;
    let anonymous = flags & MAP_ANONYMOUS != 0 && offset == 0;
    anonymous && (size_log2 == 0 || size_log2 == 21) && len.is_multiple_of(PAGE_SIZE_2M)
}

fn file_backing(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    offset: u64,
    len: u64,
    shared: bool,
    prot: Prot,
) -> Result<Backing, Errno> {
    let may_write = file.can_write().is_ok();
    if shared && prot.can_write() && !may_write {
        return Err(Errno::EACCES);
    }
    match file.can_read() {
        Ok(()) | Err(Errno::EISDIR) => {}
        Err(_) => return Err(Errno::EACCES),
    }
    match file.kind() {
        FileKind::Regular => {}
        // Anonymous memory by another name, except that a shared mapping of one opened for reading
        // can never be written.
        FileKind::Memory if file.is_zero_device() => {
            if !shared {
                return Ok(Backing::Anonymous);
            }
            return read_only_zeroes(len);
        }
        _ => return Err(Errno::ENODEV),
    }
    let kind = match (shared, may_write) {
        (false, _) => FileMapping::Private,
        (true, true) => FileMapping::Shared,
        (true, false) => FileMapping::SharedReadOnly,
    };
    let charge = file.memory().map(|memory| memory.charge.clone());
    if let Some(charge) = &charge {
        charge.map(file.host_fd()).map_err(|_| Errno::ENOMEM)?;
    }
    if kind == FileMapping::Shared {
        // What is written to its holes is not seen.
        ctx.files().growing(file, |size| size, Stored::AsAskedFor, || Ok(()))?;
    }
    Ok(Backing::File { file: file.for_mapping()?, offset, kind, charge })
}

/// Memory that children share: a file without a name. Memory of the VM's own where that is not to be had;
/// then there can be no children.
fn shared_memory(ctx: &ThreadCtx<'_>, len: u64) -> Backing {
    let make = || {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = rustix::fs::memfd_create("shared", flags).map_err(host)?;
        rustix::fs::ftruncate(&file, len).map_err(host)?;
        let charge = FileCharge::new(ctx.process.machine.mem.ledger().clone(), file.as_fd());
        charge.map(file.as_fd()).map_err(|_| Errno::ENOMEM)?;
        let (file, charge) = (Arc::new(std::fs::File::from(file)), Some(Arc::new(charge)));
        Ok::<_, Errno>(Backing::File { file, offset: 0, kind: FileMapping::Shared, charge })
    };
    make().unwrap_or(Backing::Anonymous)
}

fn read_only_zeroes(len: u64) -> Result<Backing, Errno> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let zeroes = rustix::fs::memfd_create("zeroes", flags).map_err(host)?;
    rustix::fs::ftruncate(&zeroes, len).map_err(host)?;
    let file = Arc::new(std::fs::File::from(zeroes));
    // It cannot be written: it stores nothing.
    Ok(Backing::File { file, offset: 0, kind: FileMapping::SharedReadOnly, charge: None })
}

/// `munmap(2)`. What is below the private region is not mapped, which is not an error.
pub(super) fn munmap(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [start, len, ..] = *a;
    if !start.is_multiple_of(PAGE_SIZE) || len > TASK_END || start > TASK_END - len || len == 0 {
        return Err(Errno::EINVAL.into());
    }
    let end = start + page_up(len).ok_or(Errno::EINVAL)?;
    let from = start.max(PRIVATE_START.raw());
    if from < end {
        ctx.process.private.unmap(from, end - from)?;
    }
    value(0)
}

/// `PROT_SEM`: no processor of this kind needs it, and Linux accepts it.
const PROT_SEM: u64 = 8;

/// `pkey_mprotect(2)`, `pkey_alloc(2)` and `pkey_free(2)`, as on a processor without protection keys: the
/// VM's has none.
pub(super) fn pkey_mprotect(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    match a[3] as i32 {
        -1 => mprotect(ctx, a),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// See [`pkey_mprotect`].
pub(super) fn pkey_alloc(_ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    const RIGHTS: u64 = 3;
    let [flags, rights, ..] = *a;
    let is_valid = flags == 0 && rights & !RIGHTS == 0;
    Err(if is_valid { Errno::ENOSPC } else { Errno::EINVAL }.into())
}

/// See [`pkey_mprotect`].
pub(super) fn pkey_free(_ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    Err(Errno::EINVAL.into())
}

/// `mprotect(2)`: changes everything up to the first hole, or before the first file that may
/// not be written, and then fails.
pub(super) fn mprotect(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [start, len, prot, ..] = *a;
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    if len == 0 {
        return value(0);
    }
    let end = page_up(len).and_then(|len| start.checked_add(len)).ok_or(Errno::ENOMEM)?;
    let prot = Prot::from_bits(prot & !PROT_SEM).ok_or(Errno::EINVAL)?;
    let private = &ctx.process.private;
    let found = private.pieces_of(start, len);
    let mut until = found.first_hole(start);
    let mut verdict = if until < end { Err(Errno::ENOMEM) } else { Ok(()) };
    let refuses = |piece: &&Piece| matches!(piece.backing, PieceBacking::ReadOnlyFile);
    if prot.can_write()
        && let Some(piece) = found.pieces.iter().find(refuses)
        && piece.range.start < until
    {
        until = piece.range.start;
        verdict = Err(Errno::EACCES);
    }
    if until > start {
        private.protect(start, until - start, prot)?;
    }
    verdict?;
    value(0)
}

/// `mremap(2)`.
pub(super) fn mremap(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [start, old_len, new_len, flags, new_start, _] = *a;
    let [may_move, is_fixed, keeps] =
        [libc::MREMAP_MAYMOVE, libc::MREMAP_FIXED, libc::MREMAP_DONTUNMAP]
            .map(|flag| flags & flag as u64 != 0);
    let known = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP) as u64;
    let aligned = start.is_multiple_of(PAGE_SIZE);
    if flags & !known != 0 || ((is_fixed || keeps) && !may_move) || !aligned {
        return Err(Errno::EINVAL.into());
    }
    let new_len = page_up(new_len).filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
    let old_len = page_up(old_len).ok_or(Errno::EINVAL)?;
    if keeps && old_len != new_len {
        return Err(Errno::EINVAL.into());
    }
    if is_fixed || keeps {
        let end = new_start.checked_add(new_len).filter(|&end| end <= TASK_END);
        let overlaps =
            end.is_none_or(|end| new_start < start.saturating_add(old_len) && start < end);
        if !new_start.is_multiple_of(PAGE_SIZE) || overlaps {
            return Err(Errno::EINVAL.into());
        }
    }
    let private = &ctx.process.private;
    if !private.covers(start, PAGE_SIZE) || start.checked_add(old_len).is_none() {
        return Err(Errno::EFAULT.into());
    }
    if new_len > old_len {
        check_growth(ctx, start, new_len - old_len)?;
    }
    let destination = match (may_move, is_fixed) {
        (_, true) => Destination::At(new_start),
        (true, false) => Destination::Anywhere,
        (false, false) => Destination::Stay,
    };
    let source = if keeps { Source::Keep { hint: new_start } } else { Source::Unmap };
    value(private.remap(start, old_len, new_len, destination, source)?)
}

/// Whether the limits allow the mapping at `start` to grow by that much.
fn check_growth(ctx: &ThreadCtx<'_>, start: u64, more: u64) -> Result<(), Errno> {
    let of = ctx.process.private.pieces_of(start, PAGE_SIZE);
    let Some(piece) = of.pieces.first() else { return Err(Errno::EFAULT) };
    if piece.lock != MemoryLock::Unlocked {
        let lockable = ctx.process.limits.soft(libc::RLIMIT_MEMLOCK);
        ctx.process.private.check_lock(piece.lock, more, lockable)?;
    }
    let is_shared = matches!(piece.backing, PieceBacking::SharedFile(..));
    check_limits(ctx, more, piece.prot, is_shared)
}

/// `madvise(2)`. Advice that only concerns speed is accepted and mostly ignored.
pub(super) fn madvise(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [start, len, advice, ..] = *a;
    let advice = advice as i32;
    if !is_known(advice) || !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    let len = page_up(len).ok_or(Errno::EINVAL)?;
    if start.checked_add(len).is_none() {
        return Err(Errno::EINVAL.into());
    }
    if len == 0 {
        return value(0);
    }
    if advice == libc::MADV_REMOVE && remove_versioned(ctx, start..start + len)? {
        return value(0);
    }
    let found = ctx.process.private.pieces_of(start, len);
    for piece in &found.pieces {
        advise(ctx, piece, advice)?;
    }
    found.check_whole()?;
    value(0)
}

fn is_known(advice: i32) -> bool {
    matches!(
        advice,
        libc::MADV_NORMAL
            | libc::MADV_RANDOM
            | libc::MADV_SEQUENTIAL
            | libc::MADV_WILLNEED
            | libc::MADV_DONTNEED
            | libc::MADV_FREE
            | libc::MADV_REMOVE
            | libc::MADV_DONTFORK
            | libc::MADV_DOFORK
            | libc::MADV_MERGEABLE
            | libc::MADV_UNMERGEABLE
            | libc::MADV_HUGEPAGE
            | libc::MADV_NOHUGEPAGE
            | libc::MADV_DONTDUMP
            | libc::MADV_DODUMP
            | libc::MADV_WIPEONFORK
            | libc::MADV_KEEPONFORK
            | libc::MADV_COLD
            | libc::MADV_PAGEOUT
            | libc::MADV_DONTNEED_LOCKED
    )
}

fn advise(ctx: &ThreadCtx<'_>, piece: &Piece, advice: i32) -> Result<(), Errno> {
    let private = &ctx.process.private;
    let (start, len) = (piece.range.start, piece.range.end - piece.range.start);
    let anonymous = matches!(piece.backing, PieceBacking::Anonymous);
    let is_locked = piece.lock != MemoryLock::Unlocked;
    match advice {
        // Locked memory must not be dropped.
        libc::MADV_DONTNEED
        | libc::MADV_FREE
        | libc::MADV_REMOVE
        | libc::MADV_COLD
        | libc::MADV_PAGEOUT
            if is_locked =>
        {
            Err(Errno::EINVAL)
        }
        libc::MADV_FREE | libc::MADV_WIPEONFORK if !anonymous => Err(Errno::EINVAL),
        libc::MADV_DONTNEED | libc::MADV_DONTNEED_LOCKED | libc::MADV_FREE => {
            private.drop_pages(start, len)
        }
        libc::MADV_REMOVE => remove(piece),
        libc::MADV_DONTFORK => private.set_on_fork(start, len, OnFork::LeftOut),
        libc::MADV_WIPEONFORK => private.set_on_fork(start, len, OnFork::Emptied),
        libc::MADV_DOFORK | libc::MADV_KEEPONFORK => {
            private.set_on_fork(start, len, OnFork::Copied)
        }
        libc::MADV_HUGEPAGE => {
            private.advise_huge(start, len);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// `MADV_REMOVE` in a versioned segment: the pages are zeros, as part of the visit's changes, and take no
/// space on the disk after a checkpoint. `false` where there is none.
fn remove_versioned(ctx: &ThreadCtx<'_>, range: Range<u64>) -> Result<bool, Errno> {
    let vases = &ctx.process.vases;
    if !vases.is_active() {
        return Ok(false);
    }
    vases.remove_pages(ctx.vcpu, range).map_err(|error| match error {
        VasError::NotWriting => Errno::EACCES,
        error => error.errno(),
    })
}

/// `MADV_REMOVE`: punches a hole in the file.
fn remove(piece: &Piece) -> Result<(), Errno> {
    match &piece.backing {
        PieceBacking::Anonymous => Err(Errno::EINVAL),
        PieceBacking::SharedFile(file, offset) if piece.prot.can_write() => {
            let flags =
                rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            let len = piece.range.end - piece.range.start;
            rustix::fs::fallocate(file, flags, *offset, len).map_err(host)
        }
        _ => Err(Errno::EACCES),
    }
}

/// `mincore(2)`: what may have been touched, and every page of a file, counts as resident. The part
/// before a hole is reported.
pub(super) fn mincore(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [start, len, vector, ..] = *a;
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    let Some(len) = page_up(len).filter(|&len| len <= TASK_END && start <= TASK_END - len) else {
        return Err(Errno::ENOMEM.into());
    };
    let found = ctx.process.private.pieces_of(start, len);
    let pages = (found.first_hole(start) - start).min(len) / PAGE_SIZE;
    const STEP: u64 = 1 << 16;
    for done in (0..pages).step_by(STEP as usize) {
        let now = STEP.min(pages - done) as usize;
        let resident = ctx.process.private.resident_pages(start + done * PAGE_SIZE, now);
        ctx.user().copy_out(vector.wrapping_add(done), &resident)?;
    }
    if pages < len / PAGE_SIZE { Err(Errno::ENOMEM.into()) } else { value(0) }
}

/// `msync(2)`: shared file mappings are the host's page cache; the host is asked to write it.
pub(super) fn msync(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [start, len, flags, ..] = *a;
    let (asynchronous, synchronous) = (libc::MS_ASYNC as u32, libc::MS_SYNC as u32);
    let flags = flags as u32;
    let known = asynchronous | synchronous | libc::MS_INVALIDATE as u32;
    let both = asynchronous | synchronous;
    if flags & !known != 0 || flags & both == both || !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    let len = page_up(len).ok_or(Errno::ENOMEM)?;
    if start.checked_add(len).is_none() {
        return Err(Errno::ENOMEM.into());
    }
    if len == 0 {
        return value(0);
    }
    let found = ctx.process.private.pieces_of(start, len);
    let is_locked = |piece: &Piece| piece.lock != MemoryLock::Unlocked;
    if flags & libc::MS_INVALIDATE as u32 != 0 && found.pieces.iter().any(is_locked) {
        return Err(Errno::EBUSY.into());
    }
    if flags & synchronous != 0 {
        for piece in &found.pieces {
            ctx.process
                .private
                .sync_files(piece.range.start, piece.range.end - piece.range.start)?;
        }
    }
    found.check_whole()?;
    value(0)
}
