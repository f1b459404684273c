//! Collections whose memory is a VAS's: what `Vec`, `String` and the maps are at home.
//!
//! Each is an owner that is stored in a root object or another collection, and gives views: one to
//! read with any token of its VAS, one to change with a writable one. Views have the methods one
//! expects; those that need memory fail with [`AllocError`](crate::AllocError) instead of ending
//! the process.
//!
//! - `vec`: [`VVec`]; `string`: [`VString`]; `deque`: [`VVecDeque`], a ring; `binary_heap`: [`VBinaryHeap`];
//!   `boxes`: boxes of slices and texts
//! - `map`: [`VHashMap`], with its `entry`; `key`: what may be the key of a map; [`parts`]: keys of
//!   several parts
//! - [`arena`]: [`VArena`], values by number; [`VId`], the numbers
//! - [`btree`]: [`VBTreeMap`], a tree of ours without unsafe code
//! - [`linear`]: [`VLinearMap`], a hash map that grows by a bucket at a time, likewise
//! - `btree_set`, `hash_set`: [`VBTreeSet`] and [`VHashSet`], maps without values, with `sets` in common; `total`: [`Total`], numbers as keys
//! - `within`: iterators that own; `words`: how the crates below lay out their types
//!
//! The others are built on `allocator-api2` and `hashbrown`, whose types are kept as they are, with
//! [`VAlloc`](crate::VAlloc) for their memory: growing goes through the space's heap, nothing else
//! differs from a collection at home.

pub mod arena;
mod binary_heap;
mod boxes;
pub mod btree;
mod btree_set;
mod deque;
mod deque_view;
mod entry;
mod hash_set;
mod key;
pub mod linear;
mod map;
mod map_check;
mod map_view;
pub mod parts;
mod sets;
mod string;
#[cfg(test)]
mod tests;
mod total;
mod vec;
mod within;
pub(crate) mod words;

pub use arena::{VArena, VId};
pub use binary_heap::{HeapMut, HeapRef, VBinaryHeap};
pub use btree::VBTreeMap;
pub use btree_set::{BTreeSetMut, BTreeSetRef, VBTreeSet};
pub use deque::VVecDeque;
pub use deque_view::{DequeMut, DequeRef};
pub use entry::{Entry, OccupiedEntry, VacantEntry};
pub use hash_set::{HashSetMut, HashSetRef, VHashSet};
pub use key::VKey;
pub use linear::VLinearMap;
pub use map::VHashMap;
pub use map_view::{Iter, MapMut, MapRef};
pub use parts::By;
pub use string::{StringMut, VString};
pub use total::Total;
pub use vec::{VVec, VecMut};
