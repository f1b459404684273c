//! File calls: registers and guest memory on one side, [`crate::files::Files`] on the other.
//!
//! Each function decodes one call. Older calls are the newer ones with a default, as in
//! Linux itself. Data transfer is in `io.rs`.

use abi::Errno;

use super::{CallResult, Fail, value};
use crate::files::{
    F_GETOWN_EX, F_SETOWN_EX, FLOCK_LEN, FileKind, Files, OpenFile, TIMES_LEN, Times, WriteAt,
    parse_times,
};
use crate::linux::task::ThreadCtx;

/// `AT_FDCWD`, for calls without a directory.
const CWD: i32 = libc::AT_FDCWD;
const NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;

type Ctx<'a, 'b> = &'a mut ThreadCtx<'b>;
type Args<'a> = &'a [u64; 6];

fn files<'a>(ctx: &'a ThreadCtx<'_>) -> &'a Files {
    &ctx.process.files
}

fn path(ctx: &ThreadCtx<'_>, at: u64) -> Result<Vec<u8>, Errno> {
    ctx.user().read_path(at)
}

fn done(result: Result<(), Errno>) -> CallResult {
    result?;
    value(0)
}

fn fd(result: Result<i32, Errno>) -> CallResult {
    value(result? as u64)
}

/// Calls that wait in the host for another thread or process: a signal restarts them.
fn waiting<T>(ctx: &ThreadCtx<'_>, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Fail> {
    if ctx.is_interrupted() {
        return Err(Fail::Restart);
    }
    call().map_err(|e| if e == Errno::EINTR { Fail::Restart } else { e.into() })
}

pub(super) fn open(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    open_at(ctx, CWD, a[0], a[1] as i32, a[2] as u32)
}

pub(super) fn creat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    open_at(ctx, CWD, a[0], libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, a[1] as u32)
}

pub(super) fn openat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    open_at(ctx, a[0] as i32, a[1], a[2] as i32, a[3] as u32)
}

fn open_at(ctx: Ctx<'_, '_>, dir: i32, at: u64, flags: i32, mode: u32) -> CallResult {
    fd(files(ctx).openat(dir, &path(ctx, at)?, flags, mode))
}

pub(super) fn close(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).close(a[0] as i32))
}

pub(super) fn close_range(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).close_range(a[0] as u32, a[1] as u32, a[2] as u32))
}

pub(super) fn dup(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    fd(files(ctx).dup(a[0] as i32))
}

pub(super) fn dup2(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    fd(files(ctx).dup2(a[0] as i32, a[1] as i32))
}

pub(super) fn dup3(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    fd(files(ctx).dup3(a[0] as i32, a[1] as i32, a[2] as i32))
}

pub(super) fn fcntl(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let command = a[1] as i32;
    if matches!(command, F_SETOWN_EX | F_GETOWN_EX) {
        return owner(ctx, a[0] as i32, command, a[2]);
    }
    if !Files::is_lock_command(command) {
        return value(files(ctx).fcntl(a[0] as i32, command, a[2])?);
    }
    let mut lock = [0; FLOCK_LEN];
    ctx.user().copy_in(a[2], &mut lock)?;
    let lock = waiting(ctx, || files(ctx).fcntl_lock(a[0] as i32, command, &lock))?;
    // Setting one only reads the structure, which may be in read-only memory.
    if !matches!(command, libc::F_GETLK | libc::F_OFD_GETLK) {
        return value(0);
    }
    done(ctx.user().copy_out(a[2], &lock))
}

/// `fcntl` with a `struct f_owner_ex`: two numbers of 32 bits.
fn owner(ctx: &ThreadCtx<'_>, fd: i32, command: i32, at: u64) -> CallResult {
    if command == F_GETOWN_EX {
        let [kind, id] = files(ctx).fcntl_owner(fd, None)?.map(i32::to_le_bytes);
        return done(ctx.user().copy_out(at, &[kind, id].concat()));
    }
    files(ctx).get(fd)?.check_not_path()?;
    let mut bytes = [[0; 4]; 2];
    ctx.user().copy_in(at, bytes.as_flattened_mut())?;
    files(ctx).fcntl_owner(fd, Some(bytes.map(i32::from_le_bytes)))?;
    value(0)
}

pub(super) fn flock(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    waiting(ctx, || files(ctx).flock(a[0] as i32, a[1] as i32))?;
    value(0)
}

pub(super) fn pipe2(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let [read, write] = files(ctx).pipe2(a[1] as i32)?;
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&read.to_le_bytes());
    bytes[4..].copy_from_slice(&write.to_le_bytes());
    let copied = ctx.user().copy_out(a[0], &bytes);
    if copied.is_err() {
        files(ctx).close(read)?;
        files(ctx).close(write)?;
    }
    done(copied)
}

pub(super) fn eventfd2(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    fd(files(ctx).eventfd2(a[0] as u32, a[1] as i32))
}

pub(super) fn memfd_create(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    fd(files(ctx).memfd_create(&path(ctx, a[0])?, a[1] as u32))
}

fn stat_to(ctx: &ThreadCtx<'_>, dir: i32, at: u64, to: u64, flags: u32) -> CallResult {
    let stat = files(ctx).newfstatat(dir, &path(ctx, at)?, flags)?;
    done(ctx.user().copy_out(to, &stat.encode()))
}

pub(super) fn stat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    stat_to(ctx, CWD, a[0], a[1], 0)
}

pub(super) fn lstat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    stat_to(ctx, CWD, a[0], a[1], NOFOLLOW)
}

pub(super) fn fstat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let stat = files(ctx).fstat(a[0] as i32)?;
    done(ctx.user().copy_out(a[1], &stat.encode()))
}

pub(super) fn newfstatat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    stat_to(ctx, a[0] as i32, a[1], a[2], a[3] as u32)
}

pub(super) fn statx(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let path = path(ctx, a[1])?;
    let bytes = files(ctx).statx(a[0] as i32, &path, a[2] as u32, a[3] as u32)?;
    done(ctx.user().copy_out(a[4], &bytes))
}

pub(super) fn statfs(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let bytes = files(ctx).statfs(&path(ctx, a[0])?)?;
    done(ctx.user().copy_out(a[1], &bytes))
}

pub(super) fn fstatfs(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let bytes = files(ctx).fstatfs(a[0] as i32)?;
    done(ctx.user().copy_out(a[1], &bytes))
}

pub(super) fn access(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).faccessat2(CWD, &path(ctx, a[0])?, a[1] as u32, 0))
}

pub(super) fn faccessat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).faccessat2(a[0] as i32, &path(ctx, a[1])?, a[2] as u32, 0))
}

pub(super) fn faccessat2(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).faccessat2(a[0] as i32, &path(ctx, a[1])?, a[2] as u32, a[3] as u32))
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
            files(ctx).get(a[0] as i32)?.check_not_path()?;
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

fn readlink_to(ctx: &ThreadCtx<'_>, dir: i32, at: u64, to: u64, capacity: u64) -> CallResult {
    if capacity as i32 <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let text = files(ctx).readlinkat(dir, &path(ctx, at)?, capacity.min(4096) as usize)?;
    ctx.user().copy_out(to, &text)?;
    value(text.len() as u64)
}

pub(super) fn readlink(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    readlink_to(ctx, CWD, a[0], a[1], a[2])
}

pub(super) fn readlinkat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    readlink_to(ctx, a[0] as i32, a[1], a[2], a[3])
}

pub(super) fn mkdir(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).mkdirat(CWD, &path(ctx, a[0])?, a[1] as u32))
}

pub(super) fn mkdirat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).mkdirat(a[0] as i32, &path(ctx, a[1])?, a[2] as u32))
}

pub(super) fn mknod(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).mknodat(CWD, &path(ctx, a[0])?, a[1] as u32))
}

pub(super) fn mknodat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).mknodat(a[0] as i32, &path(ctx, a[1])?, a[2] as u32))
}

pub(super) fn unlink(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).unlinkat(CWD, &path(ctx, a[0])?, 0))
}

pub(super) fn rmdir(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).unlinkat(CWD, &path(ctx, a[0])?, libc::AT_REMOVEDIR as u32))
}

pub(super) fn unlinkat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).unlinkat(a[0] as i32, &path(ctx, a[1])?, a[2] as u32))
}

fn rename_from(ctx: &ThreadCtx<'_>, from: (i32, u64), to: (i32, u64), flags: u32) -> CallResult {
    let (old, new) = (path(ctx, from.1)?, path(ctx, to.1)?);
    done(files(ctx).renameat2(from.0, &old, to.0, &new, flags))
}

pub(super) fn rename(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    rename_from(ctx, (CWD, a[0]), (CWD, a[1]), 0)
}

pub(super) fn renameat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    rename_from(ctx, (a[0] as i32, a[1]), (a[2] as i32, a[3]), 0)
}

pub(super) fn renameat2(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    rename_from(ctx, (a[0] as i32, a[1]), (a[2] as i32, a[3]), a[4] as u32)
}

fn link_from(ctx: &ThreadCtx<'_>, from: (i32, u64), to: (i32, u64), flags: u32) -> CallResult {
    let (old, new) = (path(ctx, from.1)?, path(ctx, to.1)?);
    done(files(ctx).linkat(from.0, &old, to.0, &new, flags))
}

pub(super) fn link(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    link_from(ctx, (CWD, a[0]), (CWD, a[1]), 0)
}

pub(super) fn linkat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    link_from(ctx, (a[0] as i32, a[1]), (a[2] as i32, a[3]), a[4] as u32)
}

pub(super) fn symlink(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).symlinkat(&path(ctx, a[0])?, CWD, &path(ctx, a[1])?))
}

pub(super) fn symlinkat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).symlinkat(&path(ctx, a[0])?, a[1] as i32, &path(ctx, a[2])?))
}

pub(super) fn lseek(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    value(files(ctx).lseek(a[0] as i32, a[1] as i64, a[2] as i32)?)
}

pub(super) fn truncate(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).truncate(&path(ctx, a[0])?, a[1] as i64))
}

pub(super) fn ftruncate(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).ftruncate(a[0] as i32, a[1] as i64))
}

pub(super) fn fallocate(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fallocate(a[0] as i32, a[1] as u32, a[2] as i64, a[3] as i64))
}

pub(super) fn fsync(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fsync(a[0] as i32))
}

pub(super) fn fdatasync(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fdatasync(a[0] as i32))
}

pub(super) fn syncfs(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).syncfs(a[0] as i32))
}

pub(super) fn sync_file_range(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).sync_file_range(a[0] as i32, a[1] as i64, a[2] as i64, a[3] as u32))
}

pub(super) fn readahead(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).readahead(a[0] as i32, a[1] as i64, a[2]))
}

pub(super) fn fadvise64(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fadvise64(a[0] as i32, a[1] as i64, a[2] as i64, a[3] as i32))
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

/// `splice(2)`: moves data between a pipe and something else inside the host kernel.
pub(super) fn splice(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let (from, to) = (files(ctx).get(a[0] as i32)?, files(ctx).get(a[2] as i32)?);
    from.check_not_path()?;
    to.check_not_path()?;
    let is_pipe = |file: &OpenFile| file.kind() == FileKind::Pipe;
    if (is_pipe(&from) && a[1] != 0) || (is_pipe(&to) && a[3] != 0) {
        return Err(Errno::ESPIPE.into());
    }
    let (mut from_at, mut to_at) = (offset(ctx, a[1])?, offset(ctx, a[3])?);
    let flags = rustix::pipe::SpliceFlags::from_bits_retain(a[5] as u32);
    let place = to_at.map_or(WriteAt::Current, WriteAt::Offset);
    let len = files(ctx).writable_bytes(&to, place, a[4])? as usize;
    let moved = waiting(ctx, || {
        let (from, to) = (from.host_fd(), to.host_fd());
        rustix::pipe::splice(from, from_at.as_mut(), to, to_at.as_mut(), len, flags)
            .map_err(|e| Errno::from_raw(e.raw_os_error()))
    });
    let moved = or_broken_pipe(ctx, moved)?;
    write_offset(ctx, a[1], from_at)?;
    write_offset(ctx, a[3], to_at)?;
    value(moved as u64)
}

/// `tee(2)`: copies what one pipe holds into another.
pub(super) fn tee(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let flags = rustix::pipe::SpliceFlags::from_bits_retain(a[3] as u32);
    if !rustix::pipe::SpliceFlags::all().contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    if a[2] == 0 {
        return value(0);
    }
    let (from, to) = (files(ctx).get(a[0] as i32)?, files(ctx).get(a[1] as i32)?);
    from.check_not_path()?;
    to.check_not_path()?;
    let copied = waiting(ctx, || {
        rustix::pipe::tee(from.host_fd(), to.host_fd(), a[2] as usize, flags)
            .map_err(|e| Errno::from_raw(e.raw_os_error()))
    });
    value(or_broken_pipe(ctx, copied)? as u64)
}

pub(super) fn chdir(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).chdir(&path(ctx, a[0])?))
}

/// `chroot(2)`: needs a privilege, which Linux checks after it has found the directory.
pub(super) fn chroot(ctx: Ctx<'_, '_>, a: Args<'_>) -> Errno {
    let found = path(ctx, a[0]).and_then(|path| files(ctx).check_directory(&path));
    found.err().unwrap_or(Errno::EPERM)
}

pub(super) fn fchdir(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fchdir(a[0] as i32))
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

pub(super) fn umask(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    value(u64::from(files(ctx).umask(a[0] as u32)))
}

pub(super) fn chmod(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fchmodat2(CWD, &path(ctx, a[0])?, a[1] as u32, 0))
}

pub(super) fn fchmod(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fchmod(a[0] as i32, a[1] as u32))
}

pub(super) fn fchmodat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fchmodat2(a[0] as i32, &path(ctx, a[1])?, a[2] as u32, 0))
}

pub(super) fn fchmodat2(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fchmodat2(a[0] as i32, &path(ctx, a[1])?, a[2] as u32, a[3] as u32))
}

pub(super) fn chown(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fchownat(CWD, &path(ctx, a[0])?, a[1] as u32, a[2] as u32, 0))
}

pub(super) fn lchown(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fchownat(CWD, &path(ctx, a[0])?, a[1] as u32, a[2] as u32, NOFOLLOW))
}

pub(super) fn fchown(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    done(files(ctx).fchown(a[0] as i32, a[1] as u32, a[2] as u32))
}

pub(super) fn fchownat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let path = path(ctx, a[1])?;
    done(files(ctx).fchownat(a[0] as i32, &path, a[2] as u32, a[3] as u32, a[4] as u32))
}

fn times(ctx: &ThreadCtx<'_>, at: u64) -> Result<Option<Times>, Errno> {
    if at == 0 {
        return Ok(None);
    }
    let mut bytes = [0; TIMES_LEN];
    ctx.user().copy_in(at, &mut bytes)?;
    Ok(Some(parse_times(&bytes)))
}

pub(super) fn utimensat(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let path = match (a[1], a[0] as i32) {
        (0, CWD) => return Err(Errno::EFAULT.into()),
        (0, _) => None,
        (at, _) => Some(path(ctx, at)?),
    };
    let times = times(ctx, a[2])?;
    done(files(ctx).utimensat(a[0] as i32, path.as_deref(), times, a[3] as u32))
}

/// `utimes(2)`: microseconds where `utimensat` has nanoseconds.
pub(super) fn utimes(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let mut times = times(ctx, a[1])?;
    if let Some(times) = &mut times {
        for time in [&mut times.last_access, &mut times.last_modification] {
            if !(0..1_000_000).contains(&time.tv_nsec) {
                return Err(Errno::EINVAL.into());
            }
            time.tv_nsec *= 1000;
        }
    }
    done(files(ctx).utimensat(CWD, Some(&path(ctx, a[0])?), times, 0))
}
