//! `epoll`: arguments and the wait. Registrations are in `files::epoll`.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use abi::Errno;
use abi::addr::LOWER_HALF_END;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::time::deadline_at;
use super::{CallResult, Fail, descriptor, done, value};
use crate::access::MemoryAccess;
use crate::files::{EpollChange, OpenFile, host};
use crate::linux::task::ThreadCtx;

type Ctx<'a, 'b> = &'a mut ThreadCtx<'b>;
type Args<'a> = &'a [u64; 6];

/// Bytes of a `struct epoll_event`, which is packed on x86-64: events, then data.
const EVENT_BYTES: usize = 12;
/// Linux's own limit of a call (EP_MAX_EVENTS).
const EVENTS_MAX: i32 = i32::MAX / EVENT_BYTES as i32;
/// Events taken from the host at a time, if there is room for them; a program that asks for more gets
/// the rest with its next call.
const EVENTS_AT_ONCE: [usize; 3] = [1 << 16, 512, 1];
/// Bytes of the kernel's signal set.
const SIGSET_BYTES: u64 = 8;

/// `epoll_create(2)`: the size is only checked.
pub(super) fn create(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    if a[0] as i32 <= 0 {
        return Err(Errno::EINVAL.into());
    }
    descriptor(ctx.files().epoll_create1(0))
}

/// `epoll_ctl(2)`.
pub(super) fn ctl(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let event = || -> Result<(u32, u64), Errno> {
        let mut bytes = [0; EVENT_BYTES];
        ctx.user().copy_in(a[3], &mut bytes)?;
        let [e0, e1, e2, e3, data @ ..] = bytes;
        Ok((u32::from_le_bytes([e0, e1, e2, e3]), u64::from_le_bytes(data)))
    };
    let change = match a[1] as i32 {
        libc::EPOLL_CTL_ADD => event().map(|(events, data)| EpollChange::Add { events, data })?,
        libc::EPOLL_CTL_MOD => {
            event().map(|(events, data)| EpollChange::Modify { events, data })?
        }
        libc::EPOLL_CTL_DEL => EpollChange::Delete,
        _ => {
            // An unknown operation reads the event, too, and the descriptors are checked first.
            event()?;
            ctx.files().for_io(a[0] as i32)?;
            ctx.files().for_io(a[2] as i32)?;
            return Err(Errno::EINVAL.into());
        }
    };
    done(ctx.files().epoll_ctl(a[0] as i32, a[2] as i32, change))
}

/// `epoll_wait(2)`.
pub(super) fn wait(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    wait_until(ctx, a, in_milliseconds(a[3]))
}

/// `epoll_pwait(2)`.
pub(super) fn pwait(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let deadline = in_milliseconds(a[3]);
    masked(ctx, a, deadline)
}

/// `epoll_pwait2(2)`: with the time in nanoseconds.
pub(super) fn pwait2(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let deadline = deadline_at(ctx, a[3])?;
    masked(ctx, a, deadline)
}

fn in_milliseconds(timeout: u64) -> Option<Instant> {
    let timeout = u64::try_from(timeout as i32).ok()?;
    Some(Instant::now() + Duration::from_millis(timeout))
}

fn masked(ctx: Ctx<'_, '_>, a: Args<'_>, deadline: Option<Instant>) -> CallResult {
    if a[4] != 0 && a[5] != SIGSET_BYTES {
        return Err(Errno::EINVAL.into());
    }
    super::signal::with_mask(ctx, a[4], |ctx| wait_until(ctx, a, deadline))
}

fn wait_until(ctx: &ThreadCtx<'_>, a: Args<'_>, deadline: Option<Instant>) -> CallResult {
    let (at, wanted) = (a[1], a[2] as i32);
    if !(1..=EVENTS_MAX).contains(&wanted) {
        return Err(Errno::EINVAL.into());
    }
    let bytes = wanted.unsigned_abs() as u64 * EVENT_BYTES as u64;
    if at.checked_add(bytes).is_none_or(|end| end > LOWER_HALF_END) {
        return Err(Errno::EFAULT.into());
    }
    let epoll = ctx.files().epoll(a[0] as i32)?;
    // Nothing is taken that cannot be stored: an event would be lost.
    let fits = |events: &usize| {
        let bytes = (*events * EVENT_BYTES) as u64;
        ctx.user().is_accessible(at, bytes, MemoryAccess::Write)
    };
    let at_once = EVENTS_AT_ONCE.map(|most| most.min(wanted as usize));
    let Some(most) = at_once.into_iter().find(fits) else {
        return match is_ready(ctx, &epoll, deadline)? {
            true => Err(Errno::EFAULT.into()),
            false => value(0),
        };
    };
    let mut room = Box::<[epoll::Event]>::new_uninit_slice(most);
    let ready = loop {
        if ctx.is_interrupted() {
            return Err(Fail::Errno(Errno::EINTR));
        }
        match epoll::wait(epoll.host_fd(), &mut *room, left(deadline).as_ref()) {
            Ok((events, _)) => {
                let encode = |event: &mut epoll::Event| {
                    // Copied: the structure is packed.
                    let (flags, data) = (event.flags, event.data);
                    let (flags, data) = (flags.bits().to_le_bytes(), data.u64().to_le_bytes());
                    [flags.as_slice(), &data].concat()
                };
                break events.iter_mut().map(encode).collect::<Vec<_>>();
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(host(error).into()),
        }
    };
    ctx.user().copy_out(at, &ready.concat())?;
    value(ready.len() as u64)
}

/// Waits for events that are left where they are.
fn is_ready(
    ctx: &ThreadCtx<'_>,
    epoll: &OpenFile,
    deadline: Option<Instant>,
) -> Result<bool, Fail> {
    loop {
        if ctx.is_interrupted() {
            return Err(Fail::Errno(Errno::EINTR));
        }
        let fd = epoll.host_fd();
        let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        match poll(&mut polled, left(deadline).as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(host(error).into()),
        }
    }
}

fn left(deadline: Option<Instant>) -> Option<Timespec> {
    let left = deadline?.saturating_duration_since(Instant::now());
    let (tv_sec, tv_nsec) = (left.as_secs().cast_signed(), i64::from(left.subsec_nanos()));
    Some(Timespec { tv_sec, tv_nsec })
}
