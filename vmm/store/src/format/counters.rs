//! The change counters: the file `live` of a store, one page that every VM maps.

//!
//! Word 0 counts changes of VASes, words 1 and 2 segments and VASes made and deleted. Word 8 is another one
//! whenever versions of a segment are published.

use abi::layout::LIVE_PUBLISHED;

/// Bytes of the file: a page, so that it can be mapped.
pub(crate) const COUNTERS_BYTES: u64 = 4096;
/// Offset of the count of VAS changes.
pub(crate) const CHANGES: u64 = 0;
/// Offset of the word that changes with the versions of segments.
pub(crate) const PUBLISHED: u64 = LIVE_PUBLISHED;

/// What is counted when it is made and deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counted {
    Segment,
    Vas,
}

impl Counted {
    /// Offset of its counter.
    pub(crate) const fn offset(self) -> u64 {
        match self {
            Counted::Segment => 8,
            Counted::Vas => 16,
        }
    }
}
