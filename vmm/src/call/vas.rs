//! Calls on VASes and instances.

use std::time::Duration;

use abi::VasId;
use abi::objects::{Attachment, VasStat, clone, vas_ctl};

use super::{CallResult, args};
use crate::linux::task::ThreadCtx;
use crate::store::{LeaseView, StoreError, TagName, VasRecord};
use crate::vas::VasError;
use crate::vas::attach::{AttachFlags, DetachFlags};

/// `vas_create(name, name_len, mode)`.
///
/// # Errors
/// `EEXIST`, `EINVAL`, `EACCES`.
pub fn create(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [name, len, mode, ..] = *a;
    let (name, mode) = (args::name(ctx, name, len)?, args::new_mode(ctx, mode)?);
    Ok(ctx.process.vases.granted()?.create_vas(&name, mode)?.raw())
}

/// `vas_find(name, name_len)`. `NAME@NUMBER` keeps that version of the VAS for a while.
///
/// # Errors
/// `ENOENT`; for a version with a number also those of `vas_tag`.
pub fn find(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [name, len, ..] = *a;
    let name = args::name(ctx, name, len)?;
    let stopping = || ctx.thread.is_interrupted(ctx.process);
    Ok(ctx.process.vases.find_vas(ctx.vcpu, &name, &stopping)?.raw())
}

/// `vas_tag(vid, tag, tag_len)`.
///
/// # Errors
/// `EINVAL` for what is no tag, and for a VAS without versioned segments; `EEXIST`; `EACCES`, `EPERM`,
/// `ENOENT`; `EINTR` and, for a thread that holds locks, `ETIMEDOUT` while it waits for a writer.
pub fn tag(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vid, tag, len, ..] = *a;
    let (vid, name) = (args::vid(vid)?, args::name(ctx, tag, len)?);
    let tag = TagName::new(name.as_str().as_bytes()).map_err(StoreError::from)?;
    let stopping = || ctx.thread.is_interrupted(ctx.process);
    Ok(ctx.process.vases.tag_vas(ctx.vcpu, vid, &tag, &stopping)?.raw())
}

/// `vas_clone(vid, name, name_len, flags)`.
///
/// # Errors
/// As `vas_create`; `EINVAL` for unknown flags; those of `seg_clone` for copies.
pub fn clone(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vid, name, len, flags, ..] = *a;
    if flags & !clone::ALL != 0 {
        return Err(VasError::Invalid { what: "a flag" });
    }
    let (vid, name) = (args::vid(vid)?, args::name(ctx, name, len)?);
    if flags & clone::COPY != 0 {
        let stopping = || ctx.thread.is_interrupted(ctx.process);
        return Ok(ctx.process.vases.copy_vas(ctx.vcpu, vid, &name, &stopping)?.raw());
    }
    Ok(ctx.process.vases.granted()?.clone_vas(vid, &name)?.raw())
}

/// `vas_attach(vid, flags)`.
///
/// # Errors
/// `ENOENT`, `EACCES`, `EMFILE`, `EINVAL`.
pub fn attach(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vid, flags, ..] = *a;
    let flags = AttachFlags::new(flags).ok_or(VasError::Invalid { what: "a flag" })?;
    let vh = ctx.process.vases.attach(args::vid(vid)?, flags)?;
    if ctx.process.vases.is_to_let_go() {
        ctx.process.call_every_second(|process| process.vases.let_go());
    }
    Ok(u64::from(vh))
}

/// `vas_wait(vh, after, nanoseconds)`.
///
/// # Errors
/// `EBADF`, `EINVAL`; `EDEADLK` inside with the right to write; `ETIMEDOUT`, `EINTR`.
pub fn wait(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vh, after, nanoseconds, ..] = *a;
    let (process, thread) = (ctx.process, ctx.thread);
    let interrupted = || thread.is_interrupted(process);
    let limit = Duration::from_nanos(nanoseconds);
    process.vases.wait_version(ctx.vcpu, vh, after, limit, &interrupted)
}

/// `vas_detach(vh, flags)`.
///
/// # Errors
/// `EBADF`; `EINVAL` for home, unknown flags, and an owner's flag where there is no owner; `EBUSY`
/// while a thread is inside, or if the instance has another owner than the caller.
pub fn detach(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vh, flags, ..] = *a;
    let flags = DetachFlags::new(flags).ok_or(VasError::Invalid { what: "a flag" })?;
    ctx.process.vases.detach(vh, flags).map(|()| 0)
}

/// `vas_ctl(cmd, object, arg)`.
///
/// # Errors
/// `EINVAL` for an unknown command; those of the command.
pub fn ctl(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [cmd, object, arg, ..] = *a;
    let vases = &ctx.process.vases;
    match cmd {
        vas_ctl::SET_MODE => {
            vases.granted()?.set_vas_mode(args::vid(object)?, args::mode(arg)?)?;
        }
        vas_ctl::SET_TAGGED => {
            vases.granted()?.set_vas_tagged(args::vid(object)?, args::flag(arg)?)?;
        }
        vas_ctl::SET_INSTANCE_TAGGED => vases.set_tagged(object, args::flag(arg)?)?,
        _ => return Err(VasError::Invalid { what: "the command" }),
    }
    Ok(0)
}

/// `vas_delete(vid)`.
///
/// # Errors
/// `EBUSY` while a live process has it attached; `ENOENT`, `EACCES`.
pub fn delete(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vid, ..] = *a;
    ctx.process.vases.granted()?.delete_vas(args::vid(vid)?)?;
    Ok(0)
}

/// `vas_list(buffer, bytes, cursor)`.
///
/// # Errors
/// `EFAULT`.
pub fn list(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [buffer, capacity, cursor, ..] = *a;
    let store = ctx.process.vases.granted()?;
    let all = store.list_vases()?;
    let leases = store.leases()?;
    let skip = usize::try_from(cursor).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    let mut count = 0;
    for record in all.iter().skip(skip).take(args::entries(capacity, size_of::<VasStat>())?) {
        bytes.extend(args::vas_stat_bytes(&stat_of(record, attachers(&leases, record.vid))));
        count += 1;
    }
    args::put(ctx, buffer, &bytes)?;
    Ok(count)
}

/// `vas_stat(vid, buffer, bytes)`.
///
/// # Errors
/// `ENOENT`, `EFAULT`.
pub fn stat(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vid, buffer, capacity, ..] = *a;
    let vid = args::vid(vid)?;
    let store = ctx.process.vases.granted()?;
    let record = store.vas(vid)?;
    let stat = stat_of(&record, attachers(&store.leases()?, vid));
    args::put_up_to(ctx, buffer, capacity, &args::vas_stat_bytes(&stat))?;
    Ok(0)
}

/// `vas_segments(vid, buffer, bytes, cursor)`, in the order of addresses.
///
/// # Errors
/// `ENOENT`, `EFAULT`.
pub fn segments(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vid, buffer, capacity, cursor, ..] = *a;
    let store = ctx.process.vases.granted()?;
    let mut record = store.vas(args::vid(vid)?)?;
    let base = |sid| store.base_of(sid).unwrap_or(u64::MAX);
    record.segments.sort_by_cached_key(|segment| base(segment.sid));
    let skip = usize::try_from(cursor).unwrap_or(usize::MAX);
    let capacity = args::entries(capacity, size_of::<Attachment>())?;
    let mut bytes = Vec::new();
    let mut count = 0;
    for segment in record.segments.iter().skip(skip).take(capacity) {
        bytes.extend(segment.sid.raw().to_le_bytes());
        bytes.extend(segment.right.raw().to_le_bytes());
        count += 1;
    }
    args::put(ctx, buffer, &bytes)?;
    Ok(count)
}

fn attachers(leases: &[LeaseView], vid: VasId) -> usize {
    leases.iter().filter(|lease| lease.vases.contains(&vid)).count()
}

fn stat_of(record: &VasRecord, attachers: usize) -> VasStat {
    VasStat {
        vid: record.vid.raw(),
        mode: record.mode.bits(),
        segments: record.segments.len() as u32,
        attachers: attachers as u32,
        tagged: u8::from(record.tagged),
        access: record.access.raw(),
        reserved: [0; 2],
        name: args::name_field(record.name.as_str()),
    }
}
