//! Page tables of address spaces.
//!
//! - [`frames`]: the frames they lie in, and when one may be used again
//! - [`subtree`]: a segment's tables, built once in a VM; [`root`]: an instance's own, which link
//!   to those of its [`members`]
//!
//! Nothing here knows about the store, locks or threads.
#![forbid(unsafe_code)]

pub(crate) mod frames;
pub(crate) mod members;
pub(crate) mod root;
pub(crate) mod subtree;

use abi::{Entry, GuestPhys};

use crate::vm::MemoryError;
pub(crate) use frames::TableFrames;
pub(crate) use members::{Member, Members};
pub(crate) use root::InstanceTables;
pub(crate) use subtree::{PieceSpan, Subtree};

/// The tables of a segment, to be linked by instances.
pub(crate) trait SegmentTables {
    /// The page-directory-pointer table of a 512 GiB slot, made if missing.
    fn pdpt(&mut self, slot: u64, frames: &mut TableFrames) -> Result<GuestPhys, MemoryError>;

    /// The entry for a gigabyte, if anything is built there.
    fn entry(&self, gib: u64) -> Option<Entry>;

    /// The page directory of a gigabyte, unless it is one large page or not built.
    fn directory(&self, gib: u64) -> Option<GuestPhys>;
}

/// 512 GiB: what one entry of a root table covers.
pub(crate) const SLOT_BYTES: u64 = 512 << 30;
