//! The heap of a data segment: its layout, shared by the allocator and the check.
//!
//! All of its state lies in the segment, at the segment's base, in offsets from there, so the
//! next program continues where the last one stopped, and the host can walk a file.
//!
//! ```text
//! area 0 (64 MiB)             area 1                      ...          end
//! +--------+----+----+--//--+ +--------+----+--//--+----+     +--------+
//! | page 0 | 1  | 2  |      | | page 0 | 1  |      |1023|     | ...    |
//! +--------+----+----+--//--+ +--------+----+--//--+----+     +--------+
//!   |        64 KiB each        |
//!   +- HeapHeader (area 0 only) +- 1024 PageDesc, at TABLE_OFFSET
//!
//! a page is   free, in a run that has merged with its free neighbours
//!             of a span of one, two or four pages with blocks of one size class
//!             of a large block, a run of pages of its own
//!             of a huge block: from page 1 of an area to the end of that or a later area,
//!             over the places where the later areas' tables would be
//! ```
//!
//! Spans hold nothing but blocks: their state is in the descriptor of their first page, and in
//! the free blocks, whose first word is the position of the next one ([`FREE_MARK`]). That keeps
//! 32-byte objects at 32 bytes, and stray writes of programs mostly hit their own data.
//!
//! - `geometry`: pages and areas; `layout`: header and descriptors; [`class`](mod@class): size classes
//! - [`check`](mod@check): a walk that trusts nothing
//!
//! The allocator is in `guest-sdk/src/heap`; `docs/src/internals/heap.md` has the bytes.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod check;
pub mod class;
mod geometry;
mod layout;

pub use class::{CLASSES, Class};
pub use geometry::{
    AREA_BYTES, AREA_PAGES, MAX_BYTES, MIN_BYTES, PAGE_BYTES, TABLE_OFFSET, page_offset,
};
pub use layout::{
    FREE_MARK, HeapFront, HeapHeader, MAGIC, PageDesc, PageKind, RUN_BINS, RootNote, VERSION,
    bin_of, desc_offset, free_word, next_of_free_word,
};
