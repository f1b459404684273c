//! Address spaces and segments as this VM has them.
//!
//! The store (`crate::store`) knows what exists; here is what the program has attached: page
//! tables, guest-physical windows, locks, and who is inside what.
//!
//! - [`error`]: what can go wrong, and the errno of each
//! - `state`: everything behind one mutex; `rooms`: numbers that are handed out
//! - [`grants`]: what of the store the program may use; [`granted`]: the store as calls get it
//! - [`attach`]: instances come and go; `members`: which segments an instance has, and keeping
//!   up with the store; `using`: segments come into use in the VM and go out of it
//! - `segment`, `subtree`, `instance`, `frames`: extents and page tables
//! - `fault`: touching, and eviction under pressure; [`access`]: memory that system calls use
//! - `switching`: `vas_switch` when the kernel leaves it to us; `lock_page`: words of locks;
//!   `drain`: no new visits, because the process is about to end
//! - [`content`]: holding locks for a copy of what is not attached
//! - [`report`]: looking at all this, for crash reports
//!
//! Lock order: the state's mutex, then the machine's table pool. A thread never waits for a
//! segment's lock while it holds either.

pub mod access;
pub mod attach;
pub mod content;
mod drain;
pub mod error;
mod fault;
mod frames;
pub mod granted;
pub mod grants;
mod instance;
mod lock_page;
mod members;
pub mod report;
mod rooms;
mod segment;
mod state;
mod store_charge;
mod subtree;
mod switching;
mod using;

pub use error::VasError;
pub use granted::Granted;
pub use grants::{VasGrant, VasGrants};
pub use state::{VasConfig, Vases};
pub use switching::{Entered, Stops, Wait};

/// The handle of the process's own address space, which is there from the start.
pub const HOME: u32 = 0;
