//! For programs that run under `spacejmp`: its own calls.
//!
//! So far this crate holds the way into the guest kernel and the two calls that do nothing,
//! by which every other call will be measured. The calls for address spaces and segments, and
//! the safe API on top of them, do not exist yet.
//!
//! - [`sys`]: raw calls, the only assembly

pub mod sys;
