//! The blocks of a heap, damaged or not, for a check that knows what should lie in them: which block an
//! address is in, and which of them nobody has asked for.
//!
//! What a damaged heap says of its blocks may be wrong, but never leads out of the heap.

use super::bits::Bits;
use super::reader::{Reader, Subject};
use super::report::{Leaks, Report};
use super::trace::{block_at, unreached};
use super::walk::Found;
use super::walked;
use crate::class::GRANULE;
use crate::geometry::page_offset;

/// What a walk has learned of a heap's blocks.
pub struct Survey {
    found: Found,
    reached: Bits,
}

/// Checks a heap as [`check`](super::check) does, but for leaks. `None` if the memory does not begin with one; no survey if
/// its header is so damaged that there is no way to begin.
pub fn survey(reader: &mut impl Reader, subject: &Subject<'_>) -> Option<(Report, Option<Survey>)> {
    let (report, found) = walked(reader, subject)?;
    let survey = |found: Found| {
        let mut survey = Survey { found, reached: Bits::default() };
        // The text that describes the root object is the heap's own.
        if survey.found.text != 0
            && let Some((text, _)) = survey.block_at(reader, survey.found.text)
        {
            survey.reach(text);
        }
        survey
    };
    Some((report, found.map(survey)))
}

impl Survey {
    /// Position and bytes, rounding included, of the allocated block at `offset`; it lies in the heap.
    pub fn block_at(&self, reader: &mut impl Reader, offset: u64) -> Option<(u64, u64)> {
        let end = page_offset(self.found.pages);
        if offset >= end {
            return None;
        }
        let (start, bytes) = block_at(reader, &self.found, offset)??;
        let holds = offset.checked_sub(start).is_some_and(|within| within < bytes);
        let is_inside = start.checked_add(bytes).is_some_and(|block_end| block_end <= end);
        let is_free = self.found.free.has(start / GRANULE as u64);
        (holds && is_inside && !is_free).then_some((start, bytes))
    }

    /// Marks the block at `start` as reached; returns whether it was not yet.
    pub fn reach(&mut self, start: u64) -> bool {
        self.reached.add(start / GRANULE as u64)
    }

    /// Marks all blocks as not reached.
    pub fn forget(&mut self) {
        self.reached = Bits::default();
    }

    /// All allocated blocks that were not reached; `None` if the heap cannot be read.
    pub fn unreached(&self, reader: &mut impl Reader) -> Option<Leaks> {
        unreached(reader, &self.found, &self.reached)
    }
}
