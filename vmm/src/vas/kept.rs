//! Tags and rollback of versioned segments and of VASes with such, from outside: under the segments'
//! locks, so that no writer is in the middle of a change, and for several at one moment.

use std::time::Duration;

use abi::{SegId, VasId};
use seg_lock::{Mode, Patience};

use crate::store::{
    CopiedVas, HeldAlone, MemberHeld, Name, Object, Removed, SegmentFile, Store, StoreError,
    TagName, VasAt, VasRecord, VasTarget, VersionChoice,
};
use crate::vas::VasError;
use crate::vas::content::{ContentHold, INSIDE_WAIT};
use crate::vas::residency::lock_page::at_most;
use crate::vas::state::Vases;
use crate::vm::Vcpu;

/// A version that was kept for a while stays so long for the program that has asked for it to attach it.
const PASSING_AGE: Duration = Duration::from_secs(60);

/// Holds the lock of each versioned segment that is not a kept version alone, in the order of ids.
fn hold_versions<'a>(
    store: &'a Store,
    segments: &[SegmentFile],
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<ContentHold<'a>, VasError> {
    let mut hold = ContentHold::new(store);
    let patience = limit.map_or(Patience::Forever, at_most);
    let mut sorted: Vec<_> = segments.iter().filter(|it| is_changing(it)).collect();
    sorted.sort_by_key(|segment| segment.sid());
    for segment in sorted {
        segment.check_writable()?;
        hold.lock(segment, Mode::Exclusive, patience, stopping)?;
    }
    Ok(hold)
}

/// Whether a segment gets new versions.
fn is_changing(segment: &SegmentFile) -> bool {
    segment.is_versioned() && segment.header().kept.is_none()
}

/// Keeps a version of a segment under a name ([`Store::keep_version`]); without `number` the newest.
/// Returns its number.
///
/// # Errors
/// [`StoreError::Locked`] when a writer does not leave within `limit`; as [`Store::keep_version`].
pub fn tag_segment(
    store: &Store,
    sid: SegId,
    number: Option<u64>,
    tag: &TagName,
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<u64, VasError> {
    let segments = [store.open_segment(sid)?];
    let hold = hold_versions(store, &segments, limit, stopping)?;
    Ok(hold.settle(store.keep_version(sid, number, tag, hold.held(sid)))?)
}

/// Keeps the newest version of all segments of a VAS under a name, of one moment
/// ([`Store::keep_vas`]); with `number` what they had at that number of the VAS. Returns the VAS that is
/// made.
///
/// # Errors
/// As [`tag_segment`] and [`Store::keep_vas`]; with `number` those of [`Store::vas_version`].
pub fn tag_vas(
    store: &Store,
    vid: VasId,
    number: Option<u64>,
    tag: &TagName,
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<CopiedVas, VasError> {
    let Some(number) = number else {
        return tag_vas_beside(store, vid, tag, &[], limit, stopping);
    };
    let segments = store.open_listed(&store.vas(vid)?)?;
    let hold = hold_versions(store, &segments, limit, stopping)?;
    let at = store.vas_version(vid, number);
    let made = at.and_then(|at| store.keep_vas(vid, tag.as_str(), Some(&at), &hold.members()));
    Ok(hold.settle(made)?)
}

/// The same for a thread that holds some of the locks itself.
fn tag_vas_beside(
    store: &Store,
    vid: VasId,
    tag: &TagName,
    own: &[SegId],
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<CopiedVas, VasError> {
    let segments = store.open_listed(&store.vas(vid)?)?;
    let (held, free): (Vec<_>, Vec<_>) =
        segments.into_iter().partition(|segment| own.contains(&segment.sid()));
    let hold = hold_versions(store, &free, limit, stopping)?;
    let mut members = hold.members();
    let alive = HeldAlone { owner_died: false };
    members.extend(held.iter().map(|it| MemberHeld { sid: it.sid(), held: alive }));
    Ok(hold.settle(store.keep_vas(vid, tag.as_str(), None, &members))?)
}

/// Makes a segment larger ([`Store::grow_segment`], [`Store::grow_versioned_segment`]).
///
/// # Errors
/// [`StoreError::Locked`] when a writer of a versioned one does not leave within `limit`; as those.
pub fn grow_segment(
    store: &Store,
    sid: SegId,
    size_bytes: u64,
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<(), VasError> {
    let segments = [store.open_segment(sid)?];
    if !segments.iter().any(SegmentFile::is_versioned) {
        return Ok(store.grow_segment(sid, size_bytes)?);
    }
    let hold = hold_versions(store, &segments, limit, stopping)?;
    Ok(hold.settle(store.grow_versioned_segment(sid, size_bytes, hold.held(sid)))?)
}

/// Makes an old version of a segment the newest ([`Store::rollback_segment`]). Returns its new number.
///
/// # Errors
/// [`StoreError::Locked`] when a writer does not leave within `limit`; as
/// [`Store::rollback_segment`].
pub fn rollback_segment(
    store: &Store,
    sid: SegId,
    to: &VersionChoice,
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<u64, VasError> {
    let segments = [store.open_segment(sid)?];
    let _span = tracing::debug_span!("rollback", segment = %segments[0].name()).entered();
    let hold = hold_versions(store, &segments, limit, stopping)?;
    Ok(hold.settle(store.rollback_segment(sid, to, hold.held(sid)))?)
}

/// The only versioned segment of a VAS that is no kept version.
///
/// # Errors
/// [`StoreError::NoVersions`], [`StoreError::NoNumbers`]; those of opening its segments.
pub fn versioned_member(store: &Store, vas: &VasRecord) -> Result<SegmentFile, StoreError> {
    let mut versioned = store.open_listed(vas)?.into_iter().filter(is_changing);
    match (versioned.next(), versioned.next()) {
        (Some(segment), None) => Ok(segment),
        (None, _) => Err(StoreError::NoVersions(vas.name.clone())),
        (Some(_), Some(_)) => Err(StoreError::NoNumbers(vas.name.clone())),
    }
}

/// Makes an old version of a VAS the newest, and returns its segments and their new numbers: of its only
/// versioned segment, where `to` is a tag of the VAS, a number of it, or a tag of the segment; or of several,
/// as one change, where it is a tag or a number of the VAS ([`Store::rollback_vas`]).
///
/// # Errors
/// [`StoreError::NoVersions`]; [`StoreError::NoVasVersion`]; as [`rollback_segment`] and
/// [`Store::rollback_vas`].
pub fn rollback_vas(
    store: &Store,
    vid: VasId,
    to: &VersionChoice,
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<Vec<(Name, u64)>, VasError> {
    let vas = store.vas(vid)?;
    let _span = tracing::debug_span!("rollback", vas = %vas.name).entered();
    let mut segments = store.open_listed(&vas)?;
    segments.retain(is_changing);
    if segments.len() > 1 {
        let hold = hold_versions(store, &segments, limit, stopping)?;
        let members = hold.members();
        let rolled = match to {
            VersionChoice::Tag(tag) => store.rollback_vas(vid, &VasTarget::Tag(tag), &members),
            VersionChoice::Number(number) => match store.vas_or_tag(vid, *number)? {
                VasAt::Tag(tag) => store.rollback_vas(vid, &VasTarget::Tag(&tag), &members),
                VasAt::Versions(at) => {
                    let to = VasTarget::Number { number: *number, at: &at };
                    store.rollback_vas(vid, &to, &members)
                }
            },
        };
        return Ok(hold.settle(rolled)?);
    }
    let segment = versioned_member(store, &vas)?;
    let sid = segment.sid();
    let of_vas = |tag: &String| format!("{}@{tag}", vas.name.as_str());
    let kept = store.kept_of(sid)?;
    let to = match to {
        VersionChoice::Tag(tag) if kept.iter().any(|it| it.tag == of_vas(tag)) => {
            VersionChoice::Tag(of_vas(tag))
        }
        VersionChoice::Number(number) => {
            let at = store.vas_version(vid, *number)?;
            VersionChoice::Number(at.first().map_or(*number, |(_, number)| *number))
        }
        VersionChoice::Tag(_) => to.clone(),
    };
    let hold = hold_versions(store, std::slice::from_ref(&segment), limit, stopping)?;
    let number = store.rollback_only_segment(vid, sid, &to, hold.held(sid));
    let number = hold.settle(number)?;
    Ok(vec![(segment.name().clone(), number)])
}

/// Removes versions that were kept for a while and that nobody has: before another one is kept so.
///
/// # Errors
/// As [`Store::remove_passing`].
pub fn remove_old(store: &Store) -> Result<Removed, StoreError> {
    store.remove_passing(PASSING_AGE)
}

/// Keeps what a VAS had at a number for a while, under that number. It goes a minute
/// later at the earliest, when another one is kept so ([`remove_old`]) and no VM has it any more, or with
/// the garbage.
///
/// # Errors
/// As [`Store::vas_version`] and [`Store::keep_vas`].
pub fn keep_number(
    store: &Store,
    vid: VasId,
    number: u64,
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<CopiedVas, VasError> {
    let segments = store.open_listed(&store.vas(vid)?)?;
    let hold = hold_versions(store, &segments, limit, stopping)?;
    let at = store.vas_version(vid, number);
    let keep = |at: Vec<_>| store.keep_vas(vid, &number.to_string(), Some(&at), &hold.members());
    let made = match at.and_then(keep) {
        // Another VM has kept the same one since it was looked for.
        Err(StoreError::Exists(Object::VasName(name))) => {
            let vid = store.find_vas(&name)?;
            Ok(CopiedVas { vid, segments: Vec::new() })
        }
        made => made,
    };
    Ok(hold.settle(made)?)
}

/// Keeps these versions of the segments of a VAS for a snapshot of a process
/// ([`Store::keep_for_snapshot`]). Returns the VAS that is made.
///
/// # Errors
/// As [`tag_segment`] and [`Store::keep_vas`].
pub(crate) fn keep_at(
    store: &Store,
    vid: VasId,
    at: &[(SegId, u64)],
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<VasId, VasError> {
    let opened = at.iter().map(|(sid, _)| store.open_segment(*sid));
    let segments = opened.collect::<Result<Vec<_>, _>>()?;
    let hold = hold_versions(store, &segments, limit, stopping)?;
    Ok(hold.settle(store.keep_for_snapshot(vid, at, &hold.members()))?.vid)
}

impl Vases {
    /// `vas_tag`: as [`tag_vas`], for a thread of the program, which may hold locks itself. What it has
    /// changed and not committed is not kept.
    ///
    /// # Errors
    /// As [`tag_vas`].
    pub fn tag_vas(
        &self,
        vcpu: &Vcpu,
        vid: VasId,
        tag: &TagName,
        stopping: &dyn Fn() -> bool,
    ) -> Result<VasId, VasError> {
        let (_, held) = self.lease_and_locks(vcpu)?;
        let limit = (!held.is_empty()).then_some(INSIDE_WAIT);
        let granted = self.granted()?;
        granted.tag_vas(vid, |store| tag_vas_beside(store, vid, tag, &held, limit, stopping))
    }

    /// `vas_find`: the VAS with a name; `NAME@NUMBER` is a version that is kept for a while.
    ///
    /// # Errors
    /// As [`Store::choose_vas`] and [`keep_number`].
    pub fn find_vas(
        &self,
        vcpu: &Vcpu,
        name: &Name,
        stopping: &dyn Fn() -> bool,
    ) -> Result<VasId, VasError> {
        let (_, held) = self.lease_and_locks(vcpu)?;
        // Of a lock that it holds itself it would wait for ever.
        let limit = (!held.is_empty()).then_some(INSIDE_WAIT);
        self.granted()?
            .find_vas(name, |store, vid, number| keep_number(store, vid, number, limit, stopping))
    }
}
