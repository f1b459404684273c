//! Pages, and the numbers of versions.

use std::fmt;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// A page's content.
pub type Page = [u8; PAGE_BYTES];

/// A page of a segment, counted from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageIndex(pub u64);

impl PageIndex {
    /// Where it lies in a file with the segment's layout.
    #[must_use]
    pub fn offset(self) -> Option<u64> {
        self.0.checked_mul(PAGE_BYTES as u64)
    }
}

/// The number of a version: 0 is the empty segment, each commit makes the next. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct VersionNumber(pub u64);

impl VersionNumber {
    /// The one that the next commit makes; `None` at the end of all numbers.
    #[must_use]
    pub fn next(self) -> Option<VersionNumber> {
        self.0.checked_add(1).map(VersionNumber)
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
