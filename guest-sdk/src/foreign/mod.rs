//! Values of other crates, each behind a feature with the crate's name.
//!
//! A `Uuid` is stored as it is: that it is its sixteen bytes is promised. Dates and times become types of ours, since
//! `chrono` and `jiff` promise no layout, and a store outlives versions of a crate.

#[cfg(feature = "chrono")]
mod chrono;
#[cfg(feature = "jiff")]
mod jiff;
#[cfg(feature = "uuid")]
mod uuid;
