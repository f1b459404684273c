//! The library of `include/spacejmp.h`: its functions, under their C names.
//!
//! The header is the documentation; comments here add only what it leaves out. The library is Rust
//! so that the heap and the descriptions of types are those of the crate `spacejmp`, and so that
//! building it needs no C compiler.
//!
//! - [`calls`]: one function per call; [`errors`]: results by C's conventions
//! - [`here`]: where the thread is, which the heap functions must know
//! - [`heap`]: `vas_malloc` and related functions; [`roots`], [`types`]: root objects with a type

#![expect(clippy::missing_safety_doc, reason = "`spacejmp.h` says what its callers must see to")]

mod calls;
mod errors;
mod heap;
mod here;
mod roots;
mod types;
