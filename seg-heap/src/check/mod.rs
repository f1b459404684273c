//! A walk through a heap that trusts nothing it reads.
//!
//! It checks header, descriptors, free lists and counts, and reports what is wrong and where. In a
//! heap without damage it then follows every word that could be the address of a block, starting
//! from the root objects: allocated blocks it does not reach are leaks. That is conservative: a
//! number that looks like an address keeps a block from being reported, never the other way round.
//!
//! Work and memory are bounded by the content of the heap's tables, so a hostile file costs
//! time in proportion to its size.
//!
//! - `reader`: where the bytes come from; `report`: what is found
//! - `walk`: what must hold; `trace`: leaks; `bits`: sets of blocks
//! - `survey`: the blocks one by one, for those who know what should lie in them

mod bits;
mod reader;
mod report;
mod survey;
mod trace;
mod walk;

pub use reader::{Reader, Subject};
pub use report::{Damage, Leak, Leaks, MAX_LISTED, Report};
pub use survey::{Survey, survey};

use crate::geometry::MIN_BYTES;
use crate::layout::MAGIC;

/// Checks a heap; `None` if the memory does not begin with one.
pub fn check(reader: &mut impl Reader, subject: &Subject<'_>) -> Option<Report> {
    let (mut report, found) = walked(reader, subject)?;
    let Some(found) = found else { return Some(report) };
    if report.sound() && !subject.roots.is_empty() {
        report.leaks = trace::leaks(reader, subject, &found);
        if report.leaks.is_none() {
            report.damaged(0, "memory", 0, "to be readable");
        }
    }
    Some(report)
}

/// What a walk finds wrong, and what it learns, unless there is no way to begin.
fn walked(
    reader: &mut impl Reader,
    subject: &Subject<'_>,
) -> Option<(Report, Option<walk::Found>)> {
    if subject.size < MIN_BYTES || reader.word(0)? != u64::from_le_bytes(MAGIC) {
        return None;
    }
    let mut report = Report::default();
    let Some(mut walk) = walk::Walk::begin(reader, subject, &mut report) else {
        return Some((report, None));
    };
    walk.areas();
    walk.lists();
    let found = walk.end();
    Some((report, Some(found)))
}
