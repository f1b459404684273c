//! Reads as lines of SAM: [`mod@parse`] and [`show`](show::show).

mod number;
pub mod parse;
pub mod show;
pub(crate) mod tags;

pub(crate) use number::push;
pub use parse::{flags, parse};
pub use show::show;

/// The bases by their numbers of four bits.
pub const BASES: &[u8; 16] = b"=ACMGRSVTWYHKDBN";
