//! What a check says: damage, leaks, and how full the heap is.

use alloc::vec::Vec;
use core::fmt;

/// Most damages and most leaks that a report has; all are counted.
pub const MAX_LISTED: usize = 32;

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

    pub(super) fn damaged(
        &mut self,
        offset: u64,
        field: &'static str,
        found: u64,
        expected: &'static str,
    ) {
        self.damages += 1;
        if self.damage.len() < MAX_LISTED {
            self.damage.push(Damage { offset, field, found, expected });
        }
    }
}
