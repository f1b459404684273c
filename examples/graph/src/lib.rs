//! What `graph-build` and `graph-query` share: a directed graph as ordinary pointers in a
//! segment, and the two usual forms it is compared with.
//!
//! - [`edges`]: parsing an edge list
//! - [`pointers`]: nodes that point to nodes, built in any memory; used in place
//! - [`csr`]: arrays of numbers, and the file they are saved in and loaded from
//! - [`query`]: questions and answers, the same for both forms
//! - [`segment`]: putting the pointers into a VAS, and going in to use them

pub mod csr;
pub mod edges;
pub mod pointers;
pub mod query;
pub mod segment;
