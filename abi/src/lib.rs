//! What two rooms of the house must agree on.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod errno;

pub use errno::Errno;
