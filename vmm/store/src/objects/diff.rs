//! In which pages two versions differ, of one segment or of two.
//!
//! What both have at the same place of the same file is the same, and is not read: clones and tags share
//! their files, and versions of one segment share all that lies below what was changed in between. Of the
//! rest, pages that may be something else than zeros are compared, byte by byte.

use std::ops::Range;

use abi::addr::PAGE_SIZE;

use crate::format::error::StoreError;
use crate::objects::view::{Places, SegmentView, WINDOW_PAGES};

/// A run of pages that differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiffRange {
    /// Where it begins in the segments.
    pub offset: u64,
    /// Its bytes: whole pages.
    pub bytes: u64,
}

/// In what two segments differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SegmentDiff {
    /// The pages, in runs, rising.
    pub ranges: Vec<DiffRange>,
    /// Pages that were read of both to find out.
    pub compared_pages: u64,
    /// One is larger.
    pub is_resized: bool,
    /// They have different root objects.
    pub is_rerooted: bool,
}

impl SegmentDiff {
    /// Whether there is no difference.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && !self.is_resized && !self.is_rerooted
    }

    /// Bytes of the pages that differ.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.bytes).sum()
    }

    fn add(&mut self, page: u64) {
        let offset = page * PAGE_SIZE;
        match self.ranges.last_mut().filter(|last| last.offset + last.bytes == offset) {
            Some(last) => last.bytes += PAGE_SIZE,
            None => self.ranges.push(DiffRange { offset, bytes: PAGE_SIZE }),
        }
    }
}

/// Compares two segments, or versions; `tell` is called now and then with the bytes of addresses that are
/// done. Behind the end of the shorter one there are zeros.
///
/// # Errors
/// The host's; [`StoreError::NoVersion`] for a version that went meanwhile ([`SegmentView::check`]).
pub fn diff(
    from: &SegmentView,
    to: &SegmentView,
    tell: &mut dyn FnMut(u64),
) -> Result<SegmentDiff, StoreError> {
    let (old, new) = (from.segment().header(), to.segment().header());
    let mut found = SegmentDiff {
        is_resized: old.size_bytes != new.size_bytes,
        is_rerooted: old.root != new.root,
        ..SegmentDiff::default()
    };
    let end = from.pages().max(to.pages());
    let mut start = 0;
    while start < end {
        let pages = start..(start + WINDOW_PAGES).min(end);
        let places = [from.places(pages.clone())?, to.places(pages.clone())?];
        for page in candidates(&places, &pages) {
            found.compared_pages += 1;
            if from.read(page)? != to.read(page)? {
                found.add(page);
            }
        }
        start = pages.end;
        tell(start * PAGE_SIZE);
    }
    from.check()?;
    to.check()?;
    Ok(found)
}

/// The pages that may differ, rising.
fn candidates(places: &[Places; 2], pages: &Range<u64>) -> Vec<u64> {
    let [from, to] = places;
    let mut looked_at: Vec<Range<u64>> = Vec::new();
    for one in places {
        looked_at.extend(one.listed.keys().map(|page| *page..page + 1));
        if from.below == to.below {
            // One may have more of the file than the other.
            let shared = from.below_pages.end.min(to.below_pages.end);
            looked_at.extend(one.data.iter().map(|run| run.start.max(shared)..run.end));
        } else {
            looked_at.extend(one.data.iter().cloned());
        }
    }
    looked_at.sort_unstable_by_key(|run| run.start);
    let mut next = pages.start;
    let mut found = Vec::new();
    for run in looked_at {
        for page in run.start.max(next)..run.end.min(pages.end) {
            next = page + 1;
            if from.of(page) != to.of(page) {
                found.push(page);
            }
        }
    }
    found
}
