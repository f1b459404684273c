//! What we tell people about a program that runs or ran.
//!
//! `stats` counts while it runs and prints afterwards; `symbols` finds the name of the
//! place where it died.

pub mod stats;
pub mod stats_table;
pub mod symbols;
