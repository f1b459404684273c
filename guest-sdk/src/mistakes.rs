//! Mistakes with collections that must not compile, one test each; there is no code here. The
//! others are in `tests/ui`, with the compiler's messages.
//!
//! What these begin with compiles:
//!
//! ```
//! use spacejmp::{In, Space, VHashMap, VVec, Write};
//!
//! spacejmp::brand! { One => VHashMap<u8, u64, One>, Two => u64 }
//!
//! fn check(list: &mut VVec<u64, One>, v: &mut In<One, Write>, two: &Space<Two>) {
//!     let (root, at) = v.root_mut();
//!     let first = list.at(at)[0];
//!     list.at_mut(at).push(first).unwrap();
//!     drop(root.at_mut(at));
//!     v.read(two, |_| ()).unwrap();
//! }
//! ```
//!
//! Reading a collection with the token of another VAS, and keeping what may move or be dropped
//! while it is changed:
//! ```compile_fail
//! # use spacejmp::{In, Read, VVec};
//! # spacejmp::brand! { One => u64, Two => u64 }
//! fn check(list: &VVec<u64, One>, w: &In<Two, Read>) -> u64 {
//!     list.at(w)[0]
//! }
//! ```
//! ```compile_fail
//! # use spacejmp::{At, VVec, Write};
//! # spacejmp::brand! { One => u64 }
//! fn check(list: &mut VVec<u64, One>, at: &At<One, Write>) -> u64 {
//!     let first = &list.at(at)[0];
//!     list.at_mut(at).push(1).unwrap();
//!     *first
//! }
//! ```
//! ```compile_fail
//! # use spacejmp::{In, VHashMap, Write};
//! # spacejmp::brand! { One => VHashMap<u8, u64, One>, Two => u64 }
//! fn check(v: &mut In<One, Write>, two: &spacejmp::Space<Two>) {
//!     let (root, at) = v.root_mut();
//!     let values = root.at_mut(at);
//!     v.read(two, |_| ()).unwrap();
//!     drop(values);
//! }
//! ```
