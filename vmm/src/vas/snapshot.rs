//! What the segments of a VAS have at one moment, open to be read: to be written to an archive, or
//! compared.
//!
//! Of a versioned segment that is a version, which does not change: its lock is held only while the
//! versions of several are looked up, so that no change of several is seen half. Raw ones are kept from
//! being written until the end.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use abi::{Right, SegId};
use seg_lock::{Mode, Patience};

use crate::store::{
    Chosen, Exported, Progress, SegmentFile, SegmentView, Store, StoreError, VasRecord,
};
use crate::vas::VasError;
use crate::vas::content::ContentHold;
use crate::vas::residency::lock_page::at_most;

/// A segment, and the number of the version that is wanted of it; without it the newest.
pub type Wanted = (SegId, Option<u64>);

/// Segments at one moment.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// In the order in which they were asked for.
    pub views: Vec<SegmentView>,
    hold: ContentHold<'a>,
}

impl Snapshot<'_> {
    /// To be asked when all is read: whether it is what they had.
    ///
    /// # Errors
    /// [`SegmentView::check`]; [`StoreError::Busy`] when a VM has meanwhile attached a segment without a
    /// lock for writing.
    pub fn check(&self) -> Result<(), VasError> {
        self.views.iter().try_for_each(SegmentView::check)?;
        Ok(self.hold.check(None)?)
    }
}

/// Opens segments to be read, as they are at one moment: between two changes of writers. A segment that
/// its user may not write cannot be locked: of a versioned one that is its newest version then, which may be
/// a commit ahead of the others, but has no more of a commit of several than they.
///
/// # Errors
/// [`StoreError::Locked`] when a lock is not free within `limit`; [`StoreError::Busy`] when a VM has a raw
/// segment writable that cannot be locked; as [`Store::view_segments`].
pub fn snapshot<'a>(
    store: &'a Store,
    wanted: &[Wanted],
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<Snapshot<'a>, VasError> {
    let mut changing = Vec::new();
    for &(sid, number) in wanted {
        let segment = store.open_segment(sid)?;
        if number.is_none() && segment.header().kept.is_none() {
            changing.push(segment);
        }
    }
    changing.sort_by_key(SegmentFile::sid);
    changing.dedup_by_key(|segment| segment.sid());
    let is_one_version = matches!(&changing[..], [one] if one.is_versioned());
    let mut hold = ContentHold::new(store);
    let patience = limit.map_or(Patience::Forever, at_most);
    // All in the order of their ids, as writers do.
    for segment in changing.iter().filter(|_| !is_one_version) {
        let is_lockable = segment.header().lockable && segment.right() == Right::Write;
        if is_lockable {
            hold.lock(segment, Mode::Shared, patience, stopping)?;
        } else if !segment.is_versioned() {
            hold.watch(segment)?;
        }
    }
    let views = store.view_segments(wanted);
    let versioned = changing.iter().filter(|segment| segment.is_versioned());
    hold.give_back(&versioned.map(SegmentFile::sid).collect::<Vec<_>>());
    Ok(Snapshot { views: views?, hold })
}

/// A VAS as it is at a version, and what its segments have there. At a number those are its versioned
/// segments; raw ones have no versions.
///
/// # Errors
/// As [`Store::vas`] and [`Store::vas_version`].
pub fn vas_at(
    store: &Store,
    chosen: &Chosen<abi::VasId>,
) -> Result<(VasRecord, Vec<Wanted>), StoreError> {
    match *chosen {
        Chosen::Whole(vid) => {
            let vas = store.vas(vid)?;
            // One that is not there is named as the VAS lists it.
            let segments = store.open_listed(&vas)?;
            let wanted = segments.iter().map(|segment| (segment.sid(), None)).collect();
            Ok((vas, wanted))
        }
        Chosen::Number(vid, number) => {
            let mut vas = store.vas(vid)?;
            let at = store.vas_version(vid, number)?;
            vas.segments.retain(|listed| at.iter().any(|(sid, _)| *sid == listed.sid));
            Ok((vas, at.into_iter().map(|(sid, number)| (sid, Some(number))).collect()))
        }
    }
}

/// Writes a VAS, or a version of one, and its segments as one archive, as they are at one moment
/// ([`Store::export_vas`]).
///
/// # Errors
/// As [`vas_at`] and [`snapshot`], and errors of writing; then what was written is not a complete archive.
pub fn export(
    store: &Store,
    chosen: &Chosen<abi::VasId>,
    to: &mut dyn Write,
    path: &Path,
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Exported, VasError> {
    let (vas, wanted) = vas_at(store, chosen)?;
    let _span = tracing::debug_span!("export", vas = %vas.name).entered();
    let snapshot = snapshot(store, &wanted, limit, stopping)?;
    let exported = store.export_vas(vas, &snapshot.views, to, path, progress)?;
    snapshot.check()?;
    Ok(exported)
}
