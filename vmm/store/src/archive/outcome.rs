//! What an export or import reports.

use abi::objects::{SegId, VasId};

use crate::format::name::Name;

/// The progress of an export or import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The current segment.
    pub segment: Name,
    /// The position in it, in bytes of addresses.
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
