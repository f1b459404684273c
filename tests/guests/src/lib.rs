//! What the guest programs about address spaces share. The programs are in `bin/`.
//!
//! - [`findings`]: what a program found, printed in stable lines
//! - [`ledger`]: an ordered map and an arena that several programs change, and a model of them
//! - [`place`]: memory in the VAS region, and switching, without `unsafe` in the programs
//! - [`store`]: setting up a VAS, and looking at all that is in the store
//! - [`random`]: numbers that depend on a seed only
//! - [`shelf`]: an index of collections that two programs share
//! - [`touch`]: accesses that may fault, and are survived

pub mod findings;
pub mod ledger;
pub mod place;
pub mod random;
pub mod shelf;
pub mod store;
pub mod touch;
