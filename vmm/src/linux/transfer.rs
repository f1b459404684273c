//! Data transfer: `read`, `write` and their kin.
//!
//! The host kernel reads and writes guest memory directly: a buffer becomes the host ranges that
//! back it, and one call moves the data without an intermediate copy. Where the program's memory
//! ends, the host gets memory that is never mapped instead: the host kernel decides, for each kind
//! of file, how much is moved before a bad pointer, and whether the pointer is used at all. A
//! thread that may have to wait does so in the host's `poll`, which a kick interrupts. A pipe is
//! first tried without waiting, which saves that call whenever there is data, or space.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use abi::addr::LOWER_HALF_END;
use abi::{Errno, PAGE_SIZE};

use super::signalfd;
use super::terminal::{self, Use};
use super::time::last_errno;
use super::{CallResult, Fail, value};
use crate::access::MemoryAccess;
use crate::files::{FileKind, MemoryFile, OpenFile, PendingWrite, WriteAt, host};
use crate::linux::task::ThreadCtx;
use crate::user_memory::Pinned;

/// Most bytes one call moves (Linux's MAX_RW_COUNT).
const MAX_BYTES: u64 = 0x7fff_f000;
const IOV_MAX: u64 = 1024;

/// Flags of `preadv2` with which waiting for the file first changes nothing. With the others
/// the host is called immediately: it refuses them on whatever may block, or must not wait
/// (`RWF_NOWAIT`).
const RWF_MAY_WAIT: i32 = libc::RWF_HIPRI | libc::RWF_DSYNC | libc::RWF_SYNC | libc::RWF_APPEND;
const RWF_NOAPPEND: i32 = 0x20;
const RWF_NOSIGNAL: i32 = 0x100;

/// What a call that reads a file does with the program's memory.
pub(super) const FILL: MemoryAccess = MemoryAccess::Write;
/// What a call that writes a file does with the program's memory.
pub(super) const DRAIN: MemoryAccess = MemoryAccess::Read;

/// The offset of the newest calls: -1 means the file's own, which moves on.
pub(super) fn given(offset: u64) -> Option<i64> {
    Some(offset as i64).filter(|&offset| offset != -1)
}

/// What an attempt to move data does if the file is not ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// It does not wait (`RWF_NOWAIT`) and fails with `EAGAIN`.
    AtOnce,
    /// It waits for the file first.
    AfterWaiting,
    /// The host is called, whatever the file's state.
    Plain,
}

/// The program's buffers in the form for the host kernel.
#[derive(Default)]
pub(super) struct Buffers<'a> {
    pub(super) iov: Vec<libc::iovec>,
    /// Pins what `iov` points to.
    pins: Vec<Pinned<'a>>,
    /// The program's address of the first byte.
    base: u64,
}

/// What a call moves, and how.
struct Transfer<'a> {
    buffers: Buffers<'a>,
    access: MemoryAccess,
    at: Option<i64>,
    flags: i32,
}

fn open_file(
    ctx: &ThreadCtx<'_>,
    fd: u64,
    access: MemoryAccess,
    at: Option<i64>,
) -> Result<Arc<OpenFile>, Errno> {
    if matches!(at, Some(offset) if offset < 0) {
        return Err(Errno::EINVAL);
    }
    let file = ctx.files().for_io(fd as i32)?;
    // Linux checks the offset before the access mode.
    let stream = matches!(
        file.kind(),
        FileKind::Pipe
            | FileKind::Socket
            | FileKind::Netlink
            | FileKind::SignalFd
            | FileKind::EventFd
            | FileKind::TimerFd
    );
    if stream && at.is_some() {
        return Err(Errno::ESPIPE);
    }
    // Data read from a file is written to memory.
    match access {
        MemoryAccess::Write => file.can_read()?,
        MemoryAccess::Read => file.can_write()?,
    }
    Ok(file)
}

/// Whether the program may name this range at all (Linux's `access_ok`).
pub(super) fn check_range(base: u64, len: u64) -> Result<(), Errno> {
    match base.checked_add(len) {
        Some(end) if end <= LOWER_HALF_END - PAGE_SIZE => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Adds the host ranges that back a buffer, with unreachable memory for what the program could not
/// access itself.
pub(super) fn add_buffer<'a>(
    ctx: &ThreadCtx<'a>,
    buffers: &mut Buffers<'a>,
    base: u64,
    len: u64,
    access: MemoryAccess,
) -> Result<(), Errno> {
    if buffers.iov.is_empty() {
        buffers.base = base;
    }
    let iov = &mut buffers.iov;
    let mut missing = len;
    match ctx.user().ranges(base, len, access) {
        Err(Errno::EFAULT) => {}
        pinned => {
            let pinned = pinned?;
            missing -= pinned.bytes().min(len);
            pinned.each(|range| iov.push(range.iovec()));
            buffers.pins.push(pinned);
        }
    }
    // This process's first page, which is never mapped: the host kernel finds what it would
    // find at the program's bad pointer. Only a file that accepts whatever is written
    // (`/dev/null`) gets past the first of these.
    while missing > 0 && (iov.len() as u64) < IOV_MAX {
        let len = missing.min(PAGE_SIZE - 16);
        let base = std::ptr::without_provenance_mut(16);
        iov.push(libc::iovec { iov_base: base, iov_len: len as usize });
        missing -= len;
    }
    Ok(())
}

/// The addresses and lengths of an `iovec` array.
pub(super) fn parts(ctx: &ThreadCtx<'_>, array: u64, count: u64) -> Result<Vec<[u64; 2]>, Errno> {
    // On Linux this is an unsigned int, whatever the prototype has.
    let count = u64::from(count as u32);
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; count as usize * 16];
    ctx.user().copy_in(array, &mut bytes)?;
    let parts = bytes.as_chunks().0.as_chunks().0.iter();
    let mut parts: Vec<[u64; 2]> = parts.map(|pair| pair.map(u64::from_le_bytes)).collect();
    // In Linux's order: all lengths, then all addresses.
    if parts.iter().any(|&[_, len]| len > i64::MAX as u64) {
        return Err(Errno::EINVAL);
    }
    parts.iter().try_for_each(|&[base, len]| check_range(base, len))?;
    let mut left = MAX_BYTES;
    for [_, len] in &mut parts {
        *len = (*len).min(left);
        left -= *len;
    }
    Ok(parts)
}

/// The buffers of an `iovec` array.
fn buffers<'a>(
    ctx: &ThreadCtx<'a>,
    array: u64,
    count: u64,
    access: MemoryAccess,
) -> Result<Buffers<'a>, Errno> {
    buffers_of(ctx, &parts(ctx, array, count)?, access)
}

/// The buffers at these addresses.
pub(super) fn buffers_of<'a>(
    ctx: &ThreadCtx<'a>,
    parts: &[[u64; 2]],
    access: MemoryAccess,
) -> Result<Buffers<'a>, Errno> {
    let mut buffers = Buffers::default();
    for &[base, len] in parts.iter().filter(|[_, len]| *len > 0) {
        add_buffer(ctx, &mut buffers, base, len, access)?;
    }
    buffers.iov.truncate(IOV_MAX as usize);
    Ok(buffers)
}

/// Whether the host returns without waiting for the file to be ready.
fn answers_at_once(ctx: &ThreadCtx<'_>, file: &OpenFile, transfer: &Transfer<'_>) -> bool {
    let bytes: usize = transfer.buffers.iov.iter().map(|part| part.iov_len).sum();
    if bytes == 0 || transfer.flags & !(RWF_MAY_WAIT | RWF_NOSIGNAL) != 0 {
        return true;
    }
    // Arguments that are refused before the host waits.
    match file.kind() {
        FileKind::EventFd => bytes < 8 || is_reserved_count(ctx, transfer),
        FileKind::TimerFd => bytes < 8,
        _ => false,
    }
}

/// Whether all bits of the number to add are set: no counter accepts that.
fn is_reserved_count(ctx: &ThreadCtx<'_>, transfer: &Transfer<'_>) -> bool {
    transfer.access == MemoryAccess::Read
        && ctx.user().read_u64(transfer.buffers.base) == Ok(u64::MAX)
}

/// The kind of the first attempt.
///
/// `AtOnce` only where that moves what a waiting call moves: all of a pipe's data, or all of what
/// is written to it. The host writes up to `PIPE_BUF` bytes atomically or not at all; of more it
/// would write a part. The program's own flags keep their meaning.
fn first_attempt(ctx: &ThreadCtx<'_>, file: &OpenFile, transfer: &Transfer<'_>) -> Attempt {
    // A socket that polls as not ready may still take something: the host decides.
    let host_decides = file.kind() == FileKind::Socket && file.is_own() && file.nonblocking();
    if !file.may_block() || host_decides || answers_at_once(ctx, file, transfer) {
        return Attempt::Plain;
    }
    let bytes: usize = transfer.buffers.iov.iter().map(|part| part.iov_len).sum();
    let is_whole = transfer.access == MemoryAccess::Write || bytes <= libc::PIPE_BUF;
    if file.answers_without_waiting() && is_whole && transfer.flags == 0 {
        Attempt::AtOnce
    } else {
        Attempt::AfterWaiting
    }
}

fn move_data(ctx: &ThreadCtx<'_>, file: &OpenFile, mut transfer: Transfer<'_>) -> CallResult {
    transfer.buffers.iov.truncate(IOV_MAX as usize);
    let events = if transfer.access == MemoryAccess::Write { libc::POLLIN } else { libc::POLLOUT };
    // A file of `/proc` is regenerated when its beginning is read.
    if file.kind() == FileKind::Pseudo
        && transfer.access == MemoryAccess::Write
        && transfer.at == Some(0)
    {
        ctx.files().tell_anew(file)?;
    }
    if transfer.access == MemoryAccess::Read {
        limit_size(ctx, file, &mut transfer)?;
    }
    let mut attempt = first_attempt(ctx, file, &transfer);
    loop {
        if attempt == Attempt::AfterWaiting {
            wait_for(ctx, file, events)?;
        }
        let withheld = ctx.process.machine.mem.withheld();
        match make_attempt(ctx, file, &transfer, attempt)? {
            Ok(moved) => {
                if file.kind() == FileKind::Pseudo && transfer.access == MemoryAccess::Read {
                    let offset = transfer.at;
                    ctx.files().take_written(file, offset, moved as usize)?;
                }
                return value(moved);
            }
            Err(Errno::EINTR) if ctx.is_interrupted() => return Err(Fail::Restart),
            Err(Errno::EINTR) => {}
            // Another thread was just changing the memory's protection.
            Err(Errno::EFAULT) if ctx.process.machine.mem.withheld().may_have_hit(withheld) => {}
            Err(Errno::EOPNOTSUPP) if attempt == Attempt::AtOnce => {
                file.note_no_answer_without_waiting();
                attempt = Attempt::AfterWaiting;
            }
            // Not ready yet, or another reader consumed the data.
            Err(Errno::EAGAIN) if attempt != Attempt::Plain && !file.nonblocking() => {
                attempt = Attempt::AfterWaiting;
            }
            Err(Errno::EPIPE) => {
                if transfer.flags & RWF_NOSIGNAL == 0 {
                    super::signal::broken_pipe(ctx);
                }
                return Err(Errno::EPIPE.into());
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Truncates a write where the file may not grow further (`RLIMIT_FSIZE`).
fn limit_size(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    transfer: &mut Transfer<'_>,
) -> Result<(), Errno> {
    let at = match transfer.at {
        _ if transfer.flags & libc::RWF_APPEND != 0 => WriteAt::End,
        None => WriteAt::Current,
        Some(at) => WriteAt::Offset(at.cast_unsigned()),
    };
    let iov = &mut transfer.buffers.iov;
    let wanted = iov.iter().map(|part| part.iov_len as u64).sum();
    let mut left = ctx.files().writable_bytes(file, at, wanted)?;
    if left < wanted {
        for part in iov.iter_mut() {
            part.iov_len = part.iov_len.min(left as usize);
            left -= part.iov_len as u64;
        }
        iov.retain(|part| part.iov_len > 0);
    }
    Ok(())
}

/// Calls the host once to move the data. The outer error is the VMM's own.
fn make_attempt(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    transfer: &Transfer<'_>,
    attempt: Attempt,
) -> Result<Result<u64, Errno>, Errno> {
    let fd = file.host_fd().as_raw_fd();
    let iov = &transfer.buffers.iov;
    let (base, count) = (iov.as_ptr(), iov.len() as libc::c_int);
    let call = match transfer.access {
        MemoryAccess::Write => libc::SYS_preadv2,
        MemoryAccess::Read => libc::SYS_pwritev2,
    };
    let flags = match attempt {
        Attempt::AtOnce => transfer.flags | libc::RWF_NOWAIT,
        Attempt::AfterWaiting | Attempt::Plain => transfer.flags,
    };
    // -1 means the file's own offset, which is moved on, for pipes and terminals, too.
    let at = transfer.at.unwrap_or(-1);
    let moving = |at: i64| {
        // SAFETY: each range is guest memory that stays mapped in this process as long as
        // `transfer`, which outlives this call, or the first page, which never is; no Rust
        // reference points there. The kernel checks everything else.
        let moved = unsafe { libc::syscall(call, fd, base, count, at, 0, flags) };
        u64::try_from(moved).map_err(|_| last_errno())
    };
    match file.memory() {
        Some(memory) if transfer.access == MemoryAccess::Read => {
            write_to_memory(file, memory, transfer, at, moving)
        }
        None if transfer.access == MemoryAccess::Read && ctx.files().counts_on_disk(file) => {
            Ok(write_on_disk(ctx, file, transfer, moving))
        }
        _ => Ok(moving(at)),
    }
}

/// Writes to a file that only memory holds, within the program's limit.
fn write_to_memory(
    file: &OpenFile,
    memory: &MemoryFile,
    transfer: &Transfer<'_>,
    at: i64,
    moving: impl FnOnce(i64) -> Result<u64, Errno>,
) -> Result<Result<u64, Errno>, Errno> {
    let bytes = transfer.buffers.iov.iter().map(|piece| piece.iov_len as u64).sum();
    let fd = file.host_fd();
    let done = if transfer.flags & RWF_NOAPPEND != 0 {
        // The position depends on a flag of the description that another thread may change.
        return Err(Errno::EOPNOTSUPP);
    } else if transfer.flags & libc::RWF_APPEND != 0 {
        memory.charge.grow(fd, bytes, || moving(at))
    } else {
        let write = PendingWrite { offset: u64::try_from(at).ok(), bytes };
        memory.charge.write(fd, write, |at| moving(at.map_or(-1, u64::cast_signed)))
    };
    done.map_err(|_| Errno::ENOSPC)
}

/// Writes to a file within what the run may add to disks.
fn write_on_disk(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    transfer: &Transfer<'_>,
    moving: impl FnOnce(i64) -> Result<u64, Errno>,
) -> Result<u64, Errno> {
    let bytes = transfer.buffers.iov.iter().map(|piece| piece.iov_len as u64).sum();
    let write = PendingWrite { offset: transfer.at.map(i64::cast_unsigned), bytes };
    let appends = match transfer.flags {
        flags if flags & libc::RWF_APPEND != 0 => Some(true),
        flags if flags & RWF_NOAPPEND != 0 => Some(false),
        _ => None,
    };
    // At the end, the host finds the place by itself.
    let call = |at: Option<u64>| moving(at.map_or(transfer.at.unwrap_or(-1), u64::cast_signed));
    ctx.files().write_on_disk(file, write, appends, call)
}

/// How long to wait for a file that is not ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    None,
    Endless,
}

/// Waits until `file` is ready, unless the program asked not to wait.
pub(super) fn wait_for(ctx: &ThreadCtx<'_>, file: &OpenFile, events: i16) -> Result<(), Fail> {
    let patience = if file.nonblocking() { Patience::None } else { Patience::Endless };
    wait_with(ctx, file, events, patience)
}

fn wait_with(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    events: i16,
    patience: Patience,
) -> Result<(), Fail> {
    let mut poll = libc::pollfd { fd: file.host_fd().as_raw_fd(), events, revents: 0 };
    let timeout = if patience == Patience::None { 0 } else { -1 };
    loop {
        if ctx.is_interrupted() {
            return Err(Fail::Restart);
        }
        if file.kind() == FileKind::Terminal && timeout != 0 {
            // Also when it has been continued: then it was interrupted.
            let usage = if events == libc::POLLIN { Use::Read } else { Use::Write };
            terminal::stop_in_background(ctx, file, usage)?;
        }
        // SAFETY: one pollfd, which outlives the call.
        match unsafe { libc::poll(&mut poll, 1, timeout) } {
            0 => return Err(Errno::EAGAIN.into()),
            n if n > 0 => return Ok(()),
            _ if last_errno() == Errno::EINTR => {}
            _ => return Err(last_errno().into()),
        }
    }
}

/// A call with one buffer.
pub(super) fn simple(
    ctx: &ThreadCtx<'_>,
    a: &[u64; 6],
    access: MemoryAccess,
    at: Option<i64>,
) -> CallResult {
    let file = open_file(ctx, a[0], access, at)?;
    check_range(a[1], a[2])?;
    if file.kind() == FileKind::SignalFd {
        return signalfd::transfer(ctx, &file, &[[a[1], a[2]]], access);
    }
    if a[2] == 0 {
        return move_nothing(&file, access, at);
    }
    let mut buffers = Buffers::default();
    add_buffer(ctx, &mut buffers, a[1], a[2].min(MAX_BYTES), access)?;
    move_data(ctx, &file, Transfer { buffers, access, at, flags: 0 })
}

/// A transfer of no bytes, which the vector calls would answer without calling the file's driver:
/// some return an error (an event counter: `EINVAL`). None waits.
fn move_nothing(file: &OpenFile, access: MemoryAccess, at: Option<i64>) -> CallResult {
    let none: &mut [u8] = &mut [];
    let fd = file.host_fd();
    let moved = match (access, at) {
        (MemoryAccess::Write, None) => rustix::io::read(fd, none),
        (MemoryAccess::Read, None) => rustix::io::write(fd, none),
        (MemoryAccess::Write, Some(at)) => rustix::io::pread(fd, none, at as u64),
        (MemoryAccess::Read, Some(at)) => rustix::io::pwrite(fd, none, at as u64),
    };
    value(moved.map_err(host)? as u64)
}

pub(super) fn vectored(
    ctx: &ThreadCtx<'_>,
    a: &[u64; 6],
    access: MemoryAccess,
    at: Option<i64>,
    flags: u64,
) -> CallResult {
    let file = open_file(ctx, a[0], access, at)?;
    if file.kind() == FileKind::SignalFd {
        return signalfd::transfer(ctx, &file, &parts(ctx, a[1], a[2])?, access);
    }
    let buffers = buffers(ctx, a[1], a[2], access)?;
    move_data(ctx, &file, Transfer { buffers, access, at, flags: flags as i32 })
}

/// All flags of `splice` and its kin. Three are only hints: that a page may be moved, that more
/// follows and that it is a gift.
const SPLICE_FLAGS: u32 =
    libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;

/// `vmsplice(2)`: moves as much as there is space or data for, not all or nothing like `writev`.
/// Bytes are copied: if the host's pipe held the program's pages, the program would reuse them
/// while another process still reads them.
pub(super) fn vmsplice(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let flags = a[3] as u32;
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = ctx.files().for_io(a[0] as i32)?;
    let (access, events) = match file.can_write() {
        Ok(()) => (MemoryAccess::Read, libc::POLLOUT),
        Err(_) => (MemoryAccess::Write, libc::POLLIN),
    };
    if buffers(ctx, a[1], a[2], access)?.iov.is_empty() {
        return value(0);
    }
    if file.kind() != FileKind::Pipe {
        return Err(Errno::EBADF.into());
    }
    // Only the call's own flag counts, not the pipe's.
    let waits = flags & libc::SPLICE_F_NONBLOCK == 0;
    loop {
        wait_with(ctx, &file, events, if waits { Patience::Endless } else { Patience::None })?;
        let transfer = |flags| {
            let buffers = buffers(ctx, a[1], a[2], access)?;
            Ok::<_, Errno>(Transfer { buffers, access, at: None, flags })
        };
        let mut moved = move_data(ctx, &file, transfer(libc::RWF_NOWAIT)?);
        if moved == Err(Fail::Errno(Errno::EOPNOTSUPP)) {
            // Linux before 6.5: what a ready pipe is certain to accept or return.
            let mut least = transfer(0)?;
            least.buffers.iov.truncate(1);
            for part in &mut least.buffers.iov {
                part.iov_len = part.iov_len.min(libc::PIPE_BUF);
            }
            moved = move_data(ctx, &file, least);
        }
        match moved {
            // Another thread was faster.
            Err(Fail::Errno(Errno::EAGAIN)) if waits => {}
            moved => return moved,
        }
    }
}
