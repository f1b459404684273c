//! What `graph-build` and `graph-query` share: a directed graph as ordinary pointers in an
//! address space, and the two usual representations it is compared with.
//!
//! - [`edges`]: parsing an edge list
//! - [`program`]: their beginning and their end
//! - [`csr`]: arrays of numbers, and the file they are saved in and loaded from
//! - [`pointers`]: nodes that point to nodes, in an address space; used in place
//! - [`query`]: queries and answers, the same for both representations

#![forbid(unsafe_code)]

pub mod csr;
pub mod edges;
pub mod pointers;
pub mod program;
pub mod query;
