//! Keys: what is looked for in dicts and sets, whether it lies in a space or not.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::memory::{Fault, Memory};
use crate::stored::{Cell, Kind};

/// A key as Python compares it: `True`, `1` and `1.0` are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    None,
    Int(i64),
    Big(&'a [u8]),
    /// The bits of a number that is no integer of 64 bits.
    Float(u64),
    Str(&'a [u8]),
    Bytes(&'a [u8]),
    Tuple(Vec<Key<'a>>),
}

/// How deeply tuples in a key are nested at most.
const MAX_DEPTH: u32 = 64;

impl<'a> Key<'a> {
    /// A number's key.
    pub(crate) fn of_float(number: f64) -> Key<'static> {
        // The first number above all integers of 64 bits.
        const END: f64 = 9_223_372_036_854_775_808.0;
        if number.fract() == 0.0 && (-END..END).contains(&number) {
            Key::Int(number as i64)
        } else {
            Key::Float(number.to_bits())
        }
    }

    /// The key that lies in a cell.
    pub(crate) fn stored(memory: &'a Memory, cell: Cell) -> Result<Key<'a>, Fault> {
        Key::stored_at(memory, cell, 0)
    }

    fn stored_at(memory: &'a Memory, cell: Cell, depth: u32) -> Result<Key<'a>, Fault> {
        Ok(match cell.kind {
            Kind::None => Key::None,
            Kind::False => Key::Int(0),
            Kind::True => Key::Int(1),
            Kind::Int => Key::Int(cell.word as i64),
            Kind::BigInt => Key::Big(memory.bytes(cell.word, cell.len)?),
            Kind::Float => Key::of_float(f64::from_bits(cell.word)),
            Kind::Str => Key::Str(memory.bytes(cell.word, cell.len)?),
            Kind::Bytes => Key::Bytes(memory.bytes(cell.word, cell.len)?),
            Kind::Tuple if depth < MAX_DEPTH => {
                let mut members = Vec::new();
                for index in 0..cell.len {
                    let member = Cell::load(memory, cell.member(index)?)?;
                    members.push(Key::stored_at(memory, member, depth + 1)?);
                }
                Key::Tuple(members)
            }
            _ => return Err(Fault::Damaged("no key", cell.word)),
        })
    }

    /// Its hash in a table with this seed: part of the format.
    pub(crate) fn hash(&self, seed: u64) -> u64 {
        let numbered = |kind: u64, bytes: &[u8]| xxh3_64_with_seed(bytes, seed ^ kind);
        match self {
            Key::None => numbered(1, &[]),
            Key::Int(number) => numbered(2, &number.to_le_bytes()),
            Key::Big(bytes) => numbered(3, bytes),
            Key::Float(bits) => numbered(4, &bits.to_le_bytes()),
            Key::Str(text) => numbered(5, text),
            Key::Bytes(bytes) => numbered(6, bytes),
            Key::Tuple(members) => {
                let mix = |hash, member: &Key<'_>| {
                    let both = [u64::to_le_bytes(hash), member.hash(seed).to_le_bytes()];
                    numbered(7, both.as_flattened())
                };
                members.iter().fold(members.len() as u64, mix)
            }
        }
    }
}
