//! Pages and areas: how the heap's memory is divided.
//!
//! Pages are identified by their number in the heap, the areas' table pages included; page 0 is
//! the first table and belongs to no span or run, so a link of 0 means none.

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 64 << 10;
/// Pages of an area.
pub const AREA_PAGES: u32 = 1024;
/// Bytes of an area.
pub const AREA_BYTES: u64 = PAGE_BYTES * AREA_PAGES as u64;
/// Where an area's descriptors begin.
pub const TABLE_OFFSET: u64 = 32 << 10;
/// The smallest heap: a table and one page.
pub const MIN_BYTES: u64 = 2 * PAGE_BYTES;
/// The largest: page numbers have 32 bits, and no segment is as large.
pub const MAX_BYTES: u64 = 1 << 47;

/// Where page `page` begins, from the heap's start.
#[inline]
#[must_use]
pub const fn page_offset(page: u32) -> u64 {
    page as u64 * PAGE_BYTES
}
