//! What a check reports: damage, leaks, and how full the heap is.

use alloc::vec::Vec;
use core::fmt;

/// The most damages and the most leaks that a report lists; all are counted.
pub const MAX_LISTED: usize = 32;

/// Something in the heap that is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where, from the heap's start.
    pub offset: u64,
    /// The name of the field.
    pub field: &'static str,
    /// The value found.
    pub found: u64,
    /// The value expected.
    pub expected: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { offset, field, found, expected } = self;
        write!(f, "{field} at +{offset:#x}: found {found:#x}, expected {expected}")
    }
}

/// An unreachable block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leak {
    /// Where, from the heap's start.
    pub offset: u64,
    /// Bytes, rounding included.
    pub bytes: u64,
}

/// All unreachable blocks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leaks {
    /// How many.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The first [`MAX_LISTED`] in address order.
    pub first: Vec<Leak>,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Bytes of the segment that the heap uses.
    pub end: u64,
    /// Allocated blocks.
    pub blocks: u64,
    /// Bytes of them, rounding included.
    pub bytes: u64,
    /// Bytes that can be allocated without growing: free pages, and free blocks in spans.
    pub free_bytes: u64,
    /// How many damages there are.
    pub damages: u64,
    /// The first [`MAX_LISTED`] of them.
    pub damage: Vec<Damage>,
    /// Unreachable blocks; `None` in a damaged heap, and without a root object.
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
