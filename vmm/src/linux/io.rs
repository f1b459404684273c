//! Waiting for descriptors, and `ioctl`. Moving data is in `transfer.rs`.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::Errno;

use super::sched::{has_bit, set_bit};
use super::time::{checked, deadline_at};
use super::{CallResult, Fail, done, io_signals, net, terminal, value};
use crate::files::{FileKind, OpenFile, Stored, host};
use crate::linux::task::ThreadCtx;

/// One descriptor to wait for.
struct Watch {
    fd: i32,
    events: i16,
}

/// Waits for any of `watches` until `deadline`. Returns the events of each.
fn wait_any(
    ctx: &ThreadCtx<'_>,
    watches: &[Watch],
    deadline: Option<Instant>,
) -> Result<Vec<i16>, Fail> {
    // The open files are kept, so that a descriptor closed meanwhile does not become another file.
    let file = |watch: &Watch| (watch.fd >= 0).then(|| ctx.files().get(watch.fd));
    let files: Vec<_> = watches.iter().map(file).collect();
    let poll = |(watch, file): (&Watch, &Option<Result<Arc<OpenFile>, _>>)| {
        let fd = match file {
            Some(Ok(file)) if file.kind() != FileKind::SyntheticDirectory => {
                file.host_fd().as_raw_fd()
            }
            _ => -1,
        };
        libc::pollfd { fd, events: watch.events, revents: 0 }
    };
    let mut polls: Vec<libc::pollfd> = watches.iter().zip(&files).map(poll).collect();
    let missing = |file: &Option<Result<_, _>>| matches!(file, Some(Err(_)));
    let any_missing = files.iter().any(missing);
    loop {
        if ctx.is_interrupted() {
            return Err(Fail::Errno(Errno::EINTR));
        }
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let timeout = if any_missing { Some(Duration::ZERO) } else { left };
        let ts = timeout.map(|t| libc::timespec {
            tv_sec: t.as_secs().min(i64::MAX as u64) as i64,
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        let ts_ptr = ts.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the array and the time outlive the call; no mask is given.
        let ready = unsafe {
            libc::ppoll(polls.as_mut_ptr(), polls.len() as u64, ts_ptr, std::ptr::null())
        };
        match checked(ready.into()) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    let events = |(poll, file): (&libc::pollfd, _)| {
        if missing(file) { libc::POLLNVAL } else { poll.revents }
    };
    Ok(polls.iter().zip(&files).map(events).collect())
}

fn poll_until(ctx: &ThreadCtx<'_>, at: u64, count: u64, deadline: Option<Instant>) -> CallResult {
    // The argument is an int on Linux.
    let count = u64::from(count as u32);
    if count > u64::from(ctx.files().nofile()) {
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
    for (entry, events) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&happened) {
        let [low, high] = events.to_le_bytes();
        entry[6] = low;
        entry[7] = high;
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

/// Writes at `at` what remains of a wait, as Linux does however the wait ends: seconds, and their
/// `fraction` in the unit of the call. Like Linux, it ignores a failure to store it.
fn write_remaining(
    ctx: &ThreadCtx<'_>,
    at: u64,
    deadline: Option<Instant>,
    fraction: fn(&Duration) -> u32,
) {
    if let Some(deadline) = deadline.filter(|_| !ctx.process.settings.keeps_timeouts()) {
        let left = deadline.saturating_duration_since(Instant::now());
        let _ = ctx.user().write_words(at, [left.as_secs(), u64::from(fraction(&left))]);
    }
}
/// Bytes of the kernel's signal set.
const SIGSET_BYTES: u64 = 8;

/// `ppoll(2)`.
pub(super) fn ppoll(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[3] != 0 && a[4] != SIGSET_BYTES {
        return Err(Errno::EINVAL.into());
    }
    let deadline = deadline_at(ctx, a[2])?;
    super::signal::with_mask(ctx, a[3], |ctx| {
        let result = poll_until(ctx, a[0], a[1], deadline);
        write_remaining(ctx, a[2], deadline, Duration::subsec_nanos);
        result
    })
}

/// `select(2)`.
pub(super) fn select(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let deadline = match a[4] {
        0 => None,
        at => {
            let [sec, usec] = ctx.user().read_words(at)?;
            if sec > i64::MAX as u64 || usec >= 1_000_000 {
                return Err(Errno::EINVAL.into());
            }
            Instant::now().checked_add(Duration::new(sec, usec as u32 * 1000))
        }
    };
    let result = select_until(ctx, a, deadline);
    write_remaining(ctx, a[4], deadline, Duration::subsec_micros);
    result
}

/// `pselect6(2)`.
pub(super) fn pselect6(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let deadline = deadline_at(ctx, a[4])?;
    let mask = if a[5] == 0 { 0 } else { ctx.user().read_u64(a[5])? };
    super::signal::with_mask(ctx, mask, |ctx| {
        let result = select_until(ctx, a, deadline);
        write_remaining(ctx, a[4], deadline, Duration::subsec_nanos);
        result
    })
}

/// Largest `fd_set` read: the descriptor limit.
const SELECT_MAX: u64 = 1024;

fn select_until(ctx: &ThreadCtx<'_>, a: &[u64; 6], deadline: Option<Instant>) -> CallResult {
    let count = u64::try_from(a[0] as i32).map_err(|_| Errno::EINVAL)?.min(SELECT_MAX);
    let bytes = (count as usize).div_ceil(64) * 8;
    let kinds = [(a[1], libc::POLLIN), (a[2], libc::POLLOUT), (a[3], libc::POLLPRI)];
    let given = || kinds.into_iter().filter(|&(at, _)| at != 0);
    let mut watches = Vec::new();
    for (at, events) in given() {
        let mut set = vec![0u8; bytes];
        ctx.user().copy_in(at, &mut set)?;
        for fd in 0..count as usize {
            if has_bit(&set, fd) {
                ctx.files().get(fd as i32)?;
                watches.push(Watch { fd: fd as i32, events });
            }
        }
    }
    let happened = wait_any(ctx, &watches, deadline)?;
    let mut total = 0;
    for (at, events) in given() {
        let mut set = vec![0u8; bytes];
        let interesting = match events {
            libc::POLLIN => libc::POLLIN | libc::POLLHUP | libc::POLLERR,
            libc::POLLOUT => libc::POLLOUT | libc::POLLERR,
            other => other,
        };
        for (watch, got) in watches.iter().zip(&happened) {
            if watch.events == events && got & interesting != 0 {
                set_bit(&mut set, watch.fd as usize);
                total += 1;
            }
        }
        ctx.user().copy_out(at, &set)?;
    }
    value(total)
}

/// The size of a file, directory or link.
const FIOQSIZE: libc::Ioctl = 0x5460;

/// Bits of entropy.
const RNDGETENTCNT: libc::Ioctl = 0x8004_5200;
const FICLONE: libc::Ioctl = 0x4004_9409;
const FICLONERANGE: libc::Ioctl = 0x4020_940d;

/// `FICLONE`, `FICLONERANGE`: the host's file system shares the blocks, or refuses. Both files are
/// open with the access that the host requires.
fn clone_file(ctx: &ThreadCtx<'_>, to: &OpenFile, request: u64, arg: u64) -> CallResult {
    let size = |file: &OpenFile| {
        rustix::fs::fstat(file.host_fd()).map_or(u64::MAX, |stat| stat.st_size.cast_unsigned())
    };
    if request as libc::Ioctl == FICLONE {
        let from = ctx.files().for_io(arg as i32)?;
        let clone = || rustix::fs::ioctl_ficlone(to.host_fd(), from.host_fd()).map_err(host);
        return done(ctx.files().growing(to, |_| size(&from), Stored::ToItsEnd, clone));
    }
    let mut range: [u64; 4] = ctx.user().read_words(arg)?;
    let from = ctx.files().for_io(range[0] as i32)?;
    range[0] = from.host_fd().as_raw_fd() as u64;
    let [_, start, len, at] = range;
    let end = |_| match len {
        0 => at.saturating_add(size(&from).saturating_sub(start)),
        len => at.saturating_add(len),
    };
    let clone = || {
        // SAFETY: reads the four words at the pointer.
        let cloned = unsafe { libc::ioctl(to.host_fd().as_raw_fd(), FICLONERANGE, range.as_ptr()) };
        checked(cloned.into())
    };
    value(ctx.files().growing(to, end, Stored::ToItsEnd, clone)?)
}

/// `ioctl(2)`: the few requests that every descriptor supports; those of terminals are in `terminal`.
pub(super) fn ioctl(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [fd, request, arg, ..] = *a;
    let files = ctx.files();
    let file = files.for_io(fd as i32)?;
    if file.kind() == FileKind::Terminal
        && let Some(result) = terminal::ioctl(ctx, &file, request, arg)
    {
        return result;
    }
    if file.kind() == FileKind::Socket
        && let Some(result) = net::ioctl(ctx, &file, request, arg)
    {
        return result;
    }
    match request as libc::Ioctl {
        FIOQSIZE => from_host(ctx, &file, request, arg, 8),
        RNDGETENTCNT if file.kind() == FileKind::Memory => from_host(ctx, &file, request, arg, 4),
        FICLONE | FICLONERANGE => clone_file(ctx, &file, request, arg),
        libc::FIONREAD => from_host(ctx, &file, request, arg, 4),
        libc::FIONBIO => {
            let on = ctx.user().read_u32(arg)? != 0;
            let old = files.fcntl(fd as i32, libc::F_GETFL, 0)?;
            let bit = libc::O_NONBLOCK as u64;
            let new = if on { old | bit } else { old & !bit };
            value(files.fcntl(fd as i32, libc::F_SETFL, new)?)
        }
        libc::FIOASYNC => io_signals::fioasync(ctx, &file, fd as i32, arg),
        libc::FIOCLEX => value(files.fcntl(fd as i32, libc::F_SETFD, 1)?),
        libc::FIONCLEX => value(files.fcntl(fd as i32, libc::F_SETFD, 0)?),
        _ => Err(Errno::ENOTTY.into()),
    }
}

/// Serves a request by which the host fills `bytes` at `arg`.
pub(super) fn from_host(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    request: u64,
    arg: u64,
    bytes: usize,
) -> CallResult {
    // Larger than any structure these requests fill.
    let mut buffer = [0u8; 64];
    // SAFETY: the requests passed here write at most 60 bytes at the pointer.
    let got = unsafe {
        libc::ioctl(file.host_fd().as_raw_fd(), request as libc::Ioctl, buffer.as_mut_ptr())
    };
    checked(got.into())?;
    done(ctx.user().copy_out(arg, buffer.get(..bytes).unwrap_or_default()))
}
