//! x
pub mod call;
pub mod error;
pub mod guest;
pub mod linux;
pub mod process;
pub mod report;
pub mod space;
pub mod stats;
pub mod vm;
