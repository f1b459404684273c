//! Data transfer, waiting for it, and terminals.
//!
//! The host kernel reads and writes guest memory directly: a buffer becomes the host ranges
//! behind it, and one `readv` moves the data without a copy of ours. A thread that may have
//! to wait does so in the host's `poll`, which a kick interrupts.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::addr::LOWER_HALF_END;
use abi::{Errno, PAGE_SIZE};

use super::fs::{Kind, OpenFile};
use super::time::{last_errno, read_timespec};
use super::{CallResult, Fail, value};
use crate::process::ThreadCtx;
use crate::space::Access;
use crate::user_memory::Pinned;

/// The number of the host's call that moves data: the newest form of `readv` or `writev`.
type VectorIo = libc::c_long;

/// Most bytes one call moves (Linux's MAX_RW_COUNT).
const MAX_BYTES: u64 = 0x7fff_f000;
const IOV_MAX: u64 = 1024;

/// The program's buffers as the host kernel takes them.
#[derive(Default)]
struct Buffers<'a> {
    iov: Vec<libc::iovec>,
    /// Keeps what `iov` names where it is.
    pins: Vec<Pinned<'a>>,
}

/// Buffers of the program, and the direction data takes.
struct Transfer<'a> {
    buffers: Buffers<'a>,
    access: Access,
    offset: Option<i64>,
}

fn open_file(ctx: &ThreadCtx<'_>, fd: u64, access: Access) -> Result<Arc<OpenFile>, Errno> {
    let file = ctx.process.files.get(fd as i32)?;
    // Data read from a file is written to memory.
    match access {
        Access::Write => file.can_read()?,
        Access::Read => file.can_write()?,
    }
    Ok(file)
}

fn one_buffer<'a>(
    ctx: &ThreadCtx<'a>,
    at: u64,
    len: u64,
    access: Access,
) -> Result<Buffers<'a>, Errno> {
    let mut buffers = Buffers::default();
    add_buffer(ctx, &mut buffers, at, len.min(MAX_BYTES), access)?;
    Ok(buffers)
}

/// Adds the host ranges behind a buffer; returns how many bytes they hold.
fn add_buffer<'a>(
    ctx: &ThreadCtx<'a>,
    buffers: &mut Buffers<'a>,
    at: u64,
    len: u64,
    access: Access,
) -> Result<u64, Errno> {
    let iov = &mut buffers.iov;
    let pinned = match ctx.user().ranges(at, len, access) {
        // Whether the buffer is looked at is for the host to say: a read at the end of a file
        // succeeds, a write to /dev/null too. Addresses beyond the lower half fail at once.
        Err(Errno::EFAULT)
            if iov.is_empty() && at.checked_add(len).is_some_and(|end| end < LOWER_HALF_END) =>
        {
            iov.push(unreachable_buffer(len));
            return Ok(0);
        }
        pinned => pinned?,
    };
    iov.extend(pinned.ranges().iter().map(|range| range.iovec()));
    let bytes = pinned.bytes();
    buffers.pins.push(pinned);
    Ok(bytes)
}

/// A buffer of at most `len` bytes in this process's first page, which is never mapped: the
/// host kernel finds what it would find at the program's bad pointer.
fn unreachable_buffer(len: u64) -> libc::iovec {
    let base = std::ptr::without_provenance_mut(16);
    libc::iovec { iov_base: base, iov_len: (len as usize).min(PAGE_SIZE as usize - 16) }
}

/// The buffers of an `iovec` array. The first inaccessible one ends the list, unless it is
/// the very first: then the call fails, as on Linux.
fn buffers<'a>(
    ctx: &ThreadCtx<'a>,
    array: u64,
    count: u64,
    access: Access,
) -> Result<Buffers<'a>, Errno> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; count as usize * 16];
    ctx.user().copy_in(array, &mut bytes)?;
    let word = |w: &[u8]| w.try_into().map_or(0, u64::from_le_bytes);
    let pairs: Vec<(u64, u64)> = bytes
        .chunks_exact(16)
        .map(|pair| {
            let (base, len) = pair.split_at(8);
            (word(base), word(len))
        })
        .collect();
    if pairs.iter().any(|&(_, len)| len > i64::MAX as u64) {
        return Err(Errno::EINVAL);
    }
    let mut buffers = Buffers::default();
    let mut room = MAX_BYTES;
    for (base, len) in pairs {
        let len = len.min(room);
        if len == 0 {
            continue;
        }
        match add_buffer(ctx, &mut buffers, base, len, access) {
            Ok(got) if got == len => room -= len,
            Ok(_) => break,
            Err(errno) if buffers.iov.is_empty() => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(buffers)
}

fn transfer(ctx: &ThreadCtx<'_>, file: &OpenFile, transfer: Transfer<'_>) -> CallResult {
    let Transfer { mut buffers, access, offset } = transfer;
    buffers.iov.truncate(IOV_MAX as usize);
    let fd = file.host_fd().as_raw_fd();
    let events = if access == Access::Write { libc::POLLIN } else { libc::POLLOUT };
    if file.kind() == Kind::Pseudo && access == Access::Write && offset == Some(0) {
        ctx.process.files.tell_anew(file)?;
    }
    loop {
        if file.may_block() {
            wait_for(ctx, file, events)?;
        }
        let (base, count) = (buffers.iov.as_ptr(), buffers.iov.len() as libc::c_int);
        let (read, write): (VectorIo, VectorIo) = (libc::SYS_preadv2, libc::SYS_pwritev2);
        let call = if access == Access::Write { read } else { write };
        // -1 means the file's own offset, which is moved on, also for pipes and terminals.
        let at = offset.unwrap_or(-1);
        let withheld = ctx.process.machine.mem.withheld();
        // SAFETY: each range is guest memory that stays mapped in this process as long as `buffers`,
        // to the end of this function, or the first page, which never is; no Rust reference
        // points there. The kernel checks everything else.
        let moved = unsafe { libc::syscall(call, fd, base, count, at, 0, 0) };
        if moved >= 0 {
            if file.kind() == Kind::Pseudo && access == Access::Read {
                ctx.process.files.take_written(file, offset, moved as usize)?;
            }
            return value(moved as u64);
        }
        match last_errno() {
            Errno::EINTR if ctx.is_interrupted() => return Err(Fail::Restart),
            Errno::EINTR => {}
            // Another thread was just changing rights of the memory.
            Errno::EFAULT if ctx.process.machine.mem.withheld().may_have_hit(withheld) => {}
            // Somebody else took what there was.
            Errno::EAGAIN if !file.nonblocking() => {}
            Errno::EPIPE => {
                super::signal::broken_pipe(ctx);
                return Err(Errno::EPIPE.into());
            }
            errno => return Err(errno.into()),
        }
    }
}

/// Waits until `file` is ready, if the program did not ask not to wait.
fn wait_for(ctx: &ThreadCtx<'_>, file: &OpenFile, events: i16) -> Result<(), Fail> {
    let mut poll = libc::pollfd { fd: file.host_fd().as_raw_fd(), events, revents: 0 };
    let timeout = if file.nonblocking() { 0 } else { -1 };
    loop {
        if ctx.is_interrupted() {
            return Err(Fail::Restart);
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

fn simple(ctx: &ThreadCtx<'_>, a: &[u64; 6], access: Access, offset: Option<i64>) -> CallResult {
    let file = open_file(ctx, a[0], access)?;
    if offset.is_some_and(|at| at < 0) {
        return Err(Errno::EINVAL.into());
    }
    let buffers = one_buffer(ctx, a[1], a[2], access)?;
    transfer(ctx, &file, Transfer { buffers, access, offset })
}

fn vectored(ctx: &ThreadCtx<'_>, a: &[u64; 6], access: Access, offset: Option<i64>) -> CallResult {
    let file = open_file(ctx, a[0], access)?;
    if offset.is_some_and(|at| at < 0) {
        return Err(Errno::EINVAL.into());
    }
    let buffers = buffers(ctx, a[1], a[2], access)?;
    transfer(ctx, &file, Transfer { buffers, access, offset })
}

/// `read(2)`.
pub(super) fn read(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    simple(ctx, a, Access::Write, None)
}

/// `write(2)`.
pub(super) fn write(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    simple(ctx, a, Access::Read, None)
}

/// `pread64(2)`.
pub(super) fn pread(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    simple(ctx, a, Access::Write, Some(a[3] as i64))
}

/// `pwrite64(2)`.
pub(super) fn pwrite(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    simple(ctx, a, Access::Read, Some(a[3] as i64))
}

/// `readv(2)`.
pub(super) fn readv(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    vectored(ctx, a, Access::Write, None)
}

/// `writev(2)`.
pub(super) fn writev(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    vectored(ctx, a, Access::Read, None)
}

/// Offset -1 of the newest forms means the file's own.
fn given_offset(a: &[u64; 6]) -> Option<i64> {
    let at = a[3] as i64;
    (at != -1).then_some(at)
}

/// `preadv(2)`, `preadv2(2)` without flags.
pub(super) fn preadv(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    vectored(ctx, a, Access::Write, given_offset(a))
}

/// `pwritev(2)`, `pwritev2(2)` without flags.
pub(super) fn pwritev(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    vectored(ctx, a, Access::Read, given_offset(a))
}

/// One descriptor to wait for.
struct Watch {
    fd: i32,
    events: i16,
}

/// Waits for any of `watches` until `deadline`. Gives what happened to each.
fn wait_any(
    ctx: &ThreadCtx<'_>,
    watches: &[Watch],
    deadline: Option<Instant>,
) -> Result<Vec<i16>, Fail> {
    // The open files are kept, so that a descriptor closed meanwhile is not another's.
    let files: Vec<_> = watches
        .iter()
        .map(|w| if w.fd < 0 { None } else { Some(ctx.process.files.get(w.fd)) })
        .collect();
    let mut polls: Vec<libc::pollfd> = watches
        .iter()
        .zip(&files)
        .map(|(watch, file)| {
            let fd = match file {
                Some(Ok(file)) if file.kind() != Kind::SyntheticDirectory => {
                    file.host_fd().as_raw_fd()
                }
                _ => -1,
            };
            libc::pollfd { fd, events: watch.events, revents: 0 }
        })
        .collect();
    let missing = |file: &Option<Result<_, _>>| matches!(file, Some(Err(_)));
    let any_missing = files.iter().any(missing);
    loop {
        if ctx.is_interrupted() {
            return Err(Fail::Errno(Errno::EINTR));
        }
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let timeout = match left {
            _ if any_missing => Some(Duration::ZERO),
            left => left,
        };
        let ts = timeout.map(|t| libc::timespec {
            tv_sec: t.as_secs().min(i64::MAX as u64) as i64,
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        let ts_ptr = ts.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the array and the time outlive the call; no mask is given.
        let ready = unsafe {
            libc::ppoll(polls.as_mut_ptr(), polls.len() as u64, ts_ptr, std::ptr::null())
        };
        if ready >= 0 {
            let events = polls
                .iter()
                .zip(&files)
                .map(|(poll, file)| if missing(file) { libc::POLLNVAL } else { poll.revents });
            return Ok(events.collect());
        }
        match last_errno() {
            Errno::EINTR => {}
            errno => return Err(errno.into()),
        }
    }
}

fn poll_until(ctx: &ThreadCtx<'_>, at: u64, count: u64, deadline: Option<Instant>) -> CallResult {
    if count > u64::from(ctx.process.files.nofile()) {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = vec![0; count as usize * 8];
    ctx.user().copy_in(at, &mut bytes)?;
    let watches: Vec<Watch> = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&[a, b, c, d, e, f, _, _]| Watch {
            fd: i32::from_le_bytes([a, b, c, d]),
            events: i16::from_le_bytes([e, f]),
        })
        .collect();
    let happened = wait_any(ctx, &watches, deadline)?;
    for (slot, events) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&happened) {
        let [low, high] = events.to_le_bytes();
        slot[6] = low;
        slot[7] = high;
    }
    ctx.user().copy_out(at, &bytes)?;
    value(happened.iter().filter(|&&e| e != 0).count() as u64)
}

/// `poll(2)`.
pub(super) fn poll(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let timeout = a[2] as i32;
    let deadline = u64::try_from(timeout).ok().map(|ms| Instant::now() + Duration::from_millis(ms));
    poll_until(ctx, a[0], a[1], deadline)
}

fn deadline_at(ctx: &ThreadCtx<'_>, at: u64) -> Result<Option<Instant>, Errno> {
    if at == 0 {
        return Ok(None);
    }
    let ts = read_timespec(ctx, at)?;
    Ok(Instant::now().checked_add(Duration::new(ts.tv_sec as u64, ts.tv_nsec as u32)))
}

/// `ppoll(2)`.
pub(super) fn ppoll(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let deadline = deadline_at(ctx, a[2])?;
    super::signal::with_mask(ctx, a[3], |ctx| poll_until(ctx, a[0], a[1], deadline))
}

/// `select(2)`.
pub(super) fn select(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let deadline = match a[4] {
        0 => None,
        at => {
            let (sec, usec) = (ctx.user().read_u64(at)?, ctx.user().read_u64(at.wrapping_add(8))?);
            if sec > i64::MAX as u64 || usec >= 1_000_000 {
                return Err(Errno::EINVAL.into());
            }
            Instant::now().checked_add(Duration::new(sec, usec as u32 * 1000))
        }
    };
    select_until(ctx, a, deadline)
}

/// `pselect6(2)`.
pub(super) fn pselect6(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let deadline = deadline_at(ctx, a[4])?;
    let mask = if a[5] == 0 { 0 } else { ctx.user().read_u64(a[5])? };
    super::signal::with_mask(ctx, mask, |ctx| select_until(ctx, a, deadline))
}

/// Largest `fd_set` looked at: the descriptor limit.
const SELECT_MAX: u64 = 1024;

fn select_until(ctx: &ThreadCtx<'_>, a: &[u64; 6], deadline: Option<Instant>) -> CallResult {
    let count = a[0].min(SELECT_MAX);
    if a[0] as i32 <= -1 {
        return Err(Errno::EINVAL.into());
    }
    let bytes = (count as usize).div_ceil(64) * 8;
    let kinds = [(a[1], libc::POLLIN), (a[2], libc::POLLOUT), (a[3], libc::POLLPRI)];
    let mut watches = Vec::new();
    for (at, events) in kinds {
        if at == 0 {
            continue;
        }
        let mut set = vec![0u8; bytes];
        ctx.user().copy_in(at, &mut set)?;
        for fd in 0..count as usize {
            if set.get(fd / 8).is_some_and(|byte| byte >> (fd % 8) & 1 != 0) {
                ctx.process.files.get(fd as i32)?;
                watches.push(Watch { fd: fd as i32, events });
            }
        }
    }
    let happened = wait_any(ctx, &watches, deadline)?;
    let mut total = 0;
    for (at, events) in kinds {
        if at == 0 {
            continue;
        }
        let mut set = vec![0u8; bytes];
        let interesting = match events {
            libc::POLLIN => libc::POLLIN | libc::POLLHUP | libc::POLLERR,
            libc::POLLOUT => libc::POLLOUT | libc::POLLERR,
            other => other,
        };
        for (watch, got) in watches.iter().zip(&happened) {
            let fd = watch.fd as usize;
            if watch.events == events
                && got & interesting != 0
                && let Some(b) = set.get_mut(fd / 8)
            {
                *b |= 1 << (fd % 8);
                total += 1;
            }
        }
        ctx.user().copy_out(at, &set)?;
    }
    value(total)
}

/// Bytes of the kernel's `struct termios`.
const TERMIOS_BYTES: usize = 36;
const WINSIZE_BYTES: usize = 8;

/// `ioctl(2)`: terminals, and the few requests every descriptor knows.
pub(super) fn ioctl(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [fd, request, arg, ..] = *a;
    let files = &ctx.process.files;
    let file = files.get(fd as i32)?;
    match request as libc::Ioctl {
        libc::TCGETS => from_terminal(ctx, &file, request, arg, TERMIOS_BYTES),
        libc::TIOCGWINSZ => from_terminal(ctx, &file, request, arg, WINSIZE_BYTES),
        libc::TCSETS | libc::TCSETSW | libc::TCSETSF => {
            to_terminal(ctx, &file, request, arg, TERMIOS_BYTES)
        }
        libc::TIOCGPGRP | libc::TIOCGSID if file.kind() == Kind::Terminal => {
            ctx.user().copy_out(arg, &crate::process::table::PID.to_le_bytes())?;
            value(0)
        }
        libc::TIOCSPGRP if file.kind() == Kind::Terminal => value(0),
        libc::FIONREAD => from_host(ctx, &file, request, arg, 4),
        libc::FIONBIO => {
            let on = ctx.user().read_u32(arg)? != 0;
            let old = files.fcntl(fd as i32, libc::F_GETFL, 0)?;
            let bit = libc::O_NONBLOCK as u64;
            let new = if on { old | bit } else { old & !bit };
            value(files.fcntl(fd as i32, libc::F_SETFL, new)?)
        }
        libc::FIOCLEX => value(files.fcntl(fd as i32, libc::F_SETFD, 1)?),
        libc::FIONCLEX => value(files.fcntl(fd as i32, libc::F_SETFD, 0)?),
        _ => Err(Errno::ENOTTY.into()),
    }
}

fn from_terminal(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    request: u64,
    arg: u64,
    bytes: usize,
) -> CallResult {
    if file.kind() != Kind::Terminal {
        return Err(Errno::ENOTTY.into());
    }
    from_host(ctx, file, request, arg, bytes)
}

fn from_host(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    request: u64,
    arg: u64,
    bytes: usize,
) -> CallResult {
    // Larger than any structure these requests fill.
    let mut buffer = [0u8; 64];
    // SAFETY: the requests passed here write at most 60 bytes at the pointer.
    let done = unsafe {
        libc::ioctl(file.host_fd().as_raw_fd(), request as libc::Ioctl, buffer.as_mut_ptr())
    };
    if done < 0 {
        return Err(last_errno().into());
    }
    ctx.user().copy_out(arg, buffer.get(..bytes).unwrap_or_default())?;
    value(0)
}

fn to_terminal(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    request: u64,
    arg: u64,
    bytes: usize,
) -> CallResult {
    if file.kind() != Kind::Terminal {
        return Err(Errno::ENOTTY.into());
    }
    let mut buffer = [0u8; 64];
    ctx.user().copy_in(arg, buffer.get_mut(..bytes).unwrap_or_default())?;
    // SAFETY: the requests passed here read at most 60 bytes at the pointer.
    let done =
        unsafe { libc::ioctl(file.host_fd().as_raw_fd(), request as libc::Ioctl, buffer.as_ptr()) };
    if done < 0 { Err(last_errno().into()) } else { value(0) }
}
