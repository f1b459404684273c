//! What the guest programs that use address spaces share. The programs are in `bin/`.
//!
//! - [`findings`]: what a program found, printed in stable lines
//! - [`ledger`]: an ordered map and an arena that several programs change, and a model of them
//! - [`place`]: memory in the VAS region, and switching, without `unsafe` in the programs
//! - [`store`]: setting up a VAS, and listing everything in the store
//! - [`random`]: numbers that depend only on a seed
//! - [`shelf`]: an index of collections that two programs share
//! - [`touch`]: accesses that may fault, which the program survives

pub mod findings;
pub mod ledger;
pub mod place;
pub mod random;
pub mod shelf;
pub mod store;
pub mod touch;
