//! Orders of reads as samtools has them. An order is numbers of reads: they are neither copied nor moved.

use spacejmp::{AllocError, In, Mode, VVec, Write};

use crate::data::Reads;
use crate::header;
use crate::radix;

/// By what reads are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Reference, position, strand; what has no place comes last.
    Coordinate,
    /// Name, numbers in it by their value; then first and last of a pair.
    Name,
}

impl By {
    /// The word for it in a header.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            By::Coordinate => "coordinate",
            By::Name => "queryname",
        }
    }
}

/// Sorts the reads; those that are equal stay as they were.
///
/// # Errors
/// [`AllocError`] when there is no room.
pub fn sort(v: &mut In<Reads<'_>, Write>, by: By) -> Result<(), AllocError> {
    let ranks = match by {
        By::Coordinate => by_coordinate(v),
        By::Name => Some(by_name(v)),
    };
    let root = v.root();
    let header = header::sorted(root.header.at(v), by.word());
    let order = ranks.map(|mut ranks| {
        let before = root.order.at(v);
        if !before.is_empty() {
            ranks.iter_mut().for_each(|rank| *rank = before[*rank as usize]);
        }
        ranks
    });
    let (root, at) = v.root_mut();
    root.index = VVec::new();
    root.header = VVec::from_slice(at, &header)?;
    if let Some(order) = order {
        root.order = VVec::from_slice(at, &order)?;
    }
    Ok(())
}

/// The places of all reads, in the order that they have now.
fn places<M: Mode>(v: &In<Reads<'_>, M>) -> Vec<u64> {
    let root = v.root();
    match root.order.at(v) {
        [] => {
            let mut places = Vec::with_capacity(usize::try_from(root.count).unwrap_or(0));
            for columns in root.columns(v) {
                places.extend_from_slice(columns.places.get(v));
            }
            places
        }
        order => order.iter().map(|number| root.placed(v, *number).0).collect(),
    }
}

/// Which read comes at each place of the order; `None` if all are where they belong.
fn by_coordinate<M: Mode>(v: &In<Reads<'_>, M>) -> Option<Vec<u32>> {
    let places = places(v);
    if places.is_sorted() { None } else { Some(radix::ranks(places)) }
}

/// A read that is to be sorted by its name.
struct Named {
    /// The first bytes of its key in which keys differ.
    begin: u64,
    at: usize,
    length: u16,
    pair: u16,
    rank: u32,
}

fn by_name<M: Mode>(v: &In<Reads<'_>, M>) -> Vec<u32> {
    let mut keys = Vec::new();
    let mut named: Vec<Named> = Vec::new();
    for (read, rank) in v.root().reads(v).zip(0..) {
        let at = keys.len();
        name_key(read.get(v).name(), &mut keys);
        let length = (keys.len() - at) as u16;
        named.push(Named { begin: 0, at, length, pair: pair(read.core.flags), rank });
    }
    let key = |one: &Named| &keys[one.at..one.at + usize::from(one.length)];
    let first = named.first().map_or(&[][..], key);
    let common = named.iter().fold(first.len(), |common, one| {
        let same = first[..common].iter().zip(key(one)).take_while(|(a, b)| a == b);
        same.count()
    });
    let begins: Vec<u64> = named
        .iter()
        .map(|one| {
            let mut begin = [0; 8];
            let rest = &key(one)[common..];
            let length = rest.len().min(8);
            begin[..length].copy_from_slice(&rest[..length]);
            u64::from_be_bytes(begin)
        })
        .collect();
    named.iter_mut().zip(begins).for_each(|(one, begin)| one.begin = begin);
    named.sort_unstable_by(|a, b| {
        let key = |one: &Named| &keys[one.at + common..one.at + usize::from(one.length)];
        a.begin
            .cmp(&b.begin)
            .then_with(|| key(a).cmp(key(b)))
            .then_with(|| (a.pair, a.rank).cmp(&(b.pair, b.rank)))
    });
    named.into_iter().map(|one| one.rank).collect()
}

/// First before last, and others of the same name behind.
fn pair(flags: u16) -> u16 {
    (flags & 0xc0) << 8 | (flags & 0x100) << 3 | (flags & 0x800) >> 3
}

/// Appends bytes whose order is that of names: a run of digits is a digit, its length without the zeros
/// in front, and itself without them.
fn name_key(name: &[u8], out: &mut Vec<u8>) {
    let mut rest = name;
    while let Some((&byte, behind)) = rest.split_first() {
        if !byte.is_ascii_digit() {
            out.push(byte);
            rest = behind;
            continue;
        }
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let zeros = rest[..digits].iter().take_while(|byte| **byte == b'0').count();
        out.push(b'0');
        out.push((digits - zeros) as u8);
        out.extend_from_slice(&rest[zeros..digits]);
        rest = &rest[digits..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering;

    fn compared(a: &str, b: &str) -> Ordering {
        let [a, b] = [a, b].map(|name| {
            let mut key = Vec::new();
            name_key(name.as_bytes(), &mut key);
            key
        });
        a.cmp(&b)
    }

    #[test]
    fn numbers_in_names_are_compared_by_value() {
        assert_eq!(compared("r9", "r10"), Ordering::Less);
        assert_eq!(compared("r010", "r10"), Ordering::Equal);
        assert_eq!(compared("a1b2", "a1b10"), Ordering::Less);
        assert_eq!(compared("a0", "a1"), Ordering::Less);
        assert_eq!(compared("a", "a0"), Ordering::Less);
        assert_eq!(compared("a:1", "a1"), Ordering::Greater);
        assert_eq!(compared("a/1", "a1"), Ordering::Less);
        assert_eq!(compared("x12y", "x12z"), Ordering::Less);
    }
}
