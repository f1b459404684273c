//! For programs that run under `spacejmp`: its own calls.
//!
//! So far this crate holds the ground floor: every call, thinly, with the ids, rights and
//! structures of the `abi` crate. The safe API on top of it does not exist yet. C programs
//! have the same floor in `include/spacejmp.h`, under the paper's names.
//!
//! - [`call_page`]: the way into the guest kernel, and the only assembly
//! - [`sys`]: one function per call
//! - [`heap`]: memory in a data segment

pub mod call_page;
pub mod heap;
pub mod sys;

pub use call_page::{CallPage, NotUnderSpacejmp};
