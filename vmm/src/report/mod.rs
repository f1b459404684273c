//! Reports for the user on a program that runs or ran.
//!
//! - [`stats_table`] prints what [`crate::stats`] has counted, [`run`] adds how it ended
//! - [`mod@crash`]: the report on a fault; [`backtrace`]: where all threads were. [`symbols`] finds the name of a
//!   function, [`lines`] the line of its source
//! - `spaces`: the address spaces involved
//! - [`core`]: the core file; [`profile`]: where time went, and exits came from

pub mod backtrace;
pub mod core;
pub mod crash;
pub mod lines;
pub mod profile;
pub mod run;
mod spaces;
pub mod stats_table;
pub mod symbols;

pub use crash::{death, ended_by, kernel_death};
