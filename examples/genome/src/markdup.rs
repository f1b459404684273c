//! Duplicates: reads, or pairs of reads, of the same molecule, which begin at the same places on the same
//! strands before they were clipped. As `samtools markdup` has it, the one of the best quality is the original.

use std::collections::HashMap;
use std::hash::Hash;

use spacejmp::{In, Write};

use crate::data::{Reads, set_flag};
use crate::record::{
    CIGAR_OPERATORS, DUPLICATE, FIRST, MATE_REVERSE, MATE_UNMAPPED, PAIRED, QC_FAIL, REVERSE,
    Record, SECONDARY, SUPPLEMENTARY, UNMAPPED, consumes_reference,
};
use crate::text::tags::{Tags, integer};

/// Bases of a quality below this do not count.
const LEAST_QUALITY: u8 = 15;
/// More than a read is long: what begins so far before has no duplicates to come.
const REACH: i64 = 1 << 20;
/// After so many reads what is too far back is forgotten.
const FORGET_AFTER: usize = 1 << 20;

/// Why nothing is marked.
#[derive(Debug)]
pub enum MarkError {
    /// The reads are in another order.
    NotSorted,
    /// A read of a pair says too little of its mate.
    NoTag(String, &'static str),
    /// The space says so.
    Space(spacejmp::Error),
}

impl std::fmt::Display for MarkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MarkError::NotSorted => write!(
                f,
                "the reads are not in the order of their places: sort them first, with `genome sort`"
            ),
            MarkError::NoTag(name, tag) => write!(
                f,
                "read {name} has no tag {tag}, which says about its mate: `samtools fixmate -m` makes it"
            ),
            MarkError::Space(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for MarkError {}

impl From<spacejmp::Error> for MarkError {
    fn from(error: spacejmp::Error) -> Self {
        MarkError::Space(error)
    }
}

/// Where a read begins, seen from its strand.
type Single = (i32, i64, bool);

/// Where a pair does, and which of the two a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pair {
    this: (i32, i64),
    other: (i32, i64),
    is_leftmost: bool,
    orientation: Orientation,
}

/// The strands of a pair, its left read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Orientation {
    BothForward,
    BothReverse,
    Inward,
    Outward,
}

/// The best read so far of a place.
#[derive(Debug, Clone, Copy)]
struct Best {
    number: u32,
    has_mate: bool,
}

/// Marks duplicates, and says how many reads are.
///
/// # Errors
/// [`MarkError`].
pub fn mark(v: &mut In<Reads<'_>, Write>) -> Result<u64, MarkError> {
    let root = v.root();
    let mut duplicates = Vec::new();
    let mut singles: HashMap<Single, Best> = HashMap::new();
    let mut pairs: HashMap<Pair, Best> = HashMap::new();
    let mut before = 0;
    for (rank, number) in root.numbers(v).enumerate() {
        let record = root.read(v, number).get(v);
        let core = record.core;
        let place = core.place();
        // Not of what has no place, and not by strand: other programs sort without it.
        if core.reference >= 0 && place >> 1 < before >> 1 {
            return Err(MarkError::NotSorted);
        }
        before = place;
        if core.is(SECONDARY | SUPPLEMENTARY | UNMAPPED | QC_FAIL) {
            continue;
        }
        if rank % FORGET_AFTER == FORGET_AFTER - 1 {
            let here = (core.reference, i64::from(core.position) - REACH);
            singles.retain(|key, _| (key.0, key.1) >= here);
            pairs.retain(|key, _| key.this >= here);
        }
        let is_placed = core.mate_reference >= 0 || core.mate_position >= 0;
        let has_mate = core.is(PAIRED) && !core.is(MATE_UNMAPPED) && is_placed;
        let own = Best { number, has_mate };
        let of = |best: Best| root.read(v, best.number).get(v);
        let single = single(&record);
        let best = singles.get(&single).copied();
        if own.has_mate {
            // A read without its mate is a duplicate of one with it, whichever is better.
            match best {
                Some(best) if best.has_mate => {}
                best => {
                    duplicates.extend(best.map(|best| best.number));
                    singles.insert(single, own);
                }
            }
            let pair = pair(&record, single)?;
            match pairs.get(&pair).copied() {
                None => drop(pairs.insert(pair, own)),
                Some(best) => {
                    let (old, new) = (of(best), record);
                    let (old_score, new_score) = (pair_score(&old)?, pair_score(&new)?);
                    let is_first = new.name() < old.name();
                    if (new_score, is_first) > (old_score, false) {
                        duplicates.push(best.number);
                        pairs.insert(pair, own);
                    } else {
                        duplicates.push(number);
                    }
                }
            }
        } else {
            match best {
                None => drop(singles.insert(single, own)),
                Some(best) if best.has_mate || score(&record) <= score(&of(best)) => {
                    duplicates.push(number);
                }
                Some(best) => {
                    duplicates.push(best.number);
                    singles.insert(single, own);
                }
            }
        }
    }
    Ok(set_flag(v, &duplicates, DUPLICATE))
}

fn single(record: &Record<'_>) -> Single {
    let (start, end) = unclipped(record);
    let is_reverse = record.core.is(REVERSE);
    (record.core.reference, if is_reverse { end } else { start }, is_reverse)
}

/// Where a read begins and ends, counted from 1, with what was clipped from it.
fn unclipped(record: &Record<'_>) -> (i64, i64) {
    let operators: Vec<(u32, u8)> = record.cigar().collect();
    let clipped = |operators: &mut dyn Iterator<Item = &(u32, u8)>| -> i64 {
        operators
            .take_while(|(_, op)| matches!(op, 4 | 5))
            .map(|(length, _)| i64::from(*length))
            .sum()
    };
    let start = i64::from(record.core.position) + 1 - clipped(&mut operators.iter());
    (start, record.end() + clipped(&mut operators.iter().rev()))
}

/// The same of the mate, from the tag with its CIGAR.
fn unclipped_mate(position: i32, cigar: &[u8]) -> (i64, i64) {
    let (mut start, mut end) = (i64::from(position) + 1, i64::from(position));
    let (mut length, mut is_first, mut has_begun) = (0i64, true, false);
    for byte in cigar {
        if byte.is_ascii_digit() {
            length = length.saturating_mul(10).saturating_add(i64::from(byte - b'0'));
            continue;
        }
        let operator = CIGAR_OPERATORS.iter().position(|letter| letter == byte);
        let is_clip = matches!(operator, Some(4 | 5));
        is_first &= is_clip;
        has_begun |= operator.is_some_and(|number| consumes_reference(number as u8));
        if is_first {
            start = start.saturating_sub(length);
        }
        if has_begun && (is_clip || operator.is_some_and(|number| consumes_reference(number as u8)))
        {
            end = end.saturating_add(length);
        }
        length = 0;
    }
    (start, end)
}

fn pair(record: &Record<'_>, single: Single) -> Result<Pair, MarkError> {
    let core = record.core;
    let cigar = tag(record, *b"MC").filter(|(kind, _)| *kind == b'Z');
    let cigar = cigar.ok_or_else(|| no_tag(record, "MC"))?.1;
    let (start, end) = unclipped(record);
    let (mate_start, mate_end) = unclipped_mate(core.mate_position, &cigar[..cigar.len() - 1]);
    let (is_reverse, is_mate_reverse) = (core.is(REVERSE), core.is(MATE_REVERSE));
    let is_same_strand = is_reverse == is_mate_reverse;
    let is_leftmost = if core.reference == core.mate_reference {
        match (is_reverse, is_mate_reverse) {
            (false, false) => start <= mate_start,
            (true, true) => end <= mate_end,
            (true, false) => end <= mate_start,
            (false, true) => start <= mate_end,
        }
    } else {
        core.reference < core.mate_reference
    };
    let orientation = if is_same_strand {
        // As the first of the pair was read.
        match (is_leftmost == core.is(FIRST)) != is_reverse {
            true => Orientation::BothForward,
            false => Orientation::BothReverse,
        }
    } else if is_leftmost == is_reverse {
        Orientation::Outward
    } else {
        Orientation::Inward
    };
    let (this, other) = match (is_same_strand, is_leftmost) {
        (true, true) => (start, mate_end),
        (true, false) => (end, mate_start),
        (false, _) => (single.1, if is_mate_reverse { mate_end } else { mate_start }),
    };
    Ok(Pair {
        this: (core.reference, this),
        other: (core.mate_reference, other),
        is_leftmost,
        orientation,
    })
}

fn tag<'a>(record: &Record<'a>, wanted: [u8; 2]) -> Option<(u8, &'a [u8])> {
    let found = Tags(record.tags()).flatten().find(|(name, ..)| *name == wanted);
    found.map(|(_, kind, value)| (kind, value))
}

fn no_tag(record: &Record<'_>, tag: &'static str) -> MarkError {
    MarkError::NoTag(String::from_utf8_lossy(record.name()).into_owned(), tag)
}

/// The sum of the qualities that count.
fn score(record: &Record<'_>) -> i64 {
    let qualities = record.qualities().iter().filter(|quality| **quality >= LEAST_QUALITY);
    qualities.map(|quality| i64::from(*quality)).sum()
}

/// And of the mate.
fn pair_score(record: &Record<'_>) -> Result<i64, MarkError> {
    let mate = tag(record, *b"ms").and_then(|(kind, value)| integer(kind, value));
    Ok(score(record) + mate.ok_or_else(|| no_tag(record, "ms"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_clipped_from_a_mate_counts_at_both_ends() {
        assert_eq!(unclipped_mate(99, b"5S10M2D3M4H"), (95, 118));
        assert_eq!(unclipped_mate(99, b"2H3S10M"), (95, 109));
        assert_eq!(unclipped_mate(99, b"*"), (100, 99));
    }
}
