//! A walk through a heap that believes nothing it reads.
//!
//! It looks at header, descriptors, free lists and counts, and says what is not as it must be and
//! where. In a heap without damage it then follows every word that could be the address of a block,
//! from the root objects on: allocated blocks it does not meet are leaks. That is conservative: a
//! number that looks like an address keeps a block from being reported, never the other way round.
//!
//! Work and memory are bounded by what is in the heap's tables, so a hostile file costs time in
//! proportion to its size.
//!
//! - `walk`: what must hold; `trace`: leaks; `bits`: sets of blocks

mod bits;
mod trace;
mod walk;

use alloc::vec::Vec;
use core::fmt;

use crate::layout::{HeapHeader, MAGIC, MIN_BYTES, PageDesc};

/// Most damages and most leaks that a report has; all are counted.
pub const MAX_LISTED: usize = 32;

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

/// Something that is not as it must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where, from the heap's start.
    pub offset: u64,
    /// Of what.
    pub field: &'static str,
    /// What is there.
    pub found: u64,
    /// What must be.
    pub expected: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { offset, field, found, expected } = self;
        write!(f, "{field} at +{offset:#x}: found {found:#x}, expected {expected}")
    }
}

/// A block that nothing leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leak {
    /// Where, from the heap's start.
    pub offset: u64,
    /// Bytes, rounding included.
    pub bytes: u64,
}

/// All blocks that nothing leads to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leaks {
    /// How many.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The first [`MAX_LISTED`] in the order of addresses.
    pub first: Vec<Leak>,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Bytes that the heap has of its segment.
    pub end: u64,
    /// Allocated blocks.
    pub blocks: u64,
    /// Bytes of them, rounding included.
    pub bytes: u64,
    /// Bytes that can be allocated without growing: free pages, and room in spans.
    pub free_bytes: u64,
    /// How many damages there are.
    pub damages: u64,
    /// The first [`MAX_LISTED`] of them.
    pub damage: Vec<Damage>,
    /// What leads nowhere; `None` in a damaged heap, and without a root object.
    pub leaks: Option<Leaks>,
}

impl Report {
    /// Whether the heap can be used.
    #[must_use]
    pub fn sound(&self) -> bool {
        self.damages == 0
    }

    fn damaged(&mut self, offset: u64, field: &'static str, found: u64, expected: &'static str) {
        self.damages += 1;
        if self.damage.len() < MAX_LISTED {
            self.damage.push(Damage { offset, field, found, expected });
        }
    }
}

/// Checks a heap; `None` if there is none: the memory begins with something else.
pub fn check(reader: &mut impl Reader, subject: &Subject<'_>) -> Option<Report> {
    if subject.size < MIN_BYTES || reader.word(0)? != u64::from_le_bytes(MAGIC) {
        return None;
    }
    let mut report = Report::default();
    let Some(mut walk) = walk::Walk::begin(reader, subject, &mut report) else {
        return Some(report);
    };
    walk.areas();
    walk.lists();
    let found = walk.end();
    if report.sound() && !subject.roots.is_empty() {
        report.leaks = trace::leaks(reader, subject, &found);
        if report.leaks.is_none() {
            report.damaged(0, "memory", 0, "to be readable");
        }
    }
    Some(report)
}

/// A 32-bit number at `offset`, a multiple of 4.
fn half(reader: &mut impl Reader, offset: u64) -> Option<u32> {
    let word = reader.word(offset & !7)?;
    Some((word >> ((offset & 4) * 8)) as u32)
}

/// The descriptor of `page`.
fn desc(reader: &mut impl Reader, page: u32) -> Option<PageDesc> {
    let offset = crate::layout::desc_offset(page);
    let [a, b, c, d] = [
        reader.word(offset)?,
        reader.word(offset + 8)?,
        reader.word(offset + 16)?,
        reader.word(offset + 24)?,
    ];
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
fn header(reader: &mut impl Reader) -> Option<HeapHeader> {
    use core::mem::offset_of;
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
    };
    let start = offset_of!(HeapHeader, bins) as u64;
    for (offset, bin) in (start..).step_by(4).zip(&mut header.bins) {
        *bin = half(reader, offset)?;
    }
    let start = offset_of!(HeapHeader, partial) as u64;
    for (offset, span) in (start..).step_by(4).zip(&mut header.partial) {
        *span = half(reader, offset)?;
    }
    Some(header)
}
