//! The change counters: the file `live` of a store, one page that every VM maps.

//!
//! Word 0 counts changes of VASes, words 1 and 2 segments and VASes made and deleted.

/// Bytes of the file: a page, so that it can be mapped.
pub(crate) const COUNTERS_BYTES: u64 = 4096;
/// Offset of the count of VAS changes.
pub(crate) const CHANGES: u64 = 0;

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
