//! What a store reports about its objects.

use abi::objects::{LeaseId, Right, SegId, VasId};

use crate::format::error::StoreError;
use crate::format::header::{Header, SegmentState};
use crate::format::name::{Mode, Name};

/// What the host lets the calling user do with an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    /// Nothing.
    None,
    /// Read it.
    Read,
    /// Read and change it.
    Write,
}

impl Access {
    /// Whether it suffices for a right.
    #[must_use]
    pub const fn allows(self, right: Right) -> bool {
        matches!((self, right), (Access::Write, _) | (Access::Read, Right::Read))
    }

    /// As in `SegStat` and `VasStat`.
    #[must_use]
    pub const fn raw(self) -> u8 {
        match self {
            Access::None => 0,
            Access::Read => 1,
            Access::Write => 3,
        }
    }
}

/// One segment of a VAS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VasSegment {
    /// Its id.
    pub sid: SegId,
    /// What attachers of the VAS may do with it.
    pub right: Right,
    /// Its name when it was attached.
    pub name: Name,
}

/// A VAS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VasRecord {
    /// Its id.
    pub vid: VasId,
    /// Its name.
    pub name: Name,
    /// Permission bits.
    pub mode: Mode,
    /// Whether instances get a TLB tag.
    pub tagged: bool,
    /// No commit through it gets a number up to this one ([`Store::vas_history`](crate::Store::vas_history)).
    pub numbers_after: u64,
    /// In the order they were attached. A segment whose file was removed by hand is still
    /// listed, and opening it fails.
    pub segments: Vec<VasSegment>,
    /// What the caller may do.
    pub access: Access,
}

/// What is in a VAS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VasContent {
    /// Its name.
    pub name: Name,
    /// Whether instances get a TLB tag.
    pub tagged: bool,
    /// As in [`VasRecord`].
    pub numbers_after: u64,
    /// As in [`VasRecord`].
    pub segments: Vec<VasSegment>,
}

impl VasRecord {
    /// The error of a segment that this VAS lists and that is not in the store.
    #[must_use]
    pub fn lost(&self, listed: &VasSegment, sid: SegId) -> StoreError {
        lost(&self.name, listed, sid)
    }
}

impl VasContent {
    /// As [`VasRecord::lost`].
    #[must_use]
    pub fn lost(&self, listed: &VasSegment, sid: SegId) -> StoreError {
        lost(&self.name, listed, sid)
    }
}

fn lost(vas: &Name, listed: &VasSegment, sid: SegId) -> StoreError {
    StoreError::Lost { vas: vas.clone(), segment: listed.name.clone(), sid }
}

/// A segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentRecord {
    /// All its fields.
    pub header: Header,
    /// Its name: the file's.
    pub name: Name,
    /// Permission bits.
    pub mode: Mode,
    /// What the host stores for it.
    pub stored_bytes: u64,
    /// What the caller may do.
    pub access: Access,
    /// Whether a holder of its lock died, or an earlier boot of the host left it dirty, and the
    /// content has not been declared consistent since.
    pub inconsistent: bool,
    /// Whether an earlier boot of the host left it dirty, and nobody has had it since.
    pub of_another_boot: bool,
    /// The number of its newest version, if it is versioned.
    pub version: Option<u64>,
    /// Live VMs that have it attached.
    pub attachers: Vec<(LeaseId, Right)>,
}

impl SegmentRecord {
    /// Whether its last writer was killed, and no other has it writable now.
    #[must_use]
    pub fn dirty(&self) -> bool {
        let written = self.attachers.iter().any(|(_, right)| *right == Right::Write);
        self.header.state == SegmentState::Dirty && !written
    }
}

/// A VAS in a list. Damaged and unreadable ones are listed too, with the reason.
#[derive(Debug)]
pub struct VasEntry {
    /// The name of its folder.
    pub name: Name,
    /// What it holds.
    pub record: Result<VasRecord, StoreError>,
}

/// A segment in a list. Damaged and unreadable ones are listed too, with the reason.
#[derive(Debug)]
pub struct SegmentEntry {
    /// The name of its file.
    pub name: Name,
    /// What it holds.
    pub record: Result<SegmentRecord, StoreError>,
}
