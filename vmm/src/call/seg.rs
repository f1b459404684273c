//! Calls on segments.

use abi::Right;
use abi::objects::{Durability, Lifetime, PagePolicy, SegRoot, SegStat, seg_ctl};

use super::{CallResult, args};
use crate::linux::task::ThreadCtx;
use crate::store::{SegmentRecord, SegmentSpec, StoreError};
use crate::vas::VasError;

/// `seg_alloc(name, name_len, params, params_len)`.
///
/// # Errors
/// `EEXIST`, `EINVAL`, `ENOMEM`, `ENOSPC`, `EACCES`, `EFAULT`.
pub fn alloc(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [name, len, params, params_len, ..] = *a;
    let name = args::name(ctx, name, len)?;
    let params = args::seg_params(ctx, params, params_len)?;
    let spec = SegmentSpec {
        base: (params.base != 0).then_some(params.base),
        size_bytes: params.size_bytes,
        reserve_bytes: params.reserve_bytes,
        mode: args::new_mode(ctx, params.mode.into())?,
        lifetime: lifetime(params.lifetime.into())?,
        durability: match params.durability {
            0 => None,
            raw => Some(durability(raw.into())?),
        },
        pages: pages(params.pages.into())?,
        lockable: args::flag(params.lockable.into())?,
    };
    Ok(ctx.process.vases.granted()?.create_segment(&name, &spec)?.raw())
}

/// `seg_find(name, name_len)`.
///
/// # Errors
/// `ENOENT`.
pub fn find(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [name, len, ..] = *a;
    let name = args::name(ctx, name, len)?;
    Ok(ctx.process.vases.granted()?.find_segment(&name)?.raw())
}

/// `seg_clone(sid, name, name_len)`.
///
/// # Errors
/// As `seg_alloc`; `ENOENT`; `EBUSY` when other processes can write a segment without a lock;
/// `EINTR`; `ETIMEDOUT` for a thread that holds other locks.
pub fn clone(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [sid, name, len, ..] = *a;
    let (sid, name) = (args::sid(sid)?, args::name(ctx, name, len)?);
    let stopping = || ctx.thread.is_interrupted(ctx.process);
    Ok(ctx.process.vases.clone_segment(ctx.vcpu, sid, &name, &stopping)?.raw())
}

/// `seg_attach(vid, sid, right)`.
///
/// # Errors
/// `EEXIST` for addresses taken, `EACCES`, `ENOENT`, `EINVAL`.
pub fn attach(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vid, sid, right, ..] = *a;
    let (vid, sid, right) = (args::vid(vid)?, args::sid(sid)?, args::right(right)?);
    let vases = &ctx.process.vases;
    vases.granted()?.attach_segment(vid, sid, right)?;
    vases.refresh(vid)?;
    kick_stale(ctx);
    Ok(0)
}

/// `seg_attach_local(vh, sid, right)`.
///
/// # Errors
/// As `seg_attach`; `EBUSY` for a lockable segment while a thread is inside.
pub fn attach_local(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vh, sid, right, ..] = *a;
    ctx.process.vases.attach_local(vh, args::sid(sid)?, args::right(right)?)?;
    kick_stale(ctx);
    Ok(0)
}

/// `seg_detach(vid, sid)`.
///
/// # Errors
/// `EBUSY` while a thread of any live process is inside; `ENOENT`, `EACCES`.
pub fn detach(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vid, sid, ..] = *a;
    let (vid, sid) = (args::vid(vid)?, args::sid(sid)?);
    let vases = &ctx.process.vases;
    vases.granted()?.detach_segment(vid, sid)?;
    vases.refresh(vid)?;
    kick_stale(ctx);
    Ok(0)
}

/// `seg_detach_local(vh, sid)`.
///
/// # Errors
/// `ENOENT` unless it was attached to the instance itself; `EINVAL` for home; `EBADF`; `EBUSY`
/// while a thread is inside.
pub fn detach_local(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [vh, sid, ..] = *a;
    ctx.process.vases.detach_local(vh, args::sid(sid)?).map(|()| 0)
}

/// `seg_ctl(sid, cmd, arg)`.
///
/// # Errors
/// `EINVAL` for an unknown command; those of the command.
pub fn ctl(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [sid, cmd, arg, ..] = *a;
    let sid = args::sid(sid)?;
    let vases = &ctx.process.vases;
    let store = vases.granted()?;
    match cmd {
        seg_ctl::SET_MODE => store.set_segment_mode(sid, args::mode(arg)?)?,
        seg_ctl::SET_LOCKABLE => store.set_lockable(sid, args::flag(arg)?)?,
        seg_ctl::SET_PAGES => store.set_pages(sid, pages(arg)?)?,
        seg_ctl::SET_DURABILITY => {
            store.check_segment(sid, Right::Write)?;
            store.set_durability(sid, durability(arg)?)?;
        }
        seg_ctl::RECOVER => {
            store.check_segment(sid, Right::Write)?;
            if vases.is_versioned_here(sid) {
                // It is never inconsistent.
                vases.check_writes(ctx.vcpu, sid)?;
            } else {
                vases.recover(ctx.vcpu, sid)?;
            }
        }
        seg_ctl::MARK_INCONSISTENT => {
            store.check_segment(sid, Right::Write)?;
            if vases.is_versioned_here(sid) {
                vases.spoil(ctx.vcpu, sid)?;
            } else {
                vases.mark_inconsistent(ctx.vcpu, sid)?;
            }
        }
        seg_ctl::SET_LIFETIME => {
            store.check_segment(sid, Right::Write)?;
            let record = store.segment(sid)?;
            if lifetime(arg)? != record.header.lifetime {
                return Err(VasError::LifetimeFixed { sid });
            }
        }
        _ => return Err(VasError::Invalid { what: "the command" }),
    }
    Ok(0)
}

/// `seg_delete(sid)`.
///
/// # Errors
/// `EBUSY` while a live process has it attached or a VAS lists it; `ENOENT`, `EACCES`.
pub fn delete(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [sid, ..] = *a;
    let sid = args::sid(sid)?;
    ctx.process.vases.granted()?.delete_segment(sid)?;
    ctx.process.vases.forget(sid);
    Ok(0)
}

/// `seg_list(buffer, bytes, cursor)`.
///
/// # Errors
/// `EFAULT`.
pub fn list(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [buffer, capacity, cursor, ..] = *a;
    let store = ctx.process.vases.granted()?;
    let all = store.list_segments()?;
    let skip = usize::try_from(cursor).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    let mut count = 0;
    for record in all.iter().skip(skip).take(args::entries(capacity, size_of::<SegStat>())?) {
        bytes.extend(args::seg_stat_bytes(&stat_of(record)));
        count += 1;
    }
    args::put(ctx, buffer, &bytes)?;
    Ok(count)
}

/// `seg_stat(sid, buffer, bytes)`.
///
/// # Errors
/// `ENOENT`, `EFAULT`.
pub fn stat(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [sid, buffer, capacity, ..] = *a;
    let (sid, vases) = (args::sid(sid)?, &ctx.process.vases);
    let mut record = vases.granted()?.segment(sid)?;
    if let Some(facts) = vases.facts_inside(ctx.vcpu, sid) {
        record.header.size_bytes = facts.size_bytes;
    }
    let bytes = args::seg_stat_bytes(&stat_of(&record));
    args::put_up_to(ctx, buffer, capacity, &bytes)?;
    Ok(0)
}

/// `seg_grow(sid, bytes)`.
///
/// # Errors
/// `EINVAL` for less than it has, `EFBIG` for more than its reserve; `ENOSPC`, `EACCES`; `ENOMEM`
/// for a volatile one that would exceed the program's memory; `EPERM` for a versioned one outside a visit to write.
pub fn grow(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [sid, bytes, ..] = *a;
    let (sid, vases) = (args::sid(sid)?, &ctx.process.vases);
    if vases.is_versioned_here(sid) {
        vases.granted()?.check_segment(sid, Right::Write)?;
        vases.grow_versioned(ctx.vcpu, sid, bytes)?;
        return Ok(0);
    }
    vases.check_growth(sid, bytes)?;
    vases.granted()?.grow_segment(sid, bytes).map_err(not_here)?;
    Ok(0)
}

/// `seg_reserve(sid, offset, bytes)`.
///
/// # Errors
/// `EINVAL` for no bytes, and for a range not entirely inside the segment; `ENOSPC`, `EACCES`,
/// `ENOENT`; `EPERM` for a versioned one outside a visit.
pub fn reserve(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [sid, offset, bytes, ..] = *a;
    let (sid, vases) = (args::sid(sid)?, &ctx.process.vases);
    if let Some(facts) = vases.facts_inside(ctx.vcpu, sid) {
        let end = offset.checked_add(bytes).filter(|end| bytes > 0 && *end <= facts.size_bytes);
        return match end {
            // Pages are memory until the commit, which finds the space they need or fails whole.
            Some(_) => vases.granted()?.check_segment(sid, Right::Write).map(|()| 0),
            None => Err(VasError::Invalid { what: "the range" }),
        };
    }
    vases.granted()?.reserve_segment(sid, offset, bytes).map_err(not_here)?;
    Ok(0)
}

/// `seg_sync(sid)`.
///
/// # Errors
/// `EIO` when the host could not store everything; `EPERM` for a versioned one that is not attached in this process.
pub fn sync(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [sid, ..] = *a;
    let (sid, vases) = (args::sid(sid)?, &ctx.process.vases);
    if vases.is_versioned_here(sid) {
        vases.granted()?.check_segment(sid, Right::Write)?;
        return vases.sync_versions_of(sid).map(|()| 0);
    }
    vases.granted()?.sync(sid).map_err(not_here)?;
    Ok(0)
}

/// `seg_root_get(sid, buffer)`.
///
/// # Errors
/// `ENOENT`, `EFAULT`.
pub fn root_get(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [sid, buffer, ..] = *a;
    let (sid, vases) = (args::sid(sid)?, &ctx.process.vases);
    let store = vases.granted()?;
    let root = match vases.facts_inside(ctx.vcpu, sid) {
        Some(facts) => {
            store.check_segment(sid, Right::Read)?;
            SegRoot { address: facts.root_address, fingerprint: words(facts.root_fingerprint) }
        }
        None => store.root_get(sid)?,
    };
    args::put(ctx, buffer, &args::seg_root_bytes(&root))?;
    Ok(0)
}

/// `seg_root_set(sid, buffer)`.
///
/// # Errors
/// `EINVAL` for an address outside the segment; `EACCES`, `EFAULT`; `EPERM` for a versioned one outside a visit to write.
pub fn root_set(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [sid, buffer, ..] = *a;
    let root = args::seg_root(ctx, buffer)?;
    let (sid, vases) = (args::sid(sid)?, &ctx.process.vases);
    if vases.is_versioned_here(sid) {
        vases.granted()?.check_segment(sid, Right::Write)?;
        vases.set_versioned_root(ctx.vcpu, sid, root)?;
    } else {
        vases.granted()?.root_set(sid, root).map_err(not_here)?;
    }
    Ok(0)
}

/// The error for a versioned segment that is not attached in this process: the store's own would say that versioned segments are not
/// for such calls, and inside they are.
fn not_here(error: VasError) -> VasError {
    match error {
        VasError::Store(StoreError::Versioned { .. }) => VasError::NotWriting,
        other => other,
    }
}

/// The two words of a fingerprint's bytes.
fn words(bytes: [u8; 16]) -> [u64; 2] {
    let all = u128::from_le_bytes(bytes);
    [all as u64, (all >> 64) as u64]
}

/// Kicks the threads that run on replaced tables, so that they reload them.
fn kick_stale(ctx: &ThreadCtx<'_>) {
    let stale = ctx.process.vases.outdated_vcpus();
    if stale.is_empty() {
        return;
    }
    for thread in ctx.process.threads.all() {
        if stale.contains(&thread.vcpu()) {
            ctx.process.threads.kick_until_acknowledged(&thread);
        }
    }
}

fn lifetime(raw: u64) -> Result<Lifetime, VasError> {
    Lifetime::from_raw(raw).ok_or(VasError::Invalid { what: "the lifetime" })
}

fn durability(raw: u64) -> Result<Durability, VasError> {
    Durability::from_raw(raw).ok_or(VasError::Invalid { what: "the durability" })
}

fn pages(raw: u64) -> Result<PagePolicy, VasError> {
    PagePolicy::from_raw(raw).ok_or(VasError::Invalid { what: "the page policy" })
}

fn stat_of(record: &SegmentRecord) -> SegStat {
    let header = &record.header;
    SegStat {
        sid: header.sid.raw(),
        base: header.base,
        size_bytes: header.size_bytes,
        reserve_bytes: header.reserve_bytes,
        stored_bytes: record.stored_bytes,
        mode: record.mode.bits(),
        lifetime: header.lifetime as u8,
        pages: header.pages as u8,
        lockable: u8::from(header.lockable),
        dirty: u8::from(record.dirty()),
        inconsistent: u8::from(record.inconsistent),
        access: record.access.raw(),
        durability: match header.lifetime {
            Lifetime::Versioned => header.durability.raw(),
            Lifetime::Persistent | Lifetime::Volatile => 0,
        },
        attachers: record.attachers.len() as u32,
        name: args::name_field(record.name.as_str()),
    }
}
