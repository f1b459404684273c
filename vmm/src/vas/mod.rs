//! Address spaces and segments as this VM has them.
//!
//! The store (`crate::store`) knows what exists; here is what the program has attached: page
//! tables, guest-physical windows, locks, and which threads are inside.
//!
//! - `state`: everything behind one mutex, and what the kernel is shown of it
//! - [`attach`]: instances come and go; [`granted`]: the store, as far as the program may use it
//! - `switch`: `vas_switch` when the kernel leaves it to us; no new visits once the process is
//!   ending
//! - `reconcile`: which segments an instance has, and keeping up with the store
//! - `residency`: segments that this VM has: their extents, lock pages and page faults, eviction,
//!   memory that system calls use
//! - `versioned`: segments whose every change is all or nothing: views of versions, commit, abort
//! - `tables`: page tables of segments and instances, and their frames
//! - [`content`]: holding locks for a copy of what is not attached
//! - [`report`]: looking at all this, for crash reports; [`live`]: from outside; [`error`]: what can go
//!   wrong
//!
//! Lock order: the state's mutex, then the machine's table pool. A thread never waits for a
//! segment's lock while it holds either.

pub mod attach;
pub mod content;
pub mod error;
pub mod granted;
pub mod kept;
pub mod live;
mod opened;
mod range_allocator;
mod reconcile;
pub mod report;
mod residency;
pub mod snapshot;
mod state;
mod switch;
mod tables;
#[cfg(test)]
mod tests;
mod versioned;

pub use error::VasError;
pub use granted::Granted;
pub use granted::grants::{VasGrant, VasGrants};
pub use residency::Release;
pub use residency::lock_page::at_most;
pub use residency::pins::Pins;
pub use state::{VasConfig, Vases};
pub use switch::Stops;

/// The handle of the process's own address space, which is there from the start.
pub const HOME: u32 = 0;
