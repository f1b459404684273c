//! One VAS with its segments as one compressed file, to keep or to carry elsewhere.
//!
//! ```text
//! zstd( "SJMPVAS\n" version
//!       VAS                       the manifest
//!       SEGMENT DATA* END         for each segment, in the manifest's order
//!       ...
//!       DONE )
//! ```
//!
//! Pieces carry their number and a checksum, so that a lost, doubled or changed one is found.
//! Only what is not zero is in the file; zeros are holes when it is read. Both directions
//! stream: memory does not depend on sizes. `piece` is the format, `export` writes it,
//! `import` reads it. `docs/src/store-commands.md` describes it.

mod export;
mod import;
mod piece;

use abi::objects::{SegId, VasId};

use crate::format::name::Name;

pub use import::survey_archive;
pub(crate) use piece::read_any;

/// How far an export or import is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The segment at work.
    pub segment: Name,
    /// How far in it, in bytes of addresses.
    pub done_bytes: u64,
    /// Its size.
    pub size_bytes: u64,
}

/// What was exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// Segments.
    pub segments: u32,
    /// Bytes that were not zero, uncompressed.
    pub data_bytes: u64,
}

/// What an archive holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// The name of its VAS.
    pub name: Name,
    /// Segments.
    pub segments: u32,
    /// Bytes that are not zero, uncompressed: what importing writes.
    pub data_bytes: u64,
    /// Bytes of addresses.
    pub size_bytes: u64,
}

/// What was imported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// The new VAS.
    pub vid: VasId,
    /// Its name.
    pub name: Name,
    /// Its segments, under the names and ids they have here.
    pub segments: Vec<(Name, SegId)>,
    /// Bytes that were not zero.
    pub data_bytes: u64,
}
