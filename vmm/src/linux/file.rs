//! File calls: registers and guest memory on one side, [`crate::files::Files`] on the other.
//!
//! Only calls that take more than decoding their arguments: the others are done by their rows in
//! `linux/mod.rs`. Data transfer is in `transfer.rs`.

use std::sync::Arc;

use abi::Errno;
use rustix::pipe::SpliceFlags;

use super::{CWD, CallResult, Fail, done, io_signals, value};
use crate::files::{
    F_GETOWN_EX, F_SETOWN_EX, FileKind, Files, OpenFile, PendingWrite, Times, WriteAt, host,
    times_of,
};
use crate::linux::task::ThreadCtx;

/// The flags that `creat(2)` stands for.
pub(super) const CREAT: i32 = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;

type Ctx<'a, 'b> = &'a mut ThreadCtx<'b>;
type Args<'a> = &'a [u64; 6];

fn files<'a>(ctx: &'a ThreadCtx<'_>) -> &'a Files {
    ctx.files()
}

/// Calls that wait in the host for another thread or process: a signal restarts them.
fn waiting<T>(ctx: &ThreadCtx<'_>, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Fail> {
    if ctx.is_interrupted() {
        return Err(Fail::Restart);
    }
    call().map_err(|e| if e == Errno::EINTR { Fail::Restart } else { e.into() })
}

/// `openat(2)`: of a FIFO, it waits for the other end.
pub(super) fn open(ctx: &ThreadCtx<'_>, at: i32, path: &[u8], flags: i32, mode: u32) -> CallResult {
    value(waiting(ctx, || files(ctx).openat(at, path, flags, mode))? as u64)
}

pub(super) fn fcntl(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let command = a[1] as i32;
    if matches!(command, F_SETOWN_EX | F_GETOWN_EX) {
        return owner(ctx, a[0] as i32, command, a[2]);
    }
    if !Files::is_lock_command(command) {
        let result = files(ctx).fcntl(a[0] as i32, command, a[2])?;
        if command == libc::F_SETOWN {
            io_signals::tell_host(ctx, a[0] as i32)?;
        }
        return value(result);
    }
    let lock = ctx.user().read_words(a[2])?;
    let lock = waiting(ctx, || files(ctx).fcntl_lock(a[0] as i32, command, lock))?;
    // Setting one only reads the structure, which may be in read-only memory.
    if !matches!(command, libc::F_GETLK | libc::F_OFD_GETLK) {
        return value(0);
    }
    done(ctx.user().write_words(a[2], lock))
}

/// `fcntl` with a `struct f_owner_ex`: two numbers of 32 bits.
fn owner(ctx: &ThreadCtx<'_>, fd: i32, command: i32, at: u64) -> CallResult {
    if command == F_GETOWN_EX {
        let [kind, id] = files(ctx).fcntl_owner(fd, None)?.map(i32::to_le_bytes);
        return done(ctx.user().copy_out(at, &[kind, id].concat()));
    }
    files(ctx).for_io(fd)?;
    let mut bytes = [[0; 4]; 2];
    ctx.user().copy_in(at, bytes.as_flattened_mut())?;
    files(ctx).fcntl_owner(fd, Some(bytes.map(i32::from_le_bytes)))?;
    io_signals::tell_host(ctx, fd)?;
    value(0)
}

pub(super) fn flock(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    waiting(ctx, || files(ctx).flock(a[0] as i32, a[1] as i32))?;
    value(0)
}

pub(super) fn pipe2(ctx: Ctx<'_, '_>, at: u64, flags: i32) -> CallResult {
    let ends = files(ctx).pipe2(flags)?;
    let copied = ctx.user().copy_out(at, ends.map(i32::to_le_bytes).as_flattened());
    if copied.is_err() {
        for end in ends {
            files(ctx).close(end)?;
        }
    }
    done(copied)
}

/// More than this at a time is not worth the buffer.
const DIRENTS_MAX: u64 = 256 << 10;

pub(super) fn getdents64(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    // Checked first: entries read from the directory would be lost on a bad pointer.
    let wanted = u64::try_from(a[2] as i32).map_err(|_| Errno::EINVAL)?.min(DIRENTS_MAX);
    let ranges = ctx.user().ranges(a[1], wanted, crate::access::MemoryAccess::Write);
    let capacity = match ranges {
        Ok(pinned) => pinned.bytes(),
        Err(errno) => {
            files(ctx).for_io(a[0] as i32)?;
            return Err(errno.into());
        }
    };
    let bytes = files(ctx).getdents64(a[0] as i32, capacity as usize).map_err(|errno| {
        // Not even one entry fits into the accessible part of the buffer.
        if errno == Errno::EINVAL && capacity < wanted { Errno::EFAULT } else { errno }
    })?;
    ctx.user().copy_out(a[1], &bytes)?;
    value(bytes.len() as u64)
}

pub(super) fn readlink(
    ctx: &ThreadCtx<'_>,
    dir: i32,
    at: u64,
    to: u64,
    capacity: u64,
) -> CallResult {
    if capacity as i32 <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = ctx.user().read_path(at)?;
    let text = files(ctx).readlinkat(dir, &path, capacity.min(4096) as usize)?;
    ctx.user().copy_out(to, &text)?;
    value(text.len() as u64)
}

/// An offset passed by pointer, where one is.
fn offset(ctx: &ThreadCtx<'_>, at: u64) -> Result<Option<u64>, Errno> {
    if at == 0 { Ok(None) } else { ctx.user().read_u64(at).map(Some) }
}

fn write_offset(ctx: &ThreadCtx<'_>, at: u64, offset: Option<u64>) -> Result<(), Errno> {
    match offset {
        Some(offset) => ctx.user().copy_out(at, &offset.to_le_bytes()),
        None => Ok(()),
    }
}

pub(super) fn copy_file_range(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let (mut from, mut to) = (offset(ctx, a[1])?, offset(ctx, a[3])?);
    let copied = files(ctx).copy_file_range(
        a[0] as i32,
        from.as_mut(),
        a[2] as i32,
        to.as_mut(),
        a[4] as usize,
        a[5] as u32,
    )?;
    write_offset(ctx, a[1], from)?;
    write_offset(ctx, a[3], to)?;
    value(copied as u64)
}

/// Sends the signal that goes with `EPIPE`.
fn or_broken_pipe(ctx: Ctx<'_, '_>, moved: Result<usize, Fail>) -> Result<usize, Fail> {
    if moved == Err(Fail::Errno(Errno::EPIPE)) {
        super::signal::broken_pipe(ctx);
    }
    moved
}

pub(super) fn sendfile(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let mut from = offset(ctx, a[2])?;
    let sent = waiting(ctx, || {
        files(ctx).sendfile(a[0] as i32, a[1] as i32, from.as_mut(), a[3] as usize)
    });
    let sent = or_broken_pipe(ctx, sent)?;
    write_offset(ctx, a[2], from)?;
    value(sent as u64)
}

fn both_for_io(ctx: &ThreadCtx<'_>, a: u64, b: u64) -> Result<[Arc<OpenFile>; 2], Errno> {
    let both = [files(ctx).get(a as i32)?, files(ctx).get(b as i32)?];
    both.iter().try_for_each(|file| file.check_not_path())?;
    Ok(both)
}

/// `splice(2)`: moves data between a pipe and something else inside the host kernel.
pub(super) fn splice(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let [from, to] = both_for_io(ctx, a[0], a[2])?;
    let is_pipe = |file: &OpenFile| file.kind() == FileKind::Pipe;
    if (is_pipe(&from) && a[1] != 0) || (is_pipe(&to) && a[3] != 0) {
        return Err(Errno::ESPIPE.into());
    }
    if to.kind() == FileKind::Netlink {
        return Err(Errno::EINVAL.into());
    }
    let (mut from_at, mut to_at) = (offset(ctx, a[1])?, offset(ctx, a[3])?);
    let flags = SpliceFlags::from_bits_retain(a[5] as u32);
    let place = to_at.map_or(WriteAt::Current, WriteAt::Offset);
    let len = files(ctx).writable_bytes(&to, place, a[4])? as usize;
    if files(ctx).counts_on_disk(&to) && is_pipe(&from) {
        let moved = splice_to_disk(ctx, &from, (&to, to_at), len, flags)?;
        write_offset(ctx, a[3], to_at.map(|at| at.saturating_add(moved)))?;
        return value(moved);
    }
    let moved = waiting(ctx, || {
        let (from, to) = (from.host_fd(), to.host_fd());
        rustix::pipe::splice(from, from_at.as_mut(), to, to_at.as_mut(), len, flags).map_err(host)
    });
    let moved = or_broken_pipe(ctx, moved)?;
    write_offset(ctx, a[1], from_at)?;
    write_offset(ctx, a[3], to_at)?;
    value(moved as u64)
}

/// Moves what a pipe has to a file whose growth counts: no other file of the run grows meanwhile, so it is
/// waited for the pipe before.
fn splice_to_disk(
    ctx: &ThreadCtx<'_>,
    from: &OpenFile,
    (to, offset): (&OpenFile, Option<u64>),
    len: usize,
    flags: SpliceFlags,
) -> Result<u64, Fail> {
    to.can_write()?;
    from.can_read()?;
    let waits = !flags.contains(SpliceFlags::NONBLOCK);
    loop {
        if waits && len > 0 {
            super::transfer::wait_for(ctx, from, libc::POLLIN)?;
        }
        // No more than it has now, so that no more is charged; at its end, what there is to be found out.
        let has = rustix::io::ioctl_fionread(from.host_fd()).unwrap_or(0).max(1);
        let len = (len as u64).min(has);
        let write = PendingWrite { offset, bytes: len };
        let moved = files(ctx).write_on_disk(to, write, None, |at| {
            let (mut at, flags) = (at.or(offset), flags | SpliceFlags::NONBLOCK);
            let (from, to) = (from.host_fd(), to.host_fd());
            let moved = rustix::pipe::splice(from, None, to, at.as_mut(), len as usize, flags);
            moved.map(|moved| moved as u64).map_err(host)
        });
        match moved {
            // Another reader was faster.
            Err(Errno::EAGAIN) if waits => {}
            Err(Errno::EINTR) if !ctx.is_interrupted() => {}
            Err(Errno::EINTR) => return Err(Fail::Restart),
            moved => return Ok(moved?),
        }
    }
}

/// `tee(2)`: copies what one pipe holds into another.
pub(super) fn tee(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let flags = SpliceFlags::from_bits_retain(a[3] as u32);
    if !SpliceFlags::all().contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    if a[2] == 0 {
        return value(0);
    }
    let [from, to] = both_for_io(ctx, a[0], a[1])?;
    let copied = waiting(ctx, || {
        rustix::pipe::tee(from.host_fd(), to.host_fd(), a[2] as usize, flags).map_err(host)
    });
    value(or_broken_pipe(ctx, copied)? as u64)
}

/// `chroot(2)`: needs a privilege, which Linux checks after it has found the directory.
pub(super) fn chroot(ctx: Ctx<'_, '_>, a: Args<'_>) -> Errno {
    let path = ctx.user().read_path(a[0]);
    let found = path.and_then(|path| files(ctx).check_directory(&path));
    found.err().unwrap_or(Errno::EPERM)
}

pub(super) fn getcwd(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let mut path = files(ctx).getcwd()?;
    path.push(0);
    if path.len() as u64 > a[1] {
        return Err(Errno::ERANGE.into());
    }
    ctx.user().copy_out(a[0], &path)?;
    value(path.len() as u64)
}

fn times(ctx: &ThreadCtx<'_>, at: u64) -> Result<Option<Times>, Errno> {
    if at == 0 {
        return Ok(None);
    }
    ctx.user().read_words(at).map(|words| Some(times_of(words)))
}

/// The path of a call that changes times; without one, it is about the descriptor `dir`.
fn path_or_descriptor(ctx: &ThreadCtx<'_>, dir: i32, at: u64) -> Result<Option<Vec<u8>>, Errno> {
    match (at, dir) {
        (0, CWD) => Err(Errno::EFAULT),
        (0, _) => Ok(None),
        (at, _) => ctx.user().read_path(at).map(Some),
    }
}

pub(super) fn utimensat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let path = path_or_descriptor(ctx, a[0] as i32, a[1])?;
    let times = times(ctx, a[2])?;
    done(files(ctx).utimensat(a[0] as i32, path.as_deref(), times, a[3] as u32))
}

/// `utimes(2)` and `futimesat(2)`: microseconds where `utimensat` has nanoseconds.
pub(super) fn futimesat(ctx: Ctx<'_, '_>, dir: i32, path: u64, times_at: u64) -> CallResult {
    let mut times = times(ctx, times_at)?;
    if let Some(times) = &mut times {
        for time in [&mut times.last_access, &mut times.last_modification] {
            if !(0..1_000_000).contains(&time.tv_nsec) {
                return Err(Errno::EINVAL.into());
            }
            time.tv_nsec *= 1000;
        }
    }
    let path = path_or_descriptor(ctx, dir, path)?;
    done(files(ctx).utimensat(dir, path.as_deref(), times, 0))
}
