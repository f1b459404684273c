//! The library of `include/spacejmp.h`: its functions, under their C names.
//!
//! The header is the documentation; what stands here says only what it does not. The library is
//! Rust so that the heap and the descriptions of types are the very ones of the crate
//! `spacejmp`, and so that building it needs no C compiler.
//!
//! - [`calls`]: one function per call; [`errors`]: results in C's manner
//! - [`here`]: where the thread is, which the heap functions must know
//! - [`heap`]: `vas_malloc` and its kin; [`roots`], [`types`]: root objects with a type

#![expect(clippy::missing_safety_doc, reason = "`spacejmp.h` says what its callers must see to")]

mod calls;
mod errors;
mod heap;
mod here;
mod roots;
mod types;
