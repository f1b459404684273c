//! What we tell people about a program that runs or ran.
//!
//! - [`stats_table`] prints what [`crate::stats`] has counted, [`run`] adds how it ended
//! - [`mod@crash`]: the report about a fault; [`symbols`] finds the name of the place
//! - `spaces`: what address spaces have to do with it; [`signals`]: names of signals

pub mod crash;
pub mod run;
pub mod signals;
mod spaces;
pub mod stats_table;
pub mod symbols;

pub use crash::{death, kernel_death};
