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

pub(crate) use frames::TableFrames;
pub(crate) use members::{Member, Members};
pub(crate) use root::InstanceTables;
pub(crate) use subtree::{PieceSpan, Subtree};

/// 512 GiB: what one entry of a root table covers.
pub(crate) const SLOT_BYTES: u64 = 512 << 30;
