//! What a check reports: what is wrong and where, how much was looked at, and what was not.

use std::collections::BTreeMap;
use std::fmt;

use seg_heap::check::{Damage, Leaks};

/// The most findings that a report lists; all are counted.
pub const MAX_LISTED: usize = 64;

/// What a [`Space::check`](crate::Space::check) found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// How many owners, pointers and collections were looked at, by what they are.
    pub counts: BTreeMap<&'static str, u64>,
    /// Blocks that are reached from the root object, its own among them.
    pub blocks: u64,
    /// Bytes of them, rounding included.
    pub bytes: u64,
    /// How much is wrong.
    pub damages: u64,
    /// The first [`MAX_LISTED`] of it.
    pub findings: Vec<Finding>,
    /// Blocks that nobody reaches: memory that is lost until the space is made anew, and no damage. `None` if the heap
    /// itself is damaged, which makes the number meaningless.
    pub leaks: Option<Leaks>,
    /// Owners that [`VRc`](crate::VRc)s count and that nobody has: their values stay when the others are gone. No damage.
    pub lost_owners: u64,
    /// Values of types that the check cannot look into, by type: those that implement
    /// [`Storable`](crate::Storable) by hand and not its `check_stored`. What they own counts as leaked.
    pub unknown: BTreeMap<&'static str, u64>,
}

impl CheckReport {
    /// Of a segment in which there is no heap any more.
    pub(crate) fn without_heap() -> CheckReport {
        let finding = Finding { path: "heap".to_owned(), problem: Problem::NoHeap };
        CheckReport { damages: 1, findings: vec![finding], ..CheckReport::default() }
    }

    /// Whether nothing is wrong with what was looked at. Leaks are no damage.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damages == 0
    }
}

/// The summary, and what is wrong, each in a line.
impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let unlisted = self.damages.saturating_sub(self.findings.len() as u64);
        if unlisted > 0 {
            writeln!(f, "and {unlisted} more")?;
        }
        for (name, count) in &self.unknown {
            writeln!(f, "not looked into: {count} of type {name}")?;
        }
        let counts: Vec<_> =
            self.counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let state = if self.is_clean() { "clean" } else { "damaged" };
        write!(f, "{state}: {} blocks, {} bytes", self.blocks, self.bytes)?;
        if !counts.is_empty() {
            write!(f, "; {}", counts.join(", "))?;
        }
        if let Some(leaks) = self.leaks.as_ref().filter(|leaks| leaks.blocks > 0) {
            write!(f, "; {} blocks, {} bytes that nobody reaches", leaks.blocks, leaks.bytes)?;
        }
        if self.lost_owners > 0 {
            write!(f, "; {} owners that nobody has", self.lost_owners)?;
        }
        Ok(())
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The way to it from the root object: `root.users["ann"].tags[3]`. What pointers point to has no single way, and
    /// begins with its type and address: `(Town at 0x200000010040).roads`. `heap` is the heap itself.
    pub path: String,
    /// What it is.
    pub problem: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The heap's own data.
    #[error("{0}")]
    Heap(Damage),
    /// The memory does not begin with a heap.
    #[error("there is no heap")]
    NoHeap,
    /// Bytes that no value of the type has.
    #[error("{found:#x} is no {of}")]
    Value {
        /// The type.
        of: &'static str,
        /// The bytes, as a number.
        found: u128,
    },
    /// An address of no block that is in use.
    #[error("{address:#x} is the address of no block in use")]
    NoBlock {
        /// The address.
        address: usize,
    },
    /// An address within a block, where one of a block is expected.
    #[error("{address:#x} is within the block at {start:#x}, and not where it begins")]
    NotAtStart {
        /// The address.
        address: usize,
        /// The block's.
        start: usize,
    },
    /// An address at which there cannot be such a value.
    #[error("{address:#x} is not a multiple of {align}")]
    Misaligned {
        /// The address.
        address: usize,
        /// The type's alignment.
        align: usize,
    },
    /// A block with less room than what should be in it.
    #[error("the block at {address:#x} has {bytes} bytes, and should have {needed}")]
    TooSmall {
        /// The block's address.
        address: usize,
        /// From there to the block's end.
        bytes: usize,
        /// What the values need.
        needed: u128,
    },
    /// A block that something else owns or points to already.
    #[error("something else owns or points to the block at {address:#x}")]
    TwoOwners {
        /// The block's address.
        address: usize,
    },
    /// A shared value that owns itself.
    #[error("the value at {address:#x} owns itself")]
    OwnsItself {
        /// The value's address.
        address: usize,
    },
    /// A value that is seen as two types.
    #[error("something else points to {address:#x} as another type, or between its values")]
    TwoTypes {
        /// The address.
        address: usize,
    },
    /// A number that does not fit to others.
    #[error("{what} is {found}, and should be {expected}")]
    Number {
        /// Which number.
        what: &'static str,
        /// What it is.
        found: u128,
        /// What it should be.
        expected: Expected,
    },
    /// Text that is not UTF-8 from this byte on.
    #[error("not UTF-8 from byte {valid} on")]
    NotUtf8 {
        /// How many bytes are.
        valid: usize,
    },
    /// An entry or a value that is not where it belongs.
    #[error("{0}")]
    Order(&'static str),
    /// Hashing or comparing a key panicked.
    #[error("hashing or comparing its keys panicked")]
    Panicked,
    /// A `check_stored` that was written by hand is about bytes that the value does not have.
    #[error("its `check_stored` is about bytes that it does not have")]
    BadCheck,
}

/// What a number should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expected {
    /// This.
    Exactly(u128),
    /// This or less.
    AtMost(u128),
    /// This or more.
    AtLeast(u128),
    /// A power of two, of buckets.
    PowerOfTwo,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Exactly(number) => write!(f, "{number}"),
            Expected::AtMost(number) => write!(f, "{number} at most"),
            Expected::AtLeast(number) => write!(f, "{number} at least"),
            Expected::PowerOfTwo => f.write_str("a power of two"),
        }
    }
}
