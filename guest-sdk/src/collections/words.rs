//! What the layouts of the crates' types that we keep in a VAS look like in this build.
//!
//! `Vec` and `HashTable` are a few words each, in an order that their crates and the compiler are
//! free to choose. Another program that was built differently must be refused, not misread: the
//! order is determined from one with known content, and is part of the layout.

use std::hash::{BuildHasher, Hash};
use std::ptr::NonNull;
use std::sync::OnceLock;

use allocator_api2::alloc::{Allocator, Global};
use allocator_api2::vec::Vec;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::check::Place;

/// The words of a value, which consists of `N` words without padding.
macro_rules! words {
    ($value:expr, $type:ty, $count:literal) => {{
        let value: &$type = $value;
        const { assert!(size_of::<$type>() == $count * size_of::<usize>()) };
        // SAFETY: it is so large, without padding, and aligned as its pointer is. The pointer's
        // word is not used as one.
        unsafe { std::ptr::from_ref(value).cast::<[usize; $count]>().read() }
    }};
}

/// The words of a `Vec` in order: `p`ointer, `c`apacity, `l`ength.
pub(crate) fn of_vec() -> String {
    let mut vec: Vec<u64, Global> = Vec::with_capacity(7);
    vec.extend([1, 2, 3]);
    let capacity = vec.capacity();
    let words = words!(&vec, Vec<u64, Global>, 3);
    words
        .map(|word| if word == capacity { 'c' } else { ['p', 'l'][usize::from(word == 3)] })
        .iter()
        .collect()
}

/// The words of a pointer to values or text in order: `p`ointer, `l`ength.
pub(crate) fn of_wide_pointer() -> String {
    let five: &[u8] = &[0; 5];
    let words = words!(&NonNull::from(five), NonNull<[u8]>, 2);
    words.map(|word| ['p', 'l'][usize::from(word == 5)]).iter().collect()
}

/// The words of a table in order: `c`ontrol bytes, `m`ask, `g`rowth left, `i`tems.
pub(crate) fn of_table() -> String {
    let mut table: HashTable<u64, Global> = HashTable::with_capacity(14);
    for hash in 0..3 {
        table.insert_unique(hash, hash, |hash| *hash);
    }
    let words = words!(&table, HashTable<u64, Global>, 4);
    let name = |word| match word {
        15 => 'm',
        11 => 'g',
        3 => 'i',
        _ => 'c',
    };
    words.map(name).iter().collect()
}

/// The words at a place, in the order in which `names` has them; `order` is how they lie.
fn in_order<const N: usize>(place: Place, order: &str, names: [char; N]) -> [usize; N] {
    names.map(|name| place.word(order.find(name).unwrap_or(0) * size_of::<usize>()))
}

/// What should be a `Vec`: address, capacity and length.
pub(crate) fn in_vec(place: Place) -> [usize; 3] {
    static ORDER: OnceLock<String> = OnceLock::new();
    in_order(place, ORDER.get_or_init(of_vec), ['p', 'c', 'l'])
}

/// What should be a pointer to values or text: address and length.
pub(crate) fn in_wide_pointer(place: Place) -> [usize; 2] {
    static ORDER: OnceLock<String> = OnceLock::new();
    in_order(place, ORDER.get_or_init(of_wide_pointer), ['p', 'l'])
}

/// What should be a table: address of the control bytes, mask, growth left and number of items.
pub(crate) fn in_table(place: Place) -> [usize; 4] {
    static ORDER: OnceLock<String> = OnceLock::new();
    in_order(place, ORDER.get_or_init(of_table), ['c', 'm', 'g', 'i'])
}

/// What a table is: address of the control bytes, mask, growth left and number of items.
#[cfg(test)]
pub(crate) fn of_table_in<T, A: Allocator>(table: &HashTable<T, A>) -> [usize; 4] {
    let (words, order) = (of_this_table(table), of_table());
    ['c', 'm', 'g', 'i'].map(|name| words[order.find(name).unwrap_or(0)])
}

/// The words of a table, the address of its memory among them.
#[inline]
pub(crate) fn of_this_table<T, A: Allocator>(table: &HashTable<T, A>) -> [usize; 4] {
    words!(table, HashTable<T, A>, 4)
}

/// The hash of a key: the same in every process.
#[inline]
pub(crate) fn hash_of<Q: Hash + ?Sized>(seed: u64, key: &Q) -> u64 {
    FixedState::with_seed(seed).hash_one(key)
}

/// Hashes of a few keys, folded: differs when another version of the standard library feeds
/// hashers differently, or of the hasher's crate computes differently.
pub(crate) fn of_hashes() -> u64 {
    let hashes = [
        hash_of(1, "spacejmp"),
        hash_of(2, "a text that is longer than one block of the hasher, which has sixteen bytes"),
        hash_of(3, &7_u64),
        hash_of(4, &(7_u32, true, 'x')),
        hash_of(5, &[1_u8, 2, 3]),
        hash_of(6, &Some(-1_i128)),
    ];
    hashes.iter().fold(0, |all, hash| all.rotate_left(7) ^ hash)
}
