//! Where in the coordinate order the reads of a region are: for each reference its part of the order, and
//! for each window of it the first read that reaches into the window.

use spacejmp::{In, Mode, VVec, Write};

use crate::data::{Places, Read, Reads};
use crate::record::{position, reference};
use crate::region::Region;

/// A window is 2^14 bases, as in the indexes of files.
const WINDOW_BITS: u32 = 14;
/// In windows into which no read reaches.
const NONE: u64 = u64::MAX;

/// Why there is no index.
#[derive(Debug)]
pub enum IndexError {
    /// The reads are in another order.
    NotSorted,
    /// The space says so.
    Space(spacejmp::Error),
}

impl std::fmt::Display for IndexError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IndexError::NotSorted => {
                write!(
                    f,
                    "the reads are not in the order of their places: sort them first, with `genome sort`"
                )
            }
            IndexError::Space(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for IndexError {}

impl<E: Into<spacejmp::Error>> From<E> for IndexError {
    fn from(error: E) -> Self {
        IndexError::Space(error.into())
    }
}

/// Makes the index, in the place of one that is there.
///
/// # Errors
/// [`IndexError`].
pub fn index(v: &mut In<Reads<'_>, Write>) -> Result<(), IndexError> {
    let root = v.root();
    let windows_of = |length: u32| (length >> WINDOW_BITS) as usize + 1;
    let references = root.references.at(v);
    let mut found: Vec<(u64, u64, Vec<u64>)> = references
        .iter()
        .map(|reference| (0, 0, vec![NONE; windows_of(reference.length)]))
        .collect();
    let mut before = 0;
    for (rank, (place, span)) in (0..).zip(root.all_placed(v)) {
        // Which strand is not asked for: other programs sort without it.
        if place >> 1 < before >> 1 {
            return Err(IndexError::NotSorted);
        }
        before = place;
        let Some(number) = reference(place) else { continue };
        let (first, behind, windows) = &mut found[number];
        if *behind == 0 {
            *first = rank;
        }
        *behind = rank + 1;
        let count = windows.len();
        let window =
            |position: i64| usize::try_from(position >> WINDOW_BITS).unwrap_or(0).min(count - 1);
        let (from, last) = (position(place), position(place) + i64::from(span) - 1);
        for window in &mut windows[window(from)..=window(last)] {
            *window = (*window).min(rank);
        }
    }
    for (_, behind, windows) in &mut found {
        let mut next = *behind;
        for window in windows.iter_mut().rev() {
            if *window == NONE {
                *window = next;
            }
            next = *window;
        }
    }
    let (root, at) = v.root_mut();
    let places = found.iter().map(|(first, behind, windows)| {
        Ok(Places { first: *first, behind: *behind, windows: VVec::from_slice(at, windows)? })
    });
    root.index = VVec::try_collect(at, places)?;
    Ok(())
}

/// The reads that overlap a region, in their order; `None` without an index.
pub fn overlapping<'a, 'v, M: Mode>(
    v: &'a In<Reads<'v>, M>,
    region: &Region,
) -> Option<impl Iterator<Item = &'a Read<'v>> + use<'a, 'v, M>> {
    let root = v.root();
    let index = root.index.at(v);
    if index.is_empty() && (root.count > 0 || !root.references.is_empty()) {
        return None;
    }
    let (ranks, from, to) = match *region {
        Region::Unplaced => {
            let behind = index.iter().map(|places| places.behind).max().unwrap_or(0);
            (behind..root.count, i64::MIN, i64::MAX)
        }
        Region::On { reference, from, to } => {
            let places = &index[reference];
            let windows = places.windows.at(v);
            let window = usize::try_from(from >> WINDOW_BITS).unwrap_or(0).min(windows.len() - 1);
            (windows[window]..places.behind, from, to)
        }
    };
    // Reads that do not overlap are not touched.
    let placed = root.numbers_at(v, ranks).map(|number| {
        let (place, span) = root.placed(v, number);
        (number, position(place), i64::from(span))
    });
    let begun = placed.take_while(move |(_, position, _)| *position < to);
    let there = begun.filter(move |(_, position, span)| position + span > from);
    Some(there.map(|(number, ..)| root.read(v, number)))
}
