//! x
pub mod linux;
