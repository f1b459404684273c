//! How a check reads a heap: word by word, from a source that can fail.

use crate::layout::{HeapHeader, PageDesc, desc_offset};
use core::mem::offset_of;

/// How a heap's memory is read.
pub trait Reader {
    /// The little-endian word at `offset`, a multiple of 8, from the heap's start; `None` if it
    /// cannot be read.
    fn word(&mut self, offset: u64) -> Option<u64>;
}

/// Which heap.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Address of its segment.
    pub base: u64,
    /// Bytes of its segment.
    pub size: u64,
    /// Addresses of root objects. Without any, leaks are not looked for.
    pub roots: &'a [u64],
}

/// A 32-bit number at `offset`, a multiple of 4.
fn half(reader: &mut impl Reader, offset: u64) -> Option<u32> {
    let word = reader.word(offset & !7)?;
    Some((word >> ((offset & 4) * 8)) as u32)
}

/// The descriptor of `page`.
pub(super) fn desc(reader: &mut impl Reader, page: u32) -> Option<PageDesc> {
    let offset = desc_offset(page);
    let mut word = |n: u64| reader.word(offset + n * 8);
    let (a, b, c, d) = (word(0)?, word(1)?, word(2)?, word(3)?);
    Some(PageDesc {
        kind: a as u8,
        class: (a >> 8) as u8,
        back: (a >> 16) as u16,
        pages: (a >> 32) as u32,
        used: b as u16,
        fresh: (b >> 16) as u16,
        free: (b >> 32) as u16,
        listed: (b >> 48) as u16,
        prev: c as u32,
        next: (c >> 32) as u32,
        bytes: d,
    })
}

/// The header.
pub(super) fn header(reader: &mut impl Reader) -> Option<HeapHeader> {
    let (version, huge) = (reader.word(8)?, reader.word(56)?);
    let mut header = HeapHeader {
        magic: reader.word(0)?.to_le_bytes(),
        version: version as u32,
        classes: (version >> 32) as u32,
        base: reader.word(16)?,
        end: reader.word(24)?,
        busy: reader.word(32)?,
        text: reader.word(40)?,
        text_bytes: reader.word(48)?,
        huge: huge as u32,
        reserved: (huge >> 32) as u32,
        bins_used: reader.word(64)?,
        bins: [0; _],
        partial: [0; _],
        reserved_end: half(reader, offset_of!(HeapHeader, reserved_end) as u64)?,
    };
    // One after the other, without a gap.
    let lists = header.bins.iter_mut().chain(&mut header.partial);
    let start = offset_of!(HeapHeader, bins) as u64;
    for (offset, list) in (start..).step_by(4).zip(lists) {
        *list = half(reader, offset)?;
    }
    Some(header)
}
