//! The Linux calls a guest program makes, one module per subject.
//!
//! The modules here take decoded arguments and give back results or an
//! [`abi::Errno`]: registers and guest memory are the caller's business.

pub mod fs;
